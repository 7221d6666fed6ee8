// The guest's QMP socket: poll and recvmsg in a Worker of its own, several clients at once. It acts on the board by itself;
// what needs the main thread (a job for the mover, the end of the process) goes there as a message.

import { deflateSync } from "node:zlib";
import { ZERO_COPY_MODES } from "../control/copying.ts";
import { isOver, type Journal, PHASE_NAMES } from "../control/journal.ts";
import { DEFAULT_LIMITS, type Limits, ON_TIMEOUT } from "../control/limits.ts";
import type { ForecastNote, Measured } from "../control/measure.ts";
import { PAGE_CACHE, type PageCache } from "../control/page-cache.ts";
import type { RestoreJournal } from "../control/restore.ts";
import { AFTER, SAVE_THREADS_MAX, writesOn } from "../control/save.ts";
import { DEFAULT_REPLY_MS, MOVE_CHANNELS_MAX, type SendOptions, ZSTD_LEVEL_MAX } from "../control/send.ts";
import { TramError, toErrorData } from "../errors.ts";
import { BalloonDevice, type BalloonFacts } from "../machine/balloon.ts";
import { Board, type BoardEvent, RUN_STATES } from "../machine/board.ts";
import { WalkerPorts } from "../machine/devices/walker.ts";
import { deviceWords } from "../machine/machine.ts";
import type { Job } from "../machine/mover-worker.ts";
import { resumeCpus, takeOver } from "../machine/resume.ts";
import { lostWrites } from "../machine/tracking.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { layOut, PAGE_BYTES } from "../memory/block.ts";
import { BUFFERED } from "../native/file.ts";
import { host } from "../native/host.ts";
import { isTracked, walkerCheck } from "../native/kvm.ts";
import { Marks } from "../native/marks.ts";
import { net, POLL } from "../native/net.ts";
import { Rings } from "../native/rings.ts";
import { initOf, tell } from "../thread.ts";
import { parseAddress } from "../transport/address.ts";
import { IOV_MAX } from "../transport/fd.ts";
import type { Endpoint } from "../transport/index.ts";
import { answer, type FreePagesPart, type GuestControl, QEMU_STATUS, type TrackingFacts } from "./commands.ts";
import { MessageSplitter } from "./protocol.ts";
import type { EventName } from "./schema.ts";
import { MigrationSettings } from "./settings.ts";

export interface QmpInit {
  board: SharedArrayBuffer;
  listenFd: number;
  name: string;
  version: string;
}

export type QmpRequest =
  | { request: "quit" }
  | ({ request: "migrate" } & Omit<Extract<Job, { kind: "send" }>, "kind">)
  | { request: "save"; job: Omit<Extract<Job, { kind: "save" }>, "kind"> }
  | { request: "measure"; forMs: number }
  | { request: "pace"; fd: number; forMs: number }
  | { request: "incoming"; endpoint: Endpoint }
  /** The client that started the move has read its final journal, or is gone. */
  | { request: "move-seen" };

const init = initOf<QmpInit>();
const board = new Board(init.board);
const CLIENTS_MAX = 64;
/** Descriptors that wait for their getfd; more are closed. */
const PASSED_MAX = 2;
/** Out of descriptors, say: whoever knocks is heard again after this. */
const ACCEPT_AGAIN_MS = 20;
/** A client that does not read its answers is dropped once this much waits for it. */
const UNSENT_BYTES_MAX = 4 << 20;
const KICK_AGAIN_MS = 10;
/** Answered to one client before it is the others' turn. */
const TURN_MESSAGES = 8;
/** More than the mover takes to take leave of a peer. */
const MOVER_IDLE_MS = 3000;
const PEER_CHARS_MAX = 1000;
const MS_MAX = 2 ** 31 - 1;
/** Of the bitmap of free pages, in one answer: less than a message may have. */
const FREE_PART_PAGES = 1 << 22;
/** The guest pays for being tracked. */
const MEASURE_MS_MAX = 600_000;

const ask = (request: QmpRequest): void => tell(request);

class Client {
  readonly fd: number;
  readonly splitter = new MessageSplitter();
  readonly #asked: string[] = [];
  readonly passed: number[] = [];
  readonly named = new Map<string, number>();
  negotiated = false;
  unsent: Buffer = Buffer.alloc(0);
  gone = false;

  constructor(fd: number) {
    this.fd = fd;
    const qemu = { major: 0, minor: 0, micro: 0 };
    this.send({ QMP: { version: { qemu, package: `tram ${init.version}` }, capabilities: [] } });
  }

  send(message: object): void {
    this.unsent = Buffer.concat([this.unsent, Buffer.from(`${JSON.stringify(message)}\r\n`)]);
    if (this.unsent.length > UNSENT_BYTES_MAX) this.gone = true;
    this.flush();
  }

  flush(): void {
    while (!this.gone && this.unsent.length > 0) {
      const sent = net.sendMessage(this.fd, this.unsent);
      if (sent === -11 /* EAGAIN */) return;
      if (sent < 0) this.gone = true;
      else this.unsent = this.unsent.subarray(sent);
    }
  }

  receive(): void {
    const bytes = new Uint8Array(64 << 10);
    const got = net.receiveMessage(this.fd, bytes);
    this.passed.push(...got.fds);
    for (const fd of this.passed.splice(PASSED_MAX)) net.close(fd);
    if (got.bytes === -11) return;
    if (got.bytes <= 0) {
      this.gone = true;
      return;
    }
    try {
      this.#asked.push(...this.splitter.push(bytes.subarray(0, got.bytes)));
    } catch (error) {
      // The stream of messages cannot be found again in what follows.
      this.send({ error: { class: "GenericError", desc: toErrorData(error).message } });
      this.gone = true;
    }
  }

  /** Asked, and not answered yet: until then nothing more is read from it. */
  get isWaiting(): boolean {
    return this.#asked.length > 0 && !this.gone;
  }

  /** One that asks much does not keep the others waiting. */
  takeTurn(): void {
    for (const message of this.#asked.splice(0, TURN_MESSAGES)) this.#answer(message);
  }

  #answer(message: string): void {
    const { reply, ok, command } = answer(message, new Control(this), this.negotiated);
    if (command === "qmp_capabilities" && ok) this.negotiated = true;
    if (ok) events.tell(); // what it has brought about comes before its answer, as QEMU has it
    this.send(reply);
    if (command === "quit" && ok) {
      events.send("SHUTDOWN", Date.now(), { guest: false, reason: "host-qmp-quit" });
      ask({ request: "quit" });
    }
    if (command === "tram-query-move" && ok && mover === this && isOver((reply.return as Partial<Journal>).phase))
      ask({ request: "move-seen" });
  }

  close(): void {
    for (const fd of [this.fd, ...this.passed, ...this.named.values()]) net.close(fd);
    if (mover !== this) return;
    mover = null;
    if (endsWithClient) board.cancelMove();
    ask({ request: "move-seen" });
  }
}

/** Reads whole numbers from what a client gives. */
const numbersOf =
  (given: Record<string, unknown>) =>
  (name: string, otherwise: number, min = 0, max = Number.MAX_SAFE_INTEGER): number => {
    const value = given[name] ?? otherwise;
    if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max) return value as number;
    throw new TramError("E_QMP", `'${name}' is no number that it can be`, {
      expected: `a whole number from ${min}${max < Number.MAX_SAFE_INTEGER ? ` to ${max}` : ""}`,
    });
  };

function pageCacheOf(given: Record<string, unknown>): PageCache {
  const found = PAGE_CACHE.find((one) => one === (given.pageCache ?? "keep"));
  if (found) return found;
  throw new TramError("E_QMP", "'pageCache' is not known", { expected: PAGE_CACHE.join(", ") });
}

/** What limits a move or a save, from the client's options, checked; where it says nothing, as it was. */
function limitsOf(given: Record<string, unknown>, before: Limits): Limits {
  const number = numbersOf(given);
  const onTimeout = ON_TIMEOUT.find((one) => one === (given.onTimeout ?? before.onTimeout));
  if (!onTimeout) throw new TramError("E_QMP", "'onTimeout' is not known", { expected: ON_TIMEOUT.join(", ") });
  return {
    maxDowntimeMs: number("maxDowntimeMs", before.maxDowntimeMs),
    maxBandwidthBytesPerSec: number("maxBandwidthBytesPerSec", before.maxBandwidthBytesPerSec),
    timeoutMs: number("timeoutMs", before.timeoutMs),
    onTimeout,
    hold: typeof given.hold === "boolean" ? given.hold : before.hold,
  };
}

/** The move's options from the client's, checked. */
function moveRequest(given: Record<string, unknown>) {
  const number = numbersOf(given);
  const limits = limitsOf(given, DEFAULT_LIMITS);
  const options: SendOptions = {
    replyMs: Math.min(number("replyMs", DEFAULT_REPLY_MS, 1), MS_MAX),
    channels: number("channels", 0, 0, MOVE_CHANNELS_MAX),
    verify: given.verify === true,
    skipFree: given.skipFree !== false,
    lookAtAll: given.lookAtAll === true,
    rehearse: given.rehearse === true,
  };
  const zeroCopy = ZERO_COPY_MODES.find((one) => one === (given.zeroCopy ?? "auto"));
  if (!zeroCopy) throw new TramError("E_QMP", "'zeroCopy' is not known", { expected: ZERO_COPY_MODES.join(", ") });
  const compressLevel = given.compressLevel === undefined ? null : number("compressLevel", 1, 1, ZSTD_LEVEL_MAX);
  const iovMax = Math.min(number("iovMax", IOV_MAX, 1), IOV_MAX);
  const copying = given.copying === true;
  const way = { options, iovMax, zeroCopy, compressLevel, copying, pageCache: pageCacheOf(given) };
  return { limits, request: { request: "migrate" as const, ...way } };
}

/** A client that has read that a move is over may ask for the next thing at once, a moment before the mover is idle. */
function awaitFinishedMove(): void {
  const journal = board.readJournal<Journal>();
  const hasArrived = journal?.direction === "incoming" && journal.owner === "target";
  const { dirtyRate, error } = (journal ?? {}) as Measured;
  if (isOver(journal?.phase) || hasArrived || dirtyRate || error) board.awaitIdle(MOVER_IDLE_MS);
}

/** A guest that is confirmed elsewhere is nobody's to steer here, in the moment before this process ends. */
function refuseGone(): void {
  const journal = board.readJournal<Journal>();
  if (journal?.direction === "outgoing" && journal.owner === "target")
    throw new TramError("E_STATE", `the guest has moved to ${journal.peer}, which has confirmed it`, {
      next: "steer it there",
    });
}

/** Whatever is to be done with it, the guest must be here, whole. */
function requireHere(what: string): void {
  refuseGone();
  const { runState } = board;
  if (runState !== "running" && runState !== "paused") throw stateError(what, runState);
  if (board.isAway)
    throw new TramError("E_STATE", `the guest cannot be ${what}: its disks may be another host's`, {
      next: "tram resume takes them back, if nobody has written to them",
    });
  const machine = board.machine();
  const copies = machine?.disks.filter(({ mode }) => mode === "cow") ?? [];
  if (copies.length && what !== "measured")
    throw new TramError(
      "E_REFUSED",
      `the guest cannot be ${what}: what it has written to its disk is in this process alone`,
      {
        found: `${copies.map(({ path }) => path).join(", ")}, mode=cow`,
        next: "start it with a copy of that disk, and mode=rw",
      },
    );
  const tracking = machine?.tracking;
  if (runState === "running" && tracking?.by === "ring" && Rings.attach(tracking.rings).state.lost)
    throw lostWrites("E_REFUSED");
}

/** RAM and disks belong together. */
function refuseToWriteOn(): void {
  const disks = board.machine()?.disks.filter(({ mode }) => mode === "rw") ?? [];
  if (disks.length) throw writesOn(disks.map(({ path }) => path));
}

/** The client whose job is under way, and whether that ends with it: it has passed the channel, or alone waits for the answer. */
let mover: Client | null = null;
let endsWithClient = false;
/** It is a move or a save. */
let hasLimits = false;
/** What a client has foretold of this guest, last. */
let foretold: ForecastNote | null = null;
/** When a client last had its writes measured. */
let measuring: { sinceMs: number; forMs: number } | null = null;
const settings = new MigrationSettings();

class Control implements GuestControl {
  readonly name = init.name;
  readonly version = init.version;
  readonly settings = settings;
  readonly #client: Client;

  constructor(client: Client) {
    this.#client = client;
  }

  status(): string {
    return board.runState;
  }

  facts() {
    const machine = board.machine();
    return {
      memoryBytes: machine?.ram.bytes ?? 0,
      cpus: machine?.vcpus.length ?? 0,
      walker: machine?.description.walker ?? false,
    };
  }

  threads(): number[] {
    return Array.from({ length: this.facts().cpus }, (_, cpu) => board.threadOf(cpu));
  }

  tracking(): TrackingFacts {
    const { throttlePercent } = board;
    const machine = board.machine();
    if (!machine) return { tracking: board.moving, throttlePercent, dirtyTracking: null };
    const { vm, ram, tracking: how } = machine;
    if (how.by === "ring") {
      const { by, entries } = how;
      const dirtyTracking = { by, entries, ...Rings.attach(how.rings).state };
      return { tracking: board.tracked, throttlePercent, dirtyTracking };
    }
    // Of a log the kernel says so itself; but asking could take bits from the mover.
    const tracking =
      how.by !== "log" || board.moving
        ? board.tracked
        : layOut(ram.bytes).some(({ slot, bytes }) => isTracked(vm, slot, bytes));
    return { tracking, throttlePercent, dirtyTracking: { by: how.by } };
  }

  stop(): void {
    refuseGone();
    awaitFinishedMove();
    board.locked(() => {
      refuseGone(); // it may have been confirmed meanwhile
      const keepsIt = board.runState === "postmigrate" && !board.moving; // a person decides that it is still here
      if (keepsIt) takeOver(board, board.awaitMachine());
      if (board.runState === "running" || keepsIt) board.pauseCpus("paused");
      else if (board.runState !== "paused") throw stateError("paused", board.runState);
    });
  }

  cont(): void {
    refuseGone();
    awaitFinishedMove();
    board.locked(() => {
      refuseGone();
      const { runState } = board;
      if (runState === "running") return;
      // A guest that was sent away may be running elsewhere; that a person asks is what makes it right.
      if (runState !== "paused" && runState !== "postmigrate") throw stateError("resumed", runState);
      if (runState === "postmigrate" && board.moving) throw stateError("resumed", runState);
      resumeCpus(board, board.awaitMachine());
    });
  }

  quit(): void {
    // The answer goes out first; then the request.
  }

  migrate(uri: string, given: Record<string, unknown>): void {
    requireHere("migrated");
    const { request, limits } = moveRequest(given); // whatever is wrong with it is said before anything has begun
    const endpoint = this.#endpoint(uri, String(given.peer ?? uri).slice(0, PEER_CHARS_MAX));
    const isPassed = endpoint.scheme === "passed";
    if (!this.#takeMover(isPassed)) {
      if (isPassed) net.close(endpoint.fd);
      throw busy();
    }
    board.limits.set(limits);
    ask({ ...request, endpoint, forecast: foretold });
    if (!request.options.rehearse) foretold = null; // it was of this move
  }

  save(fdname: string, given: Record<string, unknown>): void {
    requireHere("saved");
    const after = AFTER.find((one) => one === (given.after ?? "quit"));
    if (!after) throw new TramError("E_QMP", "'after' is not known", { expected: AFTER.join(", ") });
    const recordsDisks = given.disks !== "none";
    if (after === "resume" && recordsDisks) refuseToWriteOn();
    const number = numbersOf(given);
    const channels = number("channels", 1, 1, SAVE_THREADS_MAX);
    const offset = number("offset", 0);
    const limits = limitsOf(given, DEFAULT_LIMITS);
    const name = String(given.peer ?? "a file").slice(0, PEER_CHARS_MAX);
    const pageCache = pageCacheOf(given);
    const fd = this.#take(fdname);
    const direct =
      given.directFdname === undefined
        ? BUFFERED
        : { fd: this.#take(String(given.directFdname)), only: given.directOnly === true };
    if (!this.#takeMover(true)) {
      net.close(fd);
      if (direct.fd >= 0) net.close(direct.fd);
      throw busy();
    }
    board.limits.set(limits);
    ask({
      request: "save",
      job: {
        fd,
        direct,
        offset,
        name,
        options: { after, skipFree: given.skipFree !== false, recordsDisks },
        channels,
        reserve: given.reserve === true,
        blocking: given.blocking === true,
        pageCache,
      },
    });
  }

  measure(forMs: unknown): void {
    requireHere("measured");
    const ms = numbersOf({ forMs })("forMs", 1000, 1, MEASURE_MS_MAX);
    if (!this.#takeMover(true, false)) throw busy();
    measuring = { sinceMs: Date.now(), forMs: ms };
    ask({ request: "measure", forMs: ms });
  }

  measuring(): { sinceMs: number; forMs: number } | null {
    return measuring;
  }

  hold(on: boolean): void {
    this.setLimits({ hold: on });
  }

  pace(fdname: string, forMs: unknown): void {
    if (!board.machine()?.description.walker)
      throw new TramError("E_STATE", "only a walker's pace can be seen", {
        next: "start one with tram run --guest walker",
      });
    const ms = numbersOf({ forMs })("forMs", 1000, 1, MEASURE_MS_MAX);
    ask({ request: "pace", fd: this.#take(fdname), forMs: ms });
  }

  measured(): Measured {
    const found = board.readJournal<Measured>();
    return found && !("phase" in found) ? found : {};
  }

  noteForecast(given: Record<string, unknown>): void {
    const number = numbersOf(given);
    const downtimeMs = given.downtimeMs === null ? null : number("downtimeMs", 0);
    const counts = { rounds: number("rounds", 0), elapsedMs: number("elapsedMs", 0), bytes: number("bytes", 0) };
    foretold = { converges: given.converges === true, ...counts, downtimeMs, atMs: Date.now() };
  }

  /** For a job of this client; false: it is busy. */
  #takeMover(endsWithIt: boolean, limited = true): boolean {
    awaitFinishedMove();
    if (!board.beginMove()) return false;
    mover = this.#client;
    endsWithClient = endsWithIt;
    hasLimits = limited;
    board.writeJournal({}); // the one before is no longer the answer; the mover is idle and does not write
    return true;
  }

  setLimits(given: Record<string, unknown>): Limits {
    const unknown = Object.keys(given).find((name) => !(name in DEFAULT_LIMITS));
    if (unknown)
      throw new TramError("E_QMP", `'${unknown}' cannot be set`, { expected: Object.keys(DEFAULT_LIMITS).join(", ") });
    if (!board.moving || !hasLimits || board.runState === "inmigrate")
      throw new TramError("E_STATE", "no move of this guest is under way", {
        next: "give the limits to tram migrate or tram save",
      });
    board.limits.set(limitsOf(given, board.limits.now()));
    return board.limits.now();
  }

  /** Null: it has none. */
  #balloon(): BalloonDevice | null {
    const machine = board.machine();
    return machine && BalloonDevice.attach(board, machine);
  }

  balloon(): (BalloonFacts & { memoryBytes: number }) | null {
    const facts = this.#balloon()?.facts();
    return facts ? { ...facts, memoryBytes: this.facts().memoryBytes } : null;
  }

  wantStats(): void {
    this.#balloon()?.wantStats();
  }

  resize(bytes: unknown): void {
    const { memoryBytes } = this.facts();
    const wanted = numbersOf({ value: bytes })("value", 0, 4096, memoryBytes);
    const balloon = this.#balloon();
    if (!balloon) throw new TramError("E_STATE", "the guest has no balloon", { next: "start it with --balloon" });
    // Under the lock: a guest that is stopped to be handed over would leave it behind.
    board.locked(() => {
      const { runState } = board;
      if (runState !== "running" && runState !== "paused") throw stateError("given another size", runState);
      balloon.resize(memoryBytes - wanted);
    });
  }

  freePages(firstPage: unknown): FreePagesPart | null {
    const machine = board.machine();
    if (!machine?.marks) return null;
    const totalPages = machine.ram.bytes / PAGE_BYTES;
    const first = numbersOf({ firstPage })("firstPage", 0, 0, totalPages - 1);
    if (first % 64) throw new TramError("E_QMP", "'firstPage' is no multiple of 64");
    const pages = Math.min(totalPages - first, FREE_PART_PAGES);
    const part = new Bitmap(pages);
    const free = Marks.attach(machine.marks.hinted).read(first, pages, part.words);
    return { totalPages, pages, free, bitmap: deflateSync(part.words).toString("base64") };
  }

  commitSave(): void {
    if (mover !== this.#client || !board.moving)
      throw new TramError("E_STATE", "no save of this client's is under way");
    board.commit();
  }

  /** A descriptor that was passed, which is the caller's from here on. */
  #take(key: string): number {
    const fd = this.#client.named.get(key);
    if (fd === undefined)
      throw new TramError("E_QMP", `no descriptor was passed as '${key}'`, { next: "pass it with getfd first" });
    this.#client.named.delete(key);
    return fd;
  }

  migrateIncoming(uri: string): void {
    if (board.runState !== "inmigrate") throw stateError("given an incoming address", board.runState);
    if (board.moving)
      throw new TramError("E_STATE", "this guest waits on an address already", {
        next: "start another with --incoming defer",
      });
    ask({ request: "incoming", endpoint: this.#endpoint(uri, uri) });
  }

  #endpoint(uri: string, name: string): Endpoint {
    if (uri.startsWith("fd:")) return { scheme: "passed", fd: this.#take(uri.slice(3)), name };
    const address = parseAddress(uri);
    if (address.scheme === "tcp" || address.scheme === "unix") return address;
    throw new TramError("E_QMP", `'${address.scheme}' is opened by the client`, {
      next: "open it, pass it with getfd, and give fd:NAME",
    });
  }

  cancel(): boolean {
    return board.cancelMove();
  }

  journal(): Journal | null {
    const journal = board.readJournal<Journal>();
    if (!journal || !("phase" in journal)) return null;
    return journal.direction === "outgoing" ? { ...journal, limits: board.limits.now() } : journal;
  }

  restore(): RestoreJournal | null {
    return board.readRestore();
  }

  takeFd(name: string): void {
    const fd = this.#client.passed.shift();
    if (fd === undefined)
      throw new TramError("E_QMP", "getfd came without a descriptor", { expected: "one, by SCM_RIGHTS" });
    const before = this.#client.named.get(name);
    if (before !== undefined) net.close(before);
    this.#client.named.set(name, fd);
  }

  checkGuest(): object {
    const machine = board.machine();
    if (!machine?.description.walker)
      throw new TramError("E_STATE", "only a walker can be checked", {
        next: "start one with tram run --guest walker",
      });
    // Under the lock nobody lets it run while its pages are read.
    return board.locked(() => {
      if (board.runState === "running") throw stateError("checked", board.runState, "tram pause it first");
      const result = new Uint32Array(8 + 4 * 16);
      if (walkerCheck(machine.ram.handle, result) < 0)
        return {
          pages: 0,
          nonZero: 0,
          reused: 0,
          bad: 1,
          firstBad: { page: 1, offset: 0 },
          badCpus: 0,
          cpus: [],
          parametersAreBad: true,
        };
      const [pages, bad, page, offset, cpus, badCpus, nonZero, reused] = result;
      const rows = Array.from({ length: cpus }, (_, i) => result.subarray(8 + 4 * i, 12 + 4 * i));
      return {
        pages,
        nonZero,
        reused,
        bad,
        ...(bad > 0 && { firstBad: { page, offset } }),
        badCpus,
        ...WalkerPorts.stops(deviceWords(board).walker),
        cpus: rows.map(([pass, position, boundary, error]) => ({ pass, position, boundary, error })),
      };
    });
  }
}

const busy = (): TramError =>
  new TramError("E_STATE", "a move of this guest is under way already", {
    next: "wait for it, or cancel it (QMP migrate_cancel; Ctrl-C in its tram migrate or save)",
  });

function stateError(what: string, state: string, next = "tram status shows where it stands"): TramError {
  return new TramError("E_STATE", `the guest cannot be ${what}: it is in state '${state}'`, { next });
}

const clients: Client[] = [];

/** Makes room for a newcomer: idle connections must not lock a guest's owner out. */
function dropOldest(): void {
  const [oldest] = clients.filter((client) => client !== mover);
  clients.splice(clients.indexOf(oldest), 1);
  oldest.close();
}

/** What has happened to the guest, to all who have come so far. */
class Events {
  readonly fd = board.listen();
  #seen = board.noted;
  #wasRunning = board.runState === "running";
  #status = "none";
  readonly #bytes = new Uint8Array(256);

  /** At most what they have been told of. */
  tell(): void {
    while (net.receiveMessage(this.fd, this.#bytes).bytes > 0); // one byte for each, or fewer
    const { events, seen } = board.eventsSince(this.#seen);
    this.#seen = seen;
    for (const event of events) this.#tellOne(event);
  }

  #tellOne({ kind, value, atMs }: BoardEvent): void {
    if (kind === "pass") this.send("MIGRATION_PASS", atMs, { pass: value });
    else if (kind === "phase") this.#tellStatus(QEMU_STATUS[PHASE_NAMES[value]], atMs);
    else {
      const state = RUN_STATES[value];
      const runs = state === "running";
      if (runs !== this.#wasRunning) this.send(runs ? "RESUME" : "STOP", atMs);
      this.#wasRunning = runs;
      if (state === "shutdown") this.send("SHUTDOWN", atMs, { guest: true, reason: "guest-shutdown" });
    }
  }

  /** Several phases have one name there. As QEMU, only where a client wants to hear of it. */
  #tellStatus(status: string, atMs: number): void {
    if (status === this.#status) return;
    this.#status = status;
    if (settings.has("events")) this.send("MIGRATION", atMs, { status });
  }

  send(event: EventName, atMs: number, data?: object): void {
    const timestamp = { seconds: Math.floor(atMs / 1000), microseconds: Math.floor((atMs % 1000) * 1000) };
    for (const client of clients) if (client.negotiated) client.send({ timestamp, event, ...(data && { data }) });
  }
}

const events = new Events();

for (;;) {
  const cancelling = board.cancelling && board.moving;
  const entries = [
    { fd: init.listenFd, events: POLL.in },
    { fd: events.fd, events: POLL.in },
    ...clients.map((client) => ({
      fd: client.fd,
      events: (client.isWaiting ? 0 : POLL.in) | (client.unsent.length ? POLL.out : 0),
    })),
  ];
  const isBusy = clients.some((client) => client.isWaiting);
  const leftMs = board.moveTimeLeft(host.clockMs());
  if (leftMs === 0) board.cancelOverdue(); // the mover may be blocked where it cannot look at the time
  const ready = net.poll(entries, isBusy ? 0 : cancelling || leftMs === 0 ? KICK_AGAIN_MS : leftMs);
  if (cancelling) board.kickMover(); // its signal may have come just before it blocked
  for (const client of clients) client.takeTurn();
  if (ready?.[1]) events.tell();
  clients.forEach((client, i) => {
    const found = ready?.[i + 2] ?? 0;
    if (found & POLL.out) client.flush();
    // One that has gone is still owed what it asked for before: to quit, say.
    if (found & (POLL.in | POLL.hangup | POLL.error) && !client.isWaiting) client.receive();
  });
  for (const client of clients.filter((one) => one.gone)) {
    clients.splice(clients.indexOf(client), 1);
    client.close();
  }
  if (ready?.[0]) {
    if (clients.length === CLIENTS_MAX) dropOldest();
    const fd = net.tryAccept(init.listenFd);
    if (fd >= 0) clients.push(new Client(fd));
    else Bun.sleepSync(ACCEPT_AGAIN_MS);
  }
}

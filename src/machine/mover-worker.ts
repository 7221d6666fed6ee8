// The mover: the one thread that runs moves, beside the guest and outside every lock. It blocks in its channel; a cancel
// sets its stop word and kicks it.

import type { ZeroCopyMode } from "../control/copying.ts";
import { MoveLog, PHASE_NAMES, type Phase } from "../control/journal.ts";
import { type ForecastNote, type Measured, measureDirtyRate } from "../control/measure.ts";
import { cannotDrop, dropPageCache, type PageCache } from "../control/page-cache.ts";
import { receive } from "../control/receive.ts";
import { SAVE_BATCH_PAGES, type SaveContext, type SaveOptions, save } from "../control/save.ts";
import { type SendContext, type SendOptions, send } from "../control/send.ts";
import { TramError, toErrorData } from "../errors.ts";
import { type DirectAccess, PageFile } from "../native/file.ts";
import { host } from "../native/host.ts";
import { threadId } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import { Ram, type RamHandle } from "../native/ram.ts";
import { channelsInOrder, kindOfFirst } from "../reader/channels.ts";
import { StreamReader } from "../reader/stream.ts";
import { HELLO_VERSION } from "../stream/return-path.ts";
import { initOf, onJob, tell } from "../thread.ts";
import { Arrivals } from "../transport/arrivals.ts";
import { FdTransport } from "../transport/fd.ts";
import { connect, type Endpoint, endpointName, type Listener, open, unlisten } from "../transport/index.ts";
import { WriteOnly } from "../transport/write-only.ts";
import { Snapshot, SnapshotPages } from "../writer/snapshot.ts";
import { StreamWriter } from "../writer/stream.ts";
import { Board, type MachineHandles } from "./board.ts";
import { ReceiverCrew, ThreadCrew } from "./crew.ts";
import { type DiskWish, forgetDisks, openArriving } from "./disk-file.ts";
import type { FaultInit } from "./fault-worker.ts";
import { checkGiven, type Given } from "./given.ts";
import { MachineGuest } from "./guest.ts";
import { createMachine, createRam, createVm } from "./machine.ts";
import type { ReceiverInit } from "./receiver-worker.ts";
import { letGo, resumeCpus, takeOver } from "./resume.ts";
import type { SaverInit } from "./saver-worker.ts";
import type { SenderInit } from "./sender-worker.ts";
import type { Accel, TrackingWish } from "./tracking.ts";

export interface MoverInit {
  board: SharedArrayBuffer;
}

/** What the target was told by its own options; null: whatever the stream says. */
export interface Wanted {
  name: string;
  memoryBytes: number | null;
  cpus: number | null;
  /** Memory that was made before anything arrived; it has memoryBytes. */
  ram: RamHandle | null;
  prealloc: boolean;
  accel: Accel;
  tracking: TrackingWish;
  /** Over how many other channels its pages must come. */
  channels: number | null;
  /** Where its disks lie here; and that they are the source's own. */
  disks: DiskWish[] | null;
  disksAreShared: boolean;
  given: Given;
  /** For its network; -1: none. */
  tapFd: number;
}

export type Job =
  | {
      kind: "send";
      endpoint: Endpoint;
      options: SendOptions;
      iovMax: number;
      zeroCopy: ZeroCopyMode;
      /** zstd's level; null: pages go as they are. */
      compressLevel: number | null;
      copying: boolean;
      /** What was foretold of it; null: nothing. */
      forecast: ForecastNote | null;
      pageCache: PageCache;
    }
  | {
      kind: "save";
      fd: number;
      /** For long runs past the page cache; taken over, as is fd. */
      direct: DirectAccess;
      offset: number;
      name: string;
      options: SaveOptions;
      channels: number;
      reserve: boolean;
      /** For the benchmark: the guest stands still while anything is written. */
      blocking: boolean;
      pageCache: PageCache;
    }
  | { kind: "measure"; forMs: number }
  | { kind: "receive"; listener: Listener; wanted: Wanted; replyMs: number };

/** What a thread that carries pages does. */
export type CrewInit =
  | ({ does: "save" } & SaverInit)
  | ({ does: "send" } & SenderInit)
  | ({ does: "receive" } & ReceiverInit);

export type MoverMessage =
  | { event: "machine" }
  /** Threads that are to carry pages, too. */
  | { event: "crew"; inits: CrewInit[] }
  /** A thread that lets a guest without KVM write. */
  | { event: "watch-faults"; init: FaultInit }
  /** The job's journal is final. */
  | { event: "over"; job: Job["kind"] }
  | { event: "crashed"; error: ReturnType<typeof toErrorData> };

const init = initOf<MoverInit>();
const board = new Board(init.board);
board.moverStarted(threadId());
const clock = host.clockMs;

function checkCancelled(): void {
  if (board.cancelling) throw new TramError("E_CANCELLED", "cancelled");
}

function logFor(direction: "outgoing" | "incoming", peer: string): MoveLog {
  let phase: Phase = "none";
  let pass = 0;
  return new MoveLog(
    direction,
    peer,
    (journal) => {
      board.writeJournal(journal);
      const isNew = journal.phase !== phase;
      phase = journal.phase;
      if (isNew) board.note("phase", PHASE_NAMES.indexOf(phase));
      // The last pass begins with the guest stopped: none follows it.
      if ((phase !== "active" && phase !== "held") || pass > journal.roundsDone) return;
      pass = journal.roundsDone + 1;
      board.note("pass", pass);
    },
    clock,
  );
}

function runSend(job: Extract<Job, { kind: "send" }>): void {
  const log = logFor("outgoing", endpointName(job.endpoint));
  if (job.forecast) log.journal.forecast = job.forecast;
  try {
    freeCache(job.pageCache, log); // before anybody waits for a first byte
    log.setPhase("waiting");
    const channel = open(job.endpoint, { stop: board.moverStop, silenceMs: job.options.replyMs, iovMax: job.iovMax });
    const transport = job.copying ? new WriteOnly(channel) : channel;
    const handles = board.awaitMachine();
    const guest = guestOf(handles);
    const writer = new StreamWriter(transport, guest.ram);
    let fds: number[] = [];
    const context: SendContext = {
      limits: board.limits,
      checkCancelled,
      time: (sinceMs) => board.timeMove(sinceMs),
      get isOverdue() {
        return board.isOverdue;
      },
      sleep: (ms) => (job.copying ? board.moverSleep(ms) : channel.packets.sleep(ms)),
      unsentBytes: () => fds.reduce((sum, fd) => sum + Math.max(0, net.unsent(fd)), transport.unsent?.() ?? 0),
      openChannels(count, share) {
        const crew = new ThreadCrew(count, checkCancelled);
        const { endpoint, zeroCopy, compressLevel, iovMax, options } = job;
        fds = connectAll(endpoint, count, options.replyMs);
        const hashes = writer.hashes?.shared ?? null;
        const work = {
          share,
          log: guest.tracker.log,
          marks: handles.marks,
          ram: handles.ram,
          hashes,
          zeroCopy,
          compressLevel,
          iovMax,
        };
        const channels = crew.places().map((place, i) => ({ ...place, fd: fds[i], name: `channel ${i}` }));
        tellCrew(channels.map((one) => ({ does: "send", ...one, ...work, silenceMs: options.replyMs })));
        return crew;
      },
      passHandover: () => board.passHandover(),
      handedOver() {
        board.locked(() => board.pauseCpus("postmigrate"));
        forgetDisks(handles.disks);
      },
    };
    send(guest, writer, job.options, context, log);
  } catch (error) {
    if (log.isOver) throw error;
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  }
}

const guestOf = (handles: MachineHandles): MachineGuest =>
  new MachineGuest(handles, board, (init) => tell({ event: "watch-faults", init } satisfies MoverMessage));

function freeCache(pageCache: PageCache, log: MoveLog): void {
  if (pageCache === "keep") return;
  log.setPhase("cache");
  const { balloon } = guestOf(board.awaitMachine());
  if (!balloon) throw cannotDrop("it has no balloon");
  if (!board.command().run) throw cannotDrop("it does not run");
  const context = { checkStop: checkCancelled, sleep: (ms: number) => board.moverSleep(ms), now: clock };
  log.journal.cacheDrop = dropPageCache(balloon, context);
}

/** The channels of a move, connected; none, if one cannot be. */
function connectAll(endpoint: Endpoint, count: number, timeoutMs: number): number[] {
  const fds: number[] = [];
  try {
    while (fds.length < count) fds.push(connect(endpoint, timeoutMs, board.moverStop));
    return fds;
  } catch (error) {
    for (const fd of fds) net.close(fd);
    throw error;
  }
}

function tellCrew(inits: CrewInit[]): void {
  tell({ event: "crew", inits } satisfies MoverMessage);
}

function runSave(job: Extract<Job, { kind: "save" }>): void {
  const log = logFor("outgoing", job.name);
  const file = new PageFile(job.fd, job.direct);
  let crew: ThreadCrew | null = null;
  try {
    freeCache(job.pageCache, log);
    const handles = board.awaitMachine();
    const guest = guestOf(handles);
    const snapshot = new Snapshot(job.fd, job.offset, guest.ram.bytes, job.reserve);
    const context: SaveContext = {
      limits: board.limits,
      checkCancelled,
      sleep: (ms) => board.moverSleep(ms),
      startCrew(share) {
        if (job.channels === 1) return null;
        crew = new ThreadCrew(job.channels - 1, checkCancelled);
        const shared = {
          share,
          log: guest.tracker.log,
          marks: handles.marks,
          ram: handles.ram,
          target: snapshot.target,
        };
        const work = { ...shared, fileFd: job.fd, direct: job.direct };
        tellCrew(crew.places().map((place) => ({ does: "save", ...place, ...work })));
        return crew;
      },
      pages() {
        const pages = new SnapshotPages(file, guest.ram, snapshot.target, SAVE_BATCH_PAGES);
        if (!job.blocking) return pages;
        return { write: (index, count) => board.whileStopped(() => pages.write(index, count)) };
      },
      awaitCommit() {
        if (!board.awaitCommit()) throw new TramError("E_CANCELLED", "cancelled");
      },
      leave: (after) => board.locked(() => board.pauseCpus(after === "pause" ? "paused" : "postmigrate")),
    };
    save(guest, snapshot, job.options, context, log);
  } catch (error) {
    if (log.isOver) throw error;
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  } finally {
    (crew as ThreadCrew | null)?.end();
    file.close();
    net.close(job.fd);
    if (job.direct.fd >= 0) net.close(job.direct.fd);
  }
}

function runMeasure({ forMs }: Extract<Job, { kind: "measure" }>): void {
  try {
    const guest = guestOf(board.awaitMachine());
    const context = { checkStop: checkCancelled, sleep: (ms: number) => board.moverSleep(ms), now: clock };
    board.writeJournal({ dirtyRate: measureDirtyRate(guest, forMs, context) } satisfies Measured);
  } catch (error) {
    board.writeJournal({ error: toErrorData(error) } satisfies Measured);
  }
}

function runReceive(job: Extract<Job, { kind: "receive" }>): void {
  const log = logFor("incoming", endpointName(job.listener.endpoint));
  log.setPhase("waiting");
  const door = new Door(job.listener, job.replyMs);
  try {
    const { accel, tracking } = job.wanted;
    const vm = accel === "kvm" ? createVm(tracking) : null;
    const reader = door.awaitSource();
    let ram: RamHandle | null = null;
    receive(
      reader,
      {
        hello: {
          version: HELLO_VERSION,
          name: job.wanted.name,
          memoryBytes: job.wanted.memoryBytes,
          cpus: job.wanted.cpus,
          cpuid: vm?.cpuid ?? [],
          verifies: true,
          channels: door.isOpen,
        },
        createGuest(description) {
          const { ram: made, prealloc, disks: wished, disksAreShared, given, tapFd } = job.wanted;
          checkGiven(description, given);
          const disks = openArriving(description.disks, wished, disksAreShared); // refused early, if it is
          const memory = made ? Ram.attach(made) : createRam(description.memoryBytes, prealloc);
          const handles = createMachine(description, memory, board, vm ?? tracking, { disks, tapFd });
          ram = handles.ram;
          board.isAway = true;
          announce(handles);
          return guestOf(handles);
        },
        channels: job.wanted.channels,
        openChannels(count) {
          const { replyMs } = job;
          const fds = channelsInOrder(door.awaitChannels(count), replyMs, board.moverStop);
          const crew = new ReceiverCrew(count, checkCancelled, replyMs);
          const work = { ram: ram as RamHandle, marks: reader.marks };
          const channels = crew.places().map((place, i) => ({ ...place, fd: fds[i], name: `channel ${i}` }));
          tellCrew(channels.map((one) => ({ does: "receive", ...one, ...work })));
          return crew;
        },
        start(runState) {
          if (!board.passHandover()) throw new TramError("E_CANCELLED", "cancelled");
          board.locked(() => {
            const handles = board.awaitMachine();
            takeOver(board, handles);
            try {
              if (runState === "running") resumeCpus(board, handles);
              else board.runState = "paused";
            } catch (error) {
              letGo(board, handles); // its source takes it back, and its disks
              throw error;
            }
          });
        },
      },
      log,
    );
  } catch (error) {
    if (log.isOver) throw error;
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  } finally {
    door.close();
  }
}

/** Where a source comes in, and behind it the other channels of its move. */
class Door {
  readonly #listener: Listener;
  readonly #silenceMs: number;
  readonly #arrivals: Arrivals | null;
  #closed = false;

  constructor(listener: Listener, silenceMs: number) {
    this.#listener = listener;
    this.#silenceMs = silenceMs;
    this.#arrivals = listener.fd < 0 ? null : new Arrivals(listener.fd, board.moverStop, kindOfFirst);
  }

  /** More than one connection can come. */
  get isOpen(): boolean {
    return this.#arrivals !== null;
  }

  /** The first peer that says something: one that only connects (a port scan, a health check) is no source. */
  awaitSource(): StreamReader {
    const { endpoint } = this.#listener;
    const options = { name: endpointName(endpoint), stop: board.moverStop, silenceMs: this.#silenceMs };
    const fd = endpoint.scheme === "passed" ? endpoint.fd : (this.#arrivals as Arrivals).awaitMain();
    return new StreamReader(new FdTransport(fd, options));
  }

  /** So many other connections, each behind its first bytes. Nobody else is let in. */
  awaitChannels(count: number): readonly number[] {
    const arrivals = this.#arrivals;
    if (!arrivals?.awaitChannels(count, this.#silenceMs, { mainStays: true }))
      throw new TramError("E_STREAM", "the stream's pages come over other channels, which are not there", {
        expected: `${count} channels`,
        found: `${arrivals?.channels().length ?? 0}`,
        next: "is something between the two hosts that lets only one connection through?",
      });
    this.close();
    const fds = arrivals.channels(false);
    if (fds.length === count) return fds;
    for (const fd of fds) net.close(fd);
    throw new TramError("E_STREAM", "more channels have come than the source has named", {
      expected: `${count}`,
      found: `${fds.length}`,
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#arrivals?.close();
    unlisten(this.#listener);
  }
}

/** Tells everybody that there is a machine now; main starts its vCPUs. */
function announce(handles: MachineHandles): void {
  board.publishMachine(handles);
  tell({ event: "machine" } satisfies MoverMessage);
}

onJob((job: Job) => {
  try {
    if (job.kind === "send") runSend(job);
    else if (job.kind === "save") runSave(job);
    else if (job.kind === "measure") runMeasure(job);
    else runReceive(job);
    tell({ event: "over", job: job.kind } satisfies MoverMessage);
  } catch (error) {
    tell({ event: "crashed", error: toErrorData(error) } satisfies MoverMessage);
  }
  board.endMove();
});

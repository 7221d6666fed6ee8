// The source's story of a move, top to bottom.
import { TramError, toErrorData } from "../errors.ts";
import { RAM_BLOCK_NAME } from "../stream/devices/machine.ts";
import type { Hello } from "../stream/return-path.ts";
import { sumCounts } from "./barrier.ts";
import type { MoveWriter } from "./channel.ts";
import { checkFit } from "./fit.ts";
import type { Guest } from "./guest.ts";
import { Ledger, type MoveLog } from "./journal.ts";
import type { LiveLimits } from "./limits.ts";
import { type Crew, Rounds, type RoundsShare, shareRounds, timedOut } from "./rounds.ts";

export interface SendOptions {
  /** How long the target may take to answer. */
  replyMs: number;
  /** Other channels, which carry all pages; 0: the main one carries them. */
  channels: number;
  /** Compare what has arrived with what was sent, before the guest is handed over. */
  verify: boolean;
  /** Ask the guest for its free pages, and leave them out. */
  skipFree: boolean;
  /** For the benchmark: look at pages, too, of which the page tables say that nobody has ever written to them. */
  lookAtAll?: boolean;
  /** Only the rounds, up to where the guest would be stopped: it stays here, and is never stopped. */
  rehearse: boolean;
}

/** More than any host has cores for. */
export const MOVE_CHANNELS_MAX = 64;
export const ZSTD_LEVEL_MAX = 19;
export const DEFAULT_REPLY_MS = 10_000;

/** What the story needs of its surroundings. */
export interface SendContext {
  limits: LiveLimits;
  /** Throws E_CANCELLED once the move was cancelled. */
  checkCancelled(): void;
  /** The move's time counts since then; null: not now. For who ends it if it is blocked when that is over. */
  time(sinceMs: number | null): void;
  /** It was cancelled because its time was over. */
  readonly isOverdue: boolean;
  sleep(ms: number): void;
  /** Over all channels: sent, and not arrived at the other side's kernel. */
  unsentBytes(): number;
  /** Connects the other channels and starts who sends over them; they begin with the first round. */
  openChannels(count: number, share: RoundsShare): Crew;
  /** Draws the line after which no cancel counts; false if one came before. */
  passHandover(): boolean;
  /** The hand-over word is out: only a person, or the target's refusal, lets the guest run here again. */
  handedOver(): void;
}

/** Pages for one call of the writer: two full iovec arrays. */
const BATCH_PAGES = 1024;

/**
 * Moves the guest. Returns when the target owns it, or, one-way, when every byte was accepted. On any error before the
 * hand-over word, and where the target answers that word by saying that it does not take the guest, it is back as it was, or stands
 * still if its disk is somebody else's by then; the log says who owns it.
 */
export function send(guest: Guest, writer: MoveWriter, options: SendOptions, context: SendContext, log: MoveLog): void {
  let undo: (() => void)[] = [];
  try {
    log.setPhase("setup");
    context.time(log.startedMs);
    writer.begin();
    const hello = writer.twoWay ? greet(guest, writer, options) : null;
    if (options.verify) checkVerifies(writer, hello);
    if (options.channels > 0) checkTakesChannels(writer, hello);
    writer.machine(guest.description);
    if (writer.twoWay) writer.awaitMachine(options.replyMs);
    if (options.verify) writer.verifyPages();

    undo.push(() => guest.stopTracking());
    guest.startTracking();
    const share = shareRounds(guest, BATCH_PAGES, context.limits, log.now());
    if (options.lookAtAll) share.pagemapFd = -1;
    const { limits, checkCancelled: checkStop, sleep } = context;
    const crew = options.channels > 0 ? openChannels(options, writer, share, context, log) : null;
    if (crew) undo.push(() => crew.end()); // before the guest is let go
    writer.startRam([{ name: RAM_BLOCK_NAME, bytes: guest.ram.bytes }]);
    log.setPhase("active");
    const stop = new Stop(guest, log);
    undo.push(() => stop.undo());
    const bytes = () => writer.bytes + sumCounts(crew?.counts() ?? []).bytes;
    const time = (sinceMs: number | null) => context.time(sinceMs);
    const unsentBytes = () => context.unsentBytes();
    const { skipFree } = options;
    const carrying = {
      writer: crew ? null : writer,
      crew,
      skipFree,
      limits,
      checkStop,
      sleep,
      bytes,
      unsentBytes,
      ...(writer.twoWay && { silenceMs: options.replyMs }),
      time,
    };
    const rounds = new Rounds(guest, share, { ...carrying, stopGuest: () => stop.now() }, log);
    const sendRound = (stopped: boolean, last = stopped) => {
      writer.beginRound(last);
      rounds.send(stopped);
      writer.endRound();
    };
    do while (rounds.mustContinue()) sendRound(false);
    while (guest.settle(checkStop)); // what a file has spoilt does not go any further

    if (options.rehearse) {
      for (const step of undo.splice(0).reverse()) step();
      log.setPhase("completed");
      return;
    }

    const { was, downtime } = stop.now();
    log.setPhase("device");
    const devices = guest.saveDevices(); // before the last sync: reading a vCPU's state may write to its memory
    downtime.mark("deviceState");
    rounds.sync();
    downtime.mark("lastBitmap");
    sendRound(true, !options.verify);
    downtime.mark("lastPages");
    if (options.verify) {
      for (let differing = compare(writer, options, log); differing.length; differing = compare(writer, options, log)) {
        rounds.again(differing);
        sendRound(true, false);
      }
      writer.endRounds(); // nothing is left
      downtime.mark("verify");
    }
    writer.untouched(rounds.neverSent());
    writer.devices(devices, was);
    if (writer.twoWay) writer.awaitReady(options.replyMs);
    downtime.mark("targetReady");

    if (!context.passHandover()) throw new TramError("E_CANCELLED", "cancelled");
    log.setPhase("handover");
    guest.letGo();
    writer.handOver();
    const undoAsItWas = undo;
    undo = [() => guest.stopTracking(), () => crew?.end()]; // from here on this side does not run the guest, unless the target says that it never will
    log.journal.owner = "unconfirmed";
    context.handedOver();
    const described = attempt(() => writer.describe());
    const confirmed = writer.twoWay ? writer.awaitConfirmation(options.replyMs) : null;
    if (confirmed instanceof TramError) {
      log.journal.owner = "source";
      undo = undoAsItWas;
      throw confirmed;
    }
    downtime.mark("handOver");
    if (confirmed?.startedAfterMs) downtime.take("handOver", "firstInstruction", confirmed.startedAfterMs);
    log.journal.downtimeMs = downtime.totalMs;
    log.journal.maxDowntimeMs = limits.maxDowntimeMs;
    log.journal.downtimePartsMs = downtime.parts;
    log.journal.bytes = bytes();
    if (writer.twoWay ? !confirmed : described !== null) throw unconfirmed(writer.twoWay, described);
    if (confirmed) log.journal.owner = hello?.keeps ? "file" : "target";
    crew?.end();
    guest.stopTracking();
    log.setPhase("completed");
  } catch (error) {
    const isLate = context.isOverdue && isCancelled(error);
    const found = isLate ? timedOut(context.limits.timeoutMs, log.journal) : error;
    const cause = log.journal.owner === "source" ? writer.explain(found) : found;
    log.journal.error = toErrorData(cause);
    undoAll(undo, log);
    log.setPhase(isCancelled(cause) ? "cancelled" : "failed");
  } finally {
    writer.close();
  }
}

const isCancelled = (error: unknown): boolean => error instanceof TramError && error.code === "E_CANCELLED";

/** When the guest was stopped, and how it can go on. */
export class Stop {
  readonly #guest: Guest;
  readonly #log: MoveLog;
  #stopped: { was: string; downtime: Ledger } | null = null;

  constructor(guest: Guest, log: MoveLog) {
    this.#guest = guest;
    this.#log = log;
  }

  /** Stops the guest, unless it stands still already; the downtime began then. */
  now(): { was: string; downtime: Ledger } {
    if (this.#stopped) {
      this.#stopped.downtime.mark("overdueRounds");
      return this.#stopped;
    }
    const downtime = new Ledger(() => this.#log.now());
    const was = this.#guest.pause();
    this.#stopped = { was, downtime };
    downtime.mark("stopCpus");
    return this.#stopped;
  }

  undo(): void {
    if (this.#stopped) this.#guest.unpause(this.#stopped.was);
    this.#stopped = null;
  }
}

function checkVerifies(writer: MoveWriter, hello: Hello | null): void {
  if (hello?.verifies) return;
  throw new TramError("E_REFUSED", "--verify: the target cannot say what has arrived", {
    expected: "a tram that runs the guest, over a channel that goes both ways",
    found: hello?.keeps
      ? "one that keeps it in a file"
      : writer.twoWay
        ? "one of an older version"
        : `${writer.name}, one-way`,
    next: hello?.keeps
      ? "leave --verify out: the file has hashes, and tram verify compares it with them"
      : "leave --verify out",
  });
}

function checkTakesChannels(writer: MoveWriter, hello: Hello | null): void {
  if (hello?.channels) return;
  throw new TramError("E_REFUSED", "--channels: the target takes no other channels", {
    expected: "a tram that listens on tcp: or unix:",
    found: writer.twoWay ? "one that takes pages over the main channel only" : `${writer.name}, one-way`,
    next: "leave --channels, --zero-copy and --compress out",
  });
}

/** The pages that are wrong at the target. What is wrong twice will not be right the third time. */
function compare(writer: MoveWriter, options: SendOptions, log: MoveLog): Uint32Array {
  const differing = writer.differingPages(options.replyMs);
  const { journal } = log;
  const before = journal.differingPages ?? 0;
  journal.differingPages = before + differing.length;
  if (differing.length === 0 || before === 0) return differing;
  throw new TramError(
    "E_HASH",
    `${differing.length} page${differing.length > 1 ? "s" : ""} arrived otherwise than sent, twice`,
    {
      where: `pages ${[...differing.subarray(0, 8)].join(", ")}${differing.length > 8 ? ", …" : ""}`,
      expected: "the hashes that they were sent with",
      next: "something between the two hosts, or the memory of one, changes bytes: the guest stays here",
    },
  );
}

/** Each, whatever became of the others; what does not work is told, too. */
export function undoAll(undo: readonly (() => void)[], { journal }: MoveLog): void {
  for (const step of [...undo].reverse()) {
    const trouble = attempt(step);
    if (trouble && journal.error) journal.error.message += `; and ${toErrorData(trouble).message}`;
  }
}

/** Does it; returns the error, if there was one. */
export function attempt(action: () => void): unknown {
  try {
    action();
    return null;
  } catch (error) {
    return error ?? new TramError("E_INTERNAL", "an error without a name");
  }
}

function unconfirmed(twoWay: boolean, described: unknown): TramError {
  const found = described instanceof Error ? described.message : "nothing";
  const next =
    "look at the target with tram ps: if the guest runs there, tram quit it here; if not, tram resume it here";
  return twoWay
    ? new TramError("E_HANDOVER_UNKNOWN", "the target was told to run the guest, and did not confirm that it does", {
        expected: "SHUT 0 from the target",
        found,
        next,
      })
    : new TramError(
        "E_HANDOVER_UNKNOWN",
        "the channel broke just behind the word that tells the target to run the guest",
        {
          expected: "that every byte is accepted",
          found,
          next,
        },
      );
}

/** The crew is told first: its threads take a while to start, and the target a round trip to answer. */
function openChannels(
  options: SendOptions,
  writer: MoveWriter,
  share: RoundsShare,
  context: SendContext,
  log: MoveLog,
): Crew {
  const crew = context.openChannels(options.channels, share);
  log.journal.multifd = true;
  try {
    writer.openChannels(options.channels, options.replyMs);
    return crew;
  } catch (error) {
    crew.end();
    throw error;
  }
}

/** Before anything of the guest is sent: is there a tram, and can it take this guest? */
function greet(guest: Guest, writer: MoveWriter, options: SendOptions): Hello {
  const hello = writer.awaitHello(options.replyMs);
  if (hello === null)
    throw new TramError("E_REFUSED", "the target is not a tram, and cannot run this guest", {
      expected: "a greeting from: tram run --incoming URI",
      found: "another program that speaks QEMU's migration protocol",
      next: "start the target with tram run --incoming",
    });
  checkFit(guest.description, hello);
  return hello;
}

// The source's story of a move, top to bottom.
import { TramError, toErrorData } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { RAM_BLOCK_NAME } from "../stream/devices/machine.ts";
import type { Hello } from "../stream/return-path.ts";
import type { MoveWriter } from "./channel.ts";
import { expectedDowntimeMs, PAGE_RECORD_BYTES, verdict } from "./convergence.ts";
import { checkFit } from "./fit.ts";
import type { Guest } from "./guest.ts";
import { Ledger, type MoveLog } from "./journal.ts";
import { TokenBucket } from "./rate.ts";

export interface SendOptions {
  maxDowntimeMs: number;
  /** 0: no limit. */
  maxBandwidthBytesPerSec: number;
  /** How long the target may take to answer. */
  replyMs: number;
  /** 0: no limit on the whole move. */
  timeoutMs: number;
}

export const DEFAULT_MAX_DOWNTIME_MS = 300;
export const DEFAULT_REPLY_MS = 10_000;

/** What the story needs of its surroundings. */
export interface SendContext {
  /** Throws E_CANCELLED once the move was cancelled. */
  checkCancelled(): void;
  sleep(ms: number): void;
  /** Draws the line after which no cancel counts; false if one came before. */
  passHandover(): boolean;
  /** The hand-over word is out: only a person lets the guest run here again. */
  handedOver(): void;
}

/** Tracking is cleared in pieces of this size: 16 MiB keep the time between clearing a page and sending it short. */
const CLEAR_PAGES = 4096;
/** Pages for one call of the writer: two full iovec arrays. */
const BATCH_PAGES = 1024;
/** Under a rate limit a batch is at most this much of a second: the target must not think that the source is gone. */
const BATCH_SHARE = 0.25;

/**
 * Moves the guest. Returns when the target owns it, or, one-way, when every byte was accepted. On any error before the
 * hand-over word the guest is back as it was; the log says who owns it.
 */
export function send(guest: Guest, writer: MoveWriter, options: SendOptions, context: SendContext, log: MoveLog): void {
  let undo: (() => void)[] = [];
  try {
    log.setPhase("setup");
    writer.begin();
    const hello = writer.twoWay ? greet(guest, writer, options) : null;
    writer.machine(guest.description);
    writer.startRam([{ name: RAM_BLOCK_NAME, bytes: guest.ram.bytes }]);

    undo.push(() => guest.stopTracking());
    guest.startTracking();
    log.setPhase("active");
    const rounds = new Rounds(guest, writer, options, context, log);
    while (rounds.mustContinue()) rounds.send(false);

    const downtime = new Ledger(() => log.now());
    const was = guest.pause();
    undo.push(() => guest.unpause(was));
    downtime.mark("stopCpus");
    log.setPhase("device");
    const devices = guest.saveDevices(); // before the last sync: reading a vCPU's state may write to its memory
    downtime.mark("deviceState");
    rounds.sync();
    downtime.mark("lastBitmap");
    rounds.send(true);
    writer.devices(devices, was);
    downtime.mark("lastPages");
    if (writer.twoWay) writer.awaitReady(options.replyMs);
    downtime.mark("targetReady");

    if (!context.passHandover()) throw new TramError("E_CANCELLED", "cancelled");
    log.setPhase("handover");
    writer.handOver();
    undo = [() => guest.stopTracking()]; // from here on this side never runs the guest by itself
    log.journal.owner = "unconfirmed";
    context.handedOver();
    const described = attempt(() => writer.describe());
    const confirmed = writer.twoWay && writer.awaitConfirmation(options.replyMs);
    downtime.mark("handOver");
    log.journal.downtimeMs = downtime.totalMs;
    log.journal.downtimePartsMs = downtime.parts;
    log.journal.bytes = writer.bytes;
    if (writer.twoWay ? !confirmed : described !== null) throw unconfirmed(writer.twoWay, described);
    if (confirmed) log.journal.owner = hello?.keeps ? "file" : "target";
    guest.stopTracking();
    log.setPhase("completed");
  } catch (error) {
    const cause = log.journal.owner === "source" ? writer.explain(error) : error;
    log.journal.error = toErrorData(cause);
    for (const step of undo.reverse()) attempt(step); // each, whatever became of the others
    const cancelled = cause instanceof TramError && cause.code === "E_CANCELLED";
    log.setPhase(cancelled ? "cancelled" : "failed");
  } finally {
    writer.close();
  }
}

/** Does it; returns the error, if there was one. */
function attempt(action: () => void): unknown {
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

/** The rounds of one move: which pages are still to be sent, and how fast they go. */
class Rounds {
  readonly #guest: Guest;
  readonly #writer: MoveWriter;
  readonly #options: SendOptions;
  readonly #context: SendContext;
  readonly #log: MoveLog;
  readonly #bucket: TokenBucket | null;
  readonly #dirty: Bitmap;
  readonly #sent: Bitmap;
  readonly #batch: Uint32Array;
  #round = 0;

  constructor(guest: Guest, writer: MoveWriter, options: SendOptions, context: SendContext, log: MoveLog) {
    this.#guest = guest;
    this.#writer = writer;
    this.#options = options;
    this.#context = context;
    this.#log = log;
    const rate = options.maxBandwidthBytesPerSec;
    this.#bucket = rate > 0 ? new TokenBucket(rate, log.now()) : null;
    const share = rate > 0 ? Math.ceil((rate * BATCH_SHARE) / PAGE_RECORD_BYTES) : BATCH_PAGES;
    this.#batch = new Uint32Array(Math.min(share, BATCH_PAGES));
    this.#dirty = new Bitmap(guest.ram.pages);
    this.#dirty.fill(); // the bulk pass: everything
    this.#sent = new Bitmap(guest.ram.pages);
    log.journal.totalPages = guest.ram.pages;
  }

  /** Takes over what the guest has written; counts it for the round before. */
  sync(): void {
    const { journal } = this.#log;
    this.#guest.syncDirty(this.#dirty);
    journal.remainingPages = this.#dirty.count();
    const last = journal.rounds.at(-1);
    if (last) last.dirtyPages = journal.remainingPages;
  }

  mustContinue(): boolean {
    this.sync();
    const { journal } = this.#log;
    const { remainingPages, bandwidthBytesPerSec } = journal;
    const stats = { remainingPages, bandwidthBytesPerSec, rounds: this.#round };
    if (this.#round > 0) journal.expectedDowntimeMs = Math.round(expectedDowntimeMs(stats));
    return verdict(stats, this.#options) === "continue";
  }

  send(last: boolean): void {
    const { journal } = this.#log;
    const startedMs = this.#log.now();
    const round = { round: ++this.#round, pages: 0, zeroPages: 0, bytes: 0, durationMs: 0, dirtyPages: 0 };
    const bytesBefore = this.#writer.bytes;
    this.#writer.beginRound(last);
    const { pages: totalPages } = this.#dirty;
    for (let first = 0; first < totalPages; first += CLEAR_PAGES) {
      const end = Math.min(first + CLEAR_PAGES, totalPages);
      let cleared = last; // the guest is stopped: nothing needs to count again
      for (let from = first; from < end; ) {
        const { count, next } = this.#dirty.take(from, end, this.#batch);
        if (count === 0) break;
        // Before the first page of the piece is read: what is written after this is reported again.
        if (!cleared) this.#guest.clearDirty(first, end - first);
        cleared = true;
        journal.resentPages += this.#countResent(count);
        const sent = this.#writer.write(this.#batch, count);
        round.pages += sent.pages;
        round.zeroPages += sent.zeroPages;
        journal.sentPages += sent.pages;
        journal.zeroPages += sent.zeroPages;
        journal.remainingPages -= count;
        journal.bytes = this.#writer.bytes;
        this.#pace(sent.bytes, last);
        from = next;
      }
    }
    this.#writer.endRound();
    round.bytes = this.#writer.bytes - bytesBefore;
    round.durationMs = this.#log.now() - startedMs;
    // A short round says little of the channel: the better of it and the whole move so far.
    const elapsedMs = Math.max(1, this.#log.now() - this.#log.startedMs);
    const overall = (this.#writer.bytes * 1000) / elapsedMs;
    journal.bandwidthBytesPerSec = Math.round(Math.max(overall, (round.bytes * 1000) / Math.max(1, round.durationMs)));
    this.#log.finishRound(round);
  }

  #countResent(count: number): number {
    let again = 0;
    for (let i = 0; i < count; i++) {
      const page = this.#batch[i];
      if (this.#sent.has(page)) again++;
      else this.#sent.add(page);
    }
    return again;
  }

  /** After each batch: cancel, time limit, rate limit, progress. The last round is not slowed down: the guest waits. */
  #pace(bytes: number, last: boolean): void {
    this.#context.checkCancelled();
    const { timeoutMs } = this.#options;
    const elapsedMs = this.#log.now() - this.#log.startedMs;
    if (timeoutMs > 0 && elapsedMs > timeoutMs)
      throw new TramError("E_TIMED_OUT", `the move took longer than --timeout ${timeoutMs} ms`, {
        found: `${this.#log.journal.remainingPages} pages still to send after ${this.#round} rounds`,
        next: "allow more time, more --max-downtime, or pause the guest first",
      });
    const waitMs = this.#bucket && !last ? this.#bucket.spend(bytes, this.#log.now()) : 0;
    if (waitMs > 0) this.#context.sleep(waitMs);
    this.#context.checkCancelled();
    this.#log.refresh();
  }
}

// The rounds of a move: which pages are still to be sent, who sends them, and how fast. Any number of threads share a round:
// each takes the next piece of memory until there is none left.
import { peerSilent, TramError } from "../errors.ts";
import { Bitmap, type PageRange } from "../memory/bitmap.ts";
import { type ChannelCounts, noCounts, sumCounts } from "./barrier.ts";
import type { PagesSent, PageWriter } from "./channel.ts";
import { expectedDowntimeMs, PAGE_RECORD_BYTES, type RoundStats, stall, verdict } from "./convergence.ts";
import type { CarrierMemory, Guest } from "./guest.ts";
import { askForFreePages, type FreePages } from "./hints.ts";
import type { Journal, MoveLog } from "./journal.ts";
import { type LimitsPlace, LiveLimits } from "./limits.ts";
import { TokenBucket } from "./rate.ts";
import { nextThrottle } from "./throttle.ts";

/** Tracking is cleared in pieces of this size: 16 MiB keep the time between clearing a page and sending it short. */
const PIECE_PAGES = 4096;
/** Under a rate limit a batch is at most this much of a second: the target must not think that the source is gone. */
const BATCH_SHARE = 0.25;
/** A new limit is taken note of within this time, and so is a cancel. */
const WAIT_SLICE_MS = 50;
/** What is on its way arrives at the pace of the channel: nothing is won by looking more often. */
const ARRIVE_SLICE_MS = 5;
/** The guest writes meanwhile: then that goes, too. */
const ARRIVE_MS = 200;
/** While it is held, a round comes after this time at the latest: the target must not think that the source is gone. */
const HELD_ROUND_MS = 1000;
/** To look costs the guest a little. */
const HELD_LOOK_MS = 250;

/** What the threads of one move share: plain data, and memory of all. */
export interface RoundsShare {
  pages: number;
  /** See Guest. */
  pagemapFd: number;
  dirty: SharedArrayBuffer;
  sent: SharedArrayBuffer;
  /** See WORD. */
  words: SharedArrayBuffer;
  bucket: SharedArrayBuffer;
  limits: LimitsPlace;
  batchPages: number;
}

const WORD = {
  /** The next page that nobody has taken. */
  next: 0,
  /** The guest is stopped. */
  last: 1,
  /** This is the first round. */
  bulk: 2,
  /** No limit holds. */
  unpaced: 3,
  /** The guest was asked for its free pages, and this round leaves them out. */
  hints: 4,
} as const;

export function shareRounds(guest: Guest, batchPages: number, limits: LiveLimits, nowMs: number): RoundsShare {
  const { pages } = guest.ram;
  const bytes = Bitmap.bytesFor(pages);
  return {
    pages,
    pagemapFd: guest.pagemapFd,
    dirty: new SharedArrayBuffer(bytes),
    sent: new SharedArrayBuffer(bytes),
    words: new SharedArrayBuffer(4 * Object.keys(WORD).length),
    bucket: new TokenBucket(limits, nowMs).shared,
    limits: limits.place,
    batchPages,
  };
}

/** What one thread needs to carry pages. */
export interface CarrierContext {
  writer: PageWriter;
  memory: CarrierMemory;
  /** Throws when the move is to end; called between batches. */
  checkStop(): void;
  sleep(ms: number): void;
  /** Milliseconds, the same for all threads. */
  now(): number;
  /** After each batch. */
  progress(): void;
}

/** One thread's part in the rounds. */
export class Carrier {
  /** All that it has carried. */
  readonly counts: ChannelCounts = noCounts();
  readonly #share: RoundsShare;
  readonly #context: CarrierContext;
  readonly #dirty: Bitmap;
  readonly #sent: Bitmap;
  readonly #words: Int32Array;
  readonly #limits: LiveLimits;
  readonly #bucket: TokenBucket;
  readonly #batch: Uint32Array;

  constructor(share: RoundsShare, context: CarrierContext) {
    this.#share = share;
    this.#context = context;
    // Pieces are whole words of these, and each piece is one thread's.
    this.#dirty = new Bitmap(share.pages, share.dirty);
    this.#sent = new Bitmap(share.pages, share.sent);
    this.#words = new Int32Array(share.words);
    this.#limits = new LiveLimits(share.limits);
    this.#bucket = new TokenBucket(this.#limits, 0, share.bucket);
    this.#batch = new Uint32Array(share.batchPages);
  }

  /** Takes pieces until the round is over. */
  carry(): void {
    const { pages } = this.#share;
    for (;;) {
      const first = Atomics.add(this.#words, WORD.next, PIECE_PAGES);
      if (first >= pages) return;
      this.#piece(first, Math.min(first + PIECE_PAGES, pages));
    }
  }

  #piece(first: number, end: number): void {
    const last = Atomics.load(this.#words, WORD.last) !== 0;
    const mayBeUntouched = this.#share.pagemapFd >= 0 && Atomics.load(this.#words, WORD.bulk) !== 0;
    // Looked at once: what is left out and what is not taken back must be the same pages.
    const mayBeFree = Atomics.load(this.#words, WORD.hints) !== 0;
    const hinted = mayBeFree ? this.#context.memory.hinted(first, end - first) : null;
    if (hinted) this.counts.hintedPages += this.#dirty.removeWords(first, hinted);
    let cleared = last; // the guest is stopped: nothing needs to count again
    for (let from = first; from < end; ) {
      const { count, next } = this.#dirty.take(from, end, this.#room());
      if (count === 0) return;
      // Before the first page of the piece is read: what is written after this is reported again.
      if (!cleared) this.#context.memory.clearDirty(first, end - first, hinted);
      cleared = true;
      from = next;
      const touched = mayBeUntouched ? this.#skipUntouched(count) : count;
      if (touched === 0) continue;
      this.counts.resentPages += touched - this.#sent.addAll(this.#batch.subarray(0, touched));
      const sent = this.#context.writer.write(this.#batch, touched);
      this.#count(sent);
      this.#pace(sent.bytes);
    }
  }

  /** For so many pages as may be sent in a part of a second. */
  #room(): Uint32Array {
    const rate = this.#limits.maxBandwidthBytesPerSec;
    const pages = rate > 0 ? Math.ceil((rate * BATCH_SHARE) / PAGE_RECORD_BYTES) : this.#batch.length;
    return pages < this.#batch.length ? this.#batch.subarray(0, pages) : this.#batch;
  }

  /** What is written to them from here on is in the log: it was cleared before. */
  #skipUntouched(count: number): number {
    const { memory } = this.#context;
    const touched = memory.splitUntouched(this.#batch, count);
    const { ballooned, reported } = memory.givenUp(this.#batch.subarray(touched, count));
    this.counts.balloonedPages += ballooned;
    this.counts.reportedPages += reported;
    this.counts.untouchedPages += count - touched - ballooned - reported;
    return touched;
  }

  #count(sent: PagesSent): void {
    this.counts.pages += sent.pages;
    this.counts.zeroPages += sent.zeroPages;
    this.counts.bytes += sent.bytes;
    this.counts.directBytes += sent.directBytes ?? 0;
    this.counts.packets++;
  }

  /** After each batch: cancel, rate limit, progress. */
  #pace(bytes: number): void {
    const { checkStop, now, progress, sleep } = this.#context;
    checkStop();
    if (!this.#isUnpaced) {
      const endMs = now() + this.#bucket.spend(bytes, now());
      for (let leftMs = endMs - now(); leftMs > 0; leftMs = endMs - now()) {
        sleep(Math.min(leftMs, WAIT_SLICE_MS));
        checkStop();
        if (this.#bucket.hasChanged || this.#isUnpaced) break;
      }
    }
    progress();
  }

  /** The guest stands still: it is not kept waiting. */
  get #isUnpaced(): boolean {
    return Atomics.load(this.#words, WORD.unpaced) !== 0;
  }
}

/** The other threads that carry. */
export interface Crew {
  /** Lets them work at the round that is prepared. */
  begin(): void;
  /** Waits until none of them works at it; throws what went wrong with any. */
  finish(progress: () => void): void;
  counts(): ChannelCounts[];
  /** Returns when none of them touches the guest any more. */
  end(): void;
}

/** What the rounds need beside a carrier's context. */
export interface RoundsContext extends Pick<CarrierContext, "checkStop" | "sleep"> {
  /** Null: only the crew carries. */
  writer: PageWriter | null;
  /** Ask the guest for its free pages, and leave them out. */
  skipFree: boolean;
  crew: Crew | null;
  limits: LiveLimits;
  /** The time is over, and the guest is to stand still from now on. */
  stopGuest(): void;
  /** Everything sent so far, headers included; else what the channels have sent. */
  bytes?(): number;
  /** Of these, what has not arrived; else all has. */
  unsentBytes?(): number;
  /** How long nothing of that may arrive; else as long as it likes. */
  silenceMs?: number;
  /** The time counts since then; null: not now. */
  time?(sinceMs: number | null): void;
}

/** Pages that were dealt with, each time that they were. */
const settled = (counts: ChannelCounts): number =>
  counts.pages +
  counts.zeroPages +
  counts.untouchedPages +
  counts.hintedPages +
  counts.balloonedPages +
  counts.reportedPages;

export const timedOut = (timeoutMs: number, { remainingPages, roundsDone }: Journal): TramError =>
  new TramError("E_TIMED_OUT", `it took longer than --timeout ${timeoutMs} ms`, {
    found:
      roundsDone === 0
        ? "the first round was not over"
        : `${remainingPages} pages still to send after ${roundsDone} rounds`,
    next: "allow more time, more --max-downtime, or --on-timeout pause or throttle",
  });

/** The whole move's rounds, in the thread that decides about them, which carries pages itself. */
export class Rounds {
  readonly #guest: Guest;
  readonly #log: MoveLog;
  readonly #context: RoundsContext;
  /** Null: only the crew carries. */
  readonly #carrier: Carrier | null;
  readonly #crew: Crew | null;
  readonly #dirty: Bitmap;
  readonly #sent: Bitmap;
  readonly #words: Int32Array;
  /** Everything sent so far, headers included. */
  readonly #bytes: () => number;
  readonly #unsent: () => number;
  #round = 0;
  /** The time was over when this began. */
  #overdue: "pause" | "throttle" | null = null;
  #remainingBefore = Number.POSITIVE_INFINITY;
  /** Its time counts since then; null: since it began. */
  #timedSinceMs: number | null = null;
  #wasHeld = false;
  /** What had arrived when something last did, or had not to, and when that was. */
  #arrivedBytes = Number.NEGATIVE_INFINITY;
  #arrivedMs = 0;

  constructor(guest: Guest, share: RoundsShare, context: RoundsContext, log: MoveLog) {
    this.#guest = guest;
    this.#log = log;
    this.#context = context;
    this.#crew = context.crew;
    this.#bytes = context.bytes ?? (() => sumCounts(this.counts()).bytes);
    this.#unsent = context.unsentBytes ?? (() => 0);
    this.#dirty = new Bitmap(share.pages, share.dirty);
    this.#dirty.fill(); // the bulk pass: everything
    this.#sent = new Bitmap(share.pages, share.sent);
    this.#words = new Int32Array(share.words);
    const { writer, sleep } = context;
    this.#carrier =
      writer &&
      new Carrier(share, {
        writer,
        sleep,
        memory: guest.pages,
        checkStop: () => {
          context.checkStop();
          this.#checkTime();
        },
        now: () => log.now(),
        progress: () => this.#progress(),
      });
    log.journal.totalPages = share.pages;
  }

  /** What each thread has carried; this one first, if it does. */
  counts(): ChannelCounts[] {
    return [...(this.#carrier ? [this.#carrier.counts] : []), ...(this.#crew?.counts() ?? [])];
  }

  /** Takes over what the guest has written; counts it for the round before. */
  sync(): void {
    const { journal } = this.#log;
    this.#guest.syncDirty(this.#dirty);
    journal.remainingPages = this.#dirty.count();
    const last = journal.rounds.at(-1);
    if (last) last.dirtyPages = journal.remainingPages;
  }

  /** Pages that were not sent, because nobody has ever written to them or the guest has no use for them: ranges, ascending. */
  neverSent(): PageRange[] {
    return this.#sent.gaps();
  }

  /** These are to be sent once more. */
  again(pages: Uint32Array): void {
    for (const page of pages) this.#dirty.add(page);
    this.#log.journal.remainingPages = pages.length;
  }

  mustContinue(): boolean {
    const { journal } = this.#log;
    const { limits } = this.#context;
    this.#checkTime();
    const stats = this.#arrived(this.#look());
    if (this.#overdue === "pause") return false;
    if (verdict(stats, limits) === "switch-over") {
      journal.stall = null;
      return limits.hold && this.#hold();
    }
    if (journal.phase === "held" && !limits.hold) this.#log.setPhase("active");
    const { remainingPages } = stats;
    if (this.#overdue === "throttle")
      this.#throttle(nextThrottle(journal.throttlePercent, remainingPages, this.#remainingBefore));
    this.#remainingBefore = remainingPages;
    journal.stall = stall(journal.rounds, limits.now());
    return true;
  }

  /** What is sent already comes first: it is let arrive, as long as that is all that is in the way. */
  #arrived(stats: RoundStats): RoundStats {
    const { limits, checkStop, sleep } = this.#context;
    const fits = (unsentBytes: number) => verdict({ ...stats, unsentBytes }, limits) === "switch-over";
    if (fits(stats.unsentBytes) || !fits(0) || this.#overdue === "pause") return stats;
    for (const endMs = this.#log.now() + ARRIVE_MS; !fits(this.#unsent()) && this.#log.now() < endMs; ) {
      sleep(ARRIVE_SLICE_MS);
      checkStop();
      this.#checkTime();
    }
    return this.#look(); // the guest has written meanwhile
  }

  /** What is left now, and what that would take. */
  #look(): RoundStats {
    this.sync();
    const { journal } = this.#log;
    const { remainingPages, bandwidthBytesPerSec } = journal;
    const stats = { remainingPages, unsentBytes: this.#unsent(), bandwidthBytesPerSec, rounds: this.#round };
    this.#checkHeard(stats.unsentBytes);
    if (this.#round > 0) journal.expectedDowntimeMs = Math.round(expectedDowntimeMs(stats));
    return stats;
  }

  /** What small rounds send finds room, even if nobody reads it: no call that waits for room finds out. */
  #checkHeard(unsentBytes: number): void {
    const arrivedBytes = this.#bytes() - unsentBytes;
    const nowMs = this.#log.now();
    if (unsentBytes === 0 || arrivedBytes > this.#arrivedBytes) {
      this.#arrivedBytes = arrivedBytes;
      this.#arrivedMs = nowMs;
    } else if (nowMs - this.#arrivedMs > (this.#context.silenceMs ?? Number.POSITIVE_INFINITY)) {
      const found = `${unsentBytes} bytes that have not arrived`;
      throw peerSilent("the target takes nothing more of what it is sent", { found });
    }
  }

  /** Waits until it may switch over (false), or what is left has grown, or the target is to hear something again (true). */
  #hold(): boolean {
    const { checkStop, limits, sleep } = this.#context;
    if (this.#log.journal.phase !== "held") this.#log.setPhase("held");
    const endMs = this.#log.now() + HELD_ROUND_MS;
    for (let lookMs = this.#log.now() + HELD_LOOK_MS; limits.hold && this.#log.now() < endMs; ) {
      sleep(WAIT_SLICE_MS);
      checkStop();
      this.#checkTime();
      if (this.#log.now() < lookMs) continue;
      lookMs += HELD_LOOK_MS;
      if (verdict(this.#look(), limits) === "continue") return true;
    }
    return limits.hold || this.mustContinue();
  }

  #throttle(percent: number): void {
    this.#guest.throttle(percent);
    this.#log.journal.throttlePercent = percent;
    this.#log.publish();
  }

  /** Just before the bulk pass: whatever the guest names from here on was free when its log was last looked at, or is in it. */
  #askForFreePages(): FreePages | null {
    const { checkStop, skipFree, sleep } = this.#context;
    const free = skipFree ? this.#guest.freePages : null;
    if (!free) return null;
    const { journal } = this.#log;
    journal.asksForFreePages = true;
    this.#log.publish();
    journal.hints = askForFreePages(free, {
      checkStop: () => {
        checkStop();
        this.#checkTime();
      },
      sleep,
      now: () => this.#log.now(),
    });
    journal.asksForFreePages = false;
    Atomics.store(this.#words, WORD.hints, 1);
    return free;
  }

  /** Before the log is looked at again: what is named then may be in use by the time that it is left out. */
  #endFreePages(free: FreePages): void {
    Atomics.store(this.#words, WORD.hints, 0);
    const { journal } = this.#log;
    if (journal.hints) Object.assign(journal.hints, free.answer);
    free.end();
  }

  send(last: boolean): void {
    const { journal } = this.#log;
    const free = this.#round === 0 && !last ? this.#askForFreePages() : null;
    const startedMs = this.#log.now();
    const before = sumCounts(this.counts());
    const bytesBefore = this.#bytes();
    const arrivedBefore = bytesBefore - this.#unsent();
    this.#round++;
    this.#toSend = journal.remainingPages + settled(before);
    Atomics.store(this.#words, WORD.next, 0);
    Atomics.store(this.#words, WORD.last, last ? 1 : 0);
    Atomics.store(this.#words, WORD.bulk, this.#round === 1 ? 1 : 0);
    if (last) Atomics.store(this.#words, WORD.unpaced, 1);
    this.#crew?.begin();
    this.#carrier?.carry();
    this.#crew?.finish(() => {
      this.#checkTime();
      this.#progress();
    });
    if (free) this.#endFreePages(free);
    this.#progress();
    const after = sumCounts(this.counts());
    const durationMs = this.#log.now() - startedMs;
    const bytes = this.#bytes() - bytesBefore;
    // A short round says little of the channel: the better of it and the whole move so far.
    const elapsedMs = Math.max(1, this.#log.now() - this.#log.startedMs);
    const arrived = this.#bytes() - this.#unsent();
    const lately = ((arrived - arrivedBefore) * 1000) / Math.max(1, durationMs);
    journal.bandwidthBytesPerSec = Math.round(Math.max(lately, (arrived * 1000) / elapsedMs));
    this.#log.finishRound({
      round: this.#round,
      pages: after.pages - before.pages,
      zeroPages: after.zeroPages - before.zeroPages,
      bytes,
      durationMs,
      dirtyPages: 0,
    });
  }

  /** Of the whole move, when this round is over. */
  #toSend = 0;

  #progress(): void {
    const { journal } = this.#log;
    const counts = this.counts();
    const sum = sumCounts(counts);
    journal.channels = counts;
    journal.sentPages = sum.pages;
    journal.zeroPages = sum.zeroPages;
    journal.untouchedPages = sum.untouchedPages;
    journal.hintedPages = sum.hintedPages;
    journal.balloonedPages = sum.balloonedPages;
    journal.reportedPages = sum.reportedPages;
    journal.resentPages = sum.resentPages;
    journal.remainingPages = this.#toSend - settled(sum);
    journal.bytes = this.#bytes();
    this.#log.refresh();
  }

  #checkTime(): void {
    const { timeoutMs, onTimeout, hold } = this.#context.limits;
    const nowMs = this.#log.now();
    if (hold !== this.#wasHeld) this.#context.time?.(hold ? null : nowMs);
    this.#wasHeld = hold;
    if (hold) this.#timedSinceMs = nowMs; // nobody waits for the end
    const isOver = timeoutMs > 0 && nowMs - (this.#timedSinceMs ?? this.#log.startedMs) > timeoutMs;
    if (this.#overdue === "pause" || (isOver && this.#overdue === onTimeout)) return;
    if (this.#overdue === "throttle") this.#throttle(0);
    this.#overdue = null;
    if (!isOver) return;
    if (onTimeout === "cancel") throw timedOut(timeoutMs, this.#log.journal);
    this.#overdue = onTimeout;
    if (onTimeout === "throttle") this.#throttle(nextThrottle(0, 0, 0));
    else {
      this.#context.stopGuest();
      Atomics.store(this.#words, WORD.unpaced, 1);
    }
  }
}

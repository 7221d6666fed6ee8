// How fast a guest writes its memory, measured without moving it; and what a move of it would come to: a pure function of that.
import type { ErrorData } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { expectedDowntimeMs, PAGE_RECORD_BYTES, type Stall, stall, verdict } from "./convergence.ts";
import type { Guest } from "./guest.ts";
import { askForFreePages } from "./hints.ts";
import type { Round } from "./journal.ts";
import type { Limits } from "./limits.ts";

/** So many different pages were written within so many milliseconds of the beginning. */
export interface Written {
  ms: number;
  pages: number;
}

export interface DirtyRate {
  totalPages: number;
  /** About so many have content: some of each piece of memory were looked at. */
  contentPages: number;
  /** Ascending in both. */
  written: Written[];
}

/** What the journal says of it; neither, as long as it goes on. */
export interface Measured {
  dirtyRate?: DirtyRate;
  error?: ErrorData;
}

export interface MeasureContext {
  checkStop(): void;
  sleep(ms: number): void;
  now(): number;
}

/** From a 64th of the time on, each twice as late as the one before: what is rewritten often shows at the beginning. */
const HALVINGS = 6;

/** Tracks the guest for a while. It runs on, but pays for the first write to each page. */
export function measureDirtyRate(guest: Guest, forMs: number, { checkStop, sleep, now }: MeasureContext): DirtyRate {
  const totalPages = guest.ram.pages;
  const written: Written[] = [];
  try {
    guest.startTracking();
    const dirty = new Bitmap(totalPages);
    guest.syncDirty(dirty); // what is in the log before anything was written
    guest.pages.clearDirty(0, totalPages, null);
    dirty.clear();
    const startedMs = now();
    for (let halving = HALVINGS; halving >= 0; halving--) {
      sleep(Math.max(0, startedMs + forMs / 2 ** halving - now()));
      checkStop();
      guest.syncDirty(dirty);
      written.push({ ms: now() - startedMs, pages: dirty.count() });
    }
    return { totalPages, contentPages: countContent(guest, { checkStop, sleep, now }), written };
  } finally {
    guest.stopTracking();
  }
}

const PIECE_PAGES = 4096;
/** Of each piece of memory that was ever touched. */
const LOOKED_AT = 16;

/** Without those that it would name as free if it were moved. */
function countContent(guest: Guest, context: MeasureContext): number {
  const free = guest.freePages;
  if (!free) return estimateContent(guest, false);
  askForFreePages(free, context);
  try {
    return estimateContent(guest, true);
  } finally {
    free.end();
  }
}

function estimateContent({ ram, pagemapFd, pages: known }: Guest, wasAsked: boolean): number {
  let content = 0;
  for (let first = 0; first < ram.pages; first += PIECE_PAGES) {
    const pages = Math.min(PIECE_PAGES, ram.pages - first);
    const named = wasAsked ? known.hinted(first, pages) : null; // what it said before may be in use by now
    const all = Uint32Array.from({ length: pages }, (_, i) => first + i);
    const index = named ? all.filter((_, i) => (named[i >>> 5] & (1 << (i & 31))) === 0) : all;
    const touched = pagemapFd < 0 ? index.length : ram.splitUntouched(pagemapFd, index, index.length);
    // An odd step: content that comes in a pattern is not met at the same place of it each time.
    const step = Math.floor(touched / LOOKED_AT) | 1;
    const some = index.subarray(0, touched).filter((_, i) => i % step === 0);
    if (some.length > 0) content += (touched * ram.splitZero(some, some.length)) / some.length;
  }
  return Math.round(content);
}

/** How many different pages are written in so many milliseconds: between what was measured, and on as it went last. */
export function pagesWritten({ totalPages, written }: DirtyRate, ms: number): number {
  const points = [{ ms: 0, pages: 0 }, ...written];
  const later = points.findIndex((point, i) => i > 0 && point.ms >= ms);
  const [a, b] = later < 0 ? points.slice(-2) : points.slice(later - 1, later + 1);
  const slope = b.ms > a.ms ? (b.pages - a.pages) / (b.ms - a.ms) : 0;
  return Math.min(totalPages, Math.round(a.pages + slope * (ms - a.ms)));
}

export interface Forecast {
  converges: boolean;
  rounds: number;
  /** Of the whole move, if it converges; else until that is seen. */
  elapsedMs: number;
  bytes: number;
  /** The last round alone: handing over comes on top. */
  downtimeMs: number | null;
  /** What would change that; null: it converges. */
  stall: Stall | null;
  /** The longest round; of what the guest writes in a longer time than was measured, it is only supposed. */
  longestRoundMs: number;
}

/** What was foretold of a guest last, for the report of a move to be compared with. */
export interface ForecastNote extends Pick<Forecast, "converges" | "rounds" | "elapsedMs" | "bytes" | "downtimeMs"> {
  /** By the wall clock. */
  atMs: number;
}

/** Of no move more is foretold: by then the guest does something else. */
const ROUNDS_MAX = 50;

/** What a move comes to that sends so many pages first, at this bandwidth, if the guest goes on as it was measured. */
export function forecast(rate: DirtyRate, bulkPages: number, bandwidthBytesPerSec: number, limits: Limits): Forecast {
  const bytesPerSec = Math.min(bandwidthBytesPerSec, limits.maxBandwidthBytesPerSec || Number.POSITIVE_INFINITY);
  const roundMs = (pages: number) => (pages * PAGE_RECORD_BYTES * 1000) / bytesPerSec;
  const rounds: Round[] = [];
  let [pages, bytes, elapsedMs, longestRoundMs] = [bulkPages, 0, 0, 0];
  for (let round = 1; round <= ROUNDS_MAX; round++) {
    const durationMs = roundMs(pages);
    const dirtyPages = pagesWritten(rate, durationMs);
    rounds.push({ round, pages, zeroPages: 0, bytes: pages * PAGE_RECORD_BYTES, durationMs, dirtyPages });
    bytes += pages * PAGE_RECORD_BYTES;
    elapsedMs += durationMs;
    longestRoundMs = Math.max(longestRoundMs, durationMs);
    pages = dirtyPages;
    const stats = { remainingPages: pages, unsentBytes: 0, bandwidthBytesPerSec: bytesPerSec, rounds: round };
    if (verdict(stats, limits) === "switch-over") {
      const downtimeMs = expectedDowntimeMs(stats);
      const whole = { bytes: bytes + pages * PAGE_RECORD_BYTES, elapsedMs: elapsedMs + downtimeMs };
      return { converges: true, rounds: round + 1, ...whole, downtimeMs, stall: null, longestRoundMs };
    }
    const found = stall(rounds, limits);
    if (found)
      return { converges: false, rounds: round, elapsedMs, bytes, downtimeMs: null, stall: found, longestRoundMs };
  }
  return { converges: false, rounds: ROUNDS_MAX, elapsedMs, bytes, downtimeMs: null, stall: null, longestRoundMs };
}

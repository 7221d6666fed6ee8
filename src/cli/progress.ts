// How far a move, a save or a file's way has come: figures out of the journal, and the line that shows them. Pure functions of what
// was seen, and when.

import { PAGE_RECORD_BYTES } from "../control/convergence.ts";
import { isOver, type Journal, type Phase, type Round } from "../control/journal.ts";
import { TARGET_PAGE_BYTES } from "../stream/wire.ts";
import type { Progress, WaitsFor } from "./events.ts";
import type { Part } from "./terminal.ts";
import { formatBytes, formatCount, formatEta, formatMs, formatRate } from "./units.ts";

/** Of a guest that runs here: to a target, into a file. Of one that does not: from a source into a file, from a file to a target. */
export type Way = "move" | "save" | "keep" | "send";

/** What was measured between two looks at a journal. */
export interface Speed {
  bytesPerSec: number;
  /** Pages that were dealt with, whether they had to be carried or not. */
  pagesPerSec: number;
  /** For so long nothing has changed. */
  silentMs: number;
}

interface Sample {
  ms: number;
  bytes: number;
  pages: number;
}

/** Long enough for an even figure, short enough for one of now. */
const WINDOW_MS = 3000;
/** Before so much was seen, the journal's own mean says more. */
const WINDOW_MS_MIN = 300;

const NOT_YET: readonly Phase[] = ["none", "cache", "waiting", "setup"];

/** Measures with the clock of who looks: a journal in which nothing goes on says no time. */
export class Meter {
  #samples: Sample[] = [];
  #changedMs = Number.NaN;

  measure(journal: Journal, nowMs: number): Speed {
    const now = { ms: nowMs, bytes: journal.bytes, pages: settledPages(journal) };
    if (NOT_YET.includes(journal.phase)) {
      this.#samples = [];
      this.#changedMs = nowMs;
      return { bytesPerSec: 0, pagesPerSec: 0, silentMs: 0 };
    }
    const last = this.#samples.at(-1);
    if (!last || last.bytes !== now.bytes || last.pages !== now.pages) this.#changedMs = nowMs;
    this.#samples.push(now);
    const kept = this.#samples.findLastIndex(({ ms }) => ms <= nowMs - WINDOW_MS);
    if (kept > 0) this.#samples.splice(0, kept);
    const [first] = this.#samples;
    const ms = nowMs - first.ms;
    const silentMs = nowMs - this.#changedMs;
    if (ms < WINDOW_MS_MIN) {
      const elapsedMs = Math.max(1, journal.elapsedMs);
      return { bytesPerSec: (now.bytes * 1000) / elapsedMs, pagesPerSec: (now.pages * 1000) / elapsedMs, silentMs };
    }
    const perSecond = (of: "bytes" | "pages") => Math.max(0, ((now[of] - first[of]) * 1000) / ms);
    return { bytesPerSec: perSecond("bytes"), pagesPerSec: perSecond("pages"), silentMs };
  }
}

const settledPages = (journal: Journal): number =>
  journal.sentPages +
  journal.zeroPages +
  journal.untouchedPages +
  journal.hintedPages +
  journal.balloonedPages +
  journal.reportedPages;

export interface Left {
  pages: number;
  /** What carries them, and what the guest writes meanwhile: different pages; null: not known. */
  pagesPerSec: number;
  dirtyPagesPerSec: number | null;
  /** All of memory goes once, whatever the guest writes. */
  isBulk: boolean;
}

/** A round that leaves more than this of what it has carried is not worth reckoning with. */
const CONVERGES = 0.9;

/** How long what is left will take; null: nobody can say. */
export function etaMs({ pages, pagesPerSec, dirtyPagesPerSec, isBulk }: Left): number | null {
  if (pages === 0) return 0;
  if (pagesPerSec <= 0) return null;
  if (isBulk) return Math.round((pages * 1000) / pagesPerSec);
  if (dirtyPagesPerSec === null || !converges(pagesPerSec, dirtyPagesPerSec)) return null;
  return Math.round((pages * 1000) / (pagesPerSec - dirtyPagesPerSec));
}

const converges = (pagesPerSec: number, dirtyPagesPerSec: number): boolean =>
  dirtyPagesPerSec <= pagesPerSec * CONVERGES;

/** The last round of which it is known what the guest wrote meanwhile: that is only known when the next one begins. */
function lastKnown({ phase, rounds, trace }: Journal): Round | null {
  // What is written while it is held counts for the round before, however long that is.
  if (trace.some((one) => one.phase === "held")) return null;
  const last = rounds.at(-1);
  if (phase !== "active" || !last || last.dirtyPages > 0) return last ?? null;
  return rounds.at(-2) ?? null;
}

interface RoundSpeed {
  pagesPerSec: number;
  dirtyPagesPerSec: number;
}

/** By the pages, because what carries them may be compressed. The bulk pass finds many zeros, which later ones will not. */
function speedOf({ round, pages, zeroPages, dirtyPages, durationMs }: Round): RoundSpeed {
  const perSecond = (count: number) => (count * 1000) / Math.max(1, durationMs);
  return { pagesPerSec: perSecond(pages + (round > 1 ? zeroPages : 0)), dirtyPagesPerSec: perSecond(dirtyPages) };
}

/** After such a time something is in the way. */
const SILENT_MS = 1000;

export function progressOf(journal: Journal, way: Way, speed: Speed): Progress {
  const { phase, bytes, throttlePercent, totalPages, remainingPages } = journal;
  const known = lastKnown(journal);
  const measured = known && speedOf(known);
  const isBulk = journal.roundsDone === 0;
  const runs = phase !== "device" && phase !== "handover"; // else the guest stands still
  const waitsFor = whatFor(journal, way, speed, measured);
  // A stream that comes does not say what is still to come.
  const tells = way !== "keep" && totalPages > 0;
  const canTell = tells && (phase === "active" || phase === "device") && waitsFor === null;
  const left = {
    pages: remainingPages,
    pagesPerSec: isBulk ? speed.pagesPerSec : (measured?.pagesPerSec ?? 0),
    dirtyPagesPerSec: measured?.dirtyPagesPerSec ?? null,
    isBulk: isBulk || !runs,
  };
  return {
    phase,
    percent: tells ? Math.floor(((totalPages - remainingPages) / totalPages) * 100) : null,
    bytes,
    rateBytesPerSec: Math.round(speed.bytesPerSec),
    remainingBytes: tells ? remainingPages * TARGET_PAGE_BYTES : null,
    dirtyBytesPerSec: measured && runs ? Math.round(measured.dirtyPagesPerSec * PAGE_RECORD_BYTES) : null,
    expectedDowntimeMs: runs ? finite(journal.expectedDowntimeMs) : null,
    etaMs: canTell ? etaMs(left) : null,
    throttlePercent,
    elapsedMs: Math.round(journal.elapsedMs),
    waitsFor,
  };
}

const finite = (value: number | null): number | null => (Number.isFinite(value) ? value : null);

const SILENT_SIDE = { move: "target", send: "target", save: "disk", keep: "source" } as const;
const GREETED_SIDE = { move: "target", send: "target", save: null, keep: "source" } as const;
const LAST_SIDE = { move: "target", send: "target", save: "disk", keep: "disk" } as const;

function whatFor(journal: Journal, way: Way, { silentMs }: Speed, measured: RoundSpeed | null): WaitsFor | null {
  const { phase, stall, roundsDone } = journal;
  switch (phase) {
    case "none":
    case "waiting":
      return way === "save" ? null : "connection";
    case "cache":
      return "page-cache";
    case "setup":
      return GREETED_SIDE[way];
    case "held":
      return "hold";
    case "handover":
      return LAST_SIDE[way];
  }
  if (isOver(phase)) return null;
  if (journal.asksForFreePages) return "free-pages";
  if (silentMs >= SILENT_MS) return SILENT_SIDE[way];
  if (phase !== "active" || roundsDone === 0) return null;
  const isBehind = measured !== null && !converges(measured.pagesPerSec, measured.dirtyPagesPerSec);
  return stall || isBehind ? "guest-writes" : null;
}

/** The live line. Where there is no room, what a person misses least goes first. */
export function progressParts(progress: Progress, journal: Journal, way: Way): Part[] {
  const { percent, bytes, rateBytesPerSec, remainingBytes, dirtyBytesPerSec, throttlePercent, waitsFor } = progress;
  const begins = beginning(progress, journal, way);
  if (begins !== null) return [{ text: begins, rank: 0 }];
  const hasSource = way === "move" || way === "save";
  const parts: Part[] = [];
  const add = (rank: number, text: string | false | null, warns = false) => {
    if (text) parts.push({ text, rank, warns });
  };
  add(5, way === "send" && "sending");
  add(5, way === "keep" && "receiving");
  add(0, percent !== null && `${percent}%`);
  add(6, journal.roundsDone > 0 && `round ${journal.roundsDone + 1}`);
  add(way === "keep" ? 0 : 7, formatBytes(bytes));
  add(3, formatRate(rateBytesPerSec));
  add(2, remainingBytes !== null && `${formatBytes(remainingBytes)} left`);
  add(2, way === "keep" && `${formatCount(journal.sentPages + journal.zeroPages)} pages`);
  add(4, dirtyBytesPerSec !== null && waitsFor !== "guest-writes" && `dirty ${formatRate(dirtyBytesPerSec)}`);
  add(4, progress.expectedDowntimeMs !== null && `downtime ${formatMs(progress.expectedDowntimeMs)}`);
  add(3, throttlePercent > 0 && `throttled ${throttlePercent}%`);
  add(2, etaText(progress, hasSource));
  add(0, waitText(waitsFor, journal, progress), waitsFor === "guest-writes");
  return parts;
}

function etaText({ etaMs: ms, phase, percent }: Progress, hasSource: boolean): string | null {
  if (ms !== null) return `ETA ${formatEta(ms)}`;
  return hasSource && phase === "active" && percent !== null ? "ETA —" : null;
}

/** Before there is anything to count. */
function beginning({ phase, waitsFor }: Progress, { peer }: Journal, way: Way): string | null {
  if (waitsFor === "connection") return way === "keep" ? `waiting on ${peer}` : `connecting to ${peer}`;
  if (waitsFor === "page-cache") return "the guest gives up its page cache";
  if (waitsFor === "free-pages") return "asks the guest for its free pages";
  if (way === "save" && (phase === "none" || phase === "setup")) return `writing ${peer}`;
  if (phase === "setup") return `greeting ${peer}`;
  return null;
}

function waitText(waitsFor: WaitsFor | null, journal: Journal, { phase, dirtyBytesPerSec }: Progress): string | null {
  switch (waitsFor) {
    case null:
      return phase === "device" ? "switching over" : null;
    case "guest-writes":
      return `waits for the guest to write less${writesText(journal, dirtyBytesPerSec)}`;
    case "hold":
      return "held";
    case "connection":
    case "page-cache":
    case "free-pages":
      return null; // then there is nothing else to say
    default:
      return `waits for the ${waitsFor}`;
  }
}

function writesText(journal: Journal, dirtyBytesPerSec: number | null): string {
  const known = lastKnown(journal);
  if (!known || dirtyBytesPerSec === null) return "";
  const carried = Math.round(speedOf(known).pagesPerSec * PAGE_RECORD_BYTES);
  return `: dirty ${formatRate(dirtyBytesPerSec)} of ${formatRate(carried)}`;
}

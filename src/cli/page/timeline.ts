// The samples of a recording as lines over time.

import type { Journal } from "../../control/journal.ts";
import { TARGET_PAGE_BYTES } from "../../stream/wire.ts";
import type { Recording, Sample, SeenLimits, SeenRound } from "../recording.ts";
import type { Point, Span } from "./charts.ts";

export interface Timeline {
  endMs: number;
  /** Bytes a second. */
  rate: Point[];
  /** Bytes a second that the guest wrote, each page once a round. */
  dirty: Point[];
  /** Bytes a second; null where there was none. */
  maxBandwidth: Point[];
  /** Bytes. */
  remaining: Point[];
  /** Percent. */
  throttle: Point[];
  rounds: (Span & { round: number })[];
  stopped: Span | null;
}

/** Less says nothing of a rate: the journal is written this often inside a round. */
const RATE_MS_MIN = 50;
/** Under a limit pages leave in batches of a part of a second: where there is time enough, they are not to be seen. */
const SMOOTH_MS = 250;
const RATES = 60;

/** Null: there is no time to look at. */
export function timelineOf({ journal, samples, rounds, limits }: Recording): Timeline | null {
  const endMs = samples.at(-1)?.atMs ?? 0;
  if (!journal || endMs <= 0) return null;
  const begun = samples.findIndex(({ remainingPages }) => remainingPages > 0); // it greets before that
  const spans = rounds.map((one, i) => ({ round: one.round, ...spanOf(rounds, i) }));
  return {
    endMs,
    rate: rates(samples, endMs),
    dirty: dirtyRates(rounds, endMs),
    maxBandwidth: bandwidthLimits(limits, endMs),
    remaining: samples
      .slice(Math.max(0, begun))
      .map(({ atMs, remainingPages }) => [atMs, remainingPages * TARGET_PAGE_BYTES]),
    throttle: samples.map(({ atMs, throttlePercent }) => [atMs, throttlePercent]),
    rounds: spans.filter(({ fromMs, toMs }) => toMs > fromMs),
    stopped: stoppedOf(journal, endMs),
  };
}

/** From one look to a later one, each long enough. */
function rates(samples: readonly Sample[], endMs: number): Point[] {
  const stepMs = Math.max(RATE_MS_MIN, Math.min(SMOOTH_MS, endMs / 10), endMs / RATES);
  const found: Point[] = [];
  let from: Sample = { ...samples[0], atMs: 0, bytes: 0 };
  for (const sample of samples) {
    const ms = sample.atMs - from.atMs;
    if (ms < stepMs && sample !== samples.at(-1)) continue;
    const isRest = ms < stepMs / 2 && found.length > 0; // what is left of the time is too short for a rate of its own
    if (!isRest && ms > 0) found.push([from.atMs, ((sample.bytes - from.bytes) * 1000) / ms]);
    from = sample;
  }
  return held(found, endMs);
}

/** A round ends where it was seen to; it began where the one before it did, if that is known. */
function spanOf(rounds: readonly SeenRound[], i: number): Span {
  const { endMs: toMs, durationMs, round } = rounds[i];
  const before = rounds[i - 1];
  return { fromMs: before?.round === round - 1 ? before.endMs : Math.max(0, toMs - durationMs), toMs };
}

/** Rounds that were seen to end at the same moment count as one. */
function dirtyRates(rounds: readonly SeenRound[], endMs: number): Point[] {
  const found: Point[] = [];
  let pages = 0;
  let fromMs: number | null = null;
  for (const [i, round] of rounds.entries()) {
    const span = spanOf(rounds, i);
    if (fromMs === null && i > 0 && rounds[i - 1].round !== round.round - 1) found.push([rounds[i - 1].endMs, null]); // not known
    fromMs ??= span.fromMs;
    pages += round.dirtyPages;
    if (span.toMs <= fromMs) continue;
    found.push([fromMs, (pages * TARGET_PAGE_BYTES * 1000) / (span.toMs - fromMs)]);
    pages = 0;
    fromMs = null;
  }
  const last = rounds.at(-1);
  if (last && last.endMs < endMs && found.length) found.push([last.endMs, null]); // nobody counts any more
  return last && last.endMs >= endMs ? held(found, endMs) : found;
}

/** The last value holds to the end. */
function held(points: Point[], endMs: number): Point[] {
  const last = points.at(-1);
  return last ? [...points, [endMs, last[1]]] : points;
}

const bandwidthLimits = (limits: readonly SeenLimits[], endMs: number): Point[] =>
  limits.some(({ limits: { maxBandwidthBytesPerSec } }) => maxBandwidthBytesPerSec > 0)
    ? held(
        limits.map(({ atMs, limits: { maxBandwidthBytesPerSec } }) => [atMs, maxBandwidthBytesPerSec || null]),
        endMs,
      )
    : [];

/** The trace counts from when the job was taken up; the journal's time from when nobody was waited for any more. */
export function moveBeganMs({ trace }: Journal): number {
  const last = trace.findLastIndex(({ phase }) => phase === "waiting" || phase === "cache");
  return last < 0 ? 0 : (trace[last + 1]?.atMs ?? trace[last].atMs);
}

function stoppedOf(journal: Journal, endMs: number): Span | null {
  if (journal.direction === "incoming") return null; // what comes does not say so
  const device = journal.trace.find(({ phase }) => phase === "device");
  if (!device) return null;
  const { stopCpus = 0, overdueRounds = 0 } = journal.downtimePartsMs;
  const fromMs = Math.max(0, device.atMs - moveBeganMs(journal) - stopCpus - overdueRounds);
  const toMs = journal.downtimeMs === null ? endMs : fromMs + journal.downtimeMs;
  return fromMs < endMs ? { fromMs, toMs: Math.min(endMs, toMs) } : null;
}

// When to stop the guest, and whether that will ever be: pure functions of what was measured.
import type { Round } from "./journal.ts";
import type { Limits } from "./limits.ts";

export interface RoundStats {
  /** Pages written since their last copy was sent. */
  remainingPages: number;
  /** Sent, and not arrived yet: it comes before them. */
  unsentBytes: number;
  /** What has really arrived lately, headers included. */
  bandwidthBytesPerSec: number;
  /** Rounds finished. */
  rounds: number;
}

/** A page and its word in the plain stream. */
export const PAGE_RECORD_BYTES = 4096 + 8;

/** How long it would take until the last page has arrived if the guest stopped now. */
export function expectedDowntimeMs({ remainingPages, unsentBytes, bandwidthBytesPerSec }: RoundStats): number {
  const bytes = remainingPages * PAGE_RECORD_BYTES + unsentBytes;
  if (bytes === 0) return 0;
  return bandwidthBytesPerSec > 0 ? (bytes * 1000) / bandwidthBytesPerSec : Number.POSITIVE_INFINITY;
}

/** The part of a downtime that pages may take: stopping, device state and the hand-over have theirs. */
const PAGES_SHARE = 0.9;

/**
 * "continue": send another round beside the running guest. "switch-over": stop it and send the rest, because
 * 1. the bulk pass is done, and
 * 2. what remains fits the downtime limit at the measured bandwidth.
 */
export function verdict(stats: RoundStats, limits: Pick<Limits, "maxDowntimeMs">): "continue" | "switch-over" {
  if (stats.rounds < 1) return "continue";
  return expectedDowntimeMs(stats) <= limits.maxDowntimeMs * PAGES_SHARE ? "switch-over" : "continue";
}

/** The move does not come nearer to its end. */
export interface Stall {
  /** The first round that brought nothing. */
  sinceRound: number;
  /** What each round leaves. */
  leftBytes: number;
  /** At least: what is written twice in a round counts once. */
  dirtyBytesPerSec: number;
  bandwidthBytesPerSec: number;
  /** What would change that, and the value that should do. */
  remedy:
    | { knob: "max-bandwidth"; bytesPerSec: number }
    | { knob: "max-downtime"; ms: number }
    | { knob: "on-timeout"; value: "throttle" };
}

/** So many rounds without less to send are no accident. */
const STALL_ROUNDS = 3;
/** Than any of so many before; what was long ago says nothing of what the guest does now. */
const STALL_BEFORE = 5;
/** What counts as less. */
const LESS = 0.9;
/** A downtime that a person may want to grant; beyond it slowing the guest down is the better offer. */
const DOWNTIME_OFFER_MAX_MS = 2000;
/** Between what was measured and what will be. */
const MARGIN = 1.2;
/** The limit is what holds a move up, if this much of it is used. */
const AT_LIMIT = 0.8;

/** Null: it does come nearer, or it is too early to tell. `rounds`: those that were finished, with the pages that each left. */
export function stall(rounds: readonly Round[], limits: Limits): Stall | null {
  const last = rounds.at(-1);
  // The bulk pass says nothing: what it leaves is what the guest wrote all the while.
  const repeated = rounds.filter(({ round }) => round > 1);
  const recent = repeated.slice(-STALL_ROUNDS);
  if (!last || recent.length < STALL_ROUNDS) return null;
  // What rounds leave goes up and down where the writer and the sender meet: only a new least is nearer.
  const before = [rounds[0], ...repeated].slice(-STALL_ROUNDS - STALL_BEFORE, -STALL_ROUNDS);
  const least = Math.min(...before.map(({ dirtyPages }) => dirtyPages));
  if (recent.some(({ dirtyPages }) => dirtyPages < least * LESS)) return null;
  const bandwidthBytesPerSec = perSecond(last.bytes, last.durationMs);
  const dirtyBytesPerSec = perSecond(last.dirtyPages * PAGE_RECORD_BYTES, last.durationMs);
  const stats = { remainingPages: last.dirtyPages, bandwidthBytesPerSec, rounds: last.round, unsentBytes: 0 };
  const neededMs = Math.ceil((expectedDowntimeMs(stats) * MARGIN) / PAGES_SHARE);
  if (neededMs <= limits.maxDowntimeMs) return null;
  const limit = limits.maxBandwidthBytesPerSec;
  const leftBytes = last.dirtyPages * PAGE_RECORD_BYTES;
  const remedy: Stall["remedy"] =
    limit > 0 && bandwidthBytesPerSec >= limit * AT_LIMIT && limits.maxDowntimeMs > 0
      ? {
          knob: "max-bandwidth",
          bytesPerSec: Math.ceil((leftBytes * 1000 * MARGIN) / (limits.maxDowntimeMs * PAGES_SHARE)),
        }
      : neededMs <= DOWNTIME_OFFER_MAX_MS
        ? { knob: "max-downtime", ms: neededMs }
        : { knob: "on-timeout", value: "throttle" };
  return { sinceRound: recent[0].round, leftBytes, dirtyBytesPerSec, bandwidthBytesPerSec, remedy };
}

const perSecond = (amount: number, ms: number): number => Math.round((amount * 1000) / Math.max(1, ms));

// When to stop the guest: a pure function of what was measured.

export interface RoundStats {
  /** Pages written since their last copy was sent. */
  remainingPages: number;
  /** What was really sent lately, headers included. */
  bandwidthBytesPerSec: number;
  /** Rounds finished. */
  rounds: number;
}

export interface Limits {
  maxDowntimeMs: number;
}

/** A page and its word in the plain stream. */
export const PAGE_RECORD_BYTES = 4096 + 8;

/** How long the last round would take if the guest stopped now. */
export function expectedDowntimeMs(stats: RoundStats): number {
  if (stats.remainingPages === 0) return 0;
  if (stats.bandwidthBytesPerSec <= 0) return Number.POSITIVE_INFINITY;
  return (stats.remainingPages * PAGE_RECORD_BYTES * 1000) / stats.bandwidthBytesPerSec;
}

/**
 * "continue": send another round beside the running guest. "switch-over": stop it and send the rest, because
 * 1. the bulk pass is done, and
 * 2. what remains fits the downtime limit at the measured bandwidth.
 */
export function verdict(stats: RoundStats, limits: Limits): "continue" | "switch-over" {
  if (stats.rounds < 1) return "continue";
  return expectedDowntimeMs(stats) <= limits.maxDowntimeMs ? "switch-over" : "continue";
}

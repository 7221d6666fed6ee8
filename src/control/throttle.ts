// How a guest is slowed down that writes faster than its pages can be carried: a pure function of what was measured. Each vCPU runs
// for a while and then rests.

const FIRST_PERCENT = 20;
const STEP_PERCENT = 10;
export const THROTTLE_PERCENT_MAX = 99;
/** Between two rests; short enough that timers of the guest are not missed. */
export const THROTTLE_RUN_MS = 10;

/** The share of time that the vCPUs rest in the next round, when so many pages were left behind this one, and behind the one before. */
export function nextThrottle(percent: number, remainingPages: number, remainingBefore: number): number {
  if (percent === 0) return FIRST_PERCENT;
  // A round that leaves less than half of what the one before left is on its way.
  if (remainingPages * 2 <= remainingBefore) return percent;
  return Math.min(percent + STEP_PERCENT, THROTTLE_PERCENT_MAX);
}

/** How long a vCPU rests behind `ranMs` of running. */
export const restMs = (percent: number, ranMs: number): number => (ranMs * percent) / (100 - percent);

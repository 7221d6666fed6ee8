// How evenly a walker goes on, from looks at it: a pure function. What a move costs its guest is seen here, stalls above all.

/** Looks at a walker, in pairs: milliseconds of one clock, and pages written so far. */
export type PaceSamples = Float64Array;

export interface Pace {
  forMs: number;
  /** Pages written. */
  steps: number;
  /** In each millisecond: so many or fewer in 1, 50 and 99 percent of them, and the most. */
  stepsPerMs: { p1: number; p50: number; p99: number; max: number };
  /** The longest time without a step, at most, and when it began, from the first look on. */
  stallMs: number;
  stallAtMs: number;
}

export function paceOf(samples: PaceSamples): Pace {
  const looks = samples.length / 2;
  const timeAt = (i: number) => samples[2 * i];
  const stepsAt = (i: number) => samples[2 * i + 1];
  const rates: number[] = [];
  let [stallMs, stallAtMs, sinceMs] = [0, 0, timeAt(0)];
  for (let i = 1; i < looks; i++) {
    const steps = stepsAt(i) - stepsAt(i - 1);
    rates.push(steps / Math.max(1e-3, timeAt(i) - timeAt(i - 1)));
    if (timeAt(i) - sinceMs > stallMs) [stallMs, stallAtMs] = [timeAt(i) - sinceMs, sinceMs - timeAt(0)];
    if (steps > 0) sinceMs = timeAt(i);
  }
  rates.sort((a, b) => a - b);
  const quantile = (share: number) => rates[Math.min(rates.length - 1, Math.floor(share * rates.length))] ?? 0;
  return {
    forMs: looks > 0 ? timeAt(looks - 1) - timeAt(0) : 0,
    steps: looks > 0 ? stepsAt(looks - 1) - stepsAt(0) : 0,
    stepsPerMs: { p1: quantile(0.01), p50: quantile(0.5), p99: quantile(0.99), max: rates.at(-1) ?? 0 },
    stallMs,
    stallAtMs,
  };
}

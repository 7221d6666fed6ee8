import { describe, expect, test } from "bun:test";
import { expectedDowntimeMs, PAGE_RECORD_BYTES, stall, verdict } from "../../src/control/convergence.ts";
import type { Round } from "../../src/control/journal.ts";
import { DEFAULT_LIMITS } from "../../src/control/limits.ts";
import { nextThrottle, restMs, THROTTLE_PERCENT_MAX } from "../../src/control/throttle.ts";

/** Sends one page record a millisecond. */
const PAGE_A_MS = PAGE_RECORD_BYTES * 1000;

describe("the expected downtime", () => {
  test.each([
    { remainingPages: 0, bandwidthBytesPerSec: 0, ms: 0, why: "nothing is left, whatever the channel" },
    { remainingPages: 0, bandwidthBytesPerSec: PAGE_A_MS, ms: 0, why: "nothing is left" },
    { remainingPages: 1, bandwidthBytesPerSec: 0, ms: Number.POSITIVE_INFINITY, why: "nothing moves" },
    { remainingPages: 1, bandwidthBytesPerSec: -1, ms: Number.POSITIVE_INFINITY, why: "nothing was measured" },
    { remainingPages: 1, bandwidthBytesPerSec: PAGE_A_MS, ms: 1, why: "one page takes one millisecond" },
    { remainingPages: 300, bandwidthBytesPerSec: PAGE_A_MS, ms: 300, why: "and 300 take 300" },
    { remainingPages: 300, bandwidthBytesPerSec: 2 * PAGE_A_MS, ms: 150, why: "at twice the rate half as long" },
    {
      remainingPages: 3,
      unsentBytes: PAGE_RECORD_BYTES,
      bandwidthBytesPerSec: PAGE_A_MS,
      ms: 4,
      why: "behind what is sent",
    },
    { remainingPages: 0, unsentBytes: 1, bandwidthBytesPerSec: 1000, ms: 1, why: "which has to arrive, too" },
  ])("of $remainingPages pages at $bandwidthBytesPerSec bytes/s is $ms ms: $why", ({ ms, why: _, ...measured }) => {
    expect(expectedDowntimeMs({ unsentBytes: 0, ...measured, rounds: 1 })).toBeCloseTo(ms, 9);
  });
});

describe("the verdict", () => {
  test.each([
    { rounds: 0, remainingPages: 0, maxDowntimeMs: 300, verdict: "continue", why: "before the bulk pass never" },
    { rounds: 0, remainingPages: 1, maxDowntimeMs: 1e9, verdict: "continue", why: "whatever the limit" },
    { rounds: 1, remainingPages: 0, maxDowntimeMs: 0, verdict: "switch-over", why: "nothing fits into no time" },
    { rounds: 1, remainingPages: 1, maxDowntimeMs: 0, verdict: "continue", why: "a page does not" },
    { rounds: 1, remainingPages: 269, maxDowntimeMs: 300, verdict: "switch-over", why: "below the limit" },
    { rounds: 1, remainingPages: 270, maxDowntimeMs: 300, verdict: "switch-over", why: "a tenth is for all else" },
    { rounds: 1, remainingPages: 271, maxDowntimeMs: 300, verdict: "continue", why: "above that" },
    { rounds: 50, remainingPages: 271, maxDowntimeMs: 300, verdict: "continue", why: "patience changes nothing" },
  ])(
    "after $rounds rounds with $remainingPages pages at one a ms, limit $maxDowntimeMs ms, is to $verdict: $why",
    (row) => {
      const stats = {
        remainingPages: row.remainingPages,
        bandwidthBytesPerSec: PAGE_A_MS,
        rounds: row.rounds,
        unsentBytes: 0,
      };
      expect<string>(verdict(stats, { maxDowntimeMs: row.maxDowntimeMs })).toBe(row.verdict);
    },
  );

  test("is to go on while no bandwidth was measured", () => {
    const stats = { remainingPages: 1, bandwidthBytesPerSec: 0, rounds: 3, unsentBytes: 0 };
    expect(verdict(stats, { maxDowntimeMs: 1e12 })).toBe("continue");
  });
});

/** Rounds that leave so many pages each, a page a millisecond. */
const roundsLeaving = (...dirtyPages: number[]): Round[] =>
  dirtyPages.map((left, i) => {
    const pages = i === 0 ? 100_000 : dirtyPages[i - 1];
    return { round: i + 1, pages, zeroPages: 0, bytes: pages * PAGE_RECORD_BYTES, durationMs: pages, dirtyPages: left };
  });

describe("a move that does not converge", () => {
  test.each([
    { left: [5000, 5000, 5000], why: "two rounds are not enough to tell", found: null },
    { left: [5000, 5000, 5000, 5000], why: "three are", found: 2 },
    { left: [5000, 5100, 4900, 5200], why: "noise is no progress", found: 2 },
    { left: [5000, 2500, 2500, 2500], why: "one of the three brought something", found: null },
    { left: [5000, 2500, 2500, 2500, 2500], why: "it was not among the last three", found: 3 },
    { left: [5000, 4000, 8000, 4500, 7000, 3900], why: "up and down is no nearer", found: 4 },
    { left: [5000, 900, 900, 900, 900, 900, 900, 9000, 4500, 2200], why: "it was less a while ago", found: 8 },
    { left: [500, 400, 9000, 9000, 9000, 9000, 9000, 6000, 4500, 2200], why: "that was too long ago", found: null },
    { left: [5000, 4000, 3200, 2560, 2048, 1638], why: "slowly is still nearer", found: null },
    { left: [100_000, 90_000, 81_000, 72_900], why: "a tenth less each time is nearer", found: null },
    { left: [200, 200, 200, 200], why: "what is left fits the limit", found: null },
    { left: [0, 0, 0, 0], why: "nothing is left", found: null },
  ])("after $left: since round $found, because $why", ({ left, found }) => {
    expect(stall(roundsLeaving(...left), DEFAULT_LIMITS)?.sinceRound ?? null).toBe(found);
  });

  test.each([
    { name: "a little too much for the downtime", left: 1500, limit: 0, knob: "max-downtime" },
    { name: "far too much", left: 50_000, limit: 0, knob: "on-timeout" },
    { name: "the user's own limit", left: 50_000, limit: PAGE_A_MS, knob: "max-bandwidth" },
    { name: "a limit that is not what holds it up", left: 50_000, limit: 10 * PAGE_A_MS, knob: "on-timeout" },
  ])("names what would help: $name is helped by $knob", ({ left, limit, knob }) => {
    const found = stall(roundsLeaving(left, left, left, left), { ...DEFAULT_LIMITS, maxBandwidthBytesPerSec: limit });
    expect(found?.remedy.knob).toBe(knob as "max-downtime");
  });

  test("ends with the bandwidth that was named, even if every round leaves as much again", () => {
    const rounds = roundsLeaving(50_000, 50_000, 50_000, 50_000);
    const found = stall(rounds, { ...DEFAULT_LIMITS, maxBandwidthBytesPerSec: PAGE_A_MS });
    if (found?.remedy.knob !== "max-bandwidth") throw new Error("another remedy");
    const stats = { remainingPages: 50_000, bandwidthBytesPerSec: found.remedy.bytesPerSec, rounds: 4, unsentBytes: 0 };
    expect(verdict(stats, DEFAULT_LIMITS)).toBe("switch-over");
  });

  test("ends with the downtime that was named", () => {
    const rounds = roundsLeaving(1500, 1500, 1500, 1500);
    const found = stall(rounds, DEFAULT_LIMITS);
    if (found?.remedy.knob !== "max-downtime") throw new Error("another remedy");
    const stats = { remainingPages: 1500, bandwidthBytesPerSec: found.bandwidthBytesPerSec, rounds: 4, unsentBytes: 0 };
    expect(verdict(stats, { maxDowntimeMs: found.remedy.ms })).toBe("switch-over");
    expect(stall(rounds, { ...DEFAULT_LIMITS, maxDowntimeMs: found.remedy.ms })).toBeNull();
  });
});

describe("the throttle", () => {
  test.each([
    { percent: 0, remaining: 1000, before: 1000, next: 20, why: "it begins gently" },
    { percent: 20, remaining: 1000, before: 1000, next: 30, why: "nothing was won" },
    { percent: 20, remaining: 501, before: 1000, next: 30, why: "less than half was won" },
    { percent: 20, remaining: 500, before: 1000, next: 20, why: "half of it is on the way" },
    { percent: 90, remaining: 1000, before: 1000, next: 99, why: "never all of the time" },
    { percent: 99, remaining: 1000, before: 1000, next: 99, why: "and no more than that" },
  ])("goes from $percent to $next %: $why", ({ percent, remaining, before, next }) => {
    expect(nextThrottle(percent, remaining, before)).toBe(next);
  });

  test.each([0, 20, 50, 75, THROTTLE_PERCENT_MAX])("at %d %% takes that share of the time", (percent) => {
    const rest = restMs(percent, 10);
    expect((rest / (rest + 10)) * 100).toBeCloseTo(percent, 9);
  });
});

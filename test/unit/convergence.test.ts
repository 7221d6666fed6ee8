import { describe, expect, test } from "bun:test";
import { expectedDowntimeMs, PAGE_RECORD_BYTES, verdict } from "../../src/control/convergence.ts";

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
  ])("of $remainingPages pages at $bandwidthBytesPerSec bytes/s is $ms ms: $why", ({ ms, why: _, ...measured }) => {
    expect(expectedDowntimeMs({ ...measured, rounds: 1 })).toBeCloseTo(ms, 9);
  });
});

describe("the verdict", () => {
  test.each([
    { rounds: 0, remainingPages: 0, maxDowntimeMs: 300, verdict: "continue", why: "before the bulk pass never" },
    { rounds: 0, remainingPages: 1, maxDowntimeMs: 1e9, verdict: "continue", why: "whatever the limit" },
    { rounds: 1, remainingPages: 0, maxDowntimeMs: 0, verdict: "switch-over", why: "nothing fits into no time" },
    { rounds: 1, remainingPages: 1, maxDowntimeMs: 0, verdict: "continue", why: "a page does not" },
    { rounds: 1, remainingPages: 299, maxDowntimeMs: 300, verdict: "switch-over", why: "below the limit" },
    { rounds: 1, remainingPages: 300, maxDowntimeMs: 300, verdict: "switch-over", why: "at the limit" },
    { rounds: 1, remainingPages: 301, maxDowntimeMs: 300, verdict: "continue", why: "above the limit" },
    { rounds: 50, remainingPages: 301, maxDowntimeMs: 300, verdict: "continue", why: "patience changes nothing" },
  ])(
    "after $rounds rounds with $remainingPages pages at one a ms, limit $maxDowntimeMs ms, is to $verdict: $why",
    (row) => {
      const stats = { remainingPages: row.remainingPages, bandwidthBytesPerSec: PAGE_A_MS, rounds: row.rounds };
      expect<string>(verdict(stats, { maxDowntimeMs: row.maxDowntimeMs })).toBe(row.verdict);
    },
  );

  test("is to go on while no bandwidth was measured", () => {
    const stats = { remainingPages: 1, bandwidthBytesPerSec: 0, rounds: 3 };
    expect(verdict(stats, { maxDowntimeMs: 1e12 })).toBe("continue");
  });
});

import { describe, expect, test } from "bun:test";
import { PAGE_RECORD_BYTES } from "../../src/control/convergence.ts";
import { DEFAULT_LIMITS } from "../../src/control/limits.ts";
import { type DirtyRate, forecast, pagesWritten } from "../../src/control/measure.ts";

/** Sends one page record a millisecond. */
const PAGE_A_MS = PAGE_RECORD_BYTES * 1000;
const rate = (...written: [ms: number, pages: number][]): DirtyRate => ({
  totalPages: 10_000,
  contentPages: 10_000,
  written: written.map(([ms, pages]) => ({ ms, pages })),
});

describe("pages written in a time", () => {
  test.each([
    { ms: 0, pages: 0, why: "nothing at once" },
    { ms: 50, pages: 100, why: "between the beginning and the first point" },
    { ms: 100, pages: 200, why: "as measured" },
    { ms: 150, pages: 250, why: "between two points" },
    { ms: 200, pages: 300, why: "as measured, last" },
    { ms: 400, pages: 500, why: "on as it went last" },
    { ms: 1e9, pages: 10_000, why: "never more than there are" },
  ])("$ms ms: $pages, $why", ({ ms, pages }) => {
    expect(pagesWritten(rate([100, 200], [200, 300]), ms)).toBe(pages);
  });
});

describe("a forecast", () => {
  test("of a guest that writes nothing is one round, and no downtime", () => {
    const found = forecast(rate([1000, 0]), 5000, PAGE_A_MS, DEFAULT_LIMITS);
    expect(found).toMatchObject({ converges: true, rounds: 2, elapsedMs: 5000, downtimeMs: 0, stall: null });
    expect(found.bytes).toBe(5000 * PAGE_RECORD_BYTES);
  });

  test("of a guest that writes half as fast as it is carried ends with what fits", () => {
    // 5000, 2500, 1250, 625, 313: the next one fits 300 ms.
    const found = forecast(rate([1000, 500]), 5000, PAGE_A_MS, DEFAULT_LIMITS);
    expect(found).toMatchObject({ converges: true, rounds: 6, stall: null });
    expect(found.downtimeMs).toBeCloseTo(157, 0);
    expect(found.elapsedMs).toBeCloseTo(5000 + 2500 + 1250 + 625 + 313 + 157, -1);
  });

  test("of a guest that writes a small working set fast ends with that", () => {
    const found = forecast(rate([10, 200], [1000, 200]), 5000, PAGE_A_MS, DEFAULT_LIMITS);
    expect(found).toMatchObject({ converges: true, rounds: 2, downtimeMs: 200 });
  });

  test("of one that writes faster than it is carried does not end, and says what would help", () => {
    const found = forecast(rate([1000, 3000]), 5000, PAGE_A_MS, DEFAULT_LIMITS);
    expect(found).toMatchObject({ converges: false, downtimeMs: null, stall: { remedy: { knob: "on-timeout" } } });
    const limited = { ...DEFAULT_LIMITS, maxBandwidthBytesPerSec: PAGE_A_MS };
    expect(forecast(rate([1000, 3000]), 5000, 1e12, limited).stall?.remedy.knob).toBe("max-bandwidth");
  });

  test("is bounded", () => {
    const found = forecast(rate([1000, 899]), 10_000, PAGE_A_MS, { ...DEFAULT_LIMITS, maxDowntimeMs: 0 });
    expect(found.rounds).toBeLessThanOrEqual(51);
  });
});

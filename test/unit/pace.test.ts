import { describe, expect, test } from "bun:test";
import { paceOf } from "../../src/control/pace.ts";

/** One look each millisecond, from 5000 on. */
const looks = (steps: number[]) => Float64Array.from(steps.flatMap((count, i) => [5000 + i, count]));

describe("a walker's pace", () => {
  test("is so many steps in each millisecond", () => {
    const even = paceOf(looks(Array.from({ length: 101 }, (_, i) => 7 + 30 * i)));
    expect(even).toEqual({
      forMs: 100,
      steps: 3000,
      stepsPerMs: { p1: 30, p50: 30, p99: 30, max: 30 },
      stallMs: 1,
      stallAtMs: 0,
    });
  });

  test("has its longest stall, from the last step before it to the first one after", () => {
    const steps = [0, 10, 20, 20, 20, 30, 30, 30, 30, 40, 50];
    expect(paceOf(looks(steps))).toMatchObject({ forMs: 10, steps: 50, stallMs: 4, stallAtMs: 5 });
  });

  test("that ends in a stall has that one, too", () => {
    expect(paceOf(looks([0, 10, 20, 20, 20, 20]))).toMatchObject({ stallMs: 3, stallAtMs: 2 });
  });

  test("that was looked at late is no stall, and no faster", () => {
    const samples = Float64Array.from([0, 0, 1, 10, 21, 210, 22, 220]);
    expect(paceOf(samples)).toMatchObject({ stepsPerMs: { p50: 10, max: 10 }, stallMs: 20 });
  });

  test.each([[[]], [[5]]])("of %p looks is nothing", (steps) => {
    expect(paceOf(looks(steps))).toMatchObject({ forMs: 0, steps: 0, stallMs: 0 });
  });
});

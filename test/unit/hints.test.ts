// Whether to wait for what a guest says of its free pages.
import { describe, expect, test } from "bun:test";
import { mustWait } from "../../src/control/hints.ts";

/** Of a guest: whether it has begun, and ended; how long it was asked, and silent; whether its answer is worth waiting for. */
const ROWS: [string, boolean, boolean, number, number, boolean][] = [
  ["was just asked", false, false, 0, 0, true],
  ["has not begun for a while", false, false, 49, 49, true],
  ["does not begin", false, false, 50, 50, false],
  ["does not begin, whatever it said before", false, false, 50, 0, false],
  ["has begun, and says nothing for a while", true, false, 260, 199, true],
  ["has begun, and says no more", true, false, 260, 200, false],
  ["has much to say", true, false, 999, 0, true],
  ["has too much to say", true, false, 1000, 0, false],
  ["has ended at once", true, true, 0, 0, false],
  ["has ended", true, true, 500, 0, false],
  ["has ended without a beginning", false, true, 0, 0, false],
];

describe("a guest that was asked for its free pages", () => {
  test.each(ROWS)("and %s", (_, hasBegun, hasEnded, waitedMs, silentMs, waits) => {
    for (const pages of [0, 1, 1 << 30])
      expect(mustWait({ hasBegun, hasEnded, pages }, waitedMs, silentMs)).toBe(waits);
  });

  test("costs its move a second at most, whatever it says and when", () => {
    for (const hasBegun of [false, true])
      for (const hasEnded of [false, true])
        for (const silentMs of [0, 25, 1000])
          expect(mustWait({ hasBegun, hasEnded, pages: 0 }, 1000, silentMs)).toBe(false);
  });
});

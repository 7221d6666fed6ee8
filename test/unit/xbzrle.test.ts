import { describe, expect, test } from "bun:test";
import { applyXbzrle } from "../../src/stream/xbzrle.ts";
import { byteOf, errorOf } from "../support/errors.ts";
import { seeded } from "../support/golden.ts";

const PAGE = 4096;
const uleb = (value: number): number[] => (value < 0x80 ? [value] : [(value & 0x7f) | 0x80, value >> 7]);
const run = (unchanged: number, bytes: readonly number[]): number[] => [
  ...uleb(unchanged),
  ...uleb(bytes.length),
  ...bytes,
];

function applied(delta: readonly number[], page = new Uint8Array(PAGE)): Uint8Array {
  applyXbzrle(page, Uint8Array.from(delta), 1000);
  return page;
}

/** The plainest encoder there can be; null where nothing changed. */
function encode(before: Uint8Array, after: Uint8Array): number[] {
  const delta: number[] = [];
  for (let at = 0; at < PAGE; ) {
    let same = at;
    while (same < PAGE && before[same] === after[same]) same++;
    if (same === PAGE) break;
    let end = same;
    while (end < PAGE && before[end] !== after[end]) end++;
    delta.push(...run(same - at, [...after.subarray(same, end)]));
    at = end;
  }
  return delta;
}

describe("changes of a page", () => {
  test("10 01 45 sets byte 16 to 0x45", () => {
    const expected = new Uint8Array(PAGE);
    expected[16] = 0x45;
    expect(applied([0x10, 0x01, 0x45])).toEqual(expected);
  });

  test("overwrite, they are not combined with what was there", () => {
    expect(applied([0, 2, 0x0f, 0xff], new Uint8Array(PAGE).fill(0xaa)).subarray(0, 3)).toEqual(
      Uint8Array.of(0x0f, 0xff, 0xaa),
    );
  });

  test.each<[string, number[], [at: number, value: number][]]>([
    ["nothing at all", [], []],
    ["the first byte", run(0, [7]), [[0, 7]]],
    ["the last byte", run(PAGE - 1, [7]), [[PAGE - 1, 7]]],
    ["a byte behind a run of 127, which takes one byte", [0x7f, 1, 9], [[127, 9]]],
    ["a byte behind a run of 128, which takes two: low bits first", [0x80, 0x01, 1, 9], [[128, 9]]],
    ["a byte behind a run of 300", [0xac, 0x02, 1, 9], [[300, 9]]],
    ["a length in two bytes where one would do", [0x81, 0x00, 1, 9], [[1, 9]]],
    ["two runs side by side with one byte between", [...run(0, [1]), ...run(1, [2])], [[0, 1], [2, 2]]], // biome-ignore format: pairs
  ])("may be %s", (_, delta, set) => {
    const expected = new Uint8Array(PAGE);
    for (const [at, value] of set) expected[at] = value;
    expect(applied(delta)).toEqual(expected);
  });

  test("may be the whole page", () => {
    const all = Array.from({ length: PAGE }, (_, i) => (i * 7 + 1) & 0xff);
    expect(applied(run(0, all))).toEqual(Uint8Array.from(all));
  });

  test.each(Array.from({ length: 20 }, (_, i) => i + 1))("make the new page of the old one, seed %d", (seed) => {
    const random = seeded(seed);
    const before = Uint8Array.from({ length: PAGE }, () => random(256));
    const after = before.slice();
    for (let n = random(200); n > 0; n--) {
      const at = random(PAGE);
      for (let i = at; i < Math.min(PAGE, at + 1 + random(40)); i++) after[i] = random(256);
    }
    expect(applied(encode(before, after), before)).toEqual(after);
  });

  test.each<[string, number[], number]>([
    ["a run behind the page's end", run(PAGE, [1]), 1003],
    ["a run that crosses the page's end", run(PAGE - 1, [1, 2]), 1003],
    ["the longest run there can be", [0xff, 0x7f, 1, 1], 1003],
    ["a run of no changed bytes", [5, 0], 1002],
    ["fewer bytes than it says", [5, 3, 1, 2], 1002],
    ["a second run that follows at once", [...run(0, [1]), ...run(0, [2])], 1004],
    ["a length alone", [5], 1001],
    ["half a length", [0x80], 1001],
    ["half a second length", [1, 0x80], 1002],
    ["a length of three bytes", [0x80, 0x80, 0x01, 1, 1], 1002],
    ["runs whose sum is behind the page's end", [...run(4000, [1]), ...run(95, [1])], 1007],
  ])("with %s are refused there, and nothing behind the page is touched", (_, delta, where) => {
    const room = new Uint8Array(PAGE + 64);
    const error = errorOf(() => applied(delta, room.subarray(0, PAGE)));
    expect(error).toMatchObject({ code: "E_STREAM", message: "a changed page cannot be read" });
    expect(byteOf(error)).toBeGreaterThanOrEqual(1000);
    expect(Math.abs(byteOf(error) - where)).toBeLessThanOrEqual(1);
    expect(room.subarray(PAGE).every((byte) => byte === 0)).toBe(true);
  });

  test("never leave the page, whatever the bytes are", () => {
    const random = seeded(1);
    const room = new Uint8Array(PAGE + 64);
    let refused = 0;
    for (let n = 0; n < 2000; n++) {
      const delta = Array.from({ length: 1 + random(12) }, () => random(256));
      try {
        applied(delta, room.subarray(0, PAGE));
      } catch (error) {
        expect(error).toMatchObject({ code: "E_STREAM" });
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(1000);
    expect(room.subarray(PAGE).every((byte) => byte === 0)).toBe(true);
  });
});

// What c/look.c says of pages, held against entropies as a book computes them.
import { describe, expect, test } from "bun:test";
import { LOOK, Looks, lookAtChanges, ZERO_AFTER, ZERO_BEFORE } from "../../src/native/look.ts";
import { goldenRam, seeded } from "../support/golden.ts";

const PAGE = 4096;

function entropy(bytes: Uint8Array): { bits: number; different: number } {
  const met = new Map<number, number>();
  for (const byte of bytes) met.set(byte, (met.get(byte) ?? 0) + 1);
  let bits = 0;
  for (const times of met.values()) bits -= (times / bytes.length) * Math.log2(times / bytes.length);
  return { bits, different: met.size };
}

/** The bytes that count: 16 of each 64, at another place in each of four lines, and in each of four times four. */
function sample(page: Uint8Array): Uint8Array {
  const lines = Array.from({ length: 64 }, (_, line) => line * 64 + ((line + (line >> 2)) & 3) * 16);
  return Uint8Array.from(lines.flatMap((at) => [...page.subarray(at, at + 16)]));
}

function lookOf(page: Uint8Array): number {
  const looks = new Looks(1);
  looks.at(page, Uint32Array.of(0), Uint32Array.of(0), 1);
  return looks.bytes[0];
}
const bitsOf = (page: Uint8Array): number => (lookOf(page) - LOOK.data) / LOOK.perBit;

/** Pages of many kinds: few and many values, evenly and not, in runs and in tables. */
function pages(): Uint8Array[] {
  const random = seeded(11);
  const made = Array.from({ length: 200 }, (_, n) => {
    const page = new Uint8Array(PAGE);
    const values = 1 + random(256);
    const run = 1 + random(n % 3 === 0 ? 500 : 4);
    for (let at = 0; at < PAGE; at += run) page.fill(Math.min(random(values), random(values)), at, at + run);
    page[random(PAGE)] = 1; // none is zero
    return page;
  });
  const ram = goldenRam();
  for (let page = 1; page < 12; page++) if (page % 4) made.push(ram.slice(page * PAGE, (page + 1) * PAGE));
  return made;
}

describe("the look of a page", () => {
  test("is the entropy of its sample, and what a sample misses", () => {
    for (const [n, page] of pages().entries()) {
      const { bits, different } = entropy(sample(page));
      const expected = Math.min(8, bits + (different - 1) / (2 * 1024 * Math.LN2));
      expect({ n, off: Math.abs(bitsOf(page) - expected) < 0.6 / LOOK.perBit }).toEqual({ n, off: true });
    }
  });

  test("is close to the entropy of all its bytes where these are spread alike", () => {
    const random = seeded(5);
    for (let values = 1; values <= 256; values += 5) {
      const page = Uint8Array.from({ length: PAGE }, () => 1 + Math.min(254, random(values)));
      expect(Math.abs(bitsOf(page) - entropy(page).bits)).toBeLessThan(0.2);
    }
  });

  test("is that it is zero, and not that somebody has written one byte", () => {
    const page = new Uint8Array(PAGE);
    expect(lookOf(page)).toBe(LOOK.zero);
    for (const at of [0, 1, 2047, PAGE - 1]) {
      page.fill(0)[at] = 1;
      expect(lookOf(page)).toBeGreaterThanOrEqual(LOOK.data);
    }
  });

  test("is nothing before anybody has looked", () => {
    expect([...new Looks(3).bytes]).toEqual([LOOK.none, LOOK.none, LOOK.none]);
    expect(() => new Looks(3).at(new Uint8Array(PAGE), Uint32Array.of(3), Uint32Array.of(0), 1)).toThrow();
    expect(() => new Looks(3).at(new Uint8Array(PAGE), Uint32Array.of(2), Uint32Array.of(1), 1)).toThrow();
  });
});

test("changes are the bytes that differ, and which of the pages are zero", () => {
  const [a, b] = [new Uint8Array(5 * PAGE), new Uint8Array(5 * PAGE)];
  a.fill(3, PAGE, 2 * PAGE); // turned zero
  b.fill(3, 2 * PAGE, 3 * PAGE); // turned data
  a.fill(7, 3 * PAGE); // both
  b.fill(7, 3 * PAGE);
  for (const at of [0, 31, 32, PAGE - 1]) b[4 * PAGE + at] = 8;
  const changes = new Uint16Array(5);
  lookAtChanges(a, b, 5, changes);
  expect([...changes]).toEqual([ZERO_BEFORE | ZERO_AFTER, PAGE | ZERO_AFTER, PAGE | ZERO_BEFORE, 0, 4]);
  expect(() => lookAtChanges(a, b, 6, new Uint16Array(6))).toThrow();
});

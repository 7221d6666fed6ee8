import { describe, expect, test } from "bun:test";
import { Bitmap, countBits, popcount } from "../../src/memory/bitmap.ts";

type Random = (below: number) => number;

function seeded(seed: number): Random {
  let n = 0;
  return (below) => Number(Bun.hash.wyhash(`${n++}`, BigInt(seed)) % BigInt(below));
}

/** The same set, kept as plainly as can be. */
class NaiveSet {
  readonly pages = new Set<number>();

  /** What take promises: ascending pages of [from, end), at most `room` of them. */
  take(from: number, end: number, room: number): number[] {
    const taken = [...this.pages].sort((a, b) => a - b).filter((page) => page >= from && page < end);
    const some = taken.slice(0, room);
    for (const page of some) this.pages.delete(page);
    return some;
  }
}

function randomSet(pages: number, random: Random): { bitmap: Bitmap; naive: NaiveSet } {
  const bitmap = new Bitmap(pages);
  const naive = new NaiveSet();
  const density = 1 + random(4);
  for (let page = 0; page < pages; page++)
    if (random(density) === 0) {
      bitmap.add(page);
      naive.pages.add(page);
    }
  return { bitmap, naive };
}

const members = (bitmap: Bitmap): number[] =>
  Array.from({ length: bitmap.pages }, (_, i) => i).filter((page) => bitmap.has(page));
const sorted = (set: Set<number>): number[] => [...set].sort((a, b) => a - b);

describe("Bitmap", () => {
  test.each([0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 1000])(
    "of %d pages is whole 64-bit words, and full has just these",
    (pages) => {
      const bitmap = new Bitmap(pages);
      expect(bitmap.words.length % 2).toBe(0);
      expect(bitmap.words.length * 32).toBeGreaterThanOrEqual(pages);
      expect(bitmap.words.length * 32).toBeLessThan(pages + 64);
      expect(bitmap.count()).toBe(0);
      bitmap.fill();
      expect(bitmap.count()).toBe(pages);
      expect(members(bitmap)).toHaveLength(pages);
      expect(
        [...bitmap.words].map(
          (word, i) => (word & (pages - i * 32 >= 32 ? 0 : ~0 << Math.max(0, pages - i * 32))) >>> 0,
        ),
      ).toEqual(Array(bitmap.words.length).fill(0));
      bitmap.clear();
      expect(bitmap.count()).toBe(0);
    },
  );

  test.each([1, 2, 3, 4, 5])("has and counts what was added, and not what was removed, seed %d", (seed) => {
    const random = seeded(seed);
    const pages = 1 + random(400);
    const a = randomSet(pages, random);
    const b = randomSet(pages, random);
    expect(members(a.bitmap)).toEqual(sorted(a.naive.pages));
    expect(a.bitmap.count()).toBe(a.naive.pages.size);
    for (const page of b.naive.pages) a.bitmap.remove(page);
    expect(members(a.bitmap)).toEqual(sorted(new Set([...a.naive.pages].filter((page) => !b.naive.pages.has(page)))));
  });

  test("adds a page once", () => {
    const bitmap = new Bitmap(64);
    bitmap.add(31);
    bitmap.add(31);
    expect(bitmap.count()).toBe(1);
  });

  test.each(Array.from({ length: 40 }, (_, i) => i + 1))(
    "takes what a naive set gives, from anywhere, seed %d",
    (seed) => {
      const random = seeded(seed);
      const pages = 1 + random(300);
      const { bitmap, naive } = randomSet(pages, random);
      const from = random(pages + 1);
      const end = from + random(pages + 40);
      const into = new Uint32Array(1 + random(pages + 10));
      const { count, next } = bitmap.take(from, end, into);
      const expected = naive.take(from, end, into.length);
      expect([...into.subarray(0, count)]).toEqual(expected);
      expect(members(bitmap)).toEqual(sorted(naive.pages));
      // Nothing that was to be taken lies before the place to go on from.
      expect(next).toBeLessThanOrEqual(Math.max(end, from));
      expect([...naive.pages].filter((page) => page >= from && page < Math.min(next, end))).toEqual([]);
    },
  );

  test.each(Array.from({ length: 20 }, (_, i) => i + 1))(
    "gives all of a range in order when it is taken batch by batch, seed %d",
    (seed) => {
      const random = seeded(seed);
      const pages = 64 * (1 + random(8));
      const { bitmap, naive } = randomSet(pages, random);
      const first = 64 * random(pages / 64);
      const into = new Uint32Array(1 + random(20));
      const taken: number[] = [];
      for (let from = first; from < pages; ) {
        const { count, next } = bitmap.take(from, pages, into);
        if (count === 0) break;
        taken.push(...into.subarray(0, count));
        from = next;
      }
      expect(taken).toEqual(naive.take(first, pages, pages));
      expect(members(bitmap)).toEqual(sorted(naive.pages));
    },
  );

  test.each(Array.from({ length: 20 }, (_, i) => i + 1))(
    "adds and removes lists, and tells what was new and what was in it, seed %d",
    (seed) => {
      const random = seeded(seed);
      const pages = 1 + random(300);
      const { bitmap, naive } = randomSet(pages, random);
      const list = () => Uint32Array.from({ length: random(40) }, () => random(pages));
      for (let round = 0; round < 10; round++) {
        const [added, removed] = [list(), list()];
        const before = naive.pages.size;
        for (const page of added) naive.pages.add(page);
        expect(bitmap.addAll(added)).toBe(naive.pages.size - before);
        const were = [...removed].filter((page) => naive.pages.delete(page));
        const into = new Uint32Array(removed.length);
        expect([...into.subarray(0, bitmap.removeAll(removed, into))]).toEqual(were);
        expect(members(bitmap)).toEqual(sorted(naive.pages));
      }
    },
  );

  test.each(Array.from({ length: 20 }, (_, i) => i + 1))(
    "removes the words of another set, from anywhere, and tells what was in it, seed %d",
    (seed) => {
      const random = seeded(seed);
      const pages = 64 + random(400);
      const { bitmap, naive } = randomSet(pages, random);
      for (let round = 0; round < 10; round++) {
        const first = 32 * random(Math.ceil(pages / 32));
        const words = Uint32Array.from({ length: random(Math.ceil((pages - first) / 32) + 1) }, () => random(2 ** 32));
        const named = Array.from({ length: 32 * words.length }, (_, i) => i)
          .filter((i) => words[i >>> 5] & (1 << (i & 31)))
          .map((i) => first + i);
        const given = words.slice();
        const were = named.filter((page) => naive.pages.delete(page));
        expect(bitmap.removeWords(first, words)).toBe(were.length);
        expect(members(bitmap)).toEqual(sorted(naive.pages));
        expect(words).toEqual(given);
        for (let i = 0; i < 20; i++) {
          const page = random(pages);
          bitmap.add(page);
          naive.pages.add(page);
        }
      }
    },
  );

  test("has no pages but its own", () => {
    const bitmap = new Bitmap(100);
    bitmap.fill();
    expect(() => bitmap.addAll(Uint32Array.of(99, 100))).toThrow();
    expect(() => bitmap.removeAll(Uint32Array.of(0, 2 ** 32 - 1), new Uint32Array(2))).toThrow();
    expect(() => bitmap.removeAll(Uint32Array.of(0, 1), new Uint32Array(1))).toThrow();
    expect(bitmap.count()).toBe(100);
  });

  test("takes exactly [from, end) of a full set, for every two bounds up to 100", () => {
    const into = new Uint32Array(100);
    for (let from = 0; from <= 100; from++)
      for (let end = from; end <= 100; end++) {
        const bitmap = new Bitmap(100);
        bitmap.fill();
        const { count } = bitmap.take(from, end, into);
        const found = [count, into[0], into[Math.max(0, count - 1)], bitmap.count()];
        if (count > 0)
          expect([from, end, ...found]).toEqual([from, end, end - from, from, end - 1, 100 - (end - from)]);
        else expect([from, end, bitmap.count()]).toEqual([from, from, 100]);
      }
  });
});

describe("ranges of a Bitmap", () => {
  const PAGES = 200;
  /** Every two bounds around the borders of words. */
  const BOUNDS = [0, 1, 31, 32, 33, 63, 64, 65, 95, 96, 127, 128, 160, 191, 192, 199, 200];
  const RANGES = BOUNDS.flatMap((first) => BOUNDS.filter((end) => end >= first).map((end) => ({ first, pages: end - first }))); // biome-ignore format: one line

  test("are added whole, and nothing beside them", () => {
    for (const range of RANGES) {
      const bitmap = new Bitmap(PAGES);
      bitmap.addRange(range);
      const found = Array.from({ length: PAGES }, (_, page) => page).filter((page) => bitmap.has(page));
      expect(found).toEqual(Array.from({ length: range.pages }, (_, i) => range.first + i));
      expect(bitmap.count()).toBe(range.pages);
    }
  });

  test("have any page exactly where one of them is", () => {
    for (const page of BOUNDS.filter((bound) => bound < PAGES)) {
      const bitmap = new Bitmap(PAGES);
      bitmap.add(page);
      for (const range of RANGES)
        expect({ page, range, any: bitmap.hasAny(range) }).toEqual({
          page,
          range,
          any: page >= range.first && page < range.first + range.pages,
        });
    }
  });

  test("that are not in it are its gaps", () => {
    expect(new Bitmap(PAGES).gaps()).toEqual([{ first: 0, pages: PAGES }]);
    for (const range of RANGES) {
      const bitmap = new Bitmap(PAGES);
      bitmap.addRange(range);
      const end = range.first + range.pages;
      const gaps = [
        { first: 0, pages: range.first },
        { first: end, pages: PAGES - end },
      ];
      const expected = range.pages === 0 ? [{ first: 0, pages: PAGES }] : gaps.filter(({ pages }) => pages > 0);
      expect({ range, gaps: bitmap.gaps() }).toEqual({ range, gaps: expected });
    }
  });
});

describe("popcount", () => {
  test.each([
    [0, 0],
    [1, 1],
    [0x80000000, 1],
    [0xffffffff, 32],
    [-1, 32],
    [0x55555555, 16],
    [0x7fffffff, 31],
    [0xf0f0f0f0, 16],
  ])("of %d is %d", (word, bits) => {
    expect(popcount(word)).toBe(bits);
  });

  test("is the number of ones in 2000 random words, seed 77", () => {
    const random = seeded(77);
    for (let i = 0; i < 2000; i++) {
      const word = random(2 ** 32);
      expect([word, popcount(word)]).toEqual([word, word.toString(2).replaceAll("0", "").length]);
    }
  });
});

describe("countBits", () => {
  test("counts the words it is given and no others", () => {
    const words = new Uint32Array([1, 3, 7, 15]);
    expect(countBits(words, 0, 4)).toBe(10);
    expect(countBits(words, 1, 3)).toBe(5);
    expect(countBits(words, 2, 2)).toBe(0);
  });
});

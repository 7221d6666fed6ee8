// KVM's dirty log, with the kernel's part played here: what it is told to take back, and whether it would accept that.
import { toArrayBuffer } from "bun:ffi";
import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import { clearPages, DirtyLog } from "../../src/machine/dirty-log.ts";
import { Bitmap } from "../../src/memory/bitmap.ts";
import type { Slot } from "../../src/memory/block.ts";
import { symbols } from "../../src/native/symbols.ts";

const PAGE = 4096;
const VM = 42;
/** In pages; the upper one ends in the middle of a word. */
const LOW_PAGES = 256;
const HIGH_PAGES = 203;
const PAGES = LOW_PAGES + HIGH_PAGES;
const SLOTS: Slot[] = [
  { slot: 0, gpa: 0, offset: 0, bytes: LOW_PAGES * PAGE },
  { slot: 1, gpa: 2 ** 32, offset: LOW_PAGES * PAGE, bytes: HIGH_PAGES * PAGE },
];

/** Pages of the block that the log has, as the kernel would keep them. */
const logged = new Set<number>();
let calls = 0;

/** struct kvm_clear_dirty_log: slot, num_pages, first_page, bitmap. */
function clearDirtyLog(argument: Uint8Array): number {
  const view = new DataView(argument.buffer, argument.byteOffset, argument.byteLength);
  const slot = SLOTS[view.getUint32(0, true)];
  const pages = view.getUint32(4, true);
  const first = Number(view.getBigUint64(8, true));
  const slotPages = slot.bytes / PAGE;
  if (first % 64 !== 0) return -22;
  if (first > slotPages || pages > slotPages - first) return -22;
  if (pages % 64 !== 0 && pages !== slotPages - first) return -22;
  const words = new Uint32Array(
    toArrayBuffer(Number(view.getBigUint64(16, true)) as never, 0, Math.ceil(pages / 64) * 8),
  );
  const set = new Bitmap(pages);
  set.words.set(words.subarray(0, set.words.length));
  for (let page = 0; page < pages; page++) if (set.has(page)) logged.delete(slot.offset / PAGE + first + page);
  calls++;
  return 0;
}

/** struct kvm_dirty_log: slot, padding, bitmap. */
function getDirtyLog(argument: Uint8Array): number {
  const view = new DataView(argument.buffer, argument.byteOffset, argument.byteLength);
  const slot = SLOTS[view.getUint32(0, true)];
  const bytes = Math.ceil(slot.bytes / PAGE / 64) * 8;
  const words = new Uint32Array(toArrayBuffer(Number(view.getBigUint64(8, true)) as never, 0, bytes));
  words.fill(0);
  for (let page = 0; page < slot.bytes / PAGE; page++)
    if (logged.has(slot.offset / PAGE + page)) words[page >>> 5] |= 1 << (page & 31);
  return 0;
}

let kernel: ReturnType<typeof spyOn> | null = null;
beforeEach(() => {
  logged.clear();
  calls = 0;
  kernel = spyOn(symbols, "tram_ioctl").mockImplementation(((fd: number, request: number, argument: Uint8Array) => {
    expect(fd).toBe(VM);
    return (request & 0xff) === 0xc0 ? clearDirtyLog(argument) : getDirtyLog(argument);
  }) as typeof symbols.tram_ioctl);
});
afterEach(() => kernel?.mockRestore());

const BOUNDS = [0, 1, 31, 32, 63, 64, 65, 128, 200, 255, 256, 257, 300, 319, 320, 384, 448, 458, 459];
const RANGES = BOUNDS.flatMap((first) => BOUNDS.filter((end) => end > first).map((end) => ({ first, pages: end - first }))); // biome-ignore format: one line
const all = () => Array.from({ length: PAGES }, (_, page) => page);
const sorted = (set: Set<number>) => [...set].sort((a, b) => a - b);

describe("pages taken out of the log", () => {
  test("are just these, across slots and at their ends", () => {
    for (const range of RANGES) {
      for (const page of all()) logged.add(page);
      clearPages(VM, SLOTS, range);
      const left = all().filter((page) => page < range.first || page >= range.first + range.pages);
      expect({ range, left: sorted(logged) }).toEqual({ range, left });
    }
    expect(calls).toBeGreaterThan(RANGES.length); // some are of two slots
  });

  test("of no pages are none", () => {
    for (const first of BOUNDS) clearPages(VM, SLOTS, { first, pages: 0 });
    expect(calls).toBe(0);
  });
});

describe("a log that can be taken back", () => {
  /** What a piece of the bulk pass takes back: multiples of 64 pages, or to the end. */
  const PIECES = [
    { first: 0, pages: PAGES },
    { first: 0, pages: 64 },
    { first: 64, pages: 128 },
    { first: 192, pages: 128 }, // of both slots
    { first: 256, pages: 64 },
    { first: 384, pages: PAGES - 384 },
  ];
  const EXCEPT: [string, (page: number) => boolean][] = [
    ["nothing", () => false],
    ["all", () => true],
    ["every third page", (page) => page % 3 === 0],
    ["the borders", (page) => page % 64 === 0 || page % 64 === 63],
    ["one slot", (page) => page >= LOW_PAGES],
  ];

  test.each(EXCEPT)("takes back what it has reported, except %s", (_, isExcept) => {
    for (const { first, pages } of PIECES)
      for (const isReported of [(page: number) => page % 2 === 0, () => true]) {
        logged.clear();
        for (const page of all()) if (isReported(page)) logged.add(page);
        const log = DirtyLog.of(VM, SLOTS, true);
        const dirty = new Bitmap(PAGES);
        log.sync(dirty);
        expect(dirty.count()).toBe(logged.size);
        for (const page of all()) logged.add(page); // written to since: what was not reported is not taken back
        const except = new Bitmap(pages);
        for (let i = 0; i < pages; i++) if (isExcept(first + i)) except.add(i);
        log.clear(first, pages, except.words.subarray(0, Math.ceil(pages / 32)));
        const isIn = (page: number) => page >= first && page < first + pages;
        const left = all().filter((page) => !(isIn(page) && isReported(page) && !isExcept(page)));
        expect(sorted(logged)).toEqual(left);
      }
  });

  test("is not touched where everything is excepted, nor where the kernel clears it as it is read", () => {
    for (const page of all()) logged.add(page);
    const log = DirtyLog.of(VM, SLOTS, true);
    log.sync(new Bitmap(PAGES));
    log.clear(0, PAGES, new Uint32Array(Math.ceil(PAGES / 32)).fill(0xffff_ffff));
    expect(calls).toBe(0);
    const other = DirtyLog.of(VM, SLOTS, false);
    other.sync(new Bitmap(PAGES));
    other.clear(0, PAGES);
    expect(calls).toBe(0);
    log.clear(0, PAGES);
    expect([calls, logged.size]).toEqual([2, 0]);
  });
});

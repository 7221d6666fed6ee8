// The balloon, told by a driver that keeps to the rules, that answers late, with a stale number, or nonsense.
import { describe, expect, test } from "bun:test";
import { BALLOON_WORDS, Balloon, HINT } from "../../src/machine/virtio/balloon.ts";
import { DriverError } from "../../src/machine/virtio/memory.ts";
import { DESCRIPTORS, type Descriptor, Driver, FLAG, HIGH_GPA, RAM_BYTES } from "../support/virtio-driver.ts";

const [INFLATE, DEFLATE, STATS, FREE, REPORT] = [0, 1, 2, 3, 4];
const DATA = 0x8000;
const PAGE = 4096;

function balloon() {
  const driver = new Driver(64);
  const words = new Int32Array(new SharedArrayBuffer(4 * BALLOON_WORDS));
  const seen = {
    discarded: [] as number[],
    hints: [] as [number, number][],
    ended: 0,
    stats: [] as [number, bigint][],
  };
  const device = new Balloon(
    words,
    driver.memory,
    () => driver.queue,
    {
      discard: (pages) => void seen.discarded.push(...pages),
      hint: (first, pages) => void seen.hints.push([first, pages]),
      hintsEnded: () => void seen.ended++,
      stats: (values) => void seen.stats.push(...values),
    },
    0n,
  );
  device.reset();
  const tell = (queue: number, ...rows: Descriptor[]) => {
    driver.describe(DESCRIPTORS, rows);
    driver.offer(0);
    device.notify(queue);
  };
  /** The driver's answer with this number. */
  const answer = (command: number) => {
    driver.view.setUint32(DATA, command, true);
    tell(FREE, [DATA, 4]);
  };
  const free = (gpa: number, bytes: number) => tell(FREE, [gpa, bytes, FLAG.write]);
  const request = (command: number) => void words.set([command], 2);
  return { driver, device, words, seen, tell, answer, free, request };
}

describe("a balloon", () => {
  test("discards what it is inflated with, above the hole, too, and takes what comes back", () => {
    const { driver, seen, tell } = balloon();
    const pages = [3, 100, HIGH_GPA / PAGE + 5];
    for (const [i, page] of pages.entries()) driver.view.setUint32(DATA + 4 * i, page, true);
    tell(INFLATE, [DATA, 12]);
    expect(seen.discarded).toEqual([3, 100, RAM_BYTES / 2 / PAGE + 5]);
    tell(DEFLATE, [DATA, 12]);
    expect(seen.discarded).toHaveLength(3);
    expect(driver.usedIndex).toBe(2);
  });

  test.each([
    ["in the hole", RAM_BYTES / 2 / PAGE],
    ["behind the end", (HIGH_GPA + RAM_BYTES / 2) / PAGE],
    ["of all ones", 0xffffffff],
  ])("is stopped by a page %s", (_, page) => {
    const { driver, seen, tell } = balloon();
    driver.view.setUint32(DATA, 3, true);
    driver.view.setUint32(DATA + 4, page, true);
    expect(() => tell(INFLATE, [DATA, 8])).toThrow(DriverError);
    expect(seen.discarded).toEqual([]);
  });

  test("tells what the guest is to give up, and is told what it has", () => {
    const { device, words } = balloon();
    words[0] = 0x01020304;
    expect([device.readConfig(0, 4), device.readConfig(0, 1), device.readConfig(2, 2)]).toEqual([
      0x01020304, 4, 0x0102,
    ]);
    device.writeConfig(4, 4, 77);
    device.writeConfig(0, 4, 99);
    expect([device.readConfig(4, 4), device.readConfig(0, 4), device.readConfig(16, 4)]).toEqual([77, 0x01020304, 0]);
  });

  test("keeps the buffer of its statistics, and reads them", () => {
    const { driver, seen, tell, words } = balloon();
    driver.view.setUint16(DATA, 5, true);
    driver.view.setBigUint64(DATA + 2, 1n << 33n, true);
    driver.view.setUint16(DATA + 10, 77, true);
    tell(STATS, [DATA, 25]);
    expect(seen.stats).toEqual([
      [5, 1n << 33n],
      [77, 0n],
    ]);
    expect([driver.usedIndex, words[4]]).toEqual([0, 0]);
  });

  test("discards what is reported, whole pages of it", () => {
    const { seen, tell } = balloon();
    tell(REPORT, [0x10000, 2 * PAGE, FLAG.write | FLAG.next, 1], [0x20800, 2 * PAGE, FLAG.write]);
    expect(seen.discarded).toEqual([0x10, 0x11, 0x21]);
  });

  describe("hints", () => {
    test("are taken between the request's number and the end", () => {
      const { driver, seen, answer, free, request } = balloon();
      free(0x10000, PAGE); // nobody has asked
      request(7);
      free(0x11000, PAGE); // nor has it answered
      answer(7);
      free(0x20000, 16 * PAGE);
      free(HIGH_GPA, 2 * PAGE);
      answer(HINT.stop);
      free(0x12000, PAGE);
      expect(seen.hints).toEqual([
        [0x20, 16],
        [RAM_BYTES / 2 / PAGE, 2],
      ]);
      expect([seen.ended, driver.usedIndex]).toEqual([1, 7]);
    });

    test("with an older number are for nobody", () => {
      const { seen, answer, free, request } = balloon();
      request(7);
      answer(7);
      request(8); // a new round: what comes for the old one is late
      free(0x20000, PAGE);
      answer(7);
      free(0x21000, PAGE);
      answer(HINT.stop);
      expect([seen.hints, seen.ended]).toEqual([[], 0]);
      answer(8);
      free(0x22000, PAGE);
      expect(seen.hints).toEqual([[0x22, 1]]);
    });

    test.each([HINT.stop, HINT.done])("are over when the device says so: %d", (command) => {
      const { seen, answer, free, request } = balloon();
      request(7);
      answer(7);
      request(command);
      free(0x20000, PAGE);
      answer(command);
      free(0x21000, PAGE);
      expect(seen.hints).toEqual([]);
    });

    test.each<[string, Descriptor]>([
      ["outside its memory", [RAM_BYTES, PAGE, FLAG.write]],
      ["of all addresses", [0, 0xffffffff, FLAG.write]],
    ])("%s stop the device", (_, row) => {
      const { seen, answer, request, tell } = balloon();
      request(7);
      answer(7);
      expect(() => tell(FREE, row)).toThrow(DriverError);
      expect(seen.hints).toEqual([]);
    });

    test("of half a page, or a number of two bytes, are nothing", () => {
      const { seen, answer, free, request, tell } = balloon();
      request(7);
      tell(FREE, [DATA, 2]);
      free(0x20000, PAGE);
      answer(7);
      free(0x20800, PAGE);
      expect(seen.hints).toEqual([]);
    });
  });
});

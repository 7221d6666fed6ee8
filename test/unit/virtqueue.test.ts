// The virtqueue with a driver that keeps to the rules, and with one that does not.
import { describe, expect, test } from "bun:test";
import { DriverError } from "../../src/machine/virtio/memory.ts";
import { type Chain, QUEUE } from "../../src/machine/virtio/queue.ts";
import {
  AVAILABLE,
  DESCRIPTORS,
  type Descriptor,
  Driver,
  FLAG,
  HIGH_GPA,
  RAM_BYTES,
  USED,
} from "../support/virtio-driver.ts";

const { next: NEXT, write: WRITE, indirect: INDIRECT } = FLAG;

describe("a virtqueue", () => {
  test("gives each request once, in order, and gives them back", () => {
    const driver = new Driver();
    driver.describe(DESCRIPTORS, [
      [0x8000, 16, NEXT, 1],
      [0x9000, 32, WRITE | NEXT, 2],
      [HIGH_GPA + 0x100, 8, WRITE],
      [0xa000, 4],
    ]);
    expect(driver.queue.take()).toBeNull();
    driver.offer(0);
    driver.offer(3);
    const first = driver.queue.take() as Chain;
    expect(first).toEqual({
      head: 0,
      readable: [{ gpa: 0x8000, bytes: 16 }],
      writable: [
        { gpa: 0x9000, bytes: 32 },
        { gpa: HIGH_GPA + 0x100, bytes: 8 },
      ],
    });
    const second = driver.queue.take() as Chain;
    expect(second).toEqual({ head: 3, readable: [{ gpa: 0xa000, bytes: 4 }], writable: [] });
    expect(driver.queue.take()).toBeNull();
    driver.queue.giveBack(second, 0);
    driver.queue.giveBack(first, 40);
    expect([driver.usedIndex, driver.used(0), driver.used(1)]).toEqual([2, [3, 0], [0, 40]]);
  });

  test("goes on where the rings' indexes wrap", () => {
    const driver = new Driver(4, { from: 0xfffd });
    driver.describe(DESCRIPTORS, [[0x8000, 1], [0x8001, 1], [0x8002, 1], [0x8003, 1]]); // biome-ignore format: one line
    for (let i = 0; i < 12; i++) {
      driver.offer(i % 4);
      const chain = driver.queue.take() as Chain;
      expect(chain.head).toBe(i % 4);
      driver.queue.giveBack(chain, i);
      expect(driver.usedIndex).toBe((0xfffd + i + 1) & 0xffff);
      expect(driver.used((0xfffd + i) & 0xffff)).toEqual([i % 4, i]);
    }
  });

  test("follows an indirect table, at the end of a chain, too", () => {
    const driver = new Driver();
    driver.describe(DESCRIPTORS, [[0x8000, 4, NEXT, 5]]);
    driver.describe(DESCRIPTORS + 5 * 16, [[0x20000, 3 * 16, INDIRECT]]);
    driver.describe(0x20000, [
      [0x9000, 1, NEXT, 2],
      [0xa000, 2, WRITE],
      [0xb000, 3, NEXT | WRITE, 1],
    ]);
    driver.offer(0);
    expect(driver.queue.take()).toMatchObject({
      readable: [{ gpa: 0x8000 }, { gpa: 0x9000 }],
      writable: [{ gpa: 0xb000 }, { gpa: 0xa000 }],
    });
  });

  test("marks what it writes, and nothing else", () => {
    const driver = new Driver();
    driver.describe(DESCRIPTORS, [[0x8000, 8]]);
    driver.offer(0);
    const chain = driver.queue.take() as Chain;
    expect(driver.marked).toEqual([]);
    driver.queue.giveBack(chain, 0);
    expect([...new Set(driver.marked)]).toEqual([USED / 4096]);
  });

  test("interrupts for each that is given back, unless the driver does not want that", () => {
    const driver = new Driver();
    driver.describe(DESCRIPTORS, [[0x8000, 8]]);
    const one = () => {
      driver.offer(0);
      driver.queue.giveBack(driver.queue.take() as Chain, 0);
      return driver.queue.mustInterrupt();
    };
    expect([one(), driver.queue.mustInterrupt()]).toEqual([true, false]);
    driver.view.setUint16(AVAILABLE, 1, true);
    expect(one()).toBe(false);
    driver.view.setUint16(AVAILABLE, 0, true);
    expect(one()).toBe(true);
  });

  test.each<{ event: number; wanted: boolean[] }>([
    { event: 0, wanted: [true, false, false, false] },
    { event: 2, wanted: [false, false, true, false] },
    { event: 0xffff, wanted: [false, false, false, false] },
  ])("with the event index: interrupts when it comes past $event", ({ event, wanted }) => {
    const driver = new Driver(8, { eventIndex: true });
    driver.describe(DESCRIPTORS, [[0x8000, 8]]);
    driver.usedEvent = event;
    const found = wanted.map(() => {
      driver.offer(0);
      driver.queue.giveBack(driver.queue.take() as Chain, 0);
      return driver.queue.mustInterrupt();
    });
    expect(found).toEqual(wanted);
  });

  test("with the event index: asks to be told of the next one, and does not miss one that comes meanwhile", () => {
    const driver = new Driver(8, { eventIndex: true });
    driver.describe(DESCRIPTORS, [[0x8000, 8]]);
    driver.offer(0);
    driver.queue.take();
    expect(driver.queue.take()).toBeNull();
    expect(driver.availableEvent).toBe(1);
  });
});

describe("a driver that does not keep to the rules is stopped:", () => {
  const TABLE = 0x20000;

  /** Nothing was taken, and nothing written. */
  function isStopped(driver: Driver): void {
    const before = driver.bytes.slice();
    expect(() => driver.queue.take()).toThrow(DriverError);
    expect(driver.bytes).toEqual(before);
    expect(driver.words[QUEUE.taken]).toBe(0);
  }

  test.each<[string, Descriptor[], Descriptor[]?]>([
    ["a descriptor that is its own next", [[0x8000, 1, NEXT, 0]]],
    [
      "a circle of two",
      [
        [0x8000, 1, NEXT, 1],
        [0x8000, 1, NEXT, 0],
      ],
    ],
    ["a next that is none", [[0x8000, 1, NEXT, 0xffff]]],
    ["memory behind the end", [[RAM_BYTES / 2 - 4, 8]]],
    ["memory in the hole", [[RAM_BYTES / 2, 8]]],
    ["an address beyond all numbers", [[0xffff_ffff_ffff_f000, 8]]],
    ["4 GiB less a byte", [[0, 0xffffffff]]],
    [
      "one to be read behind one to be written",
      [
        [0x8000, 1, WRITE | NEXT, 1],
        [0x9000, 1],
      ],
    ],
    ["an indirect table of half a descriptor", [[TABLE, 8, INDIRECT]]],
    ["an indirect table of none", [[TABLE, 0, INDIRECT]]],
    ["an indirect table outside its memory", [[RAM_BYTES, 16, INDIRECT]]],
    ["an indirect table in another", [[TABLE, 16, INDIRECT]], [[0x21000, 16, INDIRECT]]],
    ["an indirect table that goes on", [[TABLE, 16, INDIRECT | NEXT, 1]]],
  ])("%s", (_, rows, table = []) => {
    const driver = new Driver();
    driver.describe(DESCRIPTORS, rows);
    driver.describe(TABLE, table);
    driver.offer(0);
    isStopped(driver);
  });

  test.each<[string, number, number[]]>([
    ["a queue of a size that is no power of two", QUEUE.size, [7]],
    ["a queue of all sizes", QUEUE.size, [-1]],
    ["rings outside its memory", QUEUE.available, [RAM_BYTES]],
    ["rings beyond all numbers", QUEUE.available, [-1, -1]],
  ])("%s", (_, word, values) => {
    const driver = new Driver();
    driver.words.set(values, word);
    isStopped(driver);
  });

  test("an index that has jumped", () => {
    const driver = new Driver();
    driver.setAvailableIndex(9);
    isStopped(driver);
  });

  test("a head that is no descriptor", () => {
    const driver = new Driver();
    driver.offer(8);
    isStopped(driver);
  });

  test("an indirect table that was not agreed upon", () => {
    const driver = new Driver(8, { indirect: false });
    driver.describe(DESCRIPTORS, [[TABLE, 16, INDIRECT]]);
    driver.offer(0);
    expect(() => driver.queue.take()).toThrow(DriverError);
  });

  test("a used ring outside its memory, when something is given back", () => {
    const driver = new Driver();
    driver.describe(DESCRIPTORS, [[0x8000, 1]]);
    driver.offer(0);
    const chain = driver.queue.take() as Chain;
    driver.words[QUEUE.used] = RAM_BYTES / 2 - 4;
    expect(() => driver.queue.giveBack(chain, 0)).toThrow(DriverError);
  });

  test("whatever its memory holds: nothing outside it is touched, and every look ends", () => {
    for (let seed = 1; seed <= 400; seed++) {
      const driver = new Driver(8, { eventIndex: seed % 2 === 0 });
      for (let i = 0; i < 0x3000; i += 8) {
        const random = Bun.hash.wyhash(`${i}`, BigInt(seed));
        driver.view.setBigUint64(DESCRIPTORS + i, seed % 3 === 0 ? random & 0x0007_0003_0007_fff0n : random, true);
      }
      driver.setAvailableIndex(8);
      for (let i = 0; i < 8; i++) {
        try {
          const chain = driver.queue.take();
          if (chain) driver.queue.giveBack(chain, 0);
        } catch (error) {
          expect(error).toBeInstanceOf(DriverError);
          break;
        }
      }
    }
  });
});

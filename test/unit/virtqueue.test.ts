// The virtqueue with a driver that keeps to the rules, and with one that does not.
import { describe, expect, test } from "bun:test";
import { DeviceMemory, DriverError } from "../../src/machine/virtio/memory.ts";
import { type Chain, QUEUE, QUEUE_WORDS, SplitQueue } from "../../src/machine/virtio/queue.ts";

const RAM_BYTES = 1 << 20;
const HIGH_GPA = 4 * 2 ** 30;
/** The second half lies above the hole. */
const SLOTS = [
  { slot: 0, gpa: 0, offset: 0, bytes: RAM_BYTES / 2 },
  { slot: 1, gpa: HIGH_GPA, offset: RAM_BYTES / 2, bytes: RAM_BYTES / 2 },
];
const DESCRIPTORS = 0x1000;
const AVAILABLE = 0x3000;
const USED = 0x5000;
const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

type Descriptor = [gpa: number, bytes: number, flags?: number, next?: number];

class Driver {
  readonly bytes = new Uint8Array(RAM_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  readonly words = new Int32Array(new SharedArrayBuffer(4 * QUEUE_WORDS));
  readonly marked: number[] = [];
  readonly queue: SplitQueue;
  readonly size: number;
  #index = 0;

  constructor(size = 8, { eventIndex = false, indirect = true, from = 0 } = {}) {
    this.size = size;
    const ram = {
      read: (offset: number, count: number) => this.bytes.slice(offset, offset + count),
      write: (offset: number, data: Uint8Array) => this.bytes.set(data, offset),
    };
    const memory = new DeviceMemory(ram, SLOTS, (first, pages) => {
      for (let page = first; page < first + pages; page++) this.marked.push(page);
    });
    this.words[QUEUE.size] = size;
    this.words[QUEUE.ready] = 1;
    this.words[QUEUE.descriptors] = DESCRIPTORS;
    this.words[QUEUE.available] = AVAILABLE;
    this.words[QUEUE.used] = USED;
    for (const word of [QUEUE.taken, QUEUE.returned, QUEUE.signalled]) this.words[word] = from;
    this.#index = from;
    this.setAvailableIndex(from);
    this.view.setUint16(USED + 2, from, true);
    this.queue = new SplitQueue(memory, this.words, { eventIndex, indirect });
  }

  describe(table: number, rows: readonly Descriptor[]): void {
    rows.forEach(([gpa, bytes, flags = 0, next = 0], i) => {
      this.view.setBigUint64(table + 16 * i, BigInt(gpa), true);
      this.view.setUint32(table + 16 * i + 8, bytes, true);
      this.view.setUint16(table + 16 * i + 12, flags, true);
      this.view.setUint16(table + 16 * i + 14, next, true);
    });
  }

  offer(head: number): void {
    this.view.setUint16(AVAILABLE + 4 + 2 * (this.#index % this.size), head, true);
    this.#index = (this.#index + 1) & 0xffff;
    this.setAvailableIndex(this.#index);
  }

  setAvailableIndex(index: number): void {
    this.view.setUint16(AVAILABLE + 2, index, true);
  }

  get usedIndex(): number {
    return this.view.getUint16(USED + 2, true);
  }
  used(index: number): [head: number, bytes: number] {
    const at = USED + 4 + 8 * (index % this.size);
    return [this.view.getUint32(at, true), this.view.getUint32(at + 4, true)];
  }
  set usedEvent(index: number) {
    this.view.setUint16(AVAILABLE + 4 + 2 * this.size, index, true);
  }
  get availableEvent(): number {
    return this.view.getUint16(USED + 4 + 8 * this.size, true);
  }
}

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

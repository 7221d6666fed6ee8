// A disk, told by a driver that keeps to the rules, that cuts its requests oddly, or that talks nonsense; and one that fails.
import { describe, expect, test } from "bun:test";
import {
  BLOCK_FEATURE,
  BLOCK_WORDS,
  Block,
  cut,
  type Disk,
  type Performing,
  REQUEST,
  STATUS,
} from "../../src/machine/virtio/block.ts";
import { DriverError } from "../../src/machine/virtio/memory.ts";
import type { Segment } from "../../src/machine/virtio/queue.ts";
import { DESCRIPTORS, type Descriptor, Driver, FLAG } from "../support/virtio-driver.ts";

const DISK_BYTES = 1 << 16;
const HEADER = 0x8000;
const DATA = 0x10000;
const STATUS_AT = 0x9000;

const performing: Performing = { writesThrough: false, mustStop: () => false, onFailure: () => {} };

/** A disk in memory, and what was done to it. */
class Fake implements Disk {
  readonly content = new Uint8Array(DISK_BYTES).map((_, i) => (i * 7) & 0xff);
  readonly done: string[] = [];
  readonly bytes = DISK_BYTES;
  readonly id = "tram-disk-0";
  failure: Error | null = null;
  canZero = true;
  readonly isReadOnly: boolean;
  readonly #memory: () => Driver;

  constructor(memory: () => Driver, isReadOnly = false) {
    this.#memory = memory;
    this.isReadOnly = isReadOnly;
  }

  #do(what: string): void {
    this.done.push(what);
    if (this.failure) throw this.failure;
  }
  read(into: readonly Segment[], at: number): void {
    this.#do(`read ${at}`);
    for (const { gpa, bytes } of into) {
      this.#memory().memory.write(gpa, this.content.slice(at, at + bytes));
      at += bytes;
    }
  }
  write(from: readonly Segment[], at: number): void {
    this.#do(`write ${at}`);
    for (const { gpa, bytes } of from) {
      this.content.set(this.#memory().memory.read(gpa, bytes), at);
      at += bytes;
    }
  }
  flush(): void {
    this.#do("flush");
  }
  discard(at: number, bytes: number): void {
    this.#do(`discard ${at} ${bytes}`);
  }
  zero(at: number, bytes: number, mayDiscard: boolean): boolean {
    this.#do(`zero ${at} ${bytes} ${mayDiscard}`);
    return this.canZero;
  }
}

const taken = ({ queue }: Driver) => queue.take() as NonNullable<ReturnType<typeof queue.take>>;

function block(isReadOnly = false) {
  const driver = new Driver(16);
  const disk = new Fake(() => driver, isReadOnly);
  const words = new Int32Array(new SharedArrayBuffer(4 * BLOCK_WORDS));
  const woken: number[] = [];
  const device = new Block(words, disk, driver.memory, () => woken.push(1));
  const failures: unknown[] = [];
  /** One request; its status, and how many bytes are said to have been written. */
  const ask = (...rows: Descriptor[]): { status: number; written: number } => {
    driver.view.setUint8(STATUS_AT, 0xff);
    driver.describe(DESCRIPTORS, rows.map(([gpa, bytes, flags = 0], i) => [gpa, bytes, flags | (i + 1 < rows.length ? FLAG.next : 0), i + 1])); // biome-ignore format: one line
    driver.offer(0);
    const chain = driver.queue.take();
    if (!chain) throw new Error("nothing to take");
    const requests = device.begin([chain]);
    device.perform(requests, { ...performing, onFailure: (error) => failures.push(error) });
    expect(device.isWanted(requests[0])).toBe(true);
    return { status: driver.view.getUint8(STATUS_AT), written: requests[0].writtenBytes };
  };
  const header = (type: number, sector = 0): Descriptor => {
    driver.view.setUint32(HEADER, type, true);
    driver.view.setUint32(HEADER + 4, 0, true);
    driver.view.setBigUint64(HEADER + 8, BigInt(sector), true);
    return [HEADER, 16];
  };
  const status: Descriptor = [STATUS_AT, 1, FLAG.write];
  return { driver, device, disk, words, woken, failures, ask, header, status };
}

describe("a disk", () => {
  test("is read into what the driver gives, in pieces of any length", () => {
    const { driver, disk, ask, header, status } = block();
    const pieces: Descriptor[] = [
      [DATA, 100, FLAG.write],
      [DATA + 0x1000, 924, FLAG.write],
    ];
    expect(ask(header(REQUEST.read, 3), ...pieces, status)).toEqual({ status: STATUS.ok, written: 1025 });
    expect(driver.bytes.slice(DATA, DATA + 100)).toEqual(disk.content.slice(1536, 1636));
    expect(driver.bytes.slice(DATA + 0x1000, DATA + 0x1000 + 924)).toEqual(disk.content.slice(1636, 2560));
    // Those that it wrote to are told of: data, and the status.
    expect(new Set(driver.marked)).toEqual(new Set([DATA / 4096, DATA / 4096 + 1, STATUS_AT >> 12]));
  });

  test("is written to, and flushed", () => {
    const { driver, disk, ask, header, status } = block();
    driver.bytes.fill(0xab, DATA, DATA + 512);
    expect(ask(header(REQUEST.write, 127), [DATA, 512], status)).toEqual({ status: STATUS.ok, written: 1 });
    expect(disk.content.slice(127 * 512)).toEqual(new Uint8Array(512).fill(0xab));
    expect(ask(header(REQUEST.flush), status).status).toBe(STATUS.ok);
    expect(disk.done).toEqual([`write ${127 * 512}`, "flush"]);
  });

  test("takes a header, data and a status that are cut or joined as no driver cuts them", () => {
    const { driver, disk, ask, header, status } = block();
    header(REQUEST.write, 1);
    driver.bytes.set(driver.bytes.slice(HEADER, HEADER + 16), DATA - 16); // header and data are neighbours
    driver.bytes.fill(0xcd, DATA, DATA + 512);
    expect(ask([DATA - 16, 7], [DATA - 9, 300], [DATA - 9 + 300, 221], status).status).toBe(STATUS.ok);
    expect(disk.content.slice(512, 1024)).toEqual(new Uint8Array(512).fill(0xcd));
    // The status is the last byte of what is written, wherever that is.
    expect(ask(header(REQUEST.read, 1), [DATA, 513, FLAG.write]).written).toBe(513);
    expect(driver.view.getUint8(DATA + 512)).toBe(STATUS.ok);
    expect(driver.bytes.slice(DATA, DATA + 512)).toEqual(new Uint8Array(512).fill(0xcd));
  });

  test("says which it is", () => {
    const { driver, ask, header, status } = block();
    expect(ask(header(REQUEST.id), [DATA, 20, FLAG.write], status)).toEqual({ status: STATUS.ok, written: 21 });
    expect(Buffer.from(driver.bytes.slice(DATA, DATA + 20)).toString()).toBe("tram-disk-0".padEnd(20, "\0"));
    expect(ask(header(REQUEST.id), [DATA, 4, FLAG.write], status).written).toBe(5);
  });

  const range = (driver: Driver, i: number, sector: number, sectors: number, flags = 0) => {
    driver.view.setBigUint64(DATA + 16 * i, BigInt(sector), true);
    driver.view.setUint32(DATA + 16 * i + 8, sectors, true);
    driver.view.setUint32(DATA + 16 * i + 12, flags, true);
  };

  test("gives up, and zeroes, ranges", () => {
    const { driver, disk, ask, header, status } = block();
    range(driver, 0, 8, 16);
    range(driver, 1, 64, 8);
    range(driver, 2, 9, 0); // nothing
    expect(ask(header(REQUEST.discard), [DATA, 48], status).status).toBe(STATUS.ok);
    range(driver, 1, 64, 8, 1);
    expect(ask(header(REQUEST.writeZeroes), [DATA, 48], status).status).toBe(STATUS.ok);
    expect(disk.done).toEqual(["discard 4096 8192", "discard 32768 4096", "zero 4096 8192 false", "zero 32768 4096 true"]);
  }); // biome-ignore format: one line

  test("says that it cannot zero ranges where its file system cannot: its driver writes zeros then", () => {
    const { driver, disk, failures, ask, header, status } = block();
    disk.canZero = false;
    range(driver, 0, 8, 16);
    expect(ask(header(REQUEST.writeZeroes), [DATA, 16], status).status).toBe(STATUS.unsupported);
    expect(failures).toEqual([]);
  });

  test("does nothing of ranges with a flag that there is not", () => {
    const { driver, disk, ask, header, status } = block();
    range(driver, 0, 8, 16);
    range(driver, 1, 64, 8, 1);
    expect(ask(header(REQUEST.discard), [DATA, 32], status).status).toBe(STATUS.unsupported);
    range(driver, 1, 64, 8, 2);
    expect(ask(header(REQUEST.writeZeroes), [DATA, 32], status).status).toBe(STATUS.unsupported);
    expect(disk.done).toEqual([]);
  });

  test("does nothing of ranges of which one makes no sense", () => {
    const { driver, disk, ask, header, status } = block();
    range(driver, 0, 8, 16);
    range(driver, 1, 127, 2);
    expect(ask(header(REQUEST.discard), [DATA, 32], status).status).toBe(STATUS.failed);
    expect(ask(header(REQUEST.discard), [DATA, 17], status).status).toBe(STATUS.failed);
    expect(ask(header(REQUEST.discard), status).status).toBe(STATUS.failed);
    expect(disk.done).toEqual([]);
  });

  test.each<[string, number, number, number]>([
    ["behind its end", REQUEST.read, 128, 512],
    ["over its end", REQUEST.read, 127, 1024],
    ["far behind it", REQUEST.write, 2 ** 55, 512],
    ["of half a sector", REQUEST.write, 0, 256],
  ])("has no %s", (_, type, sector, bytes) => {
    const { disk, failures, ask, header, status } = block();
    const flags = type === REQUEST.read ? FLAG.write : 0;
    expect(ask(header(type, sector), [DATA, bytes, flags], status)).toEqual({ status: STATUS.failed, written: 1 });
    expect([disk.done, failures]).toEqual([[], []]); // the driver's mistake is not the disk's
  });

  test("knows what it does not know", () => {
    const { ask, header, status } = block();
    expect(ask(header(99), status)).toEqual({ status: STATUS.unsupported, written: 1 });
  });

  test.each<[string, (rig: ReturnType<typeof block>) => Descriptor[]]>([
    ["without a header", ({ status }) => [[HEADER, 15], status]],
    ["without a status", ({ header }) => [header(REQUEST.flush)]],
  ])("stops at a request %s", (_, rows) => {
    const rig = block();
    expect(() => rig.ask(...rows(rig))).toThrow(DriverError);
    expect(rig.words[0]).toBe(0); // nothing is in flight
  });

  test("that is read-only says so, and is not written to", () => {
    const { device, disk, ask, header, status } = block(true);
    expect(device.features & BLOCK_FEATURE.readOnly).not.toBe(0n);
    expect(device.features & (BLOCK_FEATURE.discard | BLOCK_FEATURE.writeZeroes)).toBe(0n);
    for (const type of [REQUEST.write, REQUEST.discard, REQUEST.writeZeroes])
      expect(ask(header(type), [DATA, 512], status).status).toBe(STATUS.failed);
    expect(ask(header(REQUEST.flush), status).status).toBe(STATUS.ok);
    expect(disk.done).toEqual([]);
  });

  test("that fails says so to the guest, and to whoever listens", () => {
    const { disk, failures, ask, header, status } = block();
    disk.failure = new Error("EIO");
    expect(ask(header(REQUEST.read), [DATA, 512, FLAG.write], status)).toEqual({ status: STATUS.failed, written: 1 });
    expect(ask(header(REQUEST.flush), status).status).toBe(STATUS.failed);
    expect(failures).toEqual([disk.failure, disk.failure]);
  });

  test("whose flush has failed once never says again that all is there", () => {
    const { disk, failures, ask, header, status } = block();
    disk.failure = new Error("EIO");
    expect(ask(header(REQUEST.flush), status).status).toBe(STATUS.failed);
    disk.failure = null;
    expect(ask(header(REQUEST.write), [DATA, 512], status).status).toBe(STATUS.ok);
    expect(ask(header(REQUEST.flush), status).status).toBe(STATUS.failed);
    expect([failures.length, disk.done]).toEqual([2, ["flush", "write 0"]]);
  });

  test("whose driver knows no flush has what is written on the disk at once", () => {
    const { driver, device, disk, header, status } = block();
    const perform = (type: number) => {
      header(type);
      const data: Descriptor = [DATA, 512, FLAG.next | (type === REQUEST.read ? FLAG.write : 0), 2];
      driver.describe(DESCRIPTORS, [[HEADER, 16, FLAG.next, 1], data, status]);
      driver.offer(0);
      device.perform(device.begin([taken(driver)]), { ...performing, writesThrough: true });
    };
    perform(REQUEST.write);
    perform(REQUEST.read);
    expect(disk.done).toEqual(["write 0", "flush", "read 0"]);
  });

  test("does the first of what it has taken, and leaves the others to the next if somebody waits", () => {
    const { driver, device, disk, header, status } = block();
    header(REQUEST.write);
    driver.describe(DESCRIPTORS, [[HEADER, 16, FLAG.next, 1], [DATA, 512, FLAG.next, 2], status]);
    for (let i = 0; i < 3; i++) driver.offer(0);
    const requests = device.begin([taken(driver), taken(driver), taken(driver)]);
    expect(driver.queue.take()).toBeNull();
    expect(device.perform(requests, { ...performing, mustStop: () => true })).toBe(1);
    driver.queue.untake(2);
    expect(disk.done).toEqual(["write 0"]);
    expect([driver.queue.take() !== null, driver.queue.take() !== null, driver.queue.take()]).toEqual([true, true, null]);
  }); // biome-ignore format: rows

  test("tells its size", () => {
    const { device } = block();
    expect([device.readConfig(0, 4), device.readConfig(4, 4)]).toEqual([128, 0]);
    expect(device.readConfig(20, 4)).toBe(512);
    expect(device.readConfig(12, 4)).toBe(254);
    expect([device.readConfig(56, 1), device.readConfig(60, 4), device.readConfig(59, 4)]).toEqual([1, 0, 0]);
  });

  test("leaves its work to another thread, and what was taken before a reset is nobody's", () => {
    const { driver, device, woken, header, status } = block();
    header(REQUEST.flush);
    driver.describe(DESCRIPTORS, [[HEADER, 16, FLAG.next, 1], status]);
    driver.offer(0);
    expect([device.serve(), woken.length, driver.usedIndex]).toEqual([false, 1, 0]);
    const requests = device.begin([taken(driver)]);
    device.perform(requests, performing);
    device.reset();
    expect(device.isWanted(requests[0])).toBe(false);
  });
});

test("a part of what segments are together", () => {
  const segments = [{ gpa: 100, bytes: 10 }, { gpa: 200, bytes: 5 }, { gpa: 300, bytes: 10 }]; // biome-ignore format: one line
  expect(cut(segments, 0, 25)).toEqual(segments);
  expect(cut(segments, 8, 9)).toEqual([{ gpa: 108, bytes: 2 }, { gpa: 200, bytes: 5 }, { gpa: 300, bytes: 2 }]); // biome-ignore format: one line
  expect(cut(segments, 10, 5)).toEqual([{ gpa: 200, bytes: 5 }]);
  expect(cut(segments, 25, 1)).toEqual([]);
  expect(cut(segments, 3, 0)).toEqual([]);
});

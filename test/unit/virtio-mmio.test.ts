// A virtio device's registers: a driver that comes up as the specification says, and one that does not.
import { describe, expect, test } from "bun:test";
import { DriverError } from "../../src/machine/virtio/memory.ts";
import { FEATURE, INTERRUPT, mmioWords, STATUS, VirtioMmio } from "../../src/machine/virtio/mmio.ts";
import { QUEUE } from "../../src/machine/virtio/queue.ts";

const OWN = 1n << 3n;

function device() {
  const seen = { notified: [] as number[], resets: 0, line: false, breaks: false };
  const words = new Int32Array(new SharedArrayBuffer(4 * mmioWords(2)));
  const config = new Uint8Array(8);
  const mmio = new VirtioMmio(
    words,
    {
      id: 5,
      features: OWN,
      queueSizes: [64, 16],
      readConfig: (at, bytes) => config.subarray(at, at + bytes).reduceRight((value, byte) => value * 256 + byte, 0),
      writeConfig: (at, bytes, value) => {
        for (let i = 0; i < bytes && at + i < config.length; i++) config[at + i] = value / 256 ** i;
      },
      notify(queue) {
        seen.notified.push(queue);
        if (seen.breaks) throw new DriverError("no");
      },
      reset: () => void seen.resets++,
    },
    (on) => {
      seen.line = on;
    },
  );
  const get = (at: number) => mmio.read(at, 4);
  const set = (at: number, value: number) => mmio.write(at, 4, value);
  /** As far as FEATURES_OK. */
  const agree = (features: bigint) => {
    for (const status of [0, STATUS.acknowledge, STATUS.acknowledge | STATUS.driver]) set(0x70, status);
    for (const half of [0, 1]) {
      set(0x24, half);
      set(0x20, Number((features >> BigInt(32 * half)) & 0xffffffffn) | 0);
    }
    set(0x70, get(0x70) | STATUS.featuresOk);
  };
  const queue = (index: number, size: number) => {
    set(0x30, index);
    set(0x38, size);
    for (const [at, value] of [[0x80, 0x1000], [0x84, 0], [0x90, 0x2000], [0x94, 0], [0xa0, 0x3000], [0xa4, 1]]) set(at, value); // biome-ignore format: one line
    set(0x44, 1);
  };
  return { mmio, seen, words, get, set, agree, queue };
}

describe("a virtio device", () => {
  test("says what it is", () => {
    const { get } = device();
    expect([get(0x00), get(0x04), get(0x08)]).toEqual([0x74726976, 2, 5]);
  });

  test("comes up with the features of both sides and its queues", () => {
    const { mmio, get, set, agree, queue, seen } = device();
    const half = (index: number): bigint => {
      set(0x14, index);
      return BigInt(get(0x10));
    };
    expect(half(0) | (half(1) << 32n)).toBe(OWN | FEATURE.indirect | FEATURE.eventIndex | FEATURE.version1);
    expect(half(2)).toBe(0n);
    agree(OWN | FEATURE.version1);
    expect(get(0x70) & STATUS.featuresOk).toBe(STATUS.featuresOk);
    set(0x30, 1);
    expect(get(0x34)).toBe(16);
    queue(1, 8);
    expect(get(0x44)).toBe(1);
    expect([...mmio.queueWords(1).subarray(0, QUEUE.taken)]).toEqual([8, 1, 0x1000, 0, 0x2000, 0, 0x3000, 1]);
    expect(mmio.isDriven).toBe(false);
    set(0x70, get(0x70) | STATUS.driverOk);
    expect([mmio.isDriven, mmio.features]).toEqual([true, OWN | FEATURE.version1]);
    set(0x50, 1);
    expect(seen.notified).toEqual([1]);
  });

  test.each([
    ["without version 1", OWN],
    ["with a feature that was not offered", FEATURE.version1 | (1n << 40n)],
  ])("is not agreed upon %s", (_, features) => {
    const { get, agree } = device();
    agree(features);
    expect(get(0x70) & STATUS.featuresOk).toBe(0);
  });

  test("keeps its features once they are agreed upon, and a queue's registers once it is ready", () => {
    const { mmio, set, agree, queue } = device();
    agree(FEATURE.version1);
    set(0x24, 0);
    set(0x20, -1);
    expect(mmio.features).toBe(FEATURE.version1);
    queue(0, 64);
    set(0x38, 2);
    set(0x80, 0x9000);
    expect([...mmio.queueWords(0).subarray(0, 3)]).toEqual([64, 1, 0x1000]);
  });

  test.each([0, 3, 65, 128, -1, 0x10000])("has no queue of %d entries", (size) => {
    const { get, agree, queue } = device();
    agree(FEATURE.version1);
    queue(0, size);
    expect(get(0x44)).toBe(0);
  });

  test("has no queue that it has not", () => {
    const { get, set, words, agree } = device();
    agree(FEATURE.version1);
    const before = words.slice();
    for (const queue of [2, 1000, -1]) {
      set(0x30, queue);
      expect([get(0x34), get(0x44)]).toEqual([0, 0]);
      for (const at of [0x38, 0x44, 0x80, 0xa4]) set(at, 1);
    }
    set(0x30, 0);
    expect([...words]).toEqual([...before]);
  });

  test("hears no notification before it is driven, nor of a queue that it has not", () => {
    const { set, get, agree, seen } = device();
    set(0x50, 0);
    agree(FEATURE.version1);
    set(0x50, 0);
    set(0x70, get(0x70) | STATUS.driverOk);
    for (const queue of [2, -1, 0xffff]) set(0x50, queue);
    expect(seen.notified).toEqual([]);
    set(0x50, 0);
    expect(seen.notified).toEqual([0]);
  });

  test("stops for a driver that breaks the rules, until that resets it", () => {
    const { set, get, agree, mmio, seen } = device();
    agree(FEATURE.version1);
    set(0x70, get(0x70) | STATUS.driverOk);
    seen.breaks = true;
    set(0x50, 0);
    expect(get(0x70) & STATUS.needsReset).toBe(STATUS.needsReset);
    expect([mmio.isDriven, seen.line, get(0x60)]).toEqual([false, true, INTERRUPT.config]);
    set(0x50, 0);
    expect(seen.notified).toEqual([0]);
    set(0x70, STATUS.acknowledge); // does not take it back
    expect(get(0x70) & STATUS.needsReset).toBe(STATUS.needsReset);
    set(0x70, 0);
    expect([get(0x70), seen.line, get(0x60), seen.resets]).toEqual([0, false, 0, 2]);
  });

  test("interrupts until both reasons are acknowledged", () => {
    const { mmio, set, get, agree, seen } = device();
    agree(FEATURE.version1);
    set(0x70, get(0x70) | STATUS.driverOk);
    mmio.interrupt(INTERRUPT.used);
    mmio.configChanged();
    expect([get(0x60), get(0xfc)]).toEqual([INTERRUPT.used | INTERRUPT.config, 1]);
    set(0x64, INTERRUPT.used);
    expect(seen.line).toBe(true);
    set(0x64, INTERRUPT.config);
    expect(seen.line).toBe(false);
  });

  test("has registers of four bytes, and a configuration of any", () => {
    const { mmio, set } = device();
    expect([mmio.read(0, 1), mmio.read(1, 4), mmio.read(0xf8, 4)]).toEqual([0, 0, 0]);
    mmio.write(0x70, 1, 1);
    expect(mmio.read(0x70, 4)).toBe(0);
    set(0x104, 0x11223344);
    expect([mmio.read(0x104, 1), mmio.read(0x105, 2), mmio.read(0x1fc, 4)]).toEqual([0x44, 0x2233, 0]);
  });
});

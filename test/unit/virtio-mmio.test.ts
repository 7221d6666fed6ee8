// A virtio device's registers: a driver that comes up as the specification says, and one that does not.
import { describe, expect, test } from "bun:test";
import { DeviceMemory, DriverError } from "../../src/machine/virtio/memory.ts";
import { FEATURE, INTERRUPT, mmioWords, STATUS, VirtioMmio } from "../../src/machine/virtio/mmio.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { balloon as balloonTable, VIRTIO_QUEUES_MAX } from "../../src/stream/devices/virtio.ts";
import { loadState, type State, saveState } from "../../src/stream/vmstate.ts";
import { BalloonRig, DATA, OWN_FEATURES, QUEUE, REGISTER } from "../support/balloon-rig.ts";
import { FLAG, RAM_BYTES, SLOTS } from "../support/virtio-driver.ts";

const OWN = 1n << 3n;

function device() {
  const seen = { served: [] as number[], resets: 0, line: false, breaks: null as Error | null, more: 0 };
  const words = new Int32Array(new SharedArrayBuffer(4 * mmioWords(2)));
  const config = new Uint8Array(8);
  const bytes = new Uint8Array(RAM_BYTES);
  const ram = {
    read: (offset: number, count: number) => bytes.slice(offset, offset + count),
    write: (offset: number, data: Uint8Array) => bytes.set(data, offset),
  };
  const mmio = new VirtioMmio(
    words,
    {
      id: 5,
      features: OWN,
      queueSizes: [64, 16],
      readConfig: (at, count) => config.subarray(at, at + count).reduceRight((value, byte) => value * 256 + byte, 0),
      writeConfig: (at, count, value) => {
        for (let i = 0; i < count && at + i < config.length; i++) config[at + i] = value / 256 ** i;
      },
      serve(_, index) {
        seen.served.push(index);
        if (seen.breaks) throw seen.breaks;
        return seen.more-- > 0;
      },
      reset: () => void seen.resets++,
    },
    new DeviceMemory(ram, SLOTS, () => {}),
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
  /** All the way up. */
  const drive = () => {
    agree(FEATURE.version1);
    for (const index of [0, 1]) queue(index, 8);
    set(0x70, get(0x70) | STATUS.driverOk);
  };
  const queueState = (index: number) => (mmio.save().queues as State[])[index];
  return { mmio, seen, words, get, set, agree, queue, drive, queueState };
}

describe("a virtio device", () => {
  test("says what it is", () => {
    const { get } = device();
    expect([get(0x00), get(0x04), get(0x08)]).toEqual([0x74726976, 2, 5]);
  });

  test("comes up with the features of both sides and its queues", () => {
    const { mmio, get, set, agree, queue, queueState, seen } = device();
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
    const [descriptors, available, used] = [0x1000n, 0x2000n, 0x1_0000_3000n];
    expect(queueState(1)).toMatchObject({ size: 8, ready: 1, descriptors, available, used });
    expect(mmio.isDriven).toBe(false);
    set(0x70, get(0x70) | STATUS.driverOk);
    expect([mmio.isDriven, mmio.features]).toEqual([true, OWN | FEATURE.version1]);
    set(0x50, 1);
    expect(seen.served).toEqual([1]);
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
    const { mmio, set, agree, queue, queueState } = device();
    agree(FEATURE.version1);
    set(0x24, 0);
    set(0x20, -1);
    expect(mmio.features).toBe(FEATURE.version1);
    queue(0, 64);
    set(0x38, 2);
    set(0x80, 0x9000);
    expect(queueState(0)).toMatchObject({ size: 64, ready: 1, descriptors: 0x1000n });
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

  test("hears of what was put into a queue before it was driven when it is, and not before", () => {
    const { set, get, agree, queue, seen, mmio } = device();
    agree(FEATURE.version1);
    queue(1, 8);
    set(0x50, 1);
    mmio.serve();
    expect([seen.served, mmio.isPending]).toEqual([[], false]);
    set(0x70, get(0x70) | STATUS.driverOk);
    expect([seen.served, mmio.isPending]).toEqual([[1], false]);
    set(0x70, 0);
    agree(FEATURE.version1);
    queue(1, 8);
    set(0x70, get(0x70) | STATUS.driverOk);
    expect(seen.served).toEqual([1]); // what another driver had put there is forgotten
  });

  test("hears no notification before it is driven, nor of a queue that is not ready, nor of one that it has not", () => {
    const { set, get, agree, queue, seen, mmio } = device();
    set(0x50, 0);
    agree(FEATURE.version1);
    queue(0, 8);
    set(0x70, get(0x70) | STATUS.driverOk);
    for (const index of [1, 2, -1, 0xffff]) set(0x50, index);
    expect(seen.served).toEqual([]);
    expect(mmio.isPending).toBe(false);
    set(0x50, 0);
    expect(seen.served).toEqual([0]);
  });

  test("goes on with what is left in a queue when it is served again, and only with that", () => {
    const { set, drive, mmio, seen } = device();
    drive();
    expect(mmio.isPending).toBe(false);
    seen.more = 2;
    set(0x50, 1);
    expect([mmio.isPending, seen.served]).toEqual([true, [1]]);
    mmio.serve();
    expect([mmio.isPending, seen.served]).toEqual([true, [1, 1]]);
    mmio.serve();
    mmio.serve();
    expect([mmio.isPending, seen.served]).toEqual([false, [1, 1, 1]]);
  });

  test("looks at a queue by itself only when it is served", () => {
    const { drive, mmio, seen } = device();
    drive();
    mmio.want(1);
    expect([mmio.isPending, seen.served]).toEqual([true, []]);
    mmio.serve();
    expect([mmio.isPending, seen.served]).toEqual([false, [1]]);
  });

  test("stops for a driver that breaks the rules, until that resets it", () => {
    const { set, get, drive, mmio, seen } = device();
    drive();
    seen.breaks = new DriverError("no");
    set(0x50, 0);
    expect(get(0x70) & STATUS.needsReset).toBe(STATUS.needsReset);
    expect([mmio.isDriven, seen.line, get(0x60)]).toEqual([false, true, INTERRUPT.config]);
    set(0x50, 0);
    mmio.want(1);
    mmio.serve();
    expect([seen.served, mmio.isPending]).toEqual([[0], false]);
    set(0x70, STATUS.acknowledge); // does not take it back
    expect(get(0x70) & STATUS.needsReset).toBe(STATUS.needsReset);
    set(0x70, 0);
    expect([get(0x70), seen.line, get(0x60), seen.resets]).toEqual([0, false, 0, 2]);
    seen.breaks = null;
    drive();
    set(0x50, 1);
    expect([seen.served, mmio.isDriven]).toEqual([[0, 1], true]);
  });

  test("takes no mistake of its own for one of the driver's", () => {
    const { set, get, drive, seen } = device();
    drive();
    seen.breaks = new TypeError("ours");
    expect(() => set(0x50, 0)).toThrow(TypeError);
    expect(get(0x70) & STATUS.needsReset).toBe(0);
  });

  test("interrupts until both reasons are acknowledged", () => {
    const { mmio, set, get, agree, seen } = device();
    agree(FEATURE.version1);
    set(0x70, get(0x70) | STATUS.driverOk);
    mmio.interrupt(INTERRUPT.used);
    mmio.configChanged();
    expect([get(0x60), get(0xfc)]).toEqual([INTERRUPT.used | INTERRUPT.config, 1]);
    set(0x64, INTERRUPT.used);
    expect([seen.line, mmio.isInterrupting]).toEqual([true, true]);
    set(0x64, INTERRUPT.config);
    expect([seen.line, mmio.isInterrupting]).toEqual([false, false]);
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

describe("a balloon's state", () => {
  const stateOf = ({ registers, balloon }: BalloonRig): State => ({ virtio: registers.save(), ...balloon.save() });
  const overTheWire = (state: State): State => {
    const out = new ByteWriter();
    saveState(balloonTable, state, out);
    return loadState(balloonTable, new ByteReader(out.done()));
  };
  /** As a machine that has never run takes it, with the same memory. */
  const arrive = (state: State, source: BalloonRig): BalloonRig => {
    const rig = new BalloonRig();
    rig.takeOver(source);
    rig.balloon.load(state);
    rig.registers.load(state.virtio as State);
    return rig;
  };

  function busy(): BalloonRig {
    const rig = new BalloonRig();
    rig.boot(OWN_FEATURES | FEATURE.eventIndex);
    rig.balloon.wantedPages = 200;
    rig.registers.write(0x104, 4, 77);
    rig.tell(QUEUE.stats, [DATA, 10]);
    for (let i = 0; i < 3; i++) rig.tell(QUEUE.report, [0x40000, 4096, FLAG.write]);
    rig.balloon.askForHints();
    rig.balloon.endHints();
    rig.registers.configChanged();
    rig.set(REGISTER.queueSelect, 0xffff_ffff);
    return rig;
  }

  test("comes back the same through the stream, and the device goes on where it was", () => {
    const source = busy();
    const state = stateOf(source);
    expect(state).toMatchObject({ wanted: 200, actual: 77, hint_command: 1, hint_last: 2, stats_head: 0 });
    expect((state.virtio as State).queues as State[]).toMatchObject([{}, {}, { taken: 1, returned: 0 }, {}, { taken: 3, returned: 3 }]); // biome-ignore format: one line
    expect((state.virtio as State).interrupt_status).toBe(INTERRUPT.used | INTERRUPT.config);

    source.offer(QUEUE.report, 0, [0x50000, 4096, FLAG.write]); // and the driver had no time to tell of it
    const target = arrive(overTheWire(state), source);
    expect(stateOf(target)).toEqual(state);
    expect([target.line, target.registers.isPending]).toEqual([true, true]);
    target.registers.serve();
    expect(target.told).toEqual([["reported", [{ first: 0x50, pages: 1 }]]]);
    expect(target.returned(QUEUE.report)).toBe(4);

    target.balloon.wantStats(); // the buffer that it was given there
    target.registers.want(QUEUE.stats);
    target.registers.serve();
    expect(target.returned(QUEUE.stats)).toBe(1);
  });

  test("has its line down where nothing interrupts", () => {
    const source = new BalloonRig();
    source.boot();
    const target = arrive(overTheWire(stateOf(source)), source);
    expect([target.line, target.registers.isDriven, target.balloon.statsTold]).toEqual([false, true, 0]);
  });

  test("leaves a request for hints behind: what names it is for nobody", () => {
    const source = new BalloonRig();
    source.boot();
    source.balloon.askForHints();
    source.say(2);
    const state = stateOf(source);
    expect(state).toMatchObject({ hint_command: 2, hint_last: 2 });
    const target = arrive(overTheWire(state), source);
    expect(stateOf(target)).toMatchObject({ hint_command: 1, hint_last: 2 });
    for (const rig of [target, source]) rig.tell(QUEUE.hint, [0x40000, 4096, FLAG.write]);
    expect([target.returned(QUEUE.hint), target.told]).toEqual([2, []]);
    expect(source.told).toEqual([["hinted", [{ first: 0x40, pages: 1 }]]]);
    target.say(2); // it has heard of that number there
    target.tell(QUEUE.hint, [0x40000, 4096, FLAG.write]);
    expect(target.told).toEqual([]);
    expect(stateOf(target)).toMatchObject({ hint_command: 1, hint_last: 2 });
    target.balloon.askForHints();
    target.say(3);
    target.tell(QUEUE.hint, [0x40000, 4096, FLAG.write]);
    expect(target.told).toHaveLength(1);
  });

  test.each<[string, State]>([
    ["a size that is no power of two", { size: 7 }],
    ["a size beyond any queue's", { size: 2048 }],
    ["a size of all ones", { size: 0xffff_ffff }],
    ["rings in the hole", { available: BigInt(RAM_BYTES / 2) }],
    ["rings behind the end", { available: 2n ** 40n }],
    ["rings beyond all numbers", { available: 2n ** 64n - 1n }],
    ["descriptors beyond all numbers", { descriptors: 2n ** 64n - 16n }],
    ["a used ring across the end", { used: BigInt(RAM_BYTES / 2 - 2) }],
    ["an index that is not the driver's", { taken: 0x8000 }],
  ])("with %s stops the device when it comes to use it, and the driver can reset it", (_, wrong) => {
    const source = new BalloonRig();
    source.boot();
    source.offer(QUEUE.report, 0, [0x40000, 4096, FLAG.write]);
    const state = stateOf(source);
    const good = arrive(overTheWire(state), source);
    good.registers.serve();
    expect([good.needsReset, good.returned(QUEUE.report)]).toEqual([false, 1]); // without it, it works

    Object.assign(((state.virtio as State).queues as State[])[QUEUE.report], wrong);
    const target = arrive(overTheWire(state), source);
    expect(target.needsReset).toBe(false);
    target.registers.serve();
    expect([target.needsReset, target.registers.isDriven]).toEqual([true, false]);
    target.told.length = 0;
    target.boot();
    target.tell(QUEUE.report, [0x40000, 4096, FLAG.write]);
    expect([target.needsReset, target.told]).toEqual([false, [["reported", [{ first: 0x40, pages: 1 }]]]]);
  });

  test("wants no more of a guest than it has", () => {
    const source = new BalloonRig();
    source.boot();
    const target = arrive({ ...stateOf(source), wanted: 0xffff_ffff }, source);
    expect(target.balloon.wantedPages).toBe(RAM_BYTES / 4096);
  });

  test("with a ready word that is none has no such queue", () => {
    const source = new BalloonRig();
    source.boot();
    source.offer(QUEUE.report, 0, [0x40000, 4096, FLAG.write]);
    const state = stateOf(source);
    ((state.virtio as State).queues as State[])[QUEUE.report].ready = 0xff;
    const target = arrive(overTheWire(state), source);
    target.registers.serve();
    expect([target.told, target.needsReset, target.registers.isPending]).toEqual([[], false, false]);
  });

  test("with fewer queues, or more, than the device has is taken as far as it goes", () => {
    const source = busy();
    for (const count of [0, 3, VIRTIO_QUEUES_MAX]) {
      const state = stateOf(source);
      const virtio = state.virtio as State;
      const queues = virtio.queues as State[];
      virtio.queues = Array.from({ length: count }, (_, i) => queues[i] ?? queues[0]);
      virtio.queue_count = count;
      const target = arrive(overTheWire(state), source);
      target.registers.serve();
      const found = (target.registers.save().queues as State[]).map(({ ready }) => ready);
      expect(found).toEqual([0, 1, 2, 3, 4].map((i) => (i < count ? 1 : 0)));
      expect(target.needsReset).toBe(false);
    }
  });

  test.each([VIRTIO_QUEUES_MAX + 1, 0xffff_ffff])(
    "with %d queues is refused before anything is made for them",
    (count) => {
      const out = new ByteWriter();
      saveState(balloonTable, stateOf(busy()), out);
      const bytes = out.done();
      const at = 1 + 1 + 4 + 4 + 4 + 8 + 4; // what stands before queue_count
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      expect(view.getUint32(at)).toBe(5);
      view.setUint32(at, count);
      expect(() => loadState(balloonTable, new ByteReader(bytes))).toThrow("'queues' has too many entries");
    },
  );
});

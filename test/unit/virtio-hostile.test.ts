// A guest that does whatever it likes to a device: nothing it does may reach beyond its own memory, or keep its host busy. Between
// two spells of nonsense it comes up as a driver should, and the device has to work as if nothing had been.
import { describe, expect, test } from "bun:test";
import type { Bytes } from "../../src/machine/virtio/memory.ts";
import { FEATURE } from "../../src/machine/virtio/mmio.ts";
import {
  BalloonRig,
  DATA,
  OWN_FEATURES,
  QUEUE,
  RAM_PAGES,
  REGISTER,
  rings,
  type Told,
} from "../support/balloon-rig.ts";
import { type Descriptor, FLAG, HIGH_GPA, RAM_BYTES } from "../support/virtio-driver.ts";

const PAGE = 4096;
const QUEUES = 5;
/** Requests of one queue that are dealt with at a time, descriptors of a request, and reads beside those. */
const REQUESTS_MAX = 128;
const CHAIN_MAX = 1024;
const READS_MAX = QUEUES * REQUESTS_MAX * (2 * CHAIN_MAX + 8);

/** xorshift: the same numbers on every run. */
function seeded(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** Memory that notices who reaches beyond it, and how often it is asked. */
class WatchedMemory implements Bytes {
  readonly #bytes: Uint8Array;
  reads = 0;
  writes = 0;
  /** Another CPU of the guest, between two looks of the device. */
  meanwhile: () => void = () => {};

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  read(offset: number, count: number): Uint8Array {
    if (++this.reads > READS_MAX) throw new Error("it does not end");
    this.#check(offset, count);
    const found = this.#bytes.slice(offset, offset + count);
    this.meanwhile();
    return found;
  }

  write(offset: number, data: Uint8Array): void {
    this.writes++;
    this.#check(offset, data.length);
    this.#bytes.set(data, offset);
  }

  #check(offset: number, count: number): void {
    const isInside = Number.isSafeInteger(offset) && offset >= 0 && count > 0 && offset + count <= RAM_BYTES;
    // No half of it is behind the other in the guest's eyes.
    const isOneSlot = offset >= RAM_BYTES / 2 || offset + count <= RAM_BYTES / 2;
    if (!isInside || !isOneSlot) throw new RangeError(`${count} bytes at ${offset}`);
  }
}

/** A driver that comes or goes has nothing in its balloon: that is no request. */
const isReset = ([what, ranges]: Told): boolean => what === "deflated" && ranges[0]?.pages === RAM_PAGES;

class HostileGuest {
  readonly memory: WatchedMemory;
  readonly rig: BalloonRig;
  readonly random: (below: number) => number;
  /** As it was when the device was last left alone. */
  readonly #before = new Uint8Array(RAM_BYTES);
  readonly counts = { steps: 0, errors: 0, requests: 0, changedPages: 0, unfinished: 0, honest: 0 };

  constructor(seed: number) {
    this.random = seeded(seed);
    let memory: WatchedMemory | null = null;
    this.rig = new BalloonRig((bytes) => {
      memory = new WatchedMemory(bytes);
      return memory;
    });
    this.memory = memory as unknown as WatchedMemory;
  }

  one<T>(...of: readonly T[]): T {
    return of[this.random(of.length)];
  }
  word(): number {
    return this.random(2 ** 32);
  }

  /** The device does something, and all that must hold of it does. */
  look<T>(action: () => T): T {
    const { rig, memory, counts } = this;
    this.#before.set(rig.bytes);
    rig.marked.clear();
    rig.told.length = 0;
    memory.reads = 0;
    memory.writes = 0;
    const wasStopped = rig.needsReset;
    const result = action();
    counts.steps++;
    if (!wasStopped && rig.needsReset) counts.errors++;
    if (rig.registers.isPending) counts.unfinished++;
    counts.requests += rig.told.filter((one) => !isReset(one)).length;
    if (memory.writes > 0) this.#checkMarked();
    this.#checkTold(wasStopped);
    return result;
  }

  #checkMarked(): void {
    const { rig, counts } = this;
    for (let page = 0; page < RAM_PAGES; page++) {
      const [from, to] = [page * PAGE, (page + 1) * PAGE];
      if (Buffer.compare(rig.bytes.subarray(from, to), this.#before.subarray(from, to)) === 0) continue;
      counts.changedPages++;
      if (!rig.marked.has(page)) throw new Error(`page ${page} was changed behind everybody's back`);
    }
  }

  #checkTold(wasStopped: boolean): void {
    const { told } = this.rig;
    if (wasStopped && !told.every(isReset)) throw new Error("a device that is stopped was told something");
    const pages = new Map<string, number>();
    for (const [what, ranges] of told)
      for (const range of ranges) {
        const isInside = range.first >= 0 && range.pages > 0 && range.first + range.pages <= RAM_PAGES;
        if (!isInside) throw new Error(`pages ${range.first} + ${range.pages} were told of`);
        pages.set(what, (pages.get(what) ?? 0) + range.pages);
      }
    for (const [what, count] of pages)
      if (count > 2 * RAM_PAGES) throw new Error(`${count} pages in one step: ${what}`);
    if (told.length > QUEUES * REQUESTS_MAX) throw new Error(`${told.length} requests in one step`);
  }

  // --- nonsense

  /** Often near something that means something. */
  gpa(): bigint {
    const near = this.one(0, DATA, RAM_BYTES / 2, RAM_BYTES, HIGH_GPA, HIGH_GPA + RAM_BYTES / 2, 2 ** 32, 2 ** 53);
    const kind = this.random(6);
    if (kind === 0) return 2n ** 64n - 1n - BigInt(this.random(64));
    if (kind === 1) return (BigInt(this.word()) << 32n) | BigInt(this.word());
    if (kind < 4) return BigInt(Math.max(0, near + this.random(64) - 32));
    return BigInt(this.random(RAM_PAGES / 2) * PAGE) + (this.random(2) ? BigInt(HIGH_GPA) : 0n);
  }

  length(): number {
    return this.one(
      0,
      1,
      2,
      4,
      10,
      16,
      48,
      PAGE,
      3 * PAGE,
      16 << 10,
      RAM_BYTES / 2,
      RAM_BYTES,
      0xffff_ffff,
      this.word(),
    );
  }

  scribbleDescriptors(at: number, count: number): void {
    const { view } = this.rig;
    for (let i = 0; i < count; i++) {
      const row = at + 16 * i;
      view.setBigUint64(row, this.gpa(), true);
      view.setUint32(row + 8, this.length(), true);
      view.setUint16(row + 12, this.one(0, FLAG.write, FLAG.write, FLAG.next, FLAG.next | FLAG.write, FLAG.indirect, 7, this.random(65536)), true); // biome-ignore format: one line
      view.setUint16(row + 14, this.one(i + 1, i, 0, this.random(128), 0xffff), true);
    }
  }

  scribble(): void {
    const { view } = this.rig;
    const at = rings(this.random(QUEUES));
    switch (this.random(6)) {
      case 0:
        this.scribbleDescriptors(at.descriptors, 128);
        break;
      case 1: // a circle, or a chain of a whole queue
        for (let i = 0; i < 128; i++) {
          view.setBigUint64(at.descriptors + 16 * i, BigInt(DATA), true);
          view.setUint32(at.descriptors + 16 * i + 8, this.one(0, 4), true);
          view.setUint16(at.descriptors + 16 * i + 12, FLAG.next, true);
          view.setUint16(at.descriptors + 16 * i + 14, (i + 1) % 128, true);
        }
        break;
      case 2: // an indirect table, in which there may be others
        this.scribbleDescriptors(DATA, 64);
        view.setBigUint64(at.descriptors, BigInt(DATA), true);
        view.setUint32(at.descriptors + 8, this.one(16, 64, 1024, 8, 0xffff_fff0), true);
        view.setUint16(at.descriptors + 12, FLAG.indirect, true);
        view.setUint16(at.available + 4, 0, true);
        break;
      case 3:
        for (let i = 0; i < 64; i++) view.setUint32(DATA + 4 * i, this.one(this.random(256), this.word()), true);
        break;
      case 4:
        view.setUint16(at.available + 4 + 2 * this.random(128), this.one(0, this.random(128), 0xffff), true);
        break;
      default:
        for (let i = 0; i < 32; i++) view.setUint8(this.random(0x7000), this.random(256));
    }
    const jump = this.one(1, 1, 1, 2, 16, 128, 129, 0x8000, 0xffff);
    view.setUint16(at.available + 2, (view.getUint16(at.available + 2, true) + jump) & 0xffff, true);
  }

  value(): number {
    return this.one(
      0,
      1,
      2,
      3,
      4,
      15,
      128,
      1024,
      0xffff_ffff,
      0x8000_0000,
      DATA,
      this.random(0x8000) * 16,
      this.word(),
    );
  }

  poke(): void {
    const { rig } = this;
    const at = this.random(4) ? this.one(...Object.values(REGISTER)) + this.one(0, 0, 4) : this.random(0x200);
    const bytes = this.one(4, 4, 4, 4, 1, 2, 8);
    const value = this.value();
    this.look(() => rig.registers.write(at, bytes, value));
  }

  /** Of one queue, while it is not ready. */
  moveRings(): void {
    const { rig } = this;
    this.look(() => rig.set(REGISTER.queueSelect, this.random(QUEUES + 1)));
    this.look(() => rig.set(REGISTER.queueReady, 0));
    for (const register of [REGISTER.descriptors, REGISTER.available, REGISTER.used]) {
      const gpa = this.gpa();
      if (this.random(2)) continue;
      this.look(() => rig.set(register, Number(gpa & 0xffff_ffffn)));
      this.look(() => rig.set(register + 4, Number(gpa >> 32n)));
    }
    this.look(() => rig.set(REGISTER.queueSize, this.one(1, 2, 32, 128, 3, 0, 256, this.word())));
    this.look(() => rig.set(REGISTER.queueReady, 1));
  }

  /** What the host does with it meanwhile. */
  host(): void {
    const { registers, balloon } = this.rig;
    switch (this.random(5)) {
      case 0:
        balloon.askForHints();
        break;
      case 1:
        balloon.endHints();
        break;
      case 2:
        balloon.wantStats();
        registers.want(QUEUE.stats);
        break;
      case 3:
        balloon.wantedPages = this.word();
        this.look(() => registers.configChanged());
        break;
      default:
        expect(Object.values(balloon.stats).every((value) => value >= 0)).toBe(true);
    }
  }

  step(): void {
    const { rig } = this;
    switch (this.random(10)) {
      case 0:
      case 1:
        this.poke();
        break;
      case 2: {
        const value = this.look(() => rig.registers.read(this.random(0x200), this.one(1, 2, 4, 8)));
        expect(Number.isInteger(value)).toBe(true);
        break;
      }
      case 3:
        this.host();
        break;
      case 4:
        this.look(() => rig.registers.serve());
        break;
      case 5:
        if (this.random(8) === 0) this.moveRings();
        break;
      default:
        this.scribble();
        this.look(() => rig.notify(this.random(QUEUES)));
    }
  }

  // --- and sense

  /** The device works for a driver that keeps to the rules, whatever was before. */
  behave(): void {
    const { rig, counts } = this;
    this.memory.meanwhile = () => {};
    this.look(() => rig.boot(this.random(2) ? OWN_FEATURES : OWN_FEATURES | FEATURE.eventIndex | FEATURE.indirect));
    const first = 16 + this.random(64);
    const free: Descriptor = [first * PAGE, 3 * PAGE, FLAG.write];
    const ranges = [{ first, pages: 3 }];
    const expectTold = (what: string, queue: number) => {
      expect({ told: rig.told, needsReset: rig.needsReset, returned: rig.returned(queue) }).toEqual({
        told: [[what, ranges]] as typeof rig.told,
        needsReset: false,
        returned: queue === QUEUE.hint ? 2 : 1,
      });
      counts.honest++;
    };
    this.look(() => rig.tell(QUEUE.report, free));
    expectTold("reported", QUEUE.report);
    rig.balloon.askForHints();
    const command = rig.registers.read(0x108, 4) >>> 0;
    rig.say(command);
    this.look(() => rig.tell(QUEUE.hint, free));
    expectTold("hinted", QUEUE.hint);
    rig.balloon.endHints();
  }
}

describe("a hostile guest", () => {
  test.each([1, 2, 3, 4])("reaches nothing but its own memory, and keeps nobody busy: seed %d", (seed) => {
    const guest = new HostileGuest(seed);
    for (let spell = 0; spell < 250; spell++) {
      guest.behave();
      for (let i = 0; i < 20; i++) guest.step();
    }
    // What it did was not refused at the door each time.
    const { counts } = guest;
    expect(counts.honest).toBe(500);
    expect(counts.steps).toBeGreaterThan(4000);
    expect(counts.errors).toBeGreaterThan(100);
    expect(counts.requests).toBeGreaterThan(counts.honest + 100);
    expect(counts.changedPages).toBeGreaterThan(500);
    expect(counts.unfinished).toBeGreaterThan(20);
  });

  test.each([5, 6])("changes its memory while the device looks at it: seed %d", (seed) => {
    const guest = new HostileGuest(seed);
    const { rig, memory, random } = guest;
    let changes = 0;
    for (let spell = 0; spell < 150; spell++) {
      guest.behave();
      memory.meanwhile = () => {
        if (random(4) !== 0) return;
        const at = random(0x6000);
        rig.view.setUint8(at, random(256));
        rig.marked.add(at >>> 12); // the guest's own write: somebody else finds it
        changes++;
      };
      for (let i = 0; i < 20; i++) guest.step();
    }
    expect(changes).toBeGreaterThan(1000);
    expect(guest.counts.errors).toBeGreaterThan(50);
    expect(guest.counts.honest).toBe(300);
  });

  test("that takes back a request at every second look keeps the device no longer than any other", () => {
    const guest = new HostileGuest(7);
    const { rig, memory } = guest;
    rig.boot(OWN_FEATURES | FEATURE.eventIndex);
    const index = rings(QUEUE.report).available + 2;
    memory.meanwhile = () => rig.view.setUint16(index, rig.view.getUint16(index, true) ^ 1, true);
    rig.notify(QUEUE.report); // none, one, none, one, …
    expect(memory.reads).toBeGreaterThan(1);
    expect(memory.reads).toBeLessThan(20);
  });

  test("whose request goes in a circle is stopped when it has as many descriptors as a request may have", () => {
    const guest = new HostileGuest(10);
    const { rig, memory } = guest;
    rig.boot();
    rig.offer(QUEUE.report, 0, [DATA, 4]);
    rig.view.setUint16(rings(QUEUE.report).descriptors + 12, FLAG.next, true); // its next is itself
    guest.look(() => rig.notify(QUEUE.report));
    expect(rig.needsReset).toBe(true);
    expect(memory.reads).toBeGreaterThan(CHAIN_MAX);
    expect(memory.reads).toBeLessThan(CHAIN_MAX + 8);
  });

  test("whose rings lie on top of each other feeds the device with its own writes, a bounded part at a time", () => {
    const guest = new HostileGuest(8);
    const { rig } = guest;
    rig.boot();
    rig.set(REGISTER.queueSelect, QUEUE.hint);
    rig.set(REGISTER.queueReady, 0);
    rig.set(REGISTER.used, rings(QUEUE.hint).available - 8); // an entry that is given back is the index of those to come
    rig.set(REGISTER.queueReady, 1);
    rig.view.setUint32(rings(QUEUE.hint).descriptors + 8, 0, true);
    rig.view.setUint16(rings(QUEUE.hint).available + 2, 1, true);
    guest.look(() => rig.notify(QUEUE.hint));
    for (let i = 0; i < 50; i++) guest.look(() => rig.registers.serve());
    guest.behave();
    expect(guest.counts.honest).toBe(2);
  });

  test("that names 4 GiB, or a ring at the end of all addresses, is stopped by each", () => {
    for (const gpa of [0n, BigInt(HIGH_GPA), 2n ** 64n - 1n, 2n ** 64n - 4096n, 2n ** 53n])
      for (const register of [REGISTER.descriptors, REGISTER.available, REGISTER.used, null]) {
        const guest = new HostileGuest(9);
        const { rig } = guest;
        rig.boot();
        if (register !== null) {
          rig.set(REGISTER.queueSelect, QUEUE.hint);
          rig.set(REGISTER.queueReady, 0);
          rig.set(register, Number(gpa & 0xffff_ffffn));
          rig.set(register + 4, Number(gpa >> 32n));
          rig.set(REGISTER.queueReady, 1);
        }
        rig.offer(QUEUE.hint, 0, [register === null ? Number(gpa) : 0x40000, register === null ? 0xffff_ffff : PAGE, FLAG.write]); // biome-ignore format: one line
        guest.look(() => rig.notify(QUEUE.hint));
        const isSane = register !== null && (gpa === 0n || gpa === BigInt(HIGH_GPA));
        expect({ gpa, register, stopped: rig.needsReset }).toEqual({ gpa, register, stopped: !isSane });
        expect(rig.told).toEqual([]);
      }
  });
});

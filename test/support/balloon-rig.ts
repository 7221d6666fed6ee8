// A balloon behind its registers, as a guest reaches it: rings in 1 MiB of memory, half of it above the hole.

import {
  BALLOON_FEATURE,
  BALLOON_QUEUES,
  BALLOON_WORDS,
  Balloon,
  type BalloonHost,
} from "../../src/machine/virtio/balloon.ts";
import { type Bytes, DeviceMemory } from "../../src/machine/virtio/memory.ts";
import { FEATURE, mmioWords, STATUS, VirtioMmio } from "../../src/machine/virtio/mmio.ts";
import type { PageRange } from "../../src/memory/bitmap.ts";
import { type Descriptor, FLAG, RAM_BYTES, SLOTS } from "./virtio-driver.ts";

export const QUEUE = { inflate: 0, deflate: 1, stats: 2, hint: 3, report: 4 } as const;
export const RAM_PAGES = RAM_BYTES / 4096;
/** Behind the rings. */
export const DATA = 0x8000;

export const REGISTER = {
  driverFeatures: 0x20,
  driverFeaturesSelect: 0x24,
  queueSelect: 0x30,
  queueSizeMax: 0x34,
  queueSize: 0x38,
  queueReady: 0x44,
  notify: 0x50,
  interruptStatus: 0x60,
  interruptAck: 0x64,
  status: 0x70,
  descriptors: 0x80,
  available: 0x90,
  used: 0xa0,
} as const;

/** Each queue has a page for its rings, of up to 128 entries. */
export const rings = (queue: number) => {
  const page = 0x1000 * (1 + queue);
  return { descriptors: page, available: page + 0x800, used: page + 0xa00 };
};

export const OWN_FEATURES = Object.values(BALLOON_FEATURE).reduce((all, one) => all | one, 0n);

export type Told = [what: keyof Omit<BalloonHost, "pages">, ranges: readonly PageRange[]];

export class BalloonRig {
  readonly bytes = new Uint8Array(RAM_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  readonly registerWords = new Int32Array(new SharedArrayBuffer(4 * mmioWords(BALLOON_QUEUES)));
  readonly words = new Int32Array(new SharedArrayBuffer(4 * BALLOON_WORDS));
  /** Pages that the device has said that it has written to. */
  readonly marked = new Set<number>();
  readonly told: Told[] = [];
  readonly registers: VirtioMmio;
  readonly balloon: Balloon;
  line = false;
  /** Of each queue, as its driver counts. */
  readonly #offered = new Uint16Array(BALLOON_QUEUES);

  /** `ram`: what stands between the device and these bytes. */
  constructor(ram?: (bytes: Uint8Array) => Bytes) {
    const plain: Bytes = {
      read: (offset, count) => this.bytes.slice(offset, offset + count),
      write: (offset, data) => this.bytes.set(data, offset),
    };
    const memory = new DeviceMemory(ram?.(this.bytes) ?? plain, SLOTS, (first, pages) => {
      for (let page = first; page < first + pages; page++) this.marked.add(page);
    });
    const tell = (what: Told[0]) => (ranges: readonly PageRange[]) => void this.told.push([what, ranges]);
    this.balloon = new Balloon(this.words, memory, {
      pages: RAM_PAGES,
      inflated: tell("inflated"),
      deflated: tell("deflated"),
      reported: tell("reported"),
      hinted: tell("hinted"),
    });
    this.registers = new VirtioMmio(this.registerWords, this.balloon, memory, (on) => {
      this.line = on;
    });
  }

  /** Its memory, and its driver's mind, are another's: a guest that has moved. */
  takeOver(other: BalloonRig): void {
    this.bytes.set(other.bytes);
    this.#offered.set(other.#offered);
  }

  get(at: number): number {
    return this.registers.read(at, 4) >>> 0;
  }
  set(at: number, value: number): void {
    this.registers.write(at, 4, value);
  }
  get needsReset(): boolean {
    return (this.get(REGISTER.status) & STATUS.needsReset) !== 0;
  }

  /** The driver comes up, with rings that nothing was put into. */
  boot(features = OWN_FEATURES): void {
    let status: number = STATUS.acknowledge | STATUS.driver;
    for (const one of [0, status]) this.set(REGISTER.status, one);
    const agreed = features | FEATURE.version1;
    for (const half of [0, 1]) {
      this.set(REGISTER.driverFeaturesSelect, half);
      this.set(REGISTER.driverFeatures, Number((agreed >> BigInt(32 * half)) & 0xffffffffn));
    }
    status |= STATUS.featuresOk;
    this.set(REGISTER.status, status);
    for (let queue = 0; queue < BALLOON_QUEUES; queue++) {
      const at = rings(queue);
      this.bytes.fill(0, at.descriptors, at.descriptors + 0x1000);
      this.#offered[queue] = 0;
      this.set(REGISTER.queueSelect, queue);
      this.set(REGISTER.queueSize, this.get(REGISTER.queueSizeMax));
      for (const [register, gpa] of [
        [REGISTER.descriptors, at.descriptors],
        [REGISTER.available, at.available],
        [REGISTER.used, at.used],
      ]) {
        this.set(register, gpa);
        this.set(register + 4, 0);
      }
      this.set(REGISTER.queueReady, 1);
    }
    this.set(REGISTER.status, status | STATUS.driverOk);
    this.told.length = 0; // a driver that comes has nothing in its balloon
  }

  sizeOf(queue: number): number {
    return this.registerWords[9 + 11 * queue];
  }

  /** One request, each part behind the other from descriptor `head` on; the device does not hear of it yet. */
  offer(queue: number, head: number, ...parts: Descriptor[]): void {
    const at = rings(queue);
    parts.forEach(([gpa, bytes, flags = 0], i) => {
      const row = at.descriptors + 16 * (head + i);
      const isLast = i === parts.length - 1;
      this.view.setBigUint64(row, BigInt(gpa), true);
      this.view.setUint32(row + 8, bytes, true);
      this.view.setUint16(row + 12, isLast ? flags : flags | FLAG.next, true);
      this.view.setUint16(row + 14, isLast ? 0 : head + i + 1, true);
    });
    const index = this.#offered[queue];
    this.view.setUint16(at.available + 4 + 2 * (index % this.sizeOf(queue)), head, true);
    this.#offered[queue] = index + 1;
    this.view.setUint16(at.available + 2, this.#offered[queue], true);
  }

  notify(queue: number): void {
    this.set(REGISTER.notify, queue);
  }

  /** One request, and the device hears of it. */
  tell(queue: number, ...parts: Descriptor[]): void {
    this.offer(queue, 0, ...parts);
    this.notify(queue);
  }

  /** The number that begins an answer, or 0, which ends it. */
  say(command: number): void {
    this.view.setUint32(DATA, command, true);
    this.tell(QUEUE.hint, [DATA, 4]);
  }

  /** What the device has given back of this queue. */
  returned(queue: number): number {
    return this.view.getUint16(rings(queue).used + 2, true);
  }
  /** The index of the request that the device wants to hear of next. */
  asksFor(queue: number): number {
    return this.view.getUint16(rings(queue).used + 4 + 8 * this.sizeOf(queue), true);
  }
}

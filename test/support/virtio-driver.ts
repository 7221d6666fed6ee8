// The driver's side of a virtqueue, for tests of devices: rings in 1 MiB of memory, half of it above the hole.
import { DeviceMemory } from "../../src/machine/virtio/memory.ts";
import { QUEUE, QUEUE_WORDS, SplitQueue } from "../../src/machine/virtio/queue.ts";

export const RAM_BYTES = 1 << 20;
export const HIGH_GPA = 4 * 2 ** 30;
export const SLOTS = [
  { slot: 0, gpa: 0, offset: 0, bytes: RAM_BYTES / 2 },
  { slot: 1, gpa: HIGH_GPA, offset: RAM_BYTES / 2, bytes: RAM_BYTES / 2 },
];
export const DESCRIPTORS = 0x1000;
export const AVAILABLE = 0x3000;
export const USED = 0x5000;
export const FLAG = { next: 1, write: 2, indirect: 4 } as const;

export type Descriptor = [gpa: number, bytes: number, flags?: number, next?: number];

/** One queue's driver, with a memory of its own. */
export class Driver {
  readonly bytes = new Uint8Array(RAM_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  readonly words = new Int32Array(new SharedArrayBuffer(4 * QUEUE_WORDS));
  /** Pages that the device has written to. */
  readonly marked: number[] = [];
  readonly memory: DeviceMemory;
  readonly queue: SplitQueue;
  readonly size: number;
  #index = 0;

  constructor(size = 8, { eventIndex = false, indirect = true, from = 0 } = {}) {
    this.size = size;
    const ram = {
      read: (offset: number, count: number) => this.bytes.slice(offset, offset + count),
      write: (offset: number, data: Uint8Array) => this.bytes.set(data, offset),
    };
    this.memory = new DeviceMemory(ram, SLOTS, (first, pages) => {
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
    this.queue = new SplitQueue(this.memory, this.words, { eventIndex, indirect });
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

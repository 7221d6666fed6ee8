// A split virtqueue, the device's side. Everything that lies in guest memory is the driver's, and may be anything.
//
//   descriptor   le64 address, le32 length, le16 flags, le16 next          size of them, or an indirect table of any number
//   available    le16 flags, le16 index, size × le16 head, le16 used_event
//   used         le16 flags, le16 index, size × (le32 head, le32 written), le16 avail_event
//
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 2.6 and 2.7.
import type { State } from "../../stream/vmstate.ts";
import { type DeviceMemory, DriverError } from "./memory.ts";

export const QUEUE_SIZE_MAX = 1024;
/** Descriptors of one request, those of an indirect table included. */
const CHAIN_MAX = QUEUE_SIZE_MAX;
const DESCRIPTOR_BYTES = 16;
const DESCRIPTOR = { next: 1, write: 2, indirect: 4 } as const;
const AVAIL_NO_INTERRUPT = 1;
const RING_AT = 4;
const INDEX_AT = 2;
const USED_ENTRY_BYTES = 8;

/** A queue's registers, in memory that all who may run the device share. */
export const QUEUE = {
  size: 0,
  ready: 1,
  descriptors: 2, // low and high half, as the two behind it
  available: 4,
  used: 6,
  /** The index up to which heads were taken, and up to which they were given back; both as the rings count, modulo 2^16. */
  taken: 8,
  returned: 9,
  /** What was returned when it was last decided whether to interrupt the driver. */
  signalled: 10,
} as const;
export const QUEUE_WORDS = 11;

const halves = (words: Int32Array, at: number): bigint =>
  BigInt(words[at] >>> 0) | (BigInt(words[at + 1] >>> 0) << 32n);

/** A queue's registers as the stream has them. */
export const saveQueue = (words: Int32Array): State => ({
  size: words[QUEUE.size] >>> 0,
  ready: words[QUEUE.ready],
  descriptors: halves(words, QUEUE.descriptors),
  available: halves(words, QUEUE.available),
  used: halves(words, QUEUE.used),
  taken: words[QUEUE.taken],
  returned: words[QUEUE.returned],
  signalled: words[QUEUE.signalled],
});

/** The mirror of saveQueue. What makes no sense in it is found out like a driver's nonsense, when it is used. */
export function loadQueue(words: Int32Array, state: State): void {
  const setHalves = (at: number, value: bigint) => {
    words[at] = Number(BigInt.asIntN(32, value));
    words[at + 1] = Number(BigInt.asIntN(32, value >> 32n));
  };
  words[QUEUE.size] = Number(state.size);
  words[QUEUE.ready] = Number(state.ready);
  setHalves(QUEUE.descriptors, state.descriptors as bigint);
  setHalves(QUEUE.available, state.available as bigint);
  setHalves(QUEUE.used, state.used as bigint);
  words[QUEUE.taken] = Number(state.taken);
  words[QUEUE.returned] = Number(state.returned);
  words[QUEUE.signalled] = Number(state.signalled);
}

export interface Segment {
  gpa: number;
  bytes: number;
}

/** One request of the driver. */
export interface Chain {
  head: number;
  readable: Segment[];
  writable: Segment[];
}

export class SplitQueue {
  readonly #memory: DeviceMemory;
  readonly #words: Int32Array;
  readonly #eventIndex: boolean;
  readonly #indirect: boolean;

  constructor(memory: DeviceMemory, words: Int32Array, features: { eventIndex: boolean; indirect: boolean }) {
    this.#memory = memory;
    this.#words = words;
    this.#eventIndex = features.eventIndex;
    this.#indirect = features.indirect;
  }

  get isReady(): boolean {
    return this.#words[QUEUE.ready] === 1 && this.#size > 0;
  }

  /** The driver's next request; null: there is none. Throws DriverError. */
  take(): Chain | null {
    const size = this.#size;
    const taken = this.#words[QUEUE.taken];
    if (!this.#isWaiting(size, taken)) {
      if (!this.#eventIndex) return null;
      this.#askFor(taken);
      // One that came before the driver could know that it is asked for. Looked at once more, not until it stays as it is.
      if (!this.#isWaiting(size, taken)) return null;
    }
    const head = this.#read16(this.#available + RING_AT + 2 * (taken % size));
    const chain = this.#follow(head);
    this.#words[QUEUE.taken] = (taken + 1) & 0xffff;
    return chain;
  }

  /** Puts the last `count` that were taken back, as if they had not been. */
  untake(count: number): void {
    this.#words[QUEUE.taken] = (this.#words[QUEUE.taken] - count) & 0xffff;
  }

  #isWaiting(size: number, taken: number): boolean {
    const waiting = (this.#read16(this.#available + INDEX_AT) - taken) & 0xffff;
    if (waiting > size) throw new DriverError(`${waiting} requests are said to wait in a queue of ${size}`);
    return waiting > 0;
  }

  /** Gives it back, with so many bytes written to its writable part. */
  giveBack({ head }: Chain, writtenBytes: number): void {
    const returned = this.#words[QUEUE.returned];
    const entry = new DataView(new ArrayBuffer(USED_ENTRY_BYTES));
    entry.setUint32(0, head, true);
    entry.setUint32(4, writtenBytes, true);
    const at = this.#used + RING_AT + USED_ENTRY_BYTES * (returned % this.#size);
    this.#memory.write(at, new Uint8Array(entry.buffer));
    const next = (returned + 1) & 0xffff;
    this.#write16(this.#used + INDEX_AT, next); // behind the entry: whoever sees the index sees that
    this.#words[QUEUE.returned] = next;
    this.#fence();
  }

  /** What was written is seen before anything is read that the driver writes when it has not seen it. */
  #fence(): void {
    Atomics.add(this.#words, QUEUE.taken, 0);
  }

  /** Whether the driver is to be interrupted for what was given back since the last time. */
  mustInterrupt(): boolean {
    const returned = this.#words[QUEUE.returned];
    const before = this.#words[QUEUE.signalled];
    if (returned === before) return false;
    this.#words[QUEUE.signalled] = returned;
    if (!this.#eventIndex) return (this.#read16(this.#available) & AVAIL_NO_INTERRUPT) === 0;
    const event = this.#read16(this.#available + RING_AT + 2 * this.#size);
    return ((returned - event - 1) & 0xffff) < ((returned - before) & 0xffff);
  }

  get #size(): number {
    const size = this.#words[QUEUE.size];
    if (size < 0 || size > QUEUE_SIZE_MAX || (size & (size - 1)) !== 0)
      throw new DriverError(`a queue cannot have ${size} entries`);
    return size;
  }
  get #descriptors(): number {
    return this.#address(QUEUE.descriptors);
  }
  get #available(): number {
    return this.#address(QUEUE.available);
  }
  get #used(): number {
    return this.#address(QUEUE.used);
  }

  #address(word: number): number {
    return (this.#words[word] >>> 0) + (this.#words[word + 1] >>> 0) * 2 ** 32;
  }

  #read16(gpa: number): number {
    const bytes = this.#memory.read(gpa, 2);
    return bytes[0] | (bytes[1] << 8);
  }

  #write16(gpa: number, value: number): void {
    this.#memory.write(gpa, Uint8Array.of(value & 0xff, value >> 8));
  }

  /** The driver is to tell of the request with this index. */
  #askFor(index: number): void {
    this.#write16(this.#used + RING_AT + USED_ENTRY_BYTES * this.#size, index);
    this.#fence();
  }

  #follow(head: number): Chain {
    const chain: Chain = { head, readable: [], writable: [] };
    let table: Segment = { gpa: this.#descriptors, bytes: this.#size * DESCRIPTOR_BYTES };
    let isIndirect = false;
    let index: number | null = head;
    for (let seen = 0; index !== null; seen++) {
      if (seen === CHAIN_MAX)
        throw new DriverError(`a request has more than ${CHAIN_MAX} descriptors, or goes in a circle`);
      if ((index + 1) * DESCRIPTOR_BYTES > table.bytes) throw new DriverError(`there is no descriptor ${index}`);
      const bytes = this.#memory.read(table.gpa + index * DESCRIPTOR_BYTES, DESCRIPTOR_BYTES);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const segment = { gpa: Number(view.getBigUint64(0, true)), bytes: view.getUint32(8, true) };
      const flags = view.getUint16(12, true);
      const next = view.getUint16(14, true);
      if (flags & DESCRIPTOR.indirect) {
        if (
          !this.#indirect ||
          isIndirect ||
          flags & DESCRIPTOR.next ||
          segment.bytes % DESCRIPTOR_BYTES ||
          !segment.bytes
        )
          throw new DriverError("an indirect descriptor is where none may be, or has no whole table");
        table = segment;
        isIndirect = true;
        index = 0;
        continue;
      }
      this.#add(chain, segment, (flags & DESCRIPTOR.write) !== 0);
      index = flags & DESCRIPTOR.next ? next : null;
    }
    return chain;
  }

  #add(chain: Chain, segment: Segment, isWritable: boolean): void {
    if (!isWritable && chain.writable.length > 0)
      throw new DriverError("a descriptor to be read comes behind one to be written");
    if (segment.bytes === 0) return;
    this.#memory.offsetOf(segment.gpa, segment.bytes);
    (isWritable ? chain.writable : chain.readable).push(segment);
  }
}

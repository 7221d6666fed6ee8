// A console: a line like a serial one, whose bytes come and go many at a time. Its words lie in shared memory.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.3.
import type { State } from "../../stream/vmstate.ts";
import type { DeviceMemory } from "./memory.ts";
import type { VirtioDevice } from "./mmio.ts";
import type { Segment, SplitQueue } from "./queue.ts";

export const CONSOLE_QUEUE = { toGuest: 0, fromGuest: 1 } as const;
const QUEUE_SIZES = [64, 64];
export const CONSOLE_QUEUES = QUEUE_SIZES.length;
/** What was typed, and the guest has no room for yet. */
export const TYPED_BYTES_MAX = 255;
/** Their number, then a word for each. */
export const CONSOLE_WORDS = 1 + TYPED_BYTES_MAX;
/** Of one request, and how many are dealt with at a time. */
const OUTPUT_BYTES_MAX = 64 << 10;
const REQUESTS_AT_A_TIME = 16;

export class Console implements VirtioDevice {
  readonly id = 3;
  readonly features = 0n;
  readonly queueSizes = QUEUE_SIZES;
  readonly #words: Int32Array;
  readonly #memory: DeviceMemory;
  readonly #put: (bytes: Uint8Array) => void;

  /** `put`: what the guest says. */
  constructor(words: Int32Array, memory: DeviceMemory, put: (bytes: Uint8Array) => void) {
    this.#words = words;
    this.#memory = memory;
    this.#put = put;
  }

  readConfig(): number {
    return 0;
  }

  writeConfig(): void {}

  serve(queue: SplitQueue, index: number): boolean {
    return index === CONSOLE_QUEUE.fromGuest ? this.#hear(queue) : this.#type(queue);
  }

  reset(): void {
    this.#words[0] = 0;
  }

  /** Under the devices' lock: how many of them there is room for. Somebody is to look at the queue to the guest then. */
  receive(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, TYPED_BYTES_MAX - this.#words[0]);
    this.#words.set(bytes.subarray(0, count), 1 + this.#words[0]);
    this.#words[0] += count;
    return count;
  }

  save(): State {
    const typed = Uint8Array.from(this.#words.subarray(1, 1 + this.#words[0]));
    return { typed_bytes: typed.length, typed };
  }

  /** The mirror of save. */
  load({ typed }: State): void {
    const bytes = typed as Uint8Array;
    this.#words[0] = bytes.length;
    this.#words.set(bytes, 1);
  }

  #hear(queue: SplitQueue): boolean {
    for (let seen = 0; seen < REQUESTS_AT_A_TIME; seen++) {
      const chain = queue.take();
      if (!chain) return false;
      let left = OUTPUT_BYTES_MAX;
      for (const { gpa, bytes } of chain.readable) {
        if (left > 0) this.#put(this.#memory.read(gpa, Math.min(bytes, left)));
        left -= bytes;
      }
      queue.giveBack(chain, 0);
    }
    return true;
  }

  #type(queue: SplitQueue): boolean {
    for (let seen = 0; seen < REQUESTS_AT_A_TIME && this.#words[0] > 0; seen++) {
      const chain = queue.take();
      if (!chain) return false;
      queue.giveBack(chain, this.#fill(chain.writable));
    }
    return this.#words[0] > 0;
  }

  #fill(segments: readonly Segment[]): number {
    const words = this.#words;
    let done = 0;
    for (const { gpa, bytes } of segments) {
      const count = Math.min(bytes, words[0] - done);
      if (count > 0) this.#memory.write(gpa, Uint8Array.from(words.subarray(1 + done, 1 + done + count)));
      done += count;
    }
    words.copyWithin(1, 1 + done, 1 + words[0]);
    words[0] -= done;
    return done;
  }
}

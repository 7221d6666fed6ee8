// A source of random bytes.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.4.
import type { DeviceMemory } from "./memory.ts";
import type { VirtioDevice } from "./mmio.ts";
import type { SplitQueue } from "./queue.ts";

const QUEUE_SIZES = [64];
export const RNG_QUEUES = QUEUE_SIZES.length;
/** Of one request: a driver that wants more asks again. */
export const RNG_BYTES_MAX = 4096;
const REQUESTS_AT_A_TIME = 16;

export class Rng implements VirtioDevice {
  readonly id = 4;
  readonly features = 0n;
  readonly queueSizes = QUEUE_SIZES;
  readonly #memory: DeviceMemory;
  readonly #random: (bytes: number) => Uint8Array;

  constructor(memory: DeviceMemory, random: (bytes: number) => Uint8Array) {
    this.#memory = memory;
    this.#random = random;
  }

  readConfig(): number {
    return 0;
  }

  writeConfig(): void {}

  serve(queue: SplitQueue): boolean {
    for (let seen = 0; seen < REQUESTS_AT_A_TIME; seen++) {
      const chain = queue.take();
      if (!chain) return false;
      let left = RNG_BYTES_MAX;
      for (const { gpa, bytes } of chain.writable) {
        const count = Math.min(left, bytes);
        if (count > 0) this.#memory.write(gpa, this.#random(count));
        left -= count;
      }
      queue.giveBack(chain, RNG_BYTES_MAX - left);
    }
    return true;
  }

  reset(): void {}
}

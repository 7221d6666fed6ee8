// A virtio device's registers in guest-physical memory. They lie in memory that all vCPUs share, so that whichever took the exit can
// serve it, and saving the device is reading them.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 4.2 (Virtio Over MMIO) and 2.1 (status).
import type { State } from "../../stream/vmstate.ts";
import { type DeviceMemory, DriverError } from "./memory.ts";
import { loadQueue, QUEUE, QUEUE_WORDS, SplitQueue, saveQueue } from "./queue.ts";

export const MMIO_BYTES = 0x200;
const CONFIG_AT = 0x100;
const MAGIC = 0x74726976; // "virt"
const VERSION = 2;
const VENDOR = 0x6d617274; // "tram"

const REGISTER = {
  magic: 0x00,
  version: 0x04,
  device: 0x08,
  vendor: 0x0c,
  deviceFeatures: 0x10,
  deviceFeaturesSelect: 0x14,
  driverFeatures: 0x20,
  driverFeaturesSelect: 0x24,
  queueSelect: 0x30,
  queueSizeMax: 0x34,
  queueSize: 0x38,
  queueReady: 0x44,
  queueNotify: 0x50,
  interruptStatus: 0x60,
  interruptAck: 0x64,
  status: 0x70,
  queueDescriptors: 0x80,
  queueDriver: 0x90,
  queueDevice: 0xa0,
  configGeneration: 0xfc,
} as const;

/** Zero written to it resets the device. */
export const STATUS_REGISTER = REGISTER.status;

/** Where each of a queue's addresses stands, in two halves. */
const ADDRESSES: Record<number, number> = {
  [REGISTER.queueDescriptors]: QUEUE.descriptors,
  [REGISTER.queueDescriptors + 4]: QUEUE.descriptors + 1,
  [REGISTER.queueDriver]: QUEUE.available,
  [REGISTER.queueDriver + 4]: QUEUE.available + 1,
  [REGISTER.queueDevice]: QUEUE.used,
  [REGISTER.queueDevice + 4]: QUEUE.used + 1,
};

export const STATUS = { acknowledge: 1, driver: 2, driverOk: 4, featuresOk: 8, needsReset: 64, failed: 128 } as const;
export const INTERRUPT = { used: 1, config: 2 } as const;

/** Bits that all devices here offer. */
export const FEATURE = { indirect: 1n << 28n, eventIndex: 1n << 29n, version1: 1n << 32n } as const;
const COMMON = FEATURE.indirect | FEATURE.eventIndex | FEATURE.version1;

const WORD = {
  status: 0,
  interruptStatus: 1,
  deviceFeaturesSelect: 2,
  driverFeaturesSelect: 3,
  queueSelect: 4,
  driverFeatures: 5, // and the high half behind it
  configGeneration: 7,
  /** Queues, as bits, in which more may be than was dealt with: whoever has the time goes on. */
  pending: 8,
  queues: 9,
} as const;

export const mmioWords = (queues: number): number => WORD.queues + queues * QUEUE_WORDS;

/** What a device is, behind its registers. */
export interface VirtioDevice {
  readonly id: number;
  /** Beside those of every device. */
  readonly features: bigint;
  /** The most entries of each queue. */
  readonly queueSizes: readonly number[];
  readConfig(at: number, bytes: number): number;
  writeConfig(at: number, bytes: number, value: number): void;
  /**
   * Deals with what the driver has put into this queue, a bounded part of it at a time; whether there may be more. Throws
   * DriverError.
   */
  serve(queue: SplitQueue, index: number): boolean;
  /** As it was before the driver came. */
  reset(): void;
  /** The driver takes a queue back, if it may while the device goes on: its memory is not touched any more when this returns. */
  stopQueue?(): void;
}

export class VirtioMmio {
  readonly #words: Int32Array;
  readonly #device: VirtioDevice;
  readonly #memory: DeviceMemory;
  readonly #setInterrupt: (on: boolean) => void;

  /** `setInterrupt` is told the level of its line. */
  constructor(words: Int32Array, device: VirtioDevice, memory: DeviceMemory, setInterrupt: (on: boolean) => void) {
    this.#words = words;
    this.#device = device;
    this.#memory = memory;
    this.#setInterrupt = setInterrupt;
  }

  #queueWords(queue: number): Int32Array {
    const at = WORD.queues + queue * QUEUE_WORDS;
    return this.#words.subarray(at, at + QUEUE_WORDS);
  }

  #queue(index: number): SplitQueue {
    const { features } = this;
    const has = (feature: bigint) => (features & feature) !== 0n;
    return new SplitQueue(this.#memory, this.#queueWords(index), {
      eventIndex: has(FEATURE.eventIndex),
      indirect: has(FEATURE.indirect),
    });
  }

  /** What both sides have. */
  get features(): bigint {
    const [low, high] = this.#words.subarray(WORD.driverFeatures, WORD.driverFeatures + 2);
    return BigInt(low >>> 0) | (BigInt(high >>> 0) << 32n);
  }

  get isDriven(): boolean {
    return (this.#words[WORD.status] & (STATUS.driverOk | STATUS.needsReset)) === STATUS.driverOk;
  }

  read(at: number, bytes: number): number {
    if (at >= CONFIG_AT) return this.#device.readConfig(at - CONFIG_AT, bytes);
    const words = this.#words;
    switch (bytes === 4 ? at : -1) {
      case REGISTER.magic:
        return MAGIC;
      case REGISTER.version:
        return VERSION;
      case REGISTER.device:
        return this.#device.id;
      case REGISTER.vendor:
        return VENDOR;
      case REGISTER.deviceFeatures: {
        const select = words[WORD.deviceFeaturesSelect] >>> 0;
        return select > 1 ? 0 : Number((this.#offered >> BigInt(32 * select)) & 0xffffffffn);
      }
      case REGISTER.queueSizeMax:
        return this.#device.queueSizes[words[WORD.queueSelect] >>> 0] ?? 0;
      case REGISTER.queueReady:
        return this.#selected?.[QUEUE.ready] ?? 0;
      case REGISTER.interruptStatus:
        return words[WORD.interruptStatus];
      case REGISTER.status:
        return words[WORD.status];
      case REGISTER.configGeneration:
        return words[WORD.configGeneration];
      default:
        return 0;
    }
  }

  write(at: number, bytes: number, value: number): void {
    if (at >= CONFIG_AT) this.#device.writeConfig(at - CONFIG_AT, bytes, value);
    else if (bytes === 4) this.#setRegister(at, value >>> 0);
  }

  #setRegister(at: number, value: number): void {
    const words = this.#words;
    switch (at) {
      case REGISTER.deviceFeaturesSelect:
        words[WORD.deviceFeaturesSelect] = value;
        break;
      case REGISTER.driverFeaturesSelect:
        words[WORD.driverFeaturesSelect] = value;
        break;
      case REGISTER.driverFeatures: {
        const select = words[WORD.driverFeaturesSelect] >>> 0;
        if (select <= 1 && !(words[WORD.status] & STATUS.featuresOk)) words[WORD.driverFeatures + select] = value;
        break;
      }
      case REGISTER.queueSelect:
        words[WORD.queueSelect] = value;
        break;
      case REGISTER.queueSize:
        this.#setQueue(QUEUE.size, value);
        break;
      case REGISTER.queueReady:
        this.#setReady(value);
        break;
      case REGISTER.queueNotify:
        if (value >= this.#device.queueSizes.length) break;
        this.lookAt(value);
        this.serve();
        break;
      case REGISTER.interruptAck:
        words[WORD.interruptStatus] &= ~value;
        if (words[WORD.interruptStatus] === 0) this.#setInterrupt(false);
        break;
      case REGISTER.status:
        this.#setStatus(value);
        break;
      default: {
        const word = ADDRESSES[at];
        if (word !== undefined) this.#setQueue(word, value);
      }
    }
  }

  /** Something may be in a queue that was not dealt with yet. */
  get isPending(): boolean {
    return this.isDriven && Atomics.load(this.#words, WORD.pending) !== 0;
  }

  /**
   * Goes through the queues, until one of them has more than is dealt with at a time. What was put into one before the driver said
   * that it is up, as Linux does, waits for that. A driver that breaks the rules has to reset the device.
   */
  serve(): void {
    const words = this.#words;
    for (const index of this.#device.queueSizes.keys()) {
      if (!this.isDriven) return;
      if (!(words[WORD.pending] & (1 << index))) continue;
      if (this.withQueue(index, (queue) => this.#device.serve(queue, index))) return;
      words[WORD.pending] &= ~(1 << index);
    }
  }

  /** There may be something to do in this queue: who serves the device is to look. */
  lookAt(queue: number): void {
    this.#words[WORD.pending] |= 1 << queue;
  }

  /** As it was before its driver came. */
  reset(): void {
    this.#setStatus(0);
  }

  /** Does something with a queue that the driver has made ready, and interrupts it where that is due; null: it has none. */
  withQueue<T>(index: number, action: (queue: SplitQueue) => T): T | null {
    if (!this.isDriven) return null;
    try {
      const queue = this.#queue(index);
      if (!queue.isReady) return null;
      const result = action(queue);
      if (queue.mustInterrupt()) this.interrupt(INTERRUPT.used);
      return result;
    } catch (error) {
      if (!(error instanceof DriverError)) throw error;
      this.stop();
      return null;
    }
  }

  /** The driver has broken the rules: it has to reset the device. */
  stop(): void {
    this.#words[WORD.status] |= STATUS.needsReset;
    this.interrupt(INTERRUPT.config);
  }

  /** The device wants to look at a queue by itself, in the thread that runs its guest. */
  want(queue: number): void {
    Atomics.or(this.#words, WORD.pending, 1 << queue);
  }

  interrupt(why: number): void {
    this.#words[WORD.interruptStatus] |= why;
    this.#setInterrupt(true);
  }

  /** The driver has not yet acknowledged an interrupt. */
  get isInterrupting(): boolean {
    return Atomics.load(this.#words, WORD.interruptStatus) !== 0;
  }

  /** What the driver reads there is another now. */
  configChanged(): void {
    this.#words[WORD.configGeneration] = (this.#words[WORD.configGeneration] + 1) >>> 0;
    if (this.isDriven) this.interrupt(INTERRUPT.config);
  }

  get #offered(): bigint {
    return COMMON | this.#device.features;
  }

  get #selected(): Int32Array | null {
    const queue = this.#words[WORD.queueSelect] >>> 0;
    return queue < this.#device.queueSizes.length ? this.#queueWords(queue) : null;
  }

  /** Not while the queue is in use. */
  #setQueue(word: number, value: number): void {
    const queue = this.#selected;
    if (queue && queue[QUEUE.ready] === 0) queue[word] = value;
  }

  #setReady(value: number): void {
    const queue = this.#selected;
    if (!queue) return;
    const sizeMax = this.#device.queueSizes[this.#words[WORD.queueSelect] >>> 0];
    const size = queue[QUEUE.size];
    if (queue[QUEUE.ready] && !(value & 1)) this.#device.stopQueue?.();
    const isSane = size > 0 && size <= sizeMax && (size & (size - 1)) === 0;
    queue[QUEUE.ready] = (value & 1) !== 0 && isSane ? 1 : 0;
    queue.fill(0, QUEUE.taken, QUEUE_WORDS);
  }

  #setStatus(value: number): void {
    const words = this.#words;
    if (value === 0) {
      words.fill(0);
      this.#setInterrupt(false);
      this.#device.reset();
      return;
    }
    const isAgreed = (this.features & ~this.#offered) === 0n && (this.features & FEATURE.version1) !== 0n;
    const refused = value & STATUS.featuresOk && !isAgreed ? STATUS.featuresOk : 0;
    words[WORD.status] = (value & 0xff & ~refused) | (words[WORD.status] & STATUS.needsReset);
    this.serve();
  }

  save(): State {
    const words = this.#words;
    return {
      status: words[WORD.status] & 0xff,
      interrupt_status: words[WORD.interruptStatus] & 0xff,
      device_features_select: words[WORD.deviceFeaturesSelect] >>> 0,
      driver_features_select: words[WORD.driverFeaturesSelect] >>> 0,
      queue_select: words[WORD.queueSelect] >>> 0,
      driver_features: this.features,
      config_generation: words[WORD.configGeneration] >>> 0,
      queue_count: this.#device.queueSizes.length,
      queues: this.#device.queueSizes.map((_, i) => saveQueue(this.#queueWords(i))),
    };
  }

  /** The mirror of save, before the guest runs: what lay in its queues is looked at again, and its line is as it was. */
  load(state: State): void {
    const words = this.#words;
    const queues = state.queues as State[];
    words[WORD.status] = Number(state.status);
    words[WORD.interruptStatus] = Number(state.interrupt_status);
    words[WORD.deviceFeaturesSelect] = Number(state.device_features_select);
    words[WORD.driverFeaturesSelect] = Number(state.driver_features_select);
    words[WORD.queueSelect] = Number(state.queue_select);
    words[WORD.driverFeatures] = Number(BigInt.asIntN(32, state.driver_features as bigint));
    words[WORD.driverFeatures + 1] = Number(BigInt.asIntN(32, (state.driver_features as bigint) >> 32n));
    words[WORD.configGeneration] = Number(state.config_generation);
    for (const i of this.#device.queueSizes.keys()) if (queues[i]) loadQueue(this.#queueWords(i), queues[i]);
    words[WORD.pending] = (1 << this.#device.queueSizes.length) - 1;
    this.#setInterrupt(words[WORD.interruptStatus] !== 0);
  }
}

// A memory balloon: pages that the guest gives up, hints of those that are free while it moves, reports of those that stay free, and
// what it says of its memory. Its words lie in shared memory, beside those of its registers.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.5.
import { PAGE_BYTES } from "../../memory/block.ts";
import type { DeviceMemory } from "./memory.ts";
import type { VirtioDevice } from "./mmio.ts";
import type { Chain, Segment, SplitQueue } from "./queue.ts";

export const BALLOON_FEATURE = {
  stats: 1n << 1n,
  deflateOnOom: 1n << 2n,
  freePageHint: 1n << 3n,
  reporting: 1n << 5n,
} as const;

const QUEUE = { inflate: 0, deflate: 1, stats: 2, hint: 3, report: 4 } as const;
const QUEUE_SIZES = [128, 128, 1, 128, 32];
/** Numbers of a hint command; from `first` on they name a request. */
export const HINT = { stop: 0, done: 1, first: 2 } as const;

const WORD = {
  /** What the guest is to give up, and what it has, in pages of 4 KiB. */
  wanted: 0,
  actual: 1,
  /** What the guest is told, and the request that it answers now; 0: none. */
  hintCommand: 2,
  hintAnswered: 3,
  /** The head of the buffer that the guest fills with its statistics when it is given back; -1: it has offered none. */
  statsHead: 4,
} as const;
export const BALLOON_WORDS = 5;

/** le32 num_pages, actual, free_page_hint_cmd_id, poison_val */
const CONFIG = { wanted: 0, actual: 4, hintCommand: 8 } as const;

/** What becomes of what the guest says. Page numbers are the block's. */
export interface BalloonHost {
  /** Its content is nobody's any more. */
  discard(pages: Uint32Array): void;
  /** The guest has no use for it now; it may have at any time after this has returned. */
  hint(firstPage: number, pages: number): void;
  /** The guest has told of all that is free. */
  hintsEnded(): void;
  stats(values: Map<number, bigint>): void;
}

export class Balloon implements VirtioDevice {
  readonly id = 5;
  readonly features: bigint;
  readonly queueSizes = QUEUE_SIZES;
  readonly #words: Int32Array;
  readonly #memory: DeviceMemory;
  readonly #queue: (index: number) => SplitQueue;
  readonly #host: BalloonHost;

  constructor(
    words: Int32Array,
    memory: DeviceMemory,
    queue: (index: number) => SplitQueue,
    host: BalloonHost,
    features: bigint,
  ) {
    this.#words = words;
    this.#memory = memory;
    this.#queue = queue;
    this.#host = host;
    this.features = features;
  }

  readConfig(at: number, bytes: number): number {
    const view = new DataView(new ArrayBuffer(16));
    view.setUint32(CONFIG.wanted, this.#words[WORD.wanted], true);
    view.setUint32(CONFIG.actual, this.#words[WORD.actual], true);
    view.setUint32(CONFIG.hintCommand, this.#words[WORD.hintCommand], true);
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + (at + i < view.byteLength ? view.getUint8(at + i) : 0);
    return value;
  }

  writeConfig(at: number, bytes: number, value: number): void {
    if (at === CONFIG.actual && bytes === 4) this.#words[WORD.actual] = value;
  }

  reset(): void {
    this.#words[WORD.actual] = 0;
    this.#words[WORD.hintAnswered] = 0;
    this.#words[WORD.statsHead] = -1;
  }

  notify(index: number): void {
    const queue = this.#queue(index);
    if (!queue.isReady) return;
    for (let chain = queue.take(); chain; chain = queue.take()) {
      if (index === QUEUE.stats) {
        this.#takeStats(chain);
        this.#words[WORD.statsHead] = chain.head;
        continue; // it goes back when somebody wants to know more
      }
      if (index === QUEUE.inflate) this.#host.discard(this.#pagesOf(chain.readable));
      else if (index === QUEUE.hint) this.#takeHint(chain);
      else if (index === QUEUE.report) for (const one of chain.writable) this.#host.discard(this.#range(one));
      queue.giveBack(chain, 0);
    }
  }

  /** A list of le32 numbers of guest pages. */
  #pagesOf(segments: readonly Segment[]): Uint32Array {
    const pages: number[] = [];
    for (const { gpa, bytes } of segments) {
      const list = this.#memory.read(gpa, bytes);
      const view = new DataView(list.buffer, list.byteOffset, list.length);
      for (let at = 0; at + 4 <= list.length; at += 4)
        pages.push(this.#memory.offsetOf(view.getUint32(at, true) * PAGE_BYTES, PAGE_BYTES) / PAGE_BYTES);
    }
    return Uint32Array.from(pages);
  }

  /** The whole pages of it. */
  #whole({ gpa, bytes }: Segment): { first: number; pages: number } {
    const offset = this.#memory.offsetOf(gpa, bytes);
    const first = Math.ceil(offset / PAGE_BYTES);
    return { first, pages: Math.max(0, Math.floor((offset + bytes) / PAGE_BYTES) - first) };
  }

  #range(segment: Segment): Uint32Array {
    const { first, pages } = this.#whole(segment);
    return Uint32Array.from({ length: pages }, (_, i) => first + i);
  }

  /** A number to be read begins an answer, or ends it; what is to be written is free. */
  #takeHint({ readable, writable }: Chain): void {
    const words = this.#words;
    if (readable.length > 0) {
      const bytes = this.#memory.read(readable[0].gpa, Math.min(4, readable[0].bytes));
      const command = bytes.length === 4 ? new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) : HINT.stop;
      const isAnswer = command >= HINT.first && command === words[WORD.hintCommand] >>> 0;
      if (!isAnswer && words[WORD.hintAnswered] !== 0 && command === HINT.stop) this.#host.hintsEnded();
      words[WORD.hintAnswered] = isAnswer ? command : 0; // an older one is not for this request
    }
    if (words[WORD.hintAnswered] === 0 || words[WORD.hintAnswered] !== words[WORD.hintCommand]) return;
    for (const segment of writable) {
      const { first, pages } = this.#whole(segment);
      if (pages > 0) this.#host.hint(first, pages);
    }
  }

  /** le16 tag, le64 value, and so on. */
  #takeStats({ readable }: Chain): void {
    const values = new Map<number, bigint>();
    for (const { gpa, bytes } of readable) {
      const list = this.#memory.read(gpa, Math.min(bytes, PAGE_BYTES));
      const view = new DataView(list.buffer, list.byteOffset, list.length);
      for (let at = 0; at + 10 <= list.length; at += 10)
        values.set(view.getUint16(at, true), view.getBigUint64(at + 2, true));
    }
    this.#host.stats(values);
  }
}

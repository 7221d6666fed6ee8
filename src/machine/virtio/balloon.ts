// A memory balloon: pages that the guest gives up, hints of those that are free while it moves, reports of those that stay free, and
// what it says of its memory. Its words lie in shared memory, beside those of its registers.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.5.
import type { PageRange } from "../../memory/bitmap.ts";
import { PAGE_BYTES } from "../../memory/block.ts";
import type { State } from "../../stream/vmstate.ts";
import { type DeviceMemory, DriverError } from "./memory.ts";
import type { VirtioDevice } from "./mmio.ts";
import type { Chain, Segment, SplitQueue } from "./queue.ts";

export const BALLOON_FEATURE = {
  stats: 1n << 1n,
  deflateOnOom: 1n << 2n,
  freePageHint: 1n << 3n,
  reporting: 1n << 5n,
} as const;
const FEATURES = Object.values(BALLOON_FEATURE).reduce((all, one) => all | one, 0n);

const QUEUE = { inflate: 0, deflate: 1, stats: 2, hint: 3, report: 4 } as const;
const QUEUE_SIZES = [128, 128, 1, 128, 32];
export const BALLOON_QUEUES = QUEUE_SIZES.length;
/** Numbers of a hint command; from `first` on they name a request. */
export const HINT = { stop: 0, done: 1, first: 2 } as const;

/** What has become of a request for hints. */
export const HINTING = { none: 0, asked: 1, answering: 2, ended: 3 } as const;

/** What the guest says of its memory, by its number there. */
const STATS = {
  swappedInBytes: 0,
  swappedOutBytes: 1,
  majorFaults: 2,
  minorFaults: 3,
  freeBytes: 4,
  totalBytes: 5,
  availableBytes: 6,
  cacheBytes: 7,
} as const;
const STATS_MAX = 16;
export type BalloonStats = Partial<Record<keyof typeof STATS, number>>;

const WORD = {
  /** What the guest is to give up, and what it has, in pages of 4 KiB. */
  wanted: 0,
  actual: 1,
  /** What the guest is told, and the request that it answers now; 0: none. */
  hintCommand: 2,
  hintAnswered: 3,
  /** The head of the buffer that the guest fills with its statistics when it is given back; -1: it has offered none. */
  statsHead: 4,
  /** The last request's number. */
  hintLast: 5,
  /** HINTING, and pages that were hinted at since the last request. */
  hinting: 6,
  hintedPages: 7,
  /** Somebody wants to know more; how often the guest has told; of what it has told, as bits, and the values in two halves. */
  statsWanted: 8,
  statsTold: 9,
  statsKnown: 10,
  stats: 11,
} as const;
export const BALLOON_WORDS = WORD.stats + 2 * STATS_MAX;

/** le32 num_pages, actual, free_page_hint_cmd_id, poison_val */
const CONFIG = { wanted: 0, actual: 4, hintCommand: 8 } as const;
const CONFIG_BYTES = 16;

/** A list of pages in one request is no longer: a driver's pages of 4 KiB hold a quarter of it. */
const LIST_BYTES_MAX = 16 << 10;
const STATS_BYTES_MAX = PAGE_BYTES;

/** What becomes of what the guest says. Pages are the block's. */
export interface BalloonHost {
  /** All that it has. */
  readonly pages: number;
  /** The guest has given them up, and takes them back. */
  inflated(ranges: readonly PageRange[]): void;
  deflated(ranges: readonly PageRange[]): void;
  /** They are free, and stay so until it has need of them; their content is nobody's. */
  reported(ranges: readonly PageRange[]): void;
  /** They are free now; it may use them at any time after this has returned. */
  hinted(ranges: readonly PageRange[]): void;
}

export class Balloon implements VirtioDevice {
  readonly id = 5;
  readonly features = FEATURES;
  readonly queueSizes = QUEUE_SIZES;
  readonly #words: Int32Array;
  readonly #memory: DeviceMemory;
  readonly #host: BalloonHost;

  constructor(words: Int32Array, memory: DeviceMemory, host: BalloonHost) {
    this.#words = words;
    this.#memory = memory;
    this.#host = host;
  }

  readConfig(at: number, bytes: number): number {
    const view = new DataView(new ArrayBuffer(CONFIG_BYTES));
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
    this.#host.deflated([{ first: 0, pages: this.#host.pages }]);
    this.#words[WORD.actual] = 0;
    this.#words[WORD.hintAnswered] = 0;
    this.#words[WORD.statsHead] = -1;
    this.#words[WORD.statsKnown] = 0;
  }

  /** All that the guest has. */
  get pages(): number {
    return this.#host.pages;
  }

  // What its host wants of the guest: under the lock of all devices.

  get wantedPages(): number {
    return this.#words[WORD.wanted] >>> 0;
  }
  set wantedPages(pages: number) {
    this.#words[WORD.wanted] = pages;
  }
  get actualPages(): number {
    return this.#words[WORD.actual] >>> 0;
  }

  /** Asks for hints, with a number of its own: the guest may be answering an older one still. */
  askForHints(): void {
    const words = this.#words;
    const last = words[WORD.hintLast] >>> 0;
    words[WORD.hintLast] = last >= HINT.first && last < 0xffffffff ? last + 1 : HINT.first;
    words[WORD.hintCommand] = words[WORD.hintLast];
    words[WORD.hintAnswered] = 0;
    words[WORD.hintedPages] = 0;
    words[WORD.hinting] = HINTING.asked;
  }

  /** No hint counts any more, and what the guest has kept back for us is its own again. */
  endHints(): void {
    this.#words[WORD.hintCommand] = HINT.done;
    this.#words[WORD.hintAnswered] = 0;
    this.#words[WORD.hinting] = HINTING.none;
  }

  get hinting(): number {
    return Atomics.load(this.#words, WORD.hinting);
  }
  get hintedPages(): number {
    return Atomics.load(this.#words, WORD.hintedPages);
  }

  /** The guest is to tell of its memory again. */
  static readonly statsQueue = QUEUE.stats;
  wantStats(): void {
    this.#words[WORD.statsWanted] = 1;
  }
  /** How often it has. */
  get statsTold(): number {
    return Atomics.load(this.#words, WORD.statsTold);
  }
  get stats(): BalloonStats {
    const known = this.#words[WORD.statsKnown];
    const entries = Object.entries(STATS).filter(([, tag]) => known & (1 << tag));
    return Object.fromEntries(entries.map(([name, tag]) => [name, this.#stat(tag)]));
  }
  #stat(tag: number): number {
    const at = WORD.stats + 2 * tag;
    return (this.#words[at] >>> 0) + (this.#words[at + 1] >>> 0) * 2 ** 32;
  }

  serve(queue: SplitQueue, index: number): boolean {
    if (index === QUEUE.stats) return this.#serveStats(queue);
    let requests = 0;
    let pages = 0;
    for (let chain = queue.take(); chain; chain = queue.take()) {
      pages += this.#serveOne(chain, index);
      queue.giveBack(chain, 0);
      // Others want the devices, too, and whoever stops the guest waits for this.
      if (++requests >= QUEUE_SIZES[index] || pages > this.#host.pages) return true;
    }
    return false;
  }

  /** How many pages it was about. */
  #serveOne(chain: Chain, index: number): number {
    if (index === QUEUE.inflate || index === QUEUE.deflate) {
      const ranges = this.#listed(chain.readable);
      if (index === QUEUE.inflate) this.#host.inflated(ranges);
      else this.#host.deflated(ranges);
      return sum(ranges);
    }
    const ranges = this.#whole(chain.writable);
    if (index === QUEUE.hint) this.#takeHint(chain, ranges);
    else this.#host.reported(ranges);
    return sum(ranges);
  }

  /** A list of le32 numbers of guest pages: neighbours as one range. */
  #listed(segments: readonly Segment[]): PageRange[] {
    if (segments.reduce((bytes, segment) => bytes + segment.bytes, 0) > LIST_BYTES_MAX)
      throw new DriverError(`a list of pages is longer than ${LIST_BYTES_MAX} bytes`);
    const pages: number[] = [];
    for (const { gpa, bytes } of segments) {
      const list = this.#memory.read(gpa, bytes);
      const view = new DataView(list.buffer, list.byteOffset, list.length);
      for (let at = 0; at + 4 <= list.length; at += 4)
        pages.push(this.#memory.offsetOf(view.getUint32(at, true) * PAGE_BYTES, PAGE_BYTES) / PAGE_BYTES);
    }
    return rangesOf(pages);
  }

  /** The whole pages of each. Together no more than there are: a request takes no longer than that. */
  #whole(segments: readonly Segment[]): PageRange[] {
    const ranges = segments.map(({ gpa, bytes }) => {
      const offset = this.#memory.offsetOf(gpa, bytes);
      const first = Math.ceil(offset / PAGE_BYTES);
      return { first, pages: Math.max(0, Math.floor((offset + bytes) / PAGE_BYTES) - first) };
    });
    if (sum(ranges) > this.#host.pages) throw new DriverError("one request tells of more pages than there are");
    return ranges.filter(({ pages }) => pages > 0);
  }

  /** A number to be read begins an answer, or ends it; what is to be written is free. */
  #takeHint({ readable }: Chain, free: readonly PageRange[]): void {
    const words = this.#words;
    const command = words[WORD.hintCommand] >>> 0;
    if (readable.length > 0) {
      const bytes = this.#memory.read(readable[0].gpa, Math.min(4, readable[0].bytes));
      const said = bytes.length === 4 ? new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) : HINT.stop;
      const isAnswer = said >= HINT.first && said === command;
      if (isAnswer) Atomics.store(words, WORD.hinting, HINTING.answering);
      else if (words[WORD.hintAnswered] !== 0 && said === HINT.stop) Atomics.store(words, WORD.hinting, HINTING.ended);
      words[WORD.hintAnswered] = isAnswer ? said : 0; // an older one is not for this request
    }
    if (free.length === 0 || words[WORD.hintAnswered] === 0 || words[WORD.hintAnswered] !== words[WORD.hintCommand])
      return;
    this.#host.hinted(free);
    Atomics.add(words, WORD.hintedPages, sum(free));
  }

  /** One buffer goes to and fro: it comes with what the guest says, and goes back when somebody wants to know more. */
  #serveStats(queue: SplitQueue): boolean {
    const words = this.#words;
    const chain = queue.take();
    if (chain) {
      this.#takeStats(chain);
      words[WORD.statsHead] = chain.head;
    }
    if (words[WORD.statsWanted] && words[WORD.statsHead] >= 0) {
      queue.giveBack({ head: words[WORD.statsHead], readable: [], writable: [] }, 0);
      words[WORD.statsHead] = -1;
      words[WORD.statsWanted] = 0;
    }
    return false;
  }

  /** le16 tag, le64 value, and so on. */
  #takeStats({ readable }: Chain): void {
    const words = this.#words;
    let leftBytes = STATS_BYTES_MAX;
    for (const { gpa, bytes } of readable) {
      const list = this.#memory.read(gpa, Math.min(bytes, leftBytes));
      leftBytes -= list.length;
      const view = new DataView(list.buffer, list.byteOffset, list.length);
      for (let at = 0; at + 10 <= list.length; at += 10) {
        const tag = view.getUint16(at, true);
        if (tag >= STATS_MAX) continue;
        words[WORD.stats + 2 * tag] = view.getInt32(at + 2, true);
        words[WORD.stats + 2 * tag + 1] = view.getInt32(at + 6, true);
        words[WORD.statsKnown] |= 1 << tag;
      }
      if (leftBytes === 0) break;
    }
    Atomics.add(words, WORD.statsTold, 1);
  }

  save(): State {
    const words = this.#words;
    return {
      wanted: this.wantedPages,
      actual: this.actualPages,
      hint_command: words[WORD.hintCommand] >>> 0,
      hint_answered: words[WORD.hintAnswered] >>> 0,
      hint_last: words[WORD.hintLast] >>> 0,
      stats_head: words[WORD.statsHead],
    };
  }

  /** The mirror of save. What a request for hints was for is left behind: nobody waits for an answer here. */
  load(state: State): void {
    const words = this.#words;
    words[WORD.wanted] = Number(state.wanted);
    words[WORD.actual] = Number(state.actual);
    words[WORD.hintCommand] = Number(state.hint_command);
    words[WORD.hintAnswered] = Number(state.hint_answered);
    words[WORD.hintLast] = Number(state.hint_last);
    words[WORD.statsHead] = Number(state.stats_head);
  }
}

const sum = (ranges: readonly PageRange[]): number => ranges.reduce((all, { pages }) => all + pages, 0);

/** Neighbours, in either direction, as one range. */
function rangesOf(pages: number[]): PageRange[] {
  const ranges: PageRange[] = [];
  for (const page of pages.sort((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last && page < last.first + last.pages) continue;
    if (last && page === last.first + last.pages) last.pages++;
    else ranges.push({ first: page, pages: 1 });
  }
  return ranges;
}

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
  /** One more than the head of the buffer that the guest fills with its statistics when it is given back; 0: it has offered none. */
  statsOffered: 4,
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

/** A list of pages in one request is no longer: a driver's page. */
const LIST_BYTES_MAX = PAGE_BYTES;
/** Each costs a system call: behind so many others may have the devices. */
const RANGES_MAX = 256;
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
    this.#words[WORD.statsOffered] = 0;
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
    let ranges = 0;
    let pages = 0;
    for (let chain = queue.take(); chain; chain = queue.take()) {
      const told = this.#serveOne(chain, index);
      ranges += told.length;
      pages += sum(told);
      queue.giveBack(chain, 0);
      // Others want the devices, too, and whoever stops the guest waits for this.
      if (++requests >= QUEUE_SIZES[index] || ranges >= RANGES_MAX || pages > this.#host.pages) return true;
    }
    return false;
  }

  /** What it was about. */
  #serveOne(chain: Chain, index: number): PageRange[] {
    if (index === QUEUE.inflate || index === QUEUE.deflate) {
      const ranges = this.#listed(chain.readable);
      if (index === QUEUE.inflate) this.#host.inflated(ranges);
      else this.#host.deflated(ranges);
      return ranges;
    }
    const ranges = this.#whole(chain.writable);
    if (index === QUEUE.hint) this.#takeHint(chain, ranges);
    else this.#host.reported(ranges);
    return ranges;
  }

  /** A list of le32 numbers of guest pages: neighbours as one range. */
  #listed(segments: readonly Segment[]): PageRange[] {
    const list = this.#read(segments, LIST_BYTES_MAX + 1);
    if (list.byteLength > LIST_BYTES_MAX)
      throw new DriverError(`a list of pages is longer than ${LIST_BYTES_MAX} bytes`);
    const pages = Array.from({ length: Math.floor(list.byteLength / 4) }, (_, i) => {
      const gpa = list.getUint32(4 * i, true) * PAGE_BYTES;
      return this.#memory.offsetOf(gpa, PAGE_BYTES) / PAGE_BYTES;
    });
    return rangesOf(pages);
  }

  /** What is to be read, up to so many bytes, however the driver has cut it. */
  #read(segments: readonly Segment[], max: number): DataView {
    const all = new Uint8Array(max);
    let length = 0;
    for (const { gpa, bytes } of segments) {
      const part = Math.min(bytes, max - length);
      if (part > 0) all.set(this.#memory.read(gpa, part), length);
      length += part;
    }
    return new DataView(all.buffer, 0, length);
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
      const number = this.#read(readable, 4);
      const said = number.byteLength === 4 ? number.getUint32(0, true) : HINT.stop;
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

  /**
   * One buffer goes to and fro: it comes with what the guest says, and goes back when somebody wants to know more. One that lay here
   * while somebody wanted to know was filled before: what it says is old, and it is no answer.
   */
  #serveStats(queue: SplitQueue): boolean {
    const words = this.#words;
    const chain = queue.take();
    if (chain) {
      this.#takeStats(chain);
      if (!words[WORD.statsWanted]) Atomics.add(words, WORD.statsTold, 1);
      words[WORD.statsOffered] = chain.head + 1;
    }
    if (words[WORD.statsWanted] && words[WORD.statsOffered]) {
      queue.giveBack({ head: words[WORD.statsOffered] - 1, readable: [], writable: [] }, 0);
      words[WORD.statsOffered] = 0;
      words[WORD.statsWanted] = 0;
    }
    // Until a look finds none: a driver with an event index kicks only behind an offer that the device has asked for.
    return chain !== null;
  }

  /** le16 tag, le64 value, and so on. */
  #takeStats({ readable }: Chain): void {
    const words = this.#words;
    const list = this.#read(readable, STATS_BYTES_MAX);
    for (let at = 0; at + 10 <= list.byteLength; at += 10) {
      const tag = list.getUint16(at, true);
      if (tag >= STATS_MAX) continue;
      words[WORD.stats + 2 * tag] = list.getInt32(at + 2, true);
      words[WORD.stats + 2 * tag + 1] = list.getInt32(at + 6, true);
      words[WORD.statsKnown] |= 1 << tag;
    }
  }

  save(): State {
    const words = this.#words;
    return {
      wanted: this.wantedPages,
      actual: this.actualPages,
      hint_command: words[WORD.hintCommand] >>> 0,
      hint_last: words[WORD.hintLast] >>> 0,
      stats_head: words[WORD.statsOffered] - 1,
    };
  }

  /** The mirror of save. A request for hints is over: nobody waits for an answer here. */
  load(state: State): void {
    const words = this.#words;
    words[WORD.wanted] = Math.min(Number(state.wanted), this.#host.pages);
    words[WORD.actual] = Number(state.actual);
    words[WORD.hintCommand] = Math.min(Number(state.hint_command), HINT.done);
    words[WORD.hintLast] = Number(state.hint_last);
    words[WORD.statsOffered] = Number(state.stats_head) + 1;
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

// Pages on their way from a buffer to where they belong: a guest's memory, or the place each has in a file.

import type { TramError } from "../errors.ts";
import type { Bitmap, PageRange } from "../memory/bitmap.ts";
import { badStream } from "../stream/bytes.ts";
import type { Transport } from "../transport/transport.ts";

/** Where the pages of one block go. Ram is one, and so is a block of a file with fixed offsets. */
export interface PageSink {
  readonly pages: number;
  /** Page i lies in `buffer` at `offset[i]` and goes to page `index[i]`. */
  scatter(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void;
  clear(index: Uint32Array, count: number): void;
  /** Memory only: pages `index[0, count)` straight from the transport; false if it ended before. */
  receive?(from: Transport, index: Uint32Array, count: number): boolean;
  read(offset: number, bytes: number): Uint8Array;
}

export interface BlockSink {
  name: string;
  sink: PageSink;
  /** Pages that have content there now. Everything else is zero: a sink begins empty. */
  present: Bitmap;
  /** Pages that the stream has told of, with content or as zero. */
  told: Bitmap;
}

/** Pages placed by one call: a buffer holds fewer. */
const BATCH_PAGES = 1024;

/** Collects pages of one block, each checked against it, and places them in large calls. */
export class PagePlacer {
  #block: BlockSink | null = null;
  readonly #index = new Uint32Array(BATCH_PAGES);
  readonly #offset = new Uint32Array(BATCH_PAGES);
  readonly #zero = new Uint32Array(BATCH_PAGES);
  #count = 0;
  #zeros = 0;

  get block(): BlockSink | null {
    return this.#block;
  }
  get hasPages(): boolean {
    return this.#count > 0;
  }
  get hasZeros(): boolean {
    return this.#zeros > 0;
  }
  get roomForOne(): boolean {
    return this.#count < BATCH_PAGES && this.#zeros < BATCH_PAGES;
  }

  /** The pages that follow are this block's. What waits must have been placed. */
  choose(block: BlockSink): void {
    this.#block = block;
  }

  #checked(page: number, streamOffset: number): BlockSink {
    const block = this.#block as BlockSink;
    if (page >= block.sink.pages) throw outsideOf(block, page, streamOffset);
    return block;
  }

  /** Takes note of pages of the block that others place. */
  note(index: Uint32Array): void {
    const { present, told } = this.#block as BlockSink;
    present.addAll(index);
    told.addAll(index);
  }

  add(page: number, at: number, streamOffset: number): void {
    this.#checked(page, streamOffset);
    this.tryAdd(page, at);
  }

  /** False: there is no room, or the page is not one of the block's. */
  tryAdd(page: number, at: number): boolean {
    const block = this.#block as BlockSink;
    if (this.#count === BATCH_PAGES || page >= block.sink.pages) return false;
    block.present.add(page);
    block.told.add(page);
    this.#index[this.#count] = page;
    this.#offset[this.#count++] = at;
    return true;
  }

  /** True if the page must be cleared: one without content is zero already. */
  noteZero(page: number, streamOffset: number): boolean {
    const { present, told } = this.#checked(page, streamOffset);
    told.add(page);
    return present.has(page);
  }

  /** Zero pages of the block, no more than there is room for: those that are not zero already are to be placed. */
  noteZeros(index: Uint32Array): void {
    const { present, told } = this.#block as BlockSink;
    told.addAll(index);
    this.#zeros += present.removeAll(index, this.#zero.subarray(this.#zeros));
  }

  /** Takes note of a zero page that is zero already. False: it is not, or is not one of the block's. */
  tryZero(page: number): boolean {
    const block = this.#block as BlockSink;
    if (page >= block.sink.pages || block.present.has(page)) return false;
    block.told.add(page);
    return true;
  }

  addZero(page: number): void {
    this.#block?.present.remove(page);
    this.#zero[this.#zeros++] = page;
  }

  /** The content that a page has now. What waits must have been placed. */
  content(page: number, streamOffset: number): Uint8Array {
    const { present, sink } = this.#checked(page, streamOffset);
    return present.has(page) ? sink.read(page * 4096, 4096) : new Uint8Array(4096);
  }

  place(buffer: Uint8Array): void {
    if (this.#count) this.#block?.sink.scatter(buffer, this.#index, this.#offset, this.#count);
    if (this.#zeros) this.#block?.sink.clear(this.#zero, this.#zeros);
    this.#count = 0;
    this.#zeros = 0;
  }
}

export function outsideOf({ name, sink }: BlockSink, page: number, streamOffset: number): TramError {
  const [expected, found] = [`a page below ${sink.pages}`, `page ${page}`];
  return badStream(`a page outside of block '${name}'`, streamOffset, expected, found);
}

/** The named one of a stream's blocks. */
export function blockOf(blocks: ReadonlyMap<string, BlockSink>, name: string, streamOffset: number): BlockSink {
  const block = blocks.get(name);
  if (!block)
    throw badStream(
      "a page of an unknown block",
      streamOffset,
      [...blocks.keys()].map((one) => `'${one}'`).join(", "),
      `'${name}'`,
    );
  return block;
}

/** Pages that the source has left out because nobody has written to them: they are as they were made, zero. */
export function tellUntouched(
  { present, told }: Pick<BlockSink, "present" | "told">,
  ranges: readonly PageRange[],
  streamOffset: number,
): void {
  const { pages } = told;
  let from = 0;
  for (const { first, pages: count } of ranges) {
    const end = first + count;
    if (first < from || count === 0)
      throw badStream(
        "ranges of untouched pages are out of order",
        streamOffset,
        `a page from ${from} on, and at least one`,
        `${count} pages from ${first} on`,
      );
    if (end > pages)
      throw badStream("untouched pages outside of the RAM", streamOffset, `pages below ${pages}`, `${first} to ${end}`);
    if (present.hasAny({ first, pages: count }))
      throw badStream("an untouched page has come with content", streamOffset, "none", `one of ${first} to ${end - 1}`);
    told.addRange({ first, pages: count });
    from = end;
  }
}

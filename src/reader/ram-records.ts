// The records of section "ram": decoded where they lie in the buffer, and placed in batches.
import { PAGE_BYTES } from "../native/ram.ts";
import { asciiText, badStream, hex } from "../stream/bytes.ts";
import { decodePageWord } from "../stream/ram.ts";
import {
  RAM_SAVE_FLAG_COMPRESS_PAGE,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_MULTIFD_FLUSH,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_XBZRLE,
  RAM_SAVE_FLAG_ZERO,
} from "../stream/wire.ts";
import { applyXbzrle } from "../stream/xbzrle.ts";
import { type BlockSink, blockOf, PagePlacer } from "./pages.ts";
import type { TransportSource } from "./source.ts";

const WORD_BYTES = 8;
const CONTINUED_PAGE = RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_CONTINUE;
const CONTINUED_PAGE_BYTES = WORD_BYTES + PAGE_BYTES;
const CONTINUED_ZERO = RAM_SAVE_FLAG_ZERO | RAM_SAVE_FLAG_CONTINUE;
const CONTINUED_ZERO_BYTES = WORD_BYTES + 1;
const XBZRLE_ENCODING = 1;
/** QEMU's own bound: what zlib makes of 4096 bytes that do not compress. */
const COMPRESSED_BYTES_MAX = 4096 + 64;

/** How often each kind of record was there. */
export interface RecordCounts {
  pages: number;
  zeroPages: number;
  xbzrlePages: number;
  compressedPages: number;
}

/** Why read() returned: the section's end, a flush, the block table's word, or only that the buffer ran dry. */
export type RamMark = "end" | "flush" | "table" | "more";

/** Watches single records: `describe` is called with the borders of each. */
export type RecordWatch = (begin: number, end: number, what: string) => void;

export class RamRecords {
  readonly counts: RecordCounts = { pages: 0, zeroPages: 0, xbzrlePages: 0, compressedPages: 0 };
  /** RAM that the table's word announced. */
  totalBytes = 0;
  watch: RecordWatch | null = null;
  readonly #source: TransportSource;
  readonly #placer = new PagePlacer();
  readonly #blocks = new Map<string, BlockSink>();
  /** The name bytes of the chosen block, to compare in place. */
  #name = new Uint8Array(0);

  constructor(source: TransportSource) {
    this.#source = source;
  }

  into(blocks: readonly BlockSink[]): void {
    for (const block of blocks) this.#blocks.set(block.name, block);
  }

  get blocks(): ReadonlyMap<string, BlockSink> {
    return this.#blocks;
  }

  /** Different pages that were told of. */
  known(): number {
    let sum = 0;
    for (const { told } of this.#blocks.values()) sum += told.count();
    return sum;
  }

  /** Reads on until there is something to decide, or what was in the buffer is placed. */
  read(): RamMark {
    const { tap } = this.#source;
    this.#source.tap = null; // pages are placed, not kept as they came
    try {
      return this.#read();
    } finally {
      this.#source.tap = tap;
    }
  }

  #read(): RamMark {
    const source = this.#source;
    const limit = source.offset + source.ready;
    for (;;) {
      if (!this.#placer.roomForOne) this.#place();
      this.#pageRun();
      this.#zeroRun();
      if (source.ready < WORD_BYTES) {
        this.#place();
        source.fill(WORD_BYTES);
      }
      const { at, offset } = source;
      const word = decodePageWord(source.peekU32(at), source.peekU32(at + 4), offset);
      switch (word.flag) {
        case RAM_SAVE_FLAG_EOS:
          return this.#mark("end");
        case RAM_SAVE_FLAG_MULTIFD_FLUSH:
          return this.#mark("flush");
        case RAM_SAVE_FLAG_MEM_SIZE:
          this.totalBytes = word.page * PAGE_BYTES;
          return this.#mark("table"); // reading the table may move what waits in the buffer
        default:
          this.#record(word.flag, word.page, this.#head(word.continues));
      }
      this.watch?.(
        offset,
        source.offset,
        `${RECORD_NAMES[word.flag]} of page ${word.page} of block '${this.#placer.block?.name}'`,
      );
      if (source.offset >= limit) {
        this.#place();
        return "more";
      }
    }
  }

  #mark(mark: RamMark): RamMark {
    this.#source.skip(WORD_BYTES);
    this.#place();
    return mark;
  }

  /**
   * The common case, in one tight loop: pages with content that continue the block and lie whole in the buffer. Stops before
   * the first record that is anything else, which the general path then looks at.
   */
  #pageRun(): void {
    const source = this.#source;
    if (!this.#placer.block || this.#placer.hasZeros || this.watch) return;
    const last = source.at + source.ready - CONTINUED_PAGE_BYTES;
    let at = source.at;
    for (; at <= last; at += CONTINUED_PAGE_BYTES) {
      const low = source.peekU32(at + 4);
      if ((low & 0xfff) !== CONTINUED_PAGE) break;
      if (!this.#placer.tryAdd(source.peekU32(at) * 0x100000 + (low >>> 12), at + WORD_BYTES)) break;
    }
    this.counts.pages += (at - source.at) / CONTINUED_PAGE_BYTES;
    source.skip(at - source.at);
  }

  /** The same for zero pages that need nothing done, which are most of a large idle guest. */
  #zeroRun(): void {
    const source = this.#source;
    if (!this.#placer.block || this.watch) return;
    const last = source.at + source.ready - CONTINUED_ZERO_BYTES;
    let at = source.at;
    for (; at <= last; at += CONTINUED_ZERO_BYTES) {
      const low = source.peekU32(at + 4);
      if ((low & 0xfff) !== CONTINUED_ZERO || source.buffer[at + WORD_BYTES] !== 0) break;
      if (!this.#placer.tryZero(source.peekU32(at) * 0x100000 + (low >>> 12))) break;
    }
    this.counts.zeroPages += (at - source.at) / CONTINUED_ZERO_BYTES;
    source.skip(at - source.at);
  }

  /** The bytes before a record's content: its word and, unless it continues, the block's name, which is chosen. */
  #head(continues: boolean): number {
    const source = this.#source;
    if (continues) {
      if (!this.#placer.block)
        throw badStream("the first page names no block", source.offset, "a block name", "CONTINUE");
      return WORD_BYTES;
    }
    this.#makeReady(WORD_BYTES + 1);
    const length = source.buffer[source.at + WORD_BYTES];
    const bytes = WORD_BYTES + 1 + length;
    this.#makeReady(bytes);
    const name = source.buffer.subarray(source.at + WORD_BYTES + 1, source.at + bytes);
    if (!this.#placer.block || Buffer.compare(name, this.#name) !== 0) {
      this.#place();
      if (this.#blocks.size === 0)
        throw badStream(
          "pages before the machine and its RAM blocks are known",
          source.offset,
          "a block table",
          "a page",
        );
      this.#placer.choose(blockOf(this.#blocks, asciiText(name, source.offset + WORD_BYTES), source.offset));
      this.#name = name.slice();
    }
    return bytes;
  }

  /** Filling the buffer moves what is in it: pages that wait there are placed first. */
  #makeReady(bytes: number): void {
    if (this.#source.ready >= bytes) return;
    this.#place();
    this.#source.fill(bytes);
  }

  #record(flag: number, page: number, headBytes: number): void {
    if (flag === RAM_SAVE_FLAG_PAGE) this.#page(page, headBytes);
    else if (flag === RAM_SAVE_FLAG_ZERO) this.#zero(page, headBytes);
    else this.#changed(flag, page, headBytes);
  }

  #page(page: number, headBytes: number): void {
    this.#makeReady(headBytes + PAGE_BYTES);
    if (this.#placer.hasZeros) this.#place(); // the last record of a page wins
    this.#placer.add(page, this.#source.at + headBytes, this.#source.offset);
    this.#source.skip(headBytes + PAGE_BYTES);
    this.counts.pages++;
  }

  #zero(page: number, headBytes: number): void {
    this.#makeReady(headBytes + 1);
    const fill = this.#source.buffer[this.#source.at + headBytes];
    if (fill !== 0) throw badStream("a zero page has another fill byte", this.#source.offset, "00", hex(fill));
    if (this.#placer.noteZero(page, this.#source.offset)) {
      if (this.#placer.hasPages) this.#place(); // the last record of a page wins
      this.#placer.addZero(page);
    }
    this.#source.skip(headBytes + 1);
    this.counts.zeroPages++;
  }

  /** Compressed, or as what changed since its last copy: rare, and one page at a time. */
  #changed(flag: number, page: number, headBytes: number): void {
    const source = this.#source;
    this.#place();
    source.skip(headBytes);
    const at = source.offset;
    let content: Uint8Array;
    if (flag === RAM_SAVE_FLAG_XBZRLE) {
      const encoding = source.u8();
      const length = source.u16();
      if (encoding !== XBZRLE_ENCODING || length > PAGE_BYTES)
        throw badStream(
          "a changed page is encoded in an unknown way",
          at,
          `encoding 1, at most ${PAGE_BYTES} bytes`,
          `encoding ${encoding}, ${length} bytes`,
        );
      content = this.#placer.content(page, at);
      applyXbzrle(content, source.bytes(length), at + 3);
      this.counts.xbzrlePages++;
    } else {
      const length = source.u32();
      if (length > COMPRESSED_BYTES_MAX)
        throw badStream("a compressed page is too long", at, `at most ${COMPRESSED_BYTES_MAX} bytes`, `${length}`);
      content = inflatePage(source.bytes(length), at + 4);
      this.counts.compressedPages++;
    }
    this.#placer.add(page, 0, at);
    this.#placer.place(content);
  }

  #place(): void {
    this.#placer.place(this.#source.buffer);
  }
}

const RECORD_NAMES: Record<number, string> = {
  [RAM_SAVE_FLAG_PAGE]: "content",
  [RAM_SAVE_FLAG_ZERO]: "zero record",
  [RAM_SAVE_FLAG_XBZRLE]: "changes",
  [RAM_SAVE_FLAG_COMPRESS_PAGE]: "compressed content",
};

/** With zlib's header and checksum, at any window. */
const ZLIB_WINDOW_BITS = 15;

function inflatePage(bytes: Uint8Array, offset: number): Uint8Array {
  const bad = (found: string) =>
    badStream("a compressed page cannot be read", offset, `${PAGE_BYTES} bytes when inflated`, found);
  let page: Uint8Array;
  try {
    page = Bun.inflateSync(bytes as Uint8Array<ArrayBuffer>, { windowBits: ZLIB_WINDOW_BITS });
  } catch (error) {
    throw bad((error as Error).message);
  }
  if (page.length !== PAGE_BYTES) throw bad(`${page.length} bytes`);
  return page;
}

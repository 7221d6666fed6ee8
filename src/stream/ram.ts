// Section "ram", version 4: the block table and the page records.
//
//   START body   be64 total | MEM_SIZE   { pstr name  be64 bytes }*   be64 EOS
//   PART, END    { record }*  be64 EOS
//   record       be64 offset | PAGE [| CONTINUE]  [pstr block]  4096 bytes
//                be64 offset | ZERO [| CONTINUE]  [pstr block]  00
//
// CONTINUE: the block of the record before, across sections too. It is absent in the first record of all.
import { type ByteSource, type ByteWriter, badStream, hex } from "./bytes.ts";
import {
  RAM_BLOCKS_MAX,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
  TARGET_PAGE_BYTES,
} from "./wire.ts";

export interface BlockEntry {
  name: string;
  bytes: number;
}

export function encodeBlockTable(out: ByteWriter, blocks: readonly BlockEntry[]): void {
  const total = blocks.reduce((sum, block) => sum + block.bytes, 0);
  out.size(total + RAM_SAVE_FLAG_MEM_SIZE);
  for (const block of blocks) out.pstr(block.name).size(block.bytes);
}

/** After the MEM_SIZE word, whose offset part is `total`. */
export function decodeBlockTable(source: ByteSource, total: number): BlockEntry[] {
  const blocks: BlockEntry[] = [];
  let sum = 0;
  while (sum < total) {
    const at = source.offset;
    if (blocks.length === RAM_BLOCKS_MAX)
      throw badStream("the stream has too many RAM blocks", at, `at most ${RAM_BLOCKS_MAX}`, "more");
    const block = { name: source.pstr(), bytes: source.size() };
    if (block.bytes === 0 || block.bytes % TARGET_PAGE_BYTES || sum + block.bytes > total)
      throw badStream(
        `RAM block '${block.name}' has an impossible size`,
        at,
        `a multiple of ${TARGET_PAGE_BYTES}, at most ${total - sum}`,
        `${block.bytes}`,
      );
    sum += block.bytes;
    blocks.push(block);
  }
  return blocks;
}

export function encodeEndOfSection(out: ByteWriter): void {
  out.size(RAM_SAVE_FLAG_EOS);
}

/** The first record of a section: it names its block. */
export function encodeFirstPage(out: ByteWriter, flag: number, page: number, block: string): void {
  out.size(page * TARGET_PAGE_BYTES + flag).pstr(block);
}

/**
 * Page records that continue a block: the 8-byte words of `index[from, to)` into `view`, `stride` bytes apart. Two 32-bit
 * stores each: with 64-bit ones this would be the loop that costs most.
 */
export function encodePageWords(
  view: DataView,
  stride: number,
  flag: number,
  index: Uint32Array,
  from: number,
  to: number,
): void {
  const low = flag | RAM_SAVE_FLAG_CONTINUE;
  for (let i = from, at = 0; i < to; i++, at += stride) {
    view.setUint32(at, index[i] >>> 20);
    view.setUint32(at + 4, ((index[i] << 12) | low) >>> 0);
  }
}

export interface PageWord {
  flag: number;
  page: number;
  continues: boolean;
}

/** A record's word from its two halves. `offset` is where the word lies, for the error. */
export function decodePageWord(high: number, low: number, offset: number): PageWord {
  const flag = low & 0xfff & ~RAM_SAVE_FLAG_CONTINUE;
  if (
    (low & 0xfff) === (RAM_SAVE_FLAG_EOS | RAM_SAVE_FLAG_CONTINUE) ||
    (flag === RAM_SAVE_FLAG_EOS && (high || low >>> 12))
  )
    throw badStream(
      "the end of section 'ram' has an offset or continues",
      offset,
      hex(RAM_SAVE_FLAG_EOS, 16),
      `${hex(high, 8)}${low.toString(16).padStart(8, "0")}`,
    );
  if (
    flag !== RAM_SAVE_FLAG_PAGE &&
    flag !== RAM_SAVE_FLAG_ZERO &&
    flag !== RAM_SAVE_FLAG_EOS &&
    flag !== RAM_SAVE_FLAG_MEM_SIZE
  )
    throw badStream("unknown record in section 'ram'", offset, "PAGE, ZERO or EOS", `flags ${hex(low & 0xfff, 3)}`);
  if (high >>> 20) throw badStream("a page lies outside all memory", offset, "an offset below 2^52", hex(high, 8));
  return { flag, page: high * 0x100000 + (low >>> 12), continues: (low & RAM_SAVE_FLAG_CONTINUE) !== 0 };
}

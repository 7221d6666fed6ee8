// Section "ram", version 4: the block table and the page records.
//
//   START body   be64 total | MEM_SIZE   { pstr name  be64 bytes }*   be64 EOS
//   PART, END    { record }*  be64 EOS
//   record       be64 offset | PAGE [| CONTINUE]  [pstr block]  4096 bytes
//                be64 offset | ZERO [| CONTINUE]  [pstr block]  00
//                be64 offset | XBZRLE [| CONTINUE]  [pstr block]  01  be16 n  n bytes                  see xbzrle.ts
//                be64 offset | COMPRESS_PAGE [| CONTINUE]  [pstr block]  be32 n  n bytes               one zlib stream
//                be64 MULTIFD_FLUSH: the channels' pages so far come before what follows
//
// CONTINUE: the block of the record before, across sections too. It is absent in the first record of all.
import { type ByteSource, type ByteWriter, badStream, hex } from "./bytes.ts";
import {
  RAM_BLOCKS_MAX,
  RAM_BYTES_MAX,
  RAM_SAVE_FLAG_COMPRESS_PAGE,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_MULTIFD_FLUSH,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_XBZRLE,
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

/**
 * After the MEM_SIZE word, whose offset part is `total`. `each` consumes what follows a block's name and size, where the
 * stream has more there.
 */
export function decodeBlockTable<T extends BlockEntry>(
  source: ByteSource,
  total: number,
  each: (block: BlockEntry) => T = (block) => block as T,
): T[] {
  const blocks: T[] = [];
  const names = new Set<string>();
  let sum = 0;
  if (total > RAM_BYTES_MAX)
    throw badStream(
      "the stream has more RAM than there is",
      source.offset,
      `at most ${RAM_BYTES_MAX} bytes`,
      `${total}`,
    );
  while (sum < total) {
    const at = source.offset;
    if (blocks.length === RAM_BLOCKS_MAX)
      throw badStream("the stream has too many RAM blocks", at, `at most ${RAM_BLOCKS_MAX}`, "more");
    const block = { name: source.pstr(), bytes: source.size() };
    if (block.name === "" || names.has(block.name))
      throw badStream("a RAM block has no name of its own", at, "a name no other block has", `'${block.name}'`);
    if (block.bytes === 0 || block.bytes % TARGET_PAGE_BYTES || sum + block.bytes > total)
      throw badStream(
        `RAM block '${block.name}' has an impossible size`,
        at,
        `a multiple of ${TARGET_PAGE_BYTES}, at most ${total - sum}`,
        `${block.bytes}`,
      );
    sum += block.bytes;
    names.add(block.name);
    blocks.push(each(block));
  }
  return blocks;
}

/** Multifd: what the channels have brought belongs before what follows. */
export function encodeFlush(out: ByteWriter): void {
  out.size(RAM_SAVE_FLAG_MULTIFD_FLUSH);
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

const FLAGS: ReadonlySet<number> = new Set([
  RAM_SAVE_FLAG_ZERO,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_XBZRLE,
  RAM_SAVE_FLAG_COMPRESS_PAGE,
  RAM_SAVE_FLAG_MULTIFD_FLUSH,
]);

/** A record's word from its two halves. `offset` is where the word lies, for the error. */
export function decodePageWord(high: number, low: number, offset: number): PageWord {
  const flag = low & 0xfff & ~RAM_SAVE_FLAG_CONTINUE;
  const continues = (low & RAM_SAVE_FLAG_CONTINUE) !== 0;
  if (!FLAGS.has(flag))
    throw badStream("unknown record in section 'ram'", offset, "PAGE, ZERO or EOS", `flags ${hex(low & 0xfff, 3)}`);
  const isMark = flag === RAM_SAVE_FLAG_EOS || flag === RAM_SAVE_FLAG_MULTIFD_FLUSH;
  if (isMark && (continues || high || low >>> 12))
    throw badStream(
      `the ${flag === RAM_SAVE_FLAG_EOS ? "end" : "flush"} of section 'ram' has an offset or continues`,
      offset,
      hex(flag, 16),
      `${hex(high, 8)}${(low >>> 0).toString(16).padStart(8, "0")}`,
    );
  if (high >>> 20) throw badStream("a page lies outside all memory", offset, "an offset below 2^52", hex(high, 8));
  return { flag, page: high * 0x100000 + (low >>> 12), continues };
}

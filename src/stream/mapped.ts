// Fixed offsets ("mapped-ram"): in START of section "ram" each block is followed by where its pages lie in the file.
//
//   pstr name  be64 bytes   be32 version 1  be64 page size  be64 bitmap offset  be64 pages offset   bitmap   …   pages
//
// Offsets count from the beginning of the file, wherever the stream begins in it. The bitmap lies behind its header: bit n of
// byte n/8, lowest first, in whole 64-bit words; a clear bit is a zero page, whatever the file has there. Page n is at
// pages offset + 4096 n. The next record follows the page area at once.
import { type ByteSource, type ByteWriter, badStream } from "./bytes.ts";
import type { BlockEntry } from "./ram.ts";
import { MAPPED_RAM_FILE_OFFSET_ALIGNMENT as ALIGNMENT, MAPPED_RAM_HDR_VERSION, TARGET_PAGE_BYTES } from "./wire.ts";

const HEADER_BYTES = 28;
const ENTRY_BYTES = 1 + 8;

/** A block, and where its pages lie. */
export interface PlacedBlock extends BlockEntry {
  pagesOffset: number;
}

export interface MappedBlock extends PlacedBlock {
  bitmapOffset: number;
}

export const bitmapBytes = (blockBytes: number): number => Math.ceil(blockBytes / TARGET_PAGE_BYTES / 64) * 8;

/** Where each block goes, when the first one's name stands at `start`. */
export function layOutBlocks(blocks: readonly BlockEntry[], start: number): MappedBlock[] {
  let at = start;
  return blocks.map(({ name, bytes }) => {
    const bitmapOffset = at + ENTRY_BYTES + name.length + HEADER_BYTES;
    const pagesOffset = Math.ceil((bitmapOffset + bitmapBytes(bytes)) / ALIGNMENT) * ALIGNMENT;
    at = pagesOffset + bytes;
    return { name, bytes, bitmapOffset, pagesOffset };
  });
}

/** The byte behind a block's pages: where the next record begins. */
export const endOfBlock = ({ pagesOffset, bytes }: PlacedBlock): number => pagesOffset + bytes;

/** A block's name, size and header. */
export function encodeMappedBlock(out: ByteWriter, block: MappedBlock): void {
  out.pstr(block.name).size(block.bytes);
  out.u32(MAPPED_RAM_HDR_VERSION).size(TARGET_PAGE_BYTES).size(block.bitmapOffset).size(block.pagesOffset);
}

/** After the block's name and size. */
export function decodeMappedHeader(source: ByteSource, { name, bytes }: BlockEntry): MappedBlock {
  const at = source.offset;
  const wrong = (what: string, offset: number, expected: string, found: number) =>
    badStream(`RAM block '${name}': ${what}`, at + offset, expected, `${found}`);
  const version = source.u32();
  if (version !== MAPPED_RAM_HDR_VERSION) throw wrong("unknown layout", 0, "version 1", version);
  const pageBytes = source.size();
  if (pageBytes !== TARGET_PAGE_BYTES) throw wrong("another page size", 4, `${TARGET_PAGE_BYTES}`, pageBytes);
  const bitmapOffset = source.size();
  const pagesOffset = source.size();
  if (pagesOffset % TARGET_PAGE_BYTES) throw wrong("pages at an odd offset", 20, "a multiple of 4096", pagesOffset);
  if (!Number.isSafeInteger(pagesOffset + bytes) || !Number.isSafeInteger(bitmapOffset + bitmapBytes(bytes)))
    throw wrong("it ends beyond any file", 12, "an end below 2^53", pagesOffset);
  return { name, bytes, bitmapOffset, pagesOffset };
}

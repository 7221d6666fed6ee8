// The seal: hashes of a file with fixed offsets, so that whoever reads it can tell that it is as it was written. It stands
// behind the stream, where QEMU does not look, or in a file of its own.
//
//   stream   zeros to a multiple of 4096   HEAD   zeros   TABLE of block 0   zeros   TABLE of block 1 …   FOOTER: the file's end
//
//   HEAD     "TRAMSEAL"  be32 version 1  be32 flags  be64 stream begin  be64 stream end
//            be32 extents { be64 offset  be64 bytes  be64 hash }    all between stream begin and HEAD but the page areas
//            be32 blocks  { pstr name  be64 bytes  be64 pages offset  be64 table offset, from HEAD  be64 hash of the table }
//   TABLE    for each page of the block its hash, le64; 0: the page is clear in the bitmap, and reads as zeros
//   FOOTER   "TRAMSEAL"  be64 offset of HEAD  be64 bytes of HEAD  be64 root: the hash of HEAD  "TRAMSEAL"
//
// A hash is XXH3-64 with seed 0. A clear page whose place has other bytes than zeros (QEMU leaves such) has their hash; flag 1
// says that there are none. HEAD and the tables begin at multiples of 4096. The first byte is no QEMU_VM_VMDESCRIPTION.
import { TramError } from "../errors.ts";
import { ByteReader, type ByteWriter, badStream, hex } from "./bytes.ts";
import { endOfBlock, type PlacedBlock } from "./mapped.ts";
import type { BlockEntry } from "./ram.ts";
import { RAM_BLOCKS_MAX, RAM_BYTES_MAX, TARGET_PAGE_BYTES } from "./wire.ts";

export const SEAL_MAGIC = Buffer.from("TRAMSEAL");
const VERSION = 1;
const FLAG_HOLES = 1;
export const SEAL_FOOTER_BYTES = 40;
/** More than any head has: RAM_BLOCKS_MAX blocks and as many extents. */
export const SEAL_HEAD_BYTES_MAX = 1 << 20;
/** Of the head, up to its extents. */
const PREFIX_BYTES = 32;
const ENTRY_BYTES = 8;

export interface SealExtent {
  offset: number;
  bytes: number;
  hash: bigint;
}

export interface SealBlock extends PlacedBlock {
  /** From the head's first byte. */
  tableOffset: number;
  tableHash: bigint;
}

export interface SealHead {
  streamOffset: number;
  streamEnd: number;
  /** Every page that is clear in the bitmap reads as zeros. */
  holes: boolean;
  extents: SealExtent[];
  blocks: SealBlock[];
}

export interface SealFooter {
  headOffset: number;
  headBytes: number;
  root: bigint;
}

export const alignSeal = (offset: number): number => Math.ceil(offset / TARGET_PAGE_BYTES) * TARGET_PAGE_BYTES;

export const tableBytes = (block: { bytes: number }): number => (block.bytes / TARGET_PAGE_BYTES) * ENTRY_BYTES;

/** The ranges of a file that a seal hashes whole: everything but the pages. `end`: where the seal's head would begin. */
export function extentsOf(
  streamOffset: number,
  blocks: readonly PlacedBlock[],
  end: number,
): { offset: number; bytes: number }[] {
  let at = streamOffset;
  const extents: { offset: number; bytes: number }[] = [];
  for (const block of [...blocks].sort((a, b) => a.pagesOffset - b.pagesOffset)) {
    if (block.pagesOffset < at)
      throw new TramError("E_STREAM", `the pages of block '${block.name}' lie over something else`, {
        expected: `pages from byte ${at} on`,
        found: `pages from byte ${block.pagesOffset} on`,
      });
    extents.push({ offset: at, bytes: block.pagesOffset - at });
    at = endOfBlock(block);
  }
  extents.push({ offset: at, bytes: end - at });
  return extents;
}

/** Where the tables and the footer go: from the head's first byte. */
export function layOutSeal(blocks: readonly BlockEntry[]): { headBytes: number; tables: number[]; footer: number } {
  const names = blocks.reduce((sum, { name }) => sum + 1 + name.length, 0);
  const headBytes = PREFIX_BYTES + 8 + (blocks.length + 1) * 24 + names + blocks.length * 32;
  let at = alignSeal(headBytes);
  const tables = blocks.map((block) => {
    const here = at;
    at = alignSeal(at + tableBytes(block));
    return here;
  });
  return { headBytes, tables, footer: at };
}

export function encodeSealHead(out: ByteWriter, head: SealHead): void {
  out.bytes(SEAL_MAGIC).u32(VERSION);
  out.u32(head.holes ? FLAG_HOLES : 0);
  out.size(head.streamOffset).size(head.streamEnd);
  out.u32(head.extents.length);
  for (const { offset, bytes, hash } of head.extents) out.size(offset).size(bytes).u64(hash);
  out.u32(head.blocks.length);
  for (const block of head.blocks)
    out.pstr(block.name).size(block.bytes).size(block.pagesOffset).size(block.tableOffset).u64(block.tableHash);
}

/** `bytes` are all of the head, which stands at `at`; they have the hash that the footer says. */
export function decodeSealHead(bytes: Uint8Array, at: number): SealHead {
  const source = new ByteReader(bytes, at);
  const magic = Buffer.from(source.bytes(SEAL_MAGIC.length));
  if (!magic.equals(SEAL_MAGIC))
    throw badStream("the seal has another beginning", at, "TRAMSEAL", magic.toString("hex"));
  const version = source.u32();
  if (version !== VERSION) throw badStream("the seal is of another version", at + 8, `${VERSION}`, `${version}`);
  const flags = source.u32();
  if (flags & ~FLAG_HOLES)
    throw badStream("the seal says what nobody here knows", at + 12, "flag 1 or none", hex(flags, 8));
  const streamOffset = source.size();
  const streamEnd = source.size();
  const extents = many(source, "extents", () => ({ offset: source.size(), bytes: source.size(), hash: source.u64() }));
  const blocks = many(source, "blocks", () => ({
    name: source.pstr(),
    bytes: source.size(),
    pagesOffset: source.size(),
    tableOffset: source.size(),
    tableHash: source.u64(),
  }));
  for (const { name, bytes: size } of blocks)
    if (size % TARGET_PAGE_BYTES || size > RAM_BYTES_MAX)
      throw badStream(`the seal has a block '${name}' that cannot be`, at, "whole pages", `${size} bytes`);
  if (source.left) throw badStream("the seal's head goes on", source.offset, "its end", `${source.left} bytes more`);
  return { streamOffset, streamEnd, holes: (flags & FLAG_HOLES) !== 0, extents, blocks };
}

function many<T>(source: ByteReader, what: string, one: () => T): T[] {
  const at = source.offset;
  const count = source.u32();
  if (count > RAM_BLOCKS_MAX + 1)
    throw badStream(`the seal has too many ${what}`, at, `at most ${RAM_BLOCKS_MAX + 1}`, `${count}`);
  return Array.from({ length: count }, one);
}

export function encodeSealFooter(out: ByteWriter, footer: SealFooter): void {
  out.bytes(SEAL_MAGIC).size(footer.headOffset).size(footer.headBytes).u64(footer.root).bytes(SEAL_MAGIC);
}

/** `bytes`: a file's last ones, which stand at `at`. null: they are no seal's. */
export function decodeSealFooter(bytes: Uint8Array, at: number): SealFooter | null {
  if (bytes.length !== SEAL_FOOTER_BYTES) return null;
  const isMagic = (from: number) => SEAL_MAGIC.equals(bytes.subarray(from, from + SEAL_MAGIC.length));
  const [begins, ends] = [isMagic(0), isMagic(SEAL_FOOTER_BYTES - SEAL_MAGIC.length)];
  if (!begins && !ends) return null;
  const source = new ByteReader(bytes.subarray(SEAL_MAGIC.length), at + SEAL_MAGIC.length);
  const [high, low, size, root] = [source.u32(), source.u32(), source.u64(), source.u64()];
  const headOffset = high * 2 ** 32 + low;
  if (!begins || !ends || headOffset % TARGET_PAGE_BYTES || headOffset >= at || size > SEAL_HEAD_BYTES_MAX)
    throw new TramError("E_HASH", "the seal's last bytes are damaged", {
      where: `byte ${at}`,
      expected: "TRAMSEAL, the place of the seal's head, TRAMSEAL",
      found: Buffer.from(bytes).toString("hex"),
      next: "the guest in the file may be whole: tram inspect reads it without the seal",
    });
  return { headOffset, headBytes: Number(size), root };
}

/** A seal's head in what lies behind a stream's RAM, whole or not. Offsets count from the beginning of the file. */
export interface SealSeen {
  offset: number;
  streamEnd: number;
}

/**
 * Looks for it in `bytes`, which stand at `at` of their file; null: there is none. Its first bytes say where the stream ends,
 * which is just before it: what only looks like a seal does not.
 */
export function findSealHead(bytes: Uint8Array, at: number): SealSeen | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let i = alignSeal(at) - at; i + PREFIX_BYTES <= bytes.length; i += TARGET_PAGE_BYTES) {
    if (!SEAL_MAGIC.equals(bytes.subarray(i, i + SEAL_MAGIC.length))) continue;
    const streamEnd = view.getUint32(i + 24) * 2 ** 32 + view.getUint32(i + 28);
    if (streamEnd > at && alignSeal(streamEnd) === at + i) return { offset: at + i, streamEnd };
  }
  return null;
}

// Files with fixed offsets for tests of seals: made, sealed and verified in this process, with one thread.
import { closeSync, fstatSync, openSync, writeSync } from "node:fs";
import { fromErrorData } from "../../src/errors.ts";
import { type HashJob, hashPages, mergeResults } from "../../src/inspect/hashing.ts";
import { examineToSeal, hashToSeal } from "../../src/inspect/sealing.ts";
import { type Verification, verify } from "../../src/inspect/verify.ts";
import { setLength } from "../../src/native/file.ts";
import { besidePath } from "../../src/reader/seal.ts";
import { ByteWriter } from "../../src/stream/bytes.ts";
import { bitmapBytes, encodeMappedBlock, endOfBlock, layOutBlocks, type MappedBlock } from "../../src/stream/mapped.ts";
import { encodeEndOfSection } from "../../src/stream/ram.ts";
import { alignSeal } from "../../src/stream/seal.ts";
import {
  encodeFooter,
  encodeHeader,
  encodeSectionPart,
  encodeSectionStart,
  encodeVmDescription,
} from "../../src/stream/section.ts";
import { writeSeal } from "../../src/writer/seal.ts";
import { seeded } from "./golden.ts";

const PAGE = 4096;

export const hashHere = async (job: HashJob) => mergeResults(job, [hashPages(job)]);

export const verifyHere = (
  path: string,
  offset: number | null = null,
  seal: string | null = null,
): Promise<Verification> => verify({ path, fd: null, offset }, seal, hashHere);

/** As tram seal does, without its care for disks and other processes. */
export async function sealHere(
  path: string,
  { offset = null as number | null, beside = false, force = false } = {},
): Promise<void> {
  const { file, problems } = examineToSeal({ path, fd: null, offset }, { force, beside });
  if (!file || problems.length) throw fromErrorData(problems[0]);
  const sealed = await hashToSeal(file, beside ? (end) => end : alignSeal, hashHere);
  const fd = openSync(beside ? besidePath(path) : path, beside ? "w" : "r+");
  if (!beside) setLength(fd, sealed.streamEnd);
  writeSeal(fd, beside ? 0 : alignSeal(sealed.streamEnd), sealed);
  closeSync(fd);
  file.file.close();
}

/** What is at a page's place, and whether the bitmap has it. */
export type PageKind = "content" | "zeros" | "hole" | "stale" | "clear zeros" | "clear hole";
const PRESENT: readonly PageKind[] = ["content", "zeros", "hole"];

export interface FileShape {
  /** Where the stream begins. */
  base?: number;
  blocks: { name: string; kinds: readonly PageKind[] }[];
  /** Behind the pages; default: no devices, described. */
  tail?: Uint8Array;
}

/** Writes such a file; where its blocks are, and its stream's end. */
export function writeMapped(
  path: string,
  { base = 0, blocks, tail }: FileShape,
): { blocks: MappedBlock[]; end: number } {
  const random = seeded(blocks.length);
  const fd = openSync(path, "w+");
  const put = (bytes: Uint8Array, at: number) => void writeSync(fd, bytes, 0, bytes.length, at);
  const out = new ByteWriter();
  encodeHeader(out, { machine: "none", capabilities: ["mapped-ram"], uuid: null });
  encodeSectionStart(out, 1, { id: 1, name: "ram", instance: 0, version: 4 });
  const sizes = blocks.map(({ name, kinds }) => ({ name, bytes: kinds.length * PAGE }));
  out.size(sizes.reduce((sum, { bytes }) => sum + bytes, 0) + 4);
  put(new Uint8Array(base).fill(0x2e), 0);
  put(out.done(), base);
  const placed = layOutBlocks(sizes, base + out.length);
  let at = base + out.length;
  for (const [i, block] of placed.entries()) {
    const header = new ByteWriter();
    encodeMappedBlock(header, block);
    put(header.done(), at);
    const bitmap = new Uint8Array(bitmapBytes(block.bytes));
    for (const [page, kind] of blocks[i].kinds.entries()) {
      if (PRESENT.includes(kind)) bitmap[page >> 3] |= 1 << (page & 7);
      if (kind === "hole" || kind === "clear hole") continue;
      const content = new Uint8Array(PAGE);
      if (kind === "content" || kind === "stale") for (let n = 0; n < 64; n++) content[random(PAGE)] = 1 + random(255);
      put(content, block.pagesOffset + page * PAGE);
    }
    put(bitmap, block.bitmapOffset);
    at = endOfBlock(block);
  }
  const behind = new ByteWriter();
  encodeEndOfSection(behind);
  encodeFooter(behind, 1);
  encodeSectionPart(behind, 3, 1);
  encodeEndOfSection(behind);
  encodeFooter(behind, 1);
  if (tail) behind.bytes(tail);
  else {
    behind.u8(0);
    encodeVmDescription(behind, { page_size: PAGE, devices: [] });
  }
  put(behind.done(), at);
  const end = fstatSync(fd).size;
  closeSync(fd);
  return { blocks: placed, end };
}

/** All kinds of pages, in runs and alone. */
export const mixedKinds = (pages: number, seed: number): PageKind[] => {
  const random = seeded(seed);
  const all: PageKind[] = ["content", "content", "content", "zeros", "hole", "stale", "clear zeros", "clear hole", "clear hole"]; // biome-ignore format: one line
  const kinds: PageKind[] = [];
  while (kinds.length < pages) {
    const kind = all[random(all.length)];
    for (let run = 1 + random(5); run > 0 && kinds.length < pages; run--) kinds.push(kind);
  }
  return kinds;
};

// The pages of a file with fixed offsets, read in runs: copied elsewhere, or compared.

import { PageFile } from "../native/file.ts";
import { lookAtChanges, ZERO_AFTER, ZERO_BEFORE } from "../native/look.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { MappedFile, StoredBlock } from "../reader/mapped.ts";

const CHUNK_PAGES = 256;

/** Calls `visit` with each chunk of a block's pages that have content, in order: their numbers, and their bytes one after another. */
function forPages(
  file: MappedFile,
  block: StoredBlock,
  from: number,
  to: number,
  visit: (index: Uint32Array, count: number, bytes: Uint8Array) => void,
): void {
  const index = new Uint32Array(CHUNK_PAGES);
  const offset = Uint32Array.from({ length: CHUNK_PAGES }, (_, i) => i * PAGE_BYTES);
  const bytes = new Uint8Array(CHUNK_PAGES * PAGE_BYTES);
  for (let page = from; page < to; ) {
    const { count, next } = block.present.find(page, to, index);
    if (count) {
      file.readPages(block, bytes, index, offset, count);
      visit(index, count, bytes);
    }
    page = next;
  }
}

/** Copies `bytes` of a block from `offset` on to `fd` at `at`. Zero pages stay holes. */
export function copyRange(
  file: MappedFile,
  block: StoredBlock,
  offset: number,
  bytes: number,
  fd: number,
  at: number,
): number {
  const first = offset / PAGE_BYTES;
  const pages = bytes / PAGE_BYTES;
  const out = new PageFile(fd);
  const area = { pagesOffset: at, pages };
  const places = Uint32Array.from({ length: CHUNK_PAGES }, (_, i) => i * PAGE_BYTES);
  const to = new Uint32Array(CHUNK_PAGES);
  let copied = 0;
  forPages(file, block, first, first + pages, (index, count, buffer) => {
    for (let i = 0; i < count; i++) to[i] = index[i] - first;
    out.write(area, buffer, to, places, count);
    copied += count;
  });
  out.close();
  return copied;
}

/** How each page differs between two blocks of one size: see lookAtChanges. */
export function changesBetween(a: MappedFile, blockA: StoredBlock, b: MappedFile, blockB: StoredBlock): Uint16Array {
  const { pages } = blockA.present;
  const changes = new Uint16Array(pages).fill(ZERO_BEFORE | ZERO_AFTER);
  const [readA, readB] = [wholeChunks(a, blockA), wholeChunks(b, blockB)];
  for (let first = 0; first < pages; first += CHUNK_PAGES) {
    const chunk = { first, pages: Math.min(CHUNK_PAGES, pages - first) };
    if (!blockA.present.hasAny(chunk) && !blockB.present.hasAny(chunk)) continue;
    const end = first + chunk.pages;
    lookAtChanges(readA(first, end), readB(first, end), chunk.pages, changes.subarray(first, end));
  }
  return changes;
}

/** The pages that differ, as [first, end) runs. */
export function differingRuns(changes: Uint16Array): [number, number][] {
  const runs: [number, number][] = [];
  for (let page = 0; page < changes.length; page++) {
    if ((changes[page] & ~(ZERO_BEFORE | ZERO_AFTER)) === 0) continue;
    const last = runs.at(-1);
    if (last?.[1] === page) last[1]++;
    else runs.push([page, page + 1]);
  }
  return runs;
}

/** Reads pages [from, to) with the zero ones among them; valid until the next call. */
function wholeChunks(file: MappedFile, block: StoredBlock): (from: number, to: number) => Uint8Array {
  const index = new Uint32Array(CHUNK_PAGES);
  const bytes = new Uint8Array(CHUNK_PAGES * PAGE_BYTES);
  return (from, to) => {
    const { count } = block.present.find(from, to, index);
    const offset = index.map((page) => (page - from) * PAGE_BYTES);
    bytes.fill(0);
    if (count) file.readPages(block, bytes, index, offset, count);
    return bytes;
  };
}

// The pages of a file with fixed offsets, read in runs: copied elsewhere, or compared.

import { PageFile } from "../native/file.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { MappedFile, StoredBlock } from "../reader/mapped.ts";

const CHUNK_PAGES = 256;

/** Calls `visit` with each chunk of a block's pages that have content, in order: their numbers, and their bytes one after another. */
export function forPages(
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

/** Pages that differ between two blocks of one size, as [first, end) runs. */
export function differingPages(
  a: MappedFile,
  blockA: StoredBlock,
  b: MappedFile,
  blockB: StoredBlock,
): [number, number][] {
  const runs: [number, number][] = [];
  const add = (page: number) => {
    const last = runs.at(-1);
    if (last && last[1] === page) last[1]++;
    else runs.push([page, page + 1]);
  };
  const pages = blockA.present.pages;
  const one = { index: new Uint32Array(1), offset: new Uint32Array(1), bytes: new Uint8Array(PAGE_BYTES) };
  const zero = new Uint8Array(PAGE_BYTES);
  const bytesB = new Uint8Array(CHUNK_PAGES * PAGE_BYTES);
  const places = Uint32Array.from({ length: CHUNK_PAGES }, (_, i) => i * PAGE_BYTES);
  const contentOf = (file: MappedFile, block: StoredBlock, page: number): Uint8Array => {
    if (!block.present.has(page)) return zero;
    one.index[0] = page;
    file.readPages(block, one.bytes, one.index, one.offset, 1);
    return one.bytes;
  };
  for (let from = 0; from < pages; from += CHUNK_PAGES) {
    const to = Math.min(from + CHUNK_PAGES, pages);
    const differs = new Set<number>();
    // Present in A: against B's page, which is read with the same calls where it is present there, too.
    forPages(a, blockA, from, to, (index, count, bytes) => {
      const both = index.subarray(0, count).filter((page) => blockB.present.has(page));
      if (both.length) b.readPages(blockB, bytesB, both, places, both.length);
      let at = 0;
      for (let i = 0; i < count; i++) {
        const other = blockB.present.has(index[i]) ? bytesB.subarray(at++ * PAGE_BYTES, at * PAGE_BYTES) : zero;
        if (Buffer.compare(bytes.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES), other) !== 0) differs.add(index[i]);
      }
    });
    for (let page = from; page < to; page++)
      if (
        !blockA.present.has(page) &&
        blockB.present.has(page) &&
        Buffer.compare(contentOf(b, blockB, page), zero) !== 0
      )
        differs.add(page);
    for (const page of [...differs].sort((x, y) => x - y)) add(page);
  }
  return runs;
}

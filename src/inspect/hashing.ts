// The hashes of a file's pages, computed or compared with a seal's, by as many threads as take part. Only what the file has data
// for is read, in runs as long as they are; a hole is a page of zeros without being read.
import { TramError } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { nextData, type PageArea, PageFile } from "../native/file.ts";
import { HashTable, hashOf } from "../native/hash.ts";
import { PAGE_BYTES } from "../native/ram.ts";

/** One block's pages in the file, and their hashes. Plain data, for the threads. */
export interface HashedBlock extends PageArea {
  table: SharedArrayBuffer;
  /** The pages that have content: their hashes are computed. null: they are compared. */
  present: SharedArrayBuffer | null;
}

export interface HashJob {
  fd: number;
  blocks: readonly HashedBlock[];
  /** Words that the threads share; see newJob. */
  shared: SharedArrayBuffer;
}

export interface BadPage {
  /** Its number in the job. */
  block: number;
  page: number;
  what: string;
}

export interface HashResult {
  /** The first ones of them, ascending. */
  bad: BadPage[];
  badCount: number;
  unreadable: BadPage[];
  unreadableCount: number;
  /** Pages without content that have bytes in the file, found while computing. */
  staleCount: number;
}

/** More than these are counted only. */
export const BAD_PAGES_LISTED = 1000;

/** 4 MiB: large enough for a disk, small enough that all threads end together. */
const CHUNK_PAGES = 1024;
const NEXT = 0;
const DONE = 1;
const STOP = 2;
const WORDS = 3;

const chunksOf = ({ pages }: PageArea): number => Math.ceil(pages / CHUNK_PAGES);

export function newJob(fd: number, blocks: readonly HashedBlock[]): HashJob {
  return { fd, blocks, shared: new SharedArrayBuffer(WORDS * 4) };
}

/** How much of it is done, from 0 to 1. */
export function progressOf({ blocks, shared }: HashJob): number {
  const all = blocks.reduce((sum, block) => sum + chunksOf(block), 0);
  return all ? Atomics.load(new Int32Array(shared), DONE) / all : 1;
}

/** No thread takes another chunk. */
export function stopJob({ shared }: HashJob): void {
  Atomics.store(new Int32Array(shared), STOP, 1);
}

/** What all threads have found, together. Nobody may take a part that was not looked at for one in which nothing was found. */
export function mergeResults(job: HashJob, results: readonly HashResult[]): HashResult {
  if (progressOf(job) !== 1) throw new TramError("E_INTERNAL", "not all of the file was looked at");
  const sum = (field: "badCount" | "unreadableCount" | "staleCount") =>
    results.reduce((total, one) => total + one[field], 0);
  // Each thread goes through the file in its order: the first ones of all are among the first ones of each.
  const first = (field: "bad" | "unreadable") =>
    results
      .flatMap((one) => one[field])
      .sort((a, b) => a.block - b.block || a.page - b.page)
      .slice(0, BAD_PAGES_LISTED);
  return {
    bad: first("bad"),
    badCount: sum("badCount"),
    unreadable: first("unreadable"),
    unreadableCount: sum("unreadableCount"),
    staleCount: sum("staleCount"),
  };
}

/** One thread's part of the job: chunk after chunk, until there are none left. */
export function hashPages(job: HashJob): HashResult {
  const words = new Int32Array(job.shared);
  const result: HashResult = { bad: [], badCount: 0, unreadable: [], unreadableCount: 0, staleCount: 0 };
  const file = new PageFile(job.fd);
  const buffer = new Uint8Array(CHUNK_PAGES * PAGE_BYTES);
  try {
    let mine = Atomics.add(words, NEXT, 1);
    let before = 0;
    for (const [i, block] of job.blocks.entries()) {
      const hasher = new BlockHasher(file, buffer, i, block, result);
      for (; mine < before + chunksOf(block); mine = Atomics.add(words, NEXT, 1)) {
        if (Atomics.load(words, STOP) !== 0) return result;
        hasher.chunk((mine - before) * CHUNK_PAGES);
        Atomics.add(words, DONE, 1);
      }
      before += chunksOf(block);
    }
    return result;
  } finally {
    file.close();
  }
}

/** A hash as it stands in a table: its low and its high half. */
function halves(hash: bigint): [number, number] {
  const words = new Uint32Array(new BigUint64Array([hash]).buffer);
  return [words[0], words[1]];
}
const [ZEROS_LOW, ZEROS_HIGH] = halves(hashOf(new Uint8Array(PAGE_BYTES)));

const BATCH = Uint32Array.from({ length: CHUNK_PAGES }, (_, i) => i * PAGE_BYTES);

class BlockHasher {
  readonly #file: PageFile;
  readonly #buffer: Uint8Array;
  readonly #number: number;
  readonly #block: HashedBlock;
  readonly #result: HashResult;
  readonly #table: HashTable;
  /** The table again: two words for each page. */
  readonly #words: Uint32Array;
  readonly #present: Bitmap | null;
  readonly #index = new Uint32Array(CHUNK_PAGES);
  readonly #bad = new Uint32Array(CHUNK_PAGES);

  constructor(file: PageFile, buffer: Uint8Array, number: number, block: HashedBlock, result: HashResult) {
    this.#file = file;
    this.#buffer = buffer;
    this.#number = number;
    this.#block = block;
    this.#result = result;
    this.#table = new HashTable(block.pages, block.table);
    this.#words = new Uint32Array(block.table, 0, block.pages * 2);
    this.#present = block.present && new Bitmap(block.pages, block.present);
  }

  chunk(from: number): void {
    const end = Math.min(from + CHUNK_PAGES, this.#block.pages);
    if (this.#present) this.#assumeZeros(from, end, () => true);
    else this.#assumeZeros(from, end, (page) => this.#isBlank(page));
    for (let page = from; page < end; ) {
      const data = this.#dataFrom(page, end);
      if (!this.#present) this.#compareHole(page, data.first);
      if (data.first < data.end) this.#pages(data.first, data.end - data.first);
      page = data.end;
    }
    if (this.#present) this.#clearZeros(from, end, this.#present);
  }

  /** The next pages from `page` on that the file has data for; there may be none before `end`. */
  #dataFrom(page: number, end: number): { first: number; end: number } {
    const { pagesOffset } = this.#block;
    const pageAt = (offset: number) => (offset - pagesOffset) / PAGE_BYTES;
    const data = nextData(this.#file.fd, pagesOffset + page * PAGE_BYTES);
    const first = data ? Math.min(Math.floor(pageAt(data.from)), end) : end;
    return { first, end: data ? Math.min(Math.max(Math.ceil(pageAt(data.to)), first + 1), end) : end };
  }

  #isBlank(page: number): boolean {
    return this.#words[page * 2] === 0 && this.#words[page * 2 + 1] === 0;
  }
  #isOfZeros(page: number): boolean {
    return this.#words[page * 2] === ZEROS_LOW && this.#words[page * 2 + 1] === ZEROS_HIGH;
  }

  /** From here on a page without content has the hash that its zeros have: each page has one that it must have. */
  #assumeZeros(from: number, end: number, which: (page: number) => boolean): void {
    for (let page = from; page < end; page++) {
      if (!which(page)) continue;
      this.#words[page * 2] = ZEROS_LOW;
      this.#words[page * 2 + 1] = ZEROS_HIGH;
    }
  }

  /** And back: what is not in the bitmap and reads as zeros has no hash in the table. */
  #clearZeros(from: number, end: number, present: Bitmap): void {
    for (let page = from; page < end; page++) {
      if (present.has(page)) continue;
      if (this.#isOfZeros(page)) this.#words.fill(0, page * 2, page * 2 + 2);
      else this.#result.staleCount++;
    }
  }

  #compareHole(from: number, end: number): void {
    for (let page = from; page < end; page++) if (!this.#isOfZeros(page)) this.#isBad(page, "a hole where bytes were");
  }

  /** Neighbours in the file: one read. Where that fails, their halves are tried, down to the page that cannot be read. */
  #pages(first: number, count: number): void {
    const index = this.#index;
    for (let i = 0; i < count; i++) index[i] = first + i;
    try {
      this.#file.read(this.#block, this.#buffer, index, BATCH, count);
    } catch (error) {
      if (!(error instanceof TramError) || error.code === "E_INTERNAL") throw error;
      if (count === 1) {
        this.#isUnreadable(first, error.message);
        return;
      }
      const half = count >>> 1;
      this.#pages(first, half);
      this.#pages(first + half, count - half);
      return;
    }
    if (this.#present) {
      this.#table.set(this.#buffer, index, BATCH, count);
      return;
    }
    const differing = this.#table.differing(this.#buffer, index, BATCH, count, this.#bad);
    for (const page of this.#bad.subarray(0, differing))
      this.#isBad(page, this.#isOfZeros(page) ? "bytes in a page of zeros" : "other bytes than were sealed");
  }

  #isBad(page: number, what: string): void {
    if (this.#result.badCount++ < BAD_PAGES_LISTED) this.#result.bad.push({ block: this.#number, page, what });
  }

  #isUnreadable(page: number, what: string): void {
    if (this.#result.unreadableCount++ < BAD_PAGES_LISTED)
      this.#result.unreadable.push({ block: this.#number, page, what });
  }
}

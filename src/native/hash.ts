// XXH3-64: of pages, in a table with one hash for each page of a block; and of bytes that come in pieces.
import { TramError } from "../errors.ts";
import { check, u32 } from "./errno.ts";
import { type Ram, readable } from "./ram.ts";
import { symbols } from "./symbols.ts";

export const HASH_BYTES = 8;

/** One block's page hashes. Several threads may use one at once, each for other pages. */
export class HashTable {
  readonly pages: number;
  /** As they stand in a file: little-endian. */
  readonly bytes: Uint8Array;
  /** The same, for other threads. */
  readonly shared: SharedArrayBuffer;

  /** `shared`: memory of bytesFor(pages) that other threads use, too. */
  constructor(pages: number, shared = new SharedArrayBuffer(HashTable.bytesFor(pages))) {
    this.pages = pages;
    this.shared = shared;
    this.bytes = new Uint8Array(shared, 0, HashTable.bytesFor(pages));
  }

  static bytesFor(pages: number): number {
    return pages * HASH_BYTES;
  }

  /** Of guest pages `index[0, count)`. */
  setFromRam(ram: Ram, index: Uint32Array, count: number): void {
    atMost(count, index);
    readable(symbols.tram_hash_ram(ram.native, index, u32(count, "count"), this.bytes, this.pages), "hash pages");
  }

  /** Of page i in `buffer` at `offset[i]`, as page `index[i]`. */
  set(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    atMost(count, index, offset);
    const table = this.bytes;
    const result = symbols.tram_hash_pages(
      buffer,
      buffer.length,
      index,
      offset,
      u32(count, "count"),
      table,
      this.pages,
    );
    check(result, "E_INTERNAL", "hash pages");
  }

  /** A page without content has no hash. */
  clear(index: Uint32Array, from: number, to: number): void {
    for (let i = from; i < to; i++) this.bytes.fill(0, index[i] * HASH_BYTES, (index[i] + 1) * HASH_BYTES);
  }

  isSet(page: number): boolean {
    for (let i = page * HASH_BYTES; i < (page + 1) * HASH_BYTES; i++) if (this.bytes[i] !== 0) return true;
    return false;
  }

  /** How many of guest pages `index[0, count)` have another hash; they come to stand in `bad`. */
  differingInRam(ram: Ram, index: Uint32Array, count: number, bad: Uint32Array): number {
    atMost(count, index, bad);
    const { native } = ram;
    const result = symbols.tram_hash_differing_ram(native, index, u32(count, "count"), this.bytes, this.pages, bad);
    return readable(result, "compare pages");
  }

  /** The same for pages in a buffer. */
  differing(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number, bad: Uint32Array): number {
    atMost(count, index, offset, bad);
    const { bytes: table, pages } = this;
    const number = u32(count, "count");
    const result = symbols.tram_hash_differing(buffer, buffer.length, index, offset, number, table, pages, bad);
    return check(result, "E_INTERNAL", "compare pages");
  }
}

function atMost(count: number, ...arrays: Uint32Array[]): void {
  if (arrays.some((one) => count > one.length)) throw new TramError("E_INTERNAL", "more pages than indexes");
}

/** The hash of all the pieces one after the other. */
export function hashOf(...pieces: readonly Uint8Array[]): bigint {
  const one = new RunningHash();
  for (const piece of pieces) one.add(piece);
  return one.finish();
}

export class RunningHash {
  #handle = check(symbols.tram_hash_open(), "E_MEMORY", "cannot hash");

  add(bytes: Uint8Array): void {
    if (bytes.length) check(symbols.tram_hash_update(this.#handle, bytes, bytes.length), "E_INTERNAL", "hash bytes");
  }

  /** The last call. */
  finish(): bigint {
    const out = new BigUint64Array(1);
    symbols.tram_hash_close(this.#handle, out);
    this.#handle = 0;
    return out[0];
  }
}

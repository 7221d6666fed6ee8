// Lists of page numbers: out of sets of pages and into them, and as the offsets in a multifd packet's header.
import { TramError } from "../errors.ts";
import { check, u32 } from "./errno.ts";
import { symbols } from "./symbols.ts";

/** Page i is bit i % 32 of word i / 32. */
export interface PageSet {
  readonly words: Uint32Array;
  readonly pages: number;
}

const OFFSET_BYTES = 8;

function checked({ words, pages }: PageSet): number {
  if (words.length * 32 < pages) throw new TramError("E_INTERNAL", "more pages than bits");
  return u32(pages, "pages");
}

/** Takes pages of [from, end) out of the set, ascending, until `into` is full; how many. */
export function takePages(set: PageSet, from: number, end: number, into: Uint32Array): number {
  const limit = Math.min(end, set.pages);
  const result = symbols.tram_set_take(set.words, checked(set), u32(from, "page"), limit, into, into.length);
  return check(result, "E_INTERNAL", "take pages");
}

/** Adds pages, which other threads may do, too: how many were not in it. All of them are the set's. */
export function addPages(set: PageSet, index: Uint32Array): number {
  return check(symbols.tram_set_add(set.words, checked(set), index, index.length), "E_INTERNAL", "add pages");
}

/** Removes pages, which other threads may do, too: those that were in it into `removed`; how many. */
export function removePages(set: PageSet, index: Uint32Array, removed: Uint32Array): number {
  if (removed.length < index.length) throw new TramError("E_INTERNAL", "no room for the pages that are removed");
  const result = symbols.tram_set_remove(set.words, checked(set), index, index.length, removed);
  return check(result, "E_INTERNAL", "remove pages");
}

/** Each page's offset, be64, into `out`. */
export function encodeOffsets(out: Uint8Array, index: Uint32Array): void {
  if (out.length < index.length * OFFSET_BYTES) throw new TramError("E_INTERNAL", "no room for the offsets");
  check(symbols.tram_offsets_encode(out, index, index.length), "E_INTERNAL", "encode offsets");
}

/** The mirror of encodeOffsets. How many of `count` come before the first offset that is none of a block's pages. */
export function decodeOffsets(bytes: Uint8Array, index: Uint32Array, count: number, pages: number): number {
  if (bytes.length < count * OFFSET_BYTES || index.length < count)
    throw new TramError("E_INTERNAL", "fewer offsets than pages");
  return check(
    symbols.tram_offsets_decode(bytes, index, u32(count, "count"), u32(pages, "pages")),
    "E_INTERNAL",
    "decode offsets",
  );
}

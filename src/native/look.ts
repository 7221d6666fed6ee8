// What pages look like: how random their bytes are, and how much of two of them differs.
import { TramError } from "../errors.ts";
import { check, u32 } from "./errno.ts";
import { PAGE_BYTES } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** What stands in Looks for a page: nothing yet; that it is zero; `data` + `perBit` × its entropy in bits per byte, from 0 to 8. */
export const LOOK = { none: 0, zero: 1, data: 2, perBit: 30 } as const;

/** One block's pages, a byte for each. */
export class Looks {
  readonly pages: number;
  readonly bytes: Uint8Array;

  constructor(pages: number) {
    this.pages = pages;
    this.bytes = new Uint8Array(pages);
  }

  /** Looks at page i in `buffer` at `offset[i]`, which is page `index[i]`. */
  at(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    if (count > index.length || count > offset.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const { bytes, pages } = this;
    const number = u32(count, "count");
    const result = symbols.tram_look_pages(buffer, buffer.length, index, offset, number, bytes, pages);
    check(result, "E_INTERNAL", "look at pages");
  }
}

/** Beside the number of differing bytes, from 0 to 4096: the page is zero in the first, and in the second. */
export const ZERO_BEFORE = 0x4000;
export const ZERO_AFTER = 0x8000;

/** How page i of `a` and page i of `b` differ, into `changes[i]`. */
export function lookAtChanges(a: Uint8Array, b: Uint8Array, count: number, changes: Uint16Array): void {
  if (count * PAGE_BYTES > Math.min(a.length, b.length) || count > changes.length)
    throw new TramError("E_INTERNAL", "more pages than bytes");
  check(symbols.tram_look_changes(a, b, u32(count, "count"), changes), "E_INTERNAL", "compare pages");
}

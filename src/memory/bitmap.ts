// A set of pages: bit i of word i/32 is page i. Length is whole 64-bit words, as the kernel writes them.
import { addPages, removePages, takePages } from "../native/page-list.ts";

export interface PageRange {
  first: number;
  pages: number;
}

export class Bitmap {
  readonly words: Uint32Array;
  readonly pages: number;

  /** `shared`: memory of bytesFor(pages) that other threads use, too; see SharedBitmap. */
  constructor(pages: number, shared?: SharedArrayBuffer) {
    this.pages = pages;
    this.words = shared ? new Uint32Array(shared) : new Uint32Array(Bitmap.bytesFor(pages) / 4);
  }

  static bytesFor(pages: number): number {
    return Math.ceil(pages / 64) * 8;
  }

  /** Every page of [0, pages). */
  fill(): void {
    this.words.fill(0xffffffff);
    for (let page = this.pages; page < this.words.length * 32; page++) this.words[page >>> 5] &= ~(1 << (page & 31));
  }

  has(page: number): boolean {
    return (this.words[page >>> 5] & (1 << (page & 31))) !== 0;
  }

  add(page: number): void {
    this.words[page >>> 5] |= 1 << (page & 31);
  }

  /** All of [first, first + pages). */
  addRange({ first, pages }: PageRange): void {
    const end = first + pages;
    let page = first;
    for (; page < end && page & 31; page++) this.add(page);
    if (end - page >= 32) this.words.fill(0xffffffff, page >>> 5, end >>> 5);
    for (page = Math.max(page, end & ~31); page < end; page++) this.add(page);
  }

  /** Whether it has any of [first, first + pages). */
  hasAny({ first, pages }: PageRange): boolean {
    const end = first + pages;
    for (let page = first; page < end; ) {
      if ((page & 31) === 0 && end - page >= 32) {
        if (this.words[page >>> 5] !== 0) return true;
        page += 32;
      } else if (this.has(page++)) return true;
    }
    return false;
  }

  remove(page: number): void {
    this.words[page >>> 5] &= ~(1 << (page & 31));
  }

  /** Removes the pages of `words`, a set that begins at `first`, a multiple of 32; how many were in it. */
  removeWords(first: number, words: Uint32Array): number {
    let removed = 0;
    for (let i = 0, at = first >>> 5; i < words.length; i++, at++) {
      removed += popcount(this.words[at] & words[i]);
      this.words[at] &= ~words[i];
    }
    return removed;
  }

  clear(): void {
    this.words.fill(0);
  }

  count(): number {
    return countBits(this.words, 0, this.words.length);
  }

  /** What is not in the set, as ranges, ascending. */
  gaps(): PageRange[] {
    const ranges: PageRange[] = [];
    for (let page = 0; page < this.pages; ) {
      const word = this.words[page >>> 5];
      if ((page & 31) === 0 && word === 0xffffffff) {
        page += 32;
        continue;
      }
      if (this.has(page)) {
        page++;
        continue;
      }
      const first = page;
      while (page < this.pages && !this.has(page)) page += (page & 31) === 0 && this.words[page >>> 5] === 0 ? 32 : 1;
      page = Math.min(page, this.pages);
      ranges.push({ first, pages: page - first });
    }
    return ranges;
  }

  /** Bits that are set from `page` on; behind the last page there must be none. */
  countFrom(page: number): number {
    let sum = 0;
    for (let at = page; at < this.words.length * 32; at++) if (this.has(at)) sum++;
    return sum;
  }

  /** Like take, and leaves them in the set. */
  find(from: number, end: number, into: Uint32Array): { count: number; next: number } {
    const limit = Math.min(end, this.pages);
    let count = 0;
    for (let page = from; page < limit; page++) {
      if ((page & 31) === 0 && this.words[page >>> 5] === 0) page += 31;
      else if (this.has(page)) {
        into[count++] = page;
        if (count === into.length) return { count, next: page + 1 };
      }
    }
    return { count, next: limit };
  }

  /**
   * Takes pages out of the set, ascending, from `from` on and below `end`: their indexes into `into`, until it is full.
   * Returns how many, and where to go on.
   */
  take(from: number, end: number, into: Uint32Array): { count: number; next: number } {
    const count = takePages(this, from, end, into);
    return { count, next: count === into.length ? into[count - 1] + 1 : Math.min(end, this.pages) };
  }

  /** Adds pages of the set, which several threads may do at once; how many were not in it. */
  addAll(index: Uint32Array): number {
    return addPages(this, index);
  }

  /** Removes pages, which several threads may do at once: those that were in it into `removed`; how many. */
  removeAll(index: Uint32Array, removed: Uint32Array): number {
    return removePages(this, index, removed);
  }
}

/** A set that several threads add to and remove from at once. */
export class SharedBitmap extends Bitmap {
  override add(page: number): void {
    Atomics.or(this.words, page >>> 5, 1 << (page & 31));
  }
  override remove(page: number): void {
    Atomics.and(this.words, page >>> 5, ~(1 << (page & 31)));
  }
}

export function popcount(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return (((v + (v >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24;
}

export function countBits(words: Uint32Array, from: number, to: number): number {
  let sum = 0;
  for (let i = from; i < to; i++) if (words[i] !== 0) sum += popcount(words[i]);
  return sum;
}

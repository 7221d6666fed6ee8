// Sets of pages that live in C memory as long as their guest (c/marks.c): threads that run already can be given one by its number.
import { check, u32 } from "./errno.ts";
import type { PageSet } from "./page-list.ts";
import { symbols } from "./symbols.ts";

export class Marks {
  /** For Marks.attach in any thread of the process. */
  readonly handle: number;

  private constructor(handle: number) {
    this.handle = handle;
  }

  static create(pages: number): Marks {
    return new Marks(check(symbols.tram_marks_create(u32(pages, "pages")), "E_MEMORY", "make a set of pages"));
  }

  static attach(handle: number): Marks {
    return new Marks(handle);
  }

  add(first: number, pages: number): void {
    check(symbols.tram_marks_add(this.handle, u32(first, "page"), u32(pages, "pages")), "E_INTERNAL", "mark pages");
  }

  remove(first: number, pages: number): void {
    const result = symbols.tram_marks_remove(this.handle, u32(first, "page"), u32(pages, "pages"));
    check(result, "E_INTERNAL", "take pages back");
  }

  /** Moves all that is in it into a set. */
  moveTo({ words, pages }: PageSet): void {
    check(symbols.tram_marks_take(this.handle, words, pages), "E_INTERNAL", "take marks");
  }

  /** What is in it of [first, first + pages), as words of a set that begins at `first`, a multiple of 32; how many. */
  read(first: number, pages: number, into: Uint32Array): number {
    if (into.length * 32 < pages) throw new RangeError("more pages than bits");
    const result = symbols.tram_marks_read(this.handle, u32(first, "page"), u32(pages, "pages"), into);
    return check(result, "E_INTERNAL", "look at marks");
  }

  /** Sorts `index[0, count)`: pages that are in it behind the others; how many others there are. */
  split(index: Uint32Array, count: number): number {
    if (count > index.length) throw new RangeError("more pages than indexes");
    return check(symbols.tram_marks_split(this.handle, index, u32(count, "count")), "E_INTERNAL", "look at marks");
  }
}

// What each page of a stream or file is: not in it, zero, or data, and how random that is. Noted while the pages come by, so that a
// pipe will do; a byte is kept for each page.
import { TramError } from "../errors.ts";
import type { Bitmap } from "../memory/bitmap.ts";
import { LOOK, Looks } from "../native/look.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { PageSink } from "../reader/pages.ts";
import type { Kind, PagesByKind } from "./kinds.ts";
import type { PageWatcher } from "./survey.ts";

const ABSENT = 0;
const ZERO = 1;
const DATA = 2;
/** Entropies of 0 to 1, 1 to 2, … 7 to 8 bits per byte are a kind each. */
const LEVELS = 8;

export const CONTENT_KINDS: readonly Kind[] = [
  { key: "absent", name: "not in the stream", inRamp: false },
  { key: "zero", name: "zero", inRamp: false },
  ...Array.from({ length: LEVELS }, (_, level) => ({
    key: `data${level}`,
    name: `data, ${level} to ${level + 1} bits per byte`,
    inRamp: true,
  })),
];

interface WatchedBlock {
  name: string;
  looks: Looks;
  /** Of a plain stream, at its end. */
  marks: { present: Bitmap; told: Bitmap } | null;
}

export class PageMap implements PageWatcher {
  /** Pages that came as changes to what they had been before. They count as what they had been. */
  changedPages = 0;
  readonly #blocks: WatchedBlock[] = [];

  sink(name: string, pages: number): PageSink {
    const looks = newLooks(name, pages);
    this.#blocks.push({ name, looks, marks: null });
    /** Given out for a page's content, which nobody has kept, to be changed and placed again. */
    let standIn: Uint8Array | null = null;
    return {
      pages,
      scatter: (buffer, index, offset, count) => {
        if (buffer === standIn) this.changedPages++;
        else looks.at(buffer, index, offset, count);
      },
      clear: () => undefined, // told of, and no longer present
      read: (_, bytes) => {
        standIn = new Uint8Array(bytes);
        return standIn;
      },
    };
  }

  told(name: string, present: Bitmap, told: Bitmap): void {
    const block = this.#blocks.find((one) => one.name === name);
    if (block) block.marks = { present, told };
  }

  /** When the stream is over. */
  blocks(): PagesByKind[] {
    return this.#blocks.map(({ name, looks, marks }) => {
      const kinds = looks.bytes.map(kindOf);
      if (marks)
        for (let page = 0; page < kinds.length; page++)
          if (!marks.present.has(page)) kinds[page] = marks.told.has(page) ? ZERO : ABSENT;
      return { name, bytes: looks.pages * PAGE_BYTES, kinds };
    });
  }
}

/** A damaged table may say anything of a block's size. */
function newLooks(name: string, pages: number): Looks {
  try {
    return new Looks(pages);
  } catch {
    throw new TramError("E_MEMORY", `there is no memory for a map of block '${name}'`, {
      expected: `${pages} bytes, one for each of its pages`,
    });
  }
}

/** Of what stands in Looks for a page. */
function kindOf(look: number): number {
  if (look === LOOK.none) return ABSENT;
  if (look === LOOK.zero) return ZERO;
  return DATA + Math.min(LEVELS - 1, Math.floor((look - LOOK.data) / LOOK.perBit));
}

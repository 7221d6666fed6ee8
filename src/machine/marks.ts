// What the walker's twin notes itself, as a tracker: where a sandbox lets nobody else see what it writes. Always on.
import type { Bitmap } from "../memory/bitmap.ts";
import { Marks } from "../native/marks.ts";
import type { WriteTracker } from "./tracking.ts";

export interface MarksHandles {
  by: "marks";
  marks: number;
}

export class MarkedWrites implements WriteTracker {
  readonly log = null;
  readonly #marks: Marks;

  constructor({ marks }: MarksHandles) {
    this.#marks = Marks.attach(marks);
  }

  sync(dirty: Bitmap): boolean {
    this.#marks.moveTo(dirty);
    return true;
  }

  clear(): void {}
  stop(): void {}
}

// What is drawn: RAM by kind of page, and the device state. How it is drawn is for svg.ts and png.ts.
import type { Kind, PagesByKind } from "../../inspect/kinds.ts";

/** Pages of a block that lie one behind another in guest-physical memory, from `address` on; null: nobody knows where. */
export interface Stretch {
  from: number;
  end: number;
  address: number | null;
}

export interface PictureBlock extends PagesByKind {
  /** All of its pages, in order. */
  stretches: readonly Stretch[];
}

/** A kind and its colour: #rrggbb, or #rrggbbaa where the ground shines through. */
export interface ColouredKind extends Kind {
  colour: string;
}

/** One section of the device state. `note`: what is to be said of it besides its size. */
export interface Section {
  name: string;
  bytes: number;
  colour: string;
  note: string;
}

export interface Picture {
  title: string;
  /** Sentences beneath it. */
  notes: readonly string[];
  /** Those that let the ground shine through first: PNG wants them so. */
  kinds: readonly ColouredKind[];
  /** What the kinds that are steps of a scale have in common: its name, and behind a comma what its steps mean. */
  ramp: string;
  blocks: readonly PictureBlock[];
  /** The largest first. */
  sections: readonly Section[];
}

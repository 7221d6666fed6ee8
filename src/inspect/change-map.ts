// What became of each page between two files: the same, another, zero or no longer zero; and how much of it.
import { ZERO_AFTER, ZERO_BEFORE } from "../native/look.ts";
import type { Kind } from "./kinds.ts";

const SAME_ZERO = 0;
const SAME = 1;
const TURNED_ZERO = 2;
const TURNED_DATA = 3;
const CHANGED = 4;
/** At most so many bytes of the page differ. */
const CHANGED_BYTES = [64, 256, 1024, 2048, 4096];

export const CHANGE_KINDS: readonly Kind[] = [
  { key: "sameZero", name: "zero in both", inRamp: false },
  { key: "same", name: "the same data", inRamp: false },
  { key: "turnedZero", name: "turned zero", inRamp: false },
  { key: "turnedData", name: "turned from zero to data", inRamp: false },
  ...CHANGED_BYTES.map((bytes, i) => ({
    key: `changed${bytes}`,
    name: `changed, ${(CHANGED_BYTES[i - 1] ?? 0) + 1} to ${bytes} bytes of the page`,
    inRamp: true,
  })),
];

/** `changes`: as lookAtChanges has them, one for each page. */
export const changeKinds = (changes: Uint16Array): Uint8Array => Uint8Array.from(changes, kindOf);

function kindOf(change: number): number {
  const bytes = change & ~(ZERO_BEFORE | ZERO_AFTER);
  if (bytes === 0) return change & ZERO_AFTER ? SAME_ZERO : SAME;
  if (change & ZERO_AFTER) return TURNED_ZERO;
  if (change & ZERO_BEFORE) return TURNED_DATA;
  return CHANGED + CHANGED_BYTES.findIndex((most) => bytes <= most);
}

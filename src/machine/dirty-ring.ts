// KVM's dirty rings as a tracker: what is taken out counts again at once.
import type { Bitmap } from "../memory/bitmap.ts";
import { PAGE_BYTES, type Slot } from "../memory/block.ts";
import { Rings } from "../native/rings.ts";
import type { WriteTracker } from "./tracking.ts";

/** Rings, as plain data. */
export interface DirtyRingHandles {
  by: "ring";
  rings: number;
  entries: number;
}

/** Of a machine whose VM was told to have them. */
export function createRings(
  vm: number,
  entries: number,
  slots: readonly Slot[],
  vcpus: readonly number[],
): DirtyRingHandles {
  const pages = slots.reduce((sum, { bytes }) => sum + bytes / PAGE_BYTES, 0);
  const rings = Rings.create(vm, entries, pages);
  for (const { slot, offset, bytes } of slots) rings.addSlot(slot, offset / PAGE_BYTES, bytes / PAGE_BYTES);
  for (const vcpu of vcpus) rings.addCpu(vcpu);
  return { by: "ring", rings: rings.handle, entries };
}

export class DirtyRing implements WriteTracker {
  readonly log = null;
  readonly #rings: Rings;
  readonly #setLogging: (on: boolean) => void;

  constructor({ rings }: DirtyRingHandles, setLogging: (on: boolean) => void) {
    this.#rings = Rings.attach(rings);
    this.#setLogging = setLogging;
    setLogging(true);
  }

  sync(dirty: Bitmap): boolean {
    return this.#rings.takeInto(dirty);
  }

  clear(): void {}

  stop(): void {
    this.#setLogging(false);
  }
}

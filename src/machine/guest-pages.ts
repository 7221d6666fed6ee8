// What those who carry a guest's pages need of them, beside their bytes: any thread of its process may hold one.
import type { CarrierMemory } from "../control/guest.ts";
import { Marks } from "../native/marks.ts";
import type { Ram } from "../native/ram.ts";
import type { DeviceMarks } from "./board.ts";

export class GuestPages implements CarrierMemory {
  readonly #ram: Ram;
  readonly #pagemapFd: number;
  readonly #hinted: Marks | null;
  readonly #ballooned: Marks | null;
  readonly #reported: Marks | null;
  readonly clearDirty: CarrierMemory["clearDirty"];
  #words = new Uint32Array(0);

  constructor(ram: Ram, pagemapFd: number, marks: DeviceMarks | null, clearDirty: CarrierMemory["clearDirty"]) {
    this.#ram = ram;
    this.#pagemapFd = pagemapFd;
    this.#hinted = marks && Marks.attach(marks.hinted);
    this.#ballooned = marks && Marks.attach(marks.ballooned);
    this.#reported = marks && Marks.attach(marks.reported);
    this.clearDirty = clearDirty;
  }

  splitUntouched(index: Uint32Array, count: number): number {
    return this.#ram.splitUntouched(this.#pagemapFd, index, count);
  }

  givenUp(untouched: Uint32Array): { ballooned: number; reported: number } {
    const { length } = untouched;
    if (!this.#ballooned || !this.#reported) return { ballooned: 0, reported: 0 };
    const others = this.#ballooned.split(untouched, length);
    return { ballooned: length - others, reported: others - this.#reported.split(untouched, others) };
  }

  hinted(first: number, pages: number): Uint32Array | null {
    if (!this.#hinted) return null;
    const words = Math.ceil(pages / 32);
    if (this.#words.length < words) this.#words = new Uint32Array(words);
    const found = this.#words.subarray(0, words);
    return this.#hinted.read(first, pages, found) > 0 ? found : null;
  }
}

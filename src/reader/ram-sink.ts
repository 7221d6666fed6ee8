// A guest's memory as the place where its pages go.
import type { HashTable } from "../native/hash.ts";
import type { Ram } from "../native/ram.ts";
import type { Transport } from "../transport/transport.ts";
import type { PageSink } from "./pages.ts";

export class RamSink implements PageSink {
  readonly pages: number;
  readonly #ram: Ram;
  readonly #hashes: HashTable | null;

  /** `hashes`: of the pages where they have come to lie; null: not wanted. */
  constructor(ram: Ram, hashes: HashTable | null) {
    this.pages = ram.pages;
    this.#ram = ram;
    this.#hashes = hashes;
  }

  scatter(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    this.#ram.scatter(buffer, index, offset, count);
    this.#hashes?.setFromRam(this.#ram, index, count);
  }

  receive(from: Transport, index: Uint32Array, count: number): boolean {
    if (!from.readPages?.(this.#ram, index, count)) return false;
    this.#hashes?.setFromRam(this.#ram, index, count);
    return true;
  }

  clear(index: Uint32Array, count: number): void {
    this.#ram.clear(index, count);
    this.#hashes?.clear(index, 0, count);
  }

  read(offset: number, bytes: number): Uint8Array {
    return this.#ram.read(offset, bytes);
  }
}

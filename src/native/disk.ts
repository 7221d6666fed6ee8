// A guest's disk as a file: its bytes go between the file and guest memory without a copy of ours.
import { fdatasyncSync } from "node:fs";
import { check, errnoName, u32, u53 } from "./errno.ts";
import type { Ram } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** Of guest memory, by its offset in the block. */
export interface RamPart {
  offset: number;
  bytes: number;
}

const SEGMENTS_MAX = 1024;

export class DiskFile {
  readonly #fd: number;

  constructor(fd: number) {
    this.#fd = fd;
  }

  read(ram: Ram, into: readonly RamPart[], at: number): void {
    this.#move(ram, into, at, 0, "read the disk");
  }

  write(ram: Ram, from: readonly RamPart[], at: number): void {
    this.#move(ram, from, at, 1, "write to the disk");
  }

  #move(ram: Ram, parts: readonly RamPart[], at: number, writing: number, what: string): void {
    for (let done = 0; done < parts.length; done += SEGMENTS_MAX) {
      const some = parts.slice(done, done + SEGMENTS_MAX);
      const segments = Float64Array.from(some.flatMap(({ offset, bytes }) => [offset, bytes]));
      const result = symbols.tram_disk_move(ram.native, this.#fd, writing, u53(at, "place"), segments, u32(some.length, "count")); // biome-ignore format: one line
      check(result, "E_FILE", what);
      at += some.reduce((sum, { bytes }) => sum + bytes, 0);
    }
  }

  flush(): void {
    fdatasyncSync(this.#fd);
  }

  /** False: this file system cannot. */
  discard(at: number, bytes: number): boolean {
    return this.#clear(at, bytes, false);
  }

  /** False: nor that. */
  zero(at: number, bytes: number, mayDiscard: boolean): boolean {
    return this.#clear(at, bytes, !mayDiscard) || this.#clear(at, bytes, mayDiscard);
  }

  #clear(at: number, bytes: number, keepsBlocks: boolean): boolean {
    const result = symbols.tram_disk_clear(this.#fd, u53(at, "place"), u53(bytes, "size"), keepsBlocks ? 1 : 0);
    if (["EOPNOTSUPP", "ENOSYS", "ENODEV"].includes(errnoName(result))) return false;
    check(result, "E_FILE", "clear a part of the disk");
    return true;
  }
}

/** Of a file or a block device. */
export const diskBytes = (fd: number): number =>
  check(symbols.tram_disk_bytes(fd), "E_FILE", "cannot ask for the disk's size");

/** `fd`, which is empty, becomes a copy of `from` that shares its blocks until one of them is written to; false: not there. */
export const tryClone = (fd: number, from: number): boolean => symbols.tram_disk_clone(fd, from) >= 0;

/** Of what is on the disk nothing is read out of the page cache any more. */
export function forgetCached(fd: number): void {
  check(symbols.tram_disk_forget(fd), "E_FILE", "cannot drop the disk's cached pages");
}

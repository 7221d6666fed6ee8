// A disk whose file nobody changes: what its guest writes lies beside it, in a file of its own, and is read from there.
import { Bitmap } from "../memory/bitmap.ts";
import type { DiskFile, RamPart } from "../native/disk.ts";
import type { Ram } from "../native/ram.ts";
import { cutBy, SECTOR_BYTES } from "./virtio/block.ts";

/** Bytes [at, at + bytes) of the disk, which have all been written to since it began, or none of them. */
export interface Stretch {
  at: number;
  bytes: number;
  isOwn: boolean;
}

/** For one thread. Each byte that was written has the place there that it has in the disk. */
export class Overlay {
  readonly #below: DiskFile;
  readonly #own: DiskFile;
  readonly #sectors: number;
  #written: Bitmap | null = null;

  constructor(below: DiskFile, own: DiskFile, bytes: number) {
    this.#below = below;
    this.#own = own;
    this.#sectors = bytes / SECTOR_BYTES;
  }

  read(ram: Ram, into: readonly RamPart[], at: number): void {
    for (const stretch of stretches(this.#writtenSectors, at, bytesOf(into)))
      (stretch.isOwn ? this.#own : this.#below).read(ram, cutParts(into, stretch.at - at, stretch.bytes), stretch.at);
  }

  write(ram: Ram, from: readonly RamPart[], at: number): void {
    this.#own.write(ram, from, at);
    this.#mark(at, bytesOf(from));
  }

  /** Nothing is gained: what lies below stays. */
  discard(): boolean {
    return true;
  }

  zero(at: number, bytes: number): boolean {
    if (!this.#own.zero(at, bytes, true)) return false;
    this.#mark(at, bytes);
    return true;
  }

  get #writtenSectors(): Bitmap {
    this.#written ??= new Bitmap(this.#sectors); // only the thread that reads and writes needs it
    return this.#written;
  }

  #mark(at: number, bytes: number): void {
    this.#writtenSectors.addRange({ first: at / SECTOR_BYTES, pages: bytes / SECTOR_BYTES });
  }
}

/** Whole sectors [at, at + bytes), in stretches that are alike. */
export function stretches(written: Bitmap, at: number, bytes: number): Stretch[] {
  const found: Stretch[] = [];
  for (let sector = at; sector < at + bytes; sector += SECTOR_BYTES) {
    const isOwn = written.has(sector / SECTOR_BYTES);
    const last = found.at(-1);
    if (last?.isOwn === isOwn) last.bytes += SECTOR_BYTES;
    else found.push({ at: sector, bytes: SECTOR_BYTES, isOwn });
  }
  return found;
}

const bytesOf = (parts: readonly RamPart[]): number => parts.reduce((sum, { bytes }) => sum + bytes, 0);

const cutParts = (parts: readonly RamPart[], from: number, bytes: number): RamPart[] =>
  cutBy(parts, from, bytes, ({ offset }, skip, left) => ({ offset: offset + skip, bytes: left }));

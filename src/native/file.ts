// Files where each page has its place: written and read in runs, made holes in runs.
import { ptr } from "bun:ffi";
import { constants, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { TramError } from "../errors.ts";
import { check, errnoName, u32, u53 } from "./errno.ts";
import { PAGE_BYTES } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** Where the pages of one block lie in a file. */
export interface PageArea {
  pagesOffset: number;
  pages: number;
}

const FULL = { next: "is there room on the disk? what was there before is untouched" };
const NO_HOLES = { next: "keep the file on a file system with holes: ext4, XFS, btrfs, tmpfs" };

/** One thread's access to such a file. Long runs go to the disk directly, where that can be. */
export class PageFile {
  /** So much of what was written went past the page cache, and so much through it. */
  directBytes = 0;
  bufferedBytes = 0;
  readonly fd: number;
  #handle: number | null;

  /** Neither descriptor is closed with it. `directFd`: see openDirect. */
  constructor(fd: number, directFd = -1) {
    this.fd = fd;
    this.#handle = check(symbols.tram_file_attach(fd, directFd), "E_MEMORY", "cannot write to a file");
  }

  get #h(): number {
    if (this.#handle === null) throw new TramError("E_INTERNAL", "a file used after it was released");
    return this.#handle;
  }

  /** Copies page i from `buffer` at `offset[i]` to page `index[i]` of the area. */
  write(area: PageArea, buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    const result = this.#move(symbols.tram_file_write_pages, area, buffer, index, offset, count);
    const direct = check(result, "E_FILE", "cannot write pages to the file", FULL);
    this.directBytes += direct;
    this.bufferedBytes += count * PAGE_BYTES - direct;
  }

  /** The mirror of write. */
  read(area: PageArea, buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    const result = this.#move(symbols.tram_file_read_pages, area, buffer, index, offset, count);
    if (errnoName(result) === "ENODATA")
      throw new TramError("E_STREAM_TRUNCATED", "the file ends before its pages do", {
        where: `a page area at byte ${area.pagesOffset}`,
      });
    check(result, "E_FILE", "cannot read pages from the file");
  }

  #move(
    call: typeof symbols.tram_file_write_pages,
    area: PageArea,
    buffer: Uint8Array,
    index: Uint32Array,
    offset: Uint32Array,
    count: number,
  ): number {
    if (count > index.length || count > offset.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const at = u53(area.pagesOffset, "pages offset");
    const pages = u53(area.pages, "pages");
    return call(this.#h, at, pages, buffer, buffer.length, index, offset, u32(count, "count"));
  }

  /** Makes pages holes. */
  punch(area: PageArea, index: Uint32Array, count: number): void {
    if (count > index.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const at = u53(area.pagesOffset, "pages offset");
    const result = symbols.tram_file_punch_pages(this.#h, at, u53(area.pages, "pages"), index, u32(count, "count"));
    check(result, "E_FILE", "cannot make holes in the file", NO_HOLES);
  }

  /** `bytes` of the area from `offset` on. */
  readBytes({ pagesOffset }: PageArea, offset: number, bytes: number): Uint8Array {
    const out = new Uint8Array(bytes);
    try {
      if (readSync(this.fd, out, 0, bytes, pagesOffset + offset) === bytes) return out;
    } catch {
      // falls through: the same error as for a page that is not there
    }
    throw new TramError("E_FILE", "a page that was written cannot be read back", {
      next: "the stream tells what changed in pages, so the file must be readable, too: give its path",
    });
  }

  close(): void {
    if (this.#handle !== null) symbols.tram_file_detach(this.#handle);
    this.#handle = null;
  }
}

/** The same file, past the page cache; -1 where its file system has no such thing. */
export function openDirect(fd: number): number {
  try {
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_DIRECT);
  } catch {
    return -1;
  }
}

/** A buffer that begins at a page's border: what is written from it directly need not be copied first. */
export function alignedBuffer(bytes: number): Uint8Array {
  const whole = new Uint8Array(bytes + PAGE_BYTES);
  const skip = (PAGE_BYTES - (Number(ptr(whole)) % PAGE_BYTES)) % PAGE_BYTES;
  return whole.subarray(skip, skip + bytes);
}

/** The file ends there, and what lies between is a hole. */
export function setLength(fd: number, bytes: number): void {
  try {
    ftruncateSync(fd, bytes);
  } catch (error) {
    throw new TramError("E_FILE", `the file cannot be ${bytes} bytes long: ${(error as Error).message}`, {
      next: "it must be a regular file, on a file system that holds files of this size",
    });
  }
}

/** All of `bytes` at `offset` of the file. */
export function writeAt(fd: number, bytes: Uint8Array, offset: number): void {
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
  } catch (error) {
    throw new TramError("E_FILE", `cannot write to the file: ${(error as Error).message}`, FULL);
  }
}

// Files where each page has its place: written and read in runs, made holes in runs.
import { ptr } from "bun:ffi";
import { constants, existsSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { reasonOf, TramError } from "../errors.ts";
import { check, errnoName, u32, u53 } from "./errno.ts";
import { host } from "./host.ts";
import { PAGE_BYTES, type Ram, readable } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** Where the pages of one block lie in a file. */
export interface PageArea {
  pagesOffset: number;
  pages: number;
}

const FULL = { next: "is there room on the disk? what was there before is untouched" };
const NO_HOLES = { next: "keep the file on a file system with holes: ext4, XFS, btrfs, tmpfs" };

/** How a file is reached past the page cache; see openDirect. */
export interface DirectAccess {
  /** The same file, opened for it; -1: not at all. */
  fd: number;
  /** Nothing of guest memory goes through the page cache; else long runs only. */
  only: boolean;
}

export const BUFFERED: DirectAccess = { fd: -1, only: false };

/** One thread's access to such a file. Long runs go to the disk directly, where that can be. */
export class PageFile {
  /** So much of what was written went past the page cache, and so much through it. */
  directBytes = 0;
  bufferedBytes = 0;
  readonly fd: number;
  #handle: number | null;

  /** Neither descriptor is closed with it. */
  constructor(fd: number, direct: DirectAccess = BUFFERED) {
    this.fd = fd;
    const handle = symbols.tram_file_attach(fd, direct.fd, direct.only ? 1 : 0);
    this.#handle = check(handle, "E_MEMORY", "cannot write to a file");
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
    if (errnoName(result) === "ENODATA") throw cutShort(area);
    check(result, "E_FILE", "cannot read pages from the file");
  }

  /** Guest pages `index[0, count)`, ascending, to their places, straight from memory. */
  writeRam(area: PageArea, ram: Ram, index: Uint32Array, count: number): void {
    const result = this.#moveRam(symbols.tram_file_write_ram, area, ram, index, count);
    if (errnoName(result) === "EFAULT") readable(result, "write pages");
    const direct = check(result, "E_FILE", "cannot write pages to the file", FULL);
    this.directBytes += direct;
    this.bufferedBytes += count * PAGE_BYTES - direct;
  }

  /** The mirror of writeRam. */
  readRam(area: PageArea, ram: Ram, index: Uint32Array, count: number): void {
    const result = this.#moveRam(symbols.tram_file_read_ram, area, ram, index, count);
    if (errnoName(result) === "ENODATA") throw cutShort(area);
    const direct = check(result, "E_FILE", "cannot read pages from the file");
    this.directBytes += direct;
    this.bufferedBytes += count * PAGE_BYTES - direct;
  }

  #moveRam(
    call: typeof symbols.tram_file_write_ram,
    area: PageArea,
    ram: Ram,
    index: Uint32Array,
    count: number,
  ): number {
    if (count > index.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const at = u53(area.pagesOffset, "pages offset");
    return call(this.#h, at, u53(area.pages, "pages"), ram.native, index, u32(count, "count"));
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

const cutShort = ({ pagesOffset }: PageArea): TramError =>
  new TramError("E_STREAM_TRUNCATED", "the file ends before its pages do", {
    where: `a page area at byte ${pagesOffset}`,
  });

/** The same file, past the page cache, for writing or for reading; -1 where its file system has no such thing. */
export function openDirect(fd: number, writing = true): number {
  try {
    const access = writing ? constants.O_WRONLY : constants.O_RDONLY;
    return openSync(`/proc/self/fd/${fd}`, access | constants.O_DIRECT);
  } catch {
    return -1;
  }
}

export const DIRECT_MODES = ["auto", "on", "off"] as const;
export type DirectMode = (typeof DIRECT_MODES)[number];

/** How pages go to or from the file, and why not directly, where that was not what was asked for. */
export function chooseDirect(
  fd: number,
  mode: DirectMode,
  writing: boolean,
): DirectAccess & { fallback: string | null } {
  if (mode === "off") return { ...BUFFERED, fallback: null };
  const alignment = host.directAlignment(fd);
  const refusal =
    alignment && alignment.offset === 0
      ? "its file system has no direct I/O"
      : alignment && Math.max(alignment.offset, alignment.memory) > PAGE_BYTES
        ? `its file system wants direct I/O aligned to ${Math.max(alignment.offset, alignment.memory)} bytes, and a page has ${PAGE_BYTES}`
        : null;
  const direct = refusal === null ? openDirect(fd, writing) : -1;
  if (direct >= 0) return { fd: direct, only: mode === "on", fallback: null };
  const fallback = refusal ?? "its file system refuses to open it for direct I/O";
  if (mode === "auto") return { ...BUFFERED, fallback };
  throw new TramError("E_REFUSED", `--direct-io on: the file cannot be reached past the page cache: ${fallback}`, {
    next: "keep it on another file system (ext4 and XFS can), or use --direct-io auto",
  });
}

/** Blocks for [offset, offset + bytes), whether or not anything is written there. */
export function allocate(fd: number, offset: number, bytes: number): void {
  const result = symbols.tram_file_allocate(fd, u53(offset, "offset"), u53(bytes, "size"));
  check(result, "E_FILE", `cannot reserve ${bytes} bytes for the file`, FULL);
}

/** Where the first data at or behind `offset` begins, and where it ends; null: there is none. */
export function nextData(fd: number, offset: number): { from: number; to: number } | null {
  const from = symbols.tram_file_seek_data(fd, u53(offset, "offset"));
  if (errnoName(from) === "ENXIO") return null;
  check(from, "E_FILE", "cannot ask where the file has data");
  return { from, to: check(host.seekHole(fd, from), "E_FILE", "cannot ask where the file has holes") };
}

/** A guest's memory, and its disks, are nobody else's business. */
export const PRIVATE = 0o600;
/** Linux's O_TMPFILE, with the O_DIRECTORY that belongs to it. */
const O_TMPFILE = 0o20200000;

/** A file without a name, gone with its last descriptor; -1: this file system has none. Throws if the folder may not be written to. */
export function openNameless(folder: string): number {
  try {
    return openSync(folder, O_TMPFILE | constants.O_RDWR, PRIVATE);
  } catch (error) {
    const isUnknown = ["EOPNOTSUPP", "ENOTSUP", "EISDIR", "ENOENT", "EINVAL"].includes((error as NodeJS.ErrnoException).code ?? ""); // biome-ignore format: one line
    if (isUnknown && existsSync(folder)) return -1;
    throw error;
  }
}

/**
 * busy: somebody else holds a lock that excludes it. none: this file system has no locks, or no exclusive ones for who only
 * reads. It goes with the last descriptor of this description.
 */
export function lockFile(fd: number, kind: "shared" | "exclusive"): "locked" | "busy" | "none" {
  const result = symbols.tram_file_lock(fd, kind === "exclusive" ? 1 : 0);
  if (errnoName(result) === "EAGAIN" || errnoName(result) === "EWOULDBLOCK") return "busy";
  if (result < 0 && ["ENOLCK", "EOPNOTSUPP", "EINVAL", "ENOSYS", "EBADF"].includes(errnoName(result))) return "none";
  check(result, "E_FILE", "cannot lock the file");
  return "locked";
}

/** False: somebody else holds a lock that excludes it. */
export const tryLock = (fd: number, kind: "shared" | "exclusive"): boolean => lockFile(fd, kind) !== "busy";

export function unlockFile(fd: number): void {
  check(symbols.tram_file_unlock(fd), "E_FILE", "cannot unlock the file");
}

/** Somebody who wants to write to the file waits, for some time (/proc/sys/fs/lease-break-time), until it is ended. */
export const lease = {
  /** False: this file system has none, or somebody has the file open for writing. */
  take: (fd: number): boolean => symbols.tram_file_lease(fd) >= 0,
  /** False: somebody waits. */
  holds: (fd: number): boolean => symbols.tram_file_lease_holds(fd) === 1,
  end: (fd: number): void => void symbols.tram_file_lease_end(fd),
};

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
    throw new TramError("E_FILE", `the file cannot be ${bytes} bytes long: ${reasonOf(error)}`, {
      next: "it must be a regular file, on a file system that holds files of this size",
    });
  }
}

/** All of `bytes` at `offset` of the file. */
export function writeAt(fd: number, bytes: Uint8Array, offset: number): void {
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
  } catch (error) {
    throw new TramError("E_FILE", `cannot write to the file: ${reasonOf(error)}`, FULL);
  }
}

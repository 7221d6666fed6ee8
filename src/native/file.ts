// Files where each page has its place: written in runs, made holes in runs.
import { readSync, writeSync } from "node:fs";
import { TramError } from "../errors.ts";
import { check, errnoName, u32, u53 } from "./errno.ts";
import { PAGE_BYTES } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** The pages of one block in a file. */
export interface PageArea {
  fd: number;
  pagesOffset: number;
  pages: number;
}

const FULL = { next: "is there room on the disk? what was there before is untouched" };

export const pageFile = {
  /** Copies page i from `buffer` at `offset[i]` to page `index[i]` of the area. */
  write(area: PageArea, buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    if (count > index.length || count > offset.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const { fd, pagesOffset, pages } = area;
    const at = u53(pagesOffset, "pages offset");
    const result = symbols.tram_file_write_pages(
      fd,
      at,
      pages,
      buffer,
      buffer.length,
      index,
      offset,
      u32(count, "count"),
    );
    check(result, "E_FILE", "cannot write pages to the file", FULL);
  },

  /** The mirror of write. */
  read(area: PageArea, buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    if (count > index.length || count > offset.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const { fd, pagesOffset, pages } = area;
    const at = u53(pagesOffset, "pages offset");
    const result = symbols.tram_file_read_pages(
      fd,
      at,
      pages,
      buffer,
      buffer.length,
      index,
      offset,
      u32(count, "count"),
    );
    if (errnoName(result) === "ENODATA")
      throw new TramError("E_STREAM_TRUNCATED", "the file ends before its pages do", {
        where: `a page area at byte ${at}`,
      });
    check(result, "E_FILE", "cannot read pages from the file");
  },

  /** Makes pages holes. */
  punch({ fd, pagesOffset, pages }: PageArea, index: Uint32Array, count: number): void {
    if (count > index.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const at = u53(pagesOffset, "pages offset");
    const result = symbols.tram_file_punch_pages(fd, at, pages, index, u32(count, "count"));
    check(result, "E_FILE", "cannot make holes in the file", {
      next: "keep the file on a file system with holes: ext4, XFS, btrfs, tmpfs",
    });
  },

  readPage({ fd, pagesOffset }: PageArea, offset: number, bytes = PAGE_BYTES): Uint8Array {
    const out = new Uint8Array(bytes);
    if (readSync(fd, out, 0, bytes, pagesOffset + offset) !== bytes)
      throw new TramError("E_FILE", "a page that was written cannot be read back");
    return out;
  },

  /** All of `bytes` at `offset` of the file. */
  writeAt(fd: number, bytes: Uint8Array, offset: number): void {
    try {
      for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
    } catch (error) {
      throw new TramError("E_FILE", `cannot write to the file: ${(error as Error).message}`, FULL);
    }
  },
};

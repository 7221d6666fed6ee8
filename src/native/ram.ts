// Guest memory, by page index. Host addresses stay opaque numbers on this side.
import type { Pointer } from "bun:ffi";
import { openSync } from "node:fs";
import { TramError } from "../errors.ts";
import { check, errnoName, u32, u53 } from "./errno.ts";
import { symbols } from "./symbols.ts";

export const PAGE_BYTES = 4096;

/** One guest's memory. Plain data, so that Workers can attach to the same one; the creator destroys it. */
export interface RamHandle {
  readonly handle: number;
  readonly bytes: number;
}

/** The result of a call that touches guest memory. */
export function readable(result: number, what: string): number {
  if (errnoName(result) === "EFAULT")
    throw new TramError(
      "E_GUEST_RAM",
      "a page of guest memory cannot be read: the file that it comes from has failed",
      {
        next: "the kernel's messages (dmesg) may say why; the guest was restored from a file that is cut short or on a bad disk",
      },
    );
  return check(result, "E_INTERNAL", what);
}

export class Ram {
  #handle: number | null;
  readonly bytes: number;
  readonly pages: number;

  private constructor(handle: number, bytes: number) {
    this.#handle = handle;
    this.bytes = bytes;
    this.pages = bytes / PAGE_BYTES;
  }

  static create(bytes: number): Ram {
    const handle = check(
      symbols.tram_ram_create(u53(bytes, "memory size")),
      "E_MEMORY",
      `cannot reserve ${bytes} bytes`,
    );
    return new Ram(handle, bytes);
  }

  static attach(shared: RamHandle): Ram {
    return new Ram(shared.handle, shared.bytes);
  }

  get #h(): number {
    if (this.#handle === null) throw new TramError("E_INTERNAL", "guest memory used after it was released");
    return this.#handle;
  }

  share(): RamHandle {
    return { handle: this.#h, bytes: this.bytes };
  }

  /** For calls that take the C handle. */
  get native(): number {
    return this.#h;
  }

  /** The host address of [offset, offset + bytes), for KVM's memory slots. */
  host(offset: number, bytes: number): number {
    return check(
      symbols.tram_ram_host(this.#h, u53(offset, "offset"), u53(bytes, "size")),
      "E_INTERNAL",
      "guest memory",
    );
  }

  populate(): void {
    check(symbols.tram_ram_populate(this.#h), "E_MEMORY", `cannot populate ${this.bytes} bytes of guest memory`);
  }

  read(offset: number, bytes: number): Uint8Array {
    const out = new Uint8Array(bytes);
    readable(symbols.tram_ram_read(this.#h, u53(offset, "offset"), out, bytes), "read guest memory");
    return out;
  }

  write(offset: number, data: Uint8Array): void {
    readable(symbols.tram_ram_write(this.#h, u53(offset, "offset"), data, data.length), "write guest memory");
  }

  /**
   * Sorts `index[0, count)` into pages with content first, zero pages behind; returns how many have content. Zero pages in gaps
   * of at most `gapMax` between neighbours with content count as content, if there is as much of it before them.
   */
  splitZero(index: Uint32Array, count: number, gapMax = 0): number {
    if (count > index.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    return readable(
      symbols.tram_pages_split_zero(this.#h, index, u32(count, "count"), u32(gapMax, "gap")),
      "zero scan",
    );
  }

  /**
   * Sorts `index[0, count)`: pages behind are untouched, which in anonymous memory makes them zero, and none of them is touched
   * by asking. Returns how many others there are. `pagemapFd`: openPagemap's.
   */
  splitUntouched(pagemapFd: number, index: Uint32Array, count: number): number {
    if (count > index.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const result = symbols.tram_pages_split_untouched(this.#h, pagemapFd, index, u32(count, "count"));
    return check(result, "E_INTERNAL", "look at the page tables");
  }

  /** Copies page i from `buffer` at `offset[i]` into guest page `index[i]`. */
  scatter(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    if (count > index.length || count > offset.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    const result = symbols.tram_pages_scatter(this.#h, buffer, buffer.length, index, offset, u32(count, "count"));
    readable(result, "place pages");
  }

  /** Makes pages zero; those that are zero already are not written. */
  clear(index: Uint32Array, count: number): void {
    if (count > index.length) throw new TramError("E_INTERNAL", "more pages than indexes");
    readable(symbols.tram_pages_clear(this.#h, index, u32(count, "count")), "clear pages");
  }

  /** Page records as one run of bytes in `out`, for transports that only write: see tram_pages_gather in c/tram.h. */
  gather(
    head: Uint8Array,
    headBytes: number,
    words: Uint8Array,
    index: Uint32Array,
    count: number,
    out: Uint8Array,
  ): number {
    const result = symbols.tram_pages_gather(this.#h, head, headBytes, words, index, count, out, out.length);
    return readable(result, "gather pages");
  }

  /** [offset, offset + bytes) becomes the file's content from `fileOffset` on; what is written there stays here. */
  mapFile(offset: number, bytes: number, fd: number, fileOffset: number): void {
    check(symbols.tram_guard_install(), "E_MEMORY", "cannot guard guest memory");
    const at = u53(fileOffset, "file offset");
    const result = symbols.tram_ram_map_file(this.#h, u53(offset, "offset"), u53(bytes, "size"), fd, at);
    check(result, "E_MEMORY", `cannot map ${bytes} bytes of the file as guest memory`);
  }

  /** Brings pages in; the plain result, because what cannot be read is an answer. */
  tryPopulate(offset: number, bytes: number): number {
    return symbols.tram_ram_populate_range(this.#h, u53(offset, "offset"), u53(bytes, "size"), 0);
  }

  /** [offset, offset + bytes) is no file's any longer; the plain result. Nobody writes there meanwhile. */
  tryDetach(offset: number, bytes: number): number {
    return symbols.tram_ram_detach(this.#h, u53(offset, "offset"), u53(bytes, "size"));
  }

  /** What is there is nobody's any more, and its memory is given back, if it can be; the plain result. `isFile`: it may be one's. */
  tryDiscard(offset: number, bytes: number, isFile: boolean): number {
    return symbols.tram_ram_discard(this.#h, u53(offset, "offset"), u53(bytes, "size"), isFile ? 1 : 0);
  }

  /** Whoever touches the page fails from here on. */
  forbid(page: number): void {
    check(symbols.tram_guard_install(), "E_MEMORY", "cannot guard guest memory");
    check(symbols.tram_ram_forbid(this.#h, u32(page, "page")), "E_MEMORY", "cannot lock a page away");
  }

  destroy(): void {
    check(symbols.tram_ram_destroy(this.#h), "E_INTERNAL", "release guest memory");
    this.#handle = null;
  }
}

/** This process's page tables, for all of its threads. */
export const openPagemap = (): number => openSync("/proc/self/pagemap", "r");

/** A raw kernel address as the FFI's pointer type. Only native/ makes these. */
export function pointer(address: number): Pointer {
  return address as Pointer;
}

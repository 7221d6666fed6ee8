// Guest memory that is filled as it is touched: whoever touches a page that is not there waits until it was placed.
import { openSync } from "node:fs";
import { TramError } from "../errors.ts";
import { check, describeErrno, u32 } from "./errno.ts";
import { host } from "./host.ts";
import { net } from "./net.ts";
import type { Ram } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** A descriptor that sees the kernel's accesses, too, as a guest's memory needs. */
export function openUserfaultfd(): number {
  const fd = host.userfaultfd();
  if (fd >= 0) return fd;
  try {
    const device = openSync("/dev/userfaultfd", "r+");
    const made = host.userfaultfdFrom(device);
    net.close(device);
    if (made >= 0) return made;
  } catch {
    // falls through: the reason that the system call gave is the one to tell
  }
  throw new TramError(
    "E_REFUSED",
    `this user may not have guest memory filled as it is touched: ${describeErrno(fd)}`,
    {
      next: "sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd; or restore with --eager, which checks everything first",
    },
  );
}

export class FaultedRam {
  readonly #fd: number;
  readonly #ram: Ram;

  /** `ram` has been touched nowhere yet. The descriptor is closed with it. */
  constructor(fd: number, ram: Ram) {
    this.#fd = fd;
    this.#ram = ram;
    check(symbols.tram_uffd_begin(fd, ram.native), "E_MEMORY", "cannot watch guest memory (userfaultfd)");
  }

  /** The pages that somebody waits for, in `index`; how many. */
  wait(index: Uint32Array, timeoutMs: number): number {
    const result = symbols.tram_uffd_wait(this.#fd, this.#ram.native, index, index.length, timeoutMs);
    return check(result, "E_MEMORY", "wait for page faults");
  }

  /** Page i from `buffer` at `offset[i]` to page `index[i]`, where it is not there yet. */
  place(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    const { native } = this.#ram;
    const number = u32(Math.min(count, index.length, offset.length), "count");
    const result = symbols.tram_uffd_place(this.#fd, native, buffer, buffer.length, index, offset, number);
    check(result, "E_MEMORY", "place pages");
  }

  placeZero(index: Uint32Array, count: number): void {
    const number = u32(Math.min(count, index.length), "count");
    check(symbols.tram_uffd_place_zero(this.#fd, this.#ram.native, index, number), "E_MEMORY", "place zero pages");
  }

  /** Nobody gets this page: whoever waits for it, or touches it later, fails. */
  refuse(page: number): void {
    this.#ram.forbid(page);
    check(symbols.tram_uffd_wake(this.#fd, this.#ram.native, u32(page, "page")), "E_MEMORY", "wake who waits");
  }

  /** All is there. */
  close(): void {
    symbols.tram_uffd_end(this.#fd, this.#ram.native);
    net.close(this.#fd);
  }
}

// Which pages of guest memory this process writes to, by a userfaultfd's write protection (c/wp.c).
import { TramError } from "../errors.ts";
import { check, describeErrno, u32 } from "./errno.ts";
import { net } from "./net.ts";
import { addPages, type PageSet } from "./page-list.ts";
import { openPagemap, type Ram } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** Whether this process may watch its writes; `scans`: and this kernel notes them by itself. */
export function canWatchWrites(scans: boolean): boolean {
  const fd = symbols.tram_wp_open(scans ? 1 : 0);
  if (fd >= 0) net.close(fd);
  return fd >= 0;
}

/** A userfaultfd over all of the memory; `scans`: the kernel notes writes by itself. */
export function watchWrites(ram: Ram, scans: boolean): number {
  const fd = symbols.tram_wp_open(scans ? 1 : 0);
  if (fd < 0)
    throw new TramError(
      "E_TRACKING",
      `this process may not have its writes tracked: userfaultfd: ${describeErrno(fd)}`,
      {
        expected: "CONFIG_USERFAULTFD, and a sandbox (seccomp) that lets userfaultfd through",
        next: "use --dirty-tracking marks",
      },
    );
  const result = symbols.tram_wp_begin(fd, ram.native);
  if (result >= 0) return fd;
  net.close(fd);
  throw new TramError("E_TRACKING", `writes to guest memory cannot be tracked: ${describeErrno(result)}`, {
    expected: "anonymous memory, and a kernel of version 5.19 or later",
  });
}

/** Who waits goes on. The descriptor stays open. */
export function unwatchWrites(fd: number, ram: Ram): void {
  symbols.tram_uffd_end(fd, ram.native);
}

/** Adds all pages written since the last time; later writes to them count again. */
export class WriteScan {
  readonly #ram: Ram;
  readonly #pagemapFd = openPagemap();

  constructor(ram: Ram) {
    this.#ram = ram;
  }

  takeInto({ words, pages }: PageSet): void {
    check(
      symbols.tram_wp_scan(this.#pagemapFd, this.#ram.native, words, pages),
      "E_TRACKING",
      "scan for written pages",
    );
  }

  close(): void {
    net.close(this.#pagemapFd);
  }
}

/** All writes to [first, first + pages) wait until they are noted. */
export function protectPages(fd: number, ram: Ram, first: number, pages: number): void {
  const result = symbols.tram_wp_protect(fd, ram.native, u32(first, "page"), u32(pages, "pages"), 1);
  check(result, "E_TRACKING", "protect guest memory");
}

/** Pages that somebody waits to write to, after at most `timeoutMs`, into `index`; how many. */
export function awaitWriters(fd: number, ram: Ram, index: Uint32Array, timeoutMs: number): number {
  return check(
    symbols.tram_uffd_wait(fd, ram.native, index, index.length, timeoutMs),
    "E_TRACKING",
    "wait for writers",
  );
}

/**
 * Notes them, and lets them be written to. Nobody may take what is noted in between: a writer whose wait a signal has ended writes
 * as soon as its page may be written to, and is not noted a second time.
 */
export function letWrite(fd: number, ram: Ram, index: Uint32Array, written: PageSet): void {
  for (const page of index)
    check(symbols.tram_wp_protect(fd, ram.native, page, 1, 0), "E_TRACKING", "let a writer write");
  addPages(written, index);
}

/** Who waits for them looks again. */
export function wakeWriters(fd: number, ram: Ram, index: Uint32Array): void {
  for (const page of index) check(symbols.tram_uffd_wake(fd, ram.native, page), "E_TRACKING", "wake a writer");
}

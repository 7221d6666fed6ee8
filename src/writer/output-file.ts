// A file that is there whole or not at all: written beside its place, synced, and renamed into it. Where that cannot be (an
// offset inside a file, a descriptor of the caller's) it is written in place, and what was there before is not protected.
import {
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { TramError } from "../errors.ts";
import { net } from "../native/net.ts";

/** Where a file is to be written. `offset`: what stands before it in the file stays. */
export type FileTarget = { path: string; offset?: number } | { fd: number };

export class OutputFile {
  readonly fd: number;
  /** Where in the file our first byte goes. */
  readonly offset: number;
  /** A regular file: what is in it can be read again. */
  readonly isPlain: boolean;
  readonly #path: string;
  /** null: it is written in place. */
  readonly #temporary: string | null;
  #isNew = false;

  constructor(target: FileTarget) {
    try {
      if ("fd" in target) {
        this.#path = `fd:${target.fd}`;
        this.#temporary = null;
        refuseAppending(target.fd);
        this.fd = readable(target.fd);
        this.offset = positionOf(target.fd);
        this.isPlain = net.fdType(this.fd) === "file";
        return;
      }
      const path = resolve(target.path);
      this.#path = existsSync(path) ? realpathSync(path) : path; // a symbolic link stays one
      this.offset = target.offset ?? 0;
      this.isPlain = !existsSync(this.#path) || lstatSync(this.#path).isFile();
      const inPlace = !this.isPlain || target.offset !== undefined;
      this.#temporary = inPlace ? null : join(dirname(this.#path), `${temporaryPrefix(this.#path)}${process.pid}`);
      this.#isNew = inPlace && !existsSync(this.#path);
      const flags = this.#temporary ? "w+" : existsSync(this.#path) ? "r+" : "w+";
      this.fd = openSync(this.#temporary ?? this.#path, this.isPlain ? flags : "w", 0o600);
    } catch (error) {
      if (error instanceof TramError) throw error;
      throw new TramError(
        "E_FILE",
        `cannot write ${"fd" in target ? `fd:${target.fd}` : target.path}: ${(error as Error).message}`,
        {
          next: "check that the folder exists and may be written to",
        },
      );
    }
  }

  /** On disk, under its name. */
  commit(): void {
    try {
      if (this.isPlain) fsyncSync(this.fd);
      if (this.#temporary) {
        renameSync(this.#temporary, this.#path);
        const folder = openSync(dirname(this.#path), "r");
        fsyncSync(folder);
        closeSync(folder);
      }
      closeSync(this.fd);
    } catch (error) {
      throw new TramError("E_FILE", `cannot make ${this.#path} durable: ${(error as Error).message}`, {
        next: "the guest is stopped at the source, and may be resumed there",
      });
    }
  }

  /** As if it had never been begun. */
  discard(): void {
    closeSync(this.fd);
    const made = this.#temporary ?? (this.#isNew ? this.#path : null);
    if (made) rmSync(made, { force: true });
  }
}

/** What the names of files begin with that are on their way to be `path`; a process number follows. A name has 255 bytes. */
export const temporaryPrefix = (path: string): string => `.${[...basename(path)].slice(0, 50).join("")}.tram-`;

/** Linux writes behind the end of such a file, whatever place is asked for. */
function refuseAppending(fd: number): void {
  const info = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
  const flags = Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(info)?.[1] ?? "0", 8);
  if (flags & constants.O_APPEND)
    throw new TramError(
      "E_USAGE",
      `descriptor ${fd} was opened for appending, and pages have their places in the file`,
      {
        next: "use > instead of >>, or file:PATH,offset=N to write behind what a file has",
      },
    );
}

/** Some pages are read again before they are written: a shell's > gives a descriptor that only writes. */
function readable(fd: number): number {
  try {
    return openSync(`/proc/self/fd/${fd}`, "r+");
  } catch {
    return net.duplicate(fd);
  }
}

/** Where the description of a descriptor stands: a shell's redirection may have written before us. */
function positionOf(fd: number): number {
  return Number(/^pos:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? 0);
}

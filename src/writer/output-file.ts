// A file that is there whole or not at all: written beside its place, synced, and renamed into it. Where that cannot be (an
// offset inside a file, a descriptor of the caller's) it is written in place, and what was there before is not protected.
import {
  closeSync,
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

  constructor(target: FileTarget) {
    try {
      if ("fd" in target) {
        this.#path = `fd:${target.fd}`;
        this.#temporary = null;
        this.fd = net.duplicate(target.fd);
        this.offset = positionOf(target.fd);
        this.isPlain = net.fdType(this.fd) === "file";
        return;
      }
      const path = resolve(target.path);
      this.#path = existsSync(path) ? realpathSync(path) : path; // a symbolic link stays one
      this.offset = target.offset ?? 0;
      this.isPlain = !existsSync(this.#path) || lstatSync(this.#path).isFile();
      const inPlace = !this.isPlain || target.offset !== undefined;
      this.#temporary = inPlace ? null : join(dirname(this.#path), `.${basename(this.#path)}.tram-${process.pid}`);
      const flags = this.#temporary ? "w+" : existsSync(this.#path) ? "r+" : "w+";
      this.fd = openSync(this.#temporary ?? this.#path, this.isPlain ? flags : "w", 0o600);
    } catch (error) {
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
    if (this.#temporary) rmSync(this.#temporary, { force: true });
  }
}

/** Where the description of a descriptor stands: a shell's redirection may have written before us. */
function positionOf(fd: number): number {
  return Number(/^pos:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? 0);
}

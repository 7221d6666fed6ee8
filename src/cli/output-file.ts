// A file that is there whole or not at all: written beside its place, synced, and renamed into it.
import { closeSync, existsSync, fsyncSync, lstatSync, openSync, realpathSync, renameSync, rmSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { TramError } from "../errors.ts";

export class OutputFile {
  readonly fd: number;
  readonly #path: string;
  /** null: a device or a pipe, which is written as it is. */
  readonly #temporary: string | null;

  constructor(given: string) {
    const path = resolve(given);
    try {
      this.#path = existsSync(path) ? realpathSync(path) : path; // a symbolic link stays one
      const isPlain = !existsSync(this.#path) || lstatSync(this.#path).isFile();
      this.#temporary = isPlain ? join(dirname(this.#path), `.${basename(this.#path)}.tram-${process.pid}`) : null;
      this.fd = openSync(this.#temporary ?? this.#path, "w", 0o600);
    } catch (error) {
      throw new TramError("E_FILE", `cannot write ${given}: ${(error as Error).message}`, {
        next: "check that the folder exists and may be written to",
      });
    }
  }

  /** A regular file: what is in it can be read again. */
  get isPlain(): boolean {
    return this.#temporary !== null;
  }

  /** On disk, under its name. */
  commit(): void {
    try {
      if (this.#temporary) {
        fsyncSync(this.fd);
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

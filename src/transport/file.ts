// A regular file that is read from anywhere: where a stream lies that was kept.
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { reasonOf, TramError } from "../errors.ts";
import type { Transport } from "./transport.ts";

export class FileTransport implements Transport {
  readonly name: string;
  readonly twoWay = false;
  readonly fd: number;
  #at: number;
  #end = Number.POSITIVE_INFINITY;

  /** Takes the descriptor over. The caller's own position in it does not move. */
  constructor(fd: number, name: string, offset = 0) {
    this.fd = fd;
    this.name = name;
    this.#at = offset;
  }

  static open(path: string, offset = 0): FileTransport {
    try {
      return new FileTransport(openSync(path, "r"), path, offset);
    } catch (error) {
      throw new TramError("E_FILE", `cannot read ${path}: ${reasonOf(error)}`);
    }
  }

  /** Bytes in the file, or before where it was told to end. */
  get bytes(): number {
    return Math.min(fstatSync(this.fd).size, this.#end);
  }

  /** The same file, read without an end that this one was told, by the same descriptor. */
  whole(): FileTransport {
    return new FileTransport(this.fd, this.name);
  }

  /** What lies from `end` on is not part of what is read from the beginning; readAt still reaches it. */
  endAt(end: number): void {
    this.#end = end;
  }

  seek(offset: number): void {
    this.#at = offset;
  }

  read(out: Uint8Array): number {
    const left = Math.max(0, Math.min(out.length, this.#end - this.#at));
    const count = this.readAt(out.subarray(0, left), this.#at);
    this.#at += count;
    return count;
  }

  /** As many bytes as there are from `offset` on, at most `out.length`. */
  readAt(out: Uint8Array, offset: number): number {
    try {
      return readSync(this.fd, out, 0, out.length, offset);
    } catch (error) {
      throw new TramError("E_FILE", `cannot read ${this.name}: ${reasonOf(error)}`);
    }
  }

  write(): void {
    throw new TramError("E_INTERNAL", `${this.name} is only read`);
  }

  drain(): boolean {
    return true;
  }

  close(): void {
    closeSync(this.fd);
  }
}

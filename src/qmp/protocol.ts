// QMP on a byte stream: JSON objects, one after another. Splits what arrives, bounds what it holds.
import type { ErrorData } from "../errors.ts";
import { TramError } from "../errors.ts";

/** A client that sends more than this without finishing its object is wrong or hostile. */
export const MESSAGE_BYTES_MAX = 1 << 20;

export interface QmpError {
  class: "GenericError" | "CommandNotFound" | "DeviceNotFound";
  desc: string;
  /** tram's own, beside QEMU's two: the error as data. */
  tram?: ErrorData;
}

export type QmpMessage = Record<string, unknown>;

/** Finds where top-level objects end. Bytes in, whole objects' texts out. */
export class MessageSplitter {
  #held: number[] = [];
  #depth = 0;
  #inString = false;
  #escaped = false;

  /** Throws E_QMP when the object grows over the limit. */
  push(bytes: Uint8Array): string[] {
    const complete: string[] = [];
    for (const byte of bytes) {
      if (this.#depth === 0 && byte !== 0x7b /* { */) {
        if (byte === 0x20 || byte === 0x09 || byte === 0x0a || byte === 0x0d || byte === 0xff) continue;
        throw new TramError("E_QMP", "not a QMP message", {
          expected: "a JSON object",
          found: `byte 0x${byte.toString(16)}`,
        });
      }
      this.#held.push(byte);
      if (this.#held.length > MESSAGE_BYTES_MAX)
        throw new TramError("E_QMP", "a QMP message is too long", {
          expected: `at most ${MESSAGE_BYTES_MAX} bytes`,
          found: "more",
        });
      if (this.#step(byte)) {
        complete.push(Buffer.from(this.#held).toString("utf8"));
        this.#held = [];
      }
    }
    return complete;
  }

  /** True when the byte ends the object. */
  #step(byte: number): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === 0x5c /* \ */) this.#escaped = true;
      else if (byte === 0x22 /* " */) this.#inString = false;
      return false;
    }
    if (byte === 0x22) this.#inString = true;
    else if (byte === 0x7b || byte === 0x5b) this.#depth++;
    else if (byte === 0x7d || byte === 0x5d) return --this.#depth === 0;
    return false;
  }
}

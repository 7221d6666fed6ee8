// What the target answers on the return path.
import type { Confirmation } from "../control/channel.ts";
import { TramError } from "../errors.ts";
import { ByteReader, badStream, hex } from "../stream/bytes.ts";
import { decodeReturnMessage, describeMessage, type Hello, type ReturnMessage } from "../stream/return-path.ts";
import { RP_MESSAGE_BYTES_MAX, TRAM_PING_HELLO } from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";

/** The target's messages, one at a time, from a channel that may deliver them in pieces. */
export class Replies {
  readonly #transport: Transport;
  #held = new Uint8Array(0);
  #offset = 0;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The next one. A refusal is thrown. */
  next(timeoutMs: number): ReturnMessage {
    const message = this.#next(timeoutMs);
    if (message.type === "refuse") throw refused(message);
    return message;
  }

  /** All of it within that time, however many pieces it comes in. */
  #next(timeoutMs: number): ReturnMessage {
    const piece = new Uint8Array(4096);
    for (const endMs = performance.now() + timeoutMs; ; ) {
      const message = this.#decode();
      if (message) return message;
      const leftMs = Math.ceil(endMs - performance.now());
      if (leftMs <= 0)
        throw new TramError(
          "E_PEER_SILENT",
          `${this.#transport.name}: the target does not come to an end of what it says`,
        );
      const count = this.#transport.read(piece, leftMs);
      if (count === 0)
        throw new TramError("E_CHANNEL_CLOSED", `${this.#transport.name}: the target closed the connection`, {
          next: "the target's own output says why",
        });
      const held = new Uint8Array(this.#held.length + count);
      held.set(this.#held);
      held.set(piece.subarray(0, count), this.#held.length);
      if (held.length > 2 * RP_MESSAGE_BYTES_MAX)
        throw badStream("the target sends too much", this.#offset, "one message", "more");
      this.#held = held;
    }
  }

  /** The answer to PING TRAM_PING_HELLO: a tram's greeting, or null from a target that only knows QEMU's protocol. */
  awaitHello(timeoutMs: number): Hello | null {
    const first = this.next(timeoutMs);
    if (first.type === "pong" && first.value === TRAM_PING_HELLO) return null;
    if (first.type !== "hello") throw unexpected(first, "HELLO or PONG");
    this.awaitPong(TRAM_PING_HELLO, timeoutMs);
    return first.hello;
  }

  /** The answer to PING `value`. */
  awaitPong(value: number, timeoutMs: number): void {
    let message = this.next(timeoutMs);
    while (message.type === "other") message = this.next(timeoutMs); // QEMU has more to say than was asked
    if (message.type !== "pong" || message.value !== value) throw unexpected(message, `PONG ${hex(value)}`);
  }

  /** The answer to PING TRAM_PING_ROOT. */
  awaitRoot(timeoutMs: number): bigint {
    const message = this.next(timeoutMs);
    if (message.type === "root") return message.root;
    throw unexpected(message, "ROOT");
  }

  /** The answers to PING TRAM_PING_HASHES: one hash for each of `pages` pages, as they stand in a table. */
  awaitHashes(pages: number, timeoutMs: number): Uint8Array {
    const table = new Uint8Array(pages * 8);
    for (let done = 0; done < pages; ) {
      const message = this.next(timeoutMs);
      if (message.type !== "hashes") throw unexpected(message, "HASHES");
      const { first, hashes } = message;
      if (first !== done || hashes.length === 0 || hashes.length > (pages - done) * 8)
        throw badStream(
          "the target's hashes are out of turn",
          0,
          `page ${done}`,
          `page ${first}, ${hashes.length} bytes`,
        );
      table.set(hashes, done * 8);
      done += hashes.length / 8;
    }
    return table;
  }

  /** The answer to the hand-over word: the target has the guest, or (an error: why) it never will. Throws where it says neither. */
  awaitLastWord(timeoutMs: number): Confirmation | TramError {
    let startedAfterMs: number | null = null;
    for (const endMs = performance.now() + timeoutMs; ; ) {
      const message = this.#next(Math.ceil(endMs - performance.now()));
      if (message.type === "refuse") return refused(message);
      if (message.type === "shut") return message.status === 0 ? { startedAfterMs } : notTaken(message.status);
      if (message.type === "started") startedAfterMs = message.afterUs / 1000;
      else if (message.type !== "other") throw unexpected(message, "SHUT");
    }
  }

  #decode(): ReturnMessage | null {
    if (this.#held.length < 4) return null;
    if (this.#offset === 0 && this.#held[0] === 0x7b && this.#held[1] === 0x22)
      throw new TramError("E_REFUSED", "what answers there is a QMP monitor, not a waiting guest", {
        where: this.#transport.name,
        next: "give the address that stands behind -incoming",
      });
    const length = 4 + ((this.#held[2] << 8) | this.#held[3]);
    if (this.#held.length < length) return null;
    const reader = new ByteReader(this.#held.subarray(0, length), this.#offset);
    this.#held = this.#held.slice(length);
    this.#offset += length;
    return decodeReturnMessage(reader);
  }
}

/** What is to be done next is to be done there. */
function refused({ reason, code, details }: Extract<ReturnMessage, { type: "refuse" }>): TramError {
  const isForPeople = ["E_REFUSED", "E_USAGE", "E_FILE"].includes(code);
  const next = isForPeople && details.next ? `there, and start it again: ${details.next}` : details.next;
  return new TramError("E_REFUSED", `the target refuses the guest: ${reason}`, {
    ...details,
    next: next ?? "the target's own output has the details",
  });
}

function unexpected(message: ReturnMessage, expected: string): TramError {
  if (message.type === "shut" && message.status !== 0) return notTaken(message.status);
  return badStream("the target answers out of turn", 0, expected, describeMessage(message));
}

/** The target says that it does not take the guest; before its end, or behind it. */
function notTaken(status: number): TramError {
  return new TramError("E_REFUSED", "the target did not take the guest", {
    expected: "SHUT 0",
    found: `SHUT ${status}`,
    next: "the target's own output says why",
  });
}

// Bytes from a transport through one buffer, with the offset of each: what decoders read from.
import { TramError } from "../errors.ts";
import { BufferSource } from "../stream/bytes.ts";
import type { Transport } from "../transport/transport.ts";

/** Stays in the second-level cache between the kernel's copy into it and ours out of it. */
const BUFFER_BYTES = 512 << 10;

export class TransportSource extends BufferSource {
  readonly buffer: Uint8Array;
  readonly #transport: Transport;
  #at = 0;
  #end = 0;
  #base = 0; // stream offset of buffer[0]

  constructor(transport: Transport) {
    const buffer = new Uint8Array(BUFFER_BYTES);
    super(buffer);
    this.buffer = buffer;
    this.#transport = transport;
  }

  override get offset(): number {
    return this.#base + this.#at;
  }

  /** Where the next byte lies in `buffer`. */
  get at(): number {
    return this.#at;
  }

  /** Bytes in the buffer that were not consumed. */
  get ready(): number {
    return this.#end - this.#at;
  }

  skip(count: number): void {
    this.#at += count;
  }

  /** Big-endian u32 at `buffer[at]`, not consumed. */
  peekU32(at: number): number {
    return this.view.getUint32(at);
  }

  /** Reads until `count` bytes are ready; positions in `buffer` from before are void. False: the stream ended first. */
  tryFill(count: number): boolean {
    if (this.ready >= count) return true;
    if (count > BUFFER_BYTES) throw new TramError("E_INTERNAL", `${count} bytes at once`);
    if (this.#at > 0) {
      this.buffer.copyWithin(0, this.#at, this.#end);
      this.#base += this.#at;
      this.#end -= this.#at;
      this.#at = 0;
    }
    while (this.ready < count) {
      const got = this.#transport.read(this.buffer.subarray(this.#end));
      if (got === 0) return false;
      this.#end += got;
    }
    return true;
  }

  fill(count: number): void {
    if (this.tryFill(count)) return;
    if (this.#transport.twoWay)
      throw new TramError("E_CHANNEL_CLOSED", "the source closed the connection without handing the guest over", {
        where: `byte ${this.#base + this.#end} from ${this.#transport.name}`,
        next: "the guest is at the source, whose own output says why",
      });
    throw new TramError("E_STREAM_TRUNCATED", `${this.#transport.name}: the stream ends too early`, {
      where: `byte ${this.#base + this.#end} of the stream`,
      expected: `${count - this.ready} more bytes`,
      found: "its end",
      next: "if something still writes it, its own output says why it stopped; otherwise the file was cut short",
    });
  }

  protected override take(count: number): number {
    this.fill(count);
    const at = this.#at;
    this.#at += count;
    return at;
  }

  override bytes(count: number): Uint8Array {
    const out = new Uint8Array(count);
    for (let done = 0; done < count; ) {
      const piece = Math.min(count - done, 4096);
      const at = this.take(piece);
      out.set(this.buffer.subarray(at, at + piece), done);
      done += piece;
    }
    return out;
  }
}

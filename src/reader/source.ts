// Bytes from a transport through one buffer, with the offset of each: what decoders read from.
import { TramError } from "../errors.ts";
import { BufferSource, type ByteWriter, badStream } from "../stream/bytes.ts";
import type { Transport } from "../transport/transport.ts";

/** For what is read in small pieces, as a file with fixed offsets is. */
export const SMALL_BUFFER_BYTES = 32 << 10;

/** Stays in the second-level cache between the kernel's copy into it and ours out of it. */
const BUFFER_BYTES = 512 << 10;

export class TransportSource extends BufferSource {
  readonly buffer: Uint8Array;
  /** Takes a copy of everything that is consumed while it is set: for what is kept as it came. */
  tap: ByteWriter | null = null;
  readonly #transport: Transport;
  #at = 0;
  #end = 0;
  #base: number; // offset of buffer[0], counted as the caller counts

  /** `base`: the offset of the first byte, where a stream does not begin at the beginning. */
  constructor(transport: Transport, base = 0, bufferBytes = BUFFER_BYTES) {
    const buffer = new Uint8Array(bufferBytes);
    super(buffer);
    this.buffer = buffer;
    this.#transport = transport;
    this.#base = base;
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

  /** Consumes `count` of the bytes that are ready. */
  skip(count: number): void {
    this.tap?.bytes(this.buffer.subarray(this.#at, this.#at + count));
    this.#at += count;
  }

  /** Goes on at `offset`. Only files can go back; forward, others read and drop what lies between. */
  seek(offset: number): void {
    const seek = this.#transport.seek?.bind(this.#transport);
    if (seek && (offset < this.#base || offset > this.#base + this.#end)) {
      seek(offset);
      this.#base = offset;
      this.#at = 0;
      this.#end = 0;
      return;
    }
    if (offset < this.#base || (offset < this.offset && !seek))
      throw badStream(
        "the stream continues before what was read",
        this.offset,
        "a regular file",
        "a stream that only goes forward",
      );
    if (offset < this.offset) this.#at = offset - this.#base;
    while (this.offset < offset) {
      this.fill(1);
      this.skip(Math.min(this.ready, offset - this.offset));
    }
  }

  /** Whatever there is, consumed, and at least one byte; null at the end. Valid until the next call. */
  takeReady(timeoutMs?: number): Uint8Array | null {
    if (!this.tryFill(1, timeoutMs)) return null;
    const at = this.#at;
    this.skip(this.ready);
    return this.buffer.subarray(at, this.#at);
  }

  /** Big-endian u32 at `buffer[at]`, not consumed. */
  peekU32(at: number): number {
    return this.view.getUint32(at);
  }

  /** Reads until `count` bytes are ready; positions in `buffer` from before are void. False: the stream ended first. */
  tryFill(count: number, timeoutMs?: number): boolean {
    if (this.ready >= count) return true;
    if (count > this.buffer.length) throw new TramError("E_INTERNAL", `${count} bytes at once`);
    if (this.#at > 0) {
      this.buffer.copyWithin(0, this.#at, this.#end);
      this.#base += this.#at;
      this.#end -= this.#at;
      this.#at = 0;
    }
    while (this.ready < count) {
      const got = this.#transport.read(this.buffer.subarray(this.#end), timeoutMs);
      if (got === 0) return false;
      this.#end += got;
    }
    return true;
  }

  fill(count: number): void {
    if (!this.tryFill(count)) throw this.ended(`${count - this.ready} more bytes`);
  }

  /** The stream ended where it may not: a peer that went away, or a file that was cut short. */
  ended(expected: string): TramError {
    const end = this.#base + this.#end;
    if (this.#transport.twoWay)
      return new TramError("E_CHANNEL_CLOSED", "the source closed the connection without handing the guest over", {
        where: `byte ${end} from ${this.#transport.name}`,
        next: "the guest is at the source, whose own output says why",
      });
    return new TramError("E_STREAM_TRUNCATED", `${this.#transport.name}: the stream ends too early`, {
      where: `byte ${end} of the stream`,
      expected,
      found: "its end",
      next: "if something still writes it, its own output says why it stopped; otherwise the file was cut short",
    });
  }

  override peek(): number {
    return this.tryFill(1) ? this.buffer[this.#at] : -1;
  }

  protected override take(count: number): number {
    this.fill(count);
    const at = this.#at;
    this.skip(count);
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

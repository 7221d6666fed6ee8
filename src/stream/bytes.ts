// Big-endian bytes: a growing writer, and a source of bytes that knows where it is.
import { TramError } from "../errors.ts";

export class ByteWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  get length(): number {
    return this.#length;
  }

  #grow(more: number): number {
    const at = this.#length;
    if (at + more > this.#bytes.length) {
      const bytes = new Uint8Array(Math.max(this.#bytes.length * 2, at + more));
      bytes.set(this.#bytes.subarray(0, at));
      this.#bytes = bytes;
      this.#view = new DataView(bytes.buffer);
    }
    this.#length = at + more;
    return at;
  }

  u8(value: number): this {
    const at = this.#grow(1);
    this.#view.setUint8(at, value);
    return this;
  }
  u16(value: number): this {
    const at = this.#grow(2);
    this.#view.setUint16(at, value);
    return this;
  }
  u32(value: number): this {
    const at = this.#grow(4);
    this.#view.setUint32(at, value);
    return this;
  }
  u64(value: bigint): this {
    const at = this.#grow(8);
    this.#view.setBigUint64(at, BigInt.asUintN(64, value));
    return this;
  }
  /** A 64-bit number below 2^53, such as a size or an offset with its flags. */
  size(value: number): this {
    const at = this.#grow(8);
    this.#view.setUint32(at, Math.floor(value / 0x100000000));
    this.#view.setUint32(at + 4, value % 0x100000000);
    return this;
  }
  bytes(value: Uint8Array): this {
    const at = this.#grow(value.length);
    this.#bytes.set(value, at);
    return this;
  }
  /** One length byte, then the text. */
  pstr(text: string): this {
    const bytes = new TextEncoder().encode(text);
    if (bytes.length > 255) throw new TramError("E_INTERNAL", `name too long for the stream: ${text}`);
    return this.u8(bytes.length).bytes(bytes);
  }

  /** A view of what was written; valid until the next write. */
  done(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
  reset(): this {
    this.#length = 0;
    return this;
  }
}

/** Where a decoder takes its bytes from: each call consumes them, or throws E_STREAM_TRUNCATED. */
export interface ByteSource {
  /** Bytes consumed so far: the offset in the stream of the next one. */
  readonly offset: number;
  u8(): number;
  u16(): number;
  u32(): number;
  u64(): bigint;
  /** A 64-bit number that must be below 2^53. */
  size(): number;
  bytes(count: number): Uint8Array;
  pstr(): string;
  /** The next byte, not consumed; -1 at the end. */
  peek(): number;
}

/** The stream is wrong at a known byte. */
export function badStream(what: string, offset: number, expected: string, found: string): TramError {
  return new TramError("E_STREAM", what, { where: `byte ${offset} of the stream`, expected, found });
}

export function hex(value: number | bigint, digits = 2): string {
  return `0x${value.toString(16).padStart(digits, "0")}`;
}

/** What every ByteSource does alike, over a buffer of which `take` gives the next bytes. */
export abstract class BufferSource implements ByteSource {
  protected readonly view: DataView;

  constructor(bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  abstract get offset(): number;
  abstract bytes(count: number): Uint8Array;
  abstract peek(): number;
  /** Consumes `count` bytes that lie together; where they begin in the buffer. */
  protected abstract take(count: number): number;

  u8(): number {
    return this.view.getUint8(this.take(1));
  }
  u16(): number {
    return this.view.getUint16(this.take(2));
  }
  u32(): number {
    return this.view.getUint32(this.take(4));
  }
  u64(): bigint {
    return this.view.getBigUint64(this.take(8));
  }
  size(): number {
    const { offset } = this;
    return checkedSize(this.u32(), this.u32(), offset);
  }
  pstr(): string {
    const { offset } = this;
    return asciiText(this.bytes(this.u8()), offset);
  }
}

/** QEMU's names are printable ASCII: anything else is a wrong byte, and would not survive being shown and written again. */
export function asciiText(bytes: Uint8Array, offset: number): string {
  const odd = bytes.findIndex((byte) => byte < 0x20 || byte > 0x7e);
  if (odd >= 0) throw badStream("a name is not text", offset, "printable ASCII", hex(bytes[odd]));
  return new TextDecoder().decode(bytes);
}

/** A ByteSource over bytes that are all there. */
export class ByteReader extends BufferSource {
  readonly #bytes: Uint8Array;
  readonly #base: number;
  #at = 0;

  constructor(bytes: Uint8Array, base = 0) {
    super(bytes);
    this.#bytes = bytes;
    this.#base = base;
  }

  override get offset(): number {
    return this.#base + this.#at;
  }
  get left(): number {
    return this.#bytes.length - this.#at;
  }
  override peek(): number {
    return this.left > 0 ? this.#bytes[this.#at] : -1;
  }

  protected override take(count: number): number {
    const at = this.#at;
    if (count > this.left)
      throw new TramError("E_STREAM_TRUNCATED", "the stream ends too early", {
        where: `byte ${this.#base + this.#bytes.length} of the stream`,
        expected: `${count - this.left} more bytes`,
        found: "its end",
      });
    this.#at += count;
    return at;
  }

  override bytes(count: number): Uint8Array {
    const at = this.take(count);
    return this.#bytes.slice(at, at + count);
  }

  skip(count: number): void {
    this.take(count);
  }
}

export function checkedSize(high: number, low: number, offset: number): number {
  if (high > 0x1fffff)
    throw badStream(
      "a size is out of range",
      offset,
      "less than 2^53",
      `${hex(high, 8)}${low.toString(16).padStart(8, "0")}`,
    );
  return high * 0x100000000 + low;
}

import { describe, expect, test } from "bun:test";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { skipDirtyBitmaps } from "../../src/stream/dirty-bitmap.ts";
import { byteOf, errorOf } from "../support/errors.ts";

const EOS = 0x01;
const ZEROES = 0x02;
const BITMAP = 0x04;
const NODE = 0x08;
const START = 0x10;
const COMPLETE = 0x20;
const BITS = 0x40;

const bytes = (write: (out: ByteWriter) => void): Uint8Array => {
  const out = new ByteWriter();
  write(out);
  return out.done();
};

/** What is left of the body and the 3 bytes behind it. */
function leftOf(body: Uint8Array): number {
  const reader = new ByteReader(Uint8Array.of(...body, 0x7e, 0, 0), 500);
  skipDirtyBitmaps(reader);
  return reader.left;
}

describe("a section of dirty bitmaps", () => {
  test.each<[string, Uint8Array]>([
    ["nothing", bytes((out) => out.u8(EOS))],
    ["a START with both names", bytes((out) => out.u8(0x1c).pstr("n0").pstr("bm0").u32(0x10000).u8(1).u8(EOS))],
    [
      "BITS that are all zero, COMPLETE and the end, as QEMU ends one",
      bytes((out) =>
        out
          .u8(BITS | ZEROES)
          .u64(0n)
          .u32(0x800)
          .u8(COMPLETE)
          .u8(EOS),
      ),
    ],
    [
      "BITS with bytes",
      bytes((out) => out.u8(BITS).u64(1n).u32(64).size(8).bytes(new Uint8Array(8).fill(255)).u8(EOS)),
    ],
    ["BITS with no bytes", bytes((out) => out.u8(BITS).u64(1n).u32(64).size(0).u8(EOS))],
    ["BITS of more than a piece", bytes((out) => out.u8(BITS).u64(0n).u32(1).size(70_000).bytes(new Uint8Array(70_000)).u8(EOS))], // biome-ignore format: one row
    ["names of 255 bytes", bytes((out) => out.u8(COMPLETE | NODE | BITMAP).pstr("n".repeat(255)).pstr("b".repeat(255)).u8(EOS))], // biome-ignore format: one row
    [
      "empty names",
      bytes((out) =>
        out
          .u8(COMPLETE | NODE | BITMAP)
          .pstr("")
          .pstr("")
          .u8(EOS),
      ),
    ],
    // The second byte's top bit says whether two more follow.
    ["flags in two bytes", bytes((out) => out.u8(0x80).u8(COMPLETE).u8(EOS))],
    ["an end in two bytes", bytes((out) => out.u8(0x80).u8(EOS))],
    ["flags in four bytes", bytes((out) => out.u8(0x80).u8(0x80).u16(START).u32(1).u8(0).u8(EOS))],
    ["a START named like before", bytes((out) => out.u8(START).u32(1).u8(3).u8(EOS))],
  ])("of %s is passed over to its last byte", (_, body) => {
    expect(leftOf(body)).toBe(3);
  });

  test.each<[string, Uint8Array, string, number]>([
    ["no kind", bytes((out) => out.u8(0)), "unknown chunk", 500],
    ["two kinds", bytes((out) => out.u8(START | BITS).bytes(new Uint8Array(30))), "unknown chunk", 500],
    ["an unknown kind behind a good chunk", bytes((out) => out.u8(COMPLETE).u8(NODE).pstr("x")), "unknown chunk", 501],
    [
      "BITS of 2^40 bytes",
      bytes((out) =>
        out
          .u8(BITS)
          .u64(0n)
          .u32(1)
          .size(2 ** 40),
      ),
      "too large",
      513,
    ],
    [
      "BITS of 2^63 bytes",
      bytes((out) =>
        out
          .u8(BITS)
          .u64(0n)
          .u32(1)
          .u64(1n << 63n),
      ),
      "out of range",
      513,
    ],
    [
      "a name that is no text",
      bytes((out) =>
        out
          .u8(COMPLETE | NODE)
          .u8(1)
          .u8(7),
      ),
      "not text",
      501,
    ],
  ])("with %s is refused there", (_, body, message, where) => {
    const error = errorOf(() => leftOf(body));
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    expect(byteOf(error)).toBe(where);
  });

  test.each<[string, Uint8Array]>([
    ["in its flags", bytes((out) => out.u8(COMPLETE))],
    [
      "in a name",
      bytes((out) =>
        out
          .u8(COMPLETE | NODE)
          .u8(9)
          .u8(0x41),
      ),
    ],
    [
      "in BITS that say 2^30 bytes",
      bytes((out) =>
        out
          .u8(BITS)
          .u64(0n)
          .u32(1)
          .size(2 ** 30)
          .u8(1),
      ),
    ],
  ])("that ends %s is the stream's end, and nothing is held for it", (_, body) => {
    const before = process.memoryUsage().rss;
    const error = errorOf(() => skipDirtyBitmaps(new ByteReader(body, 500)));
    expect(error.code).toBe("E_STREAM_TRUNCATED");
    expect(process.memoryUsage().rss - before).toBeLessThan(100 << 20);
  });
});

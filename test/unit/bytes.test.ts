import { describe, expect, test } from "bun:test";
import { TramError } from "../../src/errors.ts";
import { ByteReader, ByteWriter, badStream, checkedSize, hex } from "../../src/stream/bytes.ts";

const written = (write: (out: ByteWriter) => void): number[] => {
  const out = new ByteWriter(1);
  write(out);
  return [...out.done()];
};

describe("ByteWriter", () => {
  test.each<[string, (out: ByteWriter) => void, number[]]>([
    ["u8", (out) => out.u8(0xab), [0xab]],
    ["u16", (out) => out.u16(0x0102), [1, 2]],
    ["u32", (out) => out.u32(0xfffefdfc), [0xff, 0xfe, 0xfd, 0xfc]],
    ["u64", (out) => out.u64(0x0102030405060708n), [1, 2, 3, 4, 5, 6, 7, 8]],
    ["u64 of a negative number, as two's complement", (out) => out.u64(-2n), [255, 255, 255, 255, 255, 255, 255, 254]],
    ["a size beyond 32 bits", (out) => out.size(0x0010_0203_0405_0607 - 7 + 7), [0, 0x10, 2, 3, 4, 5, 6, 7]],
    ["the largest size", (out) => out.size(Number.MAX_SAFE_INTEGER), [0, 0x1f, 255, 255, 255, 255, 255, 255]],
    ["bytes", (out) => out.bytes(new Uint8Array([9, 8])), [9, 8]],
    ["a text with its length in bytes", (out) => out.pstr("aü"), [3, 0x61, 0xc3, 0xbc]],
    ["an empty text", (out) => out.pstr(""), [0]],
    ["several, in order", (out) => out.u8(1).u16(2).u8(3), [1, 0, 2, 3]],
  ])("writes %s big-endian", (_, write, expected) => {
    expect(written(write)).toEqual(expected);
  });

  test("grows, and keeps what it has", () => {
    const out = new ByteWriter(1);
    for (let i = 0; i < 1000; i++) out.u16(i);
    expect(out.length).toBe(2000);
    const reader = new ByteReader(out.done());
    expect(Array.from({ length: 1000 }, () => reader.u16())).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  });

  test("starts anew after reset", () => {
    const out = new ByteWriter().u32(1).reset().u8(2);
    expect([...out.done()]).toEqual([2]);
  });

  test("takes a text of 255 bytes and refuses one more", () => {
    expect(written((out) => out.pstr("x".repeat(255)))).toHaveLength(256);
    expect(() => new ByteWriter().pstr("x".repeat(256))).toThrow("name too long");
  });
});

describe("ByteReader", () => {
  test("reads what ByteWriter wrote, and knows where it is", () => {
    const out = new ByteWriter()
      .u8(1)
      .u16(2)
      .u32(3)
      .u64(4n)
      .size(2 ** 40)
      .pstr("uni")
      .bytes(new Uint8Array([5, 6]));
    const reader = new ByteReader(out.done(), 1000);
    expect([reader.offset, reader.u8()]).toEqual([1000, 1]);
    expect([reader.offset, reader.u16()]).toEqual([1001, 2]);
    expect([reader.offset, reader.u32()]).toEqual([1003, 3]);
    expect([reader.offset, reader.u64()]).toEqual([1007, 4n]);
    expect([reader.offset, reader.size()]).toEqual([1015, 2 ** 40]);
    expect([reader.offset, reader.pstr()]).toEqual([1023, "uni"]);
    expect([...reader.bytes(2)]).toEqual([5, 6]);
    expect(reader.left).toBe(0);
  });

  test("reads a part of a larger buffer as if it were alone", () => {
    const reader = new ByteReader(new Uint8Array([9, 9, 1, 2, 9]).subarray(2, 4));
    expect(reader.u16()).toBe(0x0102);
    expect(() => reader.u8()).toThrow(TramError);
  });

  test("gives bytes that later changes of the buffer do not change", () => {
    const buffer = new Uint8Array([1, 2]);
    const taken = new ByteReader(buffer).bytes(2);
    buffer[0] = 9;
    expect([...taken]).toEqual([1, 2]);
  });

  test.each<[string, number, (reader: ByteReader) => unknown]>([
    ["u8", 0, (reader) => reader.u8()],
    ["u16", 1, (reader) => reader.u16()],
    ["u32", 3, (reader) => reader.u32()],
    ["u64", 7, (reader) => reader.u64()],
    ["size", 7, (reader) => reader.size()],
    ["pstr", 0, (reader) => reader.pstr()],
    ["bytes", 9, (reader) => reader.bytes(10)],
  ])("says where the bytes end when %s needs one more than %d", (_, have, read) => {
    try {
      read(new ByteReader(new Uint8Array(have), 50));
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({
        code: "E_STREAM_TRUNCATED",
        details: { where: `byte ${50 + have} of the stream`, found: "its end" },
      });
    }
  });

  test("says so when a text is shorter than its length", () => {
    expect(() => new ByteReader(new Uint8Array([3, 0x61, 0x62])).pstr()).toThrow("ends too early");
  });
});

describe("a size on the wire", () => {
  test("is below 2^53, or refused where it stands", () => {
    expect(checkedSize(0x1fffff, 0xffffffff, 0)).toBe(Number.MAX_SAFE_INTEGER);
    expect(new ByteReader(new ByteWriter().u64(2n ** 53n - 1n).done()).size()).toBe(Number.MAX_SAFE_INTEGER);
    for (const value of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      const read = () => new ByteReader(new ByteWriter().u64(value).done(), 7).size();
      expect(read).toThrow("a size is out of range");
    }
  });
});

describe("the words of an error", () => {
  test("name the byte, what was expected and what was found", () => {
    expect(badStream("is bad", 12, "this", "that")).toMatchObject({
      code: "E_STREAM",
      message: "is bad",
      details: { where: "byte 12 of the stream", expected: "this", found: "that" },
    });
  });

  test.each<[number | bigint, number | undefined, string]>([
    [7, undefined, "0x07"],
    [0xabc, undefined, "0xabc"],
    [7, 8, "0x00000007"],
    [2n ** 64n - 1n, 4, "0xffffffffffffffff"],
  ])("write %p with %p digits as %s", (value, digits, text) => {
    expect(hex(value, digits)).toBe(text);
  });
});

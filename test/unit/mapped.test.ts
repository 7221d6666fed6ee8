import { describe, expect, test } from "bun:test";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MappedFile } from "../../src/reader/mapped.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import {
  bitmapBytes,
  decodeMappedHeader,
  encodeMappedBlock,
  endOfBlock,
  layOutBlocks,
  type MappedBlock,
} from "../../src/stream/mapped.ts";
import {
  encodeFooter,
  encodeHeader,
  encodeSectionPart,
  encodeSectionStart,
  encodeVmDescription,
} from "../../src/stream/section.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { byteOf, errorOf } from "../support/errors.ts";

const PAGE = 4096;
const MIB = 1 << 20;

describe("the layout", () => {
  test("is QEMU's: header, bitmap, pages at the next MiB, the next block at once behind them", () => {
    // 16 MiB of -M none as QEMU 10.2 laid it out: the block's name stands at 0x59.
    const [ram] = layOutBlocks([{ name: "ram", bytes: 16 * MIB }], 0x59);
    expect(ram).toEqual({ name: "ram", bytes: 16 * MIB, bitmapOffset: 0x81, pagesOffset: MIB });
    expect(endOfBlock(ram)).toBe(0x1100000);
  });

  test.each<[pages: number, bytes: number]>([
    [1, 8],
    [64, 8],
    [65, 16],
    [256, 32],
    [2 ** 32, 2 ** 29],
  ])("of a block of %d pages has %d bytes of bitmap, in whole 64-bit words", (pages, bytes) => {
    expect(bitmapBytes(pages * PAGE)).toBe(bytes);
  });

  test.each<[string, [name: string, bytes: number][], number]>([
    ["one page", [["a", PAGE]], 0],
    ["several, some not whole MiB", [["pc.ram", 300 * PAGE], ["x".repeat(255), PAGE], ["/rom@etc/acpi", 2 * MIB]], 0x1234], // biome-ignore format: rows
    ["a bitmap that reaches behind the first MiB", [["big", 2 ** 36], ["small", PAGE]], MIB - 40], // biome-ignore format: rows
    ["16 TiB", [["huge", 2 ** 44]], 1],
  ])("of %s has no two things at one place", (_, list, start) => {
    const blocks = layOutBlocks(
      list.map(([name, bytes]) => ({ name, bytes })),
      start,
    );
    let at = start;
    for (const block of blocks) {
      expect(block.bitmapOffset).toBe(at + 1 + block.name.length + 8 + 28);
      expect(block.pagesOffset).toBeGreaterThanOrEqual(block.bitmapOffset + bitmapBytes(block.bytes));
      expect(block.pagesOffset - block.bitmapOffset - bitmapBytes(block.bytes)).toBeLessThan(MIB);
      expect(block.pagesOffset % MIB).toBe(0);
      at = endOfBlock(block);
    }
  });

  test.each<[string, MappedBlock]>([
    ["one page", { name: "a", bytes: PAGE, bitmapOffset: 0, pagesOffset: 0 }],
    ["a name of 255 bytes", { name: "n".repeat(255), bytes: 2 ** 40, bitmapOffset: 12345, pagesOffset: MIB }],
    ["offsets beyond 32 bits", { name: "a", bytes: 2 ** 44, bitmapOffset: 2 ** 45 + 1, pagesOffset: 2 ** 46 }],
  ])("of %s comes back as it was written", (_, block) => {
    const out = new ByteWriter();
    encodeMappedBlock(out, block);
    const reader = new ByteReader(out.done());
    expect(decodeMappedHeader(reader, { name: reader.pstr(), bytes: reader.size() })).toEqual(block);
    expect(reader.left).toBe(0);
  });

  test.each<[string, (out: ByteWriter) => void, string, number]>([
    ["version 0", (out) => out.u32(0).size(PAGE).size(0).size(0), "unknown layout", 700],
    ["version 2", (out) => out.u32(2).size(PAGE).size(0).size(0), "unknown layout", 700],
    [
      "pages of 2 MiB",
      (out) =>
        out
          .u32(1)
          .size(2 * MIB)
          .size(0)
          .size(0),
      "another page size",
      704,
    ],
    ["pages of 0 bytes", (out) => out.u32(1).size(0).size(0).size(0), "another page size", 704],
    ["pages at an odd offset", (out) => out.u32(1).size(PAGE).size(0).size(4097), "odd offset", 720],
    [
      "pages at 2^63",
      (out) =>
        out
          .u32(1)
          .size(PAGE)
          .size(0)
          .u64(1n << 63n),
      "out of range",
      720,
    ],
    ["a bitmap at 2^64 - 1", (out) => out.u32(1).size(PAGE).u64(~0n).size(0), "out of range", 712],
    [
      "pages that end at 2^53",
      (out) =>
        out
          .u32(1)
          .size(PAGE)
          .size(0)
          .size(2 ** 53 - PAGE),
      "beyond any file",
      712,
    ],
    [
      "a bitmap that ends at 2^53",
      (out) =>
        out
          .u32(1)
          .size(PAGE)
          .size(2 ** 53 - 1)
          .size(0),
      "beyond any file",
      712,
    ],
  ])("with %s is refused there", (_, write, message, where) => {
    const out = new ByteWriter();
    write(out);
    const error = errorOf(() => decodeMappedHeader(new ByteReader(out.done(), 700), { name: "ram", bytes: MIB }));
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    expect(byteOf(error)).toBe(where);
  });
});

interface Shape {
  bytes?: number;
  /** Bytes in the file's page area and bitmap. */
  fileBytes?: number;
  layout?: Partial<MappedBlock>;
  bitmap?: number[];
  capabilities?: string[];
  table?: (out: ByteWriter) => void;
  behind?: (out: ByteWriter) => void;
  before?: (out: ByteWriter) => void;
}

/** A small file with fixed offsets, in which one thing may be otherwise. */
function withFile(shape: Shape, action: (file: MappedFile) => void): void {
  const folder = mkdtempSync(join(tmpdir(), "tram-mapped-"));
  const path = join(folder, "vm.tram");
  const fd = openSync(path, "w+");
  const put = (bytes: Uint8Array, at: number) => writeSync(fd, bytes, 0, bytes.length, at);
  try {
    const bytes = shape.bytes ?? 4 * PAGE;
    const out = new ByteWriter();
    encodeHeader(out, { machine: "none", capabilities: shape.capabilities ?? ["mapped-ram"], uuid: null });
    shape.before?.(out);
    encodeSectionStart(out, 1, { id: 1, name: "ram", instance: 0, version: 4 });
    if (shape.table) shape.table(out);
    else {
      out.size(bytes + 4);
      const block = { ...layOutBlocks([{ name: "ram", bytes }], out.length)[0], ...shape.layout };
      encodeMappedBlock(out, block);
      put(
        Uint8Array.from({ length: bitmapBytes(bytes) }, (_, i) => shape.bitmap?.[i] ?? (i === 0 ? 0b0101 : 0)),
        block.bitmapOffset,
      );
      ftruncateSync(fd, endOfBlock(block));
      const tail = new ByteWriter();
      if (shape.behind) shape.behind(tail);
      else {
        tail.size(0x10);
        encodeFooter(tail, 1);
        encodeSectionPart(tail, 3, 1);
        tail.size(0x10);
        encodeFooter(tail, 1);
        tail.u8(0);
        encodeVmDescription(tail, { page_size: PAGE, devices: [] });
      }
      put(tail.done(), endOfBlock(block));
    }
    put(out.done(), 0);
    if (shape.fileBytes !== undefined) ftruncateSync(fd, shape.fileBytes);
    const transport = FileTransport.open(path);
    try {
      action(new MappedFile(transport));
    } finally {
      transport.close();
    }
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
}
const failure = (shape: Shape) => errorOf(() => withFile(shape, () => undefined));

describe("a file with fixed offsets", () => {
  test("is opened: its blocks, which pages have content, its tail", () => {
    withFile({}, (file) => {
      expect(file.blocks).toHaveLength(1);
      expect([0, 1, 2, 3].map((page) => file.blocks[0].present.has(page))).toEqual([true, false, true, false]);
      expect(file.section).toEqual({ id: 1, name: "ram", instance: 0, version: 4 });
      expect(file.tail).toMatchObject({ devices: [], bordersBy: "fields" });
    });
  });

  test("may have its pages at any multiple of 4096, and its bitmap anywhere", () => {
    withFile({ layout: { pagesOffset: 0x2000, bitmapOffset: 0x1fe8 } }, (file) =>
      expect(file.blocks[0].present.count()).toBe(2),
    );
  });

  test("whose bitmap has pages the block has not is refused", () => {
    const error = failure({ bitmap: [0b11101] });
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining("pages the block has not") });
  });

  test.each<[string, Shape]>([
    ["its pages", { fileBytes: MIB + 3 * PAGE }],
    ["its bitmap", { fileBytes: 0x80 }],
    ["its last section", { fileBytes: MIB + 4 * PAGE + 3 }],
  ])("that is cut in %s is cut short", (_, shape) => {
    const error = failure(shape);
    expect(error.code).toBe("E_STREAM_TRUNCATED");
    expect(error.details.where).toBeString();
  });

  test("that says it has 16 TiB and is small is cut short, and nothing is held for the rest", () => {
    const table = (out: ByteWriter) => {
      out.size(2 ** 44 + 4);
      encodeMappedBlock(out, { name: "ram", bytes: 2 ** 44, bitmapOffset: 200, pagesOffset: MIB });
    };
    const before = process.memoryUsage().rss;
    const error = failure({ table, fileBytes: 2 * MIB });
    expect(error.code).toBe("E_STREAM_TRUNCATED");
    expect(process.memoryUsage().rss - before).toBeLessThan(200 << 20);
  });

  test.each<[string, Shape, string]>([
    ["is a plain stream", { capabilities: [] }, "no fixed offsets"],
    ["has page records", { behind: (out) => out.size(8).pstr("ram").bytes(new Uint8Array(5000)) }, "pages before"],
    ["has a flush", { behind: (out) => out.size(0x200).bytes(new Uint8Array(5000)) }, "page records"],
    ["has a second table", { behind: (out) => out.size(PAGE + 4).bytes(new Uint8Array(5000)) }, "second table"],
    ["has a device before its RAM", { before: (out) => encodeSectionStart(out, 4, { id: 9, name: "x", instance: 0, version: 1 }) }, "before the RAM"], // biome-ignore format: one row
    ["ends before its RAM", { before: (out) => out.u8(0) }, "ends before its RAM"],
  ])("that %s is refused", (_, shape, message) => {
    expect(failure(shape)).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
  });

  test("without a table of blocks is refused", () => {
    const table = (out: ByteWriter) => {
      out.size(0x10);
      encodeFooter(out, 1);
      encodeSectionPart(out, 3, 1);
      out.size(0x10);
      encodeFooter(out, 1);
      out.u8(0);
    };
    expect(failure({ table })).toMatchObject({ code: "E_STREAM" });
  });
});

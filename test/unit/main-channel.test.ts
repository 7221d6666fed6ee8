// Streams made by hand, kept in a file: what QEMU may send, and what nobody should.
import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import { MappedFile } from "../../src/reader/mapped.ts";
import { ByteWriter } from "../../src/stream/bytes.ts";
import { decodePageWord, encodeBlockTable, encodeEndOfSection, encodeFirstPage } from "../../src/stream/ram.ts";
import {
  encodeCommand,
  encodeFooter,
  encodeHeader,
  encodeSectionPart,
  encodeSectionStart,
  encodeVmDescription,
} from "../../src/stream/section.ts";
import {
  RAM_SAVE_FLAG_COMPRESS_PAGE,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_MULTIFD_FLUSH,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_XBZRLE,
  RAM_SAVE_FLAG_ZERO,
} from "../../src/stream/wire.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { byteOf, errorOf } from "../support/errors.ts";
import { keepCapture, seeded } from "../support/golden.ts";

const folder = mkdtempSync(join(tmpdir(), "tram-main-"));
afterAll(() => rmSync(folder, { recursive: true }));

const PAGE = 4096;
const RAM = { id: 1, name: "ram", instance: 0, version: 4 };
const DEVICE = { id: 7, name: "dev", instance: 0, version: 1 };
const BLOCKS = [
  { name: "pc.ram", bytes: 8 * PAGE },
  { name: "/rom@etc/acpi", bytes: 2 * PAGE },
];
type Write = (out: ByteWriter) => void;

const start: Write = (out) => {
  encodeSectionStart(out, 1, RAM);
  encodeBlockTable(out, BLOCKS);
  encodeEndOfSection(out);
  encodeFooter(out, RAM.id);
};
/** A section with these records. */
const part =
  (...records: Write[]): Write =>
  (out) =>
    section(2, ...records)(out);
const end: Write = (out) => section(3)(out);
const section =
  (type: number, ...records: Write[]): Write =>
  (out) => {
    encodeSectionPart(out, type, RAM.id);
    for (const record of records) record(out);
    encodeEndOfSection(out);
    encodeFooter(out, RAM.id);
  };
const page =
  (index: number, fill: number, block = "pc.ram"): Write =>
  (out) => {
    encodeFirstPage(out, RAM_SAVE_FLAG_PAGE, index, block);
    out.bytes(new Uint8Array(PAGE).fill(fill));
  };
const more =
  (index: number, fill: number): Write =>
  (out) =>
    out.size(index * PAGE + (RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_CONTINUE)).bytes(new Uint8Array(PAGE).fill(fill));
const zero =
  (index: number, block = "pc.ram"): Write =>
  (out) => {
    encodeFirstPage(out, RAM_SAVE_FLAG_ZERO, index, block);
    out.u8(0);
  };
const changed =
  (index: number, delta: number[]): Write =>
  (out) => {
    encodeFirstPage(out, RAM_SAVE_FLAG_XBZRLE, index, "pc.ram");
    out.u8(1).u16(delta.length).bytes(Uint8Array.from(delta));
  };
const compressed =
  (index: number, bytes: Uint8Array): Write =>
  (out) => {
    encodeFirstPage(out, RAM_SAVE_FLAG_COMPRESS_PAGE, index, "pc.ram");
    out.u32(bytes.length).bytes(bytes);
  };
const command =
  (number: number, data = new Uint8Array(0)): Write =>
  (out) =>
    encodeCommand(out, { command: number, data });
const device: Write = (out) => {
  encodeSectionStart(out, 4, DEVICE);
  out.u32(0xdeadbeef);
  encodeFooter(out, DEVICE.id);
};
const eof: Write = (out) => {
  out.u8(0);
  encodeVmDescription(out, {
    page_size: PAGE,
    devices: [
      { name: "dev", instance_id: 0, vmsd_name: "dev", version: 1, fields: [{ name: "x", type: "uint32", size: 4 }] },
    ],
  });
};
const tail: Write = (out) => {
  device(out);
  eof(out);
};

function streamOf(...records: Write[]): Uint8Array {
  const out = new ByteWriter();
  encodeHeader(out, { machine: "pc", capabilities: [], uuid: null });
  for (const record of records) record(out);
  return out.done().slice();
}

interface Found {
  /** Of each page of all blocks: its first byte, or null where the file has no content. */
  pages: (number | null)[];
  file: MappedFile;
}
let kept = 0;

function keepAll(...records: Write[]): Found {
  return keepBytes(streamOf(...records));
}
function keepBytes(main: Uint8Array, channels: Uint8Array[] = [], pieceBytes?: number): Found {
  const path = join(folder, `${++kept}.tram`);
  try {
    keepCapture(path, { main, channels }, pieceBytes);
  } catch (error) {
    expect(existsSync(path)).toBe(false);
    throw error;
  }
  const transport = FileTransport.open(path);
  try {
    const file = new MappedFile(transport);
    const bytes = readFileSync(path);
    const pages = file.blocks.flatMap(({ present, pagesOffset }) =>
      Array.from({ length: present.pages }, (_, i) => (present.has(i) ? bytes[pagesOffset + i * PAGE] : null)),
    );
    return { pages, file };
  } finally {
    transport.close();
  }
}
const failure = (...records: Write[]) => errorOf(() => keepAll(...records));
const none = (length: number): null[] => Array(length).fill(null);

describe("a stream that is kept", () => {
  test("has each page as it came last", () => {
    const first = part(page(0, 10), page(1, 11), zero(2), page(0, 20, BLOCKS[1].name));
    const second = part(zero(1), page(2, 12), page(3, 13), page(3, 14), zero(4), zero(3), page(3, 15));
    expect(keepAll(start, first, second, end, tail).pages).toEqual([10, null, 12, 15, ...none(4), 20, null]);
  });

  test.each([1, 7, 4096, 1 << 20])("is the same in pieces of %d bytes", (pieceBytes) => {
    const records = [start, part(page(0, 1), more(1, 2), zero(2), more(3, 4)), part(zero(0), page(7, 8)), end, tail];
    expect(keepBytes(streamOf(...records), [], pieceBytes).pages).toEqual([
      null,
      2,
      null,
      4,
      ...none(3),
      8,
      ...none(2),
    ]);
  });

  test("goes on with a block across sections, without its name", () => {
    expect(keepAll(start, part(page(0, 1)), part(more(1, 2)), end, tail).pages.slice(0, 3)).toEqual([1, 2, null]);
  });

  test("may have empty sections, many of them, and none between START and END", () => {
    expect(keepAll(start, ...Array(1000).fill(part()), end, tail).pages).toEqual(none(10));
    expect(keepAll(start, end, tail).pages).toEqual(none(10));
  });

  test("may have pages in its END", () => {
    expect(keepAll(start, section(3, page(0, 5)), tail).pages[0]).toBe(5);
  });

  test("may be a background snapshot, which has no END: the kept file has one", () => {
    const { pages, file } = keepAll(start, part(page(0, 5)), tail);
    expect(pages[0]).toBe(5);
    expect(file.tail).toMatchObject({ bordersBy: "fields", devices: [{ name: "dev" }] });
  });

  test("keeps what stands between its sections of RAM, and before them", () => {
    const { file } = keepAll(command(20), start, part(), command(11), end, tail);
    expect([...file.early]).toEqual([8, 0, 20, 0, 0]);
    expect(file.between.map(({ command }) => command)).toEqual([11]);
  });

  test("may announce postcopy, as long as it does not happen", () => {
    const both = new Uint8Array(new BigUint64Array([0x0010000000000000n, 0x0010000000000000n]).buffer); // 4096 twice
    for (const data of [both, new Uint8Array(0)])
      expect(keepAll(command(3, data), start, end, tail).file.early.length).toBe(0);
  });

  test("may have dirty bitmaps", () => {
    const bitmap = { id: 3, name: "dirty-bitmap", instance: 0, version: 1 };
    const open: Write = (out) => {
      encodeSectionStart(out, 1, bitmap);
      out.u8(0x1c).pstr("n0").pstr("bm0").u32(0x10000).u8(1).u8(1);
      encodeFooter(out, bitmap.id);
    };
    const close: Write = (out) => {
      encodeSectionPart(out, 3, bitmap.id);
      out.u8(0x42).size(0).u32(0x800).u8(0x20).u8(1);
      encodeFooter(out, bitmap.id);
    };
    const { file, pages } = keepAll(start, open, part(page(1, 2)), end, close, tail);
    expect(pages[1]).toBe(2);
    expect(file.between).toHaveLength(1);
    expect(file.tail).toMatchObject({ bordersBy: "fields", devices: [{ name: "dev" }] });
    expect(file.tailBytes[0]).toBe(3);
  });

  test("that nobody described ends with its EOF byte", () => {
    const { file } = keepAll(start, end, device, (out) => out.u8(0));
    expect(file.tail).toMatchObject({ bordersBy: "nothing", description: null });
  });
});

describe("a changed page", () => {
  test("is changed where it lies, again and again", () => {
    const records = [page(1, 9), changed(1, [0, 1, 0x45]), changed(1, [1, 1, 0x46]), changed(1, [0, 1, 0x47])];
    const { file } = keepAll(start, part(...records), part(changed(1, [2, 1, 0x48])), end, tail);
    expect(file.blocks[0].present.has(1)).toBe(true);
    expect(keepAll(start, part(...records), end, tail).pages[1]).toBe(0x47);
  });

  test("that was zero is changed from zeros, whether or not the source told of it", () => {
    const { pages } = keepAll(start, part(zero(1), changed(1, [0, 1, 5]), changed(2, [0, 1, 6])), end, tail);
    expect(pages.slice(0, 3)).toEqual([null, 5, 6]);
  });

  test("that was content and became zero is changed from zeros", () => {
    const records = [page(1, 9), zero(1), changed(1, [1, 1, 5])];
    expect(keepAll(start, part(...records), end, tail).pages[1]).toBe(0);
  });

  test.each<[string, Write, string]>([
    [
      "in an unknown encoding",
      (out) => out.size(RAM_SAVE_FLAG_XBZRLE).pstr("pc.ram").u8(2).u16(1).u8(0),
      "unknown way",
    ],
    ["of more than 4096 bytes", (out) => out.size(RAM_SAVE_FLAG_XBZRLE).pstr("pc.ram").u8(1).u16(4097).bytes(new Uint8Array(4097)), "unknown way"], // biome-ignore format: one row
    ["behind the block", changed(8, [0, 1, 5]), "outside of block"],
    ["with changes behind its end", changed(1, [0x80, 0x20, 1, 5]), "cannot be read"],
  ])("%s is refused", (_, record, message) => {
    expect(failure(start, part(page(0, 1), record), end, tail)).toMatchObject({
      code: "E_STREAM",
      message: expect.stringContaining(message),
    });
  });
});

describe("a compressed page", () => {
  const text = new Uint8Array(PAGE).fill(0x41);
  test("is inflated", () => {
    expect(keepAll(start, part(compressed(3, deflateSync(text))), end, tail).pages[3]).toBe(0x41);
    const random = seeded(1);
    const noise = Uint8Array.from({ length: PAGE }, () => random(256));
    const packed = deflateSync(noise);
    expect(packed.length).toBeGreaterThan(PAGE); // as large as it may be
    expect(keepAll(start, part(compressed(3, packed)), end, tail).pages[3]).toBe(noise[0]);
  });

  test.each<[string, Uint8Array]>([
    ["that is none", text.subarray(0, 100)],
    ["of no bytes", new Uint8Array(0)],
    ["of 4095 bytes", deflateSync(text.subarray(1))],
    ["of 4097 bytes", deflateSync(new Uint8Array(PAGE + 1))],
    ["of 100 MB", deflateSync(new Uint8Array(100_000_000).subarray(0, 3_900_000))],
    ["that is cut short", deflateSync(text).subarray(0, -5)],
  ])("%s is refused", (_, bytes) => {
    expect(bytes.length).toBeLessThan(4160);
    expect(failure(start, part(compressed(3, bytes)), end, tail)).toMatchObject({
      code: "E_STREAM",
      message: "a compressed page cannot be read",
    });
  });

  test("that says it is longer than any page can be is refused before it is read", () => {
    const record: Write = (out) => out.size(RAM_SAVE_FLAG_COMPRESS_PAGE).pstr("pc.ram").u32(0xffffffff);
    expect(failure(start, part(record))).toMatchObject({ code: "E_STREAM", message: "a compressed page is too long" });
  });
});

describe("a stream that cannot be kept", () => {
  const header = (capabilities: string[]): Write => {
    return (out) => {
      out.reset();
      encodeHeader(out, { machine: "pc", capabilities, uuid: null });
    };
  };
  const huge = new Uint8Array(16);
  huge[5] = 0x20; // 2 MiB

  test.each<[string, Write[], string]>([
    ["leaves out shared memory", [header(["x-ignore-shared"]), start, end, tail], "shared memory"],
    ["has fixed offsets", [header(["mapped-ram"]), start, end, tail], "fixed offsets already"],
    ["switches to postcopy", [start, command(6, Uint8Array.of(0, 1, 65, 0)), end, tail], "cannot be kept"],
    ["sends a package", [start, command(7, Uint8Array.of(0, 0, 0, 9)), end, tail], "cannot be kept"],
    ["is COLO's", [command(8), start, end, tail], "cannot be kept"],
    ["has huge pages and postcopy", [command(3, huge), start, end, tail], "cannot be kept"],
    ["has a device before its RAM", [device, start, end, tail], "before the RAM"],
    ["has a device behind START", [start, device, end, tail], "before the RAM"],
    ["has an iterative section that is none of ours", [(out) => encodeSectionStart(out, 1, { ...RAM, name: "vfio" })], "nobody but its device"], // biome-ignore format: one row
    ["has RAM of version 3", [(out) => encodeSectionStart(out, 1, { ...RAM, version: 3 })], "nobody but its device"],
    ["has a part of nothing", [start, (out) => encodeSectionPart(out, 2, 99)], "not open"],
    ["uses a section id twice", [start, start, end, tail], "used twice"],
    ["has an unknown record", [start, (out) => out.u8(0x09)], "unknown record"],
    ["has a subsection as a record", [start, (out) => out.u8(0x05)], "unknown record"],
    ["ends without any RAM", [eof], "ends before its RAM"],
    ["ends between START and END", [start, part(), eof], "ends before its RAM"],
    ["has pages before its table", [(out) => { encodeSectionStart(out, 1, RAM); page(0, 1)(out); }], "pages before"], // biome-ignore format: one row
    ["has a second END", [start, end, end, tail], ""],
    ["has a second table", [start, part((out) => encodeBlockTable(out, BLOCKS)), end, tail], "a second table"],
    ["has a page of another block", [start, part(page(0, 1, "vga.vram")), end, tail], "unknown block"],
    ["has a page of a block without a name", [start, part(page(0, 1, "")), end, tail], "unknown block"],
    ["has a page of a block whose name is longer", [start, part(page(0, 1, "pc.ram".padEnd(255, "x"))), end, tail], "unknown block"], // biome-ignore format: one row
    ["has a page behind its block, which another block has", [start, part(page(2, 1, BLOCKS[1].name)), end, tail], "outside of block"], // biome-ignore format: one row
  ])("%s: refused, and nothing is kept", (_, records, message) => {
    const error = failure(...records);
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
  });

  test("has no table of blocks: refused, and nothing is kept", () => {
    const bare: Write = (out) => {
      encodeSectionStart(out, 1, RAM);
      encodeEndOfSection(out);
      encodeFooter(out, RAM.id);
    };
    expect(failure(bare, end, tail)).toMatchObject({ code: "E_STREAM" });
  });

  test("has more sections than a machine has devices: refused", () => {
    const bitmaps = Array.from(
      { length: 5000 },
      (_, i): Write =>
        (out) => {
          encodeSectionStart(out, 1, { id: 100 + i, name: "dirty-bitmap", instance: i, version: 1 });
          out.u8(1);
          encodeFooter(out, 100 + i);
        },
    );
    expect(failure(...bitmaps)).toMatchObject({ code: "E_STREAM", message: expect.stringContaining("more sections") });
  });

  test("has more device state than there can be: refused, and not held", () => {
    const main = streamOf(start, end, device);
    const flood = new Uint8Array(main.length + (65 << 20)).fill(0x7d);
    flood.set(main);
    expect(errorOf(() => keepBytes(flood))).toMatchObject({
      code: "E_STREAM",
      message: "the device state is too large",
    });
  });

  test.each<[string, Write]>([
    ["2^63 bytes of RAM", (out) => out.u64((1n << 63n) | 4n)],
    ["2^52 bytes of RAM", (out) => out.u64((1n << 52n) | 4n)],
    [
      "more RAM than page numbers go",
      (out) =>
        out
          .size(2 ** 44 + PAGE + 4)
          .pstr("pc.ram")
          .size(2 ** 44 + PAGE),
    ],
    [
      "a block of 2^63 bytes",
      (out) =>
        out
          .size(PAGE + 4)
          .pstr("pc.ram")
          .u64(1n << 63n),
    ],
    [
      "a block of no bytes",
      (out) =>
        out
          .size(PAGE + 4)
          .pstr("pc.ram")
          .size(0),
    ],
    [
      "a block of half a page",
      (out) =>
        out
          .size(PAGE + 4)
          .pstr("pc.ram")
          .size(PAGE / 2),
    ],
    [
      "a block larger than all",
      (out) =>
        out
          .size(PAGE + 4)
          .pstr("pc.ram")
          .size(2 * PAGE),
    ],
    [
      "a block without a name",
      (out) =>
        out
          .size(PAGE + 4)
          .pstr("")
          .size(PAGE),
    ],
    [
      "two blocks of one name",
      (out) =>
        out
          .size(2 * PAGE + 4)
          .pstr("a")
          .size(PAGE)
          .pstr("a")
          .size(PAGE),
    ],
    [
      "a block whose name is no text",
      (out) =>
        out
          .size(PAGE + 4)
          .u8(2)
          .u8(0x41)
          .u8(0)
          .size(PAGE),
    ],
  ])("has %s: refused there", (_, table) => {
    const write: Write = (out) => {
      encodeSectionStart(out, 1, RAM);
      table(out);
    };
    const error = failure(write, (out) => out.bytes(new Uint8Array(64)));
    expect(error.code).toBe("E_STREAM");
    expect(byteOf(error)).toBeGreaterThanOrEqual(15 + 17);
    expect(byteOf(error)).toBeLessThan(15 + 17 + 30);
  });

  test("has 1 TiB of RAM and ends: neither memory nor disk is taken for it", () => {
    const write: Write = (out) => {
      encodeSectionStart(out, 1, RAM);
      encodeBlockTable(out, [{ name: "pc.ram", bytes: 2 ** 40 }]);
      encodeEndOfSection(out);
    };
    const before = process.memoryUsage().rss;
    expect(failure(write).code).toBe("E_CHANNEL_CLOSED");
    expect(process.memoryUsage().rss - before).toBeLessThan(200 << 20);
  });
});

describe("a record's word", () => {
  const word = (value: bigint) => decodePageWord(Number(value >> 32n), Number(value & 0xffffffffn), 77);

  test.each<[bigint, ReturnType<typeof decodePageWord>]>([
    [0x8n, { flag: RAM_SAVE_FLAG_PAGE, page: 0, continues: false }],
    [0x1028n, { flag: RAM_SAVE_FLAG_PAGE, page: 1, continues: true }],
    [0xffffffffff022n, { flag: RAM_SAVE_FLAG_ZERO, page: 2 ** 40 - 1, continues: true }],
    [0x200n, { flag: RAM_SAVE_FLAG_MULTIFD_FLUSH, page: 0, continues: false }],
  ])("%p is read", (value, expected) => {
    expect(word(value)).toEqual(expected);
  });

  test.each([
    0n,
    0x1n,
    0x20n,
    0x80n,
    0x400n,
    0x800n,
    0xan,
    0x18n,
    0x210n,
    0x208n,
    0x30n,
    0x220n,
    0x1010n,
    0x1200n,
    (1n << 52n) | 8n,
    (1n << 63n) | 2n,
  ])("%p is refused", (value) => {
    // biome-ignore format: a table
    const error = errorOf(() => word(value));
    expect(error.code).toBe("E_STREAM");
    expect(byteOf(error)).toBe(77);
  });
});

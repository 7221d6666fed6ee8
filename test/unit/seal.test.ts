// The seal's bytes: both halves of its codec, each field of it damaged, and where its parts lie.
import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HashTable, hashOf } from "../../src/native/hash.ts";
import { MappedFile } from "../../src/reader/mapped.ts";
import { Seal } from "../../src/reader/seal.ts";
import { ByteWriter } from "../../src/stream/bytes.ts";
import {
  alignSeal,
  decodeSealFooter,
  decodeSealHead,
  encodeSealFooter,
  encodeSealHead,
  extentsOf,
  findSealHead,
  layOutSeal,
  SEAL_FOOTER_BYTES,
  type SealHead,
  tableBytes,
} from "../../src/stream/seal.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { writeSeal } from "../../src/writer/seal.ts";
import { byteOf, errorOf } from "../support/errors.ts";
import { sealHere, writeMapped } from "../support/sealed.ts";

const PAGE = 4096;
const MIB = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), "tram-seal-"));
afterAll(() => rmSync(folder, { recursive: true }));

const encoded = (encode: (out: ByteWriter) => void): Uint8Array => {
  const out = new ByteWriter();
  encode(out);
  return out.done().slice();
};
const headBytes = (head: SealHead) => encoded((out) => encodeSealHead(out, head));

/** Of a file whose stream lies in bytes 0x1000 to 0x302345, with one block of two pages. */
const SMALL: SealHead = {
  streamOffset: 0x1000,
  streamEnd: 0x302345,
  holes: true,
  extents: [
    { offset: 0x1000, bytes: 0xff000, hash: 0x1122334455667788n },
    { offset: 0x102000, bytes: 0x201000, hash: 0x99aabbccddeeff00n },
  ],
  blocks: [{ name: "ram", bytes: 2 * PAGE, pagesOffset: MIB, tableOffset: PAGE, tableHash: 0xfedcba9876543210n }],
};

const SMALL_BYTES = `
  5452414d5345414c 00000001 00000001 0000000000001000 0000000000302345
  00000002
    0000000000001000 00000000000ff000 1122334455667788
    0000000000102000 0000000000201000 99aabbccddeeff00
  00000001
    0372616d 0000000000002000 0000000000100000 0000000000001000 fedcba9876543210`;
const fromHex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text.replace(/\s/g, ""), "hex"));

describe("a seal's head", () => {
  test("has these bytes", () => {
    expect(Buffer.from(headBytes(SMALL)).toString("hex")).toBe(SMALL_BYTES.replace(/\s/g, ""));
    expect(decodeSealHead(fromHex(SMALL_BYTES), 0x303000)).toEqual(SMALL);
  });

  test.each<[string, SealHead]>([
    ["without holes", { ...SMALL, holes: false }],
    ["without blocks", { ...SMALL, blocks: [], extents: SMALL.extents.slice(1) }],
    ["beyond 32 bits", { ...SMALL, streamOffset: 2 ** 40, streamEnd: 2 ** 52 + 1 }],
    ["with a name of 255 bytes", { ...SMALL, blocks: [{ ...SMALL.blocks[0], name: "n".repeat(255), tableHash: 0n }] }],
    [
      "of 1024 blocks",
      {
        ...SMALL,
        extents: Array.from({ length: 1025 }, (_, i) => ({ offset: i * MIB, bytes: i, hash: BigInt(i) })),
        blocks: Array.from({ length: 1024 }, (_, i) => ({ ...SMALL.blocks[0], name: `b${i}`, bytes: (i + 1) * PAGE })),
      },
    ],
  ])("%s comes back as it was written", (_, head) => {
    expect(decodeSealHead(headBytes(head), 0)).toEqual(head);
  });

  const damaged = (at: number, ...bytes: number[]): Uint8Array => {
    const all = headBytes(SMALL);
    all.set(bytes, at);
    return all;
  };
  test.each<[string, Uint8Array, string, number]>([
    ["another beginning", damaged(7, 0x4d), "another beginning", 7000],
    ["version 0", damaged(11, 0), "another version", 7008],
    ["version 2", damaged(11, 2), "another version", 7008],
    ["a flag that nobody knows", damaged(15, 3), "nobody here knows", 7012],
    ["a stream that begins at 2^53", damaged(16, 0, 0x20), "out of range", 7016],
    ["a stream that ends at 2^53", damaged(24, 0, 0x20), "out of range", 7024],
    ["too many extents", damaged(34, 4, 2), "too many extents", 7032],
    ["an extent at 2^53", damaged(36, 0, 0x20), "out of range", 7036],
    ["an extent of 2^53 bytes", damaged(44, 0, 0x20), "out of range", 7044],
    ["too many blocks", damaged(86, 4, 2), "too many blocks", 7084],
    ["a name that is no text", damaged(89, 7), "not text", 7088],
    ["a block of half a page", damaged(98, 0x28), "cannot be", 7000],
    ["a block larger than any", damaged(93, 0x10, 1), "cannot be", 7000],
    ["pages at 2^53", damaged(100, 0, 0x20), "out of range", 7100],
    ["a table at 2^53", damaged(108, 0, 0x20), "out of range", 7108],
    ["one byte more", Buffer.concat([headBytes(SMALL), Buffer.of(0)]), "goes on", 7124],
  ])("with %s is refused there", (_, bytes, message, where) => {
    const error = errorOf(() => decodeSealHead(bytes, 7000));
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    expect(byteOf(error)).toBe(where);
  });

  test("that is cut short anywhere is refused", () => {
    const bytes = headBytes(SMALL);
    for (let length = 0; length < bytes.length; length++)
      expect(errorOf(() => decodeSealHead(bytes.subarray(0, length), 0)).code).toMatch(/^E_STREAM/);
  });
});

describe("a seal's footer", () => {
  const footer = { headOffset: 0x303000, headBytes: 124, root: 0x0123456789abcdefn };
  const AT = 0x304000;
  const bytes = () => encoded((out) => encodeSealFooter(out, footer));

  test("has these bytes", () => {
    const text = "5452414d5345414c 0000000000303000 000000000000007c 0123456789abcdef 5452414d5345414c";
    expect(Buffer.from(bytes()).toString("hex")).toBe(text.replaceAll(" ", ""));
    expect(bytes().length).toBe(SEAL_FOOTER_BYTES);
    expect(decodeSealFooter(fromHex(text), AT)).toEqual(footer);
  });

  test("is none where neither end is one", () => {
    expect(decodeSealFooter(new Uint8Array(40), AT)).toBeNull();
    expect(decodeSealFooter(bytes().subarray(1), AT)).toBeNull();
  });

  test("is never taken for none, whichever bit is other than it was", () => {
    const outcomes = { refused: 0, other: 0 };
    for (let bit = 0; bit < SEAL_FOOTER_BYTES * 8; bit++) {
      const damaged = bytes();
      damaged[bit >> 3] ^= 1 << (bit & 7);
      const where = { bit, byte: bit >> 3 };
      try {
        const found = decodeSealFooter(damaged, AT);
        expect({ ...where, found }).not.toEqual({ ...where, found: footer });
        expect({ ...where, found }).not.toEqual({ ...where, found: null });
        outcomes.other++;
      } catch (error) {
        expect(error).toMatchObject({ code: "E_HASH", message: "the seal's last bytes are damaged" });
        outcomes.refused++;
      }
    }
    // The root and what of the places is possible is told by the head's hash.
    expect(outcomes.refused).toBeGreaterThan(8 * 16 + 40);
    expect(outcomes.other).toBeGreaterThan(63);
  });
});

describe("a seal's parts", () => {
  test.each<[string, [name: string, pages: number][]]>([
    ["one page", [["a", 1]]],
    ["a table that just fits", [["a", 512]]],
    ["a table that does not", [["a", 513], ["b", 1]]], // biome-ignore format: one row
    ["a head of more than a page", Array.from({ length: 100 }, (_, i): [string, number] => [`block ${i}`, i + 1])],
    ["16 TiB", [["huge", 2 ** 32]]],
  ])("of %s lie one behind the other, at pages' borders", (_, list) => {
    const blocks = list.map(([name, pages], i) => ({ name, bytes: pages * PAGE, pagesOffset: (i + 1) * 2 ** 45 }));
    const { headBytes: length, tables, footer } = layOutSeal(blocks);
    const extents = blocks.map(() => ({ offset: 0, bytes: 0, hash: 0n }));
    const head = { ...SMALL, extents: [...extents, ...extents.slice(0, 1)] };
    const sealed = blocks.map((block, i) => ({ ...block, pagesOffset: 0, tableOffset: tables[i], tableHash: 0n }));
    expect(headBytes({ ...head, blocks: sealed }).length).toBe(length);
    const ends = [length, ...blocks.map((block, i) => tables[i] + tableBytes(block))];
    for (const [i, begin] of [...tables, footer].entries()) {
      expect(begin % PAGE).toBe(0);
      expect(begin - ends[i]).toBeGreaterThanOrEqual(0);
      expect(begin - ends[i]).toBeLessThan(PAGE);
    }
  });

  test("and the pages are all of a file from its stream's beginning on", () => {
    const blocks = [
      { name: "second", bytes: PAGE, pagesOffset: 5 * MIB },
      { name: "first", bytes: 3 * PAGE, pagesOffset: MIB },
    ];
    const extents = extentsOf(100, blocks, 6 * MIB);
    expect(extents).toEqual([
      { offset: 100, bytes: MIB - 100 },
      { offset: MIB + 3 * PAGE, bytes: 4 * MIB - 3 * PAGE },
      { offset: 5 * MIB + PAGE, bytes: MIB - PAGE },
    ]);
  });

  test("are not made for pages that lie over something else", () => {
    const blocks = [
      { name: "a", bytes: 2 * PAGE, pagesOffset: MIB },
      { name: "b", bytes: PAGE, pagesOffset: MIB + PAGE },
    ];
    expect(errorOf(() => extentsOf(0, blocks, 2 * MIB))).toMatchObject({ code: "E_STREAM" });
    expect(errorOf(() => extentsOf(2 * MIB, blocks.slice(1), 3 * MIB))).toMatchObject({ code: "E_STREAM" });
  });
});

describe("a seal that is not whole", () => {
  const AT = 0x302000; // where the stream's RAM ends
  const behind = (head: Uint8Array) => {
    const bytes = new Uint8Array(0x1000 + head.length);
    bytes.fill(0x55, 0, 0x345);
    bytes.set(head, 0x1000);
    return bytes;
  };

  test("is seen by its head, which says where the stream ends", () => {
    expect(findSealHead(behind(headBytes(SMALL)), AT)).toEqual({ offset: 0x303000, streamEnd: 0x302345 });
    expect(findSealHead(behind(headBytes(SMALL).subarray(0, 32)), AT)).toEqual({
      offset: 0x303000,
      streamEnd: 0x302345,
    });
    // The RAM may end anywhere.
    expect(findSealHead(behind(headBytes(SMALL)).subarray(0x123), AT + 0x123)?.offset).toBe(0x303000);
  });

  test.each<[string, Uint8Array]>([
    ["less than 32 bytes of it", headBytes(SMALL).subarray(0, 31)],
    ["one that stands elsewhere", headBytes({ ...SMALL, streamEnd: 0x301234 })],
    ["one of a stream that ends before its RAM", headBytes({ ...SMALL, streamEnd: 0x1234 })],
    ["a device with such bytes in it", new TextEncoder().encode("TRAMSEAL".repeat(100))],
  ])("is not seen in %s", (_, head) => {
    expect(findSealHead(behind(head), AT)).toBeNull();
  });
});

const KINDS = ["content", "clear hole", "stale", "hole", "content"] as const;
const SHAPE = { blocks: [{ name: "ram", kinds: KINDS }, { name: "vga.vram", kinds: KINDS.slice(0, 3) }] }; // biome-ignore format: one line

/** A sealed file, and one thing in its seal that is otherwise, with a root that fits. */
async function resealed(name: string, change: (head: SealHead) => void, { longer = 0 } = {}): Promise<string> {
  const path = join(folder, name);
  writeMapped(path, SHAPE);
  await sealHere(path);
  const bytes = readFileSync(path);
  const seal = Seal.find(FileTransport.open(path)) as Seal;
  const head = structuredClone(seal.head);
  change(head);
  const again = headBytes(head);
  bytes.set(again, seal.headOffset);
  const footer = encoded((out) =>
    encodeSealFooter(out, { headOffset: seal.headOffset, headBytes: again.length, root: hashOf(again) }),
  );
  writeFileSync(path, Buffer.concat([bytes.subarray(0, -SEAL_FOOTER_BYTES), new Uint8Array(longer), footer]));
  return path;
}

describe("a seal in a file", () => {
  test("is found, however short the reader was told that the file is", async () => {
    const path = join(folder, "found");
    const { blocks, end } = writeMapped(path, SHAPE);
    expect(Seal.find(FileTransport.open(path))).toBeNull();
    await sealHere(path);
    const file = FileTransport.open(path);
    file.endAt(1000);
    const seal = Seal.find(file) as Seal;
    expect(seal.head).toMatchObject({ streamOffset: 0, streamEnd: end, holes: false });
    expect([seal.isBeside, seal.headOffset, seal.hashedEnd]).toEqual([false, alignSeal(end), alignSeal(end)]);
    expect(seal.headOffset + seal.bytes).toBe(readFileSync(path).length);
    expect(seal.head.blocks.map(({ name }) => name)).toEqual(blocks.map(({ name }) => name));
    expect(seal.strayByte()).toBe(-1);
    expect([0, 1, 2].map((i) => seal.extentName(i))).toEqual([
      "the stream's header, the header and bitmap of block 'ram'",
      "the header and bitmap of block 'vga.vram'",
      "the device state",
    ]);
    // One hash for each page that has bytes, the bitmap's and others.
    const table = seal.table(seal.head.blocks[0]);
    expect(KINDS.map((_, page) => table.isSet(page))).toEqual([true, false, true, true, true]);
  });

  test("is found again by whoever opens the stream, and the stream ends before it", async () => {
    const path = join(folder, "opened");
    const { end } = writeMapped(path, SHAPE);
    await sealHere(path);
    const transport = FileTransport.open(path);
    const first = new MappedFile(transport);
    const second = new MappedFile(transport);
    expect([first.seal?.root, transport.bytes]).toEqual([second.seal?.root, end]);
    expect(first.seal).not.toBeNull();
    expect(new MappedFile(transport, 0, null).seal).toBeNull();
  });

  test.each<[string, (head: SealHead) => void]>([
    [
      "has a table elsewhere",
      ({ blocks }) => {
        blocks[0].tableOffset += PAGE;
      },
    ],
    [
      "has tables one over the other",
      ({ blocks }) => {
        blocks[1].tableOffset = blocks[0].tableOffset;
      },
    ],
    ["leaves a range out", ({ extents }) => void extents.pop()],
    ["leaves a byte out", ({ extents }) => void extents[1].bytes--],
    ["leaves the stream's first byte out", ({ extents }) => void extents[0].offset++],
    [
      "has another block",
      ({ blocks }) => {
        blocks[1].bytes += PAGE;
      },
    ],
    ["has a block fewer", ({ blocks }) => void blocks.pop()],
    [
      "has a stream that ends pages before it",
      (head) => {
        head.streamEnd -= PAGE;
      },
    ],
    [
      "has a stream that ends behind it",
      (head) => {
        head.streamEnd += PAGE;
      },
    ],
    [
      "has a stream that begins elsewhere",
      (head) => {
        head.streamOffset += PAGE;
      },
    ],
  ])("that %s is refused", async (_, change) => {
    const path = await resealed("wrong", change);
    expect(errorOf(() => Seal.find(FileTransport.open(path)))).toMatchObject({
      code: "E_HASH",
      message: "the seal is not laid out as its own blocks want it",
      details: { where: expect.stringContaining(path) },
    });
  });

  test("that has a gap where none belongs is refused", async () => {
    expect(Seal.find(FileTransport.open(await resealed("same", () => undefined)))).not.toBeNull(); // the premise
    const path = await resealed("longer", () => undefined, { longer: PAGE });
    expect(errorOf(() => Seal.find(FileTransport.open(path)))).toMatchObject({ code: "E_HASH" });
  });

  test("that tells of another stream is refused", async () => {
    const path = await resealed("another", ({ blocks }) => {
      blocks[0].name = "rom";
    });
    expect(errorOf(() => new MappedFile(FileTransport.open(path)))).toMatchObject({
      code: "E_HASH",
      message: "the seal is about another stream than the file has",
      details: { expected: expect.stringContaining("'rom'"), found: expect.stringContaining("'ram'") },
    });
  });

  test("with a byte between its parts says where that is", async () => {
    const path = join(folder, "stray");
    writeMapped(path, SHAPE);
    await sealHere(path);
    const seal = Seal.find(FileTransport.open(path)) as Seal;
    const { headBytes: length, tables, footer } = layOutSeal(seal.head.blocks);
    const ends = [length, ...seal.head.blocks.map((block, i) => tables[i] + tableBytes(block))];
    for (const place of [...ends, ...tables.map((at) => at - 1), footer - 1]) {
      const at = seal.headOffset + place;
      const fd = openSync(path, "r+");
      writeSync(fd, Uint8Array.of(1), 0, 1, at);
      expect(seal.strayByte()).toBe(at);
      writeSync(fd, Uint8Array.of(0), 0, 1, at);
      closeSync(fd);
    }
    expect(seal.strayByte()).toBe(-1);
  });

  test("without its last bytes, and whole, is told apart by its reader", async () => {
    const path = join(folder, "cut");
    const { end } = writeMapped(path, SHAPE);
    await sealHere(path);
    writeFileSync(path, readFileSync(path).subarray(0, -1));
    expect(errorOf(() => new MappedFile(FileTransport.open(path)))).toMatchObject({
      code: "E_STREAM_TRUNCATED",
      message: "the seal at the file's end is not whole",
      details: { next: expect.stringContaining(`first ${end} bytes`) },
    });
  });
});

describe("a seal in a file of its own", () => {
  test("is known as one", async () => {
    const path = join(folder, "beside");
    const { end } = writeMapped(path, SHAPE);
    await sealHere(path, { beside: true });
    const seal = Seal.of(FileTransport.open(`${path}.seal`));
    expect([seal.isBeside, seal.headOffset, seal.hashedEnd, seal.bytes]).toEqual([true, 0, end, readFileSync(`${path}.seal`).length]); // biome-ignore format: one row
    expect(errorOf(() => new MappedFile(FileTransport.open(`${path}.seal`)))).toMatchObject({
      code: "E_STREAM",
      message: expect.stringContaining("is a seal, and not the file"),
    });
  });

  test("is not one that another file has at its end, or any other bytes", async () => {
    const path = join(folder, "own");
    writeMapped(path, SHAPE);
    expect(errorOf(() => Seal.of(FileTransport.open(path)))).toMatchObject({ code: "E_HASH", message: `${path} is no seal` }); // biome-ignore format: one row
    await sealHere(path);
    expect(errorOf(() => Seal.of(FileTransport.open(path)))).toMatchObject({ code: "E_HASH", details: { found: expect.stringContaining("at its own end") } }); // biome-ignore format: one row
  });
});

test("a seal is written in an order in which it is known, whatever of it is there", () => {
  const path = join(folder, "order");
  const { blocks, end } = writeMapped(path, SHAPE);
  const fd = openSync(path, "r+");
  const seen: { bytes: number; head: boolean; footer: boolean }[] = [];
  const tables = blocks.map(({ bytes }) => {
    const table = new HashTable(bytes / PAGE);
    table.bytes.fill(7);
    return table;
  });
  const extents = extentsOf(0, blocks, alignSeal(end)).map((range) => ({ ...range, hash: 1n }));
  const sealed = { streamOffset: 0, streamEnd: end, holes: true, extents, blocks, tables };
  writeSeal(fd, alignSeal(end), sealed, () => {
    const bytes = readFileSync(path);
    seen.push({
      bytes: bytes.length,
      head: findSealHead(bytes.subarray(end - 10), end - 10) !== null,
      footer: decodeSealFooter(bytes.subarray(-SEAL_FOOTER_BYTES), bytes.length - SEAL_FOOTER_BYTES) !== null,
    });
  });
  closeSync(fd);
  const { headBytes: length, footer } = layOutSeal(blocks);
  expect(seen).toEqual([
    { bytes: alignSeal(end) + length, head: true, footer: false },
    { bytes: alignSeal(end) + footer + SEAL_FOOTER_BYTES, head: true, footer: false },
  ]);
  expect(Seal.find(FileTransport.open(path))).not.toBeNull();
});

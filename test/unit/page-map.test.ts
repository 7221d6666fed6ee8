// Which kind each page is, of streams and files of every sort, with blocks of every size: through files and through pipes.
import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHANGE_KINDS, changeKinds } from "../../src/inspect/change-map.ts";
import { countKinds, type PagesByKind } from "../../src/inspect/kinds.ts";
import { CONTENT_KINDS, PageMap } from "../../src/inspect/page-map.ts";
import { changesBetween, differingRuns } from "../../src/inspect/pages.ts";
import { openInput } from "../../src/inspect/source.ts";
import { type Survey, survey } from "../../src/inspect/survey.ts";
import { ZERO_AFTER, ZERO_BEFORE } from "../../src/native/look.ts";
import { MappedFile } from "../../src/reader/mapped.ts";
import { ByteWriter } from "../../src/stream/bytes.ts";
import { encodeBlockTable, encodeEndOfSection, encodeFirstPage } from "../../src/stream/ram.ts";
import {
  encodeFooter,
  encodeHeader,
  encodeSectionPart,
  encodeSectionStart,
  encodeVmDescription,
} from "../../src/stream/section.ts";
import { RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_XBZRLE, RAM_SAVE_FLAG_ZERO } from "../../src/stream/wire.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { GOLDEN_PAGES, golden, goldenRam, Playback } from "../support/golden.ts";
import { mixedKinds, type PageKind, writeMapped } from "../support/sealed.ts";

const PAGE = 4096;
const folder = mkdtempSync(join(tmpdir(), "tram-page-map-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Mapped {
  found: Survey;
  map: PageMap;
  blocks: PagesByKind[];
}

function mapOf(transport: Parameters<typeof survey>[0], offset: number): Mapped {
  const map = new PageMap();
  const found = survey(transport, offset, null, map);
  return { found, map, blocks: map.blocks() };
}

function mapOfFile(path: string, offset: number | null = null): Mapped {
  const input = openInput({ path, fd: null, offset });
  try {
    return mapOf(input.transport, input.offset);
  } finally {
    input.transport.close();
  }
}

const keys = (kinds: Uint8Array): string[] => Array.from(kinds, (kind) => CONTENT_KINDS[kind].key);

describe("QEMU's own streams and files", () => {
  /** By `page % 4`: zeros, one byte, random words, text: see test/golden/README.md. */
  const expected = (zero: string) =>
    Array.from({ length: GOLDEN_PAGES }, (_, page) => [zero, "data0", "data7", "data3"][page % 4]);

  test.each([
    ["qemu-7.2-stream.bin", "zero"],
    ["qemu-10.2-stream.bin", "zero"],
    ["qemu-10.2-mapped.bin", "absent"],
    ["qemu-10.2-mapped-multifd.bin", "absent"],
  ])("%s: each page is what the guest had there, from a file and from a pipe", async (name, zero) => {
    const path = join(folder, name);
    await Bun.write(path, golden(name));
    for (const { found, blocks } of [
      mapOfFile(path),
      mapOf(new Playback(golden(name), name, { pieceBytes: 4097 }), 0),
    ]) {
      expect(found.problem).toBeNull();
      expect(blocks.map(({ name, bytes }) => ({ name, bytes }))).toEqual([{ name: "ram", bytes: GOLDEN_PAGES * PAGE }]);
      expect(keys(blocks[0].kinds)).toEqual(expected(zero));
    }
  });

  test("of several channels have nothing to draw", () => {
    const { found } = mapOf(new Playback(golden("qemu-7.2-multifd.ch0")), 0);
    expect(found.multifd).toBe(true);
  });
});

describe("a file with fixed offsets", () => {
  const shape = {
    base: 777,
    blocks: [
      { name: "ram", kinds: mixedKinds(2100, 3) },
      { name: "one", kinds: ["content"] as PageKind[] },
      { name: "clear", kinds: Array.from({ length: 70 }, (): PageKind => "clear hole") },
      { name: "last", kinds: mixedKinds(33, 4) },
    ],
  };
  const path = join(folder, "fixed");
  const { blocks: places } = writeMapped(path, shape);

  test("has a kind for each page of each block: absent where the bitmap is clear, whatever lies there", () => {
    const { blocks, found } = mapOfFile(path, shape.base);
    expect(found.problem).toBeNull();
    for (const [i, { kinds }] of shape.blocks.entries())
      for (const [page, kind] of kinds.entries()) {
        const wanted = kind === "content" ? "data0" : kind === "zeros" || kind === "hole" ? "zero" : "absent";
        expect({ i, page, key: CONTENT_KINDS[blocks[i].kinds[page]].key }).toEqual({ i, page, key: wanted });
      }
  });

  test("has shares that are all of its pages, and agree with what tram inspect counts", () => {
    const { blocks, found } = mapOfFile(path, shape.base);
    for (const [i, { kinds }] of blocks.entries()) {
      const counts = countKinds(kinds, CONTENT_KINDS.length);
      expect(counts.reduce((sum, count) => sum + count, 0)).toBe(shape.blocks[i].kinds.length);
      expect(kinds.length - counts[0]).toBe(found.blocks[i].content);
    }
  });

  test("is read up to its last page with content, and one that ends before has a problem", () => {
    const whole = new Uint8Array(places[0].pagesOffset + 2100 * PAGE);
    const fd = openSync(path, "r");
    readSync(fd, whole, 0, whole.length, 0);
    closeSync(fd);
    const last = shape.blocks[0].kinds.findLastIndex((kind) => ["content", "zeros", "hole"].includes(kind));
    const cut = whole.subarray(shape.base, places[0].pagesOffset + last * PAGE + 100);
    expect(mapOf(new Playback(cut), shape.base).found.problem).toMatchObject({ code: "E_STREAM_TRUNCATED" });
  });
});

describe("a plain stream", () => {
  const PAGES = 40;
  const ram = goldenRam();
  function plain(records: (out: ByteWriter) => void): Uint8Array {
    const out = new ByteWriter();
    encodeHeader(out, { machine: "none", capabilities: [], uuid: null });
    encodeSectionStart(out, 1, { id: 1, name: "ram", instance: 0, version: 4 });
    encodeBlockTable(out, [{ name: "ram", bytes: PAGES * PAGE }, { name: "rom", bytes: PAGE }]); // biome-ignore format: one line
    encodeEndOfSection(out);
    encodeFooter(out, 1);
    encodeSectionPart(out, 3, 1);
    records(out);
    encodeEndOfSection(out);
    encodeFooter(out, 1);
    out.u8(0);
    encodeVmDescription(out, { page_size: PAGE, devices: [] });
    return out.done().slice();
  }
  const page = (out: ByteWriter, index: number, content: Uint8Array, block = "ram") => {
    encodeFirstPage(out, RAM_SAVE_FLAG_PAGE, index, block);
    out.bytes(content);
  };
  const zero = (out: ByteWriter, index: number) => {
    encodeFirstPage(out, RAM_SAVE_FLAG_ZERO, index, "ram");
    out.u8(0);
  };
  const changed = (out: ByteWriter, index: number, at: number, byte: number) => {
    encodeFirstPage(out, RAM_SAVE_FLAG_XBZRLE, index, "ram");
    out
      .u8(1)
      .u16(3)
      .bytes(Uint8Array.of(at, 1, byte));
  };
  const [repeated, random, text] = [1, 2, 3].map((n) => ram.subarray(n * PAGE, (n + 1) * PAGE));

  test("counts a page as what it was last, and one that was never told of as absent", () => {
    const stream = plain((out) => {
      page(out, 0, repeated);
      page(out, 1, random);
      zero(out, 2);
      page(out, 0, text); // again
      zero(out, 1); // and zero now
      page(out, 3, random);
      zero(out, 3);
      page(out, 3, random);
      page(out, 4, new Uint8Array(PAGE)); // zero, and sent all the same
      page(out, 0, random, "rom");
    });
    const { blocks, found } = mapOf(new Playback(stream), 0);
    expect(found.problem).toBeNull();
    expect(keys(blocks[0].kinds)).toEqual([
      "data3",
      "zero",
      "zero",
      "data7",
      "zero",
      ...Array(PAGES - 5).fill("absent"),
    ]);
    expect(keys(blocks[1].kinds)).toEqual(["data7"]);
  });

  test("whose pages come as changes counts them as what they had been, and says how many", () => {
    const stream = plain((out) => {
      page(out, 0, random);
      zero(out, 1);
      changed(out, 0, 5, 0x55);
      changed(out, 0, 6, 0x55);
      changed(out, 1, 7, 0x55); // of zeros all is known
      page(out, 2, random);
      changed(out, 2, 8, 0x55);
      page(out, 2, text);
    });
    const { blocks, map } = mapOf(new Playback(stream), 0);
    expect(keys(blocks[0].kinds.subarray(0, 4))).toEqual(["data7", "data0", "data3", "absent"]);
    expect(map.changedPages).toBe(3);
  });
});

describe("two files", () => {
  const shapes = [mixedKinds(700, 8), mixedKinds(700, 9)];
  const files = shapes.map((kinds, i) => {
    const path = join(folder, `pair-${i}`);
    writeMapped(path, { blocks: [{ name: "ram", kinds }, ...(i ? [{ name: "other", kinds }] : [])] });
    return new MappedFile(FileTransport.open(path));
  });
  const content = ({ blocks: [block] }: MappedFile, file: MappedFile, page: number) => {
    const bytes = new Uint8Array(PAGE);
    if (block.present.has(page)) readSync(file.file.fd, bytes, 0, PAGE, block.pagesOffset + page * PAGE);
    return bytes;
  };

  test("have for each page what became of it, as a plain comparison finds it", () => {
    const changes = changesBetween(files[0], files[0].blocks[0], files[1], files[1].blocks[0]);
    const kinds = changeKinds(changes);
    const met = new Set<string>();
    for (let page = 0; page < 700; page++) {
      const [a, b] = files.map((file) => content(file, file, page));
      const bytes = a.filter((byte, i) => byte !== b[i]).length;
      const [zeroA, zeroB] = [a, b].map((one) => one.every((byte) => byte === 0));
      const same = zeroA ? "sameZero" : "same";
      const other = zeroB ? "turnedZero" : zeroA ? "turnedData" : bytes <= 64 ? "changed64" : "changed256";
      const wanted = bytes === 0 ? same : other;
      met.add(wanted);
      expect({ page, key: CHANGE_KINDS[kinds[page]].key }).toEqual({ page, key: wanted });
    }
    expect(met.size).toBeGreaterThanOrEqual(4);
    const differing = [...kinds.keys()].filter((page) => !["same", "sameZero"].includes(CHANGE_KINDS[kinds[page]].key));
    expect(differingRuns(changes).flatMap(([first, end]) => Array.from({ length: end - first }, (_, i) => first + i))).toEqual(differing); // biome-ignore format: one line
  });

  test("have steps for how much of a page has changed", () => {
    const key = (change: number) => CHANGE_KINDS[changeKinds(Uint16Array.of(change))[0]].key;
    expect([1, 64, 65, 256, 257, 1024, 1025, 2048, 2049, 4096].map(key)).toEqual(
      [64, 64, 256, 256, 1024, 1024, 2048, 2048, 4096, 4096].map((bytes) => `changed${bytes}`),
    );
    expect([0, ZERO_BEFORE | ZERO_AFTER, 9 | ZERO_AFTER, 9 | ZERO_BEFORE].map(key)).toEqual(["same", "sameZero", "turnedZero", "turnedData"]); // biome-ignore format: one line
  });
});

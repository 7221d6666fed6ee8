// The threads' part of tram verify and tram seal: every page of every block, each once, by what the file has at its place.
import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BAD_PAGES_LISTED, type HashJob, hashPages, mergeResults, newJob, progressOf, stopJob } from "../../src/inspect/hashing.ts"; // biome-ignore format: one line
import { Bitmap } from "../../src/memory/bitmap.ts";
import { nextData } from "../../src/native/file.ts";
import { HashTable, hashOf } from "../../src/native/hash.ts";
import { MappedFile } from "../../src/reader/mapped.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { mixedKinds, type PageKind, writeMapped } from "../support/sealed.ts";

const PAGE = 4096;
const folder = mkdtempSync(join(tmpdir(), "tram-hashing-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** More pages than a thread takes at once, and fewer; borders in the middle of a word of the bitmap. */
const SHAPE = {
  base: 777,
  blocks: [
    { name: "ram", kinds: mixedKinds(2100, 1) },
    { name: "one", kinds: ["content"] as PageKind[] },
    { name: "rom", kinds: mixedKinds(1024, 2) },
    { name: "empty", kinds: Array.from({ length: 70 }, (): PageKind => "clear hole") },
  ],
};
const path = join(folder, "file");
const { blocks } = writeMapped(path, SHAPE);
const fd = openSync(path, "r+");
afterAll(() => closeSync(fd));
const file = new MappedFile(FileTransport.open(path), SHAPE.base);

function jobOf(tables: readonly HashTable[], computes: boolean): HashJob {
  return newJob(
    fd,
    file.blocks.map(({ pagesOffset, present }, i) => {
      const words = new SharedArrayBuffer(Bitmap.bytesFor(present.pages));
      new Uint32Array(words).set(present.words);
      return { pagesOffset, pages: present.pages, table: tables[i].shared, present: computes ? words : null };
    }),
  );
}
const newTables = () => file.blocks.map(({ present }) => new HashTable(present.pages));
function computed(): HashTable[] {
  const tables = newTables();
  hashPages(jobOf(tables, true));
  return tables;
}

function pageBytes(block: number, page: number): Uint8Array {
  const bytes = new Uint8Array(PAGE);
  readSync(fd, bytes, 0, PAGE, blocks[block].pagesOffset + page * PAGE);
  return bytes;
}
const entry = (table: HashTable, page: number): bigint =>
  new DataView(table.bytes.buffer, table.bytes.byteOffset).getBigUint64(page * 8, true);

describe("hashes that are computed", () => {
  test("are one for each page that has content or other bytes, and none for the others", () => {
    const tables = computed();
    for (const [i, { kinds }] of SHAPE.blocks.entries())
      for (const [page, kind] of kinds.entries()) {
        const wanted = kind.startsWith("clear") ? 0n : hashOf(pageBytes(i, page));
        expect({ i, page, kind, hash: entry(tables[i], page) }).toEqual({ i, page, kind, hash: wanted });
      }
  });

  test("are counted where a page without content has bytes", () => {
    const result = hashPages(jobOf(newTables(), true));
    const stale = SHAPE.blocks.flatMap(({ kinds }) => kinds).filter((kind) => kind === "stale").length;
    expect(stale).toBeGreaterThan(100);
    expect(result).toEqual({ bad: [], badCount: 0, unreadable: [], unreadableCount: 0, staleCount: stale });
  });

  test("are the same whatever the table had before", () => {
    const tables = newTables();
    for (const { bytes } of tables) bytes.fill(0xa5);
    hashPages(jobOf(tables, true));
    expect(tables.map(({ bytes }) => Bun.hash(bytes))).toEqual(computed().map(({ bytes }) => Bun.hash(bytes)));
  });
});

describe("hashes that are compared", () => {
  test("fit the file that they were made of, twice", () => {
    const tables = computed();
    for (let round = 0; round < 2; round++) expect(hashPages(jobOf(tables, false)).badCount).toBe(0);
  });

  /** Writes one byte, compares, and puts the old one back. */
  function comparedWith(block: number, page: number, at: number): ReturnType<typeof hashPages> {
    const place = blocks[block].pagesOffset + page * PAGE + at;
    const tables = computed();
    const old = pageBytes(block, page)[at];
    writeSync(fd, Uint8Array.of(old ^ 0x10), 0, 1, place);
    const result = hashPages(jobOf(tables, false));
    writeSync(fd, Uint8Array.of(old), 0, 1, place);
    return result;
  }
  test.each<[PageKind, string]>([
    ["content", "other bytes than were sealed"],
    ["stale", "other bytes than were sealed"],
    ["zeros", "bytes in a page of zeros"],
    ["hole", "bytes in a page of zeros"],
    ["clear zeros", "bytes in a page of zeros"],
    ["clear hole", "bytes in a page of zeros"],
  ])("tell of one byte in a page of kind '%s'", (kind, what) => {
    for (const block of [0, 2]) {
      const page = SHAPE.blocks[block].kinds.lastIndexOf(kind);
      for (const at of [0, 2000, PAGE - 1])
        expect(comparedWith(block, page, at)).toMatchObject({ bad: [{ block, page, what }], badCount: 1 });
    }
    expect(hashPages(jobOf(computed(), false)).badCount).toBe(0);
  });

  test("tell of the first and the last page of each block", () => {
    for (const [block, { kinds }] of SHAPE.blocks.entries())
      for (const page of [0, kinds.length - 1])
        expect(comparedWith(block, page, 1).bad).toEqual([{ block, page, what: expect.any(String) }]);
  });

  test("tell of content that has become a hole", () => {
    const empty = openSync(join(folder, "empty"), "w+");
    writeSync(empty, Uint8Array.of(0), 0, 1, blocks[3].pagesOffset + blocks[3].bytes);
    const result = hashPages({ ...jobOf(computed(), false), fd: empty });
    closeSync(empty);
    const full = SHAPE.blocks.flatMap(
      ({ kinds }, block) =>
      kinds.flatMap((kind, page) => (kind === "content" || kind === "stale" ? [{ block, page, what: "a hole where bytes were" }] : [])), // biome-ignore format: one line
    );
    expect(result.badCount).toBe(full.length);
    expect(result.bad).toEqual(full.slice(0, BAD_PAGES_LISTED));
  });

  test("list the first thousand, and count the others", () => {
    const tables = computed();
    for (const { bytes } of tables) bytes.fill(0x77);
    const result = hashPages(jobOf(tables, false));
    expect([result.bad.length, result.badCount]).toEqual([BAD_PAGES_LISTED, 2100 + 1 + 1024 + 70]);
    expect(result.bad.at(-1)).toMatchObject({ block: 0, page: BAD_PAGES_LISTED - 1 });
  });
});

test("holes are not read, and everything else is read once", () => {
  const { pagesOffset, bytes } = blocks[0];
  const end = pagesOffset + bytes;
  let data = 0;
  for (let next = nextData(fd, pagesOffset); next && next.from < end; next = nextData(fd, next.to))
    data += Math.min(next.to, end) - next.from;
  expect(data).toBeGreaterThan(1000 * PAGE);
  expect(data).toBeLessThan(2000 * PAGE);
  // What this process has read so far, as the kernel counts it: its reading of this number included.
  const read = () => Number(/^rchar: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))?.[1]);
  const [job] = jobOf(computed(), false).blocks;
  const before = read();
  hashPages(newJob(fd, [job]));
  const after = read();
  expect(after - before).toBeGreaterThanOrEqual(data);
  expect(after - before).toBeLessThan(data + 4 * PAGE);
});

describe("a job", () => {
  test("that was stopped does nothing more", () => {
    const job = jobOf(computed(), false);
    stopJob(job);
    expect([hashPages(job).badCount, progressOf(job)]).toEqual([0, 0]);
  });

  test("of which a part was not looked at has no result, whatever its threads say", () => {
    const job = jobOf(computed(), false);
    stopJob(job); // a thread that has taken a part leaves it
    const found = hashPages(job);
    expect(found.badCount).toBe(0);
    expect(() => mergeResults(job, [found])).toThrow("not all of the file was looked at");
    const whole = jobOf(computed(), false);
    expect(mergeResults(whole, [hashPages(whole)]).badCount).toBe(0);
  });

  test("knows how much of it is done", () => {
    const job = jobOf(computed(), false);
    hashPages(job);
    expect(progressOf(job)).toBe(1);
    expect(progressOf(newJob(fd, []))).toBe(1);
  });

  test("is shared: what one has taken, another does not do", () => {
    const tables = computed();
    for (const { bytes } of tables) bytes.fill(0x77);
    const job = jobOf(tables, false);
    const first = hashPages(job);
    expect([first.badCount, hashPages(job).badCount]).toEqual([3195, 0]);
  });

  test("of which several threads have found something is told in the file's order", () => {
    const none = { bad: [], badCount: 0, unreadable: [], unreadableCount: 0, staleCount: 0 };
    const bad = (block: number, page: number) => ({ block, page, what: "x" });
    const merged = mergeResults(newJob(fd, []), [
      { ...none, bad: [bad(0, 5), bad(1, 1)], badCount: 2, staleCount: 3 },
      { ...none, bad: [bad(0, 4), bad(1, 0)], badCount: 2000, unreadable: [bad(0, 9)], unreadableCount: 1 },
    ]);
    expect(merged).toEqual({
      bad: [bad(0, 4), bad(0, 5), bad(1, 0), bad(1, 1)],
      badCount: 2002,
      unreadable: [bad(0, 9)],
      unreadableCount: 1,
      staleCount: 3,
    });
  });
});

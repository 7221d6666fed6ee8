// One byte of a sealed file is another one than it was, anywhere in the file: verify finds it, and names the page where it is one.
// TRAM_FUZZ_SEED makes other damages.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { closeSync, copyFileSync, existsSync, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs"; // biome-ignore format: one line
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fromErrorData } from "../../src/errors.ts";
import { nextData } from "../../src/native/file.ts";
import { host } from "../../src/native/host.ts";
import { MappedFile } from "../../src/reader/mapped.ts";
import { Seal } from "../../src/reader/seal.ts";
import { layOutSeal, tableBytes } from "../../src/stream/seal.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { Bed } from "../support/bed.ts";
import { golden, goldenRam, keepCapture, seeded } from "../support/golden.ts";
import { mixedKinds, sealHere, verifyHere, writeMapped } from "../support/sealed.ts";

const SEED = Number(process.env.TRAM_FUZZ_SEED ?? 1);
const FLIPS = 2000;
const BY_THE_BINARY = 50;
const LIMIT_MS = 90_000;
const PAGE = 4096;
const MIB = 1 << 20;

// Files are written to again and again: in memory, where there is such a place, and where it has holes.
const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "tram-fuzz-"));
const bed = new Bed();
afterAll(async () => {
  rmSync(folder, { recursive: true });
  await bed.dispose();
});

interface Region {
  what: string;
  from: number;
  to: number;
}

interface Subject {
  path: string;
  offset: number | null;
  /** The one that is damaged: the file, or the seal beside it. */
  damaged: string;
  regions: Region[];
}

/** Every byte of the file from the stream's first on, by what it is. */
function regionsOf(path: string, offset: number, beside: boolean): { file: Region[]; seal: Region[] } {
  const transport = FileTransport.open(path);
  const file = new MappedFile(transport, offset);
  const seal = beside ? Seal.of(FileTransport.open(`${path}.seal`)) : (file.seal as Seal);
  const pages = file.blocks.flatMap(({ name, present, pagesOffset }) =>
    Array.from({ length: present.pages }, (_, page): Region => {
      const from = pagesOffset + page * PAGE;
      const data = nextData(transport.fd, from);
      const kind = present.has(page) ? "content" : data && data.from < from + PAGE ? "bytes of a clear page" : "a hole";
      return { what: `${kind} in block ${name}`, from, to: from + PAGE };
    }),
  );
  const extents = seal.head.extents.flatMap(({ offset: at, bytes }): Region[] => {
    const end = at + bytes;
    const block = file.blocks.find(({ bitmapOffset }) => bitmapOffset >= at && bitmapOffset < end);
    if (!block)
      return [
        { what: "tail", from: at, to: seal.head.streamEnd },
        { what: "gap behind the stream", from: seal.head.streamEnd, to: end },
      ];
    const bitmapEnd = block.bitmapOffset + Math.ceil(block.present.pages / 64) * 8;
    return [
      { what: "header", from: at, to: block.bitmapOffset },
      { what: "bitmap", from: block.bitmapOffset, to: bitmapEnd },
      { what: "padding", from: bitmapEnd, to: end },
    ];
  });
  const { headBytes, tables, footer } = layOutSeal(seal.head.blocks);
  const parts = [
    { what: "head", from: 0, to: headBytes },
    ...seal.head.blocks.map((block, i) => ({ what: "table", from: tables[i], to: tables[i] + tableBytes(block) })),
    { what: "footer", from: footer, to: footer + 40 },
  ];
  const gaps = parts.slice(1).map(({ from }, i) => ({ what: "gap in the seal", from: parts[i].to, to: from }));
  const inSeal = [...parts, ...gaps].map(({ what, from, to }) => ({ what, from: seal.headOffset + from, to: seal.headOffset + to })); // biome-ignore format: one line
  transport.close();
  return { file: [...extents, ...pages, ...(beside ? [] : inSeal)], seal: inSeal };
}

const exits = (problems: Parameters<typeof fromErrorData>[0][]) => problems.map((one) => fromErrorData(one).exitCode);

interface Flip {
  at: number;
  mask: number;
  what: string;
}

/** Half of them anywhere, half of them the same number in each kind of region. */
function flipsIn(regions: readonly Region[], count: number, random: (below: number) => number): Flip[] {
  const first = Math.min(...regions.map(({ from }) => from));
  const end = Math.max(...regions.map(({ to }) => to));
  const all = regions.filter(({ from, to }) => to > from);
  const kinds = [...new Set(all.map(({ what }) => what))];
  return Array.from({ length: count }, (_, i) => {
    const mask = 1 + random(255);
    if (i % 2) {
      const at = first + random(end - first);
      return { at, mask, what: all.find(({ from, to }) => at >= from && at < to)?.what ?? "nothing" };
    }
    const alike = all.filter(({ what }) => what === kinds[(i / 2) % kinds.length]);
    const { what, from, to } = alike[random(alike.length)];
    return { at: from + random(to - from), mask, what };
  });
}

/** Does something with a file in which one byte is another one; then it is as it was, holes included. */
async function flipped<T>(path: string, { at, mask }: Flip, action: () => Promise<T>): Promise<T> {
  const fd = openSync(path, "r+");
  const old = new Uint8Array(1);
  readSync(fd, old, 0, 1, at);
  const data = nextData(fd, at);
  const wasHole = !data || data.from > at;
  writeSync(fd, Uint8Array.of(old[0] ^ mask), 0, 1, at);
  try {
    return await action();
  } finally {
    writeSync(fd, old, 0, 1, at);
    if (wasHole) host.punchHole(fd, at - (at % PAGE), PAGE);
    closeSync(fd);
  }
}

const pageAt = (path: string, offset: number, at: number) => {
  const transport = FileTransport.open(path);
  const { blocks } = new MappedFile(transport, offset);
  transport.close();
  const block = blocks.find(({ pagesOffset, bytes }) => at >= pagesOffset && at < pagesOffset + bytes);
  if (!block) return null;
  const page = Math.floor((at - block.pagesOffset) / PAGE);
  return { block: block.name, page, offset: block.pagesOffset + page * PAGE };
};

const SUBJECTS: [string, () => Promise<Subject[]>][] = [
  [
    "a file that tram kept",
    async () => {
      const path = join(folder, "kept");
      keepCapture(path, { main: golden("qemu-10.2-stream.bin"), channels: [] });
      return [{ path, offset: null, damaged: path, regions: regionsOf(path, 0, false).file }];
    },
  ],
  [
    "QEMU's own file, sealed",
    async () => {
      const path = join(folder, "qemu");
      const bytes = golden("qemu-10.2-mapped.bin");
      // Old bytes in some of its zero pages, as QEMU leaves them; and others are holes.
      for (const page of [4, 8, 12, 200, 252]) bytes.set(goldenRam().subarray(2 * PAGE, 3 * PAGE), MIB + page * PAGE);
      writeFileSync(path, bytes);
      const fd = openSync(path, "r+");
      for (const page of [16, 20, 100]) host.punchHole(fd, MIB + page * PAGE, PAGE);
      closeSync(fd);
      await sealHere(path);
      return [{ path, offset: null, damaged: path, regions: regionsOf(path, 0, false).file }];
    },
  ],
  [
    "a file of three blocks at an offset, sealed",
    async () => {
      const path = join(folder, "three");
      const kinds = [mixedKinds(300, SEED), mixedKinds(1, 2), mixedKinds(65, SEED + 3)];
      const blocks = kinds.map((list, i) => ({ name: ["pc.ram", "pc.bios", "0000:00:02.0/vga.vram"][i], kinds: list }));
      writeMapped(path, { base: 0x1234, blocks });
      await sealHere(path, { offset: 0x1234 });
      return [{ path, offset: 0x1234, damaged: path, regions: regionsOf(path, 0x1234, false).file }];
    },
  ],
  [
    "a file with its seal beside it, and that seal",
    async () => {
      const path = join(folder, "beside");
      writeMapped(path, { blocks: [{ name: "ram", kinds: mixedKinds(200, SEED) }, { name: "rom", kinds: mixedKinds(50, 5) }] }); // biome-ignore format: one line
      await sealHere(path, { beside: true });
      const { file, seal } = regionsOf(path, 0, true);
      return [
        { path, offset: null, damaged: path, regions: file },
        { path, offset: null, damaged: `${path}.seal`, regions: seal },
      ];
    },
  ],
];

describe.each(SUBJECTS)("one byte of %s", (_, make) => {
  let subjects: Subject[];
  beforeAll(async () => {
    subjects = await make();
  });
  const good = async ({ path, offset }: Subject) => {
    const { problems, bad, sealed, seal } = await verifyHere(path, offset);
    expect({ problems, bad, sealed: Boolean(sealed), seal: Boolean(seal) }).toEqual({ problems: [], bad: [], sealed: true, seal: true }); // biome-ignore format: one line
  };

  test("is none that no region has, and no file is bad before", async () => {
    for (const subject of subjects) {
      await good(subject);
      // The regions are all of the file, each byte once.
      const sorted = [...subject.regions].sort((a, b) => a.from - b.from || a.to - b.to);
      const fd = openSync(subject.damaged, "r");
      expect([sorted[0].from, sorted.at(-1)?.to]).toEqual([subject.offset ?? 0, fstatSync(fd).size]);
      closeSync(fd);
      for (let i = 1; i < sorted.length; i++) expect(sorted[i].from).toBe(sorted[i - 1].to);
    }
  });

  test(
    `that is another one is found, wherever it is: ${FLIPS} of them, seed ${SEED}`,
    async () => {
      const random = seeded(SEED);
      const found: Record<string, number> = {};
      let pages = 0;
      for (const subject of subjects) {
        const { path, offset, damaged, regions } = subject;
        for (const flip of flipsIn(regions, FLIPS / subjects.length, random)) {
          const page = damaged === path ? pageAt(path, offset ?? 0, flip.at) : null;
          const result = await flipped(damaged, flip, () => verifyHere(path, offset));
          expect({ ...flip, exits: exits(result.problems) }).toEqual({ ...flip, exits: expect.arrayContaining([3]) });
          const named = result.bad.map(({ what, ...where }) => where);
          // A page's byte is that page's alone; any other byte is no page's.
          expect({ ...flip, named, count: result.badCount }).toEqual({ ...flip, named: page ? [page] : [], count: page ? 1 : 0 }); // biome-ignore format: one line
          if (page) pages++;
          found[flip.what] = (found[flip.what] ?? 0) + 1;
        }
        await good(subject);
      }
      const kinds = new Set(subjects.flatMap(({ regions }) => regions.filter(({ from, to }) => to > from).map(({ what }) => what))); // biome-ignore format: one line
      expect(Object.keys(found).sort()).toEqual([...kinds].sort());
      expect(Math.min(...Object.values(found))).toBeGreaterThan(FLIPS / 100);
      expect(pages).toBeGreaterThan(FLIPS / 5);
    },
    LIMIT_MS,
  );

  test(
    `that is another one is found by the binary: ${BY_THE_BINARY} of them`,
    async () => {
      const random = seeded(SEED + 1);
      for (const { path, offset, damaged, regions } of subjects) {
        const copy = bed.path("copy");
        copyFileSync(path, copy);
        if (damaged !== path) copyFileSync(damaged, `${copy}.seal`);
        const spec = offset === null ? copy : `file:${copy},offset=${offset}`;
        if (existsSync(`${path}.seal`)) copyFileSync(`${path}.seal`, `${copy}.seal`);
        await bed.expectDone("verify", spec);
        for (const flip of flipsIn(regions, BY_THE_BINARY / subjects.length, random)) {
          const page = damaged === path ? pageAt(path, offset ?? 0, flip.at) : null;
          const run = () => bed.tram("verify", spec, "--json");
          const { code, stdout } = await flipped(damaged === path ? copy : `${copy}.seal`, flip, run);
          const { good: isGood, bad } = JSON.parse(stdout);
          expect({ ...flip, code, isGood }).toEqual({ ...flip, code: 3, isGood: false });
          expect({ ...flip, bad }).toEqual({ ...flip, bad: page ? [{ ...page, what: expect.any(String) }] : [] });
        }
        await bed.expectDone("verify", spec);
        rmSync(`${copy}.seal`, { force: true });
      }
    },
    LIMIT_MS,
  );
});

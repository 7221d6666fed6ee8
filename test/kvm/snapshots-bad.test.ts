// Snapshots that are not as they were saved: each way of restoring finds it before the guest can build on it. And what becomes of
// a guest whose file goes bad, or is written to, beneath it.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { closeSync, constants, copyFileSync, ftruncateSync, mkdtempSync, openSync, rmSync, truncateSync, writeSync } from "node:fs"; // biome-ignore format: one line
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Bed, TRAM, whyNoKvm } from "../support/bed.ts";
import { FaultFs, whyNoFaultFs } from "../support/faultfs.ts";
import { seeded } from "../support/golden.ts";
import {
  type Anatomy,
  anatomyOf,
  contentOf,
  filesIn,
  flipped,
  ioError,
  PAGE,
  refusal,
  restoreOf,
  saved,
  untracked,
} from "../support/snapshots.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string, whyNot = reason) => `${text}${whyNot ? ` (skipped: ${whyNot})` : ""}`;

const WALKER = ["--memory", "32M", "--working-set", "8M", "--dirty-rate", "max"];
/** Where the walker's working set begins; below are its own pages. */
const SET_FIRST = 512;
const SET_PAGES = (8 << 20) / PAGE;
const MODES = {
  eager: ["--eager"],
  first: ["--verify", "first"],
  lazy: [],
  off: ["--verify", "off"],
  "eager and off": ["--eager", "--verify", "off"],
} as const;

let bed: Bed;
let folder: string;
/** Of a guest that ran, and what is in it. */
let good: string;
let anatomy: Anatomy;
beforeAll(async () => {
  if (reason) return;
  folder = mkdtempSync(join(tmpdir(), "tram-bad-"));
  good = join(folder, "good.tram");
  const maker = new Bed();
  try {
    await maker.walker("a", ...WALKER);
    expect((await saved(maker, "a", good)).resentPages).toBeGreaterThan(0);
  } finally {
    await maker.dispose();
  }
  anatomy = anatomyOf(good);
});
afterAll(() => folder && rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

const placeOf = (page: number): number => anatomy.pagesOffset + page * PAGE;

/** In this mode nobody gets a guest out of it. */
async function expectNoGuest(file: string, mode: readonly string[], says: string, code = 3): Promise<void> {
  const result = await bed.exec(["timeout", "20", TRAM, "restore", file, "--name", "x", ...mode]);
  expect({ mode, ...refusal(result) }).toEqual({ mode, code, stderr: expect.stringContaining(says) });
  expect(result.stderr).not.toContain("defect");
  expect(bed.leftovers()).toEqual([]);
}

kvm(title("a byte that is another one"), () => {
  const next = seeded(2026);
  const between = ({ from, to }: { from: number; to: number }) => from + next(to - from);
  const bits = () => 1 << next(8);
  const spoilt = (offset: number) => flipped(good, bed.path("bad.tram"), offset, bits());

  test.each(Array.from({ length: 24 }, (_, i) => i))(
    "in a page is found, in whichever way it is read (%d)",
    async (i) => {
      // By turns in the walker's own pages, in its working set, behind that.
      const [from, to] = [[1, SET_FIRST], [SET_FIRST, SET_FIRST + SET_PAGES], [SET_FIRST + SET_PAGES, anatomy.pages]][i % 3]; // biome-ignore format: one line
      const candidates = anatomy.present.filter((page) => page >= from && page < to);
      const page = candidates[next(candidates.length)];
      const offset = placeOf(page) + next(PAGE);
      const bad = spoilt(offset);
      const found = `page ${page} at byte ${placeOf(page)}`;
      await expectNoGuest(bad, MODES.eager, found);
      for (const mode of ["first", "lazy"] as const) {
        const running = await bed.restored("x", bad, "--paused", ...MODES[mode]);
        expect([mode, await ioError(bed, "x", running)]).toEqual([mode, 3]);
        expect(running.stderr).toContain(found);
      }
      if (page < SET_FIRST) return;
      // The premise: it does change the guest. Who does not want to know is not told.
      const running = await bed.restored("x", bad, "--paused", ...MODES.off);
      const check = await bed.tram("check-guest", "x");
      expect(refusal(check)).toEqual({ code: 3, stderr: expect.stringContaining(`page ${page}, byte`) });
      await bed.expectDone("quit", "x");
      expect(await running.code).toBe(0);
    },
  );

  // Small as they are, they are always compared with the seal.
  const everywhere: [what: string, count: number, range: () => { from: number; to: number }][] = [
    ["the headers", 8, () => ({ from: 0, to: anatomy.bitmap.from })],
    ["the bitmap", 6, () => anatomy.bitmap],
    ["what lies between the bitmap and the pages", 2, () => ({ from: anatomy.bitmap.to, to: anatomy.pagesOffset })],
    ["the device state", 8, () => anatomy.tail],
    ["the seal's head", 4, () => anatomy.sealHead],
    ["the seal's footer", 4, () => anatomy.footer],
  ];
  const flips = everywhere.flatMap(([what, count, range]) =>
    Array.from({ length: count }, (_, i) => ({ what, i, range })),
  );
  test.each(flips)("in $what is found before there is a guest, whatever is to be verified ($i)", async ({ range }) => {
    const bad = spoilt(between(range()));
    for (const mode of Object.values(MODES)) await expectNoGuest(bad, mode, "");
  });

  test.each([0, 1, 2, 3])("in the table of hashes is found by whoever reads it (%d)", async () => {
    const bad = spoilt(between(anatomy.table));
    const found = "the hashes of block 'ram' are damaged";
    await expectNoGuest(bad, MODES.eager, found);
    for (const mode of ["first", "lazy"] as const) {
      const running = await bed.restored("x", bad, ...MODES[mode]);
      expect([mode, await ioError(bed, "x", running)]).toEqual([mode, 3]);
      expect(running.stderr).toContain(found);
    }
    await bed.restored("x", bad, ...MODES.off);
    await bed.goesOn("x");
  });

  test("in a page that the guest comes to is never seen by it with --verify first", async () => {
    for (const page of [0, 1, 500, 1023].map((n) => SET_FIRST + n)) {
      const bad = flipped(good, bed.path("bad.tram"), placeOf(page), 0x40); // in the record that the walker looks at
      const running = await bed.restored("x", bad, "--verify", "first", "--no-prefetch");
      await bed.until(async () => (await bed.status("x"))?.status === "io-error", "io-error", running);
      const { verifiedPages, totalPages, error } = await restoreOf(bed, "x");
      expect(error?.code).toBe("E_HASH");
      expect(error?.where).toContain(`page ${page} at byte`);
      expect(verifiedPages).toBeLessThan(totalPages);
      // It stays so, whatever is asked of it.
      for (const command of ["resume", "pause"]) await bed.tram(command, "x");
      expect((await bed.status("x"))?.status).toBe("io-error");
      for (const words of [
        ["migrate", "x", "file:m"],
        ["save", "x", "s.tram"],
      ])
        expect((await bed.tram(...words)).code).not.toBe(0);
      expect(await ioError(bed, "x", running)).toBe(3);
    }
  });

  test("does not go any further: a guest that has it is neither saved nor moved", async () => {
    const page = anatomy.present.filter((one) => one >= SET_FIRST + SET_PAGES)[100];
    const bad = flipped(good, bed.path("bad.tram"), placeOf(page) + 8, 1);
    for (const mode of [[], ["--verify", "first"]])
      for (const words of [
        ["migrate", "x", "file:moved"],
        ["save", "x", "saved.tram"],
      ]) {
        const running = await bed.restored("x", bad, "--no-prefetch", ...mode);
        expect((await bed.status("x"))?.status).toBe("running"); // it never comes there by itself
        const { code } = await bed.tram(...words);
        expect({ words, mode, code }).toEqual({ words, mode, code: 3 });
        expect(await ioError(bed, "x", running)).toBe(3);
        expect(running.stderr).toContain(`page ${page} at byte`);
      }
    expect(filesIn(bed.folder)).not.toContain("saved.tram");
  });
});

const whyNoFuse = reason ?? whyNoFaultFs();
describe.skipIf(whyNoFuse !== null)(title("a disk that fails", whyNoFuse), () => {
  const FILE = "vm.tram";
  let disk: FaultFs;
  beforeEach(async () => {
    disk = await FaultFs.mount();
    copyFileSync(good, disk.path(FILE));
  });
  afterEach(async () => {
    await bed.dispose();
    await disk.stop();
  });
  const restored = (...options: string[]) => bed.restored("x", disk.path(FILE), ...options);
  const fail = async (firstPage: number, pages: number) => {
    await disk.eio(FILE, placeOf(firstPage), placeOf(firstPage + pages));
    await disk.drop(FILE);
  };
  const behindSet = SET_FIRST + SET_PAGES + 1000;

  test.each([
    ["read ahead", behindSet, []],
    ["read ahead and not verified", behindSet, ["--verify", "off"]],
    ["read ahead with --verify first", behindSet, ["--verify", "first"]],
    ["read by the guest", SET_FIRST + 700, ["--no-prefetch"]],
    ["read by the guest and not verified", SET_FIRST + 700, ["--no-prefetch", "--verify", "off"]],
    ["read by the guest with --verify first", SET_FIRST + 700, ["--no-prefetch", "--verify", "first"]],
  ])("where it is %s: io-error, and the process answers until it is told to end: exit 3", async (_, page, options) => {
    await fail(page, 64);
    const running = await restored(...options);
    expect(await ioError(bed, "x", running)).toBe(3);
    expect(running.stderr).toMatch(/EIO|cannot reach its memory/);
  });

  test("where it was read, and must be read again: the guest goes on without, and nobody takes it for whole", async () => {
    const running = await restored();
    await bed.until(async () => (await restoreOf(bed, "x")).phase === "done", "all was read", running);
    await fail(behindSet, 64);
    for (const words of [
      ["save", "x", "saved.tram"],
      ["migrate", "x", "file:moved"],
    ]) {
      const result = await bed.tram(...words);
      expect(refusal(result)).toEqual({ code: 3, stderr: expect.stringContaining("cannot be read") });
      expect((await untracked(bed, "x")).status).toBe("running");
    }
    expect(filesIn(bed.folder)).not.toContain("saved.tram");
    await bed.expectDone("pause", "x");
    expect((await bed.tram("check-guest", "x")).code).toBe(3);
  });

  test("under an eager restore: exit 1, and no guest", async () => {
    await fail(behindSet, 1);
    for (const options of [[], ["--direct-io", "on"], ["--verify", "off"]]) {
      const result = await bed.tram("restore", disk.path(FILE), "--name", "x", "--eager", ...options);
      expect(refusal(result)).toEqual({ code: 1, stderr: expect.stringContaining("EIO") });
      expect(bed.leftovers()).toEqual([]);
    }
  });
});

kvm(title("a file that is a guest's memory"), () => {
  let path: string;
  beforeEach(() => {
    path = bed.path("vm.tram");
    copyFileSync(good, path);
  });

  test.each<[what: string, change: (fd: number) => void]>([
    ["cut", (fd) => ftruncateSync(fd, anatomy.pagesOffset)],
    [
      "cut, and as long again",
      (fd) => {
        ftruncateSync(fd, placeOf(600));
        ftruncateSync(fd, anatomy.bytes);
      },
    ],
    ["written to", (fd) => writeSync(fd, new Uint8Array(PAGE).fill(7), 0, PAGE, placeOf(SET_FIRST + SET_PAGES + 900))],
  ])("and is %s by somebody who had it open before: told of at the beginning, and io-error", async (_, change) => {
    for (const options of [[], ["--no-prefetch"]]) {
      copyFileSync(good, path);
      const fd = openSync(path, "r+");
      const running = await bed.restored("x", path, ...options);
      await bed.until(async () => running.stderr.includes("can be changed beneath the guest"), "the note", running);
      expect(await restoreOf(bed, "x")).toMatchObject({ mapped: true, held: false });
      await bed.goesOn("x");
      change(fd);
      closeSync(fd);
      expect(await ioError(bed, "x", running)).toBe(3);
    }
  });

  /** Opens it to write, and waits for as long as that takes. */
  const writer = (script: string) => bed.spawn(["timeout", "20", "bash", "-c", `exec 7<>"${path}"; ${script}`]);

  test.each([
    ["read", []],
    ["not read yet", ["--no-prefetch"]],
  ])("and is %s, is the guest's own before somebody else may write to it", async (_, options) => {
    const running = await bed.restored("x", path, ...options);
    expect(running.stderr).not.toContain("can be changed beneath");
    expect(await restoreOf(bed, "x")).toMatchObject({ mapped: true, held: true });
    await bed.goesOn("x");
    const other = writer(
      `dd if=/dev/zero of="${path}" bs=1M count=33 conv=notrunc status=none; truncate -s 1M "${path}"`,
    );
    expect({ code: await other.code, stderr: other.stderr }).toEqual({ code: 0, stderr: "" });
    expect(await restoreOf(bed, "x")).toMatchObject({ mapped: false, held: false, error: null });
    await bed.goesOn("x");
    await Bun.sleep(600); // it is not watched any more
    await bed.goesOn("x");
    await saved(bed, "x", path, "--after", "resume");
    await untracked(bed, "x");
    await bed.restored("y", path, "--verify", "first");
    await bed.goesOn("y");
    await bed.goesOn("x");
  });

  test("is denied to who does not wait, and given to who asks again", async () => {
    const running = await bed.restored("x", path);
    const before = contentOf(path);
    const open = () => openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    expect(open).toThrow(/EAGAIN|EWOULDBLOCK/);
    expect(contentOf(path)).toBe(before);
    let fd = -1;
    const tryAgain = async () => {
      try {
        fd = open();
        return true;
      } catch {
        return false;
      }
    };
    await bed.until(tryAgain, "it is given", running);
    writeSync(fd, new Uint8Array(anatomy.bytes), 0, anatomy.bytes, 0);
    closeSync(fd);
    expect(await restoreOf(bed, "x")).toMatchObject({ mapped: false, held: false, error: null });
    await bed.goesOn("x");
  });

  test("is the guest's own before somebody else may write to it, also while that is saved and moved", async () => {
    await bed.restored("x", path);
    const save = bed.start(["save", "x", "other.tram", "--after", "resume", "--max-bandwidth", "20M"]);
    await bed.until(async () => (await bed.status("x"))?.tracking === true, "it is saved", save);
    const other = writer(`truncate -s 0 "${path}"`);
    expect(await other.code).toBe(0);
    await bed.expectDone("pause", "x"); // else that never comes to its end
    expect({ code: await save.code, stderr: save.stderr }).toEqual({ code: 0, stderr: expect.any(String) });
    await bed.expectDone("resume", "x");
    await bed.goesOn("x");
    await bed.restored("y", "other.tram", "--verify", "first");
    await bed.expectDone("resume", "y");
    await bed.goesOn("y");
  });

  test("may be replaced, and removed: the guest has it still", async () => {
    await bed.restored("x", path, "--no-prefetch");
    copyFileSync(path, bed.path("other"));
    truncateSync(bed.path("other"), 100);
    await bed.exec(["mv", bed.path("other"), path]);
    await bed.goesOn("x");
    rmSync(path);
    await saved(bed, "x", path, "--after", "resume");
    await bed.restored("y", path);
    await bed.goesOn("x");
    await bed.goesOn("y");
  });
});

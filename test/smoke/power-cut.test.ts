// A file that is being written, on a disk that loses power, fills up or fails: at every point of it there is the older one or the
// new one, whole, and nothing beside it.
import { afterEach, beforeEach, test as bunTest, describe, expect, test } from "bun:test";
import {
  closeSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { Bed, type Result, TRAM, whyNoKvm } from "../support/bed.ts";
import { type Failing, FaultFs, whyNoFaultFs, whyNoNameless } from "../support/faultfs.ts";
import { golden, seeded } from "../support/golden.ts";
import { type Operation, type PowerCuts, powerCuts, readRecording } from "../support/power-cut.ts";

const reason = whyNoFaultFs();
const LIMIT_MS = 60_000;
const FILE = "vm.tram";

interface Command {
  name: string;
  /** It writes `out`, in its current folder; what it reads is found by `input`. */
  argv(out: string, input: (name: string) => string): string[];
  stdin?: string;
  /** What it needs in the bed before it is run. */
  prepare?(): Promise<unknown>;
  /** Each run writes something else: a guest's clock goes on. */
  differs?: boolean;
  /** Why it cannot be run here. */
  whyNot: string | null;
}
/** What writes a file. */
const COMMANDS: Command[] = [
  { name: "tram convert STREAM FILE", argv: (out, input) => ["convert", input("stream"), out], whyNot: null },
  { name: "tram convert MAPPED FILE", argv: (out, input) => ["convert", input("mapped"), out], whyNot: null },
  { name: "tram receive - FILE", argv: (out) => ["receive", "-", out], stdin: "stream", whyNot: null },
  { name: "tram extract MAPPED FILE", argv: (out, input) => ["extract", input("mapped"), out, "--ram"], whyNot: null },
  {
    name: "tram save GUEST FILE",
    argv: (out) => ["save", "a", out, "--after", "resume"],
    prepare: () => bed.walker("a", "--memory", "5M", "--working-set", "1M", "--paused"),
    differs: true,
    whyNot: whyNoKvm(),
  },
];
const WAYS: [way: string, nameless: boolean, whyNot: string | null][] = [
  ["without a name until it is whole", true, reason ?? whyNoNameless()],
  ["beside, under another name, until it is whole", false, reason],
];

/** Longer than most of what takes its place, and nothing like it. */
const OLD = randomBytes(3_000_001);
function randomBytes(count: number): Uint8Array {
  const next = seeded(count);
  return Uint8Array.from({ length: count }, () => next(256));
}

let bed: Bed;
let fs: FaultFs | undefined;
beforeEach(async () => {
  bed = new Bed();
  await Bun.write(bed.path("stream"), golden("qemu-10.2-stream.bin"));
  await Bun.write(bed.path("mapped"), golden("qemu-10.2-mapped.bin"));
});
afterEach(async () => {
  await fs?.stop();
  fs = undefined;
  await bed.dispose();
});

async function mount(nameless: boolean): Promise<FaultFs> {
  fs = await FaultFs.mount({ nameless });
  return fs;
}

/** Runs it with `folder` as its current one. */
const run = ({ argv, stdin }: Command, folder: string): Promise<Result> =>
  bed.exec(["timeout", "-k", "1", "20", TRAM, ...argv(FILE, (name) => bed.path(name))], {
    cwd: folder,
    stdin: stdin ? Bun.file(bed.path(stdin)) : undefined,
  });

/** What it writes where no fault is. */
async function expected(command: Command): Promise<Uint8Array> {
  const { code, stderr } = await run(command, bed.folder);
  if (code !== 0) throw new Error(`exit ${code}: ${stderr}`);
  return readFileSync(bed.path(FILE));
}

const same = (a: Uint8Array, b: Uint8Array | null): boolean => b !== null && Buffer.compare(a, b) === 0;
const judge = (older: Uint8Array | null, newer: Uint8Array) => (content: Uint8Array | null) => {
  if (content === null) return older ? "gone" : "none";
  if (same(newer, content)) return "new";
  return older && same(older, content) ? "old" : `neither: ${content.length} bytes`;
};
/** The verdicts, of which a test that fails shows where each was first. */
const only = (...verdicts: string[]) => Object.fromEntries(verdicts.map((one) => [one, expect.any(String)]));

for (const [way, nameless, whyNot] of WAYS)
  describe.skipIf(whyNot !== null)(`a file that is ${way}${whyNot ? ` (skipped: ${whyNot})` : ""}`, () => {
    describe.each(COMMANDS)("$name", (command) => {
      const { prepare, differs, whyNot } = command;
      const test = bunTest.skipIf(whyNot !== null);
      const title = (text: string) => `${text}${whyNot ? ` (skipped: ${whyNot})` : ""}`;
      beforeEach(async () => {
        if (whyNot === null) await prepare?.();
      });

      async function recorded(disk: FaultFs): Promise<{ operations: Operation[]; newer: Uint8Array }> {
        await disk.record();
        const { code, stderr } = await run(command, disk.folder);
        expect({ code, stderr: code ? stderr : "" }).toEqual({ code: 0, stderr: "" });
        await disk.recordOff();
        const operations = readRecording(disk.recording);
        // That it is this way.
        expect(operations.filter(({ op }) => op === (nameless ? "create" : "tmpfile"))).toEqual([]);
        expect(readdirSync(disk.folder)).toEqual([FILE]);
        const newer = readFileSync(disk.path(FILE));
        if (!differs) expect(same(newer, await expected(command))).toBe(true);
        return { operations, newer };
      }

      test(
        title("takes an older one's place at once when the power goes, and for good when it has exited"),
        async () => {
          const disk = await mount(nameless);
          writeFileSync(disk.path(FILE), OLD);
          const { operations, newer } = await recorded(disk);
          expect(powerCuts(operations, FILE, judge(OLD, newer)).verdicts).toEqual(only("old", "new"));
          const end = { from: operations.length };
          expect(powerCuts(operations, FILE, judge(OLD, newer), end).verdicts).toEqual(only("new"));
        },
        LIMIT_MS,
      );

      test(
        title("is not there or whole when the power goes, and there for good when it has exited"),
        async () => {
          const { operations, newer } = await recorded(await mount(nameless));
          expect(powerCuts(operations, FILE, judge(null, newer)).verdicts).toEqual(only("none", "new"));
          const end = { from: operations.length };
          expect(powerCuts(operations, FILE, judge(null, newer), end).verdicts).toEqual(only("new"));
        },
        LIMIT_MS,
      );

      // With and without a disk that says so when room is asked for before it is written to.
      test.each([false, true])(
        title("fails on a full disk, wherever that is full, and leaves the older one (reserve: %p)"),
        async (reserve) => {
          const disk = await mount(nameless);
          writeFileSync(disk.path(FILE), OLD);
          const { operations } = await recorded(disk);
          const bytes = operations.reduce((sum, one) => sum + (one.op === "write" ? one.data.length : 0), 0);
          writeFileSync(disk.path(FILE), OLD);
          for (let point = 0; point < 10; point++) {
            await disk.enospc(Math.floor((bytes * point) / 10) + point, { reserve });
            const { code, stderr } = await run(command, disk.folder);
            const left = readdirSync(disk.folder);
            expect({ point, code, stderr, left }).toEqual({
              point,
              code: 1,
              // Of a long direct write that is cut short, the kernel's FUSE makes EIO.
              stderr: expect.stringMatching(/ENOSPC|[Nn]o space|pages to the file: EIO/),
              left: [FILE],
            });
            expect(same(OLD, readFileSync(disk.path(FILE)))).toBe(true);
          }
          // One byte too few is too few, and none too few is enough.
          await disk.enospc(bytes - 1, { reserve });
          expect((await run(command, disk.folder)).code).toBe(1);
          await disk.enospc(bytes);
          expect((await run(command, disk.folder)).code).toBe(0);
        },
        LIMIT_MS,
      );

      const steps: Failing[] = nameless
        ? ["create", "write", "fsync", "link", "rename"]
        : ["create", "write", "fsync", "rename"];
      test.each(steps)(
        title("fails on a disk where every %s fails, and leaves the older one"),
        async (step) => {
          const disk = await mount(nameless);
          writeFileSync(disk.path(FILE), OLD);
          await disk.fail(step);
          const { code, stderr } = await run(command, disk.folder);
          const left = readdirSync(disk.folder);
          expect({ code, stderr, left }).toEqual({ code: 1, stderr: expect.stringContaining("EIO"), left: [FILE] });
          expect(same(OLD, readFileSync(disk.path(FILE)))).toBe(true);
        },
        LIMIT_MS,
      );

      test(
        title("is no success on a disk where the folder cannot be synced"),
        async () => {
          const disk = await mount(nameless);
          await disk.fail("fsyncdir");
          const { code, stderr } = await run(command, disk.folder);
          expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("EIO") });
        },
        LIMIT_MS,
      );
    });
  });

describe.skipIf(reason !== null)(`what is written wrongly${reason ? ` (skipped: ${reason})` : ""}`, () => {
  const NEW = randomBytes(2_000_003);

  interface Steps {
    /** Writes a file, in two pieces, without a word about the disk. */
    write(name: string, bytes: Uint8Array): void;
    sync(name: string): void;
    rename(): void;
    syncFolder(): void;
  }
  const TEMPORARY = "temporary";
  const stepsIn = (disk: FaultFs): Steps => {
    const sync = (path: string) => {
      const fd = openSync(path, "r");
      fsyncSync(fd);
      closeSync(fd);
    };
    return {
      write: (name, bytes) => {
        const fd = openSync(disk.path(name), "w");
        for (const half of [bytes.subarray(0, 1_000_000), bytes.subarray(1_000_000)]) writeSync(fd, half);
        closeSync(fd);
      },
      sync: (name) => sync(disk.path(name)),
      rename: () => renameSync(disk.path(TEMPORARY), disk.path(FILE)),
      syncFolder: () => sync(disk.folder),
    };
  };

  async function cuts(steps: (on: Steps) => void): Promise<{ all: PowerCuts; last: PowerCuts }> {
    const disk = await mount(true);
    writeFileSync(disk.path(FILE), OLD);
    await disk.record();
    steps(stepsIn(disk));
    await disk.recordOff();
    expect(same(NEW, readFileSync(disk.path(FILE)))).toBe(true); // without a power cut, all is well
    const operations = readRecording(disk.recording);
    return {
      all: powerCuts(operations, FILE, judge(OLD, NEW)),
      last: powerCuts(operations, FILE, judge(OLD, NEW), { from: operations.length }),
    };
  }
  const found = ({ verdicts }: PowerCuts) => [...new Set(Object.keys(verdicts).map((one) => one.split(":")[0]))].sort();

  test("is told from what is written as it must be", async () => {
    const { all, last } = await cuts(({ write, sync, rename, syncFolder }) => {
      write(TEMPORARY, NEW);
      sync(TEMPORARY);
      rename();
      syncFolder();
    });
    expect([found(all), found(last)]).toEqual([["new", "old"], ["new"]]);
  });

  test("is caught: written and renamed, and never synced", async () => {
    const { all, last } = await cuts(({ write, rename }) => {
      write(TEMPORARY, NEW);
      rename();
    });
    expect([found(all), found(last)]).toEqual([
      ["neither", "new", "old"],
      ["neither", "new", "old"],
    ]);
  });

  test("is caught: written, renamed, and the folder synced, but not the file", async () => {
    const { last } = await cuts(({ write, rename, syncFolder }) => {
      write(TEMPORARY, NEW);
      rename();
      syncFolder();
    });
    expect(found(last)).toEqual(["neither", "new"]);
  });

  test("is caught: synced after it was renamed", async () => {
    const { all, last } = await cuts(({ write, sync, rename, syncFolder }) => {
      write(TEMPORARY, NEW);
      rename();
      sync(FILE);
      syncFolder();
    });
    expect([found(all), found(last)]).toEqual([["neither", "new", "old"], ["new"]]);
  });

  test("is caught: the folder not synced", async () => {
    const { all, last } = await cuts(({ write, sync, rename }) => {
      write(TEMPORARY, NEW);
      sync(TEMPORARY);
      rename();
    });
    expect([found(all), found(last)]).toEqual([
      ["new", "old"],
      ["new", "old"],
    ]);
  });

  test("is caught: written in place", async () => {
    const { all, last } = await cuts(({ write, sync }) => {
      write(FILE, NEW);
      sync(FILE);
    });
    expect([found(all), found(last)]).toEqual([["neither", "new", "old"], ["new"]]);
  });

  test("is caught: the older one removed first", async () => {
    const disk = await mount(true);
    writeFileSync(disk.path(FILE), OLD);
    await disk.record();
    const { write, sync, rename, syncFolder } = stepsIn(disk);
    write(TEMPORARY, NEW);
    sync(TEMPORARY);
    unlinkSync(disk.path(FILE));
    rename();
    syncFolder();
    await disk.recordOff();
    expect(found(powerCuts(readRecording(disk.recording), FILE, judge(OLD, NEW)))).toEqual(["gone", "new", "old"]);
  });
});

describe("power cuts", () => {
  const PAGE = 4096;
  const write = (offset: number, data: Uint8Array): Operation => ({ op: "write", file: 1, offset, data });
  const fill = (bytes: number, value: number) => new Uint8Array(bytes).fill(value);
  /** What may be in a file of ten bytes 1, after this was done to it and nothing more. */
  const mayBe = (...operations: Operation[]): string[] => {
    const all: Operation[] = [{ op: "exists", name: FILE, file: 1, data: fill(10, 1) }, ...operations];
    const shown = (content: Uint8Array | null) => (content ? [...content].join("") : "none");
    return Object.keys(powerCuts(all, FILE, shown, { from: all.length }).verdicts).sort();
  };

  test("keep, of what was not synced, the bytes, the size, both or nothing", () => {
    expect(mayBe()).toEqual(["1111111111"]);
    expect(mayBe(write(2, fill(3, 2)))).toEqual(["1111111111", "1122211111"]);
    expect(mayBe(write(8, fill(4, 2)))).toContainValues(["1111111111", "111111112222", "111111111100"]);
    expect(mayBe({ op: "truncate", file: 1, size: 4 })).toContainValues(["1111111111", "1111"]);
    expect(mayBe(write(0, fill(1, 2)), write(1, fill(1, 3)))).toContainValues(["1111111111", "2111111111", "1311111111", "2311111111"]); // biome-ignore format: one line
  });

  test("keep what was synced, and no more", () => {
    const punched: Operation = { op: "allocate", file: 1, mode: 3, offset: 1, length: 3 };
    const zeroed: Operation = { op: "allocate", file: 1, mode: 16, offset: 8, length: 4 };
    const longer: Operation = { op: "allocate", file: 1, mode: 0, offset: 5, length: 7 };
    const reserved: Operation = { op: "allocate", file: 1, mode: 1, offset: 5, length: 7 };
    const synced: Operation = { op: "fdatasync", file: 1 };
    const shorter: Operation = { op: "truncate", file: 1, size: 2 };
    expect(mayBe(write(2, fill(3, 2)), synced)).toEqual(["1122211111"]);
    expect(mayBe(punched, synced)).toEqual(["1000111111"]);
    expect(mayBe(zeroed, synced)).toEqual(["111111110000"]);
    expect(mayBe(longer, synced)).toEqual(["111111111100"]);
    expect(mayBe(reserved, synced)).toEqual(["1111111111"]);
    expect(mayBe(shorter, write(4, fill(1, 2)), synced)).toEqual(["11002"]);
    expect(mayBe(shorter, synced, write(0, fill(1, 2)))).toEqual(["11", "21"]);
  });

  test("keep the first so many changes of names, whatever the files have", () => {
    const created: Operation = { op: "create", name: "b", file: 2 };
    const other: Operation = { op: "write", file: 2, offset: 0, data: fill(2, 2) };
    const synced: Operation = { op: "fsync", file: 2 };
    const renamed: Operation = { op: "rename", from: "b", to: FILE };
    expect(mayBe(created, other, synced)).toEqual(["1111111111"]);
    expect(mayBe(created, other, synced, renamed)).toEqual(["1111111111", "22"]);
    expect(mayBe(created, other, synced, renamed, { op: "fsyncdir" })).toEqual(["22"]);
    expect(mayBe(created, other, renamed, { op: "fsyncdir" })).toEqual(["", "00", "22"]);
    expect(mayBe({ op: "unlink", name: FILE }, { op: "link", file: 1, name: FILE })).toEqual(["1111111111", "none"]);
  });

  test(
    "are thought through for a file of 16 MiB that is written in 512 pieces",
    () => {
      const pieces = 512;
      const bytes = randomBytes(16 << 20);
      const operations: Operation[] = [
        { op: "exists", name: FILE, file: 1, data: OLD },
        ...Array.from({ length: pieces }, (_, i) => {
          const at = i * 8 * PAGE;
          return write(at, bytes.subarray(at, at + 8 * PAGE));
        }),
      ];
      const { states, verdicts } = powerCuts(operations, FILE, judge(OLD, bytes));
      expect(states).toBe(1 + pieces * 6);
      expect(Object.keys(verdicts)).toContainValues(["old", "new"]);
    },
    LIMIT_MS,
  );
});

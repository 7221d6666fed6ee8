// Snapshots of real guests in every combination: running or paused, one thread or four, through the page cache or past it, under a
// name, in a descriptor, inside another file, on each file system.
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { SaveReport } from "../../src/cli/events.ts";
import { Bed, type Running, TRAM, whyNoKvm } from "../support/bed.ts";
import { opensDirectly, Place, whyNoLoop, whyNoTmpfs } from "../support/places.ts";
import { allocatedBytes, allocatedMax, filesIn, lastEvent, untracked } from "../support/snapshots.ts";

const RAM_BYTES = 64 << 20;
const WALKER = ["--memory", "64M", "--working-set", "24M", "--dirty-rate", "max"];

const PLACES: [name: string, whyNot: () => string | null, make: () => Place | null][] = [
  ["the work folder", () => null, () => null],
  ["XFS", () => whyNoLoop("xfs"), () => Place.loop("xfs", { bytes: 640 << 20 })],
  ["tmpfs", whyNoTmpfs, () => Place.tmpfs()],
];
const WAYS = ["path", "fd", "offset"] as const;
const MODES = ["lazy", "first", "eager"] as const;

interface Cell {
  state: "running" | "paused";
  channels: number;
  direct: "on" | "off";
  way: (typeof WAYS)[number];
  mode: (typeof MODES)[number];
  /** Of the guest that is restored: one that stays does not take the others' name. */
  clone: string;
}
/** Each way of restoring comes with each of the others' values. */
const CELLS: Cell[] = (["running", "paused"] as const).flatMap((state, s) =>
  [1, 4].flatMap((channels, c) =>
    (["off", "on"] as const).flatMap((direct, d) =>
      WAYS.map((way, w) => {
        const mode = MODES[(s + c + d + w) % MODES.length];
        return { state, channels, direct, way, mode, clone: `b${s}${c}${d}${w}` };
      }),
    ),
  ),
);

/** No multiple of anything; what stands before it in the file stays. */
const OFFSET = 1_234_567;
const BEFORE = new Uint8Array(OFFSET).map((_, i) => i % 251);

/** The shell's words for the file that is saved to, and restored from. */
const WORDS: Record<Cell["way"], (path: string) => { to: string; from: string }> = {
  path: (path) => ({ to: path, from: path }),
  fd: (path) => ({ to: `- >${path}`, from: `fd:7 7<${path}` }),
  offset: (path) => ({ to: `file:${path},offset=${OFFSET}`, from: `file:${path},offset=${OFFSET}` }),
};

const reason = whyNoKvm();

describe.each(PLACES)("a snapshot on %s", (name, whyNotHere, make) => {
  const whyNot = reason ?? whyNotHere();
  describe.skipIf(whyNot !== null)(`${name}${whyNot ? ` (skipped: ${whyNot})` : ""}`, () => {
    let bed: Bed;
    let place: Place | null = null;
    let folder: string;
    beforeAll(async () => {
      bed = new Bed();
      place = make();
      folder = place?.folder ?? bed.path("files");
      if (!place) mkdirSync(folder);
      await bed.walker("a", ...WALKER);
    });
    afterAll(async () => {
      await bed?.dispose();
      place?.remove();
    });

    const restore = async (from: string, { state, mode, channels, direct, clone: name }: Cell): Promise<Running> => {
      const options = {
        lazy: "",
        first: "--verify first",
        eager: `--eager --channels ${channels} --direct-io ${direct}`,
      };
      const line = `exec ${TRAM} restore ${options[mode]} --name ${name} ${from}`;
      const clone = bed.spawn(["bash", "-c", line]);
      await bed.until(async () => (await bed.status(name))?.status === state, `${name} is ${state}`, clone);
      return clone;
    };

    test.each(CELLS)(
      "of a $state guest, $channels channels, direct $direct, by $way, restored $mode: every page, and it goes on",
      async (cell) => {
        const { state, channels, direct, way, clone: name } = cell;
        if (direct === "on" && !opensDirectly(folder)) return expectRefusal(bed, folder);
        const path = join(folder, "vm.tram");
        const { to, from } = WORDS[way](path);
        if (way === "offset") writeFileSync(path, BEFORE);
        await bed.expectDone(state === "running" ? "resume" : "pause", "a");
        const line = `${TRAM} save a --after resume --channels ${channels} --direct-io ${direct} --json=report ${to}`;
        const { code, stderr } = await bed.exec(["bash", "-c", line]);
        expect({ code, stderr: code ? stderr : "" }).toEqual({ code: 0, stderr: "" });
        const report = lastEvent(readFileSync(bed.path("report"), "utf8"));
        expectSaved(report, cell);
        const allowed = allocatedMax(RAM_BYTES) + (way === "offset" ? BEFORE.length : 0);
        expect(allocatedBytes(path)).toBeLessThanOrEqual(allowed);
        expect(filesIn(folder)).toEqual(["vm.tram"]);
        if (way === "offset") expect(Buffer.compare(BEFORE, readFileSync(path).subarray(0, BEFORE.length))).toBe(0);
        expect((await untracked(bed, "a")).status).toBe(state);
        await bed.expectDone("pause", "a"); // while the other one is looked at

        const clone = await restore(from, cell);
        if (state === "paused") {
          await bed.verify(name);
          await bed.expectDone("resume", name);
        }
        await bed.goesOn(name);
        await bed.expectDone("quit", name);
        expect(await clone.code).toBe(0);
      },
    );

    test("was of a guest that all this has done nothing to", async () => {
      await bed.expectDone("resume", "a");
      await bed.goesOn("a");
      expect(bed.leftovers()).toEqual(["a.qmp"]);
    });
  });
});

function expectSaved(report: SaveReport, { state, channels, direct }: Cell): void {
  expect(report).toMatchObject({ outcome: "completed", owner: "source", directFallback: null });
  expect(report.channels).toHaveLength(channels);
  expect(report.directBytes).toBe(direct === "on" ? report.bytes : 0);
  // The premises: a running guest did write to pages that had been written already, a paused one did not.
  if (state === "running") expect(report.resentPages).toBeGreaterThan(0);
  else expect(report.resentPages).toBe(0);
}

/** Where nothing goes past the page cache: refused when it must, told when it need not. */
async function expectRefusal(bed: Bed, folder: string): Promise<void> {
  const path = join(folder, "direct.tram");
  const refused = await bed.tram("save", "a", path, "--direct-io", "on");
  expect(refused).toMatchObject({ code: 7, stderr: expect.stringContaining("--direct-io on") });
  expect(filesIn(folder)).not.toContain("direct.tram");
  const { code, stderr } = await bed.tram("save", "a", path, "--direct-io", "auto", "--after", "resume");
  expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("pages go through the page cache") });
}

// ext4 that has its data in its journal opens files for direct I/O, and tells whoever asks that there is none.
const whyNoJournal = reason ?? whyNoLoop("ext4");
describe.skipIf(whyNoJournal !== null)(
  `a file system without direct I/O${whyNoJournal ? ` (skipped: ${whyNoJournal})` : ""}`,
  () => {
    test("is told of, and with --direct-io on refused before the guest is touched", async () => {
      const bed = new Bed();
      const place = Place.loop("ext4", { bytes: 256 << 20, options: ["data=journal"] });
      try {
        await bed.walker("a", ...WALKER);
        const path = join(place.folder, "vm.tram");
        const refused = await bed.tram("save", "a", path, "--direct-io", "on", "--json");
        expect({ ...refused, stdout: lastEvent<{ owner: string }>(refused.stdout).owner }).toEqual({
          code: 7,
          stdout: "source",
          stderr: expect.stringContaining("its file system has no direct I/O"),
        });
        expect(filesIn(place.folder)).toEqual([]);
        const move = await bed.tram("status", "a", "--json");
        expect(JSON.parse(move.stdout)).toMatchObject({ status: "running", tracking: false });

        const { code, stdout, stderr } = await bed.tram("save", "a", path, "--after", "resume", "--json");
        expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining("through the page cache") });
        expect(lastEvent(stdout)).toMatchObject({
          directBytes: 0,
          directFallback: expect.stringContaining("no direct"),
        });

        const eager = await bed.tram("restore", path, "--name", "b", "--eager", "--direct-io", "on");
        expect({ code: eager.code, stderr: eager.stderr }).toEqual({
          code: 7,
          stderr: expect.stringContaining("its file system has no direct I/O"),
        });
        const clone = await bed.restored("b", path, "--eager");
        expect(clone.stderr).toContain("pages came through the page cache");
        await bed.goesOn("b");
        await bed.goesOn("a");
      } finally {
        await bed.dispose();
        place.remove();
      }
    });
  },
);

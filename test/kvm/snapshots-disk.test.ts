// What a snapshot costs its disk: holes where nothing is, and no more system calls than its pages have runs.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { Bed, TRAM, whyNoKvm } from "../support/bed.ts";
import { Place, whyNoLoop, whyNoTmpfs } from "../support/places.ts";
import { type Anatomy, anatomyOf, dataOf, PAGE, saved } from "../support/snapshots.ts";

const reason = whyNoKvm();
const title = (text: string, whyNot = reason) => `${text}${whyNot ? ` (skipped: ${whyNot})` : ""}`;

/** Behind the walker's own 2 MiB and its working set. */
const SET_END = (2 + 8) * 256;

let bed: Bed;
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

const PLACES: [name: string, whyNot: string | null, make: () => Place | null][] = [
  ["the work folder", reason, () => null],
  ["ext4", reason ?? whyNoLoop("ext4"), () => Place.loop("ext4", { bytes: 256 << 20 })],
  ["XFS", reason ?? whyNoLoop("xfs"), () => Place.loop("xfs")],
  ["tmpfs", reason ?? whyNoTmpfs(), () => Place.tmpfs()],
];

describe.each(PLACES)("a snapshot on %s", (name, whyNot, make) => {
  test.skipIf(whyNot !== null)(
    title(`has holes where memory is zero, but for short gaps, and nowhere else (${name})`, whyNot),
    async () => {
      const place = make();
      try {
        const folder = place?.folder ?? bed.path("files");
        if (!place) mkdirSync(folder);
        if (statfsSync(folder).bsize !== PAGE) return; // its smallest hole is not a page
        const walker = ["--memory", "48M", "--working-set", "8M", "--dirty-rate", "max"];
        await bed.walker("zero", ...walker, "--fill", "zero");
        // Behind the working set, of four pages one is zero: a gap that is not worth a hole.
        await bed.walker("mixed", ...walker, "--fill", "mixed");
        for (const [guest, ...options] of [
          ["zero", "--direct-io", "off"],
          ["zero", "--direct-io", "auto", "--channels", "4"],
          ["zero", "--direct-io", "off", "--reserve"],
          ["mixed", "--direct-io", "auto", "--channels", "4"],
        ]) {
          const path = join(folder, "vm.tram");
          const report = await saved(bed, guest, path, "--after", "resume", ...options);
          expect(report.resentPages).toBeGreaterThan(0);
          const ranges = dataOf(path); // before it is read: where room is reserved, what was read counts as data
          const { pages, pagesOffset, bitmap, present, has } = anatomyOf(path);
          expect(present).toHaveLength(report.blocks[0].present);
          const behind = present.filter((page) => page >= SET_END).length;
          if (guest === "zero") expect(behind).toBe(0);
          else expect(behind).toBeGreaterThan((pages - SET_END) * 0.99);
          const isData = new Uint8Array(pages);
          const before: number[] = [];
          for (const { from, to } of ranges) {
            if (from < pagesOffset) before.push(to);
            for (let at = Math.max(from, pagesOffset); at < Math.min(to, pagesOffset + pages * PAGE); at += PAGE)
              isData[(at - pagesOffset) / PAGE] = 1;
          }
          const wrong = [...isData.keys()].filter((page) => (isData[page] === 1) !== has(page));
          expect({ guest, options, wrong: wrong.slice(0, 5) }).toEqual({ guest, options, wrong: [] });
          expect(Math.max(...before)).toBeLessThanOrEqual(Math.ceil(bitmap.to / PAGE) * PAGE);
        }
      } finally {
        await bed.dispose();
        place?.remove();
      }
    },
  );
});

function findWhyNoStrace(): string | null {
  if (!Bun.which("strace")) return "no strace: package strace";
  const { exitCode, stderr } = Bun.spawnSync(["strace", "-qq", "-o", "/dev/null", "true"], { stderr: "pipe" });
  return exitCode === 0 ? null : `strace cannot trace: ${stderr.toString().trim().split("\n")[0]}`;
}
const whyNoStrace = reason ?? findWhyNoStrace();

describe.skipIf(whyNoStrace !== null)(title("in system calls", whyNoStrace), () => {
  const RUN_BYTES_MAX = 16 << 20;
  /** For headers, bitmap, seal and what is told of the file. */
  const BESIDE_MAX = 64;
  const traced = (calls: string) => ["strace", "-f", "-qq", "-y", "-e", `trace=${calls}`, "-o", bed.path("calls")];

  /** Calls on files in this folder, also on those that have no name yet. */
  function callsIn(folder: string): number {
    const lines = readFileSync(bed.path("calls"), "utf8").split("\n");
    return lines.filter((line) => / p(read|write)(64|v|v2)\(\d+</.test(line) && line.includes(`<${folder}/`)).length;
  }
  const limitOf = ({ runs, present }: Anatomy) =>
    runs + Math.ceil((present.length * PAGE) / RUN_BYTES_MAX) + BESIDE_MAX;

  const FILLS: [fill: string, what: string][] = [
    ["mixed", "short gaps"],
    ["random", "none"],
  ];
  test.each(FILLS)("fill %s, %s: a save writes each once, an eager restore reads each once", async (fill) => {
    const folder = bed.path("files");
    mkdirSync(folder);
    const path = join(folder, "vm.tram");
    const walker = [
      "run",
      "--guest",
      "walker",
      "--name",
      "a",
      "--memory",
      "48M",
      "--working-set",
      "8M",
      "--fill",
      fill,
    ];
    await bed.appeared("a", bed.spawn([...traced("pwrite64,pwritev,pwritev2"), TRAM, ...walker, "--paused"]));
    const report = await saved(bed, "a", path, "--channels", "4");
    const anatomy = anatomyOf(path);
    expect(report.rounds).toBeLessThanOrEqual(2);
    expect(anatomy.present.length).toBe(report.receivedPages);
    // Where every fourth page is zero, too: thousands of runs, but for the gaps that are closed.
    expect(anatomy.runs).toBeLessThan(64);
    await bed.until(async () => bed.leftovers().length === 0, "the guest is gone");
    const writes = callsIn(folder);
    expect(writes).toBeGreaterThanOrEqual(anatomy.runs);
    expect(writes).toBeLessThanOrEqual(limitOf(anatomy));

    for (const direct of ["on", "off"]) {
      const options = ["--name", "b", "--eager", "--channels", "4", "--direct-io", direct];
      const running = bed.spawn([...traced("pread64,preadv,preadv2"), TRAM, "restore", path, ...options]);
      await bed.appeared("b", running);
      await bed.expectDone("quit", "b");
      expect(await running.code).toBe(0);
      const reads = callsIn(folder);
      expect(reads).toBeGreaterThanOrEqual(anatomy.runs);
      expect(reads).toBeLessThanOrEqual(limitOf(anatomy));
    }
  });
});

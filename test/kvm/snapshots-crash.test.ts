// Saves that do not come to their end: whatever happens, and whenever, there is the older snapshot or the new one, whole, nothing
// beside it, and a guest that lives goes on as it was.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { worstCaseBytes } from "../../src/writer/snapshot.ts";
import { Bed, openFds, type Running, TRAM, whyNoKvm } from "../support/bed.ts";
import { FaultFs, hasNameless, whyNoFaultFs } from "../support/faultfs.ts";
import { Place, whyNoLoop } from "../support/places.ts";
import { allocatedBytes, contentOf, filesIn, lastEvent, refusal, saved, untracked } from "../support/snapshots.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string, whyNot = reason) => `${text}${whyNot ? ` (skipped: ${whyNot})` : ""}`;

const RAM_BYTES = 32 << 20;
const WALKER = ["--memory", "32M", "--working-set", "8M", "--dirty-rate", "max"];
const FILE = "vm.tram";

let bed: Bed;
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

/** Where files are saved to. `nameless`: what is left behind has no name, and so is nowhere. */
interface Site {
  folder: string;
  nameless: boolean;
  remove(): Promise<void>;
}
const whyNoFuse = reason ?? whyNoFaultFs();
const SITES: [name: string, points: number, whyNot: string | null, make: () => Promise<Site>][] = [
  [
    "the work folder",
    15,
    reason,
    async () => {
      const folder = bed.path("files");
      mkdirSync(folder);
      return { folder, nameless: hasNameless(folder), remove: async () => undefined };
    },
  ],
  [
    "a file system without nameless files",
    6,
    whyNoFuse,
    async () => {
      const disk = await FaultFs.mount({ nameless: false });
      return { folder: disk.folder, nameless: false, remove: () => disk.stop() };
    },
  ],
];

describe.each(SITES)("a save that is killed, on %s", (name, points, whyNot, make) => {
  describe.skipIf(whyNot !== null)(title(`(${name})`, whyNot), () => {
    let site: Site;
    let path: string;
    beforeEach(async () => {
      site = await make();
      path = join(site.folder, FILE);
    });
    afterEach(async () => {
      await bed.dispose(); // whoever has the file open
      await site.remove();
    });

    /** A save that has begun: the first line that it says is that. */
    async function begin(): Promise<Running> {
      const save = bed.start(["save", "a", path, "--after", "resume", "--channels", "2", "--max-bandwidth", "80M"]);
      await bed.until(async () => save.stderr.includes("at most"), "a save begins", save);
      return save;
    }
    /** From that line to its end. */
    async function measure(): Promise<number> {
      const save = await begin();
      const startedMs = performance.now();
      expect(await save.code).toBe(0);
      return performance.now() - startedMs;
    }
    const at = (point: number, lengthMs: number) => Bun.sleep((lengthMs * point) / points);
    /** Where files have names before they are whole, one may stay until the next save; how many did. */
    function leftBeside(): number {
      const beside = filesIn(site.folder).filter((one) => one !== FILE);
      expect(beside.filter((one) => site.nameless || !one.startsWith(`.${FILE}.tram-`))).toEqual([]);
      expect(beside.length).toBeLessThanOrEqual(1);
      return beside.length;
    }

    test(`with the command that drives it, at ${points} points`, async () => {
      const guest = await bed.walker("a", ...WALKER);
      const lengthMs = await measure();
      await untracked(bed, "a");
      await Bun.sleep(100); // the sockets of the commands above are closed by then
      const before = openFds(guest.pid);
      let older = contentOf(path);
      let cut = 0;
      let left = 0;
      for (let point = 0; point < points; point++) {
        const save = await begin();
        await at(point, lengthMs);
        save.kill("SIGKILL");
        await save.code;
        expect((await untracked(bed, "a")).status).toBe("running");
        left += leftBeside();
        if (contentOf(path) === older) cut++;
        else await bed.expectDone("verify", path); // it had its name already
        older = contentOf(path);
      }
      // The premises: they came in the middle (others may make the machine faster or slower meanwhile), and something stayed.
      expect(cut).toBeGreaterThan(points / 3);
      expect(left > 0).toBe(!site.nameless);
      await bed.until(async () => openFds(guest.pid).join() === before.join(), "descriptors as before");
      await bed.goesOn("a");
      await saved(bed, "a", path, "--after", "resume");
      expect(filesIn(site.folder)).toEqual([FILE]);
      await bed.restored("b", path, "--eager");
      await bed.goesOn("b");
    });

    test(`with the guest's process, at ${points} points`, async () => {
      await bed.walker("a", ...WALKER);
      const lengthMs = await measure();
      await bed.expectDone("quit", "a");
      let older = contentOf(path);
      let cut = 0;
      for (let point = 0; point < points; point++) {
        // Out of the snapshot that is there, which so proves to be one.
        const guest = await bed.restored("a", path, "--verify", "first");
        const save = await begin();
        await at(point, lengthMs);
        guest.kill("SIGKILL");
        await guest.code;
        const code = await save.code;
        expect(filesIn(site.folder)).toEqual([FILE]); // whoever drives it lives, and tidies up
        const isOlder = contentOf(path) === older;
        if (isOlder) cut++;
        // 4: the file is whole and has its name, but nobody says what became of the guest.
        if (!(isOlder ? [1] : [0, 4]).includes(code)) throw new Error(`point ${point}: exit ${code}: ${save.stderr}`);
        older = contentOf(path);
      }
      expect(cut).toBeGreaterThan(points / 3);
      await bed.restored("a", path, "--eager");
      await bed.goesOn("a");
      await saved(bed, "a", path, "--after", "resume");
      expect(filesIn(site.folder)).toEqual([FILE]);
    });
  });
});

const whyNoSmallDisk = reason ?? whyNoLoop("ext4");
describe.skipIf(whyNoSmallDisk !== null)(title("a disk that is full", whyNoSmallDisk), () => {
  const worst = worstCaseBytes(RAM_BYTES, 0);
  let place: Place;
  let path: string;
  beforeEach(async () => {
    place = Place.loop("ext4", { bytes: 128 << 20 });
    path = join(place.folder, FILE);
    await bed.walker("a", ...WALKER, "--fill", "random");
  });
  afterEach(async () => {
    await bed.dispose();
    place.remove();
  });

  async function expectAsBefore(older: string): Promise<void> {
    expect(contentOf(path)).toBe(older);
    expect(filesIn(place.folder)).toEqual([FILE]);
    expect((await untracked(bed, "a")).status).toBe("running");
  }

  test("at ten points, with --overcommit: exit 1, the older one stays, and the guest goes on", async () => {
    await saved(bed, "a", path, "--after", "resume");
    const older = contentOf(path);
    const ways = ["auto", "on", "off"];
    for (let point = 0; point < 10; point++) {
      place.leaveFree((allocatedBytes(path) * (point + 0.5)) / 10);
      const options = ["--overcommit", "--direct-io", ways[point % 3], "--json"];
      const { code, stdout, stderr } = await bed.tram("save", "a", path, ...options);
      expect({ point, code, stderr }).toEqual({ point, code: 1, stderr: expect.stringMatching(/ENOSPC|[Nn]o space/) });
      expect(lastEvent(stdout)).toMatchObject({ outcome: "failed", owner: "source" });
      await expectAsBefore(older);
    }
    await bed.goesOn("a");
    place.leaveFree(worst + (2 << 20));
    await saved(bed, "a", path, "--after", "resume");
    await bed.restored("b", path, "--verify", "first");
    await bed.goesOn("b");
  });

  test("refuses without --overcommit before anything has begun, and keeps its word where it does not", async () => {
    await saved(bed, "a", path, "--after", "resume");
    const older = contentOf(path);
    place.leaveFree(worst - (1 << 20));
    const { code, stdout, stderr } = await bed.tram("save", "a", path, "--json");
    expect({ code, stderr }).toEqual({ code: 7, stderr: expect.stringContaining("the file may not fit its disk") });
    expect(stderr).toMatch(/expected: 3\d\.\d MiB free/);
    expect(stderr).toMatch(/found: 3\d\.\d MiB, while the file that is there is kept/);
    expect(lastEvent(stdout)).toMatchObject({ outcome: "failed", owner: "source", error: { code: "E_REFUSED" } });
    await expectAsBefore(older);
    // However long it takes: each page is written several times.
    place.leaveFree(worst + (1 << 20));
    const limits = ["--max-bandwidth", "60M", "--max-downtime", "20ms"];
    const save = bed.start(["save", "a", path, "--after", "resume", "--json=report", ...limits]);
    const rounds = () => (existsSync(bed.path("report")) ? readFileSync(bed.path("report"), "utf8") : "");
    await bed.until(async () => save.hasEnded || rounds().includes('"round":5,'), "five rounds");
    if (!save.hasEnded) await bed.expectDone("pause", "a");
    expect({ code: await save.code, stderr: save.stderr }).toEqual({
      code: 0,
      stderr: expect.stringContaining("saved, and on disk"),
    });
    expect(contentOf(path)).not.toBe(older);
  });

  test("fails at once with --reserve, and not when most is done", async () => {
    await saved(bed, "a", path, "--after", "resume");
    const older = contentOf(path);
    place.leaveFree(RAM_BYTES / 2);
    const { code, stdout, stderr } = await bed.tram("save", "a", path, "--reserve", "--overcommit", "--json");
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("cannot reserve") });
    expect(lastEvent(stdout)).toMatchObject({ outcome: "failed", owner: "source", rounds: 0, receivedPages: 0 });
    await expectAsBefore(older);
    await bed.goesOn("a");
  });
});

kvm(title("a file that cannot be written"), () => {
  let shared: Bed;
  beforeAll(async () => {
    shared = new Bed();
    mkdirSync(shared.path("folder"));
    symlinkSync("nowhere", shared.path("link"));
    await shared.exec(["mkfifo", shared.path("pipe")]);
    await Bun.write(shared.path("plain"), "as it was");
    await shared.walker("a", ...WALKER);
  });
  afterAll(() => shared?.dispose());

  test.each<[what: string, words: string, code: number, says: string]>([
    ["a path without a parent", "nowhere/vm.tram", 1, "check that the folder exists"],
    ["a place behind a path without a parent", "file:nowhere/vm.tram,offset=4096", 1, "check that the folder exists"],
    ["a path through a file", "plain/vm.tram", 1, "cannot write plain/vm.tram"],
    ["a link to nothing", "link", 1, "symbolic link to nothing"],
    ["a device", "/dev/null", 2, "found: a device"],
    ["a folder", "folder", 2, "found: a folder"],
    ["a pipe with a name", "pipe", 2, "found: a pipe"],
    ["a pipe", "- | cat", 2, "found: a pipe"],
    ["a descriptor that appends", "- >>plain", 2, "use > instead of >>"],
    ["a descriptor that only reads", "fd:7 7<plain", 2, "opened for reading only"],
    ["a descriptor that is not open", "fd:7", 2, "is not open"],
    ["at an offset that no file has", "file:plain,offset=9007199254740991", 1, "cannot be 9007199254740991 bytes long"],
    ["by more threads than there can be", "other --channels 65", 2, "--channels"],
    ["by no thread", "other --channels 0", 2, "--channels"],
  ])("because it is %s: refused, and the guest goes on", async (_, words, code, says) => {
    const before = filesIn(shared.folder);
    const result = await shared.exec(["timeout", "20", "bash", "-c", `set -o pipefail; ${TRAM} save a ${words}`]);
    expect(refusal(result)).toEqual({ code, stderr: expect.stringContaining(says) });
    expect(result.stderr).not.toContain("defect");
    expect(readFileSync(shared.path("plain"), "utf8")).toBe("as it was");
    expect(filesIn(shared.folder)).toEqual(before);
    expect((await untracked(shared, "a")).status).toBe("running");
  });

  test("because its folder is read only: exit 1, and the guest goes on", async () => {
    const isRoot = process.getuid?.() === 0;
    const whyNot = isRoot ? whyNoLoop("ext4") : null;
    if (whyNot) return; // nothing is read only to root
    const place = isRoot ? Place.loop("ext4") : null;
    try {
      await bed.walker("a", ...WALKER);
      const folder = place?.folder ?? bed.path("folder");
      mkdirSync(folder, { recursive: true });
      if (place) place.makeReadOnly();
      else chmodSync(folder, 0o500);
      const result = await bed.tram("save", "a", join(folder, FILE), "--overcommit");
      expect(refusal(result)).toEqual({ code: 1, stderr: expect.stringContaining("check that the folder exists") });
      expect((await untracked(bed, "a")).status).toBe("running");
    } finally {
      place?.remove();
    }
  });

  test("because a guest has it as its memory: refused, and both go on", async () => {
    await bed.walker("a", ...WALKER);
    await saved(bed, "a", FILE, "--after", "resume");
    const older = contentOf(bed.path(FILE));
    await bed.restored("b", FILE);
    for (const words of [`file:${FILE},offset=0`, `file:${FILE},offset=1M`, `fd:7 7<>${FILE}`]) {
      const result = await bed.exec(["timeout", "20", "bash", "-c", `${TRAM} save a ${words}`]);
      expect(refusal(result)).toEqual({ code: 7, stderr: expect.stringContaining("is in use") });
    }
    expect(contentOf(bed.path(FILE))).toBe(older);
    await bed.goesOn("a");
    await bed.goesOn("b");
  });
});

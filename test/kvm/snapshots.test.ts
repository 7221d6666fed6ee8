// Snapshots of real guests: saved while they run, brought back in each way, saved again and moved on; and how much of disk and
// memory that takes.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { worstCaseBytes } from "../../src/writer/snapshot.ts";
import { Bed, openFds, residentKib, TRAM, threads, whyNoKvm } from "../support/bed.ts";
import { Qmp } from "../support/qmp.ts";
import {
  allocatedBytes,
  allocatedMax,
  contentOf,
  filesIn,
  lastEvent,
  refusal,
  restoreOf,
  saved,
  untracked,
} from "../support/snapshots.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

const SMALL = ["--memory", "64M", "--working-set", "24M", "--dirty-rate", "max"];
const MODES: Record<string, string[]> = {
  lazily: [],
  "with --verify first": ["--verify", "first"],
  eagerly: ["--eager", "--channels", "4"],
};

let bed: Bed;
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

/** Snapshots and what is beside them in the bed's folder. */
const kept = () => filesIn(bed.folder).filter((name) => name.includes("tram") && name !== "tram");

kvm(title("a snapshot of a guest that writes as fast as it can"), () => {
  test.each(Object.entries(MODES))(
    "brought back %s, is the guest: it goes on, and replaces the file that it came from",
    async (_, mode) => {
      const source = await bed.walker("a", ...SMALL, "--cpus", "2");
      const report = await saved(bed, "a", "vm.tram");
      expect(report).toMatchObject({ outcome: "completed", owner: "file", blocks: [{ bytes: 64 << 20, untold: 0 }] });
      expect(report.resentPages).toBeGreaterThan(0);
      expect(await source.code).toBe(0);
      expect(kept()).toEqual(["vm.tram"]);
      expect(statSync(bed.path("vm.tram")).mode & 0o777).toBe(0o600);

      await bed.restored("a", "vm.tram", ...mode, ...(mode.includes("--eager") ? [] : ["--no-prefetch"]));
      const old = statSync(bed.path("vm.tram")).ino;
      const again = await saved(bed, "a", "vm.tram", "--after", "resume"); // which waits until all of it is here
      expect(again.resentPages).toBeGreaterThan(0);
      expect(statSync(bed.path("vm.tram")).ino).not.toBe(old);
      expect(kept()).toEqual(["vm.tram"]);
      await untracked(bed, "a");
      expect((await bed.verify("a")).cpus).toHaveLength(2);
      await bed.goesOn("a"); // it still has the file that is gone
      await bed.restored("b", "vm.tram", ...mode);
      await bed.goesOn("b");
      for (const name of ["a", "b"]) expect((await bed.status(name))?.restore?.error ?? null).toBeNull();
    },
  );

  test("takes no more of the disk in many rounds than in one", async () => {
    // More than the channel carries is written again in each round.
    await bed.walker("a", "--memory", "32M", "--working-set", "4M", "--dirty-rate", "max", "--fill", "random");
    const limits = ["--max-bandwidth", "30M", "--max-downtime", "1ms"];
    const rounds = bed.start(["save", "a", "vm.tram", ...limits, "--json=report"]);
    const report = () => (existsSync(bed.path("report")) ? readFileSync(bed.path("report"), "utf8") : "");
    await bed.until(async () => report().includes('"round":10,'), "ten rounds", rounds);
    await bed.expectDone("pause", "a"); // else it never comes to its end
    expect(await rounds.code).toBe(0);
    const save = lastEvent(report());
    expect(save.rounds).toBeGreaterThan(10);
    expect(save.bytes).toBeGreaterThan(2 * (32 << 20)); // so much was written, to that little room
    expect(save.allocatedBytes).toBe(allocatedBytes(bed.path("vm.tram")));
    expect(save.allocatedBytes).toBeLessThanOrEqual(allocatedMax(32 << 20));
    // It was paused meanwhile, and so it is in the file.
    await bed.restored("b", "vm.tram", "--eager");
    expect((await bed.status("b"))?.status).toBe("paused");
    await bed.verify("b");
    await bed.expectDone("resume", "b");
    await bed.goesOn("b");
  });

  test("has all its room from the beginning with --reserve, and not more", async () => {
    await bed.walker("a", ...SMALL, "--fill", "zero");
    const report = await saved(bed, "a", "vm.tram", "--reserve");
    expect(report.allocatedBytes).toBeGreaterThan(64 << 20);
    expect(report.allocatedBytes).toBeLessThanOrEqual(worstCaseBytes(64 << 20, 0) + (64 << 10));
    await bed.restored("b", "vm.tram");
    await bed.goesOn("b");
  });
});

kvm(title("tram save"), () => {
  test("leaves the guest as asked: gone, stopped, or running on; a paused one stays paused", async () => {
    const source = await bed.walker("a", ...SMALL);
    await saved(bed, "a", "resume.tram", "--after", "resume");
    await bed.goesOn("a");
    await saved(bed, "a", "pause.tram", "--after", "pause");
    expect((await bed.status("a"))?.status).toBe("paused");
    await saved(bed, "a", "paused.tram", "--after", "resume");
    expect((await bed.status("a"))?.status).toBe("paused");
    await bed.verify("a");
    await bed.expectDone("resume", "a");
    await bed.goesOn("a");
    await saved(bed, "a", "quit.tram");
    expect(await source.code).toBe(0);
    expect(bed.leftovers()).toEqual([]);
    // What the guest was in each.
    for (const [file, state] of Object.entries({
      resume: "running",
      pause: "running",
      paused: "paused",
      quit: "running",
    })) {
      const running = await bed.restored("b", `${file}.tram`);
      expect([file, (await bed.status("b"))?.status]).toEqual([file, state]);
      await bed.verify("b");
      await bed.expectDone("quit", "b");
      await running.code;
    }
  });

  test.each([
    ["Ctrl-C", 130, []],
    ["SIGTERM", 130, []],
    ["--timeout", 6, ["--timeout", "400ms"]],
    ["migrate_cancel", 5, []],
  ])("ended by %s: exit %d, the guest goes on, and nothing is left", async (how, code, options) => {
    const source = await bed.walker("a", ...SMALL);
    await saved(bed, "a", "vm.tram", "--after", "resume"); // what a first save starts stays
    await Bun.sleep(100); // the sockets of the commands above are closed by then
    const before = { content: contentOf(bed.path("vm.tram")), fds: openFds(source.pid), threads: threads(source.pid) };
    const save = bed.start(["save", "a", "vm.tram", "--max-bandwidth", "20M", "--channels", "4", ...options]);
    await bed.until(async () => (await bed.status("a"))?.tracking === true, "it is saved", save);
    if (how === "Ctrl-C") save.kill("SIGINT");
    if (how === "SIGTERM") save.kill("SIGTERM");
    if (how === "migrate_cancel") {
      const client = await Qmp.connect(bed.path("tram/a.qmp"));
      await client.execute("migrate_cancel");
      client.close();
    }
    expect({ code: await save.code, stderr: save.stderr }).toEqual({ code, stderr: expect.any(String) });
    expect((await untracked(bed, "a")).status).toBe("running");
    expect(kept()).toEqual(["vm.tram"]);
    expect(contentOf(bed.path("vm.tram"))).toBe(before.content);
    await bed.goesOn("a");
    await bed.until(async () => openFds(source.pid).join() === before.fds.join(), "descriptors as before");
    await bed.until(async () => threads(source.pid) <= before.threads, "threads as before");
    await saved(bed, "a", "vm.tram");
    await bed.restored("b", "vm.tram");
    await bed.goesOn("b");
  });

  test("fifteen times, with flat memory, descriptors and threads", async () => {
    const source = await bed.walker("a", "--memory", "16M", "--working-set", "4M", "--dirty-rate", "max");
    const saves = async (count: number) => {
      for (let i = 0; i < count; i++) await saved(bed, "a", "vm.tram", "--after", "resume", "--channels", "4");
      await untracked(bed, "a");
    };
    await saves(5);
    await Bun.sleep(100); // the sockets of the commands above are closed by then
    const before = { fds: openFds(source.pid), threads: threads(source.pid), rssKib: residentKib(source.pid).anon };
    await saves(10);
    await bed.until(async () => openFds(source.pid).join() === before.fds.join(), "descriptors as before");
    await bed.until(async () => threads(source.pid) <= before.threads + 2, "threads as before");
    expect(residentKib(source.pid).anon - before.rssKib).toBeLessThan(24 << 10);
    await bed.goesOn("a");
  });

  test("refuses a second save and a move while one is under way", async () => {
    await bed.walker("a", ...SMALL);
    const save = bed.start(["save", "a", "vm.tram", "--max-bandwidth", "20M"]);
    await bed.until(async () => (await bed.status("a"))?.tracking === true, "it is saved", save);
    for (const words of [
      ["save", "a", "other.tram"],
      ["migrate", "a", "unix:nobody.sock"],
    ])
      expect(refusal(await bed.tram(...words))).toEqual({
        code: 1,
        stderr: expect.stringContaining("under way already"),
      });
    save.kill("SIGINT");
    expect(await save.code).toBe(130);
    expect(kept()).toEqual([]);
    await bed.goesOn("a");
  });
});

kvm(title("a guest out of a snapshot"), () => {
  test("comes by tram restore and by tram run --incoming, under a name of its own, paused when that is asked", async () => {
    await bed.walker("a", ...SMALL);
    await saved(bed, "a", "vm.tram");
    const named = await bed.appeared("a", bed.start(["restore", "vm.tram"])); // its own name
    expect(named.stderr).toContain("guest 'a' runs");
    const paused = await bed.restored("b", "vm.tram", "--paused");
    expect((await bed.status("b"))?.status).toBe("paused");
    await bed.verify("b");
    await bed.expectDone("resume", "b");
    await bed.goesOn("b");
    expect(paused.stderr).toContain("guest 'b' is paused");
    const incoming = bed.start(["run", "--incoming", "file:vm.tram", "--name", "c", "--memory", "64M", "--cpus", "1"]);
    await bed.appeared("c", incoming);
    await bed.goesOn("c");
    const piped = bed.spawn(["bash", "-c", `exec ${TRAM} run --incoming - --name d --eager --verify off <vm.tram`]);
    await bed.appeared("d", piped);
    expect(await restoreOf(bed, "d")).toMatchObject({ mode: "eager", verify: false, phase: "done", mapped: false });
    await bed.goesOn("d");
    // One is there already.
    expect(refusal(await bed.tram("restore", "vm.tram"))).toEqual({
      code: 2,
      stderr: expect.stringContaining("runs already"),
    });
    await bed.goesOn("a");
  });

  test("does not come with options that do not go together: exit 2", async () => {
    await bed.walker("a", "--memory", "16M", "--working-set", "4M");
    await saved(bed, "a", "vm.tram");
    for (const [options, words] of [
      ["--lazy --eager", "exclude each other"],
      ["--eager --verify first", "leave --verify first out"],
      ["--eager --no-prefetch", "--no-prefetch is for --lazy"],
      ["--channels 4", "--channels is for --eager"],
      ["--direct-io on", "--direct-io is for --eager"],
      ["--verify never", "lazy, first, off"],
    ]) {
      const result = await bed.tram("restore", "vm.tram", ...options.split(" "));
      expect(refusal(result)).toEqual({ code: 2, stderr: expect.stringContaining(words) });
    }
  });
});

kvm(title("a snapshot of 512 MiB"), () => {
  const RAM = 512 << 20;
  let folder: string;
  let file: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "tram-large-"));
    file = join(folder, "vm.tram");
    const maker = new Bed();
    try {
      const options = ["--memory", "512M", "--working-set", "16M", "--dirty-rate", "max", "--fill", "random"];
      await maker.walker("a", ...options);
      const report = await saved(maker, "a", file, "--channels", "4");
      expect(report.resentPages).toBeGreaterThan(0);
      expect(report.allocatedBytes).toBeLessThanOrEqual(allocatedMax(RAM));
    } finally {
      await maker.dispose();
    }
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test.each([
    ["lazily", []],
    ["with --verify first", ["--verify", "first"]],
  ])("brought back %s and not read ahead, moves on before its memory is here", async (_, mode) => {
    const source = await bed.restored("b", file, "--no-prefetch", ...mode);
    const { phase, loadedPages, totalPages } = await restoreOf(bed, "b");
    expect(phase).toBe("waiting");
    expect(loadedPages).toBeLessThan(totalPages / 2);
    await bed.target("c", "unix:c.sock");
    const { code, stdout, stderr } = await bed.tram("migrate", "b", "unix:c.sock", "--json");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const move = lastEvent<{ resentPages: number; owner: string }>(stdout);
    expect(move.owner).toBe("target");
    expect(move.resentPages).toBeGreaterThan(0);
    expect(await source.code).toBe(0);
    await bed.goesOn("c");
  });

  test("is three at once, each with its own small part of memory, and the file is what it was", async () => {
    const before = contentOf(file);
    const names = ["b", "c", "d"];
    const clones = await Promise.all(names.map((name) => bed.restored(name, file)));
    for (const [i, name] of names.entries()) {
      const isHere = async () => (await bed.status(name))?.restore?.phase === "done";
      await bed.until(isHere, `${name} has read it all`, clones[i]);
      await bed.goesOn(name);
    }
    for (const [i, name] of names.entries()) {
      const rollup = readFileSync(`/proc/${clones[i].pid}/smaps_rollup`, "utf8");
      const kib = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(rollup)?.[1]);
      expect([name, kib("Rss") << 10 > RAM]).toEqual([name, true]); // the premise: all of it is mapped
      expect((kib("Private_Clean") + kib("Private_Dirty")) << 10).toBeLessThan(RAM / 3);
      expect(kib("Pss") << 10).toBeLessThan((RAM * 2) / 3);
      await bed.verify(name);
      expect((await bed.status(name))?.restore).toMatchObject({ mapped: true, held: true, error: null });
    }
    expect(contentOf(file)).toBe(before);
    rmSync(file); // and is there for as long as they need it
    for (const name of names) await bed.goesOn(name);
  });
});

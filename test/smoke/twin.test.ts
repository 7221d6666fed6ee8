// Without KVM: the walker's native twin, whose writes are tracked by a userfaultfd. It is moved, saved and checked like the guest.
import { describe, expect, test } from "bun:test";
import { chmodSync } from "node:fs";
import { join } from "node:path";
import type { FinalReport } from "../../src/cli/report.ts";
import { freePort, inBed, type Result, TRAM, whyNoKvm } from "../support/bed.ts";
import { asNobody, whyNotLimited } from "../support/limited.ts";

const noKvm = whyNoKvm();
const notLimited = whyNotLimited();
const tcp = () => `tcp:127.0.0.1:${freePort()}`;
const reportOf = ({ stdout }: Result): FinalReport => JSON.parse(stdout.trim().split("\n").at(-1) as string);
const MEMLOCK_BYTES = 8 << 20;
const NONE = ["--accel", "none"];
const WALKER = [...NONE, "--memory", "64M", "--working-set", "24M", "--dirty-rate", "20000", "--fill", "mixed"];

describe.each(["scan", "faults", "marks", "auto"])("a guest without KVM, tracked by %s", (how) => {
  const tracking = ["--dirty-tracking", how];

  test.each<[string, string[], string[]]>([
    ["over one connection", [], []],
    ["over two channels", ["--channels", "2", "--verify"], []],
    ["with three CPUs", [], ["--cpus", "3"]],
  ])("moves %s, and back", (_, options, walker) =>
    inBed(async (bed) => {
      await bed.walker("g", ...WALKER, ...tracking, ...walker);
      for (const [from, to] of [
        ["g", "h"],
        ["h", "back"],
      ]) {
        const uri = tcp();
        await bed.target(to, uri, ...NONE, ...tracking);
        const report = reportOf(
          await bed.tram("migrate", from, uri, "--json", "--max-bandwidth", "100MiB/s", ...options),
        );
        expect(report).toMatchObject({ outcome: "completed", owner: "target" });
        expect(report.resentPages).toBeGreaterThan(0); // it did write to what was sent already
        await bed.goesOn(to);
      }
    }),
  );

  test(
    "moves a dozen times in a row, each page right after each",
    () =>
      inBed(async (bed) => {
        await bed.walker("g0", ...WALKER, ...tracking, "--dirty-rate", "50000");
        for (let i = 1; i <= 12; i++) {
          const uri = `unix:${bed.path(`s${i}`)}`;
          await bed.target(`g${i}`, uri, ...NONE, ...tracking);
          const options = ["--timeout", "2s", "--on-timeout", "pause"];
          const report = reportOf(await bed.tram("migrate", `g${i - 1}`, uri, "--json", ...options));
          expect(report).toMatchObject({ outcome: "completed", owner: "target" });
          await bed.verify(`g${i}`);
        }
      }),
    60_000,
  );

  test("is saved while it runs, and restored", () =>
    inBed(async (bed) => {
      await bed.walker("g", ...WALKER, ...tracking);
      await bed.expectDone("save", "g", bed.path("g.tram"), "--after", "resume", "--max-bandwidth", "100MiB/s");
      await bed.goesOn("g");
      expect(await bed.status("g")).toMatchObject({ tracking: false });
      await bed.expectDone("verify", bed.path("g.tram"));
      await bed.restored("r", bed.path("g.tram"), ...NONE, ...tracking);
      await bed.goesOn("r");
      const uri = tcp();
      await bed.target("s", uri, ...NONE);
      await bed.expectDone("migrate", "r", uri);
      await bed.goesOn("s");
    }));

  test("is given back when its move is cancelled, and is tracked as long as that lasts", () =>
    inBed(async (bed) => {
      await bed.walker("g", ...WALKER, ...tracking);
      for (let i = 0; i < 3; i++) {
        const uri = tcp();
        await bed.target(`h${i}`, uri, ...NONE);
        const move = bed.start(["migrate", "g", uri, "--max-bandwidth", "10MiB/s"]);
        await bed.until(async () => (await bed.moveOf("g")).phase === "active", "it moves", move);
        expect(await bed.status("g")).toMatchObject({ tracking: true });
        move.kill("SIGINT");
        expect(await move.code).toBe(130);
        expect(await bed.status("g")).toMatchObject({ status: "running", tracking: false });
        await bed.goesOn("g");
      }
    }));

  test("writes as fast as it was told to", () =>
    inBed(async (bed) => {
      await bed.walker("g", ...WALKER, ...tracking, "--dirty-rate", "2000");
      const { workingSetPages } = JSON.parse(await bed.expectDone("dirty-rate", "g", "--for", "1s", "--json"));
      expect(workingSetPages / 2000).toBeGreaterThan(0.6);
      expect(workingSetPages / 2000).toBeLessThan(1.6);
    }));

  test("that writes as fast as it can is caught up when it is slowed down", () =>
    inBed(async (bed) => {
      await bed.walker("g", ...WALKER, ...tracking, "--dirty-rate", "max");
      const uri = tcp();
      await bed.target("h", uri, ...NONE);
      const options = ["--max-bandwidth", "40MiB/s", "--timeout", "500ms", "--on-timeout", "pause"];
      const report = reportOf(await bed.tram("migrate", "g", uri, "--json", ...options));
      expect(report).toMatchObject({ outcome: "completed", owner: "target" });
      await bed.goesOn("h");
    }));
});

describe("without KVM", () => {
  test.skipIf(notLimited !== null)(
    `a user who may not use it sees the demo all the same${notLimited ? ` (skipped: ${notLimited})` : ""}`,
    () =>
      inBed(async (bed) => {
        chmodSync(bed.folder, 0o777);
        const { code, stdout, stderr } = await bed.exec([...asNobody(MEMLOCK_BYTES), TRAM, "demo", "--memory", "64M"]);
        expect({ code, stderr }).toMatchObject({ code: 0 });
        expect(stderr).toContain("/dev/kvm");
        expect(stderr).toContain("native twin");
        expect(stdout).toContain("downtime");
      }),
    60_000,
  );

  test.skipIf(!Bun.which("cc"))(
    `in a sandbox that forbids userfaultfd it notes its writes itself${Bun.which("cc") ? "" : " (skipped: no cc)"}`,
    () =>
      inBed(async (bed) => {
        const sandbox = bed.path("no-userfaultfd");
        const source = join(import.meta.dir, "../support/no-userfaultfd.c");
        expect((await bed.exec(["cc", "-o", sandbox, source])).stderr).toBe("");
        const demo = await bed.exec([sandbox, TRAM, "demo", "--memory", "64M", "--accel", "none"]);
        expect({ code: demo.code, stderr: demo.stderr }).toMatchObject({ code: 0 });
        expect(demo.stderr).toContain("--dirty-tracking marks");
        // The premise: the sandbox does forbid it.
        const run = [TRAM, "run", "--guest", "walker", "--name", "g", ...WALKER, "--dirty-tracking", "faults"];
        await bed.appeared("g", bed.spawn([sandbox, ...run]));
        const { code, stderr } = await bed.tram("dirty-rate", "g");
        expect({ code, says: stderr.includes("--dirty-tracking marks") ? "" : stderr }).toEqual({ code: 1, says: "" });
        await bed.goesOn("g");
      }),
    60_000,
  );

  test.skipIf(noKvm !== null)(`a target refuses a guest of KVM's${noKvm ? ` (skipped: ${noKvm})` : ""}`, () =>
    inBed(async (bed) => {
      await bed.walker("g", "--memory", "16M");
      const uri = tcp();
      await bed.target("h", uri, ...NONE);
      const { code, stderr } = await bed.tram("migrate", "g", uri);
      expect({ code, says: stderr.includes("without --accel none") ? "" : stderr }).toEqual({ code: 7, says: "" });
      await bed.goesOn("g");
    }),
  );

  test.skipIf(noKvm !== null)(
    `a guest moves to a host that has it, and stays without${noKvm ? ` (skipped: ${noKvm})` : ""}`,
    () =>
      inBed(async (bed) => {
        await bed.walker("g", ...WALKER);
        const uri = tcp();
        await bed.target("h", uri);
        await bed.expectDone("migrate", "g", uri);
        await bed.goesOn("h");
        expect((await bed.status("h"))?.dirtyTracking?.by).toMatch(/^(scan|faults)$/);
      }),
  );

  test.each<[string[], string]>([
    [["--accel", "none", "--dirty-tracking", "log"], "auto, scan, faults, marks"],
    [["--accel", "none", "--dirty-tracking", "ring=4096"], "auto, scan, faults, marks"],
    [["--dirty-tracking", "marks"], "auto, log, ring, ring=ENTRIES"],
    [["--accel", "hvf"], "kvm or none"],
  ])("%p is refused", (options, text) =>
    inBed(async (bed) => {
      const { code, stderr } = await bed.tram("run", "--guest", "walker", "--memory", "16M", ...options);
      expect({ code, says: stderr.includes(text) ? text : stderr }).toEqual({ code: 2, says: text });
    }),
  );
});

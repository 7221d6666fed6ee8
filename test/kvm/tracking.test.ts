// How a guest's writes are found: by the log or by rings, each asked for; and what becomes of a move when a ring has run over.
import { describe, expect, test } from "bun:test";
import type { FinalReport } from "../../src/cli/report.ts";
import { freePort, inBed, type Result, whyNoKvm } from "../support/bed.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;
const tcp = () => `tcp:127.0.0.1:${freePort()}`;
const reportOf = ({ stdout }: Result): FinalReport => JSON.parse(stdout.trim().split("\n").at(-1) as string);
/** Slower than a ring of 65,536 entries fills between two rounds. */
const WALKER = ["--memory", "64M", "--working-set", "24M", "--dirty-rate", "4000", "--fill", "mixed"];
/** Faster than a ring of 1024. */
const BUSY = ["--memory", "64M", "--working-set", "32M", "--dirty-rate", "max"];

kvm(title("a guest whose writes are found"), () => {
  describe.each(["log", "ring", "ring=65536", "auto"])("by %s", (how) => {
    test.each<[string, string[], string[]]>([
      ["over one connection", [], []],
      ["over two channels", ["--channels", "2"], []],
      ["with two CPUs", [], ["--cpus", "2"]],
    ])("moves %s, and back", (_, options, walker) =>
      inBed(async (bed) => {
        await bed.walker("g", ...WALKER, ...walker, "--dirty-tracking", how);
        expect((await bed.status("g"))?.dirtyTracking?.by).toBe(how.startsWith("ring") ? "ring" : "log");
        for (const [from, to] of [
          ["g", "h"],
          ["h", "g"],
        ]) {
          const uri = tcp();
          await bed.target(to === "g" ? "back" : to, uri, "--dirty-tracking", how);
          const report = reportOf(
            await bed.tram("migrate", from, uri, "--json", "--max-bandwidth", "80MiB/s", ...options),
          );
          expect(report).toMatchObject({ outcome: "completed", owner: "target" });
          expect(report.resentPages).toBeGreaterThan(0);
        }
        await bed.goesOn("back");
        expect(await bed.status("back")).toMatchObject({ status: "running", tracking: false });
      }),
    );

    test("is saved while it runs", () =>
      inBed(async (bed) => {
        await bed.walker("g", ...WALKER, "--dirty-tracking", how);
        await bed.expectDone("save", "g", bed.path("g.tram"), "--after", "resume", "--max-bandwidth", "80MiB/s");
        await bed.goesOn("g");
        await bed.restored("r", bed.path("g.tram"), "--dirty-tracking", how);
        await bed.goesOn("r");
      }));
  });

  test("is tracked while it moves, and no longer", () =>
    inBed(async (bed) => {
      await bed.walker("g", ...WALKER, "--dirty-tracking", "ring");
      const uri = tcp();
      await bed.target("h", uri);
      const move = bed.start(["migrate", "g", uri, "--max-bandwidth", "10MiB/s"]);
      await bed.until(async () => (await bed.moveOf("g")).phase === "active", "it moves", move);
      expect(await bed.status("g")).toMatchObject({ tracking: true });
      move.kill("SIGINT");
      await move.code;
      expect(await bed.status("g")).toMatchObject({ status: "running", tracking: false });
    }));

  // A kernel that emulates its guests may run on past the end of a small ring; one with hardware support does not.
  test("by a ring that runs over either arrives whole, or stays, runs on, and can be moved when it is paused", () =>
    inBed(async (bed) => {
      await bed.walker("g", ...BUSY, "--dirty-tracking", "ring=1024");
      const uri = tcp();
      await bed.target("h", uri);
      const moved = await bed.tram("migrate", "g", uri, "--json", "--max-bandwidth", "80MiB/s", "--max-downtime", "5s");
      const report = reportOf(moved);
      if (report.outcome === "completed") {
        process.stdout.write("the ring of 1024 entries held\n");
        await bed.goesOn("h");
        return;
      }
      expect(moved.code).toBe(1);
      expect(report).toMatchObject({ outcome: "failed", owner: "source", error: { code: "E_TRACKING" } });
      const { dirtyTracking, ...status } = (await bed.status("g")) ?? {};
      expect(status).toMatchObject({ status: "running", tracking: false });
      expect(dirtyTracking).toMatchObject({ by: "ring", entries: 1024, lost: true });
      for (let i = 0; i < 3; i++) await bed.goesOn("g");
      process.stdout.write(`a ring of 1024 entries ran over: ${JSON.stringify(dirtyTracking)}\n`);

      const again = await bed.tram("migrate", "g", tcp(), "--json");
      expect(again.code).toBe(7);
      expect(again.stderr).toContain("tram pause");

      const to = tcp();
      await bed.target("i", to);
      await bed.expectDone("pause", "g");
      await bed.expectDone("migrate", "g", to);
      await bed.verify("i");
      await bed.expectDone("resume", "i");
      await bed.goesOn("i");
    }));

  test("and is resumed in the middle of a move after its ring has run over, stays", () =>
    inBed(async (bed) => {
      await bed.walker("g", ...BUSY, "--dirty-tracking", "ring=1024");
      const first = tcp();
      await bed.target("h", first);
      await bed.tram("migrate", "g", first, "--max-bandwidth", "80MiB/s");
      if ((await bed.status("g"))?.dirtyTracking?.by !== "ring") return; // it arrived: this kernel's rings hold
      await bed.expectDone("pause", "g");
      const to = tcp();
      await bed.target("i", to);
      const move = bed.start(["migrate", "g", to, "--max-bandwidth", "20MiB/s"]);
      await bed.until(async () => (await bed.moveOf("g")).phase === "active", "it moves", move);
      await bed.expectDone("resume", "g");
      expect(await move.code).toBe(1);
      expect(move.stderr).toContain("lost count");
      expect((await bed.status("g"))?.status).toBe("running");
      await bed.goesOn("g");
    }));

  test.each<[string, number, string]>([
    ["never", 2, "auto, log, ring, ring=ENTRIES"],
    ["log=5", 2, "auto, log, ring, ring=ENTRIES"],
    ["ring=0", 2, "--dirty-tracking ring"],
    ["ring=1000", 1, "a power of two"],
    ["ring=131072", 1, "a power of two"],
  ])("by %s is refused", (how, exit, text) =>
    inBed(async (bed) => {
      const { code, stderr } = await bed.tram("run", "--guest", "walker", "--memory", "16M", "--dirty-tracking", how);
      expect({ code, says: stderr.includes(text) ? text : stderr }).toEqual({ code: exit, says: text });
    }),
  );
});

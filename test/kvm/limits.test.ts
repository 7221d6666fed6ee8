// A guest that writes faster than its pages are carried: without help its move does not end, and says so; with each remedy it ends.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { FinalReport } from "../../src/cli/report.ts";
import type { Journal } from "../../src/control/journal.ts";
import { type Bed, freePort, inBed, type Result, type Running, whyNoKvm } from "../support/bed.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

/** Writes all of its working set well within the time that 40 MiB/s take for it. */
const WALKER = ["--memory", "64M", "--working-set", "32M", "--dirty-rate", "max", "--fill", "random"];
const SLOW = ["--max-bandwidth", "40MiB/s"];
const tcp = () => `tcp:127.0.0.1:${freePort()}`;
const reportOf = (text: string): FinalReport => JSON.parse(text.trim().split("\n").at(-1) as string);

interface Move {
  to: string;
  move: Running;
  report(): FinalReport;
}

/** A move of walker a to b that does not end by itself: it has sent what was written again, and knows that it stalls. */
async function stalled(bed: Bed, ...options: string[]): Promise<Move> {
  await bed.walker("a", ...WALKER);
  const to = tcp();
  await bed.target("b", to);
  const events = bed.path("events");
  const move = bed.start(["migrate", "a", to, `--json=${events}`, ...SLOW, ...options]);
  await bed.until(
    async () => ((await bed.moveOf("a")) as Journal).stall !== null && (await roundsOf(bed)) > 3,
    "it stalls",
    move,
  );
  return { to, move, report: () => reportOf(readFileSync(events, "utf8")) };
}

const roundsOf = async (bed: Bed): Promise<number> => (await bed.moveOf("a")).roundsDone ?? 0;

/** Pages that the walker goes through in this time. */
async function pace(bed: Bed, name: string, ms: number): Promise<number> {
  const steps = async () =>
    (await bed.verify(name)).cpus.reduce((sum, { pass, boundary }) => sum + pass * 8192 + boundary, 0);
  const before = await steps();
  const startedMs = performance.now();
  await Bun.sleep(ms);
  return ((await steps()) - before) / (performance.now() - startedMs);
}

kvm(title("a move of a guest that writes faster than it is carried"), () => {
  test("says so, and what would help; and gives the guest back when it is cancelled", () =>
    inBed(async (bed) => {
      const { move, report } = await stalled(bed);
      const { stall } = (await bed.moveOf("a")) as Journal;
      expect(stall?.dirtyBytesPerSec).toBeGreaterThan(0);
      expect(stall?.remedy.knob).toBe("max-bandwidth");
      move.kill("SIGINT");
      expect(await move.code).toBe(130);
      expect(report()).toMatchObject({
        owner: "source",
        outcome: "cancelled",
        stall: { remedy: { knob: "max-bandwidth" } },
      });
      expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false, throttlePercent: 0 });
      await bed.goesOn("a");
    }));

  test.each<[string, string[]]>([
    ["more bandwidth", ["max-bandwidth=none"]],
    ["a longer downtime", ["max-downtime=5s"]],
    ["any downtime", ["max-downtime=none"]],
    ["standing still", ["timeout=1ms", "on-timeout=pause"]],
    ["being slowed down", ["timeout=1ms", "on-timeout=throttle"]],
  ])(
    "ends with %s",
    (what, settings) =>
      inBed(async (bed) => {
        const { move, report } = await stalled(bed);
        const roundsBefore = await roundsOf(bed);
        await bed.expectDone("set", "a", ...settings);
        expect(await move.code).toBe(0);
        const { outcome, owner, throttlePercent, downtimeMs, downtimePartsMs, rounds } = report();
        expect({ outcome, owner }).toEqual({ outcome: "completed", owner: "target" });
        expect(rounds).toBeGreaterThanOrEqual(roundsBefore);
        expect(throttlePercent > 0).toBe(what === "being slowed down");
        expect("overdueRounds" in downtimePartsMs).toBe(what === "standing still");
        expect(Object.values(downtimePartsMs).reduce((sum, ms) => sum + ms, 0)).toBe(downtimeMs as number);
        await bed.goesOn("b");
        expect(await bed.status("b")).toMatchObject({ status: "running", tracking: false, throttlePercent: 0 });
      }),
    60_000,
  );

  test("is cancelled when its time is over, if nothing else was said", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...WALKER);
      const to = tcp();
      await bed.target("b", to);
      const { code, stdout }: Result = await bed.tram("migrate", "a", to, "--json", ...SLOW, "--timeout", "3s");
      expect(code).toBe(6);
      expect(reportOf(stdout)).toMatchObject({ owner: "source", error: { code: "E_TIMED_OUT" } });
      await bed.goesOn("a");
    }));

  test.each<[string, string[]]>([
    ["pause", ["--timeout", "1500ms", "--on-timeout", "pause"]],
    ["throttle", ["--timeout", "1500ms", "--on-timeout", "throttle"]],
    ["throttle, over two channels", ["--timeout", "1500ms", "--on-timeout", "throttle", "--channels", "2"]],
  ])(
    "ends behind --on-timeout %s",
    (_, options) =>
      inBed(async (bed) => {
        await bed.walker("a", ...WALKER);
        const to = tcp();
        await bed.target("b", to);
        const { code, stdout } = await bed.tram("migrate", "a", to, "--json", ...SLOW, ...options);
        expect({ code, outcome: reportOf(stdout).outcome }).toEqual({ code: 0, outcome: "completed" });
        await bed.goesOn("b");
      }),
    60_000,
  );

  test(
    "slows the guest down for as long as it lasts, and no longer",
    () =>
      inBed(async (bed) => {
        const { move } = await stalled(bed, "--max-downtime", "1ms");
        const free = await pace(bed, "a", 1000);
        await bed.expectDone("set", "a", "timeout=1ms", "on-timeout=throttle");
        await bed.until(async () => ((await bed.status("a"))?.throttlePercent ?? 0) >= 50, "it is slowed down", move);
        const slow = await pace(bed, "a", 500);
        move.kill("SIGINT");
        expect(await move.code).toBe(130);
        expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false, throttlePercent: 0 });
        const after = await pace(bed, "a", 1000);
        expect(slow).toBeLessThan(free * 0.7);
        expect(after).toBeGreaterThan(free * 0.7);
      }),
    60_000,
  );

  test("with --hold: is ready for as long as one likes, beyond what a silence may last, and switches over when told", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--working-set", "2M", "--dirty-rate", "2000", "--fill", "random");
      const to = tcp();
      await bed.target("b", to, "--timeout", "2s");
      const move = bed.start(["migrate", "a", to, "--hold", "--trace", "phases", "--json=events"]);
      await bed.until(async () => (await bed.moveOf("a")).phase === "held", "it is held", move);
      const { roundsDone } = await bed.moveOf("a");
      await Bun.sleep(4000);
      expect(await bed.status("a")).toMatchObject({ status: "running", tracking: true });
      expect(await bed.moveOf("a")).toMatchObject({ phase: "held", owner: "source" });
      expect((await bed.moveOf("a")).roundsDone).toBeGreaterThan(roundsDone as number);
      await bed.expectDone("set", "a", "hold=off");
      expect(await move.code).toBe(0);
      const report = reportOf(readFileSync(bed.path("events"), "utf8"));
      expect(report.downtimeMs).toBeLessThanOrEqual(300);
      expect(report.resentPages).toBeGreaterThan(512); // all of the working set, again and again
      expect(readFileSync(bed.path("phases"), "utf8").match(/[a-z]+/g)).toEqual([
        "waiting",
        "setup",
        "active",
        "held",
        "device",
        "handover",
        "completed",
      ]);
      await bed.goesOn("b");
    }));

  test("with --hold: is cancelled, or fails with its peer, while it is held, and the guest stays", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M", "--dirty-rate", "500");
      for (const end of ["cancel", "peer"]) {
        const to = tcp();
        const target = await bed.target(end, to);
        const move = bed.start(["migrate", "a", to, "--hold"]);
        await bed.until(async () => (await bed.moveOf("a")).phase === "held", "it is held", move);
        if (end === "cancel") move.kill("SIGINT");
        else target.kill("SIGKILL");
        expect(await move.code).toBe(end === "cancel" ? 130 : 1);
        expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
        await bed.goesOn("a");
      }
    }));

  test("with --hold: does not go on with a target that takes nothing more, though there is room for what the guest writes", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M", "--working-set", "1M", "--dirty-rate", "2");
      const target = await bed.target("b", "unix:b.sock");
      const move = bed.start(["migrate", "a", "unix:b.sock", "--hold", "--timeout", "2s"]);
      await bed.until(async () => (await bed.moveOf("a")).phase === "held", "it is held", move);
      target.kill("SIGSTOP");
      expect(await move.code).toBe(6);
      expect(move.stderr).toMatch(/takes nothing more[\s\S]*bytes that have not arrived/);
      expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
      await bed.goesOn("a");
      target.kill("SIGKILL");
    }));

  test("writes each phase and its time into --trace", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M", "--working-set", "4M", "--dirty-rate", "100");
      const to = tcp();
      await bed.target("b", to);
      await bed.expectDone("migrate", "a", to, "--trace", "phases");
      const lines = readFileSync(bed.path("phases"), "utf8").trim().split("\n");
      expect(lines.map((line) => line.trim().split(" ")[1])).toEqual([
        "waiting",
        "setup",
        "active",
        "device",
        "handover",
        "completed",
      ]);
      const times = lines.map((line) => Number(line.trim().split(" ")[0]));
      expect(times).toEqual(times.toSorted((a, b) => a - b));
    }));

  test.each<[string, string[], RegExp]>([
    ["what does not exist", ["colour=red"], /cannot be set/],
    ["a knob without a value", ["timeout"], /needs a value/],
    ["a rate that is none", ["max-bandwidth=fast"], /max-bandwidth/],
    ["an action that is none", ["on-timeout=explode"], /not known/],
  ])("cannot be given %s: exit 2", (_, settings, message) =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M");
      const { code, stderr } = await bed.tram("set", "a", ...settings);
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringMatching(message) });
    }),
  );

  test("cannot be set while there is none", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M");
      const { code, stderr } = await bed.tram("set", "a", "timeout=1s");
      expect({ code, stderr }).toEqual({
        code: 1,
        stderr: expect.stringContaining("no move of this guest is under way"),
      });
    }));
});

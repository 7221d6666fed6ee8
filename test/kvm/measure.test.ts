// What is told of a guest before its move: how fast it writes, and what the move would come to.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { FinalReport } from "../../src/cli/report.ts";
import type { Forecast } from "../../src/control/measure.ts";
import type { Pace } from "../../src/control/pace.ts";
import { freePort, inBed, whyNoKvm } from "../support/bed.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

interface Figures {
  pagesPerSec: number;
  workingSetPages: number;
  totalPages: number;
}

kvm(title("a guest that is measured"), () => {
  test.each([500, 2000])("writes %d pages a second, as it was told to", (rate) =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "128M", "--working-set", "96M", "--dirty-rate", `${rate}`);
      const figures: Figures = JSON.parse(await bed.expectDone("dirty-rate", "a", "--for", "1s", "--json"));
      expect(figures.totalPages).toBe(32_768);
      expect(figures.workingSetPages / rate).toBeGreaterThan(0.6);
      expect(figures.workingSetPages / rate).toBeLessThan(1.6);
      expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
      await bed.goesOn("a");
    }),
  );

  test("has written to all of its working set, and to little more", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--working-set", "8M", "--dirty-rate", "max");
      const figures: Figures = JSON.parse(await bed.expectDone("dirty-rate", "a", "--json"));
      expect(figures.workingSetPages).toBeGreaterThanOrEqual(2048);
      expect(figures.workingSetPages).toBeLessThan(2048 + 64);
    }));

  test("writes nothing while it is paused", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M", "--paused");
      const figures: Figures = JSON.parse(await bed.expectDone("dirty-rate", "a", "--for", "200ms", "--json"));
      expect(figures).toMatchObject({ pagesPerSec: 0, workingSetPages: 0 });
    }));

  test("can be moved right after it, and is not measured meanwhile", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--working-set", "32M", "--dirty-rate", "1000");
      const to = `tcp:127.0.0.1:${freePort()}`;
      await bed.target("b", to);
      await bed.expectDone("dirty-rate", "a", "--for", "100ms");
      const move = bed.start(["migrate", "a", to, "--max-bandwidth", "8MiB/s"]);
      await bed.until(async () => (await bed.moveOf("a")).phase === "active", "it moves", move);
      const { code, stderr } = await bed.tram("dirty-rate", "a");
      expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("under way already") });
      await bed.expectDone("set", "a", "max-bandwidth=none");
      expect(await move.code).toBe(0);
      await bed.goesOn("b");
    }));

  test("goes on untracked when whoever measures it is killed", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--working-set", "32M", "--dirty-rate", "1000");
      const measuring = bed.start(["dirty-rate", "a", "--for", "60s"]);
      await bed.until(async () => (await bed.status("a"))?.tracking === true, "it is tracked", measuring);
      measuring.kill("SIGKILL");
      await bed.until(async () => (await bed.status("a"))?.tracking === false, "it is let go");
      await bed.goesOn("a");
    }));
});

kvm(title("a walker's pace"), () => {
  test("shows how long it stood still", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--working-set", "8M", "--dirty-rate", "max");
      const looking = bed.tram("pace", "a", "--for", "2s", "--samples", "looks", "--json");
      await Bun.sleep(500);
      await bed.expectDone("pause", "a");
      await Bun.sleep(300);
      await bed.expectDone("resume", "a");
      const { code, stdout } = await looking;
      expect(code).toBe(0);
      const pace: Pace = JSON.parse(stdout);
      expect(pace.forMs).toBeGreaterThan(1900);
      expect(pace.steps).toBeGreaterThan(1000);
      expect(pace.stepsPerMs.max).toBeGreaterThan(0);
      expect(pace.stallMs).toBeGreaterThan(300);
      expect(pace.stallMs).toBeLessThan(1500);
      const lines = readFileSync(bed.path("looks"), "utf8").trim().split("\n");
      expect(lines.length).toBeGreaterThan(1000);
      const steps = lines.map((line) => Number(line.split(" ")[1]));
      expect((steps.at(-1) as number) - steps[0]).toBe(pace.steps);
    }));

  test("is seen until it leaves, and by one at a time", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--dirty-rate", "1000");
      const looking = bed.tram("pace", "a", "--for", "60s", "--json");
      await Bun.sleep(300);
      const second = await bed.tram("pace", "a");
      expect(second).toMatchObject({ code: 1, stderr: expect.stringContaining("another tram pace") });
      const to = `tcp:127.0.0.1:${freePort()}`;
      await bed.target("b", to);
      await bed.expectDone("migrate", "a", to);
      const { code, stdout } = await looking;
      expect({ code, steps: JSON.parse(stdout).steps > 0 }).toEqual({ code: 0, steps: true });
      expect(JSON.parse(await bed.expectDone("pace", "b", "--for", "100ms", "--json")).name).toBe("b");
    }));
});

kvm(title("a forecast"), () => {
  test.each<[string, string, boolean]>([
    ["far below the bandwidth", "500", true],
    ["as fast as it can", "max", false],
  ])(
    "of a guest that writes %s comes true",
    (_, rate, converges) =>
      inBed(async (bed) => {
        await bed.walker("a", "--memory", "64M", "--working-set", "32M", "--dirty-rate", rate, "--fill", "random");
        const limit = ["--max-bandwidth", "40MiB/s"];
        const told: Forecast = JSON.parse(
          await bed.expectDone("forecast", "a", "--bandwidth", "10Gbit/s", ...limit, "--for", "2s", "--json"),
        );
        expect(told.converges).toBe(converges);
        const to = `tcp:127.0.0.1:${freePort()}`;
        await bed.target("b", to);
        const { stdout } = await bed.tram("migrate", "a", to, "--json", ...limit, "--timeout", "6s");
        const report: FinalReport = JSON.parse(stdout.trim().split("\n").at(-1) as string);
        expect(report.outcome === "completed").toBe(converges);
        expect(report.stall === null).toBe(converges);
        const { rounds, downtimeMs } = told;
        const whole = { elapsedMs: Math.round(told.elapsedMs), downtimeMs: downtimeMs && Math.round(downtimeMs) };
        expect(report.forecast).toMatchObject({ converges, rounds, bytes: told.bytes, ...whole });
        if (!converges) return;
        expect(report.elapsedMs / told.elapsedMs).toBeGreaterThan(1 / 1.5);
        expect(report.elapsedMs / told.elapsedMs).toBeLessThan(1.5);
        expect(report.bytes / told.bytes).toBeGreaterThan(1 / 1.5);
        expect(report.bytes / told.bytes).toBeLessThan(1.5);
      }),
    60_000,
  );

  test("needs to know what is carried", () =>
    inBed(async (bed) => {
      const { code, stderr } = await bed.tram("forecast", "a");
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("--bandwidth") });
    }));
});

kvm(title("a rehearsal"), () => {
  test("of a guest that is carried ends, and the guest is not stopped, moved or tracked any more", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--working-set", "32M", "--dirty-rate", "500", "--fill", "random");
      const found = JSON.parse(await bed.expectDone("rehearse", "a", "--bandwidth", "100MiB/s", "--json"));
      expect(found).toMatchObject({ converges: true, stall: null });
      expect(found.bytes).toBeGreaterThan(60 << 20);
      expect(found.elapsedMs).toBeGreaterThan(500);
      expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
      await bed.goesOn("a");
      const to = `tcp:127.0.0.1:${freePort()}`;
      await bed.target("b", to);
      await bed.expectDone("migrate", "a", to);
      await bed.goesOn("b");
    }));

  test(
    "of one that is not ends, too, and says what would help",
    () =>
      inBed(async (bed) => {
        await bed.walker("a", "--memory", "64M", "--working-set", "32M", "--dirty-rate", "max", "--fill", "random");
        const found = JSON.parse(await bed.expectDone("rehearse", "a", "--bandwidth", "40MiB/s", "--json"));
        expect(found).toMatchObject({
          converges: false,
          downtimeMs: null,
          stall: { remedy: { knob: "max-bandwidth" } },
        });
        expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
        await bed.goesOn("a");
      }),
    60_000,
  );
});

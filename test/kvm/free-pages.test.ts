// A guest that is asked for its free pages while it moves: what it names is not sent, and no page is lost by that, whenever it names
// them and whenever it uses them again. test/kvm/free-pages-many.test.ts is the same in two hundred other ways.
import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import type { FinalReport } from "../../src/cli/report.ts";
import { inBed, residentKib, whyNoKvm } from "../support/bed.ts";
import type { FreePagesFacts } from "../support/free-guest.ts";
import {
  arrived,
  cameLater,
  FreeGuest,
  found,
  isAsked,
  type MovePlan,
  moved,
  type Over,
  pagesIn,
} from "../support/free-guest.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

const MIB = 1 << 20;
const PAGES_PER_MIB = 256;
const SMALL = ["--memory", "32M", "--working-set", "4M", "--free", "20M", "--fill", "random"];
const SMALL_PAGES = 32 * PAGES_PER_MIB;
const SMALL_FREE = 20 * PAGES_PER_MIB;
/** So many pieces of memory that some are sent before anything is named, and others behind that. */
const LARGE = ["--memory", "96M", "--working-set", "4M", "--free", "80M", "--fill", "random"];
const LARGE_FREE = 80 * PAGES_PER_MIB;
/** At this rate the first vCPU looks around 20 times a second: nothing is named in the first 400 ms, and then a run each 50 ms. */
const SLOWLY = ["--habit", "late", "--dirty-rate", "20"];
const SOME_RATE = ["--max-bandwidth", "60MiB/s"];

const limit = (guest: FreeGuest, mibPerSec: number) =>
  guest.ask("tram-set", { maxBandwidthBytesPerSec: mibPerSec * MIB });

/** Lets so many pages be sent before the guest names any, and nearly none while it names a share of them; it runs then. */
async function nameLate(from: FreeGuest, sentBefore: number, named = 0.7): Promise<void> {
  await from.until(async () => (await from.move()).hints !== undefined, "it was asked, and is not waited for any more");
  await from.ask("stop");
  await from.until(async () => ((await from.move()).sentPages ?? 0) >= sentBefore, "the first pages are sent");
  await limit(from, 2);
  await from.ask("cont");
  await from.until(async () => (await from.freePages()).free > LARGE_FREE * named, "it has named so many");
}

kvm(title("a guest that is asked for its free pages"), () => {
  test("has each of its pages sent, or left out; and which it named can be seen", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "keep");
      expect(await guest.freePages()).toMatchObject({ pages: SMALL_PAGES, free: 0 });
      // Through a file, so that it is here still afterwards. On a busy host it may answer too late.
      const report = await found(async () => {
        await bed.expectDone("migrate", "a", "file:stream", "--json=events");
        const report = JSON.parse(
          readFileSync(bed.path("events"), "utf8").trim().split("\n").at(-1) as string,
        ) as FinalReport;
        if (report.hintedPages === SMALL_FREE) return report;
        await guest.ask("cont");
        return null;
      }, "all that it has free is left out");
      expect(report).toMatchObject({
        outcome: "completed",
        hints: { hasBegun: true, hasEnded: true, pages: SMALL_FREE },
      });
      expect(cameLater(report)).toBe(0);

      const { code, stdout } = await bed.tram("status", "a", "--json");
      expect(code).toBe(0);
      const { freePages, balloon } = JSON.parse(stdout) as { freePages: FreePagesFacts; balloon: object };
      expect(balloon).toMatchObject({ isDriven: true, hints: true, wantedBytes: 0, actualBytes: 0 });
      expect(freePages).toMatchObject({ pages: SMALL_PAGES, free: SMALL_FREE });
      const first = SMALL_PAGES - SMALL_FREE;
      expect(pagesIn(freePages)).toEqual(Array.from({ length: SMALL_FREE }, (_, i) => first + i));
      expect((await bed.tram("status", "a")).stdout).toContain("it tells which pages are free");

      await guest.ask("cont");
      await guest.goesOn();
    }));

  test.each<[Over, string, number]>([
    ["tcp", "log", 1],
    ["unix", "log", 2],
    ["two channels", "log", 1],
    ["a pipe", "log", 1],
    ["verified", "log", 1],
    ["verified channels", "log", 2],
    ["unix", "ring=65536", 1],
    ["two channels", "ring=65536", 2],
  ])(
    "and names them before, while and after they are sent, and uses them at once: over %s, tracked by %s, %d CPUs",
    (over, tracking, cpus) =>
      inBed(async (bed) => {
        const how = ["--dirty-tracking", tracking];
        const guest = await FreeGuest.walker(bed, "a", ...LARGE, ...SLOWLY, ...how, "--cpus", `${cpus}`);
        const plan: MovePlan = {
          over,
          target: how,
          options: ["--max-bandwidth", "64MiB/s"],
          async during(from) {
            await nameLate(from, 36 * PAGES_PER_MIB);
            await limit(from, 0);
          },
        };
        const { report, to } = await arrived(bed, guest, "b", plan);
        // Left out, and named too late for that; of both some are in use by now.
        expect(report.hintedPages).toBeGreaterThan(0);
        expect(report.hints?.pages).toBeGreaterThan(report.hintedPages);
        expect(cameLater(report)).toBeGreaterThan(0);
        expect(report.resentPages).toBeGreaterThan(0);
        expect((await to.goesOn()).reused).toBeGreaterThan(LARGE_FREE / 16);
      }),
  );

  test("and is stopped by a person while it names them", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...LARGE, ...SLOWLY);
      const { report, to } = await arrived(bed, guest, "b", {
        options: ["--max-bandwidth", "64MiB/s"],
        async during(from) {
          await nameLate(from, 20 * PAGES_PER_MIB);
          await from.ask("stop");
          await limit(from, 0);
        },
      });
      expect(report.hintedPages).toBeGreaterThan(0);
      expect(cameLater(report)).toBeGreaterThan(0);
      expect(await to.status()).toBe("paused");
      expect((await to.check()).reused).toBeGreaterThan(0);
      await to.ask("cont");
      await to.goesOn();
    }));

  test.each(["pause", "throttle"])("and uses them at once: none is lost behind --on-timeout %s", (action) =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "reuse", "--dirty-rate", "max");
      const options = ["--timeout", "700ms", "--on-timeout", action, "--max-downtime", "1ms"];
      const { report, to } = await arrived(bed, guest, "b", { options: [...options, "--max-bandwidth", "20MiB/s"] });
      expect(report.hintedPages).toBeGreaterThan(0);
      expect(cameLater(report)).toBeGreaterThan(0);
      expect((await to.goesOn()).reused).toBeGreaterThan(0);
    }),
  );

  test("and uses them at once: what it has used is found in each of many looks", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "reuse");
      const { report, to } = await arrived(bed, guest, "b", {
        options: ["--hold", "--max-bandwidth", "30MiB/s"],
        async during(from) {
          await from.until(async () => ((await from.move()).roundsDone ?? 0) >= 4, "some rounds");
          await from.ask("tram-set", { hold: false });
        },
      });
      expect(report.rounds).toBeGreaterThanOrEqual(4);
      expect(cameLater(report)).toBeGreaterThan(0);
      expect((await to.goesOn()).reused).toBeGreaterThan(0);
    }));

  test.each(["log", "ring=65536"])(
    "and is cancelled while it names them: what it said does not count the next time (%s)",
    (tracking) =>
      inBed(async (bed) => {
        const how = ["--dirty-tracking", tracking];
        const guest = await FreeGuest.walker(bed, "a", ...SMALL, ...SLOWLY, ...how);
        let named = 0;
        const first = await moved(bed, guest, "b", {
          options: ["--max-bandwidth", "4MiB/s"],
          async during(from) {
            await isAsked(from);
            await from.until(async () => (await from.freePages()).free > 0, "it names some");
            named = (await from.freePages()).free;
            await from.ask("migrate_cancel");
          },
        });
        expect({ code: first.code, outcome: first.report.outcome }).toEqual({ code: 5, outcome: "cancelled" });
        expect(named).toBeGreaterThan(0);
        expect({ status: await guest.status(), tracked: await guest.isTracked() }).toEqual({
          status: "running",
          tracked: false,
        });
        await guest.goesOn();
        const { report, to } = await arrived(bed, guest, "c", {
          target: how,
          options: SOME_RATE,
          during: async (from) => {
            await isAsked(from);
            await from.until(async () => (await from.freePages()).free === 0, "nothing is named yet");
          },
        });
        expect(report.hints).toBeDefined();
        expect((await to.goesOn()).reused).toBeGreaterThan(0);
      }),
  );

  test.each(["log", "ring=65536"])("moves ten times to and fro, and is asked each time (%s)", (tracking) =>
    inBed(async (bed) => {
      const how = ["--dirty-tracking", tracking];
      let guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "reuse", ...how);
      let answers = 0;
      for (let n = 0; n < 10; n++) {
        const name = n % 2 ? "a" : "b";
        const { report, to } = await arrived(bed, guest, name, { target: how, options: SOME_RATE });
        expect({ n, isAsked: report.hints !== undefined }).toEqual({ n, isAsked: true });
        answers += report.hints?.hasBegun ? 1 : 0;
        expect((await to.goesOn()).reused).toBeGreaterThan(0);
        guest = to;
      }
      expect(answers).toBeGreaterThan(5); // on a busy host one may come too late
    }),
  );

  test("and answers with an older request's number, has nothing left out", () =>
    inBed(async (bed) => {
      let guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "stale");
      for (const name of ["b", "c", "d"]) {
        // A request whose number is older by one, and that was asked here.
        const cancelled = await moved(bed, guest, "nobody", {
          options: ["--max-bandwidth", "4MiB/s"],
          async during(from) {
            await isAsked(from);
            await Bun.sleep(100);
            await from.ask("migrate_cancel");
          },
        });
        expect(cancelled.report.outcome).toBe("cancelled");
        const { report, to } = await arrived(bed, guest, name, { options: SOME_RATE });
        expect(report).toMatchObject({ hintedPages: 0, hints: { hasBegun: false, hasEnded: false, pages: 0 } });
        expect((await to.freePages()).free).toBe(0);
        await to.goesOn();
        guest = to;
      }
    }));

  test("and does not answer, has nothing left out, and its move says so", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "silent");
      const { report, to } = await arrived(bed, guest, "b", { options: SOME_RATE });
      expect(report).toMatchObject({ hintedPages: 0, hints: { hasBegun: false, hasEnded: false, pages: 0 } });
      expect(report.hints?.waitedMs).toBeGreaterThan(0);
      await to.goesOn();
      const { code, stdout, stderr } = await bed.tram("migrate", "b", "file:stream");
      expect({ code, says: `${stdout}${stderr}` }).toEqual({
        code: 0,
        says: expect.stringContaining("was asked for its free pages, and did not answer"),
      });
    }));

  test("and has reported them by itself, has them left out, and their memory given back", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...LARGE, "--habit", "report");
      await guest.until(async () => residentKib(guest.running.pid).anon < 80 << 10, "memory is given back");
      const options = ["--no-skip-free", ...SOME_RATE];
      const { report, to } = await arrived(bed, guest, "b", { options });
      expect(report.hints).toBeUndefined();
      expect(report.hintedPages).toBe(0);
      expect(report.reportedPages).toBeGreaterThan(LARGE_FREE / 4); // those that it uses bring huge pages back
      expect((await to.goesOn()).reused).toBeGreaterThan(0);
    }));

  test("is not asked when it stands still, or nobody wants to know; then all is sent", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "keep");
      const { report: first, to } = await arrived(bed, guest, "b", { options: ["--no-skip-free"] });
      expect(first.hints).toBeUndefined();
      expect(first.hintedPages).toBe(0);
      await to.ask("stop");
      const { report: second, to: last } = await arrived(bed, to, "c", { options: ["--skip-free"] });
      expect(second.hints).toBeUndefined();
      expect(second.hintedPages).toBe(0);
      expect(await last.status()).toBe("paused");
      await last.check();
      await last.ask("cont");
      await last.goesOn();
    }));

  test("is rehearsed with and measured, and goes on as before; its next move asks anew", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...SMALL, "--habit", "reuse");
      await bed.expectDone("rehearse", "a", "--bandwidth", "1Gbit/s");
      expect({ status: await guest.status(), tracked: await guest.isTracked() }).toEqual({
        status: "running",
        tracked: false,
      });
      await guest.goesOn();
      await bed.expectDone("forecast", "a", "--bandwidth", "1Gbit/s");
      await guest.goesOn();
      const { report, to } = await arrived(bed, guest, "b", { options: SOME_RATE });
      expect(report.hints).toBeDefined();
      expect((await to.goesOn()).reused).toBeGreaterThan(0);
    }));
});

kvm(title("a stream that says that its guest is being asked"), () => {
  /** Of the balloon's state, behind its name and two numbers: registers and five queues; wanted, actual; then what it was told. */
  const INTERRUPT_AT = 8 + 1;
  const COMMAND_AT = 8 + 30 + 5 * 35 + 8;

  test("is taken, and what the guest goes on naming does not count: nobody has asked it here", () =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...LARGE, ...SLOWLY);
      const cli = bed.start(["migrate", "a", "file:stream", "--max-bandwidth", "64MiB/s"]);
      await nameLate(guest, 20 * PAGES_PER_MIB, 0.2);
      await guest.ask("stop");
      const { free } = await guest.freePages();
      expect(free).toBeLessThan(LARGE_FREE * 0.8); // it has more to say
      await limit(guest, 0);
      expect(await cli.code).toBe(0);

      const stream = readFileSync(bed.path("stream"));
      const name = "tram/balloon";
      const at = stream.indexOf(Buffer.from([name.length, ...Buffer.from(name)])) + 1 + name.length;
      const [command, last] = [0, 4].map((i) => stream.readUInt32BE(at + COMMAND_AT + i));
      expect({ command, last }).toEqual({ command: 1, last: 2 }); // the request is over
      stream.writeUInt32BE(last, at + COMMAND_AT);
      stream[at + INTERRUPT_AT] = 0; // it does not look
      writeFileSync(bed.path("stream"), stream);

      const taken = await FreeGuest.at(bed, "b", bed.start(["run", "--incoming", "file:stream", "--name", "b"]));
      await taken.until(async () => (await taken.status()) === "paused", "has arrived");
      await taken.ask("cont");
      for (let n = 0; n < 20; n++) await taken.goesOn(); // long enough to name some more
      expect((await taken.freePages()).free).toBe(0);
      const { report, to } = await arrived(bed, taken, "c", { options: ["--max-bandwidth", "60MiB/s"] });
      expect(report.hints).toBeDefined();
      await to.goesOn();
    }));
});

kvm(title("what cannot be"), () => {
  test.each<[string, string[], string]>([
    ["a habit that there is not", ["--habit", "x"], "--habit: there is no 'x'"],
    ["more cache than is free", ["--free", "16M", "--cache", "32M"], "--cache is a part of --free"],
    ["cache where nothing is free", ["--cache", "4K"], "--cache is a part of --free"],
    ["more that is free than there is", ["--free", "64M"], "does not fit the guest's memory"],
    ["free pages without KVM", ["--free", "16M", "--accel", "none"], "--balloon and --free"],
    ["a balloon without KVM", ["--balloon", "--accel", "none"], "--balloon and --free"],
  ])("%s: exit 2", (_, options, words) =>
    inBed(async (bed) => {
      const { code, stderr } = await bed.tram("run", "--guest", "walker", "--memory", "64M", ...options);
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(words) });
    }),
  );

  test.each<[string, string[], string]>([
    ["both wishes", ["--skip-free", "--no-skip-free"], "exclude each other"],
    ["a page cache that is neither kept nor dropped", ["--page-cache", "x"], "--page-cache: 'x' is not known"],
  ])("%s: exit 2, and the guest is not touched", (_, options, words) =>
    inBed(async (bed) => {
      const guest = await FreeGuest.walker(bed, "a", ...SMALL);
      for (const command of [
        ["migrate", "a", "file:x"],
        ["save", "a", "x"],
      ]) {
        const { code, stderr } = await bed.tram(...command, ...options);
        expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(words) });
      }
      expect(await guest.status()).toBe("running");
    }),
  );
});

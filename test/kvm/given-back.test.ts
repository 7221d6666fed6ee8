// A move that ends before its hand-over gives the guest back: it runs, untracked, at its own pace; whatever ended the move, wherever
// that was, and whatever carried it. And its limits can be changed everywhere.
import { afterAll, describe, expect, test } from "bun:test";
import { freePort, inBed, openFds, type Running, threads, whyNoKvm } from "../support/bed.ts";
import { seeded } from "../support/golden.ts";
import {
  ENDLESS,
  type Far,
  HANG_MS,
  held,
  OVER,
  type Over,
  PLACES,
  type Place,
  phaseOf,
  Source,
} from "../support/held-move.ts";
import { StallingLink } from "../support/stalling-link.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;
const MIB = 1 << 20;

/** How long things took: printed, and not judged. */
const figures = new Map<string, { ms: number; where: string }[]>();
const note = (what: string, ms: number, where = "") => figures.set(what, [...(figures.get(what) ?? []), { ms, where }]);
afterAll(() => {
  for (const [what, all] of figures) {
    const sorted = all.toSorted((a, b) => a.ms - b.ms).map(({ ms, where }) => `${ms.toFixed(0)} ms${where}`);
    process.stdout.write(`${what}: ${all.length}, median ${sorted[all.length >> 1]}, most ${sorted.at(-1)}\n`);
  }
});

/** ENDLESS, as a guest's process is told of it. */
const LIMITS = { maxBandwidthBytesPerSec: 64 * MIB, maxDowntimeMs: 1 };

interface Ending {
  code: number;
  end(source: Source, cli: Running): unknown;
}

const signal = (name: NodeJS.Signals, code: number): Ending => ({ code, end: (_, cli) => cli.kill(name) });
const ASKED: Record<string, Ending> = {
  cancel: { code: 5, end: (source) => source.ask("migrate_cancel") },
  "Ctrl-C": signal("SIGINT", 130),
  "a closed terminal": signal("SIGHUP", 130),
};
/** It has passed the channel: the move ends with it. */
const DIED: Record<string, Ending> = { "the client's death": signal("SIGKILL", 128) };

kvm(title("a guest is given back"), () => {
  test.each<[Over, readonly Place[], Record<string, Ending>]>([
    ["tcp", PLACES, ASKED],
    ["unix", PLACES, ASKED],
    ["two channels", PLACES.slice(1), ASKED],
    ["a pipe", PLACES.slice(1), { ...ASKED, ...DIED }],
    ["exec:", ["later round", "device"], { "Ctrl-C": ASKED["Ctrl-C"], ...DIED }],
  ])(
    "wherever its move over %s is ended",
    (over, places, endings) =>
      inBed(async (bed) => {
        const source = await Source.start(bed, over === "tcp" || over === "two channels" ? 64 : 32);
        for (const place of places)
          for (const [ending, { end, code }] of Object.entries(endings)) {
            const { cli, far } = await held(bed, source, over, place);
            void end(source, cli);
            note(`given back over ${over}`, await source.back(), `, ${place}, ${ending}`);
            far.running.kill("SIGKILL");
            const { phase, owner, trace } = await source.move();
            expect({ place, ending, code: await cli.code, phase, owner, was: trace?.at(-2)?.phase }).toEqual({
              ...{ place, ending, code, phase: "cancelled", owner: "source", was: phaseOf(place) },
            });
            await source.goesOn();
          }
      }),
    60_000,
  );

  test.each<[Over]>([["tcp"], ["two channels"]])(
    "by a move over %s that has outlived its client",
    (over) =>
      inBed(async (bed) => {
        const source = await Source.start(bed);
        const { cli, goOn } = await held(bed, source, over, "bulk pass");
        cli.kill("SIGKILL");
        await cli.code;
        goOn();
        await bed.until(async () => ((await source.move()).roundsDone ?? 0) > 1, "the move goes on");
        await source.ask("migrate_cancel");
        note("given back without a client", await source.back());
        await source.goesOn();
      }),
    60_000,
  );

  test.each<[Over, Place]>([
    ["tcp", "later round"],
    ["tcp", "device"],
    ["two channels", "device"],
    ["a pipe", "bulk pass"],
    ["a pipe", "device"],
  ])(
    "when the time is over: over %s, %s",
    (over, place) =>
      inBed(async (bed) => {
        const source = await Source.start(bed, 32);
        const { cli, far } = await held(bed, source, over, place, "--timeout", "2s");
        await source.back();
        const { phase, error, trace = [] } = await source.move();
        const [began, ended] = [trace.find((one) => one.phase === "setup")?.atMs, trace.at(-1)?.atMs];
        note("given back behind --timeout", (ended as number) - (began as number) - 2000);
        far.running.kill("SIGKILL");
        expect({ phase, code: error?.code, exit: await cli.code }).toEqual({
          ...{ phase: "failed", code: "E_TIMED_OUT", exit: 6 },
        });
        await source.goesOn();
      }),
    60_000,
  );

  test(
    "a hundred times, and is the same as before",
    () =>
      inBed(async (bed) => {
        const random = seeded(100);
        const source = await Source.start(bed, 16); // it comes into later rounds sooner
        const { pid } = source.running;
        const overs = ["tcp", "unix", "two channels", "a pipe"] as const;
        const plan: [Over, number][] = Array.from({ length: 100 }, () => [overs[random(overs.length)], random(300)]);
        const cancelled = async (over: Over, far: Far, afterMs: number) => {
          // What a client passes ends with it; what a guest's process opens itself needs none.
          const cli = over === "a pipe" ? far.move(ENDLESS) : null;
          const channels = over === "two channels" ? 2 : 0;
          if (!cli) await source.ask("migrate", { uri: far.uri, tram: { ...LIMITS, channels } });
          const hasBegun = async () => !["cancelled", undefined].includes((await source.move()).phase);
          await bed.until(hasBegun, "it begins", cli ?? source.running);
          await Bun.sleep(afterMs);
          await source.ask("migrate_cancel");
          const ms = await source.back();
          const { trace = [], roundsDone = 0 } = await source.move();
          const place = roundsDone > 0 ? "later round" : String(trace.at(-2)?.phase);
          note("given back, of a hundred", ms, `, ${over}, ${place}`);
          if (cli) expect(await cli.code).toBe(5);
          far.running.kill("SIGKILL");
          return place;
        };
        for (const over of overs) await cancelled(over, await OVER[over](bed), 200); // starts what the others use again
        const pace = await source.pace();
        const open = () => JSON.stringify({ fds: openFds(pid), threads: threads(pid) });
        const before = open();
        const places: Record<string, number> = {};
        let ahead = OVER[plan[0][0]](bed);
        for (const [n, [over, afterMs]] of plan.entries()) {
          const far = await ahead;
          ahead = OVER[plan[n + 1]?.[0] ?? "a pipe"](bed); // beside this move
          const place = await cancelled(over, far, afterMs);
          places[place] = (places[place] ?? 0) + 1;
        }
        await ahead;
        expect(await source.state()).toMatchObject({ status: "running", tracking: false, throttlePercent: 0 });
        await bed.until(async () => open() === before, `as before: ${before}`);
        await bed.goesOn("a");
        const paceAfter = await source.pace();
        process.stdout.write(`cancelled in: ${JSON.stringify(places)}\n`);
        process.stdout.write(`pages for each second of its CPU: ${pace.toFixed(0)}, then ${paceAfter.toFixed(0)}\n`);
        expect(paceAfter).toBeGreaterThan(pace / 2);
      }),
    120_000,
  );
});

kvm(title("the limits of a move can be changed"), () => {
  test.each(PLACES)(
    "in its phase: %s",
    (place) =>
      inBed(async (bed) => {
        const source = await Source.start(bed);
        const { cli, far, goOn } = await held(bed, source, "tcp", place);
        await bed.expectDone("set", "a", "max-bandwidth=8MiB/s", "max-downtime=10m");
        goOn();
        // With a downtime so long a later round is the last but one, and the last is not kept waiting.
        if (place !== "later round" && place !== "device") {
          await bed.until(async () => (await source.move()).phase === "active", "it goes on", cli);
          await Bun.sleep(500); // what was on its way when the limit came
          const { bytes: before = 0 } = await source.move();
          await Bun.sleep(600);
          const { bytes = 0, roundsDone } = await source.move();
          expect(roundsDone).toBe(0);
          expect(bytes).toBeGreaterThan(before);
          expect(bytes - before).toBeLessThan(2 * 8 * MIB);
          await bed.expectDone("set", "a", "max-bandwidth=none");
        }
        expect(await cli.code).toBe(0); // else a millisecond would still be all that it may stand still
        await bed.goesOn(far.name);
      }),
    60_000,
  );

  test(
    "and are seen in what arrives",
    () =>
      inBed(async (bed) => {
        const source = await Source.start(bed, 32);
        const port = freePort();
        await bed.target("b", `tcp:127.0.0.1:${port}`);
        const link = await StallingLink.start(port);
        const seen: { ms: number; bytes: number }[] = [];
        const bytes = () => link.bytes.reduce((sum, one) => sum + one, 0);
        const clock = setInterval(() => seen.push({ ms: performance.now(), bytes: bytes() }), 2);
        try {
          const [slow, fast] = [8, 64];
          const cli = bed.start(["migrate", "a", `tcp:127.0.0.1:${link.port}`, ...ENDLESS]);
          await bed.until(async () => ((await source.move()).roundsDone ?? 0) > 0, "a later round", cli);
          const ways: [string, (mib: number) => Promise<unknown>][] = [
            ["tram set, its start included", (mib) => bed.expectDone("set", "a", `max-bandwidth=${mib}MiB/s`)],
            ["tram-set", (mib) => source.ask("tram-set", { maxBandwidthBytesPerSec: mib * MIB })],
          ];
          const at = (ms: number) => seen.find((one) => one.ms >= ms)?.bytes ?? Number.POSITIVE_INFINITY;
          for (const [way, set] of [...ways, ...ways]) {
            const lessMs = performance.now();
            await set(slow);
            await Bun.sleep(800);
            // Half a second that brings no more than twice what it may.
            const isSlow = ({ ms }: { ms: number }) => ms >= lessMs && at(ms + 500) - at(ms) <= slow * MIB;
            note(`less seen by ${way}`, (seen.find(isSlow)?.ms ?? Number.POSITIVE_INFINITY) - lessMs);
            const moreMs = performance.now();
            const from = bytes();
            await set(fast);
            await Bun.sleep(400);
            // More than could have come, a batch and a burst included.
            const isFast = (one: { ms: number; bytes: number }) =>
              one.ms >= moreMs && one.bytes - from > slow * MIB * ((one.ms - moreMs) / 1000 + 0.35);
            note(`more seen by ${way}`, (seen.find(isFast)?.ms ?? Number.POSITIVE_INFINITY) - moreMs);
          }
          for (const [what, all] of figures)
            if (what.includes("seen")) for (const { ms } of all) expect(ms).toBeLessThan(HANG_MS);
          await source.ask("migrate_cancel");
          await source.back();
        } finally {
          clearInterval(clock);
          link.stop();
        }
      }),
    60_000,
  );
});

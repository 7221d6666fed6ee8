// Guests that use their free pages again while they move, many times, each time in another way: no page is lost. What a run does is
// drawn from its row's seed; how long anything takes is not, so that no two runs meet in the same place.
import { describe, expect, test } from "bun:test";
import { HABITS, type Habit } from "../../src/machine/boot.ts";
import { type Bed, inBed, whyNoKvm } from "../support/bed.ts";
import {
  cameLater,
  FreeGuest,
  isAsked,
  type Move,
  type MovePlan,
  moved,
  OVER,
  type Over,
} from "../support/free-guest.ts";
import { seeded } from "../support/golden.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

/** Moves of all rows together; each takes about half a second. */
const MOVES = Number(process.env.TRAM_TEST_MOVES ?? 200);
/** With fewer a row may happen not to meet what it is there for. */
const MOVES_TELLING = 150;

/** Most of it is free; what is walked fits the downtime limit at any of the bandwidths below. Late answers need a longer bulk pass. */
const walker = (habit: Habit): string[] => {
  const [memory, free] = habit === "late" ? ["64M", "48M"] : ["32M", "20M"];
  return ["--memory", memory, "--free", free, "--working-set", "4M", "--fill", "random", "--habit", habit];
};
const RATES = ["1000", "max", "20", "4000"];

interface Row {
  habit: Habit;
  tracking: string;
  cpus: number;
  rate: string;
  seed: number;
}
/**
 * A ring of so many entries has room for each of the guest's pages; but some kernels enter a page each time that it is written, and a host
 * that has other things to do as well then empties it too late. What becomes of a move then, others test: here no ring runs over.
 */
const rateFor = (tracking: string, rate: string): string => (tracking !== "log" && rate === "max" ? "8000" : rate);
const ROWS: Row[] = ["log", "ring=65536"].flatMap((tracking, t) =>
  [1, 2].flatMap((cpus, c) =>
    HABITS.map((habit, h) => ({
      habit,
      tracking,
      cpus,
      rate: rateFor(tracking, RATES[(h + t + 2 * c) % 4]),
      seed: 12 * t + 6 * c + h,
    })),
  ),
);

const MIB = 1 << 20;
type Random = (below: number) => number;
const bandwidth = (random: Random) => ["--max-bandwidth", `${25 + random(150)}MiB/s`];
/** The move may be over by then. */
const tried = (guest: FreeGuest, command: string, args?: object) => guest.ask(command, args).catch(() => {});

/** What happens to a move. */
const EVENTS: Record<string, (random: Random) => MovePlan> = {
  nothing: (random) => ({ options: bandwidth(random) }),
  "no limit": () => ({}),
  "no question": (random) => ({ options: ["--no-skip-free", ...bandwidth(random)] }),
  "a pause": (random) => {
    const [beforeMs, pausedMs] = [random(250), random(120)];
    return {
      options: bandwidth(random),
      during: async (from) => {
        await isAsked(from);
        await Bun.sleep(beforeMs);
        await tried(from, "stop");
        await Bun.sleep(pausedMs);
        await tried(from, "cont");
      },
    };
  },
  "a pause that lasts": (random) => {
    const beforeMs = random(250);
    return {
      options: bandwidth(random),
      during: async (from) => {
        await isAsked(from);
        await Bun.sleep(beforeMs);
        await tried(from, "stop");
      },
    };
  },
  "other limits": (random) => {
    const steps = Array.from({ length: 4 }, () => ({ ms: random(80), mib: 10 + random(190) }));
    return {
      options: ["--max-bandwidth", "25MiB/s"],
      during: async (from) => {
        await isAsked(from);
        for (const { ms, mib } of steps) {
          await Bun.sleep(ms);
          await tried(from, "tram-set", { maxBandwidthBytesPerSec: mib * MIB });
        }
      },
    };
  },
  "standing still when its time is over": (random) => ({
    options: ["--timeout", `${1 + random(400)}ms`, "--on-timeout", "pause", ...bandwidth(random)],
  }),
  "being slowed down when its time is over": (random) => ({
    options: ["--timeout", `${1 + random(400)}ms`, "--on-timeout", "throttle", ...bandwidth(random)],
  }),
  "being held": (random) => {
    const heldMs = random(200);
    return {
      options: ["--hold", ...bandwidth(random)],
      during: async (from) => {
        await from.until(async () => (await from.move()).phase === "held", "is held");
        await Bun.sleep(heldMs);
        await from.ask("tram-set", { hold: false });
      },
    };
  },
};
const NAMES = Object.keys(EVENTS);

/** Ends a move somewhere in the middle; null if it was there before. */
async function cancelled(
  bed: Bed,
  from: FreeGuest,
  name: string,
  plan: MovePlan,
  afterMs: number,
): Promise<Move | null> {
  const during = async () => {
    await isAsked(from);
    await Bun.sleep(afterMs);
    await tried(from, "migrate_cancel");
  };
  const move = await moved(bed, from, name, { ...plan, during });
  if (move.to) return move;
  expect({ code: move.code, outcome: move.report.outcome }).toEqual({ code: 5, outcome: "cancelled" });
  expect({ status: await from.status(), tracked: await from.isTracked() }).toEqual({
    status: "running",
    tracked: false,
  });
  await from.check();
  return null;
}

interface Sums {
  moves: number;
  cancelled: number;
  hinted: number;
  reported: number;
  cameLater: number;
  resent: number;
  reused: number;
}
const sums = new Map<Habit, Sums>();
const sumsOf = (habit: Habit): Sums => {
  const none = { moves: 0, cancelled: 0, hinted: 0, reported: 0, cameLater: 0, resent: 0, reused: 0 };
  if (!sums.has(habit)) sums.set(habit, none);
  return sums.get(habit) as Sums;
};

/** What a move must have been, and what it adds to the sums. */
function take({ report, to, code, stderr }: Move, habit: Habit): FreeGuest {
  const { outcome, error, hints, hintedPages, reportedPages, resentPages } = report;
  expect({ code, outcome, error, stderr: code ? stderr : "" }).toEqual({ ...{ code: 0, outcome: "completed", error: null, stderr: "" } }); // biome-ignore format: one line
  if (!to) throw new Error("it is where it was");
  const later = cameLater(report);
  expect(later).toBeGreaterThanOrEqual(0);
  if (habit === "keep") expect(later).toBe(0); // each of its pages was either sent or left out
  if (habit === "stale" || habit === "silent") {
    expect(hintedPages).toBe(0);
    if (hints) expect(hints).toMatchObject({ hasBegun: false, hasEnded: false, pages: 0 });
  }
  const all = sumsOf(habit);
  all.moves++;
  all.hinted += hintedPages;
  all.reported += reportedPages;
  all.cameLater += later;
  all.resent += resentPages;
  return to;
}

kvm(title(`no page is lost in ${MOVES} moves`), () => {
  test.each(ROWS.map((row, i) => ({ ...row, i })))(
    "of a walker that answers by habit $habit, $cpus CPUs, tracked by $tracking, at $rate pages a second",
    ({ habit, tracking, cpus, rate, seed, i }) =>
      inBed(async (bed) => {
        const count = Math.floor((MOVES + ROWS.length - 1 - i) / ROWS.length);
        const random = seeded(seed);
        const how = ["--dirty-tracking", tracking];
        const options = [...walker(habit), ...how, "--cpus", `${cpus}`, "--dirty-rate", rate];
        let guest = await FreeGuest.walker(bed, "g0", ...options);
        for (let n = 1; n <= count; n++) {
          const over: Over = OVER[random(OVER.length)];
          // What was reported as free is only seen where nobody asks, and where it was reported.
          const event = habit === "report" && n === 1 ? "no question" : NAMES[random(NAMES.length)];
          const plan = { over, target: how, ...EVENTS[event](random) };
          const isCancelled = random(4) === 0;
          const cancelMs = random(250);
          const where = `${habit}, row ${i}, move ${n}: ${over}, ${event}`;
          try {
            const slow = { over, target: how, options: bandwidth(random) };
            const early = isCancelled ? await cancelled(bed, guest, `c${n}`, slow, cancelMs) : null;
            if (isCancelled && !early) sumsOf(habit).cancelled++;
            guest = take(early ?? (await moved(bed, guest, `g${n}`, plan)), habit);
            if ((await guest.status()) === "paused") {
              await guest.check();
              await guest.ask("cont");
            }
            sumsOf(habit).reused += (await guest.goesOn()).reused;
          } catch (error) {
            throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
          }
        }
      }),
    120_000,
  );

  test.skipIf(MOVES < MOVES_TELLING)("and they were what they were meant to be", () => {
    for (const [habit, all] of sums) process.stdout.write(`${habit}: ${JSON.stringify(all)}\n`);
    expect([...sums.values()].reduce((sum, { moves }) => sum + moves, 0)).toBe(MOVES);
    for (const habit of HABITS) {
      const { resent, hinted, cameLater, reused, reported } = sumsOf(habit);
      const isBusy = habit === "reuse" || habit === "late" || habit === "report";
      expect({
        habit,
        resent: resent > 0,
        hinted: hinted > 0,
        cameLater: cameLater > 0,
        reused: reused > 0,
        reported: reported > 0,
      }).toEqual({
        habit,
        resent: true,
        hinted: isBusy || habit === "keep",
        cameLater: isBusy,
        reused: isBusy,
        reported: habit === "report",
      });
    }
  });
});

// The seventh part of make bench: what a guest sees of being tracked and moved. A walker that writes as fast as it can is looked
// at each millisecond, at the source and at the target, by the host's one monotonic clock. Prints each sample as a line of JSON,
// writes STALLS.md. BENCH_QUICK=1: few rounds, into build/bench/.
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import type { FinalReport } from "../../src/cli/report.ts";
import type { Pace } from "../../src/control/pace.ts";
import { type Bed, freePort, inBed } from "../support/bed.ts";
import { FaultFs, whyNoFaultFs } from "../support/faultfs.ts";
import { contest, type Extent, environment, monotonicMs } from "./contest.ts";
import { perMs, Watch } from "./looks.ts";
import { spread, table } from "./stats.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const EXTENT: Extent = { rounds: QUICK ? 2 : 5, seconds: Number.POSITIVE_INFINITY };
const RESULTS = QUICK
  ? resolve(import.meta.dir, "../../build/bench/STALLS.quick.md")
  : join(import.meta.dir, "STALLS.md");
const WALKER = ["--working-set", "64M", "--dirty-rate", "max", "--fill", "random", "--prealloc"];
const ALONE_MS = 2000;
const AFTER_MS = 500;

interface Tracked {
  alone: Pace;
  /** In the 100 ms from when tracking was asked for: it is switched on there. */
  on: Pace;
  tracked: Pace;
}

/** A while without, a second with, a while without. */
function tracked(how: string, mib: number): Promise<Tracked> {
  return once(async (bed) => {
    await bed.walker("a", "--memory", `${mib}M`, ...WALKER, "--dirty-tracking", how);
    const watch = new Watch(bed, "a", 3 * ALONE_MS);
    await Bun.sleep(ALONE_MS);
    const fromMs = monotonicMs();
    await bed.expectDone("dirty-rate", "a", "--for", "1s");
    const toMs = monotonicMs();
    const looks = await watch.looks();
    return {
      alone: looks.between(looks.startMs, fromMs),
      on: looks.between(fromMs, fromMs + 100),
      tracked: looks.between(fromMs, toMs),
    };
  });
}

interface Moved {
  /** By the guest: from the last step at the source to the first one at the target. */
  seenMs: number;
  downtimeMs: number;
  partsMs: Record<string, number>;
  alone: Pace;
  /** From the command's start to the guest's last step at the source. */
  moving: Pace;
  elapsedMs: number;
  /** What it would have written in the time of the move, less what it has: in seconds of its own pace. */
  lostSeconds: number;
}

function moved(how: string, ...options: string[]): Promise<Moved> {
  return once(async (bed) => {
    await bed.walker("a", "--memory", "512M", ...WALKER, "--dirty-tracking", how);
    const uri = `tcp:127.0.0.1:${freePort()}`;
    await bed.target("b", uri, "--memory", "512M", "--prealloc", "--dirty-tracking", how);
    const source = new Watch(bed, "a", 60_000);
    await Bun.sleep(ALONE_MS);
    const fromMs = monotonicMs();
    const command = bed.tram("migrate", "a", uri, "--json", ...options);
    await bed.until(async () => (await bed.tram("pace", "b", "--for", "1ms")).code === 0, "its machine is there");
    const target = new Watch(bed, "b", 60_000);
    const { stdout } = await command;
    const report: FinalReport = JSON.parse(stdout.trim().split("\n").at(-1) as string);
    if (report.outcome !== "completed") throw new Error(`the move: ${JSON.stringify(report.error)}`);
    await Bun.sleep(AFTER_MS);
    await bed.expectDone("quit", "b");
    const [before, after] = [await source.looks(), await target.looks()];
    const lastAt = before.when(before.steps);
    const firstAt = after.when(before.steps + 1);
    const alone = before.between(before.startMs, fromMs);
    const moving = before.between(fromMs, lastAt);
    return {
      seenMs: firstAt - lastAt,
      downtimeMs: report.downtimeMs as number,
      partsMs: report.downtimePartsMs,
      alone,
      moving,
      elapsedMs: report.elapsedMs,
      lostSeconds: (firstAt - fromMs - moving.steps / perMs(alone)) / 1000,
    };
  });
}

interface Saved {
  elapsedMs: number;
  downtimeMs: number;
  alone: Pace;
  saving: Pace;
  lostSeconds: number;
}

const SAVED = ["--memory", "128M", "--working-set", "16M", "--fill", "random", "--prealloc"];
const DISK_BYTES_PER_SEC = 100 * 2 ** 20;

/** Into a file on a slow disk. `blocking`: while anything is written, the guest stands still. */
function saved(rate: string, blocking: boolean): Promise<Saved> {
  const env: Record<string, string> = blocking ? { TRAM_BLOCK_GUEST: "1" } : {};
  return once(async (bed) => {
    const disk = await FaultFs.mount();
    try {
      await disk.slow(DISK_BYTES_PER_SEC);
      await bed.walker("a", ...SAVED, "--dirty-rate", rate);
      const watch = new Watch(bed, "a", 60_000);
      await Bun.sleep(ALONE_MS);
      const fromMs = monotonicMs();
      const options = ["--after", "resume", "--channels", "1", "--direct-io", "off", "--max-downtime", "500ms"];
      const { stdout, stderr } = await bed.tram("save", "a", disk.path("a.tram"), ...options, "--json");
      const toMs = monotonicMs();
      const report = JSON.parse(stdout.trim().split("\n").at(-1) ?? "{}");
      if (report.outcome !== "completed") throw new Error(`the save: ${stdout}${stderr}`);
      await bed.expectDone("quit", "a");
      const looks = await watch.looks();
      const alone = looks.between(looks.startMs, fromMs);
      const saving = looks.between(fromMs, toMs);
      const lostSeconds = (toMs - fromMs - saving.steps / perMs(alone)) / 1000;
      return { elapsedMs: report.elapsedMs, downtimeMs: report.downtimeMs, alone, saving, lostSeconds };
    } finally {
      await disk.stop();
    }
  }, env);
}

async function once<T>(action: (bed: Bed) => Promise<T>, env: Record<string, string> = {}): Promise<T> {
  let result: T | undefined;
  await inBed(async (bed) => {
    result = await action(bed);
  }, env);
  return result as T;
}

const about = await environment(null);
const tracks = await contest<Tracked>(
  "tracked",
  {
    "log, 256 MiB": () => tracked("log", 256),
    "ring, 256 MiB": () => tracked("ring", 256),
    "log, 4 GiB": () => tracked("log", 4096),
    "ring, 4 GiB": () => tracked("ring", 4096),
  },
  EXTENT,
);
const moves = await contest<Moved>(
  "moved",
  {
    log: () => moved("log"),
    ring: () => moved("ring"),
    "log, 2 channels": () => moved("log", "--channels", "2"),
    "log, 200 MiB/s": () => moved("log", "--max-bandwidth", "200MiB/s"),
    "log, 50 MiB/s, throttled": () =>
      moved("log", "--max-bandwidth", "50MiB/s", "--timeout", "1ms", "--on-timeout", "throttle"),
  },
  EXTENT,
);

const whyNoDisk = whyNoFaultFs();
const saves = whyNoDisk
  ? {}
  : await contest<Saved>(
      "saved",
      {
        "idle, beside the guest": () => saved("100", false),
        "idle, blocking it": () => saved("100", true),
        "busy, beside the guest": () => saved("max", false),
        "busy, blocking it": () => saved("max", true),
      },
      EXTENT,
    );

const figures = <T>(samples: T[], digits: number, pick: (one: T) => number): string =>
  spread(samples.map(pick), digits);
const savedRows = Object.entries(saves).map(([name, samples]) => [
  name,
  figures(samples, 2, ({ elapsedMs }) => elapsedMs / 1000),
  figures(samples, 0, ({ saving }) => saving.stallMs),
  figures(samples, 0, ({ downtimeMs }) => downtimeMs),
  figures(samples, 0, ({ alone }) => alone.stallMs),
  figures(samples, 2, ({ lostSeconds }) => lostSeconds),
]);
const trackedRows = Object.entries(tracks).map(([name, samples]) => [
  name,
  figures(samples, 1, ({ alone }) => alone.stallMs),
  figures(samples, 1, ({ on }) => on.stallMs),
  figures(samples, 1, ({ tracked }) => tracked.stallMs),
  figures(samples, 1, ({ alone }) => perMs(alone)),
  figures(samples, 1, ({ tracked }) => perMs(tracked)),
]);
const movedRows = Object.entries(moves).map(([name, samples]) => [
  name,
  figures(samples, 2, ({ elapsedMs }) => elapsedMs / 1000),
  figures(samples, 0, ({ downtimeMs }) => downtimeMs),
  figures(samples, 1, ({ seenMs }) => seenMs),
  figures(samples, 1, ({ seenMs, downtimeMs }) => seenMs - downtimeMs),
  figures(samples, 1, ({ moving }) => moving.stallMs),
  figures(samples, 1, ({ alone }) => alone.stallMs),
  figures(samples, 2, ({ lostSeconds }) => lostSeconds),
]);
const QUANTILES = ["p1", "p50", "p99", "max"] as const;
const paceRows = Object.entries(moves).flatMap(([name, samples]) =>
  (["alone", "moving"] as const).map((when) => [
    `${name}, ${when}`,
    ...QUANTILES.map((quantile) => figures(samples, 1, (one) => one[when].stepsPerMs[quantile])),
  ]),
);
const partNames = [
  ...new Set(Object.values(moves).flatMap((samples) => samples.flatMap(({ partsMs }) => Object.keys(partsMs)))),
];
const partRows = Object.entries(moves).map(([name, samples]) => [
  name,
  ...partNames.map((part) =>
    spread(
      samples.map(({ partsMs }) => partsMs[part] ?? 0),
      0,
    ),
  ),
]);

mkdirSync(resolve(RESULTS, ".."), { recursive: true });
await Bun.write(
  RESULTS,
  `# Results of \`make bench\`: what the guest sees

A walker that writes its 64 MiB as fast as it can, looked at each millisecond, at the source and at the target, by the host's one
monotonic clock; ${EXTENT.rounds} rounds of all rows, medians and spread. A stall is the longest time between two steps, which are
some tens of microseconds apart; two cores carry the guest, whoever looks, and both ends of the move, so that a few milliseconds
come from the scheduler alone, as the columns *alone* show.

${about}

## Tracked

\`tram dirty-rate --for 1s\`: its writes are tracked, and not sent. **on**: within 100 ms of asking for it.

${table(["", "stall alone, ms", "stall on, ms", "stall tracked, ms", "steps/ms alone", "steps/ms tracked"], trackedRows)}

## Moved

512 MiB over \`tcp:\` on one host, the target's memory preallocated. **seen**: from the guest's last step at the source to its first
at the target; **less reported**: what of that the report's \`downtimeMs\` does not have (a look is a millisecond; a guest that is
throttled may have been resting when it was stopped). **stall**: the
longest outside the downtime, from the command's start on. **lost**: what the guest would have written in the time of the move at its
pace before, less what it has written, in seconds.

${table(["", "move, s", "downtime reported, ms", "seen, ms", "less reported, ms", "stall, ms", "stall alone, ms", "lost, s"], movedRows)}

Steps in each millisecond, until the guest stops:

${table(["", ...QUANTILES], paceRows)}

The parts of the downtime, ms; in each report they sum to the whole.

${table(["", ...partNames], partRows)}

## Saved to a slow disk

128 MiB, of which the guest writes 16, by \`tram save --after resume\` to a file system (FUSE) that takes ${DISK_BYTES_PER_SEC >> 20} MiB/s.
**beside the guest**: as it is. **blocking it**: the same, but the guest stands still while anything is written, as where a migration
holds the lock that the guest needs. An idle walker takes 20 ms between two groups of pages of its own accord.

${whyNoDisk ?? table(["", "save, s", "longest stall, ms", "downtime of it, ms", "stall alone, ms", "lost, s"], savedRows)}
`,
);

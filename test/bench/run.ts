// make bench: measures, prints each sample as a line of JSON, writes RESULTS.md. Aims that are missed fail nothing.
import { mkdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { moveBare } from "./bare.ts";
import {
  type Contestants,
  contest,
  environment,
  GIB,
  MIB,
  PAIRS,
  print,
  rxCpu,
  type Samples,
  scratchFolder,
  speeds,
  txCpu,
} from "./contest.ts";
import type { Exits } from "./exits.ts";
import type { Placement, Sample, Scheme } from "./measure.ts";
import { fillFile, moveQemu, type QemuOptions, qemuVersion } from "./qemu.ts";
import { median, quantile, ratios, spread, table, verdict } from "./stats.ts";
import { moveTram, startTram } from "./tram.ts";

const STARTS = 20;
const RESULTS = process.env.BENCH_RESULTS ?? join(import.meta.dir, "RESULTS.md");
const IOVECS = [1, 16, 64, 128, 1024];
const AIM = { speed: 0.9, cpu: 1.15, extraMib: 80, startMs: 40 };

const wholeSpeeds = (samples: Sample[]) => samples.map((one) => one.bytes / GIB / (one.wholeSeconds ?? one.seconds));
const bothCpu = (samples: Sample[]) => txCpu(samples).map((tx, i) => tx + rxCpu(samples)[i]);

function moveTable(samples: Samples, base: string): string {
  const head = ["", "GiB/s", "tx CPU s/GiB", "rx CPU s/GiB", `speed ÷ ${base}`, `CPU ÷ ${base}`];
  const to = samples[base];
  const rows = Object.entries(samples).map(([name, of]) => [
    name,
    spread(speeds(of)),
    spread(txCpu(of), 3),
    spread(rxCpu(of), 3),
    spread(ratios(speeds(of), speeds(to))),
    spread(ratios(bothCpu(of), bothCpu(to))),
  ]);
  return table(head, rows);
}

function aims(title: string, { tram, bare, copying, QEMU }: Samples): string[][] {
  const speed = median(ratios(speeds(tram), speeds(bare)));
  const cpu = median(ratios(bothCpu(tram), bothCpu(bare)));
  const gained = median(ratios(bothCpu(tram), bothCpu(copying)));
  const rows = [
    [`${title}: speed ÷ bare`, `≥ ${AIM.speed}`, speed.toFixed(2), verdict(speed >= AIM.speed)],
    [`${title}: CPU ÷ bare`, `≤ ${AIM.cpu}`, cpu.toFixed(2), verdict(cpu <= AIM.cpu)],
    [`${title}: CPU ÷ copying buffer`, "< 1", gained.toFixed(2), verdict(gained < 1)],
  ];
  if (!QEMU) return [...rows, [`${title}: whole move ÷ QEMU`, "≥ 1", "QEMU is not installed", "skipped"]];
  const toQemu = median(ratios(wholeSpeeds(tram), speeds(QEMU)));
  return [...rows, [`${title}: whole move ÷ QEMU`, "≥ 1", toQemu.toFixed(2), verdict(toQemu >= 1)]];
}

async function main(folder: string, ramFolder: string): Promise<void> {
  const qemu = await qemuVersion();
  const host = await environment(qemu);
  const ram = join(ramFolder, "ram");
  if (qemu) fillFile(ram, MIB);
  const places: Placement[] = availableParallelism() > 1 ? ["free", "apart"] : ["free"];
  const options = (scheme: Scheme, placement: Placement) => ({ scheme, placement, mib: MIB, folder, ram });
  const withQemu = (base: QemuOptions): Contestants => (qemu ? { QEMU: () => moveQemu(base) } : {});

  const warm: { title: string; samples: Samples }[] = [];
  for (const placement of places) {
    for (const scheme of ["unix", "tcp"] as const) {
      const base = options(scheme, placement);
      const title = `${scheme}, ${placement}`;
      const samples = await contest(`warm ${title}`, {
        bare: () => moveBare(base),
        tram: () => moveTram(base),
        copying: () => moveTram({ ...base, copying: true }),
        ...withQemu(base),
      });
      warm.push({ title, samples });
    }
  }
  const unix = options("unix", "free");
  const cold = await contest("cold unix", {
    bare: () => moveBare({ ...unix, cold: true }),
    tram: () => moveTram({ ...unix, cold: true }),
    ...withQemu({ ...unix, cold: true }),
  });
  rmSync(ram, { force: true });
  const curve = await contest(
    "iovecs unix",
    Object.fromEntries(
      IOVECS.flatMap((iovMax) => [
        [`bare ${iovMax}`, () => moveBare({ ...unix, iovMax })],
        [`tram ${iovMax}`, () => moveTram({ ...unix, iovMax })],
      ]),
    ),
  );
  const startsMs: number[] = [];
  for (let i = 0; i < STARTS; i++) startsMs.push(await startTram(folder));
  print({ section: "start", startsMs });

  const exits: string[][] = [];
  for (const allocators of [0, 1, 2]) {
    const { stdout } = Bun.spawnSync([process.execPath, join(import.meta.dir, "exits.ts"), String(allocators)]);
    const found = JSON.parse(stdout.toString()) as Exits;
    print({ section: "exits", allocators, ...found });
    exits.push([
      `${allocators}`,
      Math.round(found.perSecond).toLocaleString("en-US"),
      found.p50Us.toFixed(1),
      found.p999Us.toFixed(1),
    ]);
  }

  const moves = warm.flatMap(({ samples }) => samples.tram);
  const extra = (side: "txExtraBytes" | "rxExtraBytes") => moves.map((sample) => (sample[side] ?? 0) / 2 ** 20);
  const worstExtra = Math.max(...extra("txExtraBytes"), ...extra("rxExtraBytes"));
  const startMs = median(startsMs);
  const text = `# Results of \`make bench\`

A paused guest of ${MIB} MiB, half random pages, a quarter text, a quarter zero, from one process to another on the same
host. ${PAIRS} rounds, contestants interleaved. Each figure is the median, with the least and the most in brackets; ratios are taken
within each round. GiB are bytes on the wire. CPU is user and system time of the whole process, from just before the move
is asked for until it is over.

${host}

## Aims

${table(
  ["", "aim", "found", ""],
  [
    ...warm.flatMap(({ title, samples }) => aims(title, samples)),
    ["RSS beyond guest RAM, worst", `< ${AIM.extraMib} MiB`, worstExtra.toFixed(1), verdict(worstExtra < AIM.extraMib)],
    ["start, median", `< ${AIM.startMs} ms`, startMs.toFixed(1), verdict(startMs < AIM.startMs)],
  ],
)}

## Moves, RAM touched before on both sides

- **bare**: a C loop that sends the same pages and words in the same iovec series, and one that reads them straight into
  place. It looks for no zero pages and decodes nothing.
- **tram**: seconds and bytes of its round 1, which is the whole guest; connecting and handing over are in its CPU time
  only. The aim against QEMU, whose total-time has both, is taken from tram's whole move.
- **copying**: the same stream through a buffer in between, what the iovec series does away with.
- **QEMU**: \`-M none\` with its RAM in shared memory files, main channel only, \`total-time\` and \`transferred\` of
  query-migrate.

**free**: where the scheduler puts the processes. **apart**: all of the source on core 0, all of the target on core 1. Where
the two ends land, and what else the host does, changes the bare loop itself severalfold: compare within a table only.

${warm.map(({ title, samples }) => `${title}:\n\n${moveTable(samples, "bare")}\n`).join("\n")}
## Moves, the target's RAM untouched before

The target's first touch of its memory is in these, and is the dearest and least steady part.

${moveTable(cold, "bare")}

## Iovecs in one system call, unix

${moveTable(curve, "tram 1024")}

## RSS beyond guest RAM, at the end of a move

VmRSS less ${MIB} MiB, which are resident on both sides.

${table(
  ["", "MiB"],
  [
    ["source", spread(extra("txExtraBytes"), 1)],
    ["target", spread(extra("rxExtraBytes"), 1)],
  ],
)}

## Port reads answered in TypeScript

A guest that does nothing but read a port. Each read leaves the guest, is answered by the device's TypeScript under its
lock, and enters the guest again; time from one to the next. The other Workers allocate without end.

${table(["allocating Workers", "exits a second", "p50 µs", "p99.9 µs"], exits)}

## Start

From spawning \`tram run\` (walker, 16 MiB) to the first byte of its serial port, ${STARTS} times. That includes the guest's
pass over one page, and the pipe.

${table(
  ["", "ms"],
  [
    ["median", spread(startsMs, 1)],
    ["p90", quantile(startsMs, 0.9).toFixed(1)],
  ],
)}
`;
  await Bun.write(RESULTS, text);
}

// The sockets' folder has a short name; QEMU's RAM lies in memory.
const folder = scratchFolder(tmpdir());
const ramFolder = scratchFolder("/dev/shm");
mkdirSync(join(folder, "tram"), { mode: 0o700 });
await main(folder, ramFolder);

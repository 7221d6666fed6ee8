// The fourth part of make bench: a paused guest of tram's own over several connections, beside QEMU's multifd and a bare C loop, and
// one whose memory nobody has ever touched. Prints each sample as a line of JSON, writes CHANNELS.md. Aims that are missed fail
// nothing. BENCH_QUICK=1: small guests and few rounds, into build/bench/.
import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { ZeroCopyMode } from "../../src/control/copying.ts";
import { whyNoKvm } from "../support/bed.ts";
import { qemuCommand, whyNoBinary } from "../support/qemu.ts";
import { moveBareChannels } from "./bare.ts";
import {
  availableMemoryGib,
  bounded,
  type Contestants,
  contest,
  type Extent,
  environment,
  freeGib,
  GIB,
  PAIRS,
  print,
  rxCpu,
  type Samples,
  scratchFolder,
  speeds,
  txCpu,
} from "./contest.ts";
import type { Sample } from "./measure.ts";
import { contentBytes, fillFile, moveMultifd, qemuVersion } from "./qemu.ts";
import { median, ratios, spread, table, verdict } from "./stats.ts";
import { moveTram, type TramOptions, type TramSample } from "./tram.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const MIB = QUICK ? 512 : 2048;
const UNTOUCHED_MIB = QUICK ? 2048 : 8192;
const ROUNDS = QUICK ? 2 : PAIRS;
const CHANNELS = [1, 2, 4] as const;
/** With the runs that are in no table. */
const MOVES: Extent = { rounds: ROUNDS, seconds: 210 };
const UNTOUCHED: Extent = { rounds: ROUNDS, seconds: 40 };
const UNTOUCHED_CHANNELS = 2;
const PAGE = 4096;
const BUILD = resolve(import.meta.dir, "../../build");
const SHM = "/dev/shm";
const RESULTS =
  process.env.BENCH_CHANNELS_RESULTS ??
  (QUICK ? join(BUILD, "bench/CHANNELS.quick.md") : join(import.meta.dir, "CHANNELS.md"));
const AIM = { speed: 0.9, cpu: 1.15, faults: 0.01 };

const gib = (mib: number): string => `${mib / 1024} GiB`;
const counted = (channels: number): string => `${channels} channel${channels > 1 ? "s" : ""}`;

function whyNot(): string | null {
  const noKvm = whyNoKvm();
  if (noKvm) return noKvm;
  const memoryGib = (4 * MIB) / 1024 + 1; // the guest at both ends, and QEMU's at both
  if (freeGib(SHM) < (2 * MIB) / 1024) return `${SHM} has less than ${gib(2 * MIB)} free`;
  return availableMemoryGib() < memoryGib ? `less than ${memoryGib} GiB of memory are free` : null;
}

// --- moves

type Version = "7.2" | "10.0";
const VERSIONS: readonly Version[] = ["7.2", "10.0"];
const MODES: readonly ZeroCopyMode[] = ["off", "auto", "on"];

const PLAIN = "tram, no channels";
const bareName = (mode: ZeroCopyMode): string => `bare, ${mode}`;
const tramName = (mode: ZeroCopyMode): string => `tram, ${mode}`;
const qemuName = (version: Version, mode: ZeroCopyMode): string => `QEMU ${version}, ${mode}`;
/** auto ends up copying here. */
const peerMode = (mode: ZeroCopyMode): ZeroCopyMode => (mode === "auto" ? "off" : mode);

/** bytes: of pages that are not zero. seconds: all of the move, by the source's own account. */
interface MoveSample extends Sample {
  /** tram's round 1. */
  roundSeconds?: number;
  /** Of what was to be sent without a copy, the share that the kernel copied after all; null: nothing was. */
  copiedShare?: number | null;
}

interface MovesFound {
  channels: number;
  samples: Samples<MoveSample>;
  /** System calls per GiB of each process, from a run that is in no table; not here, where perf cannot count. */
  calls: Map<string, number>;
  /** Who cannot move so, and why. */
  failed: Map<string, string>;
}

interface Places {
  folder: string;
  ram: string;
}

async function tramMove({ folder }: Places, options: Partial<TramOptions>): Promise<MoveSample> {
  const base = { scheme: "tcp", placement: "free", mib: MIB, folder } as const;
  const { wholeSeconds, pages, copiedShare, zeroCopyBytes, ...sample } = await moveTram({ ...base, ...options });
  const expected = contentBytes("fragments", MIB) / PAGE;
  if (Math.abs(pages - expected) > expected / 100) throw new Error(`tram sent ${pages} pages, not about ${expected}`);
  return {
    ...sample,
    bytes: pages * PAGE,
    seconds: wholeSeconds,
    roundSeconds: sample.seconds,
    copiedShare: zeroCopyBytes > 0 ? copiedShare : null,
  };
}

async function qemuMove(
  version: Version,
  channels: number,
  zeroCopy: boolean,
  { folder, ram }: Places,
  countsCalls: boolean,
): Promise<MoveSample> {
  const bytes = contentBytes("fragments", MIB);
  const command = qemuCommand(version);
  const way = { command, scheme: "tcp", channels, zeroCopy, keepsTarget: true, countsCalls } as const;
  const sample = await moveMultifd({ ...way, mib: MIB, folder, ram, bytes });
  return { ...sample, seconds: sample.wholeSeconds ?? sample.seconds };
}

/** Those whose memory is new each time follow each other: what was just given back is cheap to have again. */
function contestants(channels: number, places: Places, countsCalls: boolean): Contestants<MoveSample> {
  const all: Contestants<MoveSample> = {};
  for (const mode of MODES) {
    if (mode === peerMode(mode)) all[bareName(mode)] = () => moveBareChannels(MIB, channels, mode === "on");
    all[tramName(mode)] = () => tramMove(places, { channels, zeroCopy: mode, countsCalls });
  }
  if (channels === CHANNELS[0]) all[PLAIN] = () => tramMove(places, { countsCalls });
  for (const version of VERSIONS.filter((one) => !whyNoBinary(one)))
    for (const mode of ["off", "on"] as const)
      all[qemuName(version, mode)] = () => qemuMove(version, channels, mode === "on", places, countsCalls);
  return all;
}

/** First of all each of them, but for the bare loop, moves once, in no table, while its system calls are counted. */
async function moves(channels: number, places: Places): Promise<MovesFound> {
  const section = counted(channels);
  const startedMs = performance.now();
  const calls = new Map<string, number>();
  const failed = new Map<string, string>();
  const counting = Object.entries(contestants(channels, places, true)).filter(([name]) => !name.startsWith("bare"));
  for (const [name, move] of counting) {
    try {
      const { countedCalls, ...sample } = await bounded(`${section}, ${name}`, move);
      if (countedCalls !== undefined) calls.set(name, (countedCalls * GIB) / sample.bytes);
      print({ section: `${section}, counted`, name, ...sample, countedCalls });
    } catch (error) {
      if (!name.startsWith("QEMU")) throw error;
      failed.set(name, (error as Error).message);
      print({ section: `${section}, counted`, name, failed: failed.get(name) });
    }
  }
  const able = Object.entries(contestants(channels, places, false)).filter(([name]) => !failed.has(name));
  const seconds = MOVES.seconds - (performance.now() - startedMs) / 1000;
  const samples = await contest<MoveSample>(section, Object.fromEntries(able), { rounds: MOVES.rounds, seconds });
  return { channels, samples, calls, failed };
}

/** Bytes a second while pages flow, as far as it is known: the bare loop's clock, too, starts behind connecting. */
const paces = (samples: MoveSample[]): number[] =>
  samples.map(({ bytes, seconds, roundSeconds }) => bytes / (roundSeconds ?? seconds));
const bothCpu = (samples: Sample[]) => txCpu(samples).map((tx, i) => tx + rxCpu(samples)[i]);
const perGib = (samples: Sample[], pick: (one: Sample) => number | undefined): number[] =>
  samples.map((one) => ((pick(one) ?? Number.NaN) * GIB) / one.bytes);

/** Empty where nothing was asked for. */
function copiedText(samples: MoveSample[]): string {
  const shares = samples.map(({ copiedShare }) => copiedShare).filter((one) => typeof one === "number");
  return shares.length > 0 ? spread(shares) : "";
}

function moveTable({ samples, calls, failed }: MovesFound): string {
  const head = [
    "",
    "seconds",
    "of these round 1",
    "GiB/s",
    "tx CPU s/GiB",
    "rx CPU s/GiB",
    "system calls/GiB, of the channels",
    "of the process",
    "copied by the kernel",
    "speed ÷ bare",
    "CPU ÷ bare",
  ];
  const rows = Object.entries(samples).map(([name, of]) => {
    const mode = name === PLAIN ? "off" : (name.split(", ")[1] as ZeroCopyMode);
    const to = samples[bareName(peerMode(mode))];
    const rounds = of.map(({ roundSeconds }) => roundSeconds ?? Number.NaN);
    const own = perGib(of, ({ systemCalls }) => systemCalls);
    const isBare = name.startsWith("bare");
    const asked = isBare && mode === "off" ? "" : copiedText(of);
    return [
      name,
      spread(of.map(({ seconds }) => seconds)),
      rounds.some(Number.isNaN) ? "" : spread(rounds),
      spread(speeds(of)),
      spread(txCpu(of), 3),
      spread(rxCpu(of), 3),
      own.some(Number.isNaN) ? "" : spread(own, 0),
      isBare ? "" : (calls.get(name)?.toFixed(0) ?? "not counted"),
      asked,
      spread(ratios(paces(of), paces(to))),
      spread(ratios(bothCpu(of), bothCpu(to))),
    ];
  });
  const skipped = (name: string, why: string) => [name, `skipped: ${why}`, ...head.slice(2).map(() => "")];
  for (const [name, why] of failed) rows.push(skipped(name, why));
  for (const version of VERSIONS) {
    const why = whyNoBinary(version);
    if (why) rows.push(skipped(`QEMU ${version}`, why));
  }
  return table(head, rows);
}

function moveAims({ channels, samples, failed }: MovesFound): string[][] {
  const rows: string[][] = [];
  for (const mode of MODES) {
    const tram = samples[tramName(mode)];
    const title = `${counted(channels)}, zero-copy ${mode}`;
    const bare = samples[bareName(peerMode(mode))];
    const than = mode === "auto" ? "bare that copies" : "bare";
    const speed = median(ratios(paces(tram), paces(bare)));
    const cpu = median(ratios(bothCpu(tram), bothCpu(bare)));
    rows.push([`${title}: speed ÷ ${than}`, `≥ ${AIM.speed}`, speed.toFixed(2), verdict(speed >= AIM.speed)]);
    rows.push([`${title}: CPU ÷ ${than}`, `≤ ${AIM.cpu}`, cpu.toFixed(2), verdict(cpu <= AIM.cpu)]);
    for (const version of VERSIONS) {
      const name = qemuName(version, peerMode(mode));
      const qemu = samples[name];
      const ratio = qemu ? median(ratios(speeds(tram), speeds(qemu))) : Number.NaN;
      const cells = qemu
        ? [ratio.toFixed(2), verdict(ratio >= 1)]
        : [failed.get(name) ?? whyNoBinary(version) ?? "", "skipped"];
      rows.push([`${title}: speed ÷ ${name}`, "≥ 1", ...cells]);
    }
  }
  return rows;
}

// --- memory that nobody has touched

async function untouchedMoves(folder: string): Promise<Samples<TramSample>> {
  const base = { scheme: "tcp", placement: "free", mib: UNTOUCHED_MIB, folder, untouched: true } as const;
  return contest<TramSample>(
    "untouched",
    {
      plain: () => moveTram(base),
      [counted(UNTOUCHED_CHANNELS)]: () => moveTram({ ...base, channels: UNTOUCHED_CHANNELS }),
    },
    UNTOUCHED,
  );
}

const UNTOUCHED_PAGES = (UNTOUCHED_MIB * 2 ** 20) / PAGE;
const faultsOf = ({ txFaults, rxFaults }: TramSample): number => txFaults + rxFaults;

function untouchedTable(samples: Samples<TramSample>): string {
  const head = [
    "",
    "seconds",
    "source faults",
    "target faults",
    "CPU s, source",
    "CPU s, target",
    "KiB on the wire",
    "pages untouched",
  ];
  const rows = Object.entries(samples).map(([name, of]) => {
    const figures = (pick: (one: TramSample) => number, digits: number) => spread(of.map(pick), digits);
    return [
      name,
      figures(({ wholeSeconds }) => wholeSeconds, 3),
      figures(({ txFaults }) => txFaults, 0),
      figures(({ rxFaults }) => rxFaults, 0),
      figures(({ txCpuSeconds }) => txCpuSeconds, 3),
      figures(({ rxCpuSeconds }) => rxCpuSeconds, 3),
      figures(({ bytes }) => bytes / 1024, 0),
      figures(({ untouchedPages }) => untouchedPages, 0),
    ];
  });
  return table(head, rows);
}

const untouchedAims = (samples: Samples<TramSample>): string[][] =>
  Object.entries(samples).map(([name, of]) => {
    const share = median(of.map(faultsOf)) / UNTOUCHED_PAGES;
    const title = `untouched ${gib(UNTOUCHED_MIB)}, ${name}: page faults of both sides ÷ the guest's pages`;
    return [title, `< ${AIM.faults}`, share.toFixed(4), verdict(share < AIM.faults)];
  });

// ---

async function main(): Promise<void> {
  const versions = await Promise.all(
    VERSIONS.map((version) => whyNoBinary(version) ?? qemuVersion(qemuCommand(version))),
  );
  const host = await environment(versions[0], [["QEMU, the newer", versions[1] ?? ""]]);
  // The sockets' folder has a short name; QEMU's RAM lies in memory.
  const [folder, ramFolder] = [tmpdir(), SHM].map(scratchFolder);
  mkdirSync(join(folder, "tram"), { mode: 0o700 });
  const ram = join(ramFolder, "ram");
  fillFile(ram, MIB);
  const found: MovesFound[] = [];
  for (const channels of CHANNELS) found.push(await moves(channels, { folder, ram }));
  for (const one of [ram, `${ram}.target`]) rmSync(one, { force: true });
  const untouched = await untouchedMoves(folder);

  const text = `# Results of \`make bench\`: channels

A paused guest from one process to another on the same host, over tcp: and its loopback. Contestants interleaved; each figure is
the median, with the least and the most in brackets; ratios are taken within each round.

${host}

## Aims

${table(["", "aim", "found", ""], [...found.flatMap(moveAims), ...untouchedAims(untouched)])}

## Moves

${gib(MIB)}, four pages by four: random, text, random, zero; all of it touched before, on both sides. **Seconds** of the whole move, with
connecting and handing over, as the source itself tells it. GiB are those of the guest's pages that are not zero. CPU is user and
system time of the whole process, from just before the move is asked for until it is over.

- **bare**: a C loop that knows where its runs of non-zero pages are, with as many sockets, and threads at both ends, as there are
  channels. Each \`sendmsg\` has the runs of 128 pages behind a header of 1344 bytes, which is what a multifd packet has. The
  other process reads all of it straight into its memory, 1 MiB at a time. It decodes nothing, and hands nothing over.
- **tram**: \`--channels\`; **no channels** is the plain stream, beside the bare loop with one channel.
- **QEMU**: \`-M none\` with its RAM in shared memory files, in small pages, where tram's and the bare loop's has huge ones;
  multifd with as many channels, \`total-time\` of query-migrate. Its target's memory stays from move to move, and is overwritten.
- **on**, **off**, **auto**: \`--zero-copy\` of tram, \`zero-copy-send\` of QEMU, \`MSG_ZEROCOPY\` of the bare loop, whose error
  queue is drained. Between two processes of one host the kernel copies all the same, and says so: the share of what was
  asked for that it did. auto sees that and stops asking, and is compared with who copies.
- **System calls**: of the **channels**, as tram and the bare loop count their own; of the source's whole **process**, its
  monitor included, as \`perf stat\` counts them in one run before, which is in no other figure.

**÷ bare** takes round 1 of tram, because the bare loop's clock starts behind connecting, too; its CPU is that of the whole move.
**÷ QEMU** compares whole moves.

What else the host does changes the bare loop itself severalfold: compare within a table only.

${found
  .map((one) => `${counted(one.channels)}, ${Object.values(one.samples)[0].length} rounds:\n\n${moveTable(one)}\n`)
  .join("\n")}
## Memory that nobody has touched

${gib(UNTOUCHED_MIB)}, \`--fill zero\` and a working set of 4 MiB, nothing preallocated on either side. Minor page faults of the whole process
during the move, from /proc/PID/stat; the guest has ${UNTOUCHED_PAGES.toLocaleString("en-US")} pages.

${untouchedTable(untouched)}
`;
  await Bun.write(RESULTS, text);
}

mkdirSync(join(BUILD, "bench"), { recursive: true });
const why = whyNot();
if (why) print({ section: "channels", skipped: why });
else await main();

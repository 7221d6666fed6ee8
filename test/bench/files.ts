// The second part of make bench: a QEMU guest's RAM into a file. Prints each sample as a line of JSON, writes FILES.md. Aims that
// are missed fail nothing.
import { mkdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import {
  availableMemoryGib,
  bounded,
  contest,
  diskOf,
  dropCaches,
  environment,
  freeGib,
  MIB,
  PAIRS,
  print,
  rxCpu,
  type Samples,
  scratchFolder,
  speeds,
  txCpu,
} from "./contest.ts";
import { inspect, type KeepOptions, keepBare, receive, save } from "./keep.ts";
import type { Sample } from "./measure.ts";
import { contentBytes, type Form, fillFile, moveMultifd, qemuVersion } from "./qemu.ts";
import { median, ratios, spread, table, verdict } from "./stats.ts";

const CHANNELS = 4;
const INSPECTIONS = 5;
const BIG_MIB = MIB * 4;
const DISK_GIB = 12;
const RESULTS = process.env.BENCH_FILES_RESULTS ?? join(import.meta.dir, "FILES.md");
const BUILD = resolve(import.meta.dir, "../../build");
const SHM = "/dev/shm";
const AIM = { speed: 0.9, peakMb: 200, inspectSeconds: 1 };

const NAMES = {
  qemu: "QEMU → QEMU",
  cached: "bare, cached",
  direct: "bare, direct",
  receive: `receive, ${CHANNELS} channels`,
  plain: "receive, plain",
  save: `save, ${CHANNELS} channels`,
};
const FORMS = ["runs", "fragments"] as const;

/** Guests' RAM in shared memory needs both: room there, and memory. */
const freeMemoryGib = (): number => Math.min(freeGib(SHM), availableMemoryGib());

function whyNot(qemu: string | null): string | null {
  if (!qemu) return "QEMU is not installed: apt-get install qemu-system-x86";
  if (freeGib(BUILD) < DISK_GIB) return `${BUILD} has less than ${DISK_GIB} GiB free`;
  const needsGib = (2 * MIB) / 1024 + 1; // a source and a target
  return freeMemoryGib() < needsGib ? `less than ${needsGib} GiB of memory are free for ${SHM}` : null;
}

/** The faster bare loop of each round. */
const bareSpeeds = (samples: Samples): number[] => {
  const direct = speeds(samples[NAMES.direct]);
  return speeds(samples[NAMES.cached]).map((cached, i) => Math.max(cached, direct[i]));
};
/** What nobody gets past: the slower of what QEMU sends and what the disk takes, in each round. */
const limitSpeeds = (samples: Samples): number[] => {
  const bare = bareSpeeds(samples);
  return speeds(samples[NAMES.qemu]).map((qemu, i) => Math.min(qemu, bare[i]));
};
const ofLimit = (samples: Samples): number => median(ratios(speeds(samples[NAMES.receive]), limitSpeeds(samples)));
/** The same against the bare loop that writes as most programs do. */
const ofCachedLimit = (samples: Samples): number => {
  const cached = speeds(samples[NAMES.cached]);
  const limit = speeds(samples[NAMES.qemu]).map((qemu, i) => Math.min(qemu, cached[i]));
  return median(ratios(speeds(samples[NAMES.receive]), limit));
};
const peaksMb = (samples: Sample[]): number[] => samples.map(({ peakBytes }) => (peakBytes ?? 0) / 1e6);

function formTable(samples: Samples): string {
  const head = [
    "",
    "GiB/s",
    "source CPU s/GiB",
    "receiver CPU s/GiB",
    "peak RSS MB",
    "speed ÷ QEMU",
    "speed ÷ faster bare",
    "speed ÷ slower of both",
  ];
  const [bare, limit] = [bareSpeeds(samples), limitSpeeds(samples)];
  const rows = Object.entries(samples).map(([name, of]) => [
    name,
    spread(speeds(of)),
    name === NAMES.cached || name === NAMES.direct ? "" : spread(txCpu(of), 3),
    spread(rxCpu(of), 3),
    of.every(({ peakBytes }) => peakBytes) ? spread(peaksMb(of), 1) : "",
    spread(ratios(speeds(of), speeds(samples[NAMES.qemu]))),
    spread(ratios(speeds(of), bare)),
    spread(ratios(speeds(of), limit)),
  ]);
  return table(head, rows);
}

interface Found {
  form: Form;
  samples: Samples;
  inspectSeconds: number[];
}

/** The largest guest, most of it zero; null where memory does not suffice. */
async function keepBig(options: (form: Form, mib: number) => KeepOptions): Promise<Sample | null> {
  if (freeMemoryGib() < BIG_MIB / 1024 + 1) return null;
  const big = options("sparse", BIG_MIB);
  fillFile(big.ram, BIG_MIB, "sparse");
  const sample = await bounded("big", () => receive(big, CHANNELS));
  print({ section: "big", ...sample });
  return sample;
}

async function main(qemu: string): Promise<void> {
  const host = await environment(qemu, [["disk", await diskOf(BUILD)]]);
  // The sockets' folder has a short name; RAM lies in memory.
  const [folder, ramFolder, diskFolder] = [tmpdir(), SHM, BUILD].map(scratchFolder);
  const options = (form: Form, mib: number): KeepOptions => ({
    mib,
    folder,
    ram: join(ramFolder, "ram"),
    bytes: contentBytes(form, mib),
    file: join(diskFolder, "kept"),
  });

  const found: Found[] = [];
  let cold = true;
  for (const form of FORMS) {
    const base = options(form, MIB);
    fillFile(base.ram, MIB, form);
    const samples = await contest(form, {
      [NAMES.qemu]: () => moveMultifd({ ...base, channels: CHANNELS }),
      [NAMES.cached]: () => keepBare(base, "cached"),
      [NAMES.direct]: () => keepBare(base, "direct"),
      [NAMES.receive]: () => receive(base, CHANNELS),
      [NAMES.plain]: () => receive(base, 0),
      [NAMES.save]: () => save(base, CHANNELS),
    });
    await bounded("a file to inspect", () => receive(base, CHANNELS));
    const inspectSeconds: number[] = [];
    for (let i = 0; i < INSPECTIONS; i++) {
      cold = (await bounded("sync", dropCaches)) && cold;
      inspectSeconds.push(await bounded("inspect", () => inspect(base.file)));
    }
    print({ section: `inspect ${form}`, cold, inspectSeconds });
    found.push({ form, samples, inspectSeconds });
    for (const path of [base.file, base.ram]) rmSync(path);
  }
  const big = await keepBig(options);

  const worstPeak = Math.max(...found.flatMap(({ samples }) => Object.values(samples).flatMap(peaksMb)));
  const inspectAims = found.map(({ form, inspectSeconds }) => {
    const seconds = median(inspectSeconds);
    return [
      `${form}: inspect, ${cold ? "cold" : "warm"}, median`,
      `< ${AIM.inspectSeconds} s`,
      seconds.toFixed(2),
      verdict(seconds < AIM.inspectSeconds),
    ];
  });
  const bigPeak = big ? peaksMb([big])[0] : 0;
  const text = `# Results of \`make bench\`: files

The RAM of a paused QEMU guest of ${MIB} MiB into a file on disk. ${PAIRS} rounds, contestants interleaved, before each the file
removed and \`sync\`. Each figure is the median, with the least and the most in brackets; ratios are taken within each round.
GiB are those of the guest's pages that are not zero, three quarters of its RAM, for every contestant. CPU is user and system
time of the whole process, from just before the move is asked for until it is over; what the kernel writes back in its
own threads is in nobody's.

${host}

## Aims

${table(
  ["", "aim", "found", ""],
  [
    ...found.flatMap(({ form, samples }) =>
      [[ofCachedLimit(samples), "bare, cached"] as const, [ofLimit(samples), "the faster bare loop"] as const].map(
        ([speed, bare]) => {
          const title = `${form}: receive, ${CHANNELS} channels ÷ slower of QEMU and ${bare}`;
          return [title, `≥ ${AIM.speed}`, speed.toFixed(2), verdict(speed >= AIM.speed)];
        },
      ),
    ),
    [`peak RSS, ${MIB} MiB, worst`, `< ${AIM.peakMb} MB`, worstPeak.toFixed(1), verdict(worstPeak < AIM.peakMb)],
    [
      `peak RSS, ${BIG_MIB} MiB`,
      `< ${AIM.peakMb} MB`,
      ...(big ? [bigPeak.toFixed(1), verdict(bigPeak < AIM.peakMb)] : ["too little memory free", "skipped"]),
    ],
    ...inspectAims,
  ],
)}

## Into a file

- **QEMU → QEMU**: no file; ${CHANNELS} multifd channels over \`unix:\` into a second process with its RAM touched before. How fast
  QEMU sends.
- **bare**: a C loop that has the same RAM mapped, and knows where its runs of non-zero pages are; it writes each at its own
  offset into a new file and syncs that. **cached** goes through the page cache, **direct** is \`O_DIRECT\`. It looks for no
  zero pages and decodes nothing; its CPU time stands in the receiver's column. How fast the disk takes it.
- **receive**: \`tram receive\` from QEMU, over ${CHANNELS} channels or, **plain**, over the main one alone.
- **save**: \`tram save --after pause\` from QEMU, the whole command with its start, its talk with QEMU and its end.

QEMU is \`-M none\` with its RAM in a shared memory file, touched before. Moves are timed from the \`migrate\` command until
\`query-migrate\` says completed, with a return path: by then the target has confirmed, and \`tram receive\` confirms when
the file is durable. Peak RSS is VmHWM of the whole process.

${found.map(({ form, samples }) => `**${form}**: ${FORM_TEXT[form]}\n\n${formTable(samples)}\n`).join("\n")}
## A larger guest

${
  big
    ? `${BIG_MIB} MiB, of which ${big.bytes / 2 ** 20} MiB are not zero, once: \`tram receive\`, ${CHANNELS} channels.

${table(
  ["seconds", "receiver CPU s", "peak RSS MB"],
  [[big.seconds.toFixed(2), big.rxCpuSeconds.toFixed(2), bigPeak.toFixed(1)]],
)}`
    : `Skipped: ${BIG_MIB} MiB of RAM need more memory than is free.`
}

## \`tram inspect\` of such a file

${MIB} MiB, ${INSPECTIONS} times, the whole command; ${
    cold
      ? "cold: the page cache was dropped before each, so that file and\nexecutable come from the disk."
      : "warm: the page cache could not be dropped."
  }

${table(
  ["", "seconds"],
  found.map(({ form, inspectSeconds }) => [form, spread(inspectSeconds)]),
)}
`;
  await Bun.write(RESULTS, text);
}

const FORM_TEXT: Record<Form, string> = {
  runs: "pieces of 1 MiB, three random, the fourth zero: the file has runs of 3 MiB.",
  fragments: "four pages by four, random, text, random, zero: the file has runs of 12 KiB.",
  sparse: "",
};

mkdirSync(BUILD, { recursive: true });
const qemu = await qemuVersion();
const why = whyNot(qemu);
if (why) print({ section: "files", skipped: why });
else await main(qemu ?? "");

// The third part of make bench: a guest of tram's own into a file, and out of it again. Prints each sample as a line of JSON,
// writes SNAPSHOTS.md. Aims that are missed fail nothing. BENCH_QUICK=1: small guests and few rounds, into build/bench/.
import { mkdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { whyNoKvm } from "../support/bed.ts";
import { qemuCommand, whyNoBinary } from "../support/qemu.ts";
import {
  availableMemoryGib,
  bounded,
  type Contestants,
  contest,
  diskOf,
  type Extent,
  environment,
  freeGib,
  print,
  rxCpu,
  type Samples,
  scratchFolder,
  speeds,
  txCpu,
} from "./contest.ts";
import { qemuVersion } from "./qemu.ts";
import {
  type Cache,
  type CloneMemory,
  clones,
  type Mode,
  makeSnapshot,
  prepareCache,
  type RestoreSample,
  restore,
} from "./restoring.ts";
import {
  type BareKind,
  BareSnapshot,
  type Direct,
  extractRam,
  Files,
  type SavePlaces,
  type SaveSample,
  saveExec,
  saveLive,
  saveMappedRam,
  saveTram,
  Walker,
} from "./saving.ts";
import { median, ratios, spread, table, verdict } from "./stats.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const MIB = QUICK ? 512 : 4096;
/** Small runs take a disk long, to write and to free. */
const MIXED_MIB = Number(process.env.BENCH_MIXED_MIB ?? (QUICK ? 256 : 1024));
const RESTORE_MIB = QUICK ? [128, 256, 512] : [1024, 4096, 8192];
const ROUNDS = QUICK ? 2 : 3;
const DIRECT_SAVES: Extent = { rounds: ROUNDS, seconds: 180 };
const CACHED_SAVES: Extent = { rounds: ROUNDS, seconds: 190 };
const MIXED_SAVES: Extent = { rounds: ROUNDS, seconds: 210 };
const LIVE_SAVES = ROUNDS;
const RESTORES: Extent[] = [50, 90, 140].map((seconds) => ({ rounds: ROUNDS, seconds }));
const LAZY_RESTORES = QUICK ? 5 : 10;
const HASH_RUNS = 5;
const CLONES = 3;
const CHANNELS = [1, 2, 4] as const;
/** tram's default. */
const USUAL_CHANNELS = 2;
const QEMU_CHANNELS = 4;
/** Files of small runs that are freed at once. */
const MIXED_FILES = 13;
const DIRTY_RATE = 20_000;
const BUILD = resolve(import.meta.dir, "../../build");
const SHM = "/dev/shm";
const RESULTS =
  process.env.BENCH_SNAPSHOTS_RESULTS ??
  (QUICK ? join(BUILD, "bench/SNAPSHOTS.quick.md") : join(import.meta.dir, "SNAPSHOTS.md"));
const AIM = { speed: 0.9, hashing: 0.1, runMs: 30, flatness: 1.2 };

const gib = (mib: number): string => `${mib / 1024} GiB`;

function whyNot(): string | null {
  const noKvm = whyNoKvm();
  if (noKvm) return noKvm;
  const diskGib = (Math.max(MIB, MIXED_MIB * MIXED_FILES, ...RESTORE_MIB) / 1024) * 1.1 + 2;
  if (freeGib(BUILD) < diskGib) return `${BUILD} has less than ${diskGib} GiB free`;
  const memoryGib = (3 * MIB) / 1024 + 1; // the guest, the same pages for QEMU, and for the bare loop
  const tooLittle = availableMemoryGib() < memoryGib || freeGib(SHM) < MIB / 1024;
  return tooLittle ? `less than ${memoryGib} GiB of memory are free, or less than ${gib(MIB)} in ${SHM}` : null;
}

// --- saves

type Fill = "random" | "mixed";
type Way = "cached" | "direct";

/** Contestants of different contests have no round in common. */
interface SaveContest {
  /** What stands above its table. */
  text: string;
  samples: Samples<SaveSample>;
}

interface SaveFound {
  fill: Fill;
  contests: SaveContest[];
  hashSeconds: number[];
}

const KIND_TEXT: Record<BareKind, string> = { plain: "", hash: ", XXH3", zeros: ", zeros too" };
const bareName = (way: Way, channels: number, kind: BareKind = "plain") =>
  `bare, ${way}, ${channels}${KIND_TEXT[kind]}`;
const tramName = (direct: Direct, channels: number) => `tram, ${direct}, ${channels}`;
const QEMU_NAMES = { "7.2": "QEMU 7.2, exec:cat", "10.0": `QEMU 10.0, mapped-ram, ${QEMU_CHANNELS}` } as const;
const QEMU_VERSIONS = ["7.2", "10.0"] as const;
const QEMU_CACHED = { "7.2": true, "10.0": false } as const;

/** The bare loop that writes what tram writes with this setting: it closes short gaps, and so all of its runs are long. */
const bareLike = (fill: Fill, direct: Direct, channels: number): string => {
  if (direct === "off") return bareName("cached", channels);
  return bareName("direct", channels, fill === "mixed" ? "zeros" : "plain");
};

/** Everything that writes one guest's pages. */
class Contenders {
  readonly #fill: Fill;
  readonly #walker: Walker;
  readonly #bare: BareSnapshot;
  readonly #places: SavePlaces;
  readonly #bytes: number;

  constructor(fill: Fill, walker: Walker, bare: BareSnapshot, places: SavePlaces, bytes: number) {
    this.#fill = fill;
    this.#walker = walker;
    this.#bare = bare;
    this.#places = places;
    this.#bytes = bytes;
  }

  bare(way: Way, channels: number, kind: BareKind = "plain"): Contestants<SaveSample> {
    return { [bareName(way, channels, kind)]: () => this.#bare.write(this.#places.files, channels, way, kind) };
  }

  tram(direct: Direct, channels: number): Contestants<SaveSample> {
    const cached = direct === "off";
    return {
      [tramName(direct, channels)]: () => saveTram(this.#walker, this.#places.files, { channels, direct, cached }),
    };
  }

  /** None, where it is missing. */
  qemu(version: (typeof QEMU_VERSIONS)[number]): Contestants<SaveSample> {
    if (whyNoBinary(version)) return {};
    const [command, places] = [qemuCommand(version), this.#places];
    return {
      [QEMU_NAMES[version]]: () =>
        version === "7.2" ? saveExec(command, places) : saveMappedRam(command, places, QEMU_CHANNELS),
    };
  }

  async contest(section: string, text: string, all: Contestants<SaveSample>[], extent: Extent): Promise<SaveContest> {
    const samples = await contest(`save ${this.#fill}, ${section}`, Object.assign({}, ...all), extent);
    for (const [name, list] of Object.entries(samples))
      for (const { bytes } of list)
        if (bytes < this.#bytes) throw new Error(`${name} wrote ${bytes} bytes of content, not ${this.#bytes}`);
    // Whoever writes some zero pages, too, writes the same guest.
    for (const list of Object.values(samples)) for (const sample of list) sample.bytes = this.#bytes;
    return { text, samples };
  }
}

/** Neighbours are compared. */
async function randomSaves(contenders: Contenders): Promise<SaveContest[]> {
  const direct = CHANNELS.flatMap((channels) => [
    contenders.bare("direct", channels),
    contenders.tram("auto", channels),
    ...(channels === USUAL_CHANNELS ? [contenders.tram("on", channels)] : []),
    contenders.bare("direct", channels, "hash"),
  ]);
  const cached = CHANNELS.flatMap((channels) => [
    contenders.bare("cached", channels),
    contenders.tram("off", channels),
  ]);
  return [
    await contenders.contest(
      "direct",
      `**random**: no page is zero but those of the first 2 MiB. Long runs, past the page cache.`,
      [...direct, contenders.qemu("10.0")],
      DIRECT_SAVES,
    ),
    await contenders.contest(
      "cached",
      `**random**, through the page cache.`,
      [...cached, contenders.qemu("7.2")],
      CACHED_SAVES,
    ),
  ];
}

/** What holes cost is once enough. */
async function mixedSaves(contenders: Contenders): Promise<SaveContest[]> {
  const all = CHANNELS.flatMap((channels) => [
    contenders.bare("direct", channels, "zeros"),
    contenders.tram("auto", channels),
    ...(channels === USUAL_CHANNELS
      ? [
          contenders.tram("on", channels),
          contenders.bare("direct", channels),
          contenders.bare("cached", channels),
          contenders.tram("off", channels),
        ]
      : []),
  ]);
  return [
    await contenders.contest(
      "all",
      `**mixed**: ${gib(MIXED_MIB)}, four pages by four: random, text, random, zero. Runs of 12 KiB, which tram joins.`,
      [...all, ...QEMU_VERSIONS.map((version) => contenders.qemu(version))],
      MIXED_SAVES,
    ),
  ];
}

/** The first save, which is in no table, has the pages for the others. */
async function saves(
  fill: Fill,
  places: SavePlaces,
  race: (contenders: Contenders) => Promise<SaveContest[]>,
): Promise<SaveFound> {
  const { files, folder, mib, ram } = places;
  const options = ["--memory", `${mib}M`, "--fill", fill, "--working-set", "4M", "--paused"];
  await using walker = await Walker.start("guest", folder, options);
  const first = await files.next(true);
  await bounded("the first save", () => walker.save(first, ["--after", "pause"]));
  await bounded("the guest's pages", () => extractRam(first, ram));
  await using bare = new BareSnapshot(ram);
  const { bytes } = await bare.hash();
  const contests = await race(new Contenders(fill, walker, bare, places, bytes));
  const hashSeconds: number[] = [];
  for (let i = 0; i < HASH_RUNS; i++) hashSeconds.push((await bounded("hash", () => bare.hash())).seconds);
  print({ section: `hash ${fill}`, bytes, hashSeconds });
  await files.remove();
  rmSync(ram);
  return { fill, contests, hashSeconds };
}

interface LiveSample extends SaveSample {
  downtimeMs: number;
  rounds: number;
  resentPages: number;
}

/** A guest that runs, and goes on. */
async function liveSaves({ folder, files, mib }: SavePlaces): Promise<LiveSample[]> {
  const options = ["--memory", `${mib}M`, "--fill", "random", "--dirty-rate", `${DIRTY_RATE}`];
  await using walker = await Walker.start("live", folder, options);
  const found: LiveSample[] = [];
  for (let i = 0; i < LIVE_SAVES; i++) {
    const { sample, report } = await bounded("live", () => saveLive(walker, files));
    const { downtimeMs, rounds, resentPages } = report;
    found.push({ ...sample, downtimeMs, rounds, resentPages });
    print({ section: "live", ...found.at(-1) });
  }
  await files.remove();
  return found;
}

const seconds = (samples: SaveSample[]): number[] => samples.map((one) => one.seconds);
/** Of one contestant, whichever contest it was in. */
const samplesOf = ({ contests }: SaveFound, name: string): SaveSample[] | undefined =>
  contests.map(({ samples }) => samples[name]).find((one) => one);

/** Of the same round each, where they have rounds in common. */
function speedRatio(found: SaveFound, name: string, to: string): number {
  const [of, other] = [samplesOf(found, name), samplesOf(found, to)];
  if (!of || !other) return Number.NaN;
  const together = found.contests.some(({ samples }) => samples[name] && samples[to]);
  return together ? median(ratios(speeds(of), speeds(other))) : median(speeds(of)) / median(speeds(other));
}

/** The bare loop with as many threads that was faster. */
function fasterBare(found: SaveFound, channels: number): string {
  const names = [bareName("direct", channels), bareName("cached", channels), bareName("direct", channels, "zeros")];
  const speed = (name: string) => median(speeds(samplesOf(found, name) ?? [{ seconds: 1, bytes: 0 } as SaveSample]));
  return names.reduce((best, name) => (speed(name) > speed(best) ? name : best));
}

function saveTable(fill: Fill, { samples }: SaveContest): string {
  const head = [
    "",
    "seconds",
    "by its own report",
    "GiB/s",
    "CPU s/GiB",
    "of these the command",
    "speed ÷ bare, same runs and channels",
  ];
  const peerOf = (name: string): SaveSample[] | undefined => {
    const [kind, how, channels] = name.split(", ");
    if (kind === "tram") return samples[bareLike(fill, how as Direct, Number(channels))];
    return kind === "bare" ? samples[bareName(how as Way, Number(channels))] : undefined;
  };
  const rows = Object.entries(samples).map(([name, of]) => {
    const told = of.map(({ toldSeconds }) => toldSeconds ?? Number.NaN);
    const cpu = txCpu(of).map((tx, i) => tx + rxCpu(of)[i]);
    const peer = peerOf(name);
    return [
      name,
      spread(seconds(of)),
      told.some(Number.isNaN) ? "" : spread(told),
      spread(speeds(of)),
      spread(cpu, 3),
      name.startsWith("tram") ? spread(rxCpu(of), 3) : "",
      peer ? spread(ratios(speeds(of), speeds(peer))) : "",
    ];
  });
  const isCached = bareName("cached", 1) in samples;
  const isDirect = bareName("direct", USUAL_CHANNELS) in samples;
  for (const version of QEMU_VERSIONS) {
    const why = whyNoBinary(version);
    const belongs = QEMU_CACHED[version] ? isCached : isDirect;
    if (why && belongs) rows.push([QEMU_NAMES[version], `skipped: ${why}`, ...head.slice(2).map(() => "")]);
  }
  return table(head, rows);
}

function saveAims(found: SaveFound): string[][] {
  const { fill, hashSeconds } = found;
  const rows = CHANNELS.map((channels) => {
    const bare = fasterBare(found, channels);
    const speed = speedRatio(found, tramName("auto", channels), bare);
    const title = `save, ${fill}, ${channels} channel${channels > 1 ? "s" : ""}: speed ÷ the faster bare loop (${bare})`;
    return [title, `≥ ${AIM.speed}`, speed.toFixed(2), verdict(speed >= AIM.speed)];
  });
  for (const version of QEMU_VERSIONS) {
    const title = `save, ${fill}, ${USUAL_CHANNELS} channels: speed ÷ QEMU ${version}`;
    const speed = speedRatio(found, tramName("auto", USUAL_CHANNELS), QEMU_NAMES[version]);
    const cells = Number.isNaN(speed)
      ? [whyNoBinary(version) ?? "", "skipped"]
      : [speed.toFixed(2), verdict(speed > 1)];
    rows.push([title, "> 1", ...cells]);
  }
  const share = median(hashSeconds) / median(seconds(samplesOf(found, tramName("auto", 1)) ?? []));
  const title = `save, ${fill}, 1 channel: XXH3 of all pages in one thread ÷ the save`;
  return [...rows, [title, `< ${AIM.hashing}`, share.toFixed(3), verdict(share < AIM.hashing)]];
}

/** What hashing takes: as it would be with nothing beside it, and what it makes of the bare loop. */
function hashTable(found: readonly SaveFound[]): string {
  const head = ["", "XXH3, one thread, s", "÷ threads ÷ tram, auto", "bare with XXH3 ÷ bare, seconds"];
  const rows = found.flatMap((one) =>
    CHANNELS.map((channels) => {
      const threads = Math.min(channels, availableParallelism());
      const tram = seconds(samplesOf(one, tramName("auto", channels)) ?? []);

      const [plain, hashing] = (["plain", "hash"] as const).map((kind) =>
        samplesOf(one, bareName("direct", channels, kind)),
      );
      return [
        `${one.fill}, ${channels}`,
        spread(one.hashSeconds, 3),
        spread(
          tram.map((save) => median(one.hashSeconds) / threads / save),
          3,
        ),
        plain && hashing ? spread(ratios(seconds(hashing), seconds(plain))) : "",
      ];
    }),
  );
  return table(head, rows);
}

function liveTable(live: readonly LiveSample[]): string {
  const of = (pick: (one: LiveSample) => number, digits = 2) => spread(live.map(pick), digits);
  return table(
    ["seconds", "downtime ms", "rounds", "pages sent again", "CPU s/GiB"],
    [
      [
        of((one) => one.seconds),
        of(({ downtimeMs }) => downtimeMs, 1),
        of(({ rounds }) => rounds, 0),
        of(({ resentPages }) => resentPages, 0),
        of((one) => txCpu([one])[0] + rxCpu([one])[0], 3),
      ],
    ],
  );
}

// --- restores

interface RestoreFound {
  mib: number;
  /** Why not. */
  skipped: string | null;
  samples: Samples<RestoreSample>;
}

const restoreName = (mode: Mode, cache: Cache) => `${mode}, ${cache}`;
const ORDER: readonly (readonly [Mode, Cache])[] = [
  ["lazy", "cold"],
  ["lazy", "warm"],
  ["first", "warm"],
  ["first", "cold"],
  ["eager", "cold"], // past the page cache: warm is the same
];

async function restores(mib: number, extent: Extent, folder: string, file: string): Promise<RestoreFound> {
  const needsGib = (2 * mib) / 1024 + 1; // the guest, and its file in the page cache
  if (availableMemoryGib() < needsGib)
    return { mib, skipped: `less than ${needsGib} GiB of memory are free`, samples: {} };
  await bounded("a snapshot", () => makeSnapshot(mib, folder, file));
  const once = async (mode: Mode, cache: Cache, untilHere: boolean) => {
    if (!(await prepareCache(file, cache))) throw new Error(`the page cache cannot be made ${cache}`);
    return restore(file, folder, mode, untilHere);
  };
  const contestants: Contestants<RestoreSample> = {};
  for (const [mode, cache] of ORDER) contestants[restoreName(mode, cache)] = () => once(mode, cache, true);
  const isSmallest = mib === RESTORE_MIB[0];
  if (isSmallest && (await prepareCache(file, "host")))
    contestants[restoreName("lazy", "host")] = () => once("lazy", "host", true);
  const samples = await contest(`restore ${mib}`, contestants, extent);
  const lazy = samples[restoreName("lazy", "warm")];
  while (lazy.length < LAZY_RESTORES) {
    lazy.push(await bounded("restore", () => once("lazy", "warm", false)));
    print({ section: `restore ${mib}`, name: restoreName("lazy", "warm"), ...lazy.at(-1) });
  }
  return { mib, skipped: null, samples };
}

function restoreTable(found: readonly RestoreFound[]): string {
  const head = ["", "serial byte ms", "line ms", "in the line", "all here and verified, s", "times"];
  const rows = found.flatMap(({ mib, skipped, samples }) => {
    if (skipped) return [[gib(mib), `skipped: ${skipped}`, ...head.slice(2).map(() => "")]];
    return Object.entries(samples).map(([name, of]) => {
      const here = of.map(({ hereMs }) => hereMs).filter((ms) => ms !== null);
      return [
        `${gib(mib)}, ${name}`,
        spread(
          of.map(({ byteMs }) => byteMs),
          1,
        ),
        spread(
          of.map(({ lineMs }) => lineMs),
          1,
        ),
        spread(
          of.map(({ toldMs }) => toldMs),
          0,
        ),
        spread(here.map((ms) => ms / 1000)),
        `${of.length}`,
      ];
    });
  });
  return table(head, rows);
}

function restoreAims(found: readonly RestoreFound[]): string[][] {
  const bytes = new Map<number, number>();
  const rows = found.map(({ mib, skipped, samples }) => {
    const title = `restore, lazy, warm, ${gib(mib)}: first byte on the serial port, p50`;
    if (skipped) return [title, `< ${AIM.runMs} ms`, skipped, "skipped"];
    const ms = median(samples[restoreName("lazy", "warm")].map(({ byteMs }) => byteMs));
    bytes.set(mib, ms);
    return [title, `< ${AIM.runMs} ms`, ms.toFixed(1), verdict(ms < AIM.runMs)];
  });
  const [small, large] = [RESTORE_MIB[0], RESTORE_MIB.at(-1) ?? 0];
  const title = `restore, lazy, warm: ${gib(large)} ÷ ${gib(small)}`;
  const ratio = (bytes.get(large) ?? Number.NaN) / (bytes.get(small) ?? Number.NaN);
  const cells = Number.isNaN(ratio) ? ["", "skipped"] : [ratio.toFixed(2), verdict(ratio < AIM.flatness)];
  return [...rows, [title, `< ${AIM.flatness}`, ...cells]];
}

function cloneTable(lists: readonly (readonly CloneMemory[])[]): string {
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  const rows = lists.flatMap((list) =>
    list.map((one, i) => [
      `${i + 1} of ${list.length}`,
      mib(one.residentBytes),
      mib(one.shareBytes),
      mib(one.anonymousBytes),
    ]),
  );
  return table(["", "RSS MiB", "PSS MiB", "anonymous MiB"], rows);
}

// ---

async function main(): Promise<void> {
  const versions = await Promise.all(
    QEMU_VERSIONS.map((version) => whyNoBinary(version) ?? qemuVersion(qemuCommand(version))),
  );
  const host = await environment(versions[0], [
    ["QEMU, the newer", versions[1] ?? ""],
    ["disk", await diskOf(BUILD)],
  ]);
  // The sockets' folder has a short name; QEMU's RAM lies in memory.
  const [folder, ramFolder, diskFolder] = [tmpdir(), SHM, BUILD].map(scratchFolder);
  mkdirSync(join(folder, "tram"), { mode: 0o700 });
  const places = (mib: number, keep: number): SavePlaces => ({
    mib,
    folder,
    ram: join(ramFolder, "ram"),
    files: new Files(diskFolder, keep),
  });

  const random = await saves("random", places(MIB, 0), randomSaves);
  const live = await liveSaves(places(MIB, 0));
  const mixed = await saves("mixed", places(MIXED_MIB, MIXED_FILES - 1), mixedSaves);
  const saved = [random, mixed];
  const restored: RestoreFound[] = [];
  const memory: CloneMemory[][] = [];
  const file = join(diskFolder, "snapshot");
  for (const [i, mib] of RESTORE_MIB.entries()) {
    restored.push(await restores(mib, RESTORES[i], folder, file));
    if (i === 0 && !restored[0].skipped)
      for (const count of [1, CLONES]) {
        memory.push(await bounded("clones", () => clones(file, folder, count)));
        print({ section: "clones", clones: memory.at(-1) });
      }
    rmSync(file, { force: true });
  }

  const text = `# Results of \`make bench\`: snapshots

A guest of tram's own into a file, and out of it again. Contestants interleaved; each figure is the median, with the least
and the most in brackets; ratios are taken within each round.

${host}

## Aims

${table(["", "aim", "found", ""], [...saved.flatMap(saveAims), ...restoreAims(restored)])}

## Saves

A paused guest of ${gib(MIB)}, all of it touched before. **Seconds** until the file is durable and has its name. GiB are those of the
guest's pages that are not zero, the same for every contestant. CPU is user and system time of all processes that take part;
what the kernel writes back in its own threads is in nobody's.

- **bare**: a C loop with the same pages in anonymous memory of its own, in huge pages as the guest's is, that knows where its
  runs of non-zero pages are. So many threads write runs of at most 16 MiB at their own offsets into a new file, which is then
  synced. **cached** goes through the page cache, **direct** is \`O_DIRECT\`. **XXH3**: each page is hashed, too. **zeros too**:
  zero pages are written as well, so that the file has no holes, and all runs are long.
- **tram**: \`tram save --after pause\`, the whole command, with \`--direct-io\` off, auto or on and so many \`--channels\`; it
  looks for zero pages, hashes all others, and seals the file. CPU of the guest's process, which writes, and of the command.
  Its own report has no start and no end of the command. The aims are for auto, which is the default, as are
  ${USUAL_CHANNELS} channels.
- **QEMU**: \`-M none\` under TCG with the same pages in a shared memory file, touched before. 7.2: \`exec:\` with \`cat\`, then \`sync\` of
  the file and its new name. 10.0: \`file:\`, mapped-ram with ${QEMU_CHANNELS} multifd channels and direct-io, then fsync of the file.
  Timed from the \`migrate\` command, without QEMU's start. Its own report is its total-time, without any sync.

Before each save \`sync\` runs, and the file of the one before is removed; where its runs are small, it stays until there are
${MIXED_FILES}, which are then removed at once. If a save goes through the page cache, some seconds pass: the host of a virtual machine
takes back what a removed file had there, and each of them is to begin without it. What the page cache costs is then, for a
good part, what that host costs.

${saved
  .flatMap(({ fill, contests }) =>
    contests.map((one) => `${one.text} ${Object.values(one.samples)[0].length} rounds.\n\n${saveTable(fill, one)}\n`),
  )
  .join("\n")}
## What the hashes take

XXH3 of all pages that are not zero, in one thread with nothing beside it, ${HASH_RUNS} times; that, divided by the threads that run
at once, as a share of tram's save; and the seconds of the bare loop that hashes divided by those of the one that does not,
past the page cache.

${hashTable(saved)}

## A guest that runs

${gib(MIB)}, random, ${DIRTY_RATE.toLocaleString("en-US")} pages written a second in half of its RAM; \`tram save --after resume\` with what else is its default, ${LIVE_SAVES} times.

${liveTable(live)}

## Restores

\`tram restore\` of a guest that ran when it was saved, random pages. From just before the process is started to the first **byte on
the serial port**, which the guest writes after one page, so that it has run by then; to the **line** on standard error that
says that it runs, with the time that stands in it; and until **all** of its pages are in memory and were found to be as they were
saved. Where a guest is restored oftener, the others of these runs end with the serial byte.

- **lazy**: the file is the guest's memory. **first**: each page is verified before the guest sees it. **eager**: all before it
  runs, over 2 channels with \`--direct-io on\`, past the page cache.
- **warm**: the file is in the page cache. **cold**: it is not. **host**: nothing is, the executable neither.

${restoreTable(restored)}

## Clones

One and ${CLONES} guests out of one snapshot of ${gib(RESTORE_MIB[0])}, lazy, all pages here, from /proc/PID/smaps_rollup. PSS counts
pages that several processes share in equal parts. Anonymous memory is a process's own: tram's, and what its guest wrote.

${cloneTable(memory)}
`;
  await Bun.write(RESULTS, text);
}

mkdirSync(join(BUILD, "bench"), { recursive: true });
const why = whyNot();
if (why) print({ section: "snapshots", skipped: why });
else await main();

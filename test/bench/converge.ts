// The sixth part of make bench: guests that write while they move. Whether a move ends, by itself and with each remedy that it names;
// how fast a guest may write for that; whether what was foretold comes true; how much of a link of a fixed rate is used. Prints each
// sample as a line of JSON, writes CONVERGE.md. Aims that are missed fail nothing. BENCH_QUICK=1: few runs, into build/bench/.
import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Stall } from "../../src/control/convergence.ts";
import type { Limits } from "../../src/control/limits.ts";
import type { Forecast } from "../../src/control/measure.ts";
import { whyNoKvm } from "../support/bed.ts";
import { Network, whyNoSlowCable } from "../support/network.ts";
import { qemuCommand } from "../support/qemu.ts";
import { sendBare } from "./bare-link.ts";
import { bounded, contest, type Extent, environment, print, type Samples, scratchFolder } from "./contest.ts";
import { type FrontierOptions, frontiers, type Probe, probeQemu, probeTram, type Step, whyNoPeer } from "./frontier.ts";
import { freePort } from "./measure.ts";
import { qemuVersion } from "./qemu.ts";
import { median, spread, table, verdict } from "./stats.ts";
import { type MoveOptions, type Place, Walker, type WalkerOptions } from "./walkers.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const BUILD = resolve(import.meta.dir, "../../build");
const RESULTS = join(QUICK ? join(BUILD, "bench") : import.meta.dir, QUICK ? "CONVERGE.quick.md" : "CONVERGE.md");
const PAGE = 4096;
const MIB = 2 ** 20;
const SETTLE_MS = 200;

const mib = (bytes: number): string => (bytes / MIB).toFixed(0);
const pagesPerSec = (mibPerSec: number): number => Math.round((mibPerSec * MIB) / PAGE);
const seconds = (ms: number): string => (ms / 1000).toFixed(2);

// --- does it end

/** Carried by the link. */
const RATE = 40 * MIB;
const DOWNTIME_MS = 300;
/** To send all of its set takes 0.38 s, more than the downtime. */
const WALKER = { memoryMib: 18, setMib: 15, fill: "random" } as const;
const WRITES: Record<string, number | null> = {
  idle: 1,
  "a quarter of what is carried": pagesPerSec(10),
  "twice what is carried": pagesPerSec(80),
  "all it can": null,
};
const BOUND_MS = QUICK ? 5000 : 8000;
/** More than any remedy should need. */
const HELPED_BOUND_MS = 60_000;
const HELPED: Extent = { rounds: QUICK ? 2 : 20, seconds: 240 };
const HELPED_CABLE: Extent = { rounds: QUICK ? 1 : 20, seconds: 300 };

/** What limits a move: --max-bandwidth on one host, or a cable between two. */
interface Link {
  name: string;
  place: Place;
  limits: Partial<Limits>;
}

interface Unhelped {
  link: string;
  writes: string;
  /** Measured. */
  bytesPerSec: number;
  ended: boolean;
  seconds: number;
  rounds: number;
  downtimeMs: number | null;
  said: { atMs: number; remedy: Stall["remedy"] } | null;
}

async function unhelped(folder: string, links: Link[]): Promise<Unhelped[]> {
  const all: Unhelped[] = [];
  for (const { name: link, place, limits } of links)
    for (const [writes, rate] of Object.entries(WRITES)) {
      const one = await bounded(`${link}, ${writes}`, async (): Promise<Unhelped> => {
        await using walker = await Walker.start(folder, place, { ...WALKER, pagesPerSec: rate });
        await Bun.sleep(SETTLE_MS);
        const bytesPerSec = (await walker.dirtyRate(500)) * PAGE;
        const { ended, said, journal } = await walker.move({ limits, boundMs: BOUND_MS });
        const { elapsedMs, roundsDone: rounds, downtimeMs } = journal;
        const first = said && { atMs: said.atMs, remedy: said.stall.remedy };
        return { link, writes, bytesPerSec, ended, seconds: elapsedMs / 1000, rounds, downtimeMs, said: first };
      });
      all.push(one);
      print({ section: "unhelped", ...one });
    }
  return all;
}

function remedyText(remedy: Stall["remedy"]): string {
  if (remedy.knob === "max-bandwidth") return `max-bandwidth=${mib(remedy.bytesPerSec)} MiB/s`;
  return remedy.knob === "max-downtime" ? `max-downtime=${remedy.ms} ms` : `on-timeout=${remedy.value}`;
}

const unhelpedTable = (all: Unhelped[]): string =>
  table(
    [
      "link",
      "the guest writes",
      "MiB/s, measured",
      "ended",
      "seconds",
      "rounds",
      "downtime ms",
      "stall said, s",
      "told",
    ],
    all.map(({ link, writes, bytesPerSec, ended, seconds, rounds, downtimeMs, said }) => [
      link,
      writes,
      mib(bytesPerSec),
      ended ? "yes" : "no",
      seconds.toFixed(2),
      `${rounds}`,
      `${downtimeMs ?? ""}`,
      said ? (said.atMs / 1000).toFixed(2) : "no",
      said ? remedyText(said.remedy) : "",
    ]),
  );

const isMeantToEnd = ({ writes }: Unhelped): boolean => (WRITES[writes] ?? Number.POSITIVE_INFINITY) * PAGE < RATE;

/** The value that the move itself tells for it; where it tells of another knob, by the same figures. */
const REMEDIES: Record<string, (stall: Stall) => Partial<Limits>> = {
  "more max-bandwidth": ({ remedy, leftBytes }) => ({
    maxBandwidthBytesPerSec:
      remedy.knob === "max-bandwidth" ? remedy.bytesPerSec : Math.ceil((leftBytes * 1200) / DOWNTIME_MS),
  }),
  "more max-downtime": ({ remedy, leftBytes, bandwidthBytesPerSec }) => ({
    maxDowntimeMs: remedy.knob === "max-downtime" ? remedy.ms : Math.ceil((leftBytes * 1200) / bandwidthBytesPerSec),
  }),
  "on-timeout=throttle": () => ({ timeoutMs: 1, onTimeout: "throttle" }),
  "on-timeout=pause": () => ({ timeoutMs: 1, onTimeout: "pause" }),
};

interface Helped {
  ended: boolean;
  seconds: number;
  downtimeMs: number | null;
  lastPagesMs: number | null;
  /** Null: none holds. */
  limitMs: number | null;
  throttlePercent: number;
  parts: Record<string, number>;
}

async function helped(folder: string, { place, limits }: Link, remedy: string): Promise<Helped> {
  await using walker = await Walker.start(folder, place, { ...WALKER, pagesPerSec: null });
  await Bun.sleep(SETTLE_MS);
  let limitMs: number | null = remedy.endsWith("pause") ? null : DOWNTIME_MS;
  const onStall: MoveOptions["onStall"] = (stall) => {
    const help = REMEDIES[remedy](stall);
    limitMs = help.maxDowntimeMs ?? limitMs;
    return help;
  };
  const { ended, journal } = await walker.move({ limits, onStall, boundMs: HELPED_BOUND_MS });
  const { elapsedMs, downtimeMs, downtimePartsMs: parts, throttlePercent } = journal;
  const lastPagesMs = parts.lastPages ?? null;
  return { ended, seconds: elapsedMs / 1000, downtimeMs, lastPagesMs, limitMs, throttlePercent, parts };
}

async function helpedMoves(folder: string, link: Link, extent: Extent): Promise<Samples<Helped>> {
  const remedies = Object.keys(REMEDIES).filter((one) => link.limits.maxBandwidthBytesPerSec || !/bandwidth/.test(one));
  const contestants = remedies.map((one) => [`${link.name}, ${one}`, () => helped(folder, link, one)] as const);
  return contest<Helped>("helped", Object.fromEntries(contestants), extent);
}

const isWithin = ({ ended, downtimeMs, limitMs }: Helped): boolean =>
  ended && downtimeMs !== null && (limitMs === null || downtimeMs <= limitMs);

function helpedTable(samples: Samples<Helped>): string {
  const head = [
    "link, remedy",
    "runs",
    "ended",
    "within the limit",
    "limit ms, median",
    "downtime ms, median",
    "most",
    "of these the last pages ms, median",
    "seconds, median",
    "slowed down to the most by %, median",
  ];
  const rows = Object.entries(samples).map(([name, of]) => {
    const done = of.filter(({ ended }) => ended);
    const figures = (pick: (one: Helped) => number | null) => done.map(pick).filter((one) => one !== null);
    const middle = (values: number[], digits = 0) => (values.length > 0 ? median(values).toFixed(digits) : "");
    const downtimes = figures(({ downtimeMs }) => downtimeMs);
    const limits = figures(({ limitMs }) => limitMs);
    return [
      name,
      `${of.length}`,
      `${done.length}`,
      limits.length > 0 ? `${of.filter(isWithin).length}` : "does not apply",
      limits.length > 0 ? middle(limits) : "none",
      middle(downtimes),
      downtimes.length > 0 ? Math.max(...downtimes).toFixed(0) : "",
      middle(figures(({ lastPagesMs }) => lastPagesMs)),
      middle(
        figures((one) => one.seconds),
        2,
      ),
      name.endsWith("throttle") ? middle(figures(({ throttlePercent }) => throttlePercent)) : "",
    ];
  });
  return table(head, rows);
}

// --- how fast a guest may write

const FRONTIER: FrontierOptions = {
  bytesPerSec: 40 * MIB,
  downtimeMs: DOWNTIME_MS,
  setMib: 44,
  otherMib: 58,
  boundMs: 10_000,
  from: 0.6,
  to: 1.2,
  steps: QUICK ? 2 : 4,
  seconds: 200,
};

/** The two between which it lies. */
function borders(steps: Step[]): { ended: Step | undefined; not: Step | undefined } {
  const byShare = steps.toSorted((a, b) => a.asked - b.asked);
  return { ended: byShare.findLast(({ ended }) => ended), not: byShare.find(({ ended }) => !ended) };
}

const shareOf = ({ probes }: Step): number => median(probes.map(({ share }) => share));

function frontierTable(found: Record<string, Step[]>): string {
  const head = ["", "most that ended", "its seconds", "rounds", "downtime ms", "least that did not end"];
  const rows = Object.entries(found).map(([name, steps]) => {
    const { ended, not } = borders(steps);
    const done = ended?.probes.filter((one) => one.ended) ?? [];
    const figure = (pick: (one: Probe) => number, digits: number) =>
      done.length > 0 ? spread(done.map(pick), digits) : "";
    return [
      name,
      ended ? shareOf(ended).toFixed(2) : "none did",
      figure((one) => one.seconds, 2),
      figure(({ rounds }) => rounds, 0),
      figure(({ downtimeMs }) => downtimeMs ?? Number.NaN, 0),
      not ? shareOf(not).toFixed(2) : "all did",
    ];
  });
  return table(head, rows);
}

const stepTable = (found: Record<string, Step[]>): string =>
  table(
    ["", "asked for", "written before", "written during the move", "ended", "seconds", "rounds"],
    Object.entries(found).flatMap(([name, steps]) =>
      steps
        .toSorted((a, b) => a.asked - b.asked)
        .map(({ asked, probes }) => [
          name,
          asked.toFixed(2),
          probes.some(({ shareBefore }) => shareBefore === undefined)
            ? ""
            : spread(probes.map(({ shareBefore }) => shareBefore ?? Number.NaN)),
          spread(probes.map(({ share }) => share)),
          `${probes.filter(({ ended }) => ended).length} of ${probes.length}`,
          spread(probes.map((one) => one.seconds)),
          spread(
            probes.map(({ rounds }) => rounds),
            0,
          ),
        ]),
    ),
  );

// --- forecasts

interface Setting extends WalkerOptions {
  mibPerSec: number;
}

const setting = (
  memoryMib: number,
  setMib: number,
  rate: number | null,
  mibPerSec: number,
  fill: Setting["fill"] = "random",
): Setting => ({ memoryMib, setMib, pagesPerSec: rate, mibPerSec, fill });

const SETTINGS: Setting[] = [
  setting(128, 64, 1, 100),
  setting(128, 64, 2000, 100, "mixed"),
  setting(256, 128, 10_000, 200),
  setting(256, 64, 5000, 50, "mixed"),
  setting(512, 256, 20_000, 200, "mixed"),
  setting(512, 128, null, 200),
  setting(128, 64, 8000, 50),
  setting(256, 64, 20_000, 150),
  setting(128, 96, null, 50, "mixed"),
  setting(64, 48, 20_000, 40),
];
const FORECAST_BOUND_MS = 30_000;
const FACTOR = 1.5;

interface Told {
  converges: boolean;
  elapsedMs: number;
  bytes: number;
  /** Of the last pages alone. */
  downtimeMs: number | null;
}

interface Foretold {
  setting: Setting;
  forecast: Told;
  rehearsal: Told;
  outcome: Told;
  /** What the bulk pass really sent each second: this host may not carry what was said. */
  carriedBytesPerSec: number;
}

/** The same guest is measured, rehearses, and moves. */
async function foretold(folder: string, setting: Setting): Promise<Foretold> {
  await using walker = await Walker.start(folder, null, setting);
  await Bun.sleep(SETTLE_MS);
  const bandwidth = ["--bandwidth", `${setting.mibPerSec}MiB/s`];
  const forecast = await walker.ask<Forecast>("forecast", ...bandwidth, "--for", "2s");
  const rehearsal = await walker.ask<Told>("rehearse", ...bandwidth);
  const limits = { maxBandwidthBytesPerSec: setting.mibPerSec * MIB };
  const { said, journal } = await walker.move({ limits, boundMs: FORECAST_BOUND_MS, onStall: () => "cancel" });
  const { elapsedMs, bytes, downtimePartsMs, rounds } = journal;
  const carriedBytesPerSec = (rounds[0].bytes * 1000) / rounds[0].durationMs;
  const outcome = said
    ? { converges: false, elapsedMs: said.atMs, bytes: said.bytes, downtimeMs: null }
    : { converges: true, elapsedMs, bytes, downtimeMs: downtimePartsMs.lastPages ?? null };
  const told = ({ converges, elapsedMs, bytes, downtimeMs }: Told): Told => ({
    converges,
    elapsedMs,
    bytes,
    downtimeMs,
  });
  return { setting, forecast: told(forecast), rehearsal: told(rehearsal), outcome, carriedBytesPerSec };
}

async function forecasts(folder: string): Promise<Foretold[]> {
  const all: Foretold[] = [];
  for (const one of QUICK ? SETTINGS.slice(0, 2) : SETTINGS) {
    const found = await bounded("forecast", () => foretold(folder, one));
    all.push(found);
    print({ section: "forecast", ...found });
  }
  return all;
}

const isNear = (ratio: number): boolean => ratio <= FACTOR && ratio >= 1 / FACTOR;
/** Whether it ends, and when, and with how many bytes. */
const isTrue = (told: Told, { converges, elapsedMs, bytes }: Told): boolean =>
  told.converges === converges && isNear(elapsedMs / told.elapsedMs) && isNear(bytes / told.bytes);

const settingText = ({ memoryMib, setMib, pagesPerSec, mibPerSec, fill }: Setting): string =>
  `${memoryMib} MiB ${fill}, ${setMib} MiB at ${pagesPerSec === null ? "max" : `${pagesPerSec} pages/s`}, over ${mibPerSec} MiB/s`;

function forecastTable(all: Foretold[]): string {
  const ends = ({ converges }: Told) => (converges ? "ends" : "stalls");
  const ratio = (of: number | null, to: number | null) => (of === null || !to ? "" : (of / to).toFixed(2));
  const head = [
    "guest and bandwidth",
    "forecast",
    "rehearsal",
    "outcome",
    "bulk pass MiB/s",
    "seconds",
    "MiB",
    "last pages ms",
    "time ÷ forecast",
    "bytes ÷ forecast",
    "last pages ÷ forecast",
    "time ÷ rehearsal",
    "bytes ÷ rehearsal",
    "last pages ÷ rehearsal",
  ];
  const rows = all.map(({ setting, forecast, rehearsal, outcome, carriedBytesPerSec }) => [
    settingText(setting),
    ends(forecast),
    ends(rehearsal),
    ends(outcome),
    mib(carriedBytesPerSec),
    seconds(outcome.elapsedMs),
    mib(outcome.bytes),
    `${outcome.downtimeMs ?? ""}`,
    ...[forecast, rehearsal].flatMap((told) => [
      ratio(outcome.elapsedMs, told.elapsedMs),
      ratio(outcome.bytes, told.bytes),
      ratio(outcome.downtimeMs, told.downtimeMs),
    ]),
  ]);
  return table(head, rows);
}

/** Each with its figures. */
function outsideText(all: Foretold[]): string {
  const figures = ({ converges, elapsedMs, bytes, downtimeMs }: Told) =>
    `${converges ? "ends" : "stalls"} at ${seconds(elapsedMs)} s, ${mib(bytes)} MiB${downtimeMs === null ? "" : `, last pages ${downtimeMs.toFixed(0)} ms`}`;
  const outside = all.filter(({ forecast, outcome }) => !isTrue(forecast, outcome));
  if (outside.length === 0) return "None is outside.";
  const line = ({ setting, forecast, rehearsal, outcome, carriedBytesPerSec }: Foretold) =>
    `- ${settingText(setting)}: foretold ${figures(forecast)}; rehearsed ${figures(rehearsal)}; was ${figures(outcome)}, with ${mib(carriedBytesPerSec)} MiB/s in the bulk pass`;
  return `Outside:\n\n${outside.map(line).join("\n")}`;
}

// --- the share of a link

const LINK_BYTES_PER_SEC = 100e6; // 800 Mbit/s
/** Of each Ethernet frame of 1514 bytes, 1448 are TCP's payload: 20 are IP's, 20 TCP's, 12 its timestamps. */
const PAYLOAD = 1448 / 1514;
const LINK_GUEST = { memoryMib: QUICK ? 128 : 256, setMib: 4, pagesPerSec: 1, fill: "random" } as const;
const LINK: Extent = { rounds: QUICK ? 1 : 4, seconds: 60 };
const SHARE = 0.95;
/** Of the moves that were helped, and of forecasts. */
const ENDED_SHARE = 0.95;
const TOLD_SHARE = 0.8;

interface LinkSample {
  /** Of what the link carries: the bulk pass; the whole move, handing over included. */
  bulk: number;
  whole: number | null;
}

async function linkMove(folder: string, place: Place, limits: Partial<Limits>, carries: number): Promise<LinkSample> {
  await using walker = await Walker.start(folder, place, LINK_GUEST);
  await Bun.sleep(SETTLE_MS);
  const { ended, journal } = await walker.move({ limits, boundMs: HELPED_BOUND_MS });
  if (!ended) throw new Error("an idle guest's move has not ended");
  const [{ bytes, durationMs }] = journal.rounds;
  const share = (sent: number, ms: number) => (sent * 1000) / ms / carries;
  return { bulk: share(bytes, durationMs), whole: share(journal.bytes, journal.elapsedMs) };
}

async function linkShares(folder: string, cable: Network | null): Promise<Samples<LinkSample>> {
  const payload = LINK_BYTES_PER_SEC * PAYLOAD;
  const limits = { maxBandwidthBytesPerSec: LINK_BYTES_PER_SEC };
  return contest<LinkSample>(
    "link",
    {
      ...(cable && {
        "cable, bare": async () => {
          const { near, far } = cable;
          const sent = await sendBare(near, far, await freePort(), LINK_GUEST.memoryMib * MIB);
          return { bulk: sent.bytes / sent.seconds / payload, whole: null };
        },
        "cable, tram": () => linkMove(folder, cable, {}, payload),
      }),
      "--max-bandwidth, tram": () => linkMove(folder, null, limits, LINK_BYTES_PER_SEC),
    },
    LINK,
  );
}

const linkTable = (samples: Samples<LinkSample>): string =>
  table(
    ["", "bulk pass", "whole move"],
    Object.entries(samples).map(([name, of]) => {
      const wholes = of.map(({ whole }) => whole).filter((one) => one !== null);
      return [name, spread(of.map(({ bulk }) => bulk), 3), wholes.length > 0 ? spread(wholes, 3) : ""]; // biome-ignore format: one line
    }),
  );

// ---

interface Found {
  alone: Unhelped[];
  helped: Samples<Helped>;
  told: Foretold[];
  shares: Samples<LinkSample>;
  frontier: Record<string, Step[]>;
}

function aims({ alone, helped, told, shares, frontier }: Found): string[][] {
  const rows: string[][] = [];
  const count = (aim: string, found: number, of: number, share = 1) => {
    const wanted = Math.ceil(share * of);
    rows.push([aim, `${wanted} of ${of}`, `${found} of ${of}`, verdict(found >= wanted)]);
  };
  const asMeant = alone.filter((one) => one.ended === isMeantToEnd(one) && (one.said === null) === isMeantToEnd(one));
  count("without help: ends, or does not and says so", asMeant.length, alone.length);
  for (const [name, of] of Object.entries(helped)) {
    count(`${name}: ended`, of.filter(({ ended }) => ended).length, of.length, ENDED_SHARE);
    if (of[0].limitMs !== null) count(`${name}: within the limit`, of.filter(isWithin).length, of.length, ENDED_SHARE);
  }
  const [tram, qemu] = ["tram", "QEMU"].map((name) => borders(frontier[name] ?? []).ended);
  if (tram && qemu)
    rows.push([
      "dirty rate ÷ bandwidth at which a move ends: tram's ÷ QEMU's",
      "≥ 1",
      (shareOf(tram) / shareOf(qemu)).toFixed(2),
      verdict(shareOf(tram) >= shareOf(qemu)),
    ]);
  else rows.push(["dirty rate ÷ bandwidth at which a move ends: tram's ÷ QEMU's", "≥ 1", whyNoPeer() ?? "", "skipped"]);
  const title = `time and bytes within ×${FACTOR}, and whether it ends`;
  count(
    `forecast: ${title}`,
    told.filter(({ forecast, outcome }) => isTrue(forecast, outcome)).length,
    told.length,
    TOLD_SHARE,
  );
  count(
    `rehearsal: ${title}`,
    told.filter(({ rehearsal, outcome }) => isTrue(rehearsal, outcome)).length,
    told.length,
    TOLD_SHARE,
  );
  for (const [name, of] of Object.entries(shares).filter(([name]) => name.endsWith("tram"))) {
    const share = median(of.map(({ bulk }) => bulk));
    rows.push([`${name}: share of the link, bulk pass`, `≥ ${SHARE}`, share.toFixed(3), verdict(share >= SHARE)]);
  }
  return rows;
}

async function main(): Promise<void> {
  const noCable = await whyNoSlowCable();
  const noPeer = whyNoPeer();
  const host = await environment(noPeer ?? (await qemuVersion(qemuCommand("10.0"))), [
    ["cable", noCable ?? "veth, tbf"],
  ]);
  const folder = scratchFolder(tmpdir());
  const own: Link = { name: "--max-bandwidth", place: null, limits: { maxBandwidthBytesPerSec: RATE } };

  const withCable = async <T>(bytesPerSec: number, action: (cable: Network | null) => Promise<T>): Promise<T> => {
    if (noCable) return action(null);
    const cable = await Network.create({ bytesPerSec });
    process.once("exit", () => void cable.dispose());
    return action(cable).finally(() => cable.dispose());
  };
  const { alone, helped } = await withCable(RATE, async (cable) => {
    const links = [own, ...(cable ? [{ name: "cable", place: cable, limits: {} }] : [])];
    const alone = await unhelped(folder, links);
    const all: Samples<Helped>[] = [];
    for (const link of links) all.push(await helpedMoves(folder, link, link === own ? HELPED : HELPED_CABLE));
    return { alone, helped: Object.assign({}, ...all) as Samples<Helped> };
  });
  const told = await forecasts(folder);
  const shares = await withCable(LINK_BYTES_PER_SEC, (cable) => linkShares(folder, cable));
  const frontier = await frontiers(
    {
      tram: (rate) => probeTram(folder, rate, FRONTIER),
      ...(!noPeer && { QEMU: (rate: number) => probeQemu(rate, FRONTIER) }),
    },
    FRONTIER,
  );

  const text = `# Results of \`make bench\`: guests that write while they move

A walker of tram's own that writes a word of each page of its working set, page after page, over and over; what it writes is measured
by \`tram dirty-rate\`, not taken from its option. Moves over tcp:, plain, with \`--max-downtime ${DOWNTIME_MS}ms\` where nothing else is said.
**--max-bandwidth**: on one host, over its loopback. **cable**: between two network namespaces, over a veth pair with a token bucket
(tbf) at the near end; nothing limits the move itself there. Figures are the median, with the least and the most in brackets.

${host}

## Aims

${table(["", "aim", "found", ""], aims({ alone, helped, told, shares, frontier }))}

## Does it end

${WALKER.memoryMib} MiB, of which ${WALKER.setMib} are written, over ${mib(RATE)} MiB/s. **Without help**, cancelled after ${BOUND_MS / 1000} s:

${unhelpedTable(alone)}

**With help**, given when the move says that it stalls, to a guest that writes all it can; values as the move told them, or by its
figures where it told of another remedy. Downtime is all of it, handing over included; with \`pause\` the guest stands still from then on,
until all is sent.

${helpedTable(helped)}

## How fast a guest may write

The most that a guest writes, ÷ ${mib(FRONTIER.bytesPerSec)} MiB/s that its move carries, for the move to end by itself within ${FRONTIER.boundMs / 1000} s.
${FRONTIER.setMib} MiB are written, ${((FRONTIER.setMib * MIB) / FRONTIER.bytesPerSec / (DOWNTIME_MS / 1000)).toFixed(1)} times what fits the downtime; halved ${FRONTIER.steps} times between ${FRONTIER.from} and ${FRONTIER.to}, each step as two moves of at most
three agree. **QEMU** runs a Linux guest (TCG) whose only process writes in the same way, with the same \`max-bandwidth\` and \`downtime-limit\`;
what is written during a move is as the guest itself counts it, for both.

${frontierTable(frontier)}

${stepTable(frontier)}

## Forecasts

The same guest is measured for 2 s (\`tram forecast\`), goes through the rounds beside itself (\`tram rehearse\`), and moves (\`--max-bandwidth\`).
Where it does not end, time and bytes are those until that is said, and it is cancelled then. Of the downtime only the last pages are
foretold; the guest stands still then, and no \`--max-bandwidth\` holds them up. A bulk pass that sent less than was said is this host's.
A forecast takes each page that is written during a round to be sent again. But the log is cleared piece by piece, just before each is
sent: what is written ahead of the sender goes with it. A guest whose writes are ahead for long, as a walker's can be, takes less.

${forecastTable(told)}

${told.filter(({ forecast, outcome }) => isTrue(forecast, outcome)).length} of ${told.length} are as foretold: whether they end, and time and bytes within ×${FACTOR}. ${outsideText(told)}

## Share of a link

An idle guest of ${LINK_GUEST.memoryMib} MiB, all of it content, over ${(LINK_BYTES_PER_SEC * 8) / 1e6} Mbit/s: bytes a second, ÷ what the link carries. The cable's rate counts
headers of Ethernet, so that ${(PAYLOAD * 100).toFixed(1)} % of it can be content. **bare** sends as many bytes over the same cable in the same run, timed by
who receives them. The bulk pass ends when its last byte is in the socket; the whole move when the target has confirmed.

${linkTable(shares)}
`;
  await Bun.write(RESULTS, text);
}

mkdirSync(join(BUILD, "bench"), { recursive: true });
const why = whyNoKvm();
if (why) print({ section: "converge", skipped: why });
else await main();

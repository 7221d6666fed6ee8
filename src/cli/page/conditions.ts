// What is told line by line: limits, rounds, forecast, phases, the file, and the conditions under which it was so.

import type { Journal } from "../../control/journal.ts";
import type { Limits } from "../../control/limits.ts";
import { TARGET_PAGE_BYTES } from "../../stream/wire.ts";
import type { SeenLimits, SeenRound } from "../recording.ts";
import { formatBytes, formatCount, formatMs, formatRate } from "../units.ts";
import { html, type Markup, other, type Part, section, table } from "./html.ts";
import { figuresOf, type Story } from "./story.ts";
import { moveBeganMs } from "./timeline.ts";

export const formatDate = (date: Date): string => `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;

const LIMITS: [name: string, of: (limits: Limits) => string][] = [
  ["max-bandwidth", ({ maxBandwidthBytesPerSec: rate }) => (rate ? formatRate(rate) : "none")],
  ["max-downtime", ({ maxDowntimeMs }) => formatMs(maxDowntimeMs)],
  ["timeout", ({ timeoutMs }) => (timeoutMs ? formatMs(timeoutMs) : "none")],
  ["on-timeout", ({ onTimeout }) => onTimeout],
  ["hold", ({ hold }) => (hold ? "on" : "off")],
];

export function limitsSection({ recording: { limits }, isQemu }: Story): Markup | null {
  if (isQemu || limits.length === 0) return null;
  const changesOf = (of: (limits: Limits) => string): SeenLimits[] =>
    limits.filter((one, i) => i > 0 && of(one.limits) !== of(limits[i - 1].limits));
  const rows = LIMITS.map(([name, of]) => [
    name,
    of(limits[0].limits),
    changesOf(of)
      .map((one) => `${of(one.limits)} from ${formatMs(one.atMs)} on`)
      .join(", ") || "no",
  ]);
  return section(
    "limits",
    "Limits",
    table("Limits in force", [{ head: "limit" }, { head: "at the start" }, { head: "changed meanwhile" }], rows),
  );
}

/** More are not read by anybody. */
const ROUNDS_SHOWN = 200;

export function roundsSection({ recording: { rounds, journal }, isQemu }: Story): Markup | null {
  if (isQemu || rounds.length === 0) return null;
  const columns = ["round", "pages", "zero pages", "bytes", "time", "rate", "written meanwhile"];
  const row = ({ round, pages, zeroPages, bytes, durationMs, dirtyPages }: SeenRound): Part[] => [
    round,
    formatCount(pages),
    formatCount(zeroPages),
    formatBytes(bytes),
    formatMs(durationMs),
    formatRate((bytes * 1000) / Math.max(1, durationMs)),
    formatBytes(dirtyPages * TARGET_PAGE_BYTES),
  ];
  const shown = rounds.length > ROUNDS_SHOWN ? [rounds[0], ...rounds.slice(1 - ROUNDS_SHOWN)] : rounds;
  const missing = (journal?.roundsDone ?? 0) - shown.length;
  return section(
    "rounds",
    "Rounds",
    table(
      "Each round, and what the guest wrote meanwhile",
      columns.map((head, i) => ({ head, isNumber: i > 0 })),
      shown.map(row),
    ),
    missing > 0 && html`<p class="note">${formatCount(missing)} rounds behind the first are not shown.</p>\n`,
  );
}

export function forecastSection(journal: Journal, story: Story): Markup | null {
  const { forecast } = journal;
  if (!forecast) return null;
  const found = figuresOf(story, journal);
  const row = (name: string, foretold: number | null, came: number | null, format: (value: number) => string) => {
    const ratio = foretold && came !== null ? `× ${(came / foretold).toFixed(2)}` : "";
    return [name, ...[foretold, came].map((value) => (value === null ? "none" : format(value))), ratio];
  };
  const rows = [
    row("rounds", forecast.rounds, found.rounds, formatCount),
    row("total time", forecast.elapsedMs, found.elapsedMs, formatMs),
    row("bytes", forecast.bytes, found.bytes, formatBytes),
    row("downtime", forecast.downtimeMs, found.downtimeMs, formatMs),
  ];
  const figures = ["foretold", "found", "ratio"].map((head) => ({ head, isNumber: true }));
  return section(
    "forecast",
    "Forecast",
    table("What was foretold, beside what came of it", [{ head: "" }, ...figures], rows),
    html`<p class="note">Foretold ${formatDate(new Date(forecast.atMs))}${forecast.converges ? "" : ", and that it would not end"}.</p>\n`,
  );
}

const PHASE: Partial<Record<Journal["phase"], string>> = {
  cache: "the guest gives up its page cache",
  waiting: "waits for the connection",
  setup: "greets, and prepares",
  active: "rounds beside the running guest",
  held: "could switch over, and is held",
  device: "the guest is stopped; the last pages, its devices",
  handover: "the hand-over",
};
const SAVED: typeof PHASE = { ...PHASE, setup: "prepares", handover: "the file is made durable" };
/** As they come from QEMU. */
const KEPT: typeof PHASE = { ...SAVED, setup: "the stream begins", active: "pages", device: "devices" };

export function phasesSection(journal: Journal, { kind, isQemu }: Story): Markup | null {
  const { trace } = journal;
  if (trace.length === 0) return null;
  const names = isQemu ? KEPT : kind === "save" ? SAVED : PHASE;
  const beganMs = moveBeganMs(journal);
  const rows = trace.map(({ phase, atMs }, i) => {
    const next = trace[i + 1];
    return [phase, names[phase] ?? "", formatMs(atMs), next ? formatMs(next.atMs - atMs) : ""];
  });
  const columns = [
    { head: "phase" },
    { head: "" },
    { head: "began", isNumber: true },
    { head: "took", isNumber: true },
  ];
  return section(
    "phases",
    "Phases",
    table("Each phase, when it began and how long it took", columns, rows),
    beganMs > 0 &&
      html`<p class="note">All other times count from ${formatMs(beganMs)} on: what was before is no part of the move.</p>\n`,
  );
}

export function fileSection({ file, where }: Story): Markup | null {
  if (!file) return null;
  const { fileBytes, allocatedBytes, machine, blocks } = file;
  const sizes = `${formatBytes(fileBytes)} long${allocatedBytes === null ? "" : `, ${formatBytes(allocatedBytes)} on disk`}`;
  return section(
    "file",
    "File",
    html`<p>${other(where)}: ${sizes}${machine && html`, machine ${other(machine)}`}.</p>\n`,
    table(
      "Blocks of RAM",
      [{ head: "block" }, { head: "size", isNumber: true }, { head: "pages with content", isNumber: true }],
      blocks.map(({ name, bytes, present }) => [other(name), formatBytes(bytes), formatCount(present)]),
    ),
  );
}

export function conditionsSection({ environment, options, kind }: Story): Markup {
  const { version, kernel, cpu, cpus, memoryBytes, date } = environment;
  const rows: [string, Part][] = [
    ["tram", version],
    ["kernel", kernel],
    ["CPU", `${cpu}, ${cpus} of them`],
    ["memory", formatBytes(memoryBytes)],
    ["date", html`<time datetime="${date.toISOString()}">${formatDate(date)}</time>`],
    ...options.map(([name, value]): [string, Part] => [name, value ? other(value) : "given"]),
  ];
  return section(
    "conditions",
    "Conditions",
    table(`The host of tram ${kind}, and its options`, [{ head: "" }, { head: "" }], rows),
  );
}

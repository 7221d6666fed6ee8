// tram dirty-rate, forecast, rehearse: how fast a guest writes its memory, and what a move of it would come to, before it.
import { openSync } from "node:fs";
import { PAGE_RECORD_BYTES, type Stall } from "../control/convergence.ts";
import { isOver, type Journal } from "../control/journal.ts";
import { DEFAULT_LIMITS } from "../control/limits.ts";
import {
  type DirtyRate,
  type Forecast,
  forecast as foretell,
  type Measured,
  type Written,
} from "../control/measure.ts";
import { EXIT, fromErrorData, TramError } from "../errors.ts";
import { QmpClient } from "../qmp/client.ts";
import { isQemu } from "../qmp/migration.ts";
import { TARGET_PAGE_BYTES } from "../stream/wire.ts";
import { command } from "./command.ts";
import { print } from "./console.ts";
import { JSON_ARG, MAX_DOWNTIME_ARG, requireTram, VM_ARG, withGuest } from "./guest.ts";
import { readMemoryBytes } from "./guest-facts.ts";
import { type Interrupt, onInterrupt } from "./migrate.ts";
import type { Recording } from "./recording.ts";
import { forecastRow, JSON_SCHEMA, remedyText } from "./report.ts";
import { openReport, REPORT_ARG } from "./report-file.ts";
import { findSocket } from "./runtime.ts";
import { formatBytes, formatCount, formatMs, formatRate, parseDuration, parseRate } from "./units.ts";

const DEFAULT_FOR_MS = 1000;
const POLL_MS = 20;
const forTime = { type: "string", description: "how long to measure (default 1s)", valueHint: "TIME" } as const;
const parseFor = (text: string | undefined): number =>
  text === undefined ? DEFAULT_FOR_MS : parseDuration(text, "--for");

export const dirtyRate = command({
  name: "dirty-rate",
  summary: "measures how fast a guest writes its memory",
  args: { vm: VM_ARG, for: forTime, json: JSON_ARG },
  examples: ["tram dirty-rate a", "tram dirty-rate a --for 10s --json"],
  async run(args) {
    const forMs = parseFor(args.for);
    const { totalPages, written } = await withGuest(args.vm, async (client) =>
      measure(client, await isQemu(client), forMs),
    );
    const { ms, pages } = written.at(-1) as Written;
    const figures = {
      schema: JSON_SCHEMA,
      name: args.vm,
      forMs: Math.round(ms),
      totalPages,
      workingSetPages: pages,
      pagesPerSec: pagesPerSecond(written),
      written: written.map((point) => ({ ms: Math.round(point.ms * 1000) / 1000, pages: point.pages })),
    };
    print(args.json ? JSON.stringify(figures) : rateText(args.vm, figures));
    return EXIT.done;
  },
});

/** Shorter says nothing. */
const RATE_MS_MIN = 50;

/** Of different pages, at the beginning, before many were written twice. */
function pagesPerSecond(written: Written[]): number {
  const point = written.find(({ ms }) => ms >= RATE_MS_MIN) ?? written.at(-1);
  return point ? Math.round((point.pages * 1000) / Math.max(1, point.ms)) : 0;
}

function rateText(
  name: string,
  {
    pagesPerSec,
    workingSetPages,
    forMs,
    totalPages,
  }: Record<"pagesPerSec" | "workingSetPages" | "forMs" | "totalPages", number>,
): string {
  const rate = `${formatCount(pagesPerSec)} pages/s (${formatRate(pagesPerSec * TARGET_PAGE_BYTES)})`;
  const set = `${formatCount(workingSetPages)} of its ${formatCount(totalPages)} pages (${formatBytes(workingSetPages * TARGET_PAGE_BYTES)})`;
  return `${name}: writes ${rate}; in ${formatMs(forMs)} it wrote to ${set}`;
}

export const forecast = command({
  name: "forecast",
  summary: "foretells a move: rounds, time, bytes, downtime, and whether it ends",
  args: {
    vm: VM_ARG,
    bandwidth: { type: "string", description: "what the channel carries; it must be given", valueHint: "RATE" },
    maxDowntime: MAX_DOWNTIME_ARG,
    maxBandwidth: {
      type: "string",
      description: "the most that the move may send (default no limit)",
      valueHint: "RATE",
    },
    for: forTime,
    json: JSON_ARG,
  },
  examples: ["tram forecast a --bandwidth 10Gbit/s", "tram forecast a --bandwidth 1Gbit/s --max-downtime 1s --for 10s"],
  async run(args) {
    const bandwidth = bandwidthOf("forecast", args.bandwidth);
    const limits = {
      ...DEFAULT_LIMITS,
      ...(args.maxDowntime !== undefined && { maxDowntimeMs: parseDuration(args.maxDowntime, "--max-downtime") }),
      ...(args.maxBandwidth !== undefined && {
        maxBandwidthBytesPerSec: parseRate(args.maxBandwidth, "--max-bandwidth"),
      }),
    };
    const forMs = parseFor(args.for);
    const { rate, found } = await withGuest(args.vm, async (client) => {
      const qemu = await isQemu(client);
      const rate = await measure(client, qemu, forMs);
      const found = foretell(rate, rate.contentPages, bandwidth, limits);
      if (!qemu) await note(client, found);
      return { rate, found };
    });
    if (args.json)
      print(
        JSON.stringify({
          schema: JSON_SCHEMA,
          name: args.vm,
          contentPages: rate.contentPages,
          ...found,
          ...whole(found),
        }),
      );
    else print(forecastText(args.vm, found, rate.written.at(-1)?.ms ?? 0));
    return EXIT.done;
  },
});

/** The report of the next move has it beside what came of that. */
async function note(client: QmpClient, found: Forecast): Promise<void> {
  const { converges, rounds, bytes } = found;
  const { elapsedMs, downtimeMs } = whole(found);
  await client.execute("tram-note-forecast", { converges, rounds, bytes, elapsedMs, downtimeMs });
}

const whole = ({ elapsedMs, downtimeMs, longestRoundMs }: Forecast) => ({
  elapsedMs: Math.round(elapsedMs),
  downtimeMs: downtimeMs === null ? null : Math.round(downtimeMs),
  longestRoundMs: Math.round(longestRoundMs),
});

function forecastText(name: string, found: Forecast, measuredMs: number): string {
  const { longestRoundMs } = found;
  const verdict = movedText(name, found);
  if (longestRoundMs <= measuredMs) return verdict;
  const seconds = Math.ceil(longestRoundMs / 1000);
  return `${verdict}\n  supposed: a round takes up to ${formatMs(longestRoundMs)}, and ${formatMs(measuredMs)} were measured; --for ${seconds}s tells more`;
}

function movedText(name: string, found: Omit<Forecast, "longestRoundMs">): string {
  const { converges, rounds, elapsedMs, bytes, downtimeMs, stall } = found;
  const sent = `${formatBytes(bytes)} in ${formatMs(elapsedMs)}`;
  if (converges)
    return `${name}: ${rounds} rounds, ${sent}; downtime about ${formatMs(downtimeMs ?? 0)} and the hand-over`;
  return `${name}: would not converge: seen after ${rounds} rounds, ${sent}${stall ? stallLines(name, stall) : ""}`;
}

const stallLines = (name: string, { leftBytes, remedy }: Stall): string =>
  `; each leaves ${formatBytes(leftBytes)}\n  then: ${remedyText(name, remedy)}`;

export const rehearse = command({
  name: "rehearse",
  summary: "goes through the rounds of a move beside the running guest, and sends them nowhere",
  args: {
    vm: VM_ARG,
    bandwidth: { type: "string", description: "as if the channel carried that; it must be given", valueHint: "RATE" },
    maxDowntime: MAX_DOWNTIME_ARG,
    timeout: {
      type: "string",
      description: "give up after this time (default none: it ends when it stalls)",
      valueHint: "TIME",
    },
    report: REPORT_ARG,
    json: JSON_ARG,
  },
  examples: [
    "tram rehearse a --bandwidth 1Gbit/s --report rehearsal.html",
    "tram rehearse a --bandwidth 10Gbit/s --max-downtime 50ms --json",
  ],
  async run(args) {
    const options = {
      peer: "nowhere",
      rehearse: true,
      maxBandwidthBytesPerSec: bandwidthOf("rehearse", args.bandwidth),
      ...(args.maxDowntime !== undefined && { maxDowntimeMs: parseDuration(args.maxDowntime, "--max-downtime") }),
      ...(args.timeout !== undefined && { timeoutMs: parseDuration(args.timeout, "--timeout") }),
    };
    const client = await QmpClient.connect(findSocket(args.vm), args.vm);
    const page = openReport(args.report, { kind: "rehearse", vm: args.vm, where: options.peer, args });
    const interrupt = onInterrupt(client);
    try {
      await requireTram(
        client,
        args.vm,
        "which sends its pages itself: only guests of tram's are rehearsed",
        `tram forecast ${args.vm} --bandwidth RATE measures it, and reckons`,
      );
      await client.execute("getfd", { fdname: "tram" }, openSync("/dev/null", "w"));
      await client.execute("migrate", { uri: "fd:tram", tram: options });
      const journal = await untilItIsKnown(client, interrupt, page?.recording);
      const signal = interrupt.signal();
      if (signal) throw new TramError("E_INTERRUPTED", `interrupted by ${signal}: the guest is as it was`);
      const { error } = journal;
      // A rehearsal that stalls is cancelled here.
      if (error && !(journal.stall && ["E_CANCELLED", "E_TIMED_OUT"].includes(error.code))) throw fromErrorData(error);
      const { roundsDone, expectedDowntimeMs, remainingPages, stall, forecast } = journal;
      // As if the guest had been stopped then, and the rest sent.
      const last = stall
        ? { rounds: 0, ms: 0, pages: 0 }
        : { rounds: 1, ms: expectedDowntimeMs ?? 0, pages: remainingPages };
      const found = {
        converges: stall === null,
        rounds: roundsDone + last.rounds,
        elapsedMs: Math.round(journal.elapsedMs + last.ms),
        bytes: journal.bytes + last.pages * PAGE_RECORD_BYTES,
        downtimeMs: stall ? null : expectedDowntimeMs,
        stall,
      };
      const compared = forecast ? `\n  ${forecastRow(forecast, found)}` : "";
      if (args.json)
        print(JSON.stringify({ schema: JSON_SCHEMA, name: args.vm, ...found, ...(forecast && { forecast }) }));
      else print(`${movedText(args.vm, found)}${compared}`);
      await page?.write({ outcome: "completed", owner: "source; a rehearsal does not stop it", error: null });
      return EXIT.done;
    } catch (error) {
      await page?.fail(error);
      throw error;
    } finally {
      interrupt.remove();
      client.close();
    }
  },
});

/** Until it would switch over, or does not come nearer to that. */
async function untilItIsKnown(client: QmpClient, interrupt: Interrupt, recording?: Recording): Promise<Journal> {
  for (let cancelled = false; ; await Bun.sleep(POLL_MS)) {
    await interrupt.cancelOnce();
    const journal = await client.execute<Partial<Journal>>("tram-query-move");
    if (journal.phase) recording?.note(journal as Journal);
    if (isOver(journal.phase)) return journal as Journal;
    if (!journal.stall || cancelled) continue;
    cancelled = true;
    await client.execute("migrate_cancel");
  }
}

const QEMU_SECONDS_MAX = 60;

/** As its monitor does: some pages are hashed, and those that changed are counted. Whole seconds; all of its RAM is content. */
async function measureQemu(client: QmpClient, forMs: number): Promise<DirtyRate> {
  const seconds = Math.min(Math.max(1, Math.round(forMs / 1000)), QEMU_SECONDS_MAX);
  const totalPages = (await readMemoryBytes(client)) / TARGET_PAGE_BYTES;
  await client.execute("calc-dirty-rate", { "calc-time": seconds });
  for (;;) {
    const found = await client.execute<{ status: string; "dirty-rate"?: number }>("query-dirty-rate");
    const mibPerSec = found["dirty-rate"];
    if (found.status === "measured" && mibPerSec !== undefined && mibPerSec >= 0) {
      const pages = Math.min(totalPages, (mibPerSec * seconds * 2 ** 20) / TARGET_PAGE_BYTES);
      return { totalPages, contentPages: totalPages, written: [{ ms: seconds * 1000, pages }] };
    }
    await Bun.sleep(POLL_MS);
  }
}

function bandwidthOf(command: string, text: string | undefined): number {
  if (text !== undefined) return parseRate(text, "--bandwidth");
  throw new TramError("E_USAGE", `tram ${command} needs --bandwidth`, {
    next: `what the channel carries: tram ${command} VM --bandwidth 10Gbit/s`,
  });
}

/** The guest is tracked for as long; Ctrl-C ends it. */
async function measure(client: QmpClient, qemu: boolean, forMs: number): Promise<DirtyRate> {
  if (qemu) return measureQemu(client, forMs);
  await client.execute("tram-measure", { forMs });
  for (;;) {
    const { dirtyRate, error } = await client.execute<Measured>("tram-query-measure");
    if (error) throw fromErrorData(error);
    if (dirtyRate) return dirtyRate;
    await Bun.sleep(POLL_MS);
  }
}

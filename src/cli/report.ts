// A move as people and programs see it: the journal in, one live line, one line a round, or one JSON event a line out.
import { openSync } from "node:fs";
import type { ChannelCounts } from "../control/barrier.ts";
import type { Stall } from "../control/convergence.ts";
import type { Journal, Round } from "../control/journal.ts";
import type { ForecastNote } from "../control/measure.ts";
import { type ErrorData, EXIT, formatError, fromErrorData, reasonOf, TramError, toErrorData } from "../errors.ts";
import { net } from "../native/net.ts";
import { print, say, writeAll } from "./console.ts";
import {
  type ChannelReport,
  type Events,
  type FinalReport,
  JSON_SCHEMA,
  type Outcome,
  type TramEvent,
} from "./events.ts";
import { freeReport, freeRows } from "./free-pages.ts";
import type { Way } from "./progress.ts";
import { ProgressView } from "./progress-view.ts";
import type { Recording } from "./recording.ts";
import { formatBytes, formatCount, formatMany, formatMs, formatRate } from "./units.ts";

export { type FinalReport, JSON_SCHEMA } from "./events.ts";

export const EVENTS_ARG = {
  type: "string",
  description: "events as JSON, one a line, the last is the report: in place of text, or in a file beside it",
  valueHint: "PATH|fd:N",
  names: "file",
} as const;

/** Where events go: --json[=PATH|fd:N]; null: nowhere. */
export function openJson(option: string | undefined, streamOnStdout: boolean): Events | null {
  if (option === undefined) return null;
  if (option === "-" || option === "") {
    if (streamOnStdout)
      throw new TramError("E_USAGE", "the stream and --json both want standard output", {
        next: "send the events elsewhere: --json=PATH or --json=fd:2",
      });
    return { tell: (event) => print(JSON.stringify(event)), replacesText: true };
  }
  const numbered = /^fd:([0-9]+)$/.exec(option);
  if (numbered) net.fdType(Number(numbered[1]));
  const fd = numbered ? Number(numbered[1]) : openOutput("--json", option);
  let works = true;
  const tell = (event: TramEvent) => {
    if (!works || writeAll(fd, `${JSON.stringify(event)}\n`)) return;
    works = false;
    say(`--json=${option}: cannot write; no more events are written, the move goes on`);
  };
  return { tell, replacesText: numbered !== null };
}

/** Where --trace goes; null: nowhere. */
export function openTrace(path: string | undefined): ((phase: string, atMs: number) => void) | null {
  if (path === undefined) return null;
  const fd = openOutput("--trace", path);
  return (phase, atMs) => void writeAll(fd, `${atMs.toFixed(3).padStart(12)} ${phase}\n`);
}

/** A file that an option names, for lines. */
export function openOutput(option: string, path: string): number {
  try {
    return openSync(path, "w");
  } catch (error) {
    throw new TramError("E_FILE", `${option}: cannot write ${path}: ${reasonOf(error)}`);
  }
}

/** Why the move does not end, and what would end it. */
export function stallText(vm: string, stall: Stall): string {
  const { leftBytes, dirtyBytesPerSec, bandwidthBytesPerSec, remedy } = stall;
  const rates = `the guest writes at least ${formatRate(dirtyBytesPerSec)}, ${formatRate(bandwidthBytesPerSec)} are carried`;
  const why = `${vm}: the move does not converge: each round leaves ${formatBytes(leftBytes)}; ${rates}`;
  return `${why}\n  next: ${remedyText(vm, remedy)}`;
}

export function remedyText(vm: string, remedy: Stall["remedy"]): string {
  switch (remedy.knob) {
    case "max-bandwidth":
      return `the limit holds it up: tram set ${vm} max-bandwidth=${Math.ceil(remedy.bytesPerSec / 2 ** 20)}MiB/s`;
    case "max-downtime":
      return `a longer downtime would end it: tram set ${vm} max-downtime=${remedy.ms}ms`;
    case "on-timeout":
      return `slow the guest down, or let it stand still: tram set ${vm} timeout=1s on-timeout=throttle (or pause)`;
  }
}

/** One line a round, for logs. */
export function roundLine(round: Round): string {
  const rate = (round.bytes * 1000) / Math.max(1, round.durationMs);
  return `round=${round.round} pages=${round.pages} zero=${round.zeroPages} bytes=${round.bytes} ms=${Math.round(round.durationMs)} rate=${Math.round(rate)} dirty=${round.dirtyPages}`;
}

/** Of everything that was found in a file: bad bytes are the worst. */
export function exitOf(problems: readonly ErrorData[]): number {
  const codes = problems.map((one) => fromErrorData(one).exitCode);
  return codes.includes(EXIT.badBytes) ? EXIT.badBytes : (codes[0] ?? EXIT.done);
}

export const channelReport = (counts: ChannelCounts): ChannelReport => ({
  bytes: counts.bytes,
  pages: counts.pages,
  zeroPages: counts.zeroPages,
  packets: counts.packets,
  systemCalls: counts.systemCalls,
  zeroCopyBytes: counts.zeroCopyBytes,
  copiedByKernelBytes: counts.copiedBytes,
  fallbacks: counts.fallbacks,
  flushWaitMs: Math.round(counts.flushWaitMs),
  compressMs: Math.round(counts.compressMs),
});

/** What became of something that is over. */
export const outcomeOf = (phase: Journal["phase"]): Outcome =>
  phase === "completed" || phase === "cancelled" ? phase : "failed";

export function finalReport(vm: string, journal: Journal): FinalReport {
  const { peer, owner, totalPages, sentPages, zeroPages, resentPages, bytes } = journal;
  const { downtimeMs, maxDowntimeMs, downtimePartsMs, throttlePercent, stall, error } = journal;
  const elapsedMs = Math.round(journal.elapsedMs);
  return {
    schema: JSON_SCHEMA,
    event: "move.finished",
    vm,
    peer,
    outcome: outcomeOf(journal.phase),
    owner,
    rounds: journal.roundsDone,
    totalPages,
    sentPages,
    zeroPages,
    ...freeReport(journal),
    resentPages,
    bytes,
    elapsedMs,
    bandwidthBytesPerSec: Math.round((bytes * 1000) / Math.max(1, elapsedMs)),
    downtimeMs,
    maxDowntimeMs,
    downtimePartsMs,
    throttlePercent,
    stall,
    ...(journal.multifd && { channels: journal.channels.map(channelReport) }),
    ...(journal.differingPages !== undefined && { differingPages: journal.differingPages }),
    ...(journal.forecast && { forecast: journal.forecast }),
    error,
  };
}

/** The final report for a person. */
export function formatReport(report: FinalReport): string {
  const rows: [string, string][] = [["owner", describeOwner(report)]];
  if (report.bytes > 0)
    rows.push(
      [
        "pages",
        `${formatCount(report.sentPages)} sent, ${formatCount(report.zeroPages)} zero, ${formatCount(report.resentPages)} of these re-sent, ${report.rounds > 0 ? `in ${formatMany(report.rounds, "round")}` : "before the first round was over"}`,
      ],
      ...freeRows(report),
      [
        "bytes",
        `${formatBytes(report.bytes)} in ${formatMs(report.elapsedMs)}, ${formatRate(report.bandwidthBytesPerSec)}`,
      ],
    );
  rows.push(...channelRows(report));
  if (report.differingPages !== undefined)
    rows.push([
      "verified",
      `${formatCount(report.totalPages)} pages${report.differingPages ? `; ${formatCount(report.differingPages)} had arrived wrong, and were sent again` : ""}`,
    ]);
  if (report.throttlePercent > 0)
    rows.push(["throttled", `the guest's CPUs rested up to ${report.throttlePercent}% of the time`]);
  rows.push(...downtimeRows(report));
  if (report.forecast?.converges && report.outcome === "completed")
    rows.push(["forecast", forecastRow(report.forecast, report)]);
  return rows.map(([name, text]) => `  ${name.padEnd(9)} ${text}`).join("\n");
}

/** The parts that it sums up; and that it was longer than it was to be. */
export function downtimeRows({
  downtimeMs,
  maxDowntimeMs,
  downtimePartsMs,
}: Pick<FinalReport, "downtimeMs" | "maxDowntimeMs" | "downtimePartsMs">): [string, string][] {
  if (downtimeMs === null) return [];
  const parts = Object.entries(downtimePartsMs).map(([name, ms]) => `${name} ${ms}`);
  const isMissed = maxDowntimeMs !== null && downtimeMs > maxDowntimeMs;
  const missed = isMissed ? `: longer than the ${formatMs(maxDowntimeMs)} of --max-downtime` : "";
  return [["downtime", `${downtimeMs} ms (${parts.join(", ")})${missed}`]];
}

/** What was foretold, beside what came of it. */
export function forecastRow(foretold: ForecastNote, found: { elapsedMs: number; bytes: number }): string {
  const { converges, rounds, elapsedMs, bytes, downtimeMs, atMs } = foretold;
  const verdict = converges ? `downtime ${formatMs(downtimeMs ?? 0)}` : "no end";
  const times = (of: number, to: number) => `${(of / Math.max(1, to)).toFixed(2)} times`;
  const compared = `it took ${times(found.elapsedMs, elapsedMs)} as long and ${times(found.bytes, bytes)} the bytes`;
  const ago = formatMs(Math.max(0, Date.now() - atMs));
  return `${ago} ago: ${rounds} rounds, ${formatBytes(bytes)} in ${formatMs(elapsedMs)}, ${verdict}; ${compared}`;
}

/** One line for each channel. */
export const channelRows = (report: Pick<FinalReport, "channels" | "elapsedMs">): [string, string][] =>
  (report.channels ?? []).map((channel, i) => [`channel ${i}`, channelText(channel, report.elapsedMs)]);

function channelText(channel: ChannelReport, elapsedMs: number): string {
  const { bytes, packets, systemCalls, zeroCopyBytes, copiedByKernelBytes, fallbacks, flushWaitMs, compressMs } =
    channel;
  const parts = [`${formatBytes(bytes)} in ${formatCount(packets)} packets, ${formatCount(systemCalls)} system calls`];
  if (zeroCopyBytes) {
    const copied = copiedByKernelBytes ? `, ${formatBytes(copiedByKernelBytes)} of it copied by the kernel` : "";
    parts.push(`${formatBytes(zeroCopyBytes)} zero-copy${copied}`);
  }
  if (fallbacks) parts.push(`${formatCount(fallbacks)} calls fell back to copying`);
  if (flushWaitMs) parts.push(`waited ${formatMs(flushWaitMs)} for the kernel`);
  if (compressMs) {
    const ratio = (channel.pages * 4096) / Math.max(1, bytes);
    parts.push(`compressed ${ratio.toFixed(1)}:1 in ${formatMs(compressMs)} of ${formatMs(elapsedMs)}`);
  }
  return parts.join("; ");
}

export function describeOwner({ owner, vm }: Pick<FinalReport, "owner" | "vm">): string {
  if (owner === "target") return "target";
  if (owner === "file") return `the file; '${vm}' stays here, stopped: tram quit ${vm}, or tram resume ${vm}`;
  if (owner === "unconfirmed")
    return `unconfirmed: every byte was accepted; '${vm}' stays here, stopped: tram quit ${vm} once it runs elsewhere, tram resume ${vm} if it does not`;
  return "source";
}

/** Shows a move, or a save of a guest of tram's, while it goes on. */
export class MoveView {
  readonly #vm: string;
  readonly #json: Events | null;
  readonly #trace: ((phase: string, atMs: number) => void) | null;
  readonly #progress: ProgressView;
  readonly #recording: Recording | null;
  #shownRounds = 0;
  #traced = 0;
  #stalled = false;

  constructor(
    vm: string,
    json: Events | null,
    trace: ((phase: string, atMs: number) => void) | null = null,
    recording: Recording | null = null,
    way: Way = "move",
  ) {
    this.#vm = vm;
    this.#json = json;
    this.#trace = trace;
    this.#recording = recording;
    const guest = (journal: Journal) => ({ vm, owner: journal.owner });
    this.#progress = new ProgressView(way, json, {
      phase: (journal) => ({
        schema: JSON_SCHEMA,
        event: "move.phase",
        ...guest(journal),
        phase: journal.phase,
        elapsedMs: Math.round(journal.elapsedMs),
      }),
      progress: (progress, journal) => ({
        schema: JSON_SCHEMA,
        event: "move.progress",
        ...guest(journal),
        ...progress,
      }),
    });
  }

  update(journal: Journal): void {
    this.#recording?.note(journal);
    this.#progress.update(journal);
    for (const { phase, atMs } of journal.trace.slice(this.#traced)) this.#trace?.(phase, atMs);
    this.#traced = journal.trace.length;
    this.#tellStall(journal.stall);
    // A round's dirty pages are known when the next one begins: until then it is not shown.
    const known = journal.phase === "active" ? journal.rounds.slice(0, -1) : journal.rounds;
    for (const round of known.filter((one) => one.round > this.#shownRounds)) {
      this.#shownRounds = round.round;
      this.#json?.tell({
        schema: JSON_SCHEMA,
        event: "round.finished",
        vm: this.#vm,
        owner: journal.owner,
        ...round,
        durationMs: Math.round(round.durationMs),
      });
      if (!this.#json?.replacesText && !this.#progress.isLive) say(roundLine(round));
    }
  }

  /** Once each time that it begins. */
  #tellStall(stall: Stall | null): void {
    if (stall && !this.#stalled) {
      this.#json?.tell({ schema: JSON_SCHEMA, event: "move.stalled", vm: this.#vm, owner: "source", ...stall });
      if (!this.#json?.replacesText) say(stallText(this.#vm, stall));
    }
    this.#stalled = stall !== null;
  }

  /** Something to know before it begins. */
  note(text: string): void {
    if (!this.#json?.replacesText) say(text);
  }

  clear(): void {
    this.#progress.clear();
  }

  finish(report: FinalReport): void {
    this.clear();
    this.#json?.tell(report);
    if (report.error) say(formatError(report.error));
    if (this.#json?.replacesText) return;
    say(
      `'${this.#vm}' ${report.outcome === "completed" ? `moved to ${report.peer}` : `was to move to ${report.peer}: ${report.outcome}`}\n${formatReport(report)}`,
    );
  }
}

/** A failure before there was anything to report on, in the form that --json promises. */
export const failure = (error: unknown) => ({
  schema: JSON_SCHEMA as typeof JSON_SCHEMA,
  outcome: "failed" as const,
  owner: error instanceof TramError && error.code === "E_HANDOVER_UNKNOWN" ? "unconfirmed" : "source",
  error: toErrorData(error),
});

export const failedReport = (vm: string, error: unknown, json: Events | null): void =>
  json?.tell({ ...failure(error), event: "move.finished", vm });

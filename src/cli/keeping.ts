// Runs the threads that keep a stream, and shows what they do: behind tram receive, save and convert.

import type { Journal } from "../control/journal.ts";
import { EXIT, formatError, fromErrorData, TramError, toErrorData } from "../errors.ts";
import { KEEP_FATE } from "../keep/keep.ts";
import type { KeeperInit, KeptSummary } from "../keep/keeper-worker.ts";
import { startChannel, startKeeper } from "../workers.ts";
import { liveLine, say } from "./console.ts";
import { type Events, JSON_SCHEMA, type KeepReport } from "./events.ts";
import { ProgressView } from "./progress-view.ts";
import type { Recording } from "./recording.ts";
import { failure, outcomeOf } from "./report.ts";
import { formatBytes, formatCount, formatMany, formatMs, formatRate } from "./units.ts";

export interface KeepResult {
  journal: Journal;
  summary: KeptSummary | null;
}

export interface Keeping {
  /** Ends it: nothing is left of the file. False: it comes too late, the file is getting its name. */
  cancel(): boolean;
  finished: Promise<KeepResult>;
}

export function startKeeping(init: Omit<KeeperInit, "stop">, onJournal: (journal: Journal) => void): Keeping {
  const stop = new SharedArrayBuffer(8);
  const over = Promise.withResolvers<KeepResult>();
  const keeper = startKeeper({ ...init, stop });
  keeper.onCrash((error) => over.reject(error));
  keeper.onEnd(() => over.reject(new TramError("E_INTERNAL", "the thread that keeps the stream has ended by itself")));
  keeper.onMessage((message) => {
    if (message.event === "journal") onJournal(message.journal);
    else if (message.event === "over") over.resolve(message);
    else for (const one of message.inits) startChannel(one).onCrash((error) => over.reject(error));
  });
  return {
    cancel() {
      const words = new Int32Array(stop);
      if (Atomics.compareExchange(words, KEEP_FATE.at, KEEP_FATE.open, KEEP_FATE.cancelled) === KEEP_FATE.committed)
        return false;
      Atomics.store(words, 0, 1);
      return true;
    },
    finished: over.promise,
  };
}

export function keepReport(file: string, { journal, summary }: KeepResult): KeepReport {
  const channels = summary?.channels ?? [];
  const { bytes } = journal;
  const elapsedMs = Math.round(journal.elapsedMs);
  return {
    schema: JSON_SCHEMA,
    event: "keep.finished",
    file,
    peer: journal.peer,
    outcome: outcomeOf(journal.phase),
    owner: journal.owner,
    machine: summary?.machine ?? null,
    blocks: summary?.blocks ?? [],
    devices: summary?.devices ?? 0,
    receivedPages: journal.sentPages,
    zeroPages: journal.zeroPages,
    bytes,
    elapsedMs,
    bandwidthBytesPerSec: Math.round((bytes * 1000) / Math.max(1, elapsedMs)),
    fileBytes: summary?.fileBytes ?? 0,
    channels,
    error: journal.error,
  };
}

/** For a person: what is in the file now. */
export function formatKeepReport(report: KeepReport): string {
  const present = report.blocks.reduce((total, block) => total + block.present, 0);
  const all = report.blocks.reduce((total, block) => total + block.bytes / 4096, 0);
  const untold = report.blocks.reduce((total, block) => total + block.untold, 0);
  const rows: [string, string][] = [
    [
      "machine",
      `${report.machine}, ${formatBytes(all * 4096)} in ${formatMany(report.blocks.length, "RAM block")}, ${report.devices ? formatMany(report.devices, "device section") : "unknown device sections"}`,
    ],
    [
      "pages",
      `${formatCount(present)} with content, ${formatCount(all - present)} zero; ${formatCount(report.receivedPages)} came in all`,
    ],
    [
      "bytes",
      `${formatBytes(report.bytes)} in ${formatMs(report.elapsedMs)}, ${formatRate(report.bandwidthBytesPerSec)}${report.channels.length ? `, over ${formatMany(report.channels.length, "channel")}` : ""}`,
    ],
  ];
  if (untold) rows.push(["note", `the source told nothing of ${formatCount(untold)} pages: they are kept as zero`]);
  return rows.map(([name, text]) => `  ${name.padEnd(9)} ${text}`).join("\n");
}

/** How far it is; the report in the end. */
export class KeepView {
  readonly #file: string;
  readonly #json: Events | null;
  readonly #recording: Recording | null;
  readonly #progress: ProgressView;

  constructor(file: string, json: Events | null, recording: Recording | null = null) {
    this.#file = file;
    this.#json = json;
    this.#recording = recording;
    this.#progress = new ProgressView("keep", json, {
      phase: ({ phase, owner, elapsedMs }) => ({
        schema: JSON_SCHEMA,
        event: "keep.phase",
        file,
        phase,
        owner,
        elapsedMs: Math.round(elapsedMs),
      }),
      progress: (progress, { owner }) => ({ schema: JSON_SCHEMA, event: "keep.progress", file, owner, ...progress }),
    });
  }

  update(journal: Journal): void {
    this.#recording?.note(journal);
    this.#progress.update(journal);
  }

  finish(report: KeepReport): number {
    this.#progress.clear();
    this.#json?.tell(report);
    if (report.error) {
      say(formatError(report.error));
      return fromErrorData(report.error).exitCode;
    }
    if (!this.#json?.replacesText) say(`${this.#file}: kept, and on disk\n${formatKeepReport(report)}`);
    return EXIT.done;
  }
}

/** Cancels on Ctrl-C, a closed terminal, a polite kill; says which it was, and `ending`. */
export function cancelOnSignal(
  cancel: () => void,
  ending = "ending; once more does not wait for the other side",
): { signal(): string | null; remove(): void } {
  let signal: string | null = null;
  const handlers = (["SIGINT", "SIGTERM", "SIGHUP"] as const).map((name) => {
    const handler = () => {
      if (signal) {
        // A second time: it is not waited for any more.
        remove();
        liveLine.clear();
        process.kill(process.pid, name);
        return;
      }
      signal = name;
      say(`${name}: ${ending}`);
      cancel();
    };
    process.on(name, handler);
    return [name, handler] as const;
  });
  const remove = () => {
    for (const [name, handler] of handlers) process.off(name, handler);
  };
  return { signal: () => signal, remove };
}

/** A cancel that a person meant is an interruption. */
export function interrupted(report: KeepReport, signal: string | null): void {
  if (signal && report.outcome !== "completed")
    report.error = toErrorData(new TramError("E_INTERRUPTED", `interrupted by ${signal}: nothing was kept`));
}

/** A failure before there was anything to report on is told, too; then it is thrown on. */
export function reportingFailure<T>(file: string, json: Events | null, action: () => Promise<T>): Promise<T> {
  return action().catch((error) => {
    json?.tell({ ...failure(error), event: "keep.finished", file });
    throw error;
  });
}

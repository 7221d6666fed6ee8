// tram save of a guest of ours: its own process writes the file that it is handed; here the file is made, given its name when it
// is whole, and told of.
import { existsSync, statfsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { isOver, type Journal } from "../control/journal.ts";
import type { PageCache } from "../control/page-cache.ts";
import type { After } from "../control/save.ts";
import { EXIT, formatError, fromErrorData, TramError, toErrorData } from "../errors.ts";
import { chooseDirect, type DirectMode } from "../native/file.ts";
import { net } from "../native/net.ts";
import type { QmpClient } from "../qmp/client.ts";
import { MACHINE_NAME, RAM_BLOCK_NAME } from "../stream/devices/machine.ts";
import { type FileTarget, OutputFile } from "../writer/output-file.ts";
import { worstCaseBytes } from "../writer/snapshot.ts";
import { say } from "./console.ts";
import { type Events, JSON_SCHEMA, type SaveReport } from "./events.ts";
import { statOf } from "./file-target.ts";
import { freeReport, freeRows } from "./free-pages.ts";
import { untilBooted } from "./migrate.ts";
import { downtimeRows, type MoveView, outcomeOf } from "./report.ts";
import { formatBytes, formatCount, formatMany, formatMs, formatRate } from "./units.ts";

const POLL_MS = 20;
const QUIT_MS = 10_000;

export interface GuestSave {
  after: After;
  channels: number;
  direct: DirectMode;
  reserve: boolean;
  /** Begin even where the worst case would not fit. */
  overcommit: boolean;
  free: { skipFree: boolean; pageCache: PageCache };
  /** Who restores it must find its disks as they are. */
  recordsDisks: boolean;
  limits: { maxDowntimeMs?: number; maxBandwidthBytesPerSec?: number; timeoutMs?: number };
}

/** Where there is less room than the file may need, nothing is begun. */
function checkSpace(target: FileTarget, needed: number, overcommit: boolean): void {
  const path = "fd" in target ? `/proc/self/fd/${target.fd}` : resolve(target.path);
  const there = statOf(path);
  if (!there && !existsSync(dirname(path))) return; // whoever opens it says so
  const { bavail, bsize } = statfsSync(there ? path : dirname(path));
  const inPlace = "fd" in target || target.offset !== undefined;
  const free = bavail * bsize + (inPlace ? (there?.blocks ?? 0) * 512 : 0); // else the old one stays until the new one is whole
  if (needed <= free || overcommit) return;
  throw new TramError("E_REFUSED", "the file may not fit its disk", {
    expected: `${formatBytes(needed)} free: all of the guest's memory, and what describes it`,
    found: `${formatBytes(free)}${there && !inPlace ? ", while the file that is there is kept until the new one is whole" : ""}`,
    next: "free some, or --overcommit: zero pages take no room, and a save that finds none leaves everything as it was",
  });
}

export async function saveGuest(
  vm: string,
  client: QmpClient,
  file: string,
  target: FileTarget,
  wanted: GuestSave,
  view: MoveView,
  signal: () => string | null,
): Promise<SaveReport> {
  await untilBooted(client, signal);
  const { "base-memory": ramBytes } = await client.execute<{ "base-memory": number }>("query-memory-size-summary");
  const base = "fd" in target ? 0 : (target.offset ?? 0);
  const needed = worstCaseBytes(ramBytes, base);
  checkSpace(target, needed, wanted.overcommit);
  const output = new OutputFile(target);
  let committed = false;
  try {
    if (!output.isPlain)
      throw new TramError("E_USAGE", `${file}: pages have fixed places in this file, so it must be a regular one`);
    const { fallback, ...direct } = chooseDirect(output.fd, wanted.direct, true);
    if (fallback) say(`pages go through the page cache: ${fallback}`);
    await pass(client, "tram", output.fd);
    if (direct.fd >= 0) await pass(client, "tram-direct", direct.fd);
    if (direct.fd >= 0) net.close(direct.fd);
    await client.execute("tram-save", {
      fdname: "tram",
      ...(direct.fd >= 0 && { directFdname: "tram-direct", directOnly: direct.only }),
      offset: output.offset,
      peer: file,
      after: wanted.after,
      channels: wanted.channels,
      reserve: wanted.reserve,
      ...(!wanted.recordsDisks && { disks: "none" }),
      blocking: process.env.TRAM_BLOCK_GUEST === "1", // for the benchmark
      ...wanted.free,
      ...wanted.limits,
    });
    view.note(`at most ${formatBytes(needed)} will be written to ${file}, however long it takes`);
    const journal = await follow(client, view, signal, () => {
      output.commit();
      committed = true;
    });
    if (committed && journal.phase !== "completed")
      throw new TramError("E_STATE", `the guest's process says '${journal.phase}'`);
    const report = saveReport(file, journal, committed ? output.size : null, fallback);
    await leave(vm, client, wanted.after, report, signal());
    return report;
  } catch (error) {
    if (!committed) throw error;
    throw new TramError("E_HANDOVER_UNKNOWN", `${file} is complete and on disk, but its guest was not left as asked`, {
      expected: `--after ${wanted.after}`,
      found: (error as Error).message,
      next: `tram status ${vm}: if it is there and stands still, tram quit or tram resume it; if it runs, the file is older than it`,
    });
  } finally {
    if (!committed) output.discard();
  }
}

async function pass(client: QmpClient, name: string, fd: number): Promise<void> {
  await client.execute("getfd", { fdname: name }, fd);
}

/** Reads the journal until the save is over; gives the file its name when the guest's process has done its part. */
async function follow(
  client: QmpClient,
  view: MoveView,
  signal: () => string | null,
  commit: () => void,
): Promise<Journal> {
  let cancelled = false;
  let committed = false;
  let failure: unknown = null;
  for (;;) {
    if ((signal() || failure) && !cancelled && !committed) {
      cancelled = true;
      await client.execute("migrate_cancel");
    }
    const journal = await client.execute<Journal | Record<string, never>>("tram-query-move");
    if ("phase" in journal) {
      view.update(journal as Journal);
      if (isOver(journal.phase)) {
        if (failure) throw failure;
        return journal as Journal;
      }
      if (journal.phase === "handover" && journal.readyToCommit && !committed && !cancelled) {
        try {
          commit();
          committed = true;
          await client.execute("tram-save-commit");
        } catch (error) {
          failure ??= error;
        }
      }
    }
    await Bun.sleep(POLL_MS);
  }
}

function saveReport(
  file: string,
  journal: Journal,
  size: { fileBytes: number; allocatedBytes: number } | null,
  directFallback: string | null,
): SaveReport {
  const elapsedMs = Math.round(journal.elapsedMs);
  return {
    schema: JSON_SCHEMA,
    event: "keep.finished",
    file,
    peer: journal.peer,
    outcome: outcomeOf(journal.phase),
    owner: journal.owner,
    machine: MACHINE_NAME,
    blocks: [{ name: RAM_BLOCK_NAME, bytes: journal.totalPages * 4096, present: journal.presentPages ?? 0, untold: 0 }],
    receivedPages: journal.sentPages,
    zeroPages: journal.zeroPages,
    ...freeReport(journal),
    resentPages: journal.resentPages,
    rounds: journal.roundsDone,
    bytes: journal.bytes,
    elapsedMs,
    bandwidthBytesPerSec: Math.round((journal.bytes * 1000) / Math.max(1, elapsedMs)),
    fileBytes: size?.fileBytes ?? 0,
    allocatedBytes: size?.allocatedBytes ?? 0,
    directBytes: journal.channels.reduce((sum, { directBytes }) => sum + directBytes, 0),
    directFallback,
    downtimeMs: journal.downtimeMs,
    maxDowntimeMs: journal.maxDowntimeMs,
    downtimePartsMs: journal.downtimePartsMs,
    channels: journal.channels,
    error: journal.error,
  };
}

/** What the guest's process cannot know: that a person interrupted; and its own end, where that was asked for. */
async function leave(
  vm: string,
  client: QmpClient,
  after: After,
  report: SaveReport,
  signal: string | null,
): Promise<void> {
  if (report.outcome === "cancelled")
    report.error = toErrorData(
      signal
        ? new TramError("E_INTERRUPTED", `interrupted by ${signal}: the guest goes on, and nothing was kept`)
        : new TramError("E_CANCELLED", "cancelled: the guest goes on, and nothing was kept"),
    );
  if (report.outcome !== "completed" || after !== "quit") return;
  await client.execute("quit").catch(() => undefined); // it may be gone before it answers
  if (await client.ended(QUIT_MS)) return;
  report.outcome = "failed";
  report.error = toErrorData(
    new TramError("E_STATE", `${report.file} is complete and on disk, but the guest's process does not end`, {
      next: `it is stopped: tram quit ${vm}`,
    }),
  );
}

export function finishSave(report: SaveReport, view: MoveView, json: Events | null): number {
  view.clear();
  json?.tell(report);
  if (report.error) {
    say(formatError(report.error));
    return fromErrorData(report.error).exitCode;
  }
  if (!json?.replacesText) say(`${report.file}: saved, and on disk\n${formatSave(report)}`);
  return EXIT.done;
}

function formatSave(report: SaveReport): string {
  const [{ bytes: ramBytes, present }] = report.blocks;
  const share = report.bytes ? Math.round((report.directBytes / report.bytes) * 100) : 0;
  const rows: [string, string][] = [
    [
      "pages",
      `${formatCount(present)} of ${formatBytes(ramBytes)}; ${formatCount(report.receivedPages)} written in ${formatMany(report.rounds, "round")}, ${formatCount(report.resentPages)} of these again`,
    ],
    ...freeRows(report),
    [
      "bytes",
      `${formatBytes(report.bytes)} in ${formatMs(report.elapsedMs)}, ${formatRate(report.bandwidthBytesPerSec)}, ${share}% past the page cache, over ${formatMany(report.channels.length, "channel")}`,
    ],
    ["file", `${formatBytes(report.allocatedBytes)} on disk, sealed`],
  ];
  rows.push(...downtimeRows(report));
  return rows.map(([name, text]) => `  ${name.padEnd(9)} ${text}`).join("\n");
}

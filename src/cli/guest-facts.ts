// What a guest's monitor tells of it.
import { deflateSync, inflateSync } from "node:zlib";
import { isOver, type Journal, type Phase } from "../control/journal.ts";
import type { RestoreJournal } from "../control/restore.ts";
import type { BalloonFacts } from "../machine/balloon.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { FreePagesPart, TrackingFacts } from "../qmp/commands.ts";
import { Meter, progressOf, type Speed } from "./progress.ts";

/** The status of a guest that has a socket, and says nothing there. */
export const NO_ANSWER = "no answer";

export interface Status {
  name: string;
  status: string;
  memory: number;
  cpus: number;
}

/** All that it was given, whatever its balloon has. */
export async function readMemoryBytes(client: QmpClient): Promise<number> {
  const size = await client.execute<{ "base-memory": number; "plugged-memory"?: number }>("query-memory-size-summary");
  return size["base-memory"] + (size["plugged-memory"] ?? 0);
}

export async function readStatus(client: QmpClient, name: string): Promise<Status> {
  const { status } = await client.execute<{ status: string }>("query-status");
  const named = await client.execute<{ name?: string }>("query-name");
  const memory = await readMemoryBytes(client);
  const cpus = await client.execute<unknown[]>("query-cpus-fast");
  return {
    name: named.name ?? name,
    status,
    memory,
    cpus: cpus.length,
  };
}

/** Whether and how the guest's writes are found; only tram's guests can tell. */
export async function readTracking(client: QmpClient): Promise<Partial<TrackingFacts>> {
  try {
    return await client.execute<TrackingFacts>("tram-query-tracking");
  } catch {
    return {};
  }
}

/** How far a restored guest's memory has come; only tram's guests can tell. */
export async function readRestore(client: QmpClient): Promise<{ restore?: RestoreJournal }> {
  try {
    const restore = await client.execute<RestoreJournal | Record<string, never>>("tram-query-restore");
    return "phase" in restore ? { restore: restore as RestoreJournal } : {};
  } catch {
    return {};
  }
}

export interface GuestMove {
  direction: "outgoing" | "incoming";
  peer: string;
  phase: Phase;
  /** The one that is under way, from 1. */
  round: number;
  /** Of its pages, those that need not be sent any more; null: not known, as at a target. */
  percent: number | null;
  bytesPerSec: number;
  expectedDowntimeMs: number | null;
}

/** Of the move that is under way; null: there is none, or it is not known. */
export interface MoveFacts {
  move: GuestMove | null;
  /** What the guest wrote in the last round of which that is known. */
  dirtyBytesPerSec: number | null;
}

/** Only tram's guests tell so much. `meter`: what has seen earlier journals of it. */
export async function readMove(client: QmpClient, meter = new Meter()): Promise<MoveFacts> {
  try {
    const journal = await client.execute<Journal | Record<string, never>>("tram-query-move");
    const moving = "phase" in journal ? (journal as Journal) : null;
    return moveFacts(moving, moving && meter.measure(moving, performance.now()));
  } catch {
    return moveFacts(null, null);
  }
}

/** The same figures as a move's own line has. */
export function moveFacts(journal: Journal | null, speed: Speed | null): MoveFacts {
  if (!journal || !speed || isOver(journal.phase)) return { dirtyBytesPerSec: null, move: null };
  const { direction, peer, phase, roundsDone } = journal;
  const progress = progressOf(journal, direction === "incoming" ? "keep" : "move", speed);
  const { percent, rateBytesPerSec, dirtyBytesPerSec, expectedDowntimeMs } = progress;
  const round = roundsDone + 1;
  return {
    dirtyBytesPerSec,
    move: { direction, peer, phase, round, percent, bytesPerSec: rateBytesPerSec, expectedDowntimeMs },
  };
}

/** What the guest has given up, and has said of its memory; only tram's guests tell so much. */
export async function readBalloon(client: QmpClient): Promise<{ balloon?: BalloonFacts }> {
  try {
    const balloon = await client.execute<BalloonFacts | Record<string, never>>("tram-query-balloon");
    return "isDriven" in balloon ? { balloon: balloon as BalloonFacts } : {};
  } catch {
    return {};
  }
}

/** Which pages it had free when it was last asked: a bit for each, the lowest first, as zlib has it, in base64. */
export async function readFreePages(
  client: QmpClient,
): Promise<{ freePages?: { pages: number; free: number; bitmap: string } }> {
  try {
    const parts: Buffer[] = [];
    let free = 0;
    for (let first = 0, pages = 1; first < pages; ) {
      const part = await client.execute<Partial<FreePagesPart>>("tram-query-free-pages", { firstPage: first });
      if (part.bitmap === undefined || !part.pages) return {};
      parts.push(inflateSync(Buffer.from(part.bitmap, "base64")));
      free += part.free ?? 0;
      first += part.pages;
      pages = part.totalPages ?? 0;
      if (first >= pages)
        return { freePages: { pages, free, bitmap: deflateSync(Buffer.concat(parts)).toString("base64") } };
    }
  } catch {
    // of QEMU's guests nobody knows
  }
  return {};
}

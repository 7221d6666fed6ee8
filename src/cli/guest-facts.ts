// What a guest's monitor tells of it.
import { deflateSync, inflateSync } from "node:zlib";
import type { RestoreJournal } from "../control/restore.ts";
import type { BalloonFacts } from "../machine/balloon.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { FreePagesPart, TrackingFacts } from "../qmp/commands.ts";

export interface Status {
  name: string;
  status: string;
  memory: number;
  cpus: number;
}

export async function readStatus(client: QmpClient, name: string): Promise<Status> {
  const { status } = await client.execute<{ status: string }>("query-status");
  const named = await client.execute<{ name?: string }>("query-name");
  const size = await client.execute<{ "base-memory": number; "plugged-memory"?: number }>("query-memory-size-summary");
  const cpus = await client.execute<unknown[]>("query-cpus-fast");
  return {
    name: named.name ?? name,
    status,
    memory: size["base-memory"] + (size["plugged-memory"] ?? 0),
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

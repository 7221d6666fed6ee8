// What a guest's monitor tells of it.
import type { RestoreJournal } from "../control/restore.ts";
import type { BalloonFacts } from "../machine/balloon.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { TrackingFacts } from "../qmp/commands.ts";

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

/** Which pages it had free when it was last asked. */
export async function readFreePages(client: QmpClient): Promise<{ freePages?: object }> {
  try {
    const freePages = await client.execute<object>("tram-query-free-pages");
    return "bitmap" in freePages ? { freePages } : {};
  } catch {
    return {};
  }
}

// What tram top knows of a guest. It asks for nothing that would disturb the guest: what it writes is known only while it moves.
import { readFile } from "node:fs/promises";
import { isOver, type Journal, type Phase } from "../control/journal.ts";
import { unverifiedPages } from "../control/restore.ts";
import { TramError } from "../errors.ts";
import { withGuest } from "./guest.ts";
import { readBalloon, readRestore, readStatus } from "./guest-facts.ts";
import { guestNames } from "./runtime.ts";

/** A guest that does not say anything for so long is shown so. */
const ANSWER_MS = 1000;
const PAGE_BYTES = 4096;

export interface TopMove {
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

/** Null: not known, or there is no such thing. */
export interface TopGuest {
  name: string;
  /** "no answer": all else is not known then. */
  status: string;
  cpus: number;
  memoryBytes: number;
  /** Of the guest's process: what is in memory; and of that, what is in another process, too. */
  pid: number | null;
  residentBytes: number | null;
  sharedBytes: number | null;
  /** Of a restored guest. */
  unverifiedPages: number | null;
  /** Given up, in its balloon. */
  balloonBytes: number | null;
  /** While it moves: in the last round. */
  dirtyBytesPerSec: number | null;
  move: TopMove | null;
}

/** All of this user's guests, by name. */
export async function readGuests(): Promise<TopGuest[]> {
  const found = await Promise.all(guestNames().map((name) => Promise.race([readGuest(name), silence(name)])));
  return found.filter((one) => one !== null);
}

const silence = (name: string): Promise<TopGuest> => Bun.sleep(ANSWER_MS).then(() => silent(name));

function silent(name: string): TopGuest {
  const memory = { pid: null, residentBytes: null, sharedBytes: null, unverifiedPages: null, balloonBytes: null };
  return { name, status: "no answer", cpus: 0, memoryBytes: 0, ...memory, dirtyBytesPerSec: null, move: null };
}

/** Null: it has ended. */
async function readGuest(name: string): Promise<TopGuest | null> {
  try {
    return await withGuest(name, async (client) => {
      const { status, memory, cpus } = await readStatus(client, name);
      const { restore } = await readRestore(client);
      const { balloon } = await readBalloon(client);
      const journal = await client.execute<Journal | Record<string, never>>("tram-query-move");
      const { pid } = client;
      return {
        name,
        status,
        cpus,
        memoryBytes: memory,
        pid,
        ...(await readMemory(pid)),
        unverifiedPages: restore ? unverifiedPages(restore) : null,
        balloonBytes: balloon?.isDriven ? balloon.actualBytes : null,
        ...moveFacts("phase" in journal ? (journal as Journal) : null),
      };
    });
  } catch (error) {
    if (!(error instanceof TramError)) throw error;
    return error.code === "E_NO_SUCH_GUEST" ? null : silent(name);
  }
}

async function readMemory(pid: number | null): Promise<Pick<TopGuest, "residentBytes" | "sharedBytes">> {
  try {
    return memoryFacts(await readFile(`/proc/${pid}/smaps_rollup`, "utf8"));
  } catch {
    return { residentBytes: null, sharedBytes: null };
  }
}

/** Of the text of /proc/PID/smaps_rollup. */
export function memoryFacts(smaps: string): Pick<TopGuest, "residentBytes" | "sharedBytes"> {
  const bytes = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB$`, "m").exec(smaps)?.[1] ?? 0) * 1024;
  return { residentBytes: bytes("Rss"), sharedBytes: bytes("Shared_Clean") + bytes("Shared_Dirty") };
}

/** Of the move that is under way. */
export function moveFacts(journal: Journal | null): Pick<TopGuest, "dirtyBytesPerSec" | "move"> {
  if (!journal || isOver(journal.phase)) return { dirtyBytesPerSec: null, move: null };
  const { direction, peer, phase, rounds, roundsDone, totalPages, remainingPages } = journal;
  const { bandwidthBytesPerSec, bytes, elapsedMs, expectedDowntimeMs } = journal;
  const isKnown = direction === "outgoing" && totalPages > 0;
  const measured = rounds.at(-2); // what the guest wrote in the last one is not counted yet
  return {
    dirtyBytesPerSec:
      measured === undefined
        ? null
        : Math.round((measured.dirtyPages * PAGE_BYTES * 1000) / Math.max(1, measured.durationMs)),
    move: {
      direction,
      peer,
      phase,
      round: roundsDone + 1,
      percent: isKnown ? Math.floor(((totalPages - remainingPages) / totalPages) * 100) : null,
      bytesPerSec: Math.round(bandwidthBytesPerSec || (bytes * 1000) / Math.max(1, elapsedMs)),
      expectedDowntimeMs,
    },
  };
}

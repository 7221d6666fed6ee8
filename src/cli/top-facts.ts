// What tram top knows of a guest. It asks for nothing that would disturb the guest: what it writes is known only while it moves.

import { readFile } from "node:fs/promises";
import { unverifiedPages } from "../control/restore.ts";
import { TramError } from "../errors.ts";
import { withGuest } from "./guest.ts";
import { type MoveFacts, NO_ANSWER, readBalloon, readMove, readRestore, readStatus } from "./guest-facts.ts";
import { Meter } from "./progress.ts";
import { guestNames } from "./runtime.ts";

/** A guest that does not say anything for so long is shown so. */
const ANSWER_MS = 1000;

/** Null: not known, or there is no such thing. */
export interface TopGuest extends MoveFacts {
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
}

/** Looks at all of this user's guests, again and again: a speed is what was carried from one look to the next. */
export class Lookout {
  #meters = new Map<string, Meter>();

  /** By name. */
  async read(): Promise<TopGuest[]> {
    const names = guestNames();
    this.#meters = new Map(names.map((name) => [name, this.#meters.get(name) ?? new Meter()]));
    const looks = [...this.#meters].map(([name, meter]) => Promise.race([readGuest(name, meter), silence(name)]));
    return (await Promise.all(looks)).filter((one) => one !== null);
  }
}

const silence = (name: string): Promise<TopGuest> => Bun.sleep(ANSWER_MS).then(() => silent(name));

function silent(name: string): TopGuest {
  const memory = { pid: null, residentBytes: null, sharedBytes: null, unverifiedPages: null, balloonBytes: null };
  return { name, status: NO_ANSWER, cpus: 0, memoryBytes: 0, ...memory, dirtyBytesPerSec: null, move: null };
}

/** Null: it has ended. */
async function readGuest(name: string, meter: Meter): Promise<TopGuest | null> {
  try {
    return await withGuest(name, async (client) => {
      const { status, memory, cpus } = await readStatus(client, name);
      const { restore } = await readRestore(client);
      const { balloon } = await readBalloon(client);
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
        ...(await readMove(client, meter)),
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

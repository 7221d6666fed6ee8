// How fast a guest may write, as a share of what its move carries, for the move to end by itself: found by halving, for a walker of
// tram's and for a QEMU guest that writes in the same way.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { Bed } from "../support/bed.ts";
import { type MigrateInfo, type PeerOptions, QemuPeer, whyNoQemu } from "../support/qemu.ts";
import { bounded, print } from "./contest.ts";
import { paceOf, Walker, type Written } from "./walkers.ts";

const PAGE = 4096;
const IMAGE = resolve(import.meta.dir, "../../build/bench/guest-writer.cpio");
const VERSION = "10.0";
/** Within that no guest of these has been through all that it writes. */
const MEASURE_MS = 700;
/** So much of its memory Linux leaves empty here. */
const EMPTY_MIB = 14;

export interface FrontierOptions {
  bytesPerSec: number;
  downtimeMs: number;
  /** What the guest writes, over and over. */
  setMib: number;
  /** Content beside that. */
  otherMib: number;
  boundMs: number;
  /** Dirty rate ÷ bandwidth: surely ends, surely does not. */
  from: number;
  to: number;
  steps: number;
  seconds: number;
}

/** One move. */
export interface Probe {
  /** What the guest really wrote during the move, by its own account, ÷ the bandwidth. */
  share: number;
  /** The same before it, by `tram dirty-rate`. */
  shareBefore?: number;
  ended: boolean;
  seconds: number;
  downtimeMs: number | null;
  rounds: number;
}

export interface Step {
  /** As the guest was told to write. */
  asked: number;
  probes: Probe[];
  ended: boolean;
}

const most = (probes: Probe[], ended: boolean) => probes.filter((one) => one.ended === ended).length >= 2;

/** As the two of three that agree. */
async function step(asked: number, probe: () => Promise<Probe>): Promise<Step> {
  const probes: Probe[] = [];
  while (!most(probes, true) && !most(probes, false)) probes.push(await probe());
  return { asked, probes, ended: most(probes, true) };
}

export type Peers = Record<string, (pagesPerSec: number) => Promise<Probe>>;

/** Interleaved, step by step. */
export async function frontiers(peers: Peers, options: FrontierOptions): Promise<Record<string, Step[]>> {
  const { bytesPerSec, from, to, steps, seconds } = options;
  const startedMs = performance.now();
  const found = Object.fromEntries(Object.keys(peers).map((name) => [name, [] as Step[]]));
  for (let n = 0; n < steps && performance.now() - startedMs < seconds * 1000; n++)
    for (const [name, peer] of Object.entries(peers)) {
      const low = Math.max(from, ...found[name].filter(({ ended }) => ended).map(({ asked }) => asked));
      const high = Math.min(to, ...found[name].filter(({ ended }) => !ended).map(({ asked }) => asked));
      const asked = (low + high) / 2;
      const pagesPerSec = Math.round((asked * bytesPerSec) / PAGE);
      const one = await step(asked, () => bounded(`frontier, ${name}`, () => peer(pagesPerSec)));
      found[name].push(one);
      print({ section: "frontier", name, step: n + 1, ...one });
    }
  return found;
}

export async function probeTram(folder: string, pagesPerSec: number, options: FrontierOptions): Promise<Probe> {
  const { bytesPerSec, downtimeMs: maxDowntimeMs, setMib, otherMib, boundMs } = options;
  const guest = { memoryMib: setMib + otherMib, setMib, pagesPerSec, fill: "random" } as const;
  await using walker = await Walker.start(folder, null, guest);
  const dirtyRate = await walker.dirtyRate(MEASURE_MS);
  const limits = { maxBandwidthBytesPerSec: bytesPerSec, maxDowntimeMs };
  const before = await walker.written(false);
  const { ended, journal } = await walker.move({ limits, boundMs });
  const pace = paceOf(before, await walker.written(ended));
  const [share, shareBefore] = [pace, dirtyRate].map((rate) => (rate * PAGE) / bytesPerSec);
  const { elapsedMs, downtimeMs, roundsDone: rounds } = journal;
  return { share, shareBefore, ended, seconds: elapsedMs / 1000, downtimeMs, rounds };
}

/** Why there is no QEMU to compare with; null if there is one. */
export const whyNoPeer = (): string | null =>
  whyNoQemu(VERSION) ?? (existsSync(IMAGE) ? null : "its guest is missing: make bench-converge");

/** Pages that its guest had written, and when, by its last word. */
function wroteLast(peer: QemuPeer): Written {
  const match = [...peer.serial().matchAll(/^wrote (\d+) at (\d+)\n/gm)].at(-1);
  return { pages: Number(match?.[1] ?? 0), atMs: Number(match?.[2] ?? 0) };
}

export async function probeQemu(pagesPerSec: number, options: FrontierOptions): Promise<Probe> {
  const { bytesPerSec, downtimeMs, setMib, otherMib, boundMs } = options;
  const bed = new Bed();
  try {
    const append = `console=ttyS0 quiet nokaslr cryptomgr.notests writer.mib=${setMib} writer.rate=${pagesPerSec}`;
    const how: PeerOptions = {
      version: VERSION,
      machine: "pc",
      memoryMib: setMib + otherMib + EMPTY_MIB,
      extraArgs: ["-initrd", IMAGE, "-append", append], // the last of each counts
    };
    await using source = await QemuPeer.start(bed, how);
    await using target = await QemuPeer.start(bed, { ...how, incoming: "defer" });
    const uri = `unix:${bed.path("in")}`;
    await target.listen(uri);
    await source.setParameters({ "max-bandwidth": bytesPerSec, "downtime-limit": downtimeMs });
    await bed.until(async () => wroteLast(source).atMs > 0, `${source}'s guest writes`, source.running, 60_000);
    await Bun.sleep(500);
    const before = wroteLast(source);
    const startedMs = performance.now();
    await source.startMigrate(uri);
    let isCancelled = false;
    let info: MigrateInfo = { status: "none" };
    await bed.until(
      async () => {
        info = await source.migration();
        if (performance.now() - startedMs > boundMs && !isCancelled) {
          isCancelled = true;
          await source.execute("migrate_cancel");
        }
        return ["completed", "failed", "cancelled"].includes(info.status);
      },
      `${source} migrates`,
      source.running,
      boundMs + 20_000,
    );
    const seconds = (performance.now() - startedMs) / 1000;
    if (info.status === "failed") throw new Error(`${source}: ${info["error-desc"]}`);
    await Bun.sleep(200); // what it said last is in the file
    return {
      share: (paceOf(before, wroteLast(source)) * PAGE) / bytesPerSec,
      ended: info.status === "completed",
      seconds,
      downtimeMs: info.downtime ?? null,
      rounds: info.ram?.["dirty-sync-count"] ?? 0,
    };
  } finally {
    await bed.dispose();
  }
}

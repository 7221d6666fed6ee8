// A walker of tram's own with free memory that moves, or is saved, and is checked behind it: what that took, and what it did with
// each of the guest's pages.
import { rmSync } from "node:fs";
import type { SaveReport } from "../../src/cli/events.ts";
import type { Hints } from "../../src/control/hints.ts";
import { isOver, type Journal } from "../../src/control/journal.ts";
import type { CacheDrop } from "../../src/control/page-cache.ts";
import { type Bed, freePort, inBed } from "../support/bed.ts";
import { monotonicMs } from "./contest.ts";
import { perMs, Watch } from "./looks.ts";
import { cpuSeconds, outputOf, pollUntil } from "./measure.ts";
import { Qmp } from "./qmp.ts";

const MIB = 2 ** 20;
const PAGE_BYTES = 4096;
/** What a plain stream has of a page: eight bytes, and its content. */
export const RECORD_BYTES = PAGE_BYTES + 8;
/** The walker's own memory, of which only a few pages have content; and what it has for each page that may be free. */
const WALKER_BYTES = 2 * MIB;
const STATE_BYTES = 4;
/** Its driver is there, and it has had some turns since. */
const SETTLE_MS = 200;
const ALONE_MS = 1500;

/** touched: free memory was written to once. untouched: never. */
export interface GuestOptions {
  memoryMib: number;
  freeMib: number;
  touched: boolean;
  /** Of the free memory. */
  cacheMib?: number;
  /** A second. */
  pages?: number | "max";
  habit?: "keep" | "silent" | "late";
}

/** Of what it writes, where all else has content. */
const SET_MIB = 16;
const IDLE_PAGES = 10;

function walkerArgs({ memoryMib, freeMib, touched, cacheMib, pages, habit }: GuestOptions): string[] {
  // Untouched: all that is not free is the working set, whose pages have a record each.
  const setMib = touched ? SET_MIB : usedPages({ memoryMib, freeMib, touched }) / 256;
  return [
    ...["--memory", `${memoryMib}M`, "--free", `${freeMib}M`, ...(cacheMib ? ["--cache", `${cacheMib}M`] : [])],
    ...["--fill", touched ? "random" : "zero", "--working-set", `${Math.floor(setMib)}M`],
    ...["--dirty-rate", `${pages ?? IDLE_PAGES}`, "--habit", habit ?? "keep"],
  ];
}

/** All of its pages that have content and are not free, but for a few dozen of the walker's own: random, or with a record. */
export function usedPages({ memoryMib, freeMib, touched, cacheMib }: GuestOptions): number {
  const tableBytes = Math.ceil((((freeMib * MIB) / PAGE_BYTES) * STATE_BYTES) / PAGE_BYTES) * PAGE_BYTES;
  const bytes = (memoryMib - freeMib) * MIB - WALKER_BYTES - tableBytes;
  const whole = touched ? bytes + (cacheMib ?? 0) * MIB : Math.floor(bytes / MIB) * MIB;
  return whole / PAGE_BYTES;
}

/** What became of its pages. */
export interface Pages {
  sent: number;
  zero: number;
  untouched: number;
  hinted: number;
  /** Sent once more. */
  resent: number;
}

const pagesOf = (from: Pick<Journal, `${"zero" | "untouched" | "hinted" | "resent"}Pages`>, sent: number): Pages => ({
  sent,
  zero: from.zeroPages,
  untouched: from.untouchedPages,
  hinted: from.hintedPages,
  resent: from.resentPages,
});

// --- moves

export interface Way {
  /** Ask for free pages; as it is, if not given. */
  skipFree?: boolean;
  lookAtAll?: boolean;
  pageCache?: "drop";
  maxBandwidthBytesPerSec?: number;
}

export interface FreeMove {
  /** From when the job was taken up, with connecting and whatever comes before. */
  wholeMs: number;
  /** The bulk pass alone. */
  bulkMs: number;
  bytes: number;
  /** User and system, both processes. */
  cpuMs: number;
  downtimeMs: number;
  hints: Hints | null;
  cacheDrop: CacheDrop | null;
  pages: Pages;
  /** At the target, each of them checked. */
  nonZeroPages: number;
}

export function moveFree(guest: GuestOptions, way: Way): Promise<FreeMove> {
  return once(async (bed) => {
    const [source, target] = await both(bed, guest);
    const before = cpuSeconds(source.pid) + cpuSeconds(target.pid);
    const { journal, cpu } = await move(bed, source.uri, way, () => cpuSeconds(source.pid) + cpuSeconds(target.pid));
    const [bulk] = journal.rounds;
    return {
      wholeMs: journal.trace.at(-1)?.atMs ?? Number.NaN,
      bulkMs: bulk.durationMs,
      bytes: journal.bytes,
      cpuMs: (cpu - before) * 1000,
      downtimeMs: journal.downtimeMs ?? Number.NaN,
      hints: journal.hints ?? null,
      cacheDrop: journal.cacheDrop ?? null,
      pages: pagesOf(journal, journal.sentPages),
      nonZeroPages: await checked(bed, "b"),
    };
  });
}

/** A guest that runs, and a process that waits for it, whose memory was touched. */
async function both(bed: Bed, guest: GuestOptions) {
  const uri = `tcp:127.0.0.1:${freePort()}`;
  const source = await walker(bed, guest);
  const target = await bed.target("b", uri, "--memory", `${guest.memoryMib}M`, "--prealloc");
  await Bun.sleep(SETTLE_MS);
  return [{ pid: source.pid, uri }, target] as const;
}

async function walker(bed: Bed, guest: GuestOptions) {
  const running = await bed.walker("a", ...walkerArgs(guest));
  const isDriven = async () =>
    (JSON.parse(await bed.expectDone("status", "a", "--json")) as { balloon?: { isDriven: boolean } }).balloon
      ?.isDriven;
  await bed.until(async () => (await isDriven()) === true, "its driver", running);
  return running;
}

/** `read`: while both processes are there. */
async function move(bed: Bed, uri: string, way: Way, read: () => number) {
  const socket = bed.path("tram/a.qmp");
  const client = await Qmp.connect(socket);
  // The source leaves once the client that asked for the move has seen its end; another one may look on meanwhile.
  const watcher = await Qmp.connect(socket);
  try {
    const askedMs = monotonicMs();
    await client.execute("migrate", { uri, tram: way });
    const journal: Journal = await pollUntil(
      () => watcher.execute("tram-query-move"),
      ({ phase }) => isOver(phase),
    );
    if (journal.phase !== "completed") throw new Error(`tram: ${journal.error?.message ?? journal.phase}`);
    return { askedMs, journal, cpu: read() };
  } finally {
    client.close();
    watcher.close();
  }
}

/** Pages that are not zero; throws if any is not what the guest wrote. */
async function checked(bed: Bed, name: string): Promise<number> {
  await bed.until(async () => (await bed.status(name))?.status === "running", `guest ${name} runs`);
  await bed.expectDone("pause", name);
  const { nonZero } = JSON.parse(await bed.expectDone("check-guest", name, "--json")) as { nonZero: number };
  return nonZero;
}

async function once<T>(action: (bed: Bed) => Promise<T>): Promise<T> {
  let result: T | undefined;
  await inBed(async (bed) => {
    result = await action(bed);
  });
  return result as T;
}

// --- saves

export interface FreeSave {
  /** The whole command. */
  commandMs: number;
  elapsedMs: number;
  allocatedBytes: number;
  downtimeMs: number;
  hints: Hints | null;
  pages: Pages;
  /** Of the guest that was restored from it. */
  nonZeroPages: number;
}

/** Saved while it runs, verified, restored, and checked. */
export function saveFree(guest: GuestOptions, file: string, skipFree: boolean): Promise<FreeSave> {
  return once(async (bed) => {
    await walker(bed, guest);
    await Bun.sleep(SETTLE_MS);
    await outputOf(["sync"]);
    const startedMs = performance.now();
    const said = await bed.expectDone("save", "a", file, "--json", ...(skipFree ? [] : ["--no-skip-free"]));
    const commandMs = performance.now() - startedMs;
    const report: SaveReport = JSON.parse(said.trim().split("\n").at(-1) as string);
    await bed.expectDone("verify", file);
    const restored = await bed.restored("b", file, "--eager");
    const nonZeroPages = await checked(bed, "b");
    await bed.expectDone("quit", "b");
    await restored.code;
    rmSync(file);
    return {
      commandMs,
      elapsedMs: report.elapsedMs,
      allocatedBytes: report.allocatedBytes,
      downtimeMs: report.downtimeMs ?? Number.NaN,
      hints: report.hints ?? null,
      pages: pagesOf(report, report.receivedPages),
      nonZeroPages,
    };
  });
}

// --- what it costs the guest

export interface Asked {
  waitedMs: number;
  namedPages: number;
  /** Pages that it writes in a millisecond when nobody asks. */
  alonePerMs: number;
  aloneStallMs: number;
  /** Until the bulk pass begins; the longest time without a step then, and the work that is missing, in time of its own pace. */
  untilMs: number;
  stallMs: number;
  lostMs: number;
}

/** A guest that writes all it can is asked which of its pages are free. */
export function askFree(guest: GuestOptions): Promise<Asked> {
  return once(async (bed) => {
    const [{ uri }] = await both(bed, { ...guest, pages: "max" });
    const watch = new Watch(bed, "a", 60_000);
    await Bun.sleep(ALONE_MS);
    const { askedMs, journal } = await move(bed, uri, {}, () => 0);
    const looks = await watch.looks();
    const atMs = journal.trace.find(({ phase }) => phase === "active")?.atMs ?? 0;
    const { waitedMs, pages: namedPages } = journal.hints ?? { waitedMs: 0, pages: 0 };
    const alone = looks.between(looks.startMs, askedMs);
    const asked = looks.between(askedMs, askedMs + atMs + waitedMs);
    const alonePerMs = perMs(alone);
    const lostMs = asked.forMs - asked.steps / alonePerMs;
    return {
      waitedMs,
      namedPages,
      alonePerMs,
      aloneStallMs: alone.stallMs,
      untilMs: asked.forMs,
      stallMs: asked.stallMs,
      lostMs,
    };
  });
}

/** Pages that a guest writes in a millisecond, with nothing else to do: how fast this host runs guests. */
export function paceOfHost(): Promise<number> {
  return once(async (bed) => {
    await bed.walker("a", "--memory", "64M", "--working-set", "16M", "--dirty-rate", "max");
    const looks = await new Watch(bed, "a", 1000).looks();
    return perMs(looks.between(looks.startMs, Number.POSITIVE_INFINITY));
  });
}

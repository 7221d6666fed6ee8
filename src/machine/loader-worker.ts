// Brings a restored guest's memory in from its file, and compares it with the file's hashes. lazy: behind the running guest, whose
// memory is the mapped file. first: page by page, as the guest touches them, each before anybody sees it. eager: several of these
// threads, before the guest runs.

import { fstatSync } from "node:fs";
import { Barrier, noCounts } from "../control/barrier.ts";
import { beginRestore, type RestoreJournal, type RestoreMode } from "../control/restore.ts";
import { type ErrorData, TramError, toErrorData } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { type DirectAccess, lease, nextData, PageFile } from "../native/file.ts";
import { HashTable } from "../native/hash.ts";
import { PAGE_BYTES, Ram, type RamHandle } from "../native/ram.ts";
import { FaultedRam } from "../native/uffd.ts";
import { Seal } from "../reader/seal.ts";
import type { MappedBlock } from "../stream/mapped.ts";
import { initOf, tell } from "../thread.ts";
import { FileTransport } from "../transport/file.ts";
import { Board } from "./board.ts";

export interface LoaderInit {
  board: SharedArrayBuffer;
  mode: RestoreMode;
  /** Compare pages with the seal's hashes. */
  verify: boolean;
  /** lazy: read ahead at once; else when somebody wants it. */
  prefetch: boolean;
  fileFd: number;
  fileName: string;
  direct: DirectAccess;
  block: MappedBlock;
  present: SharedArrayBuffer;
  /** The block's hashes, if somebody has read them already. */
  table: SharedArrayBuffer | null;
  ram: RamHandle;
  /** first: the memory's userfaultfd, taken over. */
  faultFd: number;
  /** A lease on the file was taken. */
  leased: boolean;
  /** eager: the threads' meeting point, and this one's number there. */
  barrier: SharedArrayBuffer | null;
  channels: number;
  channel: number;
}

export type LoaderMessage =
  /** first: from here on the memory may be touched. */
  { event: "watching" } | { event: "loaded" } | { event: "failed"; error: ErrorData };

const init = initOf<LoaderInit>();
const { block, present: shared, verify } = init;
const board = new Board(init.board);
const ram = Ram.attach(init.ram);
const present = new Bitmap(ram.pages, shared);
const file = new PageFile(init.fileFd, init.direct);
const area = { pagesOffset: block.pagesOffset, pages: ram.pages };
const tellMain = (message: LoaderMessage): void => tell(message);

/** One look at what else is to be done, and one read of the file. */
const CHUNK_PAGES = 512;
/** Around a page that somebody waits for: they will want its neighbours. */
const WINDOW_PAGES = 16;
const EAGER_PAGES = 4096;
/** Copied while the guest stands still: some ten milliseconds. */
const DETACH_PAGES = 8192;
const FAULTS_MAX = 64;
const WATCH_MS = 250;
const PUBLISH_MS = 50;
const BAD_SHOWN = 8;

const index = new Uint32Array(EAGER_PAGES);
const bad = new Uint32Array(EAGER_PAGES);
const offsets = Uint32Array.from({ length: CHUNK_PAGES }, (_, i) => i * PAGE_BYTES);
const buffer = new Uint8Array(init.mode === "eager" ? 0 : CHUNK_PAGES * PAGE_BYTES);

function readTable(): HashTable | null {
  if (!verify) return null;
  if (init.table) return new HashTable(ram.pages, init.table);
  const seal = Seal.find(new FileTransport(init.fileFd, init.fileName));
  if (!seal) throw new TramError("E_INTERNAL", "the file has lost its seal");
  return seal.table(seal.blockOf(block.name));
}

function badPages(count: number, what = "are not as they were saved"): TramError {
  const shown = [...bad.subarray(0, Math.min(count, BAD_SHOWN))];
  const place = (page: number) => `page ${page} at byte ${block.pagesOffset + page * PAGE_BYTES}`;
  return new TramError("E_HASH", `${count} page${count > 1 ? "s" : ""} of the file ${what}`, {
    where: `${init.fileName}, block '${block.name}': ${shown.map(place).join(", ")}${count > BAD_SHOWN ? ", …" : ""}`,
    expected: "the hashes in its seal",
    next: `tram verify ${init.fileName} names them all; restore another snapshot`,
  });
}

/** Reads what the file has of pages [first, end) into the buffer, and checks it: their numbers are in `index`. */
function fetch(first: number, end: number, table: HashTable | null): number {
  const { count } = present.find(first, end, index);
  if (count === 0) return 0;
  file.read(area, buffer, index, offsets, count);
  const wrong = table ? table.differing(buffer, index, offsets, count, bad) : 0;
  if (wrong) throw badPages(wrong);
  return count;
}

class Progress {
  readonly journal: RestoreJournal;
  readonly #startedMs = performance.now();
  #publishedMs = 0;

  constructor() {
    const { fileName, mode, leased: held } = init;
    this.journal = beginRestore({ file: fileName, mode, verify, totalPages: present.count(), held }, true);
  }

  count(pages: number): void {
    this.journal.loadedPages += pages;
    if (verify) this.journal.verifiedPages += pages;
    if (performance.now() - this.#publishedMs > PUBLISH_MS) this.publish();
  }

  publish(phase = this.journal.phase): void {
    this.#publishedMs = performance.now();
    if (this.journal.phase === "loading") this.journal.elapsedMs = Math.round(this.#publishedMs - this.#startedMs);
    this.journal.phase = phase;
    board.writeRestore(this.journal);
  }
}

/** What the guest has seen, or is about to see, is not its memory: main stops it. */
function fail(progress: Progress, error: unknown): void {
  progress.journal.error = toErrorData(error);
  progress.publish("failed");
  tellMain({ event: "failed", error: progress.journal.error });
}

// --- lazy

/** Pages that are clear and mapped from the file all the same must read as zeros there. */
function checkHoles(first: number, end: number): void {
  const stop = block.pagesOffset + end * PAGE_BYTES;
  for (let at = block.pagesOffset + first * PAGE_BYTES; at < stop; ) {
    const data = nextData(init.fileFd, at);
    if (!data || data.from >= stop) return;
    const from = Math.floor((data.from - block.pagesOffset) / PAGE_BYTES);
    const to = Math.min(end, Math.ceil((data.to - block.pagesOffset) / PAGE_BYTES));
    let clear = 0;
    for (let page = from; page < to; page++) if (!present.has(page)) index[clear++] = page;
    if (clear) {
      file.read(area, buffer, index, offsets, clear);
      const wrong = pagesWithContent(clear);
      if (wrong) throw badPages(wrong, "have content where their bitmap says zero");
    }
    at = Math.max(at + PAGE_BYTES, block.pagesOffset + to * PAGE_BYTES);
  }
}

function pagesWithContent(count: number): number {
  let found = 0;
  for (let i = 0; i < count; i++)
    if (buffer.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES).some((byte) => byte !== 0)) bad[found++] = index[i];
  return found;
}

function runLazy(): void {
  const progress = new Progress();
  try {
    if (!init.prefetch) {
      progress.publish("waiting");
      while (!board.loadWanted && !writerWaits) {
        watch(progress);
        board.awaitLoadWanted(WATCH_MS);
      }
      progress.journal.phase = "loading";
    }
    progress.publish();
    const table = readTable();
    let watchedMs = performance.now();
    for (let first = 0; first < ram.pages; first += CHUNK_PAGES) {
      const end = Math.min(first + CHUNK_PAGES, ram.pages);
      const count = fetch(first, end, table);
      if (table && count < end - first) checkHoles(first, end);
      // Brought in, so that the guest does not wait for it. Where that fails, the guest would.
      if (count) ram.tryPopulate(first * PAGE_BYTES, (end - first) * PAGE_BYTES);
      progress.count(count);
      if (performance.now() - watchedMs < WATCH_MS) continue;
      watch(progress);
      watchedMs = performance.now();
    }
    progress.publish("done");
    tellMain({ event: "loaded" });
    while (!writerWaits) {
      Bun.sleepSync(WATCH_MS);
      watch(progress);
    }
    leaveFile(progress);
  } catch (error) {
    fail(progress, error);
  }
}

const stamp = (): string => {
  const { size, mtimeMs } = fstatSync(init.fileFd); // not its ctime: another file may take its name
  return `${size} ${mtimeMs}`;
};
const stampBefore = stamp();

/** Somebody wants to write to the file, and waits for us, as long as the kernel lets them. */
let writerWaits = false;

/** Whether the file is still what was mapped; and whether somebody waits to write to it. */
function watch({ journal }: Progress): void {
  if (stamp() !== stampBefore)
    throw new TramError("E_GUEST_RAM", "the file that is the guest's memory was changed beneath it", {
      where: init.fileName,
      expected: "what it was when the guest was restored",
      found: `${fstatSync(init.fileFd).size} bytes, changed at ${fstatSync(init.fileFd).mtime.toISOString()}`,
      next: "replace such files by renaming another one over them, as tram save does",
    });
  writerWaits ||= journal.held && !lease.holds(init.fileFd);
}

/**
 * All of the file was read and checked: the guest takes it as its own, and whoever waits may write. It stands still for a piece
 * at a time, because what it wrote there meanwhile would be lost.
 */
function leaveFile(progress: Progress): void {
  for (let first = 0; first < ram.pages; first += DETACH_PAGES) {
    const pages = Math.min(DETACH_PAGES, ram.pages - first);
    const result = board.whileStopped(() => ram.tryDetach(first * PAGE_BYTES, pages * PAGE_BYTES));
    if (result < 0)
      throw new TramError(
        "E_GUEST_RAM",
        "somebody wants to write to the file that is the guest's memory, and it cannot be copied",
        {
          where: `${init.fileName}, pages ${first} to ${first + pages - 1}`,
          next: "is there memory for all of the guest?",
        },
      );
  }
  watch(progress); // the kernel may have lost its patience, and let them write before we were done
  lease.end(init.fileFd);
  progress.journal.mapped = false;
  progress.journal.held = false;
  progress.publish();
}

// --- first

/** Each page once, and each before anybody sees it. What the file has not is given as zero when it is asked for. */
function runFirst(): void {
  const progress = new Progress();
  const faults = new FaultedRam(init.faultFd, ram);
  const loaded = new Bitmap(ram.pages);
  const waiting = new Uint32Array(FAULTS_MAX);
  let count = 0;
  tellMain({ event: "watching" });
  try {
    const table = readTable();
    const bringWindow = (first: number) => {
      if (loaded.has(first)) return;
      const pages = fetch(first, Math.min(first + WINDOW_PAGES, ram.pages), table);
      if (pages) faults.place(buffer, index, offsets, pages);
      loaded.add(first);
      progress.count(pages);
    };
    progress.publish(init.prefetch ? "loading" : "waiting");
    for (let next = 0; next < ram.pages; ) {
      const ahead = init.prefetch || board.loadWanted;
      count = faults.wait(waiting, ahead ? 0 : WATCH_MS);
      for (const page of waiting.subarray(0, count)) {
        bringWindow(page - (page % WINDOW_PAGES));
        if (!present.has(page)) faults.placeZero(Uint32Array.of(page), 1);
      }
      if (!ahead) continue;
      bringWindow(next);
      next += WINDOW_PAGES;
    }
    faults.close(); // what is left is zero, as new memory is
    progress.publish("done");
    tellMain({ event: "loaded" });
  } catch (error) {
    fail(progress, error);
    // Nobody gets anything any more, and nobody waits for ever: a vCPU in the middle of a fault could not be stopped.
    for (;;) {
      for (const page of waiting.subarray(0, count)) faults.refuse(page);
      count = faults.wait(waiting, WATCH_MS);
    }
  }
}

// --- eager

/** Every n-th piece is this thread's, straight into memory. */
function runEager(): void {
  const barrier = new Barrier(init.channels, init.barrier as SharedArrayBuffer);
  const { channel } = init;
  const counts = noCounts();
  try {
    const table = readTable();
    for (let first = channel * EAGER_PAGES; first < ram.pages; first += init.channels * EAGER_PAGES) {
      if (Atomics.load(barrier.stop, 0) !== 0) break;
      const { count } = present.find(first, Math.min(first + EAGER_PAGES, ram.pages), index);
      if (count === 0) continue;
      file.readRam(area, ram, index, count);
      const wrong = table ? table.differingInRam(ram, index, count, bad) : 0;
      if (wrong) throw badPages(wrong);
      counts.pages += count;
      counts.bytes += count * PAGE_BYTES;
      counts.directBytes = file.directBytes;
      barrier.count(channel, counts);
    }
    barrier.leave(channel, null);
    tellMain({ event: "loaded" });
  } catch (error) {
    barrier.leave(channel, toErrorData(error));
    tellMain({ event: "failed", error: toErrorData(error) });
  }
}

if (init.mode === "lazy") runLazy();
else if (init.mode === "first") runFirst();
else runEager();

// The story of a save, top to bottom: a guest goes into a file in which each page has its place, however long that takes.
import { TramError, toErrorData } from "../errors.ts";
import type { PageWriter, SnapshotWriter } from "./channel.ts";
import type { Guest } from "./guest.ts";
import type { MoveLog } from "./journal.ts";
import type { LiveLimits } from "./limits.ts";
import { type Crew, Rounds, type RoundsShare, shareRounds } from "./rounds.ts";
import { Stop, undoAll } from "./send.ts";

export const AFTER = ["quit", "pause", "resume"] as const;
/** What becomes of the guest when its file is on disk. */
export type After = (typeof AFTER)[number];

/** More would only wait for each other. */
export const SAVE_THREADS_MAX = 64;

export interface SaveOptions {
  after: After;
  /** Ask the guest for its free pages, and leave them out. */
  skipFree: boolean;
  /** Whoever restores it must find its disks as they were; else they must be named then. */
  recordsDisks: boolean;
}

/** RAM and disks belong together. */
export const writesOn = (disks: readonly string[]): TramError =>
  new TramError("E_REFUSED", "the guest would go on writing to disks that belong to the saved state", {
    expected: "no writable disk, with --after resume",
    found: disks.join(", "),
    next: "--after pause, and copy or snapshot the disks before you resume it; or --disks none, if the file is not to be used with them",
  });

/** What the story needs of its surroundings. */
export interface SaveContext {
  limits: LiveLimits;
  /** Throws E_CANCELLED once the save was cancelled. */
  checkCancelled(): void;
  sleep(ms: number): void;
  /** The threads that carry pages beside this one: they know where when the file has begun. */
  startCrew(share: RoundsShare): Crew | null;
  /** This thread's own way to the file, known from then on, too. */
  pages(): PageWriter;
  /** Returns when the file has its name. Throws if it gets none. */
  awaitCommit(): void;
  /** The guest is the file's now. */
  leave(after: After): void;
}

/** What the zero scan sorts at once: 16 MiB for one call of the file. */
export const SAVE_BATCH_PAGES = 4096;

/** Saves the guest. On any error it is back as it was; the log says so. */
export function save(
  guest: Guest,
  file: SnapshotWriter,
  options: SaveOptions,
  context: SaveContext,
  log: MoveLog,
): void {
  const undo: (() => void)[] = [];
  try {
    log.setPhase("setup");
    file.begin(guest.description);
    undo.push(() => guest.stopTracking());
    guest.startTracking();
    log.setPhase("active");
    const { limits, checkCancelled: checkStop, sleep } = context;
    const share = shareRounds(guest, SAVE_BATCH_PAGES, limits, log.now());
    const crew = context.startCrew(share);
    const writer = context.pages();
    const stop = new Stop(guest, log);
    undo.push(() => stop.undo());
    const rounds = new Rounds(
      guest,
      share,
      { writer, crew, skipFree: options.skipFree, limits, checkStop, sleep, stopGuest: () => stop.now() },
      log,
    );
    do while (rounds.mustContinue()) rounds.send(false);
    while (guest.settle(checkStop)); // what a file has spoilt does not go into another

    const { was, downtime } = stop.now();
    log.setPhase("device");
    const devices = guest.saveDevices(options.recordsDisks); // before the last sync: reading a vCPU's state may write to its memory
    downtime.mark("deviceState");
    rounds.sync();
    downtime.mark("lastBitmap");
    rounds.send(true);
    downtime.mark("lastPages");
    const report = () => {
      log.journal.downtimeMs = downtime.totalMs;
      log.journal.maxDowntimeMs = limits.maxDowntimeMs;
      log.journal.downtimePartsMs = downtime.parts;
    };
    if (options.after === "resume") {
      stop.undo(); // the last bytes have left its memory: it does not wait for the disk
      guest.stopTracking();
      report();
    }
    log.setPhase("handover");
    file.finish(devices, was);
    log.journal.presentPages = file.presentPages();
    log.journal.readyToCommit = true;
    log.publish();
    context.awaitCommit();
    if (options.after !== "resume") {
      downtime.mark("durable");
      report();
      guest.stopTracking();
      context.leave(options.after);
    }
    log.journal.owner = options.after === "resume" ? "source" : "file";
    log.setPhase("completed");
  } catch (error) {
    log.journal.error = toErrorData(error);
    if (log.journal.error.code === "E_TIMED_OUT")
      log.journal.error.next = "the guest goes on, and nothing was kept: allow more time, or more --max-downtime";
    undoAll(undo, log);
    const cancelled = error instanceof TramError && error.code === "E_CANCELLED";
    log.setPhase(cancelled ? "cancelled" : "failed");
  }
}

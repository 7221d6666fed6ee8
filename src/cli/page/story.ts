// What the page of a report tells, as the commands know it.
import { cpus, release, totalmem } from "node:os";
import type { ChannelCounts } from "../../control/barrier.ts";
import { PAGE_RECORD_BYTES } from "../../control/convergence.ts";
import type { Journal } from "../../control/journal.ts";
import type { ErrorData } from "../../errors.ts";
import { VERSION } from "../../version.ts";
import type { Outcome } from "../events.ts";
import type { Recording } from "../recording.ts";

export interface Story {
  kind: "migrate" | "save" | "rehearse";
  /** The guest is QEMU's, which sends its pages itself: nothing is known of its rounds. */
  isQemu: boolean;
  vm: string;
  /** A peer, or a file. */
  where: string;
  outcome: Outcome;
  /** Who has the guest now, as a sentence without its end. */
  owner: string;
  error: ErrorData | null;
  recording: Recording;
  /** Where the journal does not have it: of a QEMU guest its monitor says so. */
  downtimeMs?: number | null;
  /** What each channel has brought, where the journal does not have that either. */
  channels?: ChannelCounts[];
  /** Of a save that is complete. */
  file?: StoryFile;
  /** The command's options, as they were given. */
  options: [name: string, value: string][];
  environment: Environment;
}

export interface StoryFile {
  fileBytes: number;
  /** Null: nobody looked. */
  allocatedBytes: number | null;
  machine: string | null;
  blocks: { name: string; bytes: number; present: number }[];
}

export interface Environment {
  version: string;
  kernel: string;
  cpu: string;
  cpus: number;
  memoryBytes: number;
  date: Date;
}

/** What it came to. Of a rehearsal, too: as if the guest had been stopped then, and the rest sent. */
export interface Figures {
  rounds: number;
  elapsedMs: number;
  bytes: number;
  downtimeMs: number | null;
}

export function figuresOf({ kind, downtimeMs }: Story, journal: Journal): Figures {
  const { roundsDone: rounds, elapsedMs, bytes, remainingPages, expectedDowntimeMs: lastMs, phase, stall } = journal;
  if (kind !== "rehearse" || stall || phase !== "completed" || lastMs === null)
    return { rounds, elapsedMs, bytes, downtimeMs: journal.downtimeMs ?? downtimeMs ?? null };
  const last = remainingPages * PAGE_RECORD_BYTES;
  return { rounds: rounds + 1, elapsedMs: elapsedMs + lastMs, bytes: bytes + last, downtimeMs: lastMs };
}

/** Of the host that the command runs on. */
export function environment(): Environment {
  const found = cpus();
  return {
    version: VERSION,
    kernel: release(),
    cpu: found[0]?.model.trim() ?? "unknown",
    cpus: found.length,
    memoryBytes: totalmem(),
    date: new Date(),
  };
}

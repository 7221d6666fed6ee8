// What tram tells programs with --json: every event that there is, one a line. For them schema/tram-1.schema.json says the same.
import type { ChannelCounts } from "../control/barrier.ts";
import type { Stall } from "../control/convergence.ts";
import type { Phase, Round } from "../control/journal.ts";
import type { ForecastNote } from "../control/measure.ts";
import type { ErrorData } from "../errors.ts";
import type { KeptSummary } from "../keep/keeper-worker.ts";
import type { FreeReport } from "./free-pages.ts";

export const JSON_SCHEMA = "tram/1";

/** Bytes and milliseconds are whole numbers, and null is what nobody knows. */
interface Told<Name extends string> {
  schema: typeof JSON_SCHEMA;
  event: Name;
  /** Who may run the guest now. */
  owner: string;
}

/** By migrate, and by save of a guest of tram's. */
interface OfGuest<Name extends string> extends Told<Name> {
  vm: string;
}

/** By receive, convert, send, and save. */
interface OfFile<Name extends string> extends Told<Name> {
  file: string;
}

export type Outcome = "completed" | "failed" | "cancelled";

/** Before there was anything to report on. */
interface Failed {
  outcome: "failed";
  error: ErrorData;
}

interface PhaseBegun {
  phase: Phase;
  elapsedMs: number;
}

/** What the terminal's line shows. */
export interface Progress extends PhaseBegun {
  /** The share of memory that is there as it is here now; null: the source does not say how much is left. */
  percent: number | null;
  bytes: number;
  rateBytesPerSec: number;
  remainingBytes: number | null;
  /** Of different pages: what is written twice in a round counts once. */
  dirtyBytesPerSec: number | null;
  /** If the guest stopped now. */
  expectedDowntimeMs: number | null;
  etaMs: number | null;
  throttlePercent: number;
  waitsFor: WaitsFor | null;
}

/** Why it is not over yet, beside the bytes that are still to be carried. */
export type WaitsFor =
  | "connection"
  | "page-cache" // that the guest gives it up
  | "free-pages" // that the guest names them
  | "guest-writes" // that they become fewer: it would go on for ever
  | "hold" // that a person lets it switch over
  | "source"
  | "target"
  | "disk";

export interface MovePhase extends OfGuest<"move.phase">, PhaseBegun {}
export interface MoveProgress extends OfGuest<"move.progress">, Progress {}
export interface RoundFinished extends OfGuest<"round.finished">, Round {}
export interface MoveStalled extends OfGuest<"move.stalled">, Stall {}
export interface MoveFailed extends OfGuest<"move.finished">, Failed {}

export interface FinalReport extends OfGuest<"move.finished">, FreeReport {
  peer: string;
  outcome: Outcome;
  rounds: number;
  totalPages: number;
  sentPages: number;
  zeroPages: number;
  resentPages: number;
  bytes: number;
  elapsedMs: number;
  bandwidthBytesPerSec: number;
  downtimeMs: number | null;
  /** The limit that held when the guest was stopped. */
  maxDowntimeMs: number | null;
  downtimePartsMs: Record<string, number>;
  /** The most that the guest was slowed down. */
  throttlePercent: number;
  /** Why it did not converge, when it was last looked at; null: it did. */
  stall: Stall | null;
  /** With --channels: what each has carried, and how. */
  channels?: ChannelReport[];
  /** With --verify: pages that had arrived otherwise than sent, and were sent again. */
  differingPages?: number;
  /** What tram forecast foretold of this guest, last. */
  forecast?: ForecastNote;
  error: ErrorData | null;
}

export interface ChannelReport {
  bytes: number;
  pages: number;
  zeroPages: number;
  packets: number;
  systemCalls: number;
  /** Bytes sent without a copy of ours; of these, those that the kernel copied after all. */
  zeroCopyBytes: number;
  copiedByKernelBytes: number;
  /** Calls that were made to copy because the kernel had no memory to hold pages with. */
  fallbacks: number;
  flushWaitMs: number;
  compressMs: number;
}

export interface KeepPhase extends OfFile<"keep.phase">, PhaseBegun {}
export interface KeepProgress extends OfFile<"keep.progress">, Progress {}
export interface KeepFailed extends OfFile<"keep.finished">, Failed {}

interface Kept extends OfFile<"keep.finished"> {
  peer: string;
  outcome: Outcome;
  blocks: KeptSummary["blocks"];
  /** Pages that came, each time they did. */
  receivedPages: number;
  zeroPages: number;
  bytes: number;
  elapsedMs: number;
  bandwidthBytesPerSec: number;
  fileBytes: number;
  channels: ChannelCounts[];
  error: ErrorData | null;
}

/** Of a stream that came. */
export interface KeepReport extends Kept {
  machine: string | null;
  devices: number;
  /** As QEMU's monitor says, where it was asked. */
  downtimeMs?: number | null;
}

/** Of a guest of tram's that was saved. */
export interface SaveReport extends Kept, FreeReport {
  machine: string;
  resentPages: number;
  rounds: number;
  allocatedBytes: number;
  /** Of `bytes`, those that went past the page cache; and why not all that could. */
  directBytes: number;
  directFallback: string | null;
  downtimeMs: number | null;
  maxDowntimeMs: number | null;
  downtimePartsMs: Record<string, number>;
}

export interface SendPhase extends OfFile<"send.phase">, PhaseBegun {}
export interface SendProgress extends OfFile<"send.progress">, Progress {}
export interface SendFailed extends OfFile<"send.finished">, Failed {}

/** Of a kept guest that was played. Owner "file": it is where it was. */
export interface PlayReport extends OfFile<"send.finished"> {
  peer: string;
  outcome: Outcome;
  sentPages: number;
  zeroPages: number;
  bytes: number;
  elapsedMs: number;
  bandwidthBytesPerSec: number;
  /** With --channels: what each has carried, and how. */
  channels?: ChannelReport[];
  error: ErrorData | null;
}

export type TramEvent =
  | MovePhase
  | MoveProgress
  | RoundFinished
  | MoveStalled
  | FinalReport
  | MoveFailed
  | KeepPhase
  | KeepProgress
  | KeepReport
  | SaveReport
  | KeepFailed
  | SendPhase
  | SendProgress
  | PlayReport
  | SendFailed;

/** Where events go. */
export interface Events {
  tell(event: TramEvent): void;
  /** Who reads them reads nothing else here; beside a file that they go to, a person may. */
  replacesText: boolean;
}

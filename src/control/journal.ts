// The current move as data: what status, progress lines, JSON events and the final report are made of.
import type { ErrorData, Owner } from "../errors.ts";
import type { ChannelCounts } from "./barrier.ts";
import type { Stall } from "./convergence.ts";
import type { Hints } from "./hints.ts";
import type { Limits } from "./limits.ts";
import type { ForecastNote } from "./measure.ts";
import type { CacheDrop } from "./page-cache.ts";

/** Legal ways through a move; QEMU's names where it has one. */
const PHASES = {
  none: ["cache", "setup", "waiting", "cancelled", "failed"],
  cache: ["setup", "waiting", "cancelled", "failed"], // the guest is asked to give up its page cache
  waiting: ["setup", "cancelled", "failed"],
  setup: ["active", "device", "cancelled", "failed", "completed"],
  active: ["held", "device", "completed", "cancelled", "failed"], // completed: a rehearsal, or one of a file
  held: ["active", "device", "completed", "cancelled", "failed"], // it could switch over, and is not to yet
  device: ["handover", "cancelled", "failed"],
  handover: ["completed", "cancelled", "failed"],
  completed: [],
  failed: [],
  cancelled: [],
} as const;
export type Phase = keyof typeof PHASES;

export const PHASE_NAMES = Object.keys(PHASES) as Phase[];

/** Whether a move in this phase can no longer change. */
export const isOver = (phase: Phase | undefined): boolean => phase !== undefined && PHASES[phase]?.length === 0;

export interface Round {
  round: number;
  /** Pages sent with content, and as zero. */
  pages: number;
  zeroPages: number;
  bytes: number;
  durationMs: number;
  /** Pages written by the guest meanwhile. */
  dirtyPages: number;
}

export interface Journal {
  direction: "outgoing" | "incoming";
  peer: string;
  phase: Phase;
  totalPages: number;
  remainingPages: number;
  /** With content, each time it was sent. */
  sentPages: number;
  zeroPages: number;
  /** Not sent: nobody has ever written to them. */
  untouchedPages: number;
  /** Not sent: the guest said, when it was asked, that they are free. */
  hintedPages: number;
  /** Not sent: the guest has given them up since they were written to, into its balloon, or reported as free. */
  balloonedPages: number;
  reportedPages: number;
  /** What came of asking it. */
  hints?: Hints;
  /** It is being asked: nothing is sent meanwhile. */
  asksForFreePages?: boolean;
  /** With --page-cache drop. */
  cacheDrop?: CacheDrop;
  /** Sent again because the guest wrote to them after they had been sent. */
  resentPages: number;
  bytes: number;
  elapsedMs: number;
  bandwidthBytesPerSec: number;
  expectedDowntimeMs: number | null;
  /** The share of time that the guest's CPUs rest, so that it can be caught up. */
  throttlePercent: number;
  /** The move does not come nearer to its end. */
  stall: Stall | null;
  /** Each phase, and when it began, in milliseconds since the job was taken up; waiting for a peer is part of that. */
  trace: { phase: Phase; atMs: number }[];
  downtimeMs: number | null;
  /** The limit that held then; null: it has not stood still yet. */
  maxDowntimeMs: number | null;
  downtimePartsMs: Record<string, number>;
  /** The last ROUNDS_KEPT of them. */
  rounds: Round[];
  roundsDone: number;
  /** What each thread that sends has sent. */
  channels: ChannelCounts[];
  /** These are connections of their own, beside the main one. */
  multifd?: boolean;
  owner: Owner;
  error: ErrorData | null;
  /** What limits it now, where it is sent or saved. */
  limits?: Limits;
  /** What was foretold of this guest, last. */
  forecast?: ForecastNote;
  /** With --verify: pages that had arrived otherwise than sent, and were sent again. */
  differingPages?: number;
  /** Of a save: the file is whole and on disk, and wants its name. */
  readyToCommit?: boolean;
  /** Of a save: pages that the file has. */
  presentPages?: number;
}

const ROUNDS_KEPT = 200;
/** Between two writes of progress inside a round. */
const REFRESH_MS = 50;

export type JournalSink = (journal: Journal) => void;

/** Keeps the journal and publishes it: at once when a phase or round ends, else every REFRESH_MS. */
export class MoveLog {
  readonly journal: Journal;
  readonly #sink: JournalSink;
  readonly #clock: () => number;
  /** Of the move itself: waiting for a peer is not part of it, nor what the guest does before it. */
  startedMs: number;
  readonly #beganMs: number;
  #publishedMs = Number.NEGATIVE_INFINITY;

  constructor(direction: Journal["direction"], peer: string, sink: JournalSink, clock: () => number) {
    this.#sink = sink;
    this.#clock = clock;
    this.startedMs = clock();
    this.#beganMs = this.startedMs;
    this.journal = {
      direction,
      peer,
      phase: "none",
      totalPages: 0,
      remainingPages: 0,
      sentPages: 0,
      zeroPages: 0,
      untouchedPages: 0,
      hintedPages: 0,
      balloonedPages: 0,
      reportedPages: 0,
      resentPages: 0,
      bytes: 0,
      elapsedMs: 0,
      bandwidthBytesPerSec: 0,
      expectedDowntimeMs: null,
      throttlePercent: 0,
      stall: null,
      trace: [],
      downtimeMs: null,
      maxDowntimeMs: null,
      downtimePartsMs: {},
      rounds: [],
      roundsDone: 0,
      channels: [],
      owner: "source",
      error: null,
    };
  }

  now(): number {
    return this.#clock();
  }

  setPhase(phase: Phase): void {
    const legal: readonly Phase[] = PHASES[this.journal.phase];
    if (!legal.includes(phase)) throw new Error(`no move goes from '${this.journal.phase}' to '${phase}'`);
    if (this.journal.phase === "waiting" || this.journal.phase === "cache") this.startedMs = this.now();
    this.journal.phase = phase;
    this.journal.trace.push({ phase, atMs: Math.round((this.now() - this.#beganMs) * 1000) / 1000 });
    this.publish();
  }

  /** Whether the move can still change. */
  get isOver(): boolean {
    return isOver(this.journal.phase);
  }

  finishRound(round: Round): void {
    this.journal.rounds.push(round);
    if (this.journal.rounds.length > ROUNDS_KEPT) this.journal.rounds.shift();
    this.journal.roundsDone = round.round;
    this.publish();
  }

  publish(): void {
    this.#publishedMs = this.now();
    this.journal.elapsedMs = this.#publishedMs - this.startedMs;
    this.#sink(this.journal);
  }

  refresh(): void {
    if (this.now() - this.#publishedMs >= REFRESH_MS) this.publish();
  }
}

/** Consecutive parts of a span of time, in whole milliseconds: they sum to the whole by construction. */
export class Ledger {
  readonly parts: Record<string, number> = {};
  readonly #clock: () => number;
  readonly #startedMs: number;
  totalMs = 0;

  constructor(clock: () => number) {
    this.#clock = clock;
    this.#startedMs = clock();
  }

  /** The time since the part before belongs to `name`. */
  mark(name: string): void {
    const totalMs = Math.round(this.#clock() - this.#startedMs);
    this.parts[name] = (this.parts[name] ?? 0) + totalMs - this.totalMs;
    this.totalMs = totalMs;
  }

  /** So much of the part `name`, measured by another clock, belongs to `other`. */
  take(name: string, other: string, ms: number): void {
    const taken = Math.min(Math.round(ms), this.parts[name]);
    this.parts[name] -= taken;
    this.parts[other] = taken;
  }
}

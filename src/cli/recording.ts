// A move over time, for its report: what the journal said each time that it was looked at, thinned out where that becomes much.
import type { Journal, Round } from "../control/journal.ts";
import type { Limits } from "../control/limits.ts";

/** Times are the journal's: milliseconds since the move itself began. */
export interface Sample {
  atMs: number;
  /** Sent by then, headers included. */
  bytes: number;
  remainingPages: number;
  throttlePercent: number;
}

/** A round, and when it was over, to within the time between two looks. */
export interface SeenRound extends Round {
  endMs: number;
}

/** These held from then on. */
export interface SeenLimits {
  atMs: number;
  limits: Limits;
}

export const SAMPLES_MAX = 2000;
/** Beside the first, which is the bulk pass. */
const ROUNDS_MAX = 1000;
const CHANGES_MAX = 100;

export class Recording {
  /** Ascending in time, each of another time; the first and the last stay. */
  readonly samples: Sample[] = [];
  /** The first, and the last ROUNDS_MAX. */
  readonly rounds: SeenRound[] = [];
  readonly limits: SeenLimits[] = [];
  /** As it was seen last; null: there was nothing to see. */
  journal: Journal | null = null;
  /** Samples nearer to each other are not kept. */
  #spacingMs = 0;

  note(journal: Journal): void {
    this.journal = journal;
    if (["none", "cache", "waiting"].includes(journal.phase)) return; // its time has not begun
    const { elapsedMs: atMs, bytes, remainingPages, throttlePercent } = journal;
    this.#addSample({ atMs, bytes, remainingPages, throttlePercent });
    this.#addRounds(journal);
    if (journal.limits) this.#addLimits({ atMs, limits: journal.limits });
  }

  #addSample(sample: Sample): void {
    const { samples } = this;
    const [before, last] = [samples.at(-2), samples.at(-1)];
    const isSameWord = last?.atMs === sample.atMs;
    // The last one stands until one comes that is far enough from the one before it.
    if (isSameWord || (before && last && last.atMs - before.atMs < this.#spacingMs)) samples.pop();
    samples.push(sample);
    if (samples.length <= SAMPLES_MAX) return;
    const kept = samples.filter((_, i) => i % 2 === 0 || i === samples.length - 1);
    samples.splice(0, samples.length, ...kept);
    this.#spacingMs = Math.max(1, (sample.atMs - samples[0].atMs) / (SAMPLES_MAX / 2));
  }

  /** The newest that is known may have changed: what was written meanwhile is known when the next one begins. */
  #addRounds({ rounds, elapsedMs: endMs }: Journal): void {
    const known = this.rounds.at(-1);
    for (const round of rounds) {
      if (round.round === known?.round) Object.assign(known, round);
      else if (round.round > (known?.round ?? 0)) this.rounds.push({ ...round, endMs });
    }
    if (this.rounds.length > ROUNDS_MAX + 1) this.rounds.splice(1, this.rounds.length - ROUNDS_MAX - 1);
  }

  #addLimits(seen: SeenLimits): void {
    const last = this.limits.at(-1)?.limits;
    const isSame = last && JSON.stringify(last) === JSON.stringify(seen.limits);
    if (!isSame && this.limits.length < CHANGES_MAX) this.limits.push(seen);
  }
}

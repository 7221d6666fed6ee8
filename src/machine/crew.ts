// Threads that carry pages beside the mover, as the mover sees them.
import { Barrier, type ChannelCounts, sumCounts } from "../control/barrier.ts";
import type { ReceivingCrew } from "../control/receive.ts";
import type { Crew } from "../control/rounds.ts";
import { peerSilent } from "../errors.ts";

/** What each thread of a crew is started with, besides its work. */
export interface CrewPlace {
  barrier: SharedArrayBuffer;
  channels: number;
  channel: number;
}

/** Threads that meet at a barrier, and this one with them. */
class BarrierCrew {
  protected readonly barrier: Barrier;
  protected readonly checkStop: () => void;

  constructor(threads: number, checkStop: () => void) {
    this.barrier = new Barrier(threads);
    this.checkStop = checkStop;
  }

  /** One for each thread. */
  places(): CrewPlace[] {
    const { channels, shared: barrier } = this.barrier;
    return Array.from({ length: channels }, (_, channel) => ({ barrier, channels, channel }));
  }

  counts(): ChannelCounts[] {
    return this.barrier.counts();
  }

  /** Returns when none of them touches the guest any more. */
  end(): void {
    this.barrier.end();
    this.barrier.awaitGone();
  }
}

/** Those that carry a round's pages away. */
export class ThreadCrew extends BarrierCrew implements Crew {
  /** Rounds that were begun: a thread arrives once before each, and once behind the last. */
  #rounds = 0;

  begin(): void {
    this.barrier.release(++this.#rounds);
  }

  finish(progress: () => void): void {
    this.barrier.gather(this.#rounds + 1, () => {
      this.checkStop();
      progress();
    });
  }
}

/** The other channels of a move, at its target. */
export class ReceiverCrew extends BarrierCrew implements ReceivingCrew {
  readonly #silenceMs: number;
  #barriers = 0;

  constructor(threads: number, checkStop: () => void, silenceMs: number) {
    super(threads, checkStop);
    this.#silenceMs = silenceMs;
  }

  meet(progress: () => void): void {
    let bytes = -1;
    let sinceMs = performance.now();
    this.barrier.meet(++this.#barriers, () => {
      this.checkStop();
      progress();
      const now = sumCounts(this.barrier.counts()).bytes;
      if (now !== bytes) sinceMs = performance.now();
      else if (performance.now() - sinceMs > this.#silenceMs)
        throw peerSilent(`nothing has come over any channel for ${this.#silenceMs} ms`, {}, "the source");
      bytes = now;
    });
  }
}

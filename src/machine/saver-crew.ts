// The threads that write a save's pages beside the mover, as the mover sees them.
import { Barrier, type ChannelCounts } from "../control/barrier.ts";
import type { Crew } from "../control/rounds.ts";
import type { SaverInit } from "./saver-worker.ts";

export class SaverCrew implements Crew {
  readonly #barrier: Barrier;
  readonly #checkStop: () => void;
  /** Rounds that were begun: a thread arrives once before each, and once behind the last. */
  #rounds = 0;

  constructor(threads: number, checkStop: () => void) {
    this.#barrier = new Barrier(threads);
    this.#checkStop = checkStop;
  }

  /** What each thread is started with. */
  inits(shared: Omit<SaverInit, "barrier" | "channels" | "channel">): SaverInit[] {
    const { channels, shared: barrier } = this.#barrier;
    return Array.from({ length: channels }, (_, channel) => ({ ...shared, barrier, channels, channel }));
  }

  begin(): void {
    this.#barrier.release(++this.#rounds);
  }

  finish(progress: () => void): void {
    this.#barrier.gather(this.#rounds + 1, () => {
      this.#checkStop();
      progress();
    });
  }

  counts(): ChannelCounts[] {
    return this.#barrier.counts();
  }

  /** Returns when none of them touches the file or the guest any more. */
  end(): void {
    this.#barrier.end();
    this.#barrier.awaitGone();
  }
}

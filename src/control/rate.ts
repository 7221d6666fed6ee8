// The one rate limit: a token bucket over all bytes of a move, whichever thread sends them. The clock is an argument, and the rate may
// change at any time.

/** Without pause, this much may follow a quiet time: a tenth of a second keeps the rate even and the calls large. */
const BURST_MS = 100;

/** Bytes per second as they are now; 0: no limit. */
export interface Rate {
  readonly maxBandwidthBytesPerSec: number;
}

export class TokenBucket {
  /** One word: when the bucket is full again, in milliseconds of the clock that all who spend have in common. */
  readonly shared: SharedArrayBuffer;
  readonly #rate: Rate;
  /** The rate of what was spent last. */
  #spentAt: number;
  /** The word as what it is, and as what can be exchanged. */
  readonly #freeAtMs: Float64Array;
  readonly #word: BigInt64Array;
  readonly #mine = new Float64Array(2);
  readonly #myWords = new BigInt64Array(this.#mine.buffer);

  constructor(rate: Rate, nowMs: number, shared?: SharedArrayBuffer) {
    this.#rate = rate;
    this.#spentAt = rate.maxBandwidthBytesPerSec;
    this.shared = shared ?? new SharedArrayBuffer(8);
    this.#freeAtMs = new Float64Array(this.shared);
    this.#word = new BigInt64Array(this.shared);
    if (!shared) this.#freeAtMs[0] = nowMs;
  }

  /** Takes note of `bytes` sent; returns how long to wait before sending more. */
  spend(bytes: number, nowMs: number): number {
    const rate = this.#rate.maxBandwidthBytesPerSec;
    const hasChanged = rate !== this.#spentAt;
    this.#spentAt = rate;
    if (rate <= 0) return 0;
    const costMs = (bytes * 1000) / rate;
    const [mine, words] = [this.#mine, this.#myWords];
    for (;;) {
      words[0] = Atomics.load(this.#word, 0);
      // What was owed at another rate is forgiven.
      const freeAtMs = hasChanged ? Math.min(mine[0], nowMs) : mine[0];
      mine[1] = Math.max(freeAtMs, nowMs - BURST_MS) + costMs;
      if (Atomics.compareExchange(this.#word, 0, words[0], words[1]) === words[0]) return Math.max(0, mine[1] - nowMs);
    }
  }

  /** Waits go on only as long as the rate is the one that they were made for. */
  get hasChanged(): boolean {
    return this.#rate.maxBandwidthBytesPerSec !== this.#spentAt;
  }
}

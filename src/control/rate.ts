// The one rate limit: a token bucket over all bytes of a move, whichever thread sends them. The clock is an argument.

/** Without pause, this much may follow a quiet time: a tenth of a second keeps the rate even and the calls large. */
const BURST_MS = 100;

export class TokenBucket {
  readonly rateBytesPerSec: number;
  /** One word: when the bucket is full again, in milliseconds of the clock that all who spend have in common. */
  readonly shared: SharedArrayBuffer;
  /** The word as what it is, and as what can be exchanged. */
  readonly #freeAtMs: Float64Array;
  readonly #word: BigInt64Array;
  readonly #mine = new Float64Array(2);
  readonly #myWords = new BigInt64Array(this.#mine.buffer);

  constructor(rateBytesPerSec: number, nowMs: number, shared?: SharedArrayBuffer) {
    this.rateBytesPerSec = rateBytesPerSec;
    this.shared = shared ?? new SharedArrayBuffer(8);
    this.#freeAtMs = new Float64Array(this.shared);
    this.#word = new BigInt64Array(this.shared);
    if (!shared) this.#freeAtMs[0] = nowMs;
  }

  /** Takes note of `bytes` sent; returns how long to wait before sending more. */
  spend(bytes: number, nowMs: number): number {
    const costMs = (bytes * 1000) / this.rateBytesPerSec;
    const [mine, words] = [this.#mine, this.#myWords];
    for (;;) {
      words[0] = Atomics.load(this.#word, 0);
      mine[1] = Math.max(mine[0], nowMs - BURST_MS) + costMs;
      if (Atomics.compareExchange(this.#word, 0, words[0], words[1]) === words[0]) return Math.max(0, mine[1] - nowMs);
    }
  }
}

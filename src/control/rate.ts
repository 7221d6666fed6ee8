// The one rate limit: a token bucket over all bytes of a move. The clock is an argument.

/** Without pause, this much may follow a quiet time: a tenth of a second keeps the rate even and the calls large. */
const BURST_MS = 100;

export class TokenBucket {
  readonly #bytesPerMs: number;
  #freeAtMs: number;

  constructor(rateBytesPerSec: number, nowMs: number) {
    this.#bytesPerMs = rateBytesPerSec / 1000;
    this.#freeAtMs = nowMs;
  }

  /** Takes note of `bytes` sent; returns how long to wait before sending more. */
  spend(bytes: number, nowMs: number): number {
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs - BURST_MS) + bytes / this.#bytesPerMs;
    return Math.max(0, this.#freeAtMs - nowMs);
  }
}

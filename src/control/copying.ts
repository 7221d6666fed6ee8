// Whether pages leave without a copy. The kernel says only afterwards whether it copied them all the same, as it does wherever
// sender and receiver are one host: then asking costs more than it saves.

/** auto: where it helps. on: always, or not at all. */
export const ZERO_COPY_MODES = ["auto", "on", "off"] as const;
export type ZeroCopyMode = (typeof ZERO_COPY_MODES)[number];

/** Bytes, of all that were sent so far. */
export interface CopyCounts {
  zeroCopyBytes: number;
  copiedBytes: number;
  inFlightBytes: number;
}

/** What is asked for to find out, and how much is sent by copy before the next time. */
const TRIAL_BYTES = 16 << 20;
const REST_BYTES = 1 << 30;

/** One channel's decision, packet by packet. */
export class CopyPolicy {
  readonly #mode: ZeroCopyMode;
  /** Asked for and answered when the trial began. */
  #answered = 0;
  #copied = 0;
  /** Still to be sent by copy. */
  #rest = 0;

  constructor(mode: ZeroCopyMode) {
    this.#mode = mode;
  }

  /** For the next packet, of so many bytes. */
  next(bytes: number, counted: () => CopyCounts): ZeroCopyMode {
    if (this.#mode !== "auto") return this.#mode;
    if (this.#rest > 0) {
      this.#rest -= bytes;
      return "off";
    }
    const counts = counted();
    const answered = counts.zeroCopyBytes - counts.inFlightBytes;
    if (answered - this.#answered < TRIAL_BYTES) return "auto";
    const copied = counts.copiedBytes - this.#copied;
    if (copied * 2 > answered - this.#answered) this.#rest = REST_BYTES;
    this.#answered = answered;
    this.#copied = counts.copiedBytes;
    return this.#rest > 0 ? "off" : "auto";
  }
}

// What limits a move: in memory that all its threads share, because it may be changed while the move goes on.

export const ON_TIMEOUT = ["cancel", "pause", "throttle"] as const;
/** When the time is over the guest goes on here; or stands still until all is sent; or is slowed down until it can be caught up. */
export type OnTimeout = (typeof ON_TIMEOUT)[number];

export interface Limits {
  /** Headers included; 0: no limit. */
  maxBandwidthBytesPerSec: number;
  maxDowntimeMs: number;
  /** Of the whole move; 0: no limit. */
  timeoutMs: number;
  onTimeout: OnTimeout;
  /** It does not switch over yet, and no time counts: it keeps what is left small until this is no longer so. */
  hold: boolean;
}

export const DEFAULT_LIMITS: Limits = {
  maxBandwidthBytesPerSec: 0,
  maxDowntimeMs: 300,
  timeoutMs: 0,
  onTimeout: "cancel",
  hold: false,
};

const WORD = { bandwidth: 0, downtime: 1, timeout: 2, onTimeout: 3, hold: 4 } as const;
export const LIMITS_BYTES = 8 * Object.keys(WORD).length;

/** Where the limits lie: plain data for other threads. */
export interface LimitsPlace {
  shared: SharedArrayBuffer;
  at: number;
}

/** The limits as they are now. Whole numbers. */
export class LiveLimits implements Limits {
  readonly place: LimitsPlace;
  readonly #words: BigInt64Array;

  constructor(place: LimitsPlace) {
    this.place = place;
    this.#words = new BigInt64Array(place.shared, place.at, LIMITS_BYTES / 8);
  }

  static of(limits: Partial<Limits>): LiveLimits {
    const live = new LiveLimits({ shared: new SharedArrayBuffer(LIMITS_BYTES), at: 0 });
    live.set({ ...DEFAULT_LIMITS, ...limits });
    return live;
  }

  set(changes: Partial<Limits>): void {
    const { maxBandwidthBytesPerSec, maxDowntimeMs, timeoutMs, onTimeout, hold } = { ...this.now(), ...changes };
    this.#store(WORD.bandwidth, maxBandwidthBytesPerSec);
    this.#store(WORD.downtime, maxDowntimeMs);
    this.#store(WORD.timeout, timeoutMs);
    this.#store(WORD.onTimeout, ON_TIMEOUT.indexOf(onTimeout));
    this.#store(WORD.hold, hold ? 1 : 0);
  }

  now(): Limits {
    const { maxBandwidthBytesPerSec, maxDowntimeMs, timeoutMs, onTimeout, hold } = this;
    return { maxBandwidthBytesPerSec, maxDowntimeMs, timeoutMs, onTimeout, hold };
  }

  get maxBandwidthBytesPerSec(): number {
    return this.#load(WORD.bandwidth);
  }
  get maxDowntimeMs(): number {
    return this.#load(WORD.downtime);
  }
  get timeoutMs(): number {
    return this.#load(WORD.timeout);
  }
  get onTimeout(): OnTimeout {
    return ON_TIMEOUT[this.#load(WORD.onTimeout)];
  }
  get hold(): boolean {
    return this.#load(WORD.hold) !== 0;
  }

  #load(word: number): number {
    return Number(Atomics.load(this.#words, word));
  }
  #store(word: number, value: number): void {
    Atomics.store(this.#words, word, BigInt(value));
  }
}

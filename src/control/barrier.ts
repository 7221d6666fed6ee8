// The meeting point of a move's channels. What was sent before the k-th barrier, on any channel, takes effect before anything
// behind it: a channel that has come to its k-th SYNC waits here, until the main channel has met all of them.
import { type ErrorData, fromErrorData, TramError, toErrorData } from "../errors.ts";

const ERROR_BYTES = 4096;
/** Words of the head, and of each channel. */
const HEAD_WORDS = 4;
const STOP = 0;
const RELEASED = 1;
const WAKE = 2;
const CHANNEL_WORDS = 8;
const SYNCS = 0;
const STATE = 1;
const ERROR_LENGTH = 2;

const RUNNING = 0;
const ENDED = 1;
const FAILED = 2;

/** Each wait is short, so that nothing depends on one wake-up. */
const SLICE_MS = 50;

/** What a channel has brought so far; the last numbers of its shared memory. */
export interface ChannelCounts {
  packets: number;
  pages: number;
  zeroPages: number;
  bytes: number;
  /** Written to the disk past the page cache. */
  directBytes: number;
  /** Sent again because the guest wrote to them after they had been sent. */
  resentPages: number;
  /** Zero because nobody has ever written to them, which the page tables say: not looked at. */
  untouchedPages: number;
  /** Left out because the guest said that they are free. */
  hintedPages: number;
  /** Untouched because the guest has given them up: into its balloon, or as free. */
  balloonedPages: number;
  reportedPages: number;
  systemCalls: number;
  /** Sent without a copy of ours. */
  zeroCopyBytes: number;
  /** Of these, copied by the kernel after all. */
  copiedBytes: number;
  /** Calls that were made to copy because the kernel had no memory to hold pages with. */
  fallbacks: number;
  /** Waiting, at the end of rounds, until the kernel held no page any more. */
  flushWaitMs: number;
  /** Compressing. */
  compressMs: number;
}
const COUNTS = [
  "packets",
  "pages",
  "zeroPages",
  "bytes",
  "directBytes",
  "resentPages",
  "untouchedPages",
  "hintedPages",
  "balloonedPages",
  "reportedPages",
  "systemCalls",
  "zeroCopyBytes",
  "copiedBytes",
  "fallbacks",
  "flushWaitMs",
  "compressMs",
] as const;
export const noCounts = (): ChannelCounts =>
  Object.fromEntries(COUNTS.map((name) => [name, 0])) as unknown as ChannelCounts;

/** All channels' together. */
export function sumCounts(counts: readonly ChannelCounts[]): ChannelCounts {
  const sum = noCounts();
  for (const one of counts) for (const name of COUNTS) sum[name] += one[name];
  return sum;
}

export class Barrier {
  readonly shared: SharedArrayBuffer;
  readonly channels: number;
  readonly #words: Int32Array;
  readonly #counts: Float64Array;
  readonly #errors: Uint8Array;

  constructor(channels: number, shared?: SharedArrayBuffer) {
    const words = HEAD_WORDS + channels * CHANNEL_WORDS;
    const counts = channels * COUNTS.length;
    this.channels = channels;
    this.shared = shared ?? new SharedArrayBuffer(words * 4 + counts * 8 + channels * ERROR_BYTES);
    this.#words = new Int32Array(this.shared, 0, words);
    this.#counts = new Float64Array(this.shared, words * 4, counts);
    this.#errors = new Uint8Array(this.shared, words * 4 + counts * 8);
  }

  /** Not zero: everybody ends. For calls that block, too. */
  get stop(): Int32Array {
    return this.#words.subarray(STOP, STOP + 1);
  }

  #at(channel: number, word: number): number {
    return HEAD_WORDS + channel * CHANNEL_WORDS + word;
  }

  #wake(): void {
    Atomics.add(this.#words, WAKE, 1);
    Atomics.notify(this.#words, WAKE);
  }

  /** Returns when `done` says so; it is asked again after each change. */
  #until(done: () => boolean): void {
    for (;;) {
      const seen = Atomics.load(this.#words, WAKE);
      if (done()) return;
      Atomics.wait(this.#words, WAKE, seen, SLICE_MS);
    }
  }

  end(): void {
    Atomics.store(this.#words, STOP, 1);
    this.#wake();
  }

  // --- the main channel's side

  /** Waits until every channel has come to this barrier, the `count`-th, and lets them go on. */
  meet(count: number, checkStop: () => void): void {
    this.gather(count, checkStop);
    this.release(count);
  }

  /** The first half of meet: they are all here, and wait. */
  gather(count: number, checkStop: () => void): void {
    this.#until(() => {
      checkStop();
      this.#checkFailed();
      for (let channel = 0; channel < this.channels; channel++) {
        const state = Atomics.load(this.#words, this.#at(channel, STATE));
        if (Atomics.load(this.#words, this.#at(channel, SYNCS)) >= count) continue;
        if (state === ENDED)
          throw new TramError("E_CHANNEL_CLOSED", `channel ${channel} was closed before the move was over`, {
            where: `channel ${channel}, behind its barrier ${Atomics.load(this.#words, this.#at(channel, SYNCS))}`,
            expected: `its barrier ${count}`,
            found: `${Atomics.load(this.#words, this.#at(channel, SYNCS))} barriers, then its end`,
            next: "the source's own output says why it ended",
          });
        return false;
      }
      return true;
    });
  }

  /** The second half of meet. */
  release(count: number): void {
    Atomics.store(this.#words, RELEASED, count);
    this.#wake();
  }

  /** Waits until every channel has done its part. */
  awaitLeft(checkStop: () => void): void {
    this.#until(() => {
      checkStop();
      this.#checkFailed();
      return this.#allHaveLeft();
    });
  }

  /** Waits until no channel does anything any more, whatever became of it. For when everybody was told to end. */
  awaitGone(): void {
    this.#until(() => this.#allHaveLeft());
  }

  #allHaveLeft(): boolean {
    for (let channel = 0; channel < this.channels; channel++)
      if (Atomics.load(this.#words, this.#at(channel, STATE)) === RUNNING) return false;
    return true;
  }

  /** One that failed is the reason of whatever else happens. */
  #checkFailed(): void {
    for (let channel = 0; channel < this.channels; channel++)
      if (Atomics.load(this.#words, this.#at(channel, STATE)) === FAILED) throw this.#errorOf(channel);
  }

  #errorOf(channel: number): TramError {
    const length = Atomics.load(this.#words, this.#at(channel, ERROR_LENGTH));
    const text = new TextDecoder().decode(this.#errors.slice(channel * ERROR_BYTES, channel * ERROR_BYTES + length));
    return fromErrorData(JSON.parse(text) as ErrorData);
  }

  counts(): ChannelCounts[] {
    return Array.from({ length: this.channels }, (_, channel) => {
      const at = channel * COUNTS.length;
      return Object.fromEntries(COUNTS.map((name, i) => [name, this.#counts[at + i]])) as unknown as ChannelCounts;
    });
  }

  // --- a channel's side

  /** The channel has come to its next SYNC: waits until the main channel has, too. False: everybody ends. */
  arrive(channel: number): boolean {
    const count = Atomics.add(this.#words, this.#at(channel, SYNCS), 1) + 1;
    this.#wake();
    this.#until(() => Atomics.load(this.#words, RELEASED) >= count || this.#words[STOP] !== 0);
    return Atomics.load(this.#words, RELEASED) >= count;
  }

  /** Waits until everybody ends. */
  awaitEnd(): void {
    this.#until(() => Atomics.load(this.#words, STOP) !== 0);
  }

  count(channel: number, counts: ChannelCounts): void {
    for (const [i, name] of COUNTS.entries()) this.#counts[channel * COUNTS.length + i] = counts[name];
  }

  /** It ends because of this; that everybody was told to end is no error of its own. */
  fail(channel: number, error: unknown): void {
    const cancelled = error instanceof TramError && error.code === "E_CANCELLED";
    this.leave(channel, cancelled ? null : { where: `channel ${channel}`, ...toErrorData(error) });
  }

  leave(channel: number, error: ErrorData | null): void {
    if (error) {
      const bytes = new TextEncoder().encode(JSON.stringify(error)).subarray(0, ERROR_BYTES);
      // An error that does not fit is told without its details.
      const fits =
        bytes.length < ERROR_BYTES
          ? bytes
          : new TextEncoder().encode(JSON.stringify({ code: error.code, message: error.message.slice(0, 400) }));
      this.#errors.set(fits, channel * ERROR_BYTES);
      Atomics.store(this.#words, this.#at(channel, ERROR_LENGTH), fits.length);
    }
    Atomics.store(this.#words, this.#at(channel, STATE), error ? FAILED : ENDED);
    this.#wake();
  }
}

// The walker guest's ports (c/guest/walker.h): a grant that paces it, and counters that notice a lost or repeated read.
import { WALKER_CPUS_MAX } from "../../stream/devices/ports.ts";
import type { State } from "../../stream/vmstate.ts";

export const WALKER_PORT_GRANT = 0x510;
export const WALKER_PORT_PROBE = 0x514;
/** In a grant: a device has interrupted. */
export const WALKER_ATTENTION = 0x80000000;
export const WALKER_MMIO_PROBE = 0xd0000000;

const WORD = {
  rate: 0,
  probePio: 1,
  probeMmio: 1 + WALKER_CPUS_MAX,
  stoppedInPio: 1 + 2 * WALKER_CPUS_MAX,
  stoppedInMmio: 2 + 2 * WALKER_CPUS_MAX,
} as const;
export const WALKER_WORDS = 3 + 2 * WALKER_CPUS_MAX;

/** Without a limit: pages granted at once. Large enough that the exits cost nothing, small enough to stay lively. */
const UNPACED_PAGES = 1024;
const GRANTS_PER_SECOND = 50;
/** A vCPU that fell behind by more than this (it was paused) starts afresh instead of catching up. */
const FORGIVEN_MS = 200;

export class WalkerPorts {
  readonly #words: Int32Array;
  readonly #cpu: number;
  readonly #cpus: number;
  #rate = 0;
  #since = 0;
  #granted = 0;

  constructor(words: Int32Array, cpu: number, cpus: number) {
    this.#words = words;
    this.#cpu = cpu;
    this.#cpus = cpus;
  }

  /** How many pages the vCPU may write now, and how long it must wait before. */
  grant(nowMs: number): { pages: number; waitMs: number } {
    const rate = this.#words[WORD.rate] >>> 0;
    if (rate === 0) return { pages: UNPACED_PAGES, waitMs: 0 };
    const share = rate / this.#cpus;
    const pages = Math.max(1, Math.min(UNPACED_PAGES, Math.floor(share / GRANTS_PER_SECOND)));
    const due = this.#since + (this.#granted / share) * 1000;
    if (nowMs - due > FORGIVEN_MS || rate !== this.#rate) {
      this.#rate = rate;
      this.#since = nowMs;
      this.#granted = 0;
    }
    this.#granted += pages;
    return { pages, waitMs: Math.max(0, this.#since + ((this.#granted - pages) / share) * 1000 - nowMs) };
  }

  probePio(): number {
    return this.#words[WORD.probePio + this.#cpu]++;
  }

  /** `index` comes from the address the guest read. */
  probeMmio(index: number): number {
    return index < WALKER_CPUS_MAX ? this.#words[WORD.probeMmio + index]++ : 0xffffffff;
  }

  /** The vCPU was told to stop while it waited in a read: the read's answer is still to reach it. */
  noteStopped(where: "pio" | "mmio"): void {
    Atomics.add(this.#words, where === "pio" ? WORD.stoppedInPio : WORD.stoppedInMmio, 1);
  }

  static stops(words: Int32Array): { stoppedInPio: number; stoppedInMmio: number } {
    return { stoppedInPio: words[WORD.stoppedInPio], stoppedInMmio: words[WORD.stoppedInMmio] };
  }

  static reset(words: Int32Array, rate: number): void {
    words.fill(0);
    words[WORD.rate] = rate;
  }

  static save(words: Int32Array): State {
    const row = (at: number) => Array.from(words.subarray(at, at + WALKER_CPUS_MAX), (word) => word >>> 0);
    return {
      rate: words[WORD.rate] >>> 0,
      probe_pio: row(WORD.probePio),
      probe_mmio: row(WORD.probeMmio),
      stopped_in_pio: words[WORD.stoppedInPio],
      stopped_in_mmio: words[WORD.stoppedInMmio],
    };
  }

  static load(words: Int32Array, state: State): void {
    words[WORD.rate] = Number(state.rate);
    words.set(state.probe_pio as number[], WORD.probePio);
    words.set(state.probe_mmio as number[], WORD.probeMmio);
    words[WORD.stoppedInPio] = Number(state.stopped_in_pio);
    words[WORD.stoppedInMmio] = Number(state.stopped_in_mmio);
  }
}

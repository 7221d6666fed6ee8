// A guest looked at each millisecond, by the host's one monotonic clock: tram pace, and what it has seen between two moments.
import { readFileSync } from "node:fs";
import { type Pace, paceOf } from "../../src/control/pace.ts";
import type { Bed } from "../support/bed.ts";

/** Looks at a guest, by CLOCK_MONOTONIC. */
export class Looks {
  readonly #samples: Float64Array;

  constructor(samples: Float64Array) {
    this.#samples = samples;
  }

  get startMs(): number {
    return this.#samples[0];
  }
  get steps(): number {
    return this.#samples[this.#samples.length - 1];
  }

  /** When it had made so many steps, first. */
  when(steps: number): number {
    for (let i = 0; i < this.#samples.length; i += 2) if (this.#samples[i + 1] >= steps) return this.#samples[i];
    throw new Error(`it has not made ${steps} steps`);
  }

  between(fromMs: number, toMs: number): Pace {
    const at = (ms: number) => {
      let i = 0;
      while (i < this.#samples.length && this.#samples[i] < ms) i += 2;
      return i;
    };
    return paceOf(this.#samples.subarray(at(fromMs), at(toMs)));
  }
}

/** Looks at a guest until it leaves, or the time is over. */
export class Watch {
  readonly #bed: Bed;
  readonly #file: string;
  readonly #done: Promise<unknown>;

  constructor(bed: Bed, name: string, forMs: number) {
    this.#bed = bed;
    this.#file = `${name}.${Math.random()}`;
    this.#done = bed.tram("pace", name, "--for", `${forMs}ms`, "--samples", this.#file);
  }

  async looks(): Promise<Looks> {
    await this.#done;
    return new Looks(Float64Array.from(readFileSync(this.#bed.path(this.#file), "utf8").trim().split(/\s/), Number));
  }
}

/** Steps. */
export const perMs = ({ steps, forMs }: Pace): number => steps / forMs;

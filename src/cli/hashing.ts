// Runs the threads that hash a file's pages, and shows how far they are: behind tram verify and tram seal.
import { fromErrorData, TramError } from "../errors.ts";
import { type HashJob, type HashResult, mergeResults, progressOf, stopJob } from "../inspect/hashing.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import { MULTIFD_CHANNELS_MAX } from "../stream/wire.ts";
import { startVerifier } from "../workers.ts";
import { liveLine } from "./console.ts";
import { cancelOnSignal } from "./keeping.ts";
import type { Part } from "./terminal.ts";
import { formatBytes, formatEta, formatRate, parseCount } from "./units.ts";

export const CHANNELS_OPTION = {
  type: "string",
  description: "threads that read and hash pages (default 2)",
  valueHint: "N",
} as const;
const CHANNELS_DEFAULT = 2;
const SHOWN_MS = 100;

/** From its making until `end` a signal interrupts it, and not the process. */
export class HashCrew {
  readonly #threads: number;
  readonly #doing: string;
  readonly #live: boolean;
  readonly #signals: ReturnType<typeof cancelOnSignal>;
  #job: HashJob | null = null;

  /** `live`: progress may be shown on a terminal. */
  constructor(channels: string | undefined, doing: string, live: boolean) {
    this.#threads =
      channels === undefined ? CHANNELS_DEFAULT : parseCount(channels, "--channels", 1, MULTIFD_CHANNELS_MAX);
    this.#doing = doing;
    this.#live = live && liveLine.terminal.isLive;
    this.#signals = cancelOnSignal(() => this.#job && stopJob(this.#job), "ending");
  }

  readonly hash = async (job: HashJob): Promise<HashResult> => {
    this.#job = job;
    await Bun.sleep(0); // a signal that came before is heard of only now
    this.checkInterrupted();
    const began = performance.now();
    const timer = this.#live ? setInterval(() => this.#show(job, performance.now() - began), SHOWN_MS) : null;
    try {
      const threads = Array.from({ length: this.#threads }, (_, i) => inThread(job, `hash/${i + 1}`));
      const results = await Promise.all(threads);
      this.checkInterrupted();
      return mergeResults(job, results);
    } finally {
      if (timer) clearInterval(timer);
      liveLine.clear();
    }
  };

  checkInterrupted(): void {
    const signal = this.#signals.signal();
    if (signal) throw new TramError("E_INTERRUPTED", `interrupted by ${signal}: the file is as it was`);
  }

  #show(job: HashJob, elapsedMs: number): void {
    const all = job.blocks.reduce((sum, { pages }) => sum + pages * PAGE_BYTES, 0);
    liveLine.show(hashParts(this.#doing, progressOf(job), all, elapsedMs));
  }

  end(): void {
    this.#signals.remove();
  }
}

/** The live line. */
export function hashParts(doing: string, share: number, allBytes: number, elapsedMs: number): Part[] {
  const bytes = Math.round(share * allBytes);
  const parts = [
    { text: doing, rank: 3 },
    { text: `${Math.floor(share * 100)}%`, rank: 0 },
    { text: formatBytes(bytes), rank: 2 },
    { text: formatRate((bytes * 1000) / Math.max(1, elapsedMs)), rank: 1 },
  ];
  if (share > 0) parts.push({ text: `ETA ${formatEta((elapsedMs * (1 - share)) / share)}`, rank: 1 });
  return parts;
}

/** One that fails ends the others, too. */
function inThread(job: HashJob, name: string): Promise<HashResult> {
  const { promise, resolve, reject } = Promise.withResolvers<HashResult>();
  let answered = false;
  const fail = (error: unknown) => {
    if (answered) return; // the others are still at work
    stopJob(job);
    reject(error);
  };
  const worker = startVerifier({ name, job });
  worker.onCrash(fail);
  worker.onEnd(() => fail(new TramError("E_INTERNAL", "a thread that hashes pages has ended by itself")));
  worker.onMessage((message) => {
    if ("error" in message) return fail(fromErrorData(message.error));
    answered = true;
    resolve(message.result);
  });
  return promise;
}

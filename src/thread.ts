// A thread of this process, seen from both of its sides.
import type { Worker } from "node:worker_threads";

/** Loading it takes a command more than a millisecond, and many start no thread. */
const node = (): typeof import("node:worker_threads") => require("node:worker_threads");

/** The side of who started it. What it says are Messages; what it is told later, Jobs. */
export class Thread<Message, Job = never> {
  readonly #worker: Worker;

  constructor(file: URL, name: string, init: object) {
    const { Worker } = node();
    // Given with its making, and not as a first message: that could come before anybody listens.
    this.#worker = new Worker(file, { name, workerData: init });
  }

  tell(job: Job): void {
    this.#worker.postMessage(job);
  }

  onMessage(listener: (message: Message) => void): this {
    this.#worker.on("message", listener);
    return this;
  }

  /** It has died of what nobody caught. */
  onCrash(listener: (error: Error) => void): this {
    this.#worker.on("error", listener);
    return this;
  }

  /** It has ended, in whatever way. */
  onEnd(listener: () => void): this {
    this.#worker.on("exit", () => listener());
    return this;
  }
}

/** The side of the thread: what it was started with. */
export const initOf = <T>(): T => node().workerData as T;

/** To who started it. */
export function tell<Message>(message: Message): void {
  node().parentPort?.postMessage(message);
}

/** Every job from now on, one after the other; without it a thread ends when its code does. */
export function onJob<Job>(listener: (job: Job) => void): void {
  node().parentPort?.on("message", listener);
}

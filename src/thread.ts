// A thread of this process, seen from both of its sides. These are plain Web Workers: those of node:worker_threads take about
// 5 ms longer to start, and a restored guest waits for its vCPU's.

/** The side of who started it. What it says are Messages; what it is told later, Jobs. */
export class Thread<Message, Job = never> {
  readonly #worker: Worker;

  constructor(file: URL, name: string, init: object) {
    this.#worker = new Worker(file, { name, ref: true });
    this.#worker.postMessage(init);
  }

  tell(job: Job): void {
    this.#worker.postMessage(job);
  }

  onMessage(listener: (message: Message) => void): this {
    this.#worker.addEventListener("message", ({ data }) => listener(data));
    return this;
  }

  /** It has died of what nobody caught. */
  onCrash(listener: (error: Error) => void): this {
    this.#worker.addEventListener("error", ({ message }) => listener(new Error(message)));
    return this;
  }

  /** It has ended, in whatever way. */
  onEnd(listener: () => void): this {
    this.#worker.addEventListener("close", () => listener());
    return this;
  }
}

/** In a thread: itself. */
declare const self: Worker;

/** What a thread was told and has not looked at. */
const inbox: unknown[] = [];
let reader: ((message: unknown) => void) | null = null;

function deliver(): void {
  for (let read = reader; read && inbox.length; read = reader) read(inbox.shift());
}

if (!Bun.isMainThread)
  self.onmessage = ({ data }) => {
    inbox.push(data);
    deliver();
  };

/** The side of the thread: what it was started with. Without jobs it ends when its code does. */
export function initOf<T>(further: "jobs" | "none" = "none"): Promise<T> {
  return new Promise((resolve) => {
    reader = (init) => {
      reader = null;
      if (further === "none") self.onmessage = null; // else it would wait for more, and never end
      resolve(init as T);
    };
    deliver();
  });
}

/** To who started it. */
export function tell<Message>(message: Message): void {
  self.postMessage(message);
}

/** Every job from now on, one after the other. */
export function onJob<Job>(listener: (job: Job) => void): void {
  reader = listener as (job: unknown) => void;
  deliver();
}

// What one thread at a time passes, until it is shut for good.
const WORD = { passing: 0, shut: 1 } as const;
const WAIT_MS = 1;

export class Gate {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(shared = new SharedArrayBuffer(4 * Object.keys(WORD).length)) {
    this.shared = shared;
    this.#words = new Int32Array(shared);
  }

  /** False, and nothing is done: it is shut. */
  pass(action: () => void): boolean {
    while (Atomics.compareExchange(this.#words, WORD.passing, 0, 1) !== 0)
      Atomics.wait(this.#words, WORD.passing, 1, WAIT_MS);
    try {
      if (Atomics.load(this.#words, WORD.shut) !== 0) return false;
      action();
      return true;
    } finally {
      Atomics.store(this.#words, WORD.passing, 0);
      Atomics.notify(this.#words, WORD.passing, 1);
    }
  }

  /** `action` is the last that passes. */
  shut(action: () => void): void {
    this.pass(() => {
      Atomics.store(this.#words, WORD.shut, 1);
      action();
    });
  }
}

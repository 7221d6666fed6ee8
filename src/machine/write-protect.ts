// Writes of this process to guest memory as a tracker, where no KVM tracks them: the walker's twin. scan: the kernel notes them.
// faults: each page's first writer waits until a thread has noted it (fault-worker.ts).
import { Bitmap } from "../memory/bitmap.ts";
import { check } from "../native/errno.ts";
import { net } from "../native/net.ts";
import type { Ram } from "../native/ram.ts";
import { protectPages, unwatchWrites, WriteScan, watchWrites } from "../native/write-protect.ts";
import type { FaultInit } from "./fault-worker.ts";
import { Gate } from "./gate.ts";
import type { WriteTracker } from "./tracking.ts";

export class ScannedWrites implements WriteTracker {
  readonly log = null;
  readonly #ram: Ram;
  readonly #scan: WriteScan;
  readonly #fd: number;

  constructor(ram: Ram) {
    this.#ram = ram;
    this.#scan = new WriteScan(ram);
    try {
      this.#fd = watchWrites(ram, true);
    } catch (error) {
      this.#scan.close();
      throw error;
    }
    try {
      this.#scan.takeInto(new Bitmap(ram.pages)); // everything was written before
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  sync(dirty: Bitmap): boolean {
    this.#scan.takeInto(dirty);
    return true;
  }

  clear(): void {}

  stop(): void {
    unwatchWrites(this.#fd, this.#ram);
    net.close(this.#fd);
    this.#scan.close();
  }
}

export class FaultedWrites implements WriteTracker {
  readonly log = null;
  readonly #ram: Ram;
  readonly #fd: number;
  readonly #written: Bitmap;
  readonly #gate = new Gate();

  /** `startWatcher` starts the thread that notes writers; they wait until it is up. */
  constructor(ram: Ram, startWatcher: (init: FaultInit) => void) {
    this.#ram = ram;
    const words = new SharedArrayBuffer(Bitmap.bytesFor(ram.pages));
    this.#written = new Bitmap(ram.pages, words);
    // A page that is not there yet cannot be protected.
    check(ram.tryPopulate(0, ram.bytes), "E_TRACKING", "bring all of the guest's memory in");
    this.#fd = watchWrites(ram, false);
    startWatcher({ fd: this.#fd, ram: ram.share(), written: words, gate: this.#gate.shared });
    try {
      protectPages(this.#fd, ram, 0, ram.pages);
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  sync(dirty: Bitmap): boolean {
    const { words } = this.#written;
    this.#gate.pass(() => {
      for (let i = 0; i < words.length; i++) if (words[i] !== 0) dirty.words[i] |= Atomics.exchange(words, i, 0);
      protectPages(this.#fd, this.#ram, 0, this.#ram.pages);
    });
    return true;
  }

  clear(): void {}

  /** The thread closes the descriptor. */
  stop(): void {
    this.#gate.shut(() => unwatchWrites(this.#fd, this.#ram));
  }
}

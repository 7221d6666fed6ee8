// Notes the pages that a guest without KVM is about to write to, and lets it: one after the other, until that is no longer wanted.
import { Bitmap } from "../memory/bitmap.ts";
import { net } from "../native/net.ts";
import { Ram, type RamHandle } from "../native/ram.ts";
import { noteWriters } from "../native/write-protect.ts";
import { initOf } from "../thread.ts";

export interface FaultInit {
  /** The memory's userfaultfd; taken over. */
  fd: number;
  ram: RamHandle;
  /** A set of pages, for any number of threads at once. */
  written: SharedArrayBuffer;
  /** One word; not zero: it is over. */
  stop: SharedArrayBuffer;
}

const WAIT_MS = 20;

const init = initOf<FaultInit>();
const ram = Ram.attach(init.ram);
const written = new Bitmap(ram.pages, init.written);
const stop = new Int32Array(init.stop);
while (Atomics.load(stop, 0) === 0) noteWriters(init.fd, ram, written, WAIT_MS);
net.close(init.fd);

// Notes the pages that a guest without KVM is about to write to, and lets it: one after the other, until that is no longer wanted.
import { Bitmap } from "../memory/bitmap.ts";
import { net } from "../native/net.ts";
import { Ram, type RamHandle } from "../native/ram.ts";
import { awaitWriters, letWrite, wakeWriters } from "../native/write-protect.ts";
import { initOf } from "../thread.ts";
import { Gate } from "./gate.ts";

export interface FaultInit {
  /** The memory's userfaultfd; taken over. */
  fd: number;
  ram: RamHandle;
  /** A set of pages, for any number of threads at once. */
  written: SharedArrayBuffer;
  /** One at a time lets pages be written to, or takes what was noted. Shut: it is over. */
  gate: SharedArrayBuffer;
}

const WAIT_MS = 20;
const PAGES_AT_ONCE = 256;

const init = initOf<FaultInit>();
const { fd } = init;
const ram = Ram.attach(init.ram);
const written = new Bitmap(ram.pages, init.written);
const gate = new Gate(init.gate);
const index = new Uint32Array(PAGES_AT_ONCE);
for (let isOver = false; !isOver; ) {
  const waiting = index.subarray(0, awaitWriters(fd, ram, index, WAIT_MS));
  isOver = !gate.pass(() => letWrite(fd, ram, waiting, written));
  if (!isOver) wakeWriters(fd, ram, waiting);
}
net.close(fd);

// Looks at a running walker every millisecond, and writes down how far it is, until nobody reads that any more.
import { writeSync } from "node:fs";
import { walkerWatch } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import { initOf } from "../thread.ts";
import { Board } from "./board.ts";

export interface PacerInit {
  board: SharedArrayBuffer;
  /** For pairs of doubles: milliseconds, and pages written so far. Taken over. */
  fd: number;
  forMs: number;
}

const INTERVAL_US = 1000;
/** What is not written yet is lost when the guest has moved and its process ends. */
const BATCH = 4;

const { board, fd, forMs } = initOf<PacerInit>();
const { ram } = new Board(board).awaitMachine();
const samples = new Float64Array(2 * BATCH);
try {
  for (const endMs = performance.now() + forMs; performance.now() < endMs; ) {
    walkerWatch(ram.handle, samples, INTERVAL_US);
    writeSync(fd, new Uint8Array(samples.buffer));
  }
} catch {
  // whoever asked has gone
}
net.close(fd);

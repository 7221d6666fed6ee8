// A channel's thread for the barrier's test: comes to each barrier a little later than the one before, and says so.
import { workerData } from "node:worker_threads";
import { Barrier, noCounts } from "../../src/control/barrier.ts";

export interface BarrierPeer {
  shared: SharedArrayBuffer;
  channels: number;
  channel: number;
  /** How often it arrives; then it leaves. */
  rounds: number;
  /** One word for each channel: how many barriers it has passed. */
  passed: SharedArrayBuffer;
}

const { shared, channels, channel, rounds, passed } = workerData as BarrierPeer;
const barrier = new Barrier(channels, shared);
const words = new Int32Array(passed);
for (let round = 0; round < rounds; round++) {
  barrier.count(channel, { ...noCounts(), packets: round, pages: 2 * round, bytes: 2 ** 40 + round });
  if (!barrier.arrive(channel)) break;
  Atomics.add(words, channel, 1);
}
barrier.leave(channel, null);

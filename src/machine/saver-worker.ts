// One of the threads that write a save's pages: in each round it takes pieces of the guest's memory until there are none left.

import { Barrier } from "../control/barrier.ts";
import { Carrier, type RoundsShare } from "../control/rounds.ts";
import { TramError } from "../errors.ts";
import { type DirectAccess, PageFile } from "../native/file.ts";
import { host } from "../native/host.ts";
import { Ram, type RamHandle } from "../native/ram.ts";
import { initOf } from "../thread.ts";
import type { MappedTarget } from "../writer/mapped.ts";
import { SnapshotPages } from "../writer/snapshot.ts";
import type { DeviceMarks } from "./board.ts";
import type { CrewPlace } from "./crew.ts";
import { DirtyLog, type DirtyLogHandles } from "./dirty-log.ts";
import { GuestPages } from "./guest-pages.ts";

export interface SaverInit extends CrewPlace {
  share: RoundsShare;
  /** Null: nothing is to be taken back before it is read. */
  log: DirtyLogHandles | null;
  marks: DeviceMarks | null;
  ram: RamHandle;
  target: MappedTarget;
  /** Neither descriptor is closed here. */
  fileFd: number;
  direct: DirectAccess;
}

const init = initOf<SaverInit>();
const { channel, share } = init;
const barrier = new Barrier(init.channels, init.barrier);
const log = init.log && new DirtyLog(init.log);
const file = new PageFile(init.fileFd, init.direct);
const ram = Ram.attach(init.ram);
const writer = new SnapshotPages(file, ram, init.target, share.batchPages);
const carrier: Carrier = new Carrier(share, {
  writer,
  memory: new GuestPages(ram, share.pagemapFd, init.marks, (first, pages, except) => log?.clear(first, pages, except)),
  checkStop() {
    if (Atomics.load(barrier.stop, 0) !== 0) throw new TramError("E_CANCELLED", "cancelled");
  },
  sleep: (ms) => void Atomics.wait(barrier.stop, 0, 0, ms),
  now: host.clockMs,
  progress: () => barrier.count(channel, carrier.counts),
});
try {
  while (barrier.arrive(channel)) {
    carrier.carry();
    barrier.count(channel, carrier.counts);
  }
  barrier.leave(channel, null);
} catch (error) {
  barrier.fail(channel, error);
} finally {
  file.close();
}

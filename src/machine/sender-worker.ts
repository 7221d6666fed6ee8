// One channel of a move: in each round it takes pieces of the guest's memory until there are none left, and sends them.
import { Barrier } from "../control/barrier.ts";
import type { ZeroCopyMode } from "../control/copying.ts";
import { Carrier, type RoundsShare } from "../control/rounds.ts";
import { TramError } from "../errors.ts";
import { HashTable } from "../native/hash.ts";
import { host } from "../native/host.ts";
import { Ram, type RamHandle } from "../native/ram.ts";
import { RAM_BLOCK_NAME } from "../stream/devices/machine.ts";
import { initOf } from "../thread.ts";
import { FdTransport } from "../transport/fd.ts";
import { ChannelWriter } from "../writer/channel.ts";
import type { DeviceMarks } from "./board.ts";
import type { CrewPlace } from "./crew.ts";
import { DirtyLog, type DirtyLogHandles } from "./dirty-log.ts";
import { GuestPages } from "./guest-pages.ts";

export interface SenderInit extends CrewPlace {
  share: RoundsShare;
  /** Null: nothing is to be taken back before it is read. */
  log: DirtyLogHandles | null;
  marks: DeviceMarks | null;
  ram: RamHandle;
  /** Of what is sent, with --verify; null: not wanted. */
  hashes: SharedArrayBuffer | null;
  /** The connected socket; taken over. */
  fd: number;
  name: string;
  silenceMs: number;
  iovMax: number;
  zeroCopy: ZeroCopyMode;
  /** zstd's level; null: pages go as they are. */
  compressLevel: number | null;
}

const init = initOf<SenderInit>();
const { channel, share, compressLevel } = init;
const barrier = new Barrier(init.channels, init.barrier);
const log = init.log && new DirtyLog(init.log);
const ram = Ram.attach(init.ram);
const { name, silenceMs, iovMax, zeroCopy } = init;
const transport = new FdTransport(init.fd, { name, stop: barrier.stop, silenceMs, iovMax });
let writer: ChannelWriter | null = null;
try {
  const hashes = init.hashes && new HashTable(ram.pages, init.hashes);
  const open = new ChannelWriter(transport, { name: RAM_BLOCK_NAME, ram, hashes }, { zeroCopy, compressLevel });
  writer = open;
  const carrier: Carrier = new Carrier(share, {
    writer: open,
    memory: new GuestPages(ram, share.pagemapFd, init.marks, (first, pages, except) =>
      log?.clear(first, pages, except),
    ),
    checkStop() {
      if (Atomics.load(barrier.stop, 0) !== 0) throw new TramError("E_CANCELLED", "cancelled");
    },
    sleep: (ms) => open.sleep(ms),
    now: host.clockMs,
    progress: () => barrier.count(channel, { ...carrier.counts, ...open.counts() }),
  });
  open.begin({ uuid: new Uint8Array(16), channel });
  open.sync(); // the START's: behind it the target takes pages
  while (barrier.arrive(channel)) {
    carrier.carry();
    open.flush();
    open.sync();
    barrier.count(channel, { ...carrier.counts, ...open.counts() });
  }
  barrier.leave(channel, null);
} catch (error) {
  barrier.fail(channel, error);
} finally {
  if (writer) writer.close();
  else transport.close();
}

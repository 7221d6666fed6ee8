// One channel of a move at its target: pages from the socket to their places in the guest's memory, until everybody ends.
import { Barrier, noCounts } from "../control/barrier.ts";
import type { PageMarks } from "../control/channel.ts";
import { SharedBitmap } from "../memory/bitmap.ts";
import { HashTable } from "../native/hash.ts";
import { Ram, type RamHandle } from "../native/ram.ts";
import { MultifdReader } from "../reader/multifd.ts";
import { RamSink } from "../reader/ram-sink.ts";
import { RAM_BLOCK_NAME } from "../stream/devices/machine.ts";
import { INIT_BYTES } from "../stream/multifd.ts";
import { initOf } from "../thread.ts";
import { FdTransport } from "../transport/fd.ts";
import type { CrewPlace } from "./crew.ts";

export interface ReceiverInit extends CrewPlace {
  /** The connected socket, behind its init message; taken over. */
  fd: number;
  name: string;
  ram: RamHandle;
  marks: PageMarks;
}

/** Often enough for whoever looks on, and far below any limit on silence. */
const COUNT_EVERY_MS = 20;

const init = initOf<ReceiverInit>();
const { channel, marks } = init;
const barrier = new Barrier(init.channels, init.barrier);
const ram = Ram.attach(init.ram);
let reader: MultifdReader | null = null;
try {
  // However long it is silent: another may have all of a round's last pages. The main channel knows who is gone.
  const transport = new FdTransport(init.fd, { name: init.name, stop: barrier.stop, silenceMs: -1 });
  const open = new MultifdReader(transport, init.name, INIT_BYTES);
  reader = open;
  const sink = new RamSink(ram, marks.hashes && new HashTable(ram.pages, marks.hashes));
  const present = new SharedBitmap(ram.pages, marks.present);
  const told = new SharedBitmap(ram.pages, marks.told);
  const blocks = new Map([[RAM_BLOCK_NAME, { name: RAM_BLOCK_NAME, sink, present, told }]]);
  const count = () => barrier.count(channel, { ...noCounts(), ...open.counts });
  let countedMs = 0;
  for (let packet = open.next(blocks); packet; packet = open.next(blocks)) {
    const nowMs = performance.now();
    if (packet.sync || nowMs - countedMs > COUNT_EVERY_MS) {
      count();
      countedMs = nowMs;
    }
    if (packet.sync && !barrier.arrive(channel)) break;
  }
  count();
  barrier.leave(channel, null);
} catch (error) {
  barrier.fail(channel, error);
} finally {
  reader?.close();
}

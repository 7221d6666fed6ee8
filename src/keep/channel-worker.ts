// One multifd channel of a move that is kept: reads it into the file until it ends or everybody does.

import { Barrier, noCounts } from "../control/barrier.ts";
import { PageFile } from "../native/file.ts";
import { MultifdReader } from "../reader/multifd.ts";
import type { BlockSink } from "../reader/pages.ts";
import { INIT_BYTES } from "../stream/multifd.ts";
import { initOf } from "../thread.ts";
import { FdTransport } from "../transport/fd.ts";
import { MappedSink, type MappedTarget } from "../writer/mapped.ts";

export interface ChannelInit {
  barrier: SharedArrayBuffer;
  channels: number;
  /** This one's number among them, and its name. */
  channel: number;
  name: string;
  /** The connected socket, behind its init message; taken over. */
  fd: number;
  silenceMs: number;
  /** The file's descriptors, which are not. */
  fileFd: number;
  directFd: number;
  targets: readonly MappedTarget[];
}

const init = initOf<ChannelInit>();
const file = new PageFile(init.fileFd, { fd: init.directFd, only: false });
const barrier = new Barrier(init.channels, init.barrier);
const sinks = init.targets.map((target): [string, BlockSink] => [target.block.name, new MappedSink(file, target)]);
const transport = new FdTransport(init.fd, { name: init.name, stop: barrier.stop, silenceMs: init.silenceMs });
const reader = new MultifdReader(transport, init.name, INIT_BYTES);
try {
  const blocks = new Map(sinks);
  for (let packet = reader.next(blocks); packet; packet = reader.next(blocks)) {
    barrier.count(init.channel, { ...noCounts(), ...reader.counts, directBytes: file.directBytes });
    if (packet.sync && !barrier.arrive(init.channel)) break;
  }
  barrier.leave(init.channel, null);
} catch (error) {
  barrier.fail(init.channel, error);
} finally {
  reader.close();
}

// One multifd channel of a kept guest that is played: takes chunks of pages, as the other channels do, until there are none.

import { Barrier, noCounts } from "../control/barrier.ts";
import { TramError, toErrorData } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { PageFile } from "../native/file.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { MappedBlock } from "../stream/mapped.ts";
import { MULTIFD_PACKET_PAGES_MAX } from "../stream/wire.ts";
import { initOf } from "../thread.ts";
import { FdTransport } from "../transport/fd.ts";
import { MultifdWriter } from "../writer/multifd.ts";

export interface SenderInit {
  barrier: SharedArrayBuffer;
  channels: number;
  channel: number;
  name: string;
  /** The connected socket; taken over. */
  fd: number;
  silenceMs: number;
  uuid: Uint8Array;
  /** The file's descriptor, which is not, and its blocks with their bitmaps. */
  fileFd: number;
  blocks: readonly { block: MappedBlock; present: SharedArrayBuffer }[];
  /** The number of the next chunk that nobody has taken: one word. */
  next: SharedArrayBuffer;
  /** How often the target meets the channels: behind the START, behind all pages, behind the END. */
  barriers: number;
}

/** Large enough that taking one costs nothing, small enough that all channels end together. */
const CHUNK_PAGES = 1024;

const init = await initOf<SenderInit>();
const barrier = new Barrier(init.channels, init.barrier);
const next = new Int32Array(init.next);
const transport = new FdTransport(init.fd, { name: init.name, stop: barrier.stop, silenceMs: init.silenceMs });
const writer = new MultifdWriter(transport, new PageFile(init.fileFd));

/** Chunks count through all blocks. */
function send(): void {
  const index = new Uint32Array(MULTIFD_PACKET_PAGES_MAX);
  let mine = Atomics.add(next, 0, 1);
  let before = 0;
  for (const { block, present: shared } of init.blocks) {
    const pages = block.bytes / PAGE_BYTES;
    const chunks = Math.ceil(pages / CHUNK_PAGES);
    const present = new Bitmap(pages, shared);
    for (; mine < before + chunks; mine = Atomics.add(next, 0, 1)) sendChunk(block, present, mine - before, index);
    before += chunks;
  }
}

function sendChunk(block: MappedBlock, present: Bitmap, chunk: number, index: Uint32Array): void {
  const end = Math.min((chunk + 1) * CHUNK_PAGES, present.pages);
  for (let from = chunk * CHUNK_PAGES; from < end; ) {
    const { count, next: after } = present.find(from, end, index);
    if (count) writer.write(block, index, count);
    from = after;
  }
  barrier.count(init.channel, {
    ...noCounts(),
    packets: writer.packets,
    pages: writer.pages,
    bytes: writer.bytes,
  });
}

try {
  writer.begin({ uuid: init.uuid, channel: init.channel });
  writer.sync(); // behind it the target reads no page until it knows the blocks
  send();
  for (let i = 1; i < init.barriers; i++) writer.sync();
  barrier.leave(init.channel, null);
  // The target reads until the whole stream is loaded: the end of one channel is no news to it before.
  barrier.awaitEnd();
} catch (error) {
  const cancelled = error instanceof TramError && error.code === "E_CANCELLED";
  barrier.leave(init.channel, cancelled ? null : toErrorData(error));
} finally {
  transport.close();
}

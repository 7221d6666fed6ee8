// One multifd channel of a kept guest that is played: takes chunks of pages, as the other channels do, until there are none.

import { Barrier, type ChannelCounts, noCounts } from "../control/barrier.ts";
import type { ZeroCopyMode } from "../control/copying.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { PageFile } from "../native/file.ts";
import { PAGE_BYTES, Ram, type RamHandle } from "../native/ram.ts";
import type { MappedBlock } from "../stream/mapped.ts";
import type { MultifdInit } from "../stream/multifd.ts";
import { MULTIFD_PACKET_PAGES_MAX } from "../stream/wire.ts";
import { initOf } from "../thread.ts";
import { FdTransport } from "../transport/fd.ts";
import { ChannelWriter } from "../writer/channel.ts";
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
  /** `memory`: its pages, mapped, where they can be sent without a copy. */
  blocks: readonly { block: MappedBlock; present: SharedArrayBuffer; memory: RamHandle | null }[];
  zeroCopy: ZeroCopyMode;
  /** The number of the next chunk that nobody has taken: one word. */
  next: SharedArrayBuffer;
  /** How often the target meets the channels: behind the START, behind all pages, behind the END. */
  barriers: number;
}

/** Large enough that taking one costs nothing, small enough that all channels end together. */
const CHUNK_PAGES = 1024;

const init = initOf<SenderInit>();
const barrier = new Barrier(init.channels, init.barrier);
const next = new Int32Array(init.next);
const transport = new FdTransport(init.fd, { name: init.name, stop: barrier.stop, silenceMs: init.silenceMs });

interface KeptWriter {
  begin(init: MultifdInit): void;
  sync(): void;
  choose(block: MappedBlock, memory: RamHandle | null): void;
  write(index: Uint32Array, count: number): void;
  flush(): void;
  counts(): Partial<ChannelCounts>;
}

/** Sends pages from where the file is mapped. */
class MemoryWriter implements KeptWriter {
  readonly #writer: ChannelWriter;
  #ram: Ram;
  #pages = 0;

  constructor({ name }: MappedBlock, memory: RamHandle) {
    const { zeroCopy } = init;
    this.#ram = Ram.attach(memory);
    this.#writer = new ChannelWriter(
      transport,
      { name, ram: this.#ram, hashes: null },
      { zeroCopy, compressLevel: null },
    );
  }

  begin(what: MultifdInit): void {
    this.#writer.begin(what);
  }
  sync(): void {
    this.#writer.sync();
  }
  choose({ name }: MappedBlock, memory: RamHandle): void {
    this.#ram = Ram.attach(memory);
    this.#writer.choose({ name, ram: this.#ram, hashes: null });
  }
  write(index: Uint32Array, count: number): void {
    // In one piece: page by page, as the kernel asks for them, a file that is not in the page cache comes slowly.
    const [first, end] = [index[0], index[count - 1] + 1];
    this.#ram.tryPopulate(first * PAGE_BYTES, (end - first) * PAGE_BYTES);
    this.#pages += this.#writer.writeContent(index, count).pages;
  }
  flush(): void {
    this.#writer.flush();
  }
  counts(): Partial<ChannelCounts> {
    return { ...this.#writer.counts(), pages: this.#pages };
  }
}

const [first] = init.blocks;
const writer: KeptWriter =
  init.zeroCopy === "off"
    ? new MultifdWriter(transport, new PageFile(init.fileFd), first.block)
    : new MemoryWriter(first.block, first.memory as RamHandle);

/** Chunks count through all blocks. */
function send(): void {
  const index = new Uint32Array(MULTIFD_PACKET_PAGES_MAX);
  let mine = Atomics.add(next, 0, 1);
  let before = 0;
  for (const { block, present: shared, memory } of init.blocks) {
    writer.choose(block, memory);
    const pages = block.bytes / PAGE_BYTES;
    const chunks = Math.ceil(pages / CHUNK_PAGES);
    const present = new Bitmap(pages, shared);
    for (; mine < before + chunks; mine = Atomics.add(next, 0, 1)) sendChunk(present, mine - before, index);
    before += chunks;
  }
}

function sendChunk(present: Bitmap, chunk: number, index: Uint32Array): void {
  const end = Math.min((chunk + 1) * CHUNK_PAGES, present.pages);
  for (let from = chunk * CHUNK_PAGES; from < end; ) {
    const { count, next: after } = present.find(from, end, index);
    if (count) writer.write(index, count);
    from = after;
  }
  barrier.count(init.channel, { ...noCounts(), ...writer.counts() });
}

try {
  writer.begin({ uuid: init.uuid, channel: init.channel });
  writer.sync(); // behind it the target reads no page until it knows the blocks
  send();
  writer.flush();
  for (let i = 1; i < init.barriers; i++) writer.sync();
  barrier.leave(init.channel, null);
  // The target reads until the whole stream is loaded: the end of one channel is no news to it before.
  barrier.awaitEnd();
} catch (error) {
  barrier.fail(init.channel, error);
} finally {
  transport.close();
}

// One multifd channel's writer: pages of a file with fixed offsets, in packets that QEMU reads.
import type { PageFile } from "../native/file.ts";
import { encodeOffsets } from "../native/page-list.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { MappedBlock } from "../stream/mapped.ts";
import { encodeInit, type MultifdInit, PACKET_BYTES, PacketHead } from "../stream/multifd.ts";
import { MULTIFD_PACKET_PAGES_MAX } from "../stream/wire.ts";
import type { PacketSender, Transport } from "../transport/transport.ts";
import { packetsOf } from "./channel.ts";

export class MultifdWriter {
  #pages = 0;
  #packets = 0;
  #bytes = 0;
  readonly #sender: PacketSender;
  readonly #file: PageFile;
  /** A packet's header and its pages, as they leave. */
  readonly #packet = new Uint8Array(PACKET_BYTES + MULTIFD_PACKET_PAGES_MAX * PAGE_BYTES);
  #block: MappedBlock;
  #head: PacketHead;
  readonly #offset = Uint32Array.from({ length: MULTIFD_PACKET_PAGES_MAX }, (_, i) => PACKET_BYTES + i * PAGE_BYTES);

  constructor(transport: Transport, file: PageFile, block: MappedBlock) {
    this.#sender = packetsOf(transport);
    this.#file = file;
    this.#block = block;
    this.#head = new PacketHead(block.name);
  }

  begin(init: MultifdInit): void {
    this.#write(encodeInit(init));
  }

  /** Nothing that is sent before it may come after what is sent behind it. */
  sync(): void {
    this.#head.sync(this.#packets++);
    this.#write(this.#head.bytes);
  }

  /** The pages that follow are this block's. */
  choose(block: MappedBlock): void {
    this.#block = block;
    this.#head = new PacketHead(block.name);
  }

  /** Pages `index[0, count)`, at most MULTIFD_PACKET_PAGES_MAX. */
  write(index: Uint32Array, count: number): void {
    const { pagesOffset, bytes } = this.#block;
    this.#file.read({ pagesOffset, pages: bytes / PAGE_BYTES }, this.#packet, index, this.#offset, count);
    const payloadBytes = count * PAGE_BYTES;
    this.#head.set({ number: this.#packets++, normal: count, zero: 0, payloadBytes, zstd: false });
    encodeOffsets(this.#head.offsets, index.subarray(0, count));
    this.#packet.set(this.#head.bytes);
    this.#write(this.#packet, PACKET_BYTES + count * PAGE_BYTES);
    this.#pages += count;
  }

  /** Nothing of it is held anywhere: its pages were copied. */
  flush(): void {}

  counts(): { packets: number; pages: number; bytes: number; systemCalls: number } {
    const { systemCalls } = this.#sender.pageCounts;
    return { packets: this.#packets, pages: this.#pages, bytes: this.#bytes, systemCalls };
  }

  #write(bytes: Uint8Array, count = bytes.length): void {
    this.#bytes += this.#sender.sendBytes(bytes, count);
  }
}

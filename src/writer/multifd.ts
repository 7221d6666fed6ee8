// One multifd channel's writer: pages of a file with fixed offsets, in packets that QEMU reads.
import type { PageFile } from "../native/file.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { MappedBlock } from "../stream/mapped.ts";
import { encodeInit, type MultifdInit, PACKET_BYTES, PacketHead } from "../stream/multifd.ts";
import { MULTIFD_PACKET_PAGES_MAX } from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";

export class MultifdWriter {
  pages = 0;
  packets = 0;
  bytes = 0;
  readonly #transport: Transport;
  readonly #file: PageFile;
  /** A packet's header and its pages, as they leave. */
  readonly #packet = new Uint8Array(PACKET_BYTES + MULTIFD_PACKET_PAGES_MAX * PAGE_BYTES);
  #head = new PacketHead("");
  #block = "";
  readonly #offset = Uint32Array.from({ length: MULTIFD_PACKET_PAGES_MAX }, (_, i) => PACKET_BYTES + i * PAGE_BYTES);

  constructor(transport: Transport, file: PageFile) {
    this.#transport = transport;
    this.#file = file;
  }

  begin(init: MultifdInit): void {
    this.#write(encodeInit(init));
  }

  /** Nothing that is sent before it may come after what is sent behind it. */
  sync(): void {
    this.#head.sync(this.packets++);
    this.#write(this.#head.bytes);
  }

  /** Pages `index[0, count)`, at most MULTIFD_PACKET_PAGES_MAX, of one block. */
  write(block: MappedBlock, index: Uint32Array, count: number): void {
    const area = { pagesOffset: block.pagesOffset, pages: block.bytes / PAGE_BYTES };
    this.#file.read(area, this.#packet, index, this.#offset, count);
    if (block.name !== this.#block) this.#head = new PacketHead(block.name);
    this.#block = block.name;
    const payloadBytes = count * PAGE_BYTES;
    this.#head.set({ number: this.packets++, normal: count, zero: 0, payloadBytes, zstd: false }, index);
    this.#packet.set(this.#head.bytes);
    this.#write(this.#packet, PACKET_BYTES + count * PAGE_BYTES);
    this.pages += count;
  }

  #write(bytes: Uint8Array, count = bytes.length): void {
    this.#transport.write(bytes, count);
    this.bytes += count;
  }
}

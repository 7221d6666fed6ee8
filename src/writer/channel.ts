// One channel of a move: guest pages in QEMU's multifd packets, uncopied from guest memory.
import type { ChannelCounts } from "../control/barrier.ts";
import type { PagesSent, PageWriter } from "../control/channel.ts";
import { CopyPolicy, type ZeroCopyMode } from "../control/copying.ts";
import { TramError } from "../errors.ts";
import { Deflater } from "../native/deflate.ts";
import type { HashTable } from "../native/hash.ts";
import { encodeOffsets } from "../native/page-list.ts";
import { PAGE_BYTES, type Ram } from "../native/ram.ts";
import { encodeInit, type MultifdInit, PACKET_BYTES, PAYLOAD_BYTES_MAX, PacketHead } from "../stream/multifd.ts";
import { MULTIFD_PACKET_PAGES_MAX } from "../stream/wire.ts";
import type { PacketSender, Transport } from "../transport/transport.ts";

export interface ChannelOptions {
  zeroCopy: ZeroCopyMode;
  /** zstd's level; null: pages go as they are. */
  compressLevel: number | null;
}

/** Memory whose pages are sent. */
export interface ChannelBlock {
  name: string;
  ram: Ram;
  /** Of what is sent; null: not wanted. */
  hashes: HashTable | null;
}

/** The part of a channel's counts that only its writer knows. */
type WriterCounts = Omit<
  ChannelCounts,
  | "pages"
  | "zeroPages"
  | "directBytes"
  | "resentPages"
  | "untouchedPages"
  | "hintedPages"
  | "balloonedPages"
  | "reportedPages"
>;

export class ChannelWriter implements PageWriter {
  readonly #transport: Transport;
  readonly #packetSender: PacketSender;
  readonly #policy: CopyPolicy;
  #block: ChannelBlock;
  #head: PacketHead;
  readonly #deflater: Deflater | null;
  readonly #compressed: Uint8Array;
  #packets = 0;
  #bytes = 0;
  #compressMs = 0;

  /** Takes the transport over. */
  constructor(transport: Transport, block: ChannelBlock, { zeroCopy, compressLevel }: ChannelOptions) {
    this.#transport = transport;
    this.#packetSender = packetsOf(transport);
    this.#block = block;
    this.#head = new PacketHead(block.name);
    this.#deflater = compressLevel === null ? null : new Deflater(compressLevel);
    this.#compressed = new Uint8Array(compressLevel === null ? 0 : PAYLOAD_BYTES_MAX);
    const asks = zeroCopy !== "off" && compressLevel === null && this.#packetSender.openZeroCopy(zeroCopy === "on");
    this.#policy = new CopyPolicy(asks ? zeroCopy : "off");
  }

  begin(init: MultifdInit): void {
    this.#write(encodeInit(init));
  }

  /** The pages that follow are this block's. */
  choose(block: ChannelBlock): void {
    this.#block = block;
    this.#head = new PacketHead(block.name);
  }

  /** Nothing that is sent before it may come after what is sent behind it. */
  sync(): void {
    this.#head.sync(this.#packets++);
    this.#write(this.#head.bytes);
  }

  #write(bytes: Uint8Array): void {
    this.#bytes += this.#packetSender.sendBytes(bytes, bytes.length);
  }

  write(index: Uint32Array, count: number): PagesSent {
    const { ram, hashes } = this.#block;
    const pages = ram.splitZero(index, count);
    hashes?.setFromRam(ram, index, pages); // what changes from here on is sent again
    hashes?.clear(index, pages, count);
    return { pages, zeroPages: count - pages, bytes: this.#send(index, pages, count) };
  }

  /** As write, where it is known that all of them have content. */
  writeContent(index: Uint32Array, count: number): PagesSent {
    return { pages: count, zeroPages: 0, bytes: this.#send(index, count, count) };
  }

  #send(index: Uint32Array, pages: number, count: number): number {
    let bytes = 0;
    for (let from = 0; from < count; from += MULTIFD_PACKET_PAGES_MAX) {
      const to = Math.min(from + MULTIFD_PACKET_PAGES_MAX, count);
      bytes += this.#packet(index.subarray(from, to), Math.max(0, Math.min(pages, to) - from));
    }
    this.#bytes += bytes;
    return bytes;
  }

  /** Of these the first `normal` have content, the others are zero. */
  #packet(index: Uint32Array, normal: number): number {
    const zero = index.length - normal;
    if (this.#deflater && normal > 0) return this.#compressedPacket(this.#deflater, index, normal);
    this.#setHead({ normal, zero, payloadBytes: normal * PAGE_BYTES, zstd: false }, index);
    const copying = this.#policy.next(normal * PAGE_BYTES, () => this.#packetSender.pageCounts);
    return this.#packetSender.sendPages(this.#head.bytes, PACKET_BYTES, this.#block.ram, index, normal, copying);
  }

  #setHead(fields: Omit<Parameters<PacketHead["set"]>[0], "number">, index: Uint32Array): void {
    this.#head.set({ number: this.#packets++, ...fields });
    encodeOffsets(this.#head.offsets, index);
  }

  #compressedPacket(deflater: Deflater, index: Uint32Array, normal: number): number {
    const zero = index.length - normal;
    const startedMs = performance.now();
    const payloadBytes = deflater.pages(this.#block.ram, index, normal, this.#compressed);
    this.#compressMs += performance.now() - startedMs;
    this.#setHead({ normal, zero, payloadBytes, zstd: true }, index);
    return this.#packetSender.sendBytes(this.#head.bytes, PACKET_BYTES, this.#compressed, payloadBytes);
  }

  /** Until the kernel holds no page of the guest any more. */
  flush(): void {
    this.#packetSender.flushPages();
  }

  /** An error as soon as the target is gone. */
  sleep(ms: number): void {
    this.#packetSender.sleep(ms);
  }

  counts(): WriterCounts {
    const { systemCalls, zeroCopyBytes, copiedBytes, fallbacks, flushWaitMs } = this.#packetSender.pageCounts;
    const kernel = { systemCalls, zeroCopyBytes, copiedBytes, fallbacks, flushWaitMs };
    return { packets: this.#packets, bytes: this.#bytes, ...kernel, compressMs: this.#compressMs };
  }

  close(): void {
    this.#deflater?.close();
    this.#transport.close();
  }
}

const NOTHING = new Uint8Array(0);

export const packetsOf = (transport: Transport): PacketSender => transport.packets ?? new WrittenPackets(transport);

/** For transports that have only write: the same bytes, copied. */
class WrittenPackets implements PacketSender {
  readonly #transport: Transport;
  readonly pageCounts = {
    systemCalls: 0,
    zeroCopyBytes: 0,
    copiedBytes: 0,
    fallbacks: 0,
    inFlightBytes: 0,
    flushWaitMs: 0,
  };

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  openZeroCopy(must: boolean): boolean {
    if (must)
      throw new TramError("E_REFUSED", `--zero-copy on: ${this.#transport.name} takes copies only`, {
        expected: "a TCP connection",
        next: "leave --zero-copy out",
      });
    return false;
  }

  sendPages(head: Uint8Array, headBytes: number, ram: Ram, index: Uint32Array, count: number): number {
    const pages = new Uint8Array(count * PAGE_BYTES);
    for (let i = 0; i < count; i++) pages.set(ram.read(index[i] * PAGE_BYTES, PAGE_BYTES), i * PAGE_BYTES);
    return this.sendBytes(head, headBytes, pages, pages.length);
  }

  sendBytes(head: Uint8Array, headBytes: number, data = NOTHING, bytes = 0): number {
    this.#transport.write(head, headBytes);
    if (bytes) this.#transport.write(data, bytes);
    return headBytes + bytes;
  }

  flushPages(): void {}

  sleep(ms: number): void {
    Bun.sleepSync(ms);
  }
}

// One multifd channel's reader: packets in, their pages to the blocks' sinks, a pause at each barrier.
import { TramError } from "../errors.ts";
import { alignedBuffer } from "../native/file.ts";
import { Inflater } from "../native/inflate.ts";
import { decodeOffsets } from "../native/page-list.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import { badStream } from "../stream/bytes.ts";
import {
  decodeInit,
  decodePacket,
  INIT_BYTES,
  type Method,
  type MultifdInit,
  PACKET_BYTES,
  PAYLOAD_BYTES_MAX,
  type Packet,
  packetOffsets,
  pageAt,
} from "../stream/multifd.ts";
import { MULTIFD_PACKET_PAGES_MAX } from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";
import { type BlockSink, blockOf, outsideOf, PagePlacer } from "./pages.ts";

export interface MultifdCounts {
  packets: number;
  pages: number;
  zeroPages: number;
  bytes: number;
}

export class MultifdReader {
  readonly counts: MultifdCounts = { packets: 0, pages: 0, zeroPages: 0, bytes: 0 };
  readonly #transport: Transport;
  readonly #name: string;
  readonly #header = new Uint8Array(PACKET_BYTES);
  readonly #view = new DataView(this.#header.buffer);
  readonly #payload = alignedBuffer(PAYLOAD_BYTES_MAX);
  #inflated: Uint8Array | null = null;
  readonly #index = new Uint32Array(MULTIFD_PACKET_PAGES_MAX);
  readonly #placer = new PagePlacer();
  #method: Method = "none";
  #inflater: Inflater | null = null;
  #offset: number;

  /** `name`: the channel, for errors. `offset`: what was read of it before. */
  constructor(transport: Transport, name: string, offset = 0) {
    this.#offset = offset;
    this.#transport = transport;
    this.#name = name;
  }

  init(): MultifdInit {
    const bytes = new Uint8Array(INIT_BYTES);
    this.#exactly(bytes, INIT_BYTES);
    return this.#located(() => decodeInit(bytes));
  }

  /** The next packet, its pages placed; null at the channel's end, which is between two packets. */
  next(blocks: ReadonlyMap<string, BlockSink>): Packet | null {
    const at = this.#offset;
    if (!this.#exactly(this.#header, PACKET_BYTES, true)) return null;
    const packet = this.#located(() => this.#packet(blocks, at));
    this.counts.packets++;
    this.counts.pages += packet.normal;
    this.counts.zeroPages += packet.zero;
    this.counts.bytes = this.#offset;
    return packet;
  }

  #packet(blocks: ReadonlyMap<string, BlockSink>, at: number): Packet {
    const packet = decodePacket(this.#view, at);
    const pages = packet.normal + packet.zero;
    if (pages === 0) return packet;
    const block = blockOf(blocks, packet.block, at);
    const good = decodeOffsets(packetOffsets(this.#header), this.#index, pages, block.sink.pages);
    if (good < pages) throw outsideOf(block, pageAt(this.#view, good, at), at);
    this.#placer.choose(block);
    if (packet.normal > 0) this.#pages(packet, at);
    if (packet.zero > 0) this.#placer.noteZeros(this.#index.subarray(packet.normal, pages));
    this.#placer.place(this.#payload);
    return packet;
  }

  #pages(packet: Packet, at: number): void {
    const sink = this.#placer.block?.sink;
    if (packet.method === "none" && sink?.receive && this.#transport.readPages) {
      this.#placer.note(this.#index.subarray(0, packet.normal));
      if (!sink.receive(this.#transport, this.#index, packet.normal)) throw this.#cutShort(this.#offset, "its pages");
      this.#offset += packet.payloadBytes;
      return;
    }
    this.#exactly(this.#payload, packet.payloadBytes);
    const pages = packet.method === "none" ? this.#payload : this.#inflate(packet, packet.method, at);
    for (let i = 0; i < packet.normal; i++) this.#placer.add(this.#index[i], i * PAGE_BYTES, at);
    this.#placer.place(pages);
  }

  #inflate({ normal, payloadBytes }: Packet, method: "zlib" | "zstd", at: number): Uint8Array {
    if (this.#method !== method) {
      if (this.#method !== "none") throw badStream("the channel changes its compression", at, this.#method, method);
      this.#method = method;
      this.#inflater = new Inflater(method);
      this.#inflated = alignedBuffer(MULTIFD_PACKET_PAGES_MAX * PAGE_BYTES);
    }
    const out = this.#inflated as Uint8Array;
    if (!(this.#inflater as Inflater).next(this.#payload, payloadBytes, out, normal * PAGE_BYTES))
      throw badStream(`the packet's ${method} data is broken`, at, `${normal} pages`, "something else");
    return out;
  }

  /** Fills `out[0, bytes)`. False at the end, where it may be. */
  #exactly(out: Uint8Array, bytes: number, mayEnd = false): boolean {
    for (let done = 0; done < bytes; ) {
      const count = this.#transport.read(out.subarray(done, bytes));
      if (count === 0) {
        if (done === 0 && mayEnd) return false;
        throw this.#cutShort(this.#offset + done, `${bytes - done} more bytes`);
      }
      done += count;
    }
    this.#offset += bytes;
    return true;
  }

  #cutShort(at: number, expected: string): TramError {
    return new TramError("E_CHANNEL_CLOSED", `${this.#name} was closed in the middle of a packet`, {
      where: `byte ${at} of ${this.#name}`,
      expected,
      found: "its end",
    });
  }

  /** A decoder knows the byte; which channel it is in, only we know. */
  #located<T>(decode: () => T): T {
    try {
      return decode();
    } catch (error) {
      if (!(error instanceof TramError) || !error.details.where?.endsWith("of the stream")) throw error;
      const where = error.details.where.replace("of the stream", `of ${this.#name}`);
      throw new TramError(error.code, error.message, { ...error.details, where });
    }
  }

  close(): void {
    this.#inflater?.close();
    this.#transport.close();
  }
}

// A multifd channel: one init message, then packets. Big-endian throughout.
//
//   init     be32 magic  be32 version 1  uuid[16]  u8 channel  39 zero bytes                                     64 bytes
//   packet   be32 magic  be32 version 1  be32 flags  be32 allocated  be32 normal  be32 payload bytes
//            be64 number  be32 zero  28 zero bytes  char block[256]  be64 offset[128]                          1344 bytes
//            payload, if normal > 0: its pages in the order of their offsets, as they are or compressed
//
// The first `normal` offsets are pages with content, the next `zero` ones zero pages. QEMU 7.2 leaves the payload size, the
// name and the other offsets of earlier packets where a packet has no pages: they mean nothing then.
import { ByteWriter, badStream, hex } from "./bytes.ts";
import {
  MULTIFD_CHANNELS_MAX,
  MULTIFD_FLAG_COMPRESSION_MASK,
  MULTIFD_FLAG_DEVICE_STATE,
  MULTIFD_FLAG_SYNC,
  MULTIFD_FLAG_ZLIB,
  MULTIFD_FLAG_ZSTD,
  MULTIFD_MAGIC,
  MULTIFD_PACKET_PAGES_MAX,
  MULTIFD_VERSION,
  TARGET_PAGE_BYTES,
} from "./wire.ts";

export const INIT_BYTES = 64;
export const PACKET_BYTES = 1344;
const UUID_BYTES = 16;
const NAME_AT = 64;
const NAME_BYTES = 256;
const OFFSETS_AT = NAME_AT + NAME_BYTES;
/** What a receiver's buffer holds; compressed pages may be larger than plain ones, but not much. */
export const PAYLOAD_BYTES_MAX = 1 << 20;

export interface MultifdInit {
  uuid: Uint8Array;
  channel: number;
}

export function encodeInit({ uuid, channel }: MultifdInit): Uint8Array {
  const out = new ByteWriter(INIT_BYTES).u32(MULTIFD_MAGIC).u32(MULTIFD_VERSION).bytes(uuid).u8(channel);
  return out.bytes(new Uint8Array(INIT_BYTES - out.length)).done();
}

export function decodeInit(bytes: Uint8Array): MultifdInit {
  const view = new DataView(bytes.buffer, bytes.byteOffset, INIT_BYTES);
  checkMagic(view, 0, "channel");
  const channel = view.getUint8(24);
  if (channel >= MULTIFD_CHANNELS_MAX)
    throw badStream("a channel has an impossible number", 24, `below ${MULTIFD_CHANNELS_MAX}`, `${channel}`);
  return { uuid: bytes.slice(8, 8 + UUID_BYTES), channel };
}

export type Method = "none" | "zlib" | "zstd";

export interface Packet {
  sync: boolean;
  method: Method;
  /** Pages with content and zero pages: so many of the index, in this order. */
  normal: number;
  zero: number;
  payloadBytes: number;
  number: number;
  /** Empty where the packet has no pages. */
  block: string;
}

/** The headers of one channel's packets, all with pages of one block; each takes the place of the one before. */
export class PacketHead {
  readonly bytes = new Uint8Array(PACKET_BYTES);
  readonly offsets = this.bytes.subarray(OFFSETS_AT);
  readonly #view = new DataView(this.bytes.buffer);
  readonly #name: Uint8Array;
  /** Offsets that are not zero. */
  #used = 0;

  constructor(block: string) {
    this.#name = new TextEncoder().encode(block);
    this.#view.setUint32(0, MULTIFD_MAGIC);
    this.#view.setUint32(4, MULTIFD_VERSION);
  }

  /** Whose offsets are to be encoded into `offsets`: of pages with content, zero pages behind them. */
  set(packet: Omit<Packet, "sync" | "block" | "method"> & { zstd: boolean }): void {
    this.#fields(packet.zstd ? MULTIFD_FLAG_ZSTD : 0, MULTIFD_PACKET_PAGES_MAX, packet);
    this.bytes.set(this.#name, NAME_AT);
    this.#clear(packet.normal + packet.zero);
  }

  /** A packet without pages, at which the target meets the channel. */
  sync(number: number): void {
    this.#fields(MULTIFD_FLAG_SYNC, 0, { number, normal: 0, zero: 0, payloadBytes: 0 });
    this.bytes.fill(0, NAME_AT, OFFSETS_AT);
    this.#clear(0);
  }

  #fields(
    flags: number,
    allocated: number,
    { normal, zero, payloadBytes, number }: Pick<Packet, "normal" | "zero" | "payloadBytes" | "number">,
  ): void {
    const view = this.#view;
    view.setUint32(8, flags);
    view.setUint32(12, allocated);
    view.setUint32(16, normal);
    view.setUint32(20, payloadBytes);
    view.setUint32(24, Math.floor(number / 2 ** 32));
    view.setUint32(28, number >>> 0);
    view.setUint32(32, zero);
  }

  #clear(used: number): void {
    this.bytes.fill(0, OFFSETS_AT + used * 8, OFFSETS_AT + Math.max(used, this.#used) * 8);
    this.#used = used;
  }
}

/** A packet's header, but for its offsets. `offset` is where it lies in the channel. */
export function decodePacket(view: DataView, offset: number): Packet {
  checkMagic(view, offset, "packet");
  const flags = view.getUint32(8);
  if (flags & MULTIFD_FLAG_DEVICE_STATE)
    throw badStream("a packet carries a device's state (VFIO), which cannot be kept", offset + 8, "pages", hex(flags));
  const allocated = view.getUint32(12);
  const normal = view.getUint32(16);
  const zero = view.getUint32(32);
  const pages = normal + zero;
  if (allocated > MULTIFD_PACKET_PAGES_MAX || (pages > 0 && pages > allocated))
    throw badStream(
      "a packet has too many pages",
      offset + 12,
      `at most ${MULTIFD_PACKET_PAGES_MAX}`,
      `${normal} pages and ${zero} zero pages of ${allocated}`,
    );
  const packet: Packet = {
    sync: (flags & MULTIFD_FLAG_SYNC) !== 0,
    method: normal > 0 ? methodOf(flags, offset) : "none",
    normal,
    zero,
    payloadBytes: normal > 0 ? view.getUint32(20) : 0,
    number: view.getUint32(24) * 2 ** 32 + view.getUint32(28),
    block: pages > 0 ? blockName(view, offset) : "",
  };
  if (packet.method === "none") packet.payloadBytes = normal * TARGET_PAGE_BYTES;
  if (packet.payloadBytes > PAYLOAD_BYTES_MAX)
    throw badStream("a packet is too large", offset + 20, `at most ${PAYLOAD_BYTES_MAX}`, `${packet.payloadBytes}`);
  return packet;
}

/** Where a header's offsets lie. */
export const packetOffsets = (header: Uint8Array): Uint8Array => header.subarray(OFFSETS_AT, PACKET_BYTES);

/** The page of a header's i-th offset. */
export function pageAt(view: DataView, i: number, offset: number): number {
  const at = OFFSETS_AT + 8 * i;
  const [high, low] = [view.getUint32(at), view.getUint32(at + 4)];
  if (high >>> 20 || low & 0xfff)
    throw badStream(
      "a page lies at an odd offset",
      offset + at,
      "a multiple of 4096 below 2^52",
      hex(high, 8) + hex(low, 8).slice(2),
    );
  return high * 0x100000 + (low >>> 12);
}

function checkMagic(view: DataView, offset: number, what: string): void {
  const magic = view.getUint32(0);
  const version = view.getUint32(4);
  if (magic !== MULTIFD_MAGIC || version !== MULTIFD_VERSION)
    throw badStream(
      `this is no multifd ${what}`,
      offset,
      `${hex(MULTIFD_MAGIC, 8)} version ${MULTIFD_VERSION}`,
      `${hex(magic, 8)} version ${version}`,
    );
}

function methodOf(flags: number, offset: number): Method {
  const bits = flags & MULTIFD_FLAG_COMPRESSION_MASK;
  if (bits === 0) return "none";
  if (bits === MULTIFD_FLAG_ZLIB) return "zlib";
  if (bits === MULTIFD_FLAG_ZSTD) return "zstd";
  throw badStream("a packet is compressed in an unknown way", offset + 8, "none, zlib or zstd", `flags ${hex(flags)}`);
}

function blockName(view: DataView, offset: number): string {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + NAME_AT, NAME_BYTES);
  const end = bytes.indexOf(0);
  if (end < 1) throw badStream("a packet's block has no name", offset + NAME_AT, "a name and its end", "none");
  return Buffer.from(bytes.subarray(0, end)).toString("latin1");
}

/**
 * Where the target meets the channels: true, at each MULTIFD_FLUSH word, as QEMU 8.1 and later do for machine types from 8.1
 * on; false, at each end of a section of RAM. Nothing in the stream agrees on it: the machine's version tells, and for
 * machines without one the version of the QEMU that waits, or else of the one that wrote the stream.
 */
export function channelsFlush(machine: string, qemuVersion: string | null, writtenByNewQemu: boolean): boolean {
  const [ofMachine, ofQemu] = [machine.replace(/^.*-/, ""), qemuVersion ?? ""].map(flushesSince);
  if (ofQemu === false) return false;
  return ofMachine ?? ofQemu ?? writtenByNewQemu;
}

function flushesSince(version: string): boolean | null {
  const match = /^(\d+)\.(\d+)/.exec(version);
  return match ? Number(match[1]) > 8 || (Number(match[1]) === 8 && Number(match[2]) >= 1) : null;
}

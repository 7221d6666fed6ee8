import { describe, expect, test } from "bun:test";
import { deflateSync, constants as zlib } from "node:zlib";
import { Bitmap } from "../../src/memory/bitmap.ts";
import { decodeOffsets, encodeOffsets } from "../../src/native/page-list.ts";
import { MultifdReader } from "../../src/reader/multifd.ts";
import type { BlockSink } from "../../src/reader/pages.ts";
import {
  decodeInit,
  decodePacket,
  encodeInit,
  INIT_BYTES,
  PACKET_BYTES,
  type Packet,
  PacketHead,
  packetOffsets,
  pageAt,
} from "../../src/stream/multifd.ts";
import { byteOf, errorOf } from "../support/errors.ts";
import { captures, Playback, seeded } from "../support/golden.ts";

const PAGE = 4096;
const uuid = Uint8Array.from({ length: 16 }, (_, i) => i * 17);

describe("a channel's init", () => {
  test.each([0, 1, 254])("of channel %d comes back as it was written", (channel) => {
    const bytes = encodeInit({ uuid, channel });
    expect(bytes.length).toBe(INIT_BYTES);
    expect(decodeInit(bytes)).toEqual({ uuid, channel });
  });

  test("is QEMU's, byte for byte", () => {
    let seen = 0;
    for (const { channels } of captures())
      for (const channel of channels) {
        const init = decodeInit(channel);
        expect(Buffer.compare(encodeInit(init), channel.subarray(0, INIT_BYTES))).toBe(0);
        seen += 1 + init.channel;
      }
    expect(seen).toBe(6 * (1 + 2)); // channels 0 and 1 of each of the six
  });

  test.each<[string, (bytes: Uint8Array) => void, number]>([
    ["another magic", (bytes) => bytes.set([0x51, 0x45, 0x56, 0x4d]), 0],
    ["version 0", (bytes) => bytes.set([0, 0, 0, 0], 4), 0],
    ["version 2", (bytes) => bytes.set([0, 0, 0, 2], 4), 0],
    ["channel 255", (bytes) => bytes.set([255], 24), 24],
  ])("with %s is refused", (_, damage, where) => {
    const bytes = encodeInit({ uuid, channel: 3 });
    damage(bytes);
    const error = errorOf(() => decodeInit(bytes));
    expect(error.code).toBe("E_STREAM");
    expect(byteOf(error)).toBe(where);
  });
});

const packetBytes = (packet: Partial<Packet>, index: readonly number[] = []): Uint8Array => {
  const whole = { normal: 0, zero: 0, payloadBytes: 0, number: 0, zstd: false, ...packet };
  const head = new PacketHead(packet.block ?? "ram");
  if (packet.sync) head.sync(whole.number);
  else head.set(whole);
  if (!packet.sync) encodeOffsets(head.offsets, Uint32Array.from(index));
  return head.bytes;
};
const decoded = (bytes: Uint8Array, offset = 0): { packet: Packet; index: Uint32Array } => {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const packet = decodePacket(view, offset);
  const index = new Uint32Array(128);
  const count = packet.normal + packet.zero;
  const good = decodeOffsets(packetOffsets(bytes), index, count, 2 ** 32 - 1);
  for (let i = good; i < count; i++) index[i] = pageAt(view, i, offset);
  return { packet, index };
};
const damaged = (at: number, value: number | bigint, packet: Partial<Packet> = { normal: 1 }): Uint8Array => {
  const bytes = packetBytes(packet, [5]);
  const view = new DataView(bytes.buffer);
  if (typeof value === "bigint") view.setBigUint64(at, value);
  else view.setUint32(at, value);
  return bytes;
};

describe("a packet's header", () => {
  test.each<[string, Partial<Packet>, number[]]>([
    ["pages and zero pages", { normal: 3, zero: 2, number: 77 }, [9, 1, 5, 0, 4]],
    ["zero pages only", { zero: 1 }, [2 ** 32 - 2]],
    ["a page that is none of a block of 2^32 - 1", { zero: 3 }, [1, 2 ** 32 - 1, 2]],
    ["128 pages", { normal: 128 }, Array.from({ length: 128 }, (_, i) => 127 - i)],
    ["128 zero pages", { zero: 128 }, Array.from({ length: 128 }, (_, i) => i * 33_000_000)],
    ["a name of 255 bytes", { normal: 1, block: "n".repeat(255) }, [0]],
    ["the largest number", { normal: 1, number: Number.MAX_SAFE_INTEGER }, [0]],
  ])("with %s comes back as it was written", (_, packet, index) => {
    const found = decoded(packetBytes(packet, index));
    const normal = packet.normal ?? 0;
    expect(found.packet).toEqual({
      sync: false,
      zero: 0,
      number: 0,
      block: "ram",
      ...packet,
      normal,
      method: "none",
      payloadBytes: normal * PAGE,
    });
    expect([...found.index.subarray(0, index.length)]).toEqual(index);
  });

  test("of a SYNC has no pages, and no name that means anything", () => {
    expect(decoded(packetBytes({ sync: true })).packet).toMatchObject({ sync: true, normal: 0, zero: 0, block: "" });
  });

  test("without pages may have a stale name, size and offsets, and unknown bits of a method", () => {
    const bytes = packetBytes({ sync: true, payloadBytes: 0xffffffff, block: "rom" });
    new DataView(bytes.buffer).setUint32(8, 0x3f); // SYNC and every bit of the method
    bytes.fill(0xee, 320);
    expect(decoded(bytes).packet).toMatchObject({ sync: true, payloadBytes: 0, block: "", method: "none" });
  });

  test("may have pages and SYNC in one", () => {
    const bytes = packetBytes({ normal: 1, block: "ram" }, [5]);
    new DataView(bytes.buffer).setUint32(8, 1);
    expect(decoded(bytes).packet).toMatchObject({ sync: true, normal: 1 });
  });

  test.each<[string, Uint8Array, string, number]>([
    ["another magic", damaged(0, 0x5145564d), "no multifd packet", 9000],
    ["another version", damaged(4, 2), "no multifd packet", 9000],
    ["a device's state", damaged(8, 0x40), "device's state", 9008],
    ["a method that is none of ours", damaged(8, 0x08), "unknown way", 9008],
    ["two methods", damaged(8, 0x06), "unknown way", 9008],
    ["room for 129 pages", damaged(12, 129), "too many pages", 9012],
    ["room for fewer pages than it has", damaged(12, 0), "too many pages", 9012],
    ["2^32 - 1 pages", damaged(16, 0xffffffff), "too many pages", 9012],
    ["2^32 - 1 zero pages", damaged(32, 0xffffffff), "too many pages", 9012],
    ["128 pages and a zero page", damaged(32, 128), "too many pages", 9012],
    ["an offset inside a page", damaged(320, 4097n), "odd offset", 9320],
    ["an offset of 2^52", damaged(320, 1n << 52n), "odd offset", 9320],
    ["an offset of 2^63", damaged(320, 1n << 63n), "odd offset", 9320],
    ["no block's name", damaged(64, 0), "no name", 9064],
    [
      "a name without an end",
      damaged(64, 0, { normal: 1, block: "x".repeat(256) }).fill(0x78, 64, 320),
      "no name",
      9064,
    ],
  ])("with %s is refused there", (_, bytes, message, where) => {
    const error = errorOf(() => decoded(bytes, 9000));
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    expect(byteOf(error)).toBe(where);
  });

  test("of compressed pages says how many bytes there are, up to 1 MiB", () => {
    const bytes = packetBytes({ normal: 1, payloadBytes: 1 << 20 }, [1]);
    const view = new DataView(bytes.buffer);
    view.setUint32(8, 2);
    expect(decoded(bytes).packet).toMatchObject({ method: "zlib", payloadBytes: 1 << 20 });
    view.setUint32(20, (1 << 20) + 1);
    expect(errorOf(() => decoded(bytes))).toMatchObject({ code: "E_STREAM", message: "a packet is too large" });
    view.setUint32(20, 0xffffffff);
    expect(errorOf(() => decoded(bytes)).code).toBe("E_STREAM");
  });
});

class Memory implements BlockSink {
  readonly name = "ram";
  readonly pages = 16;
  readonly present = new Bitmap(16);
  readonly told = new Bitmap(16);
  readonly sink = this;
  readonly content = new Uint8Array(16 * PAGE);
  cleared: number[] = [];

  scatter(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    for (let i = 0; i < count; i++) this.content.set(buffer.subarray(offset[i], offset[i] + PAGE), index[i] * PAGE);
  }
  clear(index: Uint32Array, count: number): void {
    for (const page of index.subarray(0, count)) {
      this.cleared.push(page);
      this.content.fill(0, page * PAGE, (page + 1) * PAGE);
    }
  }
  read(offset: number, bytes: number): Uint8Array {
    return this.content.slice(offset, offset + bytes);
  }
}

const init = encodeInit({ uuid, channel: 0 });
const page = (fill: number): Uint8Array => new Uint8Array(PAGE).fill(fill);

function compressed(method: "zlib" | "zstd", index: readonly number[], payload: Uint8Array): Uint8Array[] {
  const header = packetBytes({ normal: index.length, payloadBytes: payload.length }, index);
  new DataView(header.buffer).setUint32(8, method === "zlib" ? 2 : 4);
  return [header, payload];
}

/** Reads all packets of a channel that consists of `parts`. */
function readAll(parts: readonly Uint8Array[], pieceBytes = 1 << 20): Memory {
  const memory = new Memory();
  const reader = new MultifdReader(new Playback(Buffer.concat([init, ...parts]), "x", { pieceBytes }), "channel 7");
  try {
    reader.init();
    while (reader.next(new Map([["ram", memory]])));
  } finally {
    reader.close();
  }
  return memory;
}

describe("a channel", () => {
  test.each([1, 1000, 1 << 20])("places its pages, whatever pieces it comes in: %d", (pieceBytes) => {
    const memory = readAll(
      [
        packetBytes({ normal: 2 }, [3, 1]),
        page(33),
        page(11),
        packetBytes({ normal: 1, zero: 2 }, [3, 1, 9]),
        page(34),
      ],
      pieceBytes,
    );
    expect(memory.content[PAGE]).toBe(0); // became zero
    expect(memory.content[3 * PAGE]).toBe(34); // the last one wins
    expect(memory.cleared).toEqual([1]); // 9 is zero already
    expect([1, 3, 9].map((one) => [memory.present.has(one), memory.told.has(one)])).toEqual([
      [false, true],
      [true, true],
      [false, true],
    ]);
  });

  test("that ends between two packets is over, and in the middle of one is closed", () => {
    const whole = [packetBytes({ normal: 1 }, [3]), page(1)];
    readAll(whole);
    const bytes = Buffer.concat(whole);
    for (const cut of [1, 11, 12, 1343, 1344, 1345, bytes.length - 1]) {
      const error = errorOf(() => readAll([bytes.subarray(0, cut)]));
      expect(error).toMatchObject({ code: "E_CHANNEL_CLOSED", message: expect.stringContaining("channel 7") });
      expect(error.details.where).toBe(`byte ${INIT_BYTES + cut} of channel 7`);
    }
  });

  test.each<[string, Uint8Array[], string]>([
    ["a page behind the block's last", [packetBytes({ normal: 1 }, [16]), page(1)], "outside of block 'ram'"],
    ["a zero page behind it", [packetBytes({ zero: 1 }, [16])], "outside of block 'ram'"],
    ["page 2^32 - 1", [packetBytes({ zero: 1 }, [2 ** 32 - 1])], "outside of block 'ram'"],
    ["another block", [packetBytes({ normal: 1, block: "rom" }, [1]), page(1)], "unknown block"],
    ["bytes that are no packet", [new Uint8Array(PACKET_BYTES)], "no multifd packet"],
  ])("with %s is refused, and the channel is named", (_, parts, message) => {
    const error = errorOf(() => readAll([packetBytes({ zero: 1 }, [1]), ...parts]));
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    expect(error.details.where).toBe(`byte ${INIT_BYTES + PACKET_BYTES} of channel 7`);
  });

  const random = Uint8Array.from({ length: 2 * PAGE }, seeded(1).bind(null, 256));
  const zlibbed = (bytes: Uint8Array) => deflateSync(bytes, { finishFlush: zlib.Z_SYNC_FLUSH });
  const zstded = (bytes: Uint8Array) => {
    const whole = Bun.zstdCompressSync(bytes);
    expect(whole.length).toBeGreaterThan(3);
    return whole;
  };

  test("inflates pages of both kinds", () => {
    for (const [method, payload] of [
      ["zlib", zlibbed(random)],
      ["zstd", zstded(random)],
    ] as const) {
      const memory = readAll(compressed(method, [4, 2], payload));
      expect(Buffer.compare(memory.read(4 * PAGE, PAGE), random.subarray(0, PAGE))).toBe(0);
      expect(Buffer.compare(memory.read(2 * PAGE, PAGE), random.subarray(PAGE))).toBe(0);
    }
  });

  test.each<[string, () => Uint8Array[]]>([
    ["zlib data that is none", () => compressed("zlib", [1], page(0xff))],
    ["zstd data that is none", () => compressed("zstd", [1], page(0xff))],
    ["zlib data of two pages for one", () => compressed("zlib", [1], zlibbed(random))],
    ["zstd data of two pages for one", () => compressed("zstd", [1], zstded(random))],
    ["zlib data of two pages for three", () => compressed("zlib", [1, 2, 3], zlibbed(random))],
    ["zstd data of two pages for three", () => compressed("zstd", [1, 2, 3], zstded(random))],
    ["no zlib data", () => compressed("zlib", [1], new Uint8Array(0))],
    ["no zstd data", () => compressed("zstd", [1], new Uint8Array(0))],
    ["a zlib stream that ends", () => compressed("zlib", [1, 2], deflateSync(random))],
  ])("refuses %s", (_, parts) => {
    const error = errorOf(() => readAll(parts()));
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining("data is broken") });
    expect(error.details.where).toBe(`byte ${INIT_BYTES} of channel 7`);
  });

  test("refuses to change its compression", () => {
    const parts = [...compressed("zlib", [1, 2], zlibbed(random)), ...compressed("zstd", [1, 2], zstded(random))];
    expect(errorOf(() => readAll(parts)).message).toBe("the channel changes its compression");
  });

  test("may go back to pages as they are, and on with its compression", () => {
    const parts = [...compressed("zlib", [1, 2], zlibbed(random)), packetBytes({ normal: 1 }, [3]), page(9)];
    expect(readAll(parts).content[3 * PAGE]).toBe(9);
  });
});

// One suite for every transport of a channel's packets: the same pages become the same bytes, uncopied or not, whatever carries
// them and however many iovecs a call takes; and read back they are the pages.
import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Bitmap } from "../../src/memory/bitmap.ts";
import { HashTable, hashOf } from "../../src/native/hash.ts";
import { net } from "../../src/native/net.ts";
import { PAGE_BYTES, Ram } from "../../src/native/ram.ts";
import { MultifdReader } from "../../src/reader/multifd.ts";
import { RamSink } from "../../src/reader/ram-sink.ts";
import { INIT_BYTES, PACKET_BYTES } from "../../src/stream/multifd.ts";
import { FdTransport } from "../../src/transport/fd.ts";
import type { Transport } from "../../src/transport/transport.ts";
import { WriteOnly } from "../../src/transport/write-only.ts";
import { ChannelWriter } from "../../src/writer/channel.ts";
import { freePort } from "../support/bed.ts";

const PAGES = 700;
const stop = new Int32Array(new SharedArrayBuffer(4));

/** Two thirds have content, each different. */
function makeRam(): Ram {
  const ram = Ram.create(PAGES * PAGE_BYTES);
  for (let page = 0; page < PAGES; page++)
    if (page % 3 !== 0) ram.write(page * PAGE_BYTES, new Uint8Array(PAGE_BYTES).fill(1 + (page % 251)));
  return ram;
}
const ram = makeRam();

const range = (from: number, to: number, step = 1) =>
  Uint32Array.from({ length: Math.ceil((to - from) / step) }, (_, i) => from + i * step);

/** A round of uneven batches, neighbours and others, and one over some of it again. */
function sendAll(writer: ChannelWriter): { pages: number; zeroPages: number; bytes: number } {
  const sum = { pages: 0, zeroPages: 0, bytes: 0 };
  writer.begin({ uuid: new Uint8Array(16), channel: 5 });
  writer.sync();
  for (const batch of [range(0, 1), range(1, 2), range(2, 300), range(300, PAGES, 5), range(301, PAGES)]) {
    const { pages, zeroPages, bytes } = writer.write(batch, batch.length);
    sum.pages += pages;
    sum.zeroPages += zeroPages;
    sum.bytes += bytes;
  }
  writer.flush();
  writer.sync();
  const again = range(1, PAGES, 7);
  sum.bytes += writer.write(again, again.length).bytes;
  writer.flush();
  writer.sync();
  return sum;
}

/** Both ends of a connection of the kernel's. */
const PAIRS = {
  tcp() {
    const port = freePort();
    const door = net.listenTcp("127.0.0.1", port);
    const from = net.connectTcp("127.0.0.1", port, 1000, stop);
    const to = net.accept(door, 1000, stop);
    net.close(door);
    return { from, to };
  },
  unix() {
    const [from, to] = net.socketPair();
    return { from, to };
  },
  pipe() {
    const { read, write } = net.pipe();
    return { from: write, to: read };
  },
};

/** What comes out at the other end while it is written: read by a process of its own. */
async function carried(kind: keyof typeof PAIRS, send: (fd: number) => void): Promise<Buffer> {
  const { from, to } = PAIRS[kind]();
  const folder = mkdtempSync(join(tmpdir(), "tram-test-"));
  try {
    // Into a file: who sends blocks, and reads nothing meanwhile.
    const child = Bun.spawn(["cat"], { stdin: to, stdout: Bun.file(join(folder, "out")), stderr: "ignore" });
    net.close(to);
    send(from);
    net.close(from);
    await child.exited;
    return readFileSync(join(folder, "out"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

class Memory implements Transport {
  readonly name = "memory";
  readonly twoWay = false;
  readonly pieces: Uint8Array[] = [];
  #at = 0;
  write(data: Uint8Array, bytes = data.length): void {
    this.pieces.push(data.slice(0, bytes));
  }
  read(out: Uint8Array): number {
    const all = Buffer.concat(this.pieces);
    const count = Math.min(out.length, all.length - this.#at);
    out.set(all.subarray(this.#at, this.#at + count));
    this.#at += count;
    return count;
  }
  drain(): boolean {
    return true;
  }
  close(): void {}
}

const block = { name: "ram", ram, hashes: null };
const plain = { zeroCopy: "off" as const, compressLevel: null };
const memory = new Memory();
const sent = sendAll(new ChannelWriter(memory, block, plain));
const expected = Buffer.concat(memory.pieces);

/** All packets of a channel into other memory; how many barriers it had. */
function receiveAll(from: Transport): { into: Ram; syncs: number; told: number } {
  const into = Ram.create(PAGES * PAGE_BYTES);
  const reader = new MultifdReader(from, "channel 5");
  const told = new Bitmap(PAGES);
  const blocks = new Map([["ram", { name: "ram", sink: new RamSink(into, null), present: new Bitmap(PAGES), told }]]);
  expect(reader.init()).toEqual({ uuid: new Uint8Array(16), channel: 5 });
  let syncs = 0;
  for (let packet = reader.next(blocks); packet; packet = reader.next(blocks)) if (packet.sync) syncs++;
  return { into, syncs, told: told.count() };
}

function hashesOf(of: Ram): bigint {
  const table = new HashTable(PAGES);
  table.setFromRam(of, range(0, PAGES), PAGES);
  return hashOf(table.bytes);
}

describe("a channel's packets", () => {
  test("are what was counted, and read back they are the pages", () => {
    expect(sent.bytes + INIT_BYTES + 3 * PACKET_BYTES).toBe(expected.length);
    const { into, syncs, told } = receiveAll(memory);
    expect({ syncs, told }).toEqual({ syncs: 3, told: PAGES });
    expect(hashesOf(into)).toBe(hashesOf(ram));
  });

  const ways = (Object.keys(PAIRS) as (keyof typeof PAIRS)[]).flatMap((kind) =>
    (kind === "tcp" ? (["off", "auto", "on"] as const) : (["off", "auto"] as const)).flatMap((zeroCopy) =>
      [1, 2, 1024].map((iovMax) => ({ kind, zeroCopy, iovMax })),
    ),
  );
  test.each(ways)("are the same bytes over $kind, zero-copy $zeroCopy, $iovMax iovecs a call", async (way) => {
    const { kind, zeroCopy, iovMax } = way;
    const found = await carried(kind, (fd) => {
      const transport = new FdTransport(net.duplicate(fd), { name: kind, stop, silenceMs: 5000, iovMax });
      const writer = new ChannelWriter(transport, block, { zeroCopy, compressLevel: null });
      sendAll(writer);
      const { zeroCopyBytes } = writer.counts();
      expect(zeroCopyBytes > 0).toBe(zeroCopy !== "off" && kind === "tcp");
      writer.close();
    });
    expect(Buffer.compare(found, expected)).toBe(0);
  });

  test.each(["tcp", "unix", "pipe"] as const)("are the same bytes over %s that has only write", async (kind) => {
    const found = await carried(kind, (fd) => {
      const transport = new WriteOnly(new FdTransport(net.duplicate(fd), { name: kind, stop, silenceMs: 5000 }));
      sendAll(new ChannelWriter(transport, block, { zeroCopy: "auto", compressLevel: null }));
      transport.close();
    });
    expect(Buffer.compare(found, expected)).toBe(0);
  });

  test.each(["unix", "pipe"] as const)("cannot be forced to go uncopied over %s", (kind) => {
    const { from, to } = PAIRS[kind]();
    const transport = new FdTransport(from, { name: kind, stop, silenceMs: 1000 });
    expect(() => new ChannelWriter(transport, block, { zeroCopy: "on", compressLevel: null })).toThrow(
      "--zero-copy on",
    );
    expect(() => new ChannelWriter(new WriteOnly(transport), block, { zeroCopy: "on", compressLevel: null })).toThrow(
      "--zero-copy on",
    );
    transport.close();
    net.close(to);
  });

  test.each([1, 3, 19])("compressed at level %d are smaller, and the same pages", (compressLevel) => {
    const small = new Memory();
    const writer = new ChannelWriter(small, block, { zeroCopy: "auto", compressLevel });
    sendAll(writer);
    expect(Buffer.concat(small.pieces).length).toBeLessThan(expected.length / 4);
    const { into, syncs, told } = receiveAll(small);
    expect({ syncs, told }).toEqual({ syncs: 3, told: PAGES });
    expect(hashesOf(into)).toBe(hashesOf(ram));
    writer.close();
  });
});

// Connections between a guest and its host, told by a guest that keeps to the rules, and by one that does not.
import { describe, expect, test } from "bun:test";
import {
  BUFFER_BYTES,
  Connections,
  decodePacket,
  encodePacket,
  type HostStream,
  OPERATION,
  PACKET_HEADER_BYTES,
  type Packet,
} from "../../src/machine/virtio/vsock.ts";

const STREAM = 1;
const ROOM = 4096;
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytesOf = (said: string) => new TextEncoder().encode(said);

/** The host's end: what it is to say, and what it has heard. */
class End implements HostStream {
  heard = "";
  toSay: string[] = [];
  hasEnded = false;
  takes = Number.POSITIVE_INFINITY;
  isEnded = false;
  closed = 0;
  port = 0;
  isGone = false;

  write(bytes: Uint8Array): number | null {
    if (this.isGone) return null;
    const count = Math.min(bytes.length, this.takes);
    this.takes -= count;
    this.heard += text(bytes.subarray(0, count));
    return count;
  }
  read(bytesMax: number): Uint8Array | null {
    const next = this.toSay.shift();
    if (next === undefined) return this.hasEnded ? new Uint8Array(0) : null;
    if (next.length > bytesMax) this.toSay.unshift(next.slice(bytesMax));
    return bytesOf(next.slice(0, bytesMax));
  }
  end(): void {
    this.isEnded = true;
  }
  close(): void {
    this.closed++;
  }
  connected(hostPort: number): void {
    this.port = hostPort;
  }
}

function rig() {
  const ends = new Map<number, End>([[80, new End()]]);
  const asked: number[] = [];
  const all = new Connections((port) => {
    asked.push(port);
    return ends.get(port) ?? null;
  });
  const say = (operation: number, more: Partial<Packet> = {}) =>
    all.take({ fromPort: 1000, toPort: 80, type: STREAM, operation, flags: 0, bufferBytes: 65536, readBytes: 0, data: new Uint8Array(0), ...more }); // biome-ignore format: one line
  /** What the guest hears, as "operation" or "operation:text". */
  const hears = () => {
    const said: string[] = [];
    for (let packet = all.next(ROOM); packet; packet = all.next(ROOM)) {
      const name = Object.entries(OPERATION).find(([, value]) => value === packet?.operation)?.[0] ?? "?";
      said.push(packet.data.length ? `${name}:${text(packet.data)}` : name);
    }
    return said;
  };
  return { all, ends, end: ends.get(80) as End, asked, say, hears };
}

/** The guest has connected to port 80. */
function open() {
  const made = rig();
  made.say(OPERATION.request);
  expect(made.hears()).toEqual(["response"]);
  return made;
}

describe("a packet", () => {
  const packet: Packet = { fromPort: 0x01020304, toPort: 0xfffffffe, type: 1, operation: 5, flags: 3, bufferBytes: 0x80000000, readBytes: 0xffffffff, data: bytesOf("abc") }; // biome-ignore format: one line

  test("is these bytes", () => {
    const bytes = encodePacket(packet, 3, 2);
    const fields = "0300000000000000" + "0200000000000000" + "04030201" + "feffffff" + "03000000" + "0100" + "0500" + "03000000" + "00000080" + "ffffffff"; // biome-ignore format: one line
    expect(Buffer.from(bytes).toString("hex")).toBe(`${fields}616263`);
    expect(decodePacket(bytes)).toEqual({ packet, from: 3, to: 2 });
  });

  test.each<[string, (bytes: Uint8Array) => Uint8Array]>([
    ["is cut short", (bytes) => bytes.slice(0, PACKET_HEADER_BYTES - 1)],
    ["says that it has more than there is", (bytes) => bytes.slice(0, PACKET_HEADER_BYTES + 2)],
    ["says that it has 4 GiB", (bytes) => bytes.fill(0xff, 24, 28)],
  ])("is none if it %s", (_, change) => expect(decodePacket(change(encodePacket(packet, 3, 2)))).toBeNull());
});

describe("a connection that the guest wants", () => {
  test("is made, and carries what both say", () => {
    const { end, say, hears } = open();
    say(OPERATION.data, { data: bytesOf("hello ") });
    say(OPERATION.data, { data: bytesOf("host") });
    end.toSay.push("hello guest");
    expect(hears()).toEqual(["data:hello guest"]);
    expect(end.heard).toBe("hello host");
  });

  test("is refused where nobody listens", () => {
    const { say, hears, asked, all } = rig();
    say(OPERATION.request, { toPort: 81 });
    expect([hears(), asked, all.size]).toEqual([["reset"], [81], 0]);
  });

  test("is heard to its end by either side, whoever ends first", () => {
    const { end, say, hears, all } = open();
    say(OPERATION.data, { data: bytesOf("last") });
    say(OPERATION.shutdown, { flags: 2 });
    expect([end.heard, end.isEnded, end.closed]).toEqual(["last", true, 0]);
    end.toSay.push("answer");
    end.hasEnded = true;
    expect(hears()).toEqual(["data:answer", "shutdown", "reset"]);
    expect([end.closed, all.size]).toEqual([1, 0]);
  });

  test("goes on one way when the host has ended", () => {
    const { end, say, hears } = open();
    end.hasEnded = true;
    expect(hears()).toEqual(["shutdown"]);
    say(OPERATION.data, { data: bytesOf("still") });
    expect(end.heard).toBe("still");
    say(OPERATION.shutdown, { flags: 3 });
    expect([hears(), end.closed]).toEqual([["reset"], 1]);
  });

  test("is gone when the guest says so, or the host's end is", () => {
    const one = open();
    one.say(OPERATION.reset);
    expect([one.end.closed, one.all.size, one.hears()]).toEqual([1, 0, []]);
    const two = open();
    two.end.isGone = true;
    two.say(OPERATION.data, { data: bytesOf("x") });
    expect([two.end.closed, two.all.size, two.hears()]).toEqual([1, 0, ["reset"]]);
  });

  test("sends no more than the guest has room for, and goes on when it has read", () => {
    const { end, say, hears } = rig();
    say(OPERATION.request, { bufferBytes: 10 });
    end.toSay.push("0123456789abcdef");
    expect(hears()).toEqual(["response", "data:0123456789"]);
    say(OPERATION.credit, { bufferBytes: 10, readBytes: 4 });
    expect(hears()).toEqual(["data:abcd"]);
    say(OPERATION.credit, { bufferBytes: 10, readBytes: 14 });
    expect(hears()).toEqual(["data:ef"]);
  });

  test("fills buffers of any size", () => {
    const { end, all } = open();
    end.toSay.push("abcdef");
    expect(text(all.next(2)?.data as Uint8Array)).toBe("ab");
    expect(text(all.next(3)?.data as Uint8Array)).toBe("cde");
    expect(text(all.next(100)?.data as Uint8Array)).toBe("f");
    expect(all.next(100)).toBeNull();
  });

  test("keeps what the host's end does not take, tells the guest of what it has, and then takes no more", () => {
    const { end, say, hears, all } = open();
    end.takes = 0;
    const piece = new Uint8Array(BUFFER_BYTES / 4).fill(97);
    for (let i = 0; i < 4; i++) say(OPERATION.data, { data: piece });
    expect([hears(), [...all.streams()][0].wantsWrite]).toEqual([[], true]);
    end.takes = BUFFER_BYTES / 2;
    all.pass();
    const told = all.next(ROOM);
    expect(told).toMatchObject({ operation: OPERATION.credit, readBytes: BUFFER_BYTES / 2, bufferBytes: BUFFER_BYTES });
    say(OPERATION.data, { data: piece });
    say(OPERATION.data, { data: piece });
    expect(all.size).toBe(1);
    say(OPERATION.data, { data: bytesOf("x") }); // there was no room for that
    expect([hears(), end.closed, all.size]).toEqual([["reset"], 1, 0]);
    expect(end.heard.length).toBe(BUFFER_BYTES / 2);
  });

  test("that the guest has closed is heard to its end, however slow the host's end is", () => {
    const { end, say, hears, all } = open();
    end.takes = 2;
    say(OPERATION.data, { data: bytesOf("abcdef") });
    say(OPERATION.shutdown, { flags: 3 });
    say(OPERATION.reset);
    expect([end.heard, end.closed, all.size, hears()]).toEqual(["ab", 0, 1, []]);
    say(OPERATION.request); // its port is free again
    expect(hears()).toEqual(["response"]);
    end.takes = 100;
    all.pass();
    expect([end.heard, end.closed, all.size]).toEqual(["abcdef", 1, 1]);
  });

  test("does not grow with data that is none, nor more than its bytes with small pieces", () => {
    const { end, say, all } = open();
    end.takes = 0;
    for (let i = 0; i < 1000; i++) say(OPERATION.data, { data: new Uint8Array(0) });
    for (let i = 0; i < 1000; i++) say(OPERATION.data, { data: bytesOf("x") });
    end.takes = 1000;
    all.pass();
    expect(end.heard).toBe("x".repeat(1000));
  });

  test("whose other end goes before the guest has answered is taken back", () => {
    const { all, hears } = rig();
    const stream = new End();
    all.open(22, stream);
    expect(hears()).toEqual(["request"]);
    all.lose(stream);
    expect([hears(), stream.closed, all.size]).toEqual([["reset"], 1, 0]);
  });

  test("says how much room there is when it is asked", () => {
    const { say, hears } = open();
    say(OPERATION.creditWanted);
    expect(hears()).toEqual(["credit"]);
  });
});

describe("a connection that the host wants", () => {
  test("is made when the guest answers", () => {
    const { all, say, hears } = rig();
    const end = new End();
    expect(all.open(22, end)).toBe(true);
    const request = all.next(ROOM) as Packet;
    expect(request).toMatchObject({ operation: OPERATION.request, toPort: 22 });
    end.toSay.push("early"); // nothing is sent before there is a connection
    expect(hears()).toEqual([]);
    say(OPERATION.response, { fromPort: 22, toPort: request.fromPort });
    expect(end.port).toBe(request.fromPort);
    expect(hears()).toEqual(["data:early"]);
  });

  test("is gone when nobody listens there", () => {
    const { all, say } = rig();
    const end = new End();
    all.open(22, end);
    const { fromPort } = all.next(ROOM) as Packet;
    say(OPERATION.reset, { fromPort: 22, toPort: fromPort });
    expect([end.closed, end.port, all.size]).toEqual([1, 0, 0]);
  });

  test("has a port of its own, of many; and there are not too many", () => {
    const { all } = rig();
    const ports = new Set<number>();
    let made = 0;
    while (all.open(22, new End())) made++;
    for (let packet = all.next(ROOM); packet; packet = all.next(ROOM)) ports.add(packet.fromPort);
    expect([made, ports.size]).toEqual([256, 256]);
  });
});

test("each connection has its turn", () => {
  const { all, ends, end, say, hears } = open();
  const other = new End();
  ends.set(90, other);
  say(OPERATION.request, { toPort: 90 });
  end.toSay.push("a1", "a2", "a3");
  other.toSay.push("b1", "b2");
  expect(hears()).toEqual(["response", "data:a1", "data:b1", "data:a2", "data:b2", "data:a3"]);
  all.clear();
  expect([end.closed, other.closed, all.size]).toEqual([1, 1, 0]);
});

test.each<[string, number, Partial<Packet>, string[]]>([
  ["data for a connection that there is not", OPERATION.data, { data: bytesOf("x") }, ["reset"]],
  ["the end of one that there is not", OPERATION.reset, {}, []],
  ["an answer to nothing", OPERATION.response, {}, ["reset"]],
  ["an operation that there is not", 99, {}, ["reset"]],
  ["another kind of connection", OPERATION.request, { type: 2 }, ["reset"]],
])("%s", (_, operation, more, heard) => {
  const { all, say, hears } = rig();
  say(operation, more);
  expect([hears(), all.size]).toEqual([heard, 0]);
});

test.each<[string, number, Partial<Packet>]>([
  ["an answer in the middle", OPERATION.response, {}],
  ["an operation that there is not", 99, {}],
  ["a second request", OPERATION.request, {}],
])("a connection ends at %s", (_, operation, more) => {
  const { all, end, say, hears } = open();
  say(operation, more);
  expect([hears(), all.size, end.closed]).toEqual([["reset"], 0, 1]);
});

test("what the guest says behind its own end ends the connection", () => {
  const { end, say, hears } = open();
  say(OPERATION.shutdown, { flags: 2 });
  say(OPERATION.data, { data: bytesOf("x") });
  expect([hears(), end.heard, end.closed]).toEqual([["reset"], "", 1]);
});

// Connections between the guest and its host without a network: streams between ports, as packets in a device's queues. The host's
// end of each is a stream of the host's; here is only what is said about it, and whose turn it is.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.10.
//
//   packet   le64 from, le64 to, le32 port from, le32 port to, le32 bytes, le16 type, le16 operation, le32 flags,
//            le32 the sender's buffer, le32 how much of it was read ever; then its bytes
import type { VirtioDevice } from "./mmio.ts";

export const VSOCK_QUEUE = { toGuest: 0, fromGuest: 1, events: 2 } as const;
const QUEUE_SIZES = [128, 128, 8];
export const VSOCK_QUEUES = QUEUE_SIZES.length;
/** All connections are gone. */
export const TRANSPORT_RESET = 0;

export const HOST_CID = 2;
export const PACKET_HEADER_BYTES = 44;
/** Of one packet's bytes, both ways. */
export const PACKET_BYTES_MAX = 64 << 10;
/** What of a guest's bytes lies here until its host's end takes it. */
export const BUFFER_BYTES = 256 << 10;
const CONNECTIONS_MAX = 256;
/** Pieces are put together up to this: many small ones take more room than their bytes. */
const PIECE_BYTES = 4096;
/** Above those that people choose. */
const FIRST_HOST_PORT = 1 << 30;

export const OPERATION = {
  request: 1,
  response: 2,
  reset: 3,
  shutdown: 4,
  data: 5,
  credit: 6,
  creditWanted: 7,
} as const;
const TYPE_STREAM = 1;
/** Of a shutdown: the sender will receive, or send, no more. */
const NO_MORE = { receiving: 1, sending: 2 } as const;
const NO_BYTES = new Uint8Array(0);

/** What a packet says; its two CIDs are the guest's and HOST_CID. */
export interface Packet {
  fromPort: number;
  toPort: number;
  type: number;
  operation: number;
  flags: number;
  bufferBytes: number;
  /** Modulo 2^32, as all counts of bytes are. */
  readBytes: number;
  data: Uint8Array;
}

export function encodePacket(packet: Packet, from: number, to: number): Uint8Array {
  const bytes = new Uint8Array(PACKET_HEADER_BYTES + packet.data.length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(from), true);
  view.setBigUint64(8, BigInt(to), true);
  const { fromPort, toPort, type, operation, flags, bufferBytes, readBytes, data } = packet;
  [fromPort, toPort, data.length].forEach((value, i) => {
    view.setUint32(16 + 4 * i, value, true);
  });
  view.setUint16(28, type, true);
  view.setUint16(30, operation, true);
  [flags, bufferBytes, readBytes].forEach((value, i) => {
    view.setUint32(32 + 4 * i, value, true);
  });
  bytes.set(data, PACKET_HEADER_BYTES);
  return bytes;
}

/** The mirror of encodePacket, and whom it is from and to; null: it is no packet. */
export function decodePacket(bytes: Uint8Array): { packet: Packet; from: number; to: number } | null {
  if (bytes.length < PACKET_HEADER_BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const u32 = (at: number) => view.getUint32(at, true);
  const length = u32(24);
  if (length > PACKET_BYTES_MAX || PACKET_HEADER_BYTES + length > bytes.length) return null;
  const data = bytes.slice(PACKET_HEADER_BYTES, PACKET_HEADER_BYTES + length);
  const [type, operation] = [view.getUint16(28, true), view.getUint16(30, true)];
  const counts = { flags: u32(32), bufferBytes: u32(36), readBytes: u32(40) };
  const packet = { fromPort: u32(16), toPort: u32(20), type, operation, ...counts, data };
  return { packet, from: Number(view.getBigUint64(0, true)), to: Number(view.getBigUint64(8, true)) };
}

/** The host's end of a connection. None of it waits. */
export interface HostStream {
  /** How many of these bytes it has taken; null: it is gone. */
  write(bytes: Uint8Array): number | null;
  /** What there is, at most so much; nothing (null) yet; no bytes: it has ended. */
  read(bytesMax: number): Uint8Array | null;
  /** No more will be written to it. */
  end(): void;
  close(): void;
  /** The guest has taken the connection that this end wanted: at the guest's port `hostPort` is its number. */
  connected(hostPort: number): void;
}

interface Connection {
  hostPort: number;
  guestPort: number;
  stream: HostStream;
  /** The guest has not answered yet. */
  isAsked: boolean;
  /** From the guest, not taken by the stream yet. */
  waiting: Uint8Array[];
  waitingBytes: number;
  /** Of the guest's bytes the stream has taken, and what the guest was told of that. */
  takenBytes: number;
  toldBytes: number;
  /** To the guest; and what it has said of its own buffer. */
  sentBytes: number;
  guestBufferBytes: number;
  guestReadBytes: number;
  guestSendsNoMore: boolean;
  hostHasEnded: boolean;
  streamHasEnded: boolean;
}

/** All of a guest's connections, for one thread. */
export class Connections {
  readonly #connect: (port: number) => HostStream | null;
  readonly #all = new Map<string, Connection>();
  /** The guest has closed these; what it had said before is still to be taken. */
  readonly #draining = new Set<Connection>();
  /** Of the host, for the guest; and answers to what the guest has said. Both come before any data. */
  readonly #requests: Packet[] = [];
  readonly #answers: Packet[] = [];
  #nextPort = FIRST_HOST_PORT;

  /** `connect`: the guest wants this port of its host's; null: nobody is there. */
  constructor(connect: (port: number) => HostStream | null) {
    this.#connect = connect;
  }

  get size(): number {
    return this.#all.size + this.#draining.size;
  }

  /**
   * Of a connection: whether the guest can take something from it, whether it has to take something from the guest, and whether the
   * guest has not answered yet.
   */
  *streams(): Iterable<{ stream: HostStream; wantsRead: boolean; wantsWrite: boolean; isAsked: boolean }> {
    for (const one of this.#all.values())
      yield {
        stream: one.stream,
        wantsRead: !one.isAsked && !one.hostHasEnded && creditOf(one) > 0,
        wantsWrite: one.waitingBytes > 0,
        isAsked: one.isAsked,
      };
    for (const { stream } of this.#draining) yield { stream, wantsRead: false, wantsWrite: true, isAsked: false };
  }

  /** Who wanted a connection is gone before the guest has answered. */
  lose(stream: HostStream): void {
    for (const one of this.#all.values()) if (one.stream === stream) this.#break(one);
  }

  /** The host wants a port of its guest's. False: there are too many already. */
  open(guestPort: number, stream: HostStream): boolean {
    if (this.size >= CONNECTIONS_MAX) return false;
    const one = connection(this.#freePort(guestPort), guestPort, stream, true);
    this.#all.set(keyOf(one), one);
    this.#requests.push(this.#packet(one, OPERATION.request));
    return true;
  }

  #freePort(guestPort: number): number {
    do this.#nextPort = this.#nextPort >= 0xfffffffe ? FIRST_HOST_PORT : this.#nextPort + 1;
    while (this.#all.has(keyOf({ hostPort: this.#nextPort, guestPort })));
    return this.#nextPort;
  }

  /** The guest forgets what was before: every connection is gone. */
  clear(): void {
    for (const { stream } of [...this.#all.values(), ...this.#draining]) stream.close();
    this.#all.clear();
    this.#draining.clear();
    this.#answers.length = 0;
    this.#requests.length = 0;
  }

  /** So many answers wait for the guest: it gets them before it is listened to any further. */
  get answers(): number {
    return this.#answers.length;
  }

  /** What the guest says. */
  take(packet: Packet): void {
    const { fromPort: guestPort, toPort: hostPort, operation } = packet;
    const one = this.#all.get(keyOf({ hostPort, guestPort }));
    if (packet.type !== TYPE_STREAM) {
      if (operation !== OPERATION.reset) this.#refuse(packet);
      return;
    }
    if (!one) {
      if (operation === OPERATION.request) this.#accept(packet);
      else if (operation !== OPERATION.reset) this.#refuse(packet);
      return;
    }
    one.guestBufferBytes = packet.bufferBytes;
    one.guestReadBytes = packet.readBytes;
    switch (operation) {
      case OPERATION.response:
        if (!one.isAsked) this.#break(one);
        else {
          one.isAsked = false;
          one.stream.connected(hostPort);
        }
        return;
      case OPERATION.data:
        this.#takeData(one, packet.data);
        return;
      case OPERATION.shutdown:
        if (packet.flags & NO_MORE.sending) one.guestSendsNoMore = true;
        if (packet.flags & NO_MORE.receiving) one.hostHasEnded = true; // what it still has, nobody hears
        this.#settle(one);
        return;
      case OPERATION.reset:
        if (one.guestSendsNoMore && one.waitingBytes > 0) this.#drain(one);
        else this.#forget(one);
        return;
      case OPERATION.creditWanted:
        this.#answer(one, OPERATION.credit);
        return;
      case OPERATION.credit:
        return;
      default:
        this.#break(one);
    }
  }

  #accept(packet: Packet): void {
    const stream = this.size < CONNECTIONS_MAX ? this.#connect(packet.toPort) : null;
    if (!stream) {
      this.#refuse(packet);
      return;
    }
    const one = connection(packet.toPort, packet.fromPort, stream, false);
    one.guestBufferBytes = packet.bufferBytes;
    one.guestReadBytes = packet.readBytes;
    this.#all.set(keyOf(one), one);
    this.#answer(one, OPERATION.response);
  }

  #takeData(one: Connection, data: Uint8Array): void {
    // It was told how much there is room for.
    if (one.isAsked || one.guestSendsNoMore || one.waitingBytes + data.length > BUFFER_BYTES) {
      this.#break(one);
      return;
    }
    if (data.length === 0) return;
    const last = one.waiting.at(-1);
    if (last && last.length + data.length <= PIECE_BYTES) one.waiting[one.waiting.length - 1] = joined(last, data);
    else one.waiting.push(data);
    one.waitingBytes += data.length;
    this.#pass(one);
  }

  /** It has said all, and waits for no answer any more: its port may be used again. */
  #drain(one: Connection): void {
    this.#all.delete(keyOf(one));
    this.#draining.add(one);
  }

  #dry(one: Connection): void {
    this.#draining.delete(one);
    one.stream.close();
  }

  /** What the guest has said goes to the stream, as far as that takes it. */
  #pass(one: Connection): void {
    if (!give(one)) {
      this.#break(one);
      return;
    }
    // Before it believes that there is no room.
    if ((one.takenBytes - one.toldBytes) >>> 0 >= BUFFER_BYTES / 2) this.#answer(one, OPERATION.credit);
    this.#settle(one);
  }

  /** Ends what has come to its end. */
  #settle(one: Connection): void {
    if (!one.guestSendsNoMore || one.waitingBytes > 0) return;
    if (!one.streamHasEnded) one.stream.end();
    one.streamHasEnded = true;
    if (!one.hostHasEnded) return;
    this.#answer(one, OPERATION.reset);
    this.#forget(one);
  }

  /** The next packet for the guest, with at most so many bytes of what its streams have by now; null: there is nothing. */
  next(roomBytes: number): Packet | null {
    const answer = this.#answers.shift() ?? this.#requests.shift();
    if (answer) return answer;
    for (const one of this.#all.values()) {
      if (one.isAsked || one.hostHasEnded) continue;
      const bytesMax = Math.min(creditOf(one), roomBytes);
      const data = bytesMax > 0 ? one.stream.read(bytesMax) : null;
      if (data === null) continue;
      this.#all.delete(keyOf(one)); // behind the others: each has its turn
      this.#all.set(keyOf(one), one);
      if (data.length > 0) {
        one.sentBytes = (one.sentBytes + data.length) >>> 0;
        return this.#packet(one, OPERATION.data, 0, data);
      }
      one.hostHasEnded = true;
      const packet = this.#packet(one, OPERATION.shutdown, NO_MORE.sending);
      this.#settle(one);
      return packet;
    }
    return null;
  }

  /** What waits for streams is given to those that take something by now. */
  pass(): void {
    for (const one of [...this.#all.values()]) if (one.waitingBytes > 0) this.#pass(one);
    for (const one of [...this.#draining]) if (!give(one) || one.waitingBytes === 0) this.#dry(one);
  }

  #break(one: Connection): void {
    this.#answer(one, OPERATION.reset);
    this.#forget(one);
  }

  #forget(one: Connection): void {
    this.#all.delete(keyOf(one));
    one.stream.close();
  }

  #answer(one: Connection, operation: number): void {
    this.#answers.push(this.#packet(one, operation));
  }

  #packet(one: Connection, operation: number, flags = 0, data: Uint8Array = NO_BYTES): Packet {
    one.toldBytes = one.takenBytes;
    return {
      fromPort: one.hostPort,
      toPort: one.guestPort,
      type: TYPE_STREAM,
      operation,
      flags,
      bufferBytes: BUFFER_BYTES,
      readBytes: one.takenBytes,
      data,
    };
  }

  #refuse({ fromPort, toPort, type }: Packet): void {
    const nothing = { flags: 0, bufferBytes: 0, readBytes: 0, data: NO_BYTES };
    this.#answers.push({ fromPort: toPort, toPort: fromPort, type, operation: OPERATION.reset, ...nothing });
  }
}

/** What waits goes to the stream, as far as that takes it; false: it is gone. */
function give(one: Connection): boolean {
  while (one.waiting.length > 0) {
    const [first] = one.waiting;
    const taken = one.stream.write(first);
    if (taken === null) return false;
    one.waitingBytes -= taken;
    one.takenBytes = (one.takenBytes + taken) >>> 0;
    if (taken < first.length) {
      one.waiting[0] = first.subarray(taken);
      break;
    }
    one.waiting.shift();
  }
  return true;
}

function joined(one: Uint8Array, two: Uint8Array): Uint8Array {
  const both = new Uint8Array(one.length + two.length);
  both.set(one);
  both.set(two, one.length);
  return both;
}

const keyOf = ({ hostPort, guestPort }: Pick<Connection, "hostPort" | "guestPort">): string =>
  `${hostPort}:${guestPort}`;

/** Of the guest's buffer: what of it is free. */
const creditOf = (one: Connection): number =>
  Math.max(0, one.guestBufferBytes - ((one.sentBytes - one.guestReadBytes) >>> 0));

const connection = (hostPort: number, guestPort: number, stream: HostStream, isAsked: boolean): Connection => ({
  hostPort,
  guestPort,
  stream,
  isAsked,
  waiting: [],
  waitingBytes: 0,
  takenBytes: 0,
  toldBytes: 0,
  sentBytes: 0,
  guestBufferBytes: 0,
  guestReadBytes: 0,
  guestSendsNoMore: false,
  hostHasEnded: false,
  streamHasEnded: false,
});

/** Its registers. Its queues are another thread's. */
export class Vsock implements VirtioDevice {
  readonly id = 19;
  readonly features = 0n;
  readonly queueSizes = QUEUE_SIZES;
  readonly #words: Int32Array;
  readonly #cid: number;
  readonly #wake: () => void;

  /** `wake`: whoever deals with its queues is to look. */
  constructor(words: Int32Array, cid: number, wake: () => void) {
    this.#words = words;
    this.#cid = cid;
    this.#wake = wake;
  }

  readConfig(at: number, bytes: number): number {
    return at === 0 && bytes === 4 ? this.#cid : 0;
  }

  writeConfig(): void {}

  serve(): boolean {
    this.#wake();
    return false;
  }

  /** Its connections are gone with it. */
  reset(): void {
    Atomics.add(this.#words, VSOCK_WORD.epoch, 1);
    this.#wake();
  }
}

export const VSOCK_WORD = {
  /** Counts on with each reset. */
  epoch: 0,
  /** The guest is to be told that all connections are gone. */
  resetDue: 1,
} as const;
export const VSOCK_WORDS = 2;

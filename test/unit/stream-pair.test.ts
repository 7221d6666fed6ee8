import { afterAll, describe, expect, test } from "bun:test";
import type { DeviceState, Guest } from "../../src/control/guest.ts";
import { TramError } from "../../src/errors.ts";
import { PAGE_BYTES, Ram } from "../../src/native/ram.ts";
import { StreamReader } from "../../src/reader/stream.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { DEVICE_TABLES } from "../../src/stream/devices/index.ts";
import { RAM_BLOCK_NAME } from "../../src/stream/devices/machine.ts";
import { serial } from "../../src/stream/devices/ports.ts";
import { kvmclock } from "../../src/stream/devices/x86.ts";
import { decodeBlockTable, decodePageWord, encodeFirstPage } from "../../src/stream/ram.ts";
import type { Hello } from "../../src/stream/return-path.ts";
import {
  decodeCommand,
  decodeFooter,
  decodeHeader,
  decodeSectionPart,
  decodeSectionStart,
} from "../../src/stream/section.ts";
import { loadState, type State } from "../../src/stream/vmstate.ts";
import {
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
} from "../../src/stream/wire.ts";
import type { PageRecords, Transport } from "../../src/transport/transport.ts";
import { WriteOnly } from "../../src/transport/write-only.ts";
import { StreamWriter } from "../../src/writer/stream.ts";

type Random = (below: number) => number;

function seeded(seed: number): Random {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Bytes on their way in one direction. */
class Queue {
  #chunks: Uint8Array[] = [];
  #ends = 0;

  put(bytes: Uint8Array): void {
    if (bytes.length) this.#chunks.push(bytes.slice());
  }

  /** At most `limit` bytes; 0 when there are none. Whoever reads on and on after that would hang on a real channel. */
  take(out: Uint8Array, limit: number): number {
    const chunk = this.#chunks[0];
    if (!chunk) {
      if (++this.#ends > 100) throw new Error("read again and again after the end");
      return 0;
    }
    const count = Math.min(chunk.length, out.length, limit);
    out.set(chunk.subarray(0, count));
    if (count === chunk.length) this.#chunks.shift();
    else this.#chunks[0] = chunk.subarray(count);
    return count;
  }

  all(): Uint8Array {
    return Buffer.concat(this.#chunks);
  }
}

/** One end of a channel in memory. Its writePages is the plainest there can be. */
class MemoryEnd implements Transport {
  readonly name = "memory";
  readonly twoWay: boolean;
  readonly #out: Queue;
  readonly #in: Queue;
  readonly #pieceBytes: () => number;

  constructor(out: Queue, into: Queue, twoWay: boolean, pieceBytes: () => number) {
    this.#out = out;
    this.#in = into;
    this.twoWay = twoWay;
    this.#pieceBytes = pieceBytes;
  }

  write(data: Uint8Array, bytes = data.length): void {
    this.#out.put(data.subarray(0, bytes));
  }
  writePages({ ram, head, headBytes, words, index, count }: PageRecords): number {
    const parts: Uint8Array[] = [head.subarray(0, headBytes)];
    for (let i = 0; i < count; i++) {
      if (i > 0) parts.push(words.subarray(8 * i, 8 * i + 8));
      parts.push(ram.read(index[i] * PAGE_BYTES, PAGE_BYTES));
    }
    const bytes = Buffer.concat(parts);
    this.#out.put(bytes);
    return bytes.length;
  }
  read(out: Uint8Array): number {
    return this.#in.take(out, this.#pieceBytes());
  }
  drain(): boolean {
    return true;
  }
  close(): void {}
}

const rams: Ram[] = [];
afterAll(() => {
  for (const ram of rams) ram.destroy();
});

function createRam(pages: number): Ram {
  const ram = Ram.create(pages * PAGE_BYTES);
  rams.push(ram);
  return ram;
}

const ZERO = new Uint8Array(PAGE_BYTES);

/** A third zero, a third with one byte set at a random place, a third random. */
function randomPage(random: Random): Uint8Array {
  const page = new Uint8Array(PAGE_BYTES);
  const kind = random(3);
  if (kind === 1) page[random(PAGE_BYTES)] = 1 + random(255);
  else if (kind === 2) for (let i = 0; i < PAGE_BYTES; i++) page[i] = random(256);
  return page;
}

const HELLO: Hello = { version: 1, name: "there", memoryBytes: null, cpus: null, cpuid: [] };
const CLOCK_STATE: State = { clock: 0x1122334455667788n };
const SERIAL_STATE: State = { divider: 12, rbr: 0, ier: 1, iir: 2, lcr: 3, mcr: 4, lsr: 5, msr: 6, scr: 7, fcr: 8 };
const DEVICES: DeviceState[] = [
  { table: serial, instance: 0, state: SERIAL_STATE },
  { table: kvmclock, instance: 3, state: CLOCK_STATE },
];

interface Plan {
  seed: number;
  pages: number;
  rounds: number;
  twoWay?: boolean;
  writeOnly?: boolean;
}

/** Plays a move of random pages in random batches; the same plan is the same move. */
class Move {
  readonly random: Random;
  readonly source: Ram;
  readonly there = new Queue();
  readonly back = new Queue();
  readonly writer: StreamWriter;
  readonly #plan: Plan;

  constructor(plan: Plan) {
    this.#plan = plan;
    this.random = seeded(plan.seed);
    this.source = createRam(plan.pages);
    const end = new MemoryEnd(this.there, this.back, plan.twoWay ?? false, () => 1 + (plan.seed % 7));
    this.writer = new StreamWriter(plan.writeOnly ? new WriteOnly(end) : end, this.source);
  }

  machine(): void {
    const { pages } = this.#plan;
    this.writer.machine({
      name: "twin",
      memoryBytes: pages * PAGE_BYTES,
      cpus: 2,
      tscKhz: 1_000_000,
      walker: false,
      balloon: false,
      pc: false,
      vsock: false,
      console: false,
      mac: null,
      disks: [],
      cpuid: [],
    });
    this.writer.startRam([{ name: RAM_BLOCK_NAME, bytes: this.source.bytes }]);
  }

  /** Every round changes some pages and sends these; the first sends all. */
  rounds(): void {
    const { pages, rounds } = this.#plan;
    for (let round = 0; round < rounds; round++) {
      const changed = Array.from({ length: pages }, (_, page) => page).filter(
        () => round === 0 || this.random(3) === 0,
      );
      for (const page of changed) this.source.write(page * PAGE_BYTES, randomPage(this.random));
      for (let i = changed.length - 1; i > 0; i--) {
        const j = this.random(i + 1);
        [changed[i], changed[j]] = [changed[j], changed[i]];
      }
      this.writer.beginRound(round === rounds - 1);
      for (let at = 0; at < changed.length; ) {
        const batch = changed.slice(at, at + 1 + this.random(50));
        this.writer.write(Uint32Array.from(batch), batch.length);
        at += batch.length;
      }
      this.writer.endRound();
    }
  }

  /** The whole one-way stream. */
  bytes(): Uint8Array {
    this.writer.begin();
    this.machine();
    this.rounds();
    this.writer.devices(DEVICES, "running");
    this.writer.handOver();
    return this.there.all();
  }
}

interface Outcome {
  ram: Ram | null;
  devices: DeviceState[];
  runState: string;
  reader: StreamReader;
}

/** Takes what the reader has until `until`; makes the guest when it is asked for one of `pages`. */
class Target {
  readonly outcome: Outcome;
  readonly #pages: number;

  constructor(channel: Transport, pages: number) {
    this.#pages = pages;
    this.outcome = { ram: null, devices: [], runState: "", reader: new StreamReader(channel) };
  }

  run(until: "hello-wanted" | "ready-wanted" | "end"): Outcome {
    const { outcome } = this;
    const { reader } = outcome;
    for (;;) {
      const incoming = reader.next();
      if (incoming.kind === "hello-wanted") reader.sendHello(HELLO);
      else if (incoming.kind === "ready-wanted") reader.sendReady();
      else if (incoming.kind === "machine") {
        const { memoryBytes } = incoming.description;
        if (memoryBytes !== this.#pages * PAGE_BYTES)
          throw new TramError("E_STREAM", `another machine: ${memoryBytes} bytes`);
        outcome.ram = createRam(this.#pages);
        reader.into({ ram: outcome.ram } as unknown as Guest);
      } else if (incoming.kind === "device") outcome.devices.push(incoming.device);
      else if (incoming.kind === "run-state") outcome.runState = incoming.runState;
      if (incoming.kind === until) return outcome;
    }
  }
}

function play(bytes: Uint8Array, pages: number, pieceBytes: () => number = () => 1 << 20): Outcome {
  const queue = new Queue();
  queue.put(bytes);
  return new Target(new MemoryEnd(new Queue(), queue, false, pieceBytes), pages).run("end");
}

/** The error that reading these bytes ends with; null if it ends well. */
function errorOf(bytes: Uint8Array, pages: number): unknown {
  const before = rams.length;
  try {
    play(bytes, pages);
    return null;
  } catch (error) {
    return error;
  } finally {
    for (const ram of rams.splice(before)) ram.destroy();
  }
}

const content = (ram: Ram): Uint8Array => ram.read(0, ram.bytes);
const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** Where the records of a one-way stream begin, where its end lies, and which bytes are page contents. */
function survey(bytes: Uint8Array): { boundaries: number[]; end: number; isContent: Uint8Array } {
  const source = new ByteReader(bytes);
  const boundaries = [0];
  const isContent = new Uint8Array(bytes.length);
  decodeHeader(source);
  for (;;) {
    boundaries.push(source.offset);
    const type = source.u8();
    if (type === 0) return { boundaries, end: source.offset, isContent };
    if (type === 8) {
      decodeCommand(source);
      continue;
    }
    const header =
      type === 1 || type === 4 ? decodeSectionStart(source) : { id: decodeSectionPart(source), name: "ram" };
    if (type === 4) loadState(DEVICE_TABLES.get(header.name)!, source);
    else
      for (;;) {
        boundaries.push(source.offset);
        const { flag, page, continues } = decodePageWord(source.u32(), source.u32(), source.offset);
        if (flag === RAM_SAVE_FLAG_EOS) break;
        if (flag === RAM_SAVE_FLAG_MEM_SIZE) {
          decodeBlockTable(source, page * PAGE_BYTES);
          continue;
        }
        if (!continues) source.pstr();
        const length = flag === RAM_SAVE_FLAG_PAGE ? PAGE_BYTES : 1;
        if (flag === RAM_SAVE_FLAG_PAGE) isContent.fill(1, source.offset, source.offset + length);
        source.bytes(length);
      }
    boundaries.push(source.offset);
    decodeFooter(source, header.id, header.name);
  }
}

describe("a stream from writer to reader", () => {
  const plans: Plan[] = [
    { seed: 1, pages: 1, rounds: 1 },
    { seed: 2, pages: 3, rounds: 2 },
    { seed: 3, pages: 129, rounds: 3 },
    { seed: 4, pages: 500, rounds: 4 },
    { seed: 5, pages: 2048, rounds: 2 },
    { seed: 6, pages: 64, rounds: 12 },
    { seed: 13, pages: 5000, rounds: 3 },
  ];

  test.each(plans)("makes the target's RAM that of the source: $pages pages, $rounds rounds, seed $seed", (plan) => {
    const move = new Move(plan);
    const bytes = move.bytes();
    expect(move.writer.bytes).toBe(bytes.length);
    const pieces = seeded(plan.seed + 1000);
    const { ram, reader } = play(bytes, plan.pages, () => 1 + pieces(20_000));
    expect(sameBytes(content(ram!), content(move.source))).toBe(true);
    expect(reader.received.pages + reader.received.zeroPages).toBeGreaterThanOrEqual(plan.pages);
  });

  test("does not depend on the pieces in which the bytes arrive", () => {
    const bytes = new Move({ seed: 7, pages: 40, rounds: 2 }).bytes();
    const whole = content(play(bytes, 40).ram!);
    for (const piece of [1, 7, 8, 9, 4095, 4096, 4097, 4104])
      expect([piece, sameBytes(content(play(bytes, 40, () => piece).ram!), whole)]).toEqual([piece, true]);
  });

  test.each(plans)("is the same through a transport that can only write: $pages pages, seed $seed", (plan) => {
    const uncopied = new Move(plan).bytes();
    const copied = new Move({ ...plan, writeOnly: true }).bytes();
    expect(sameBytes(copied, uncopied)).toBe(true);
  });

  test("carries devices and run state", () => {
    const { devices, runState } = play(new Move({ seed: 8, pages: 2, rounds: 1 }).bytes(), 2);
    expect(devices).toEqual(DEVICES);
    expect(runState).toBe("running");
  });

  test("sends a page that became zero, and the page that became something else, as they are last", () => {
    const move = new Move({ seed: 9, pages: 2, rounds: 1 });
    const some = new Uint8Array(PAGE_BYTES).fill(7);
    const { source, writer } = move;
    writer.begin();
    move.machine();
    source.write(0, some);
    const both = () => writer.write(new Uint32Array([0, 1]), 2);
    writer.beginRound(false);
    expect(both()).toMatchObject({ pages: 1, zeroPages: 1 });
    source.write(0, ZERO);
    source.write(PAGE_BYTES, some);
    expect(both()).toMatchObject({ pages: 1, zeroPages: 1 });
    writer.endRound();
    writer.devices([], "paused");
    writer.handOver();
    const { ram } = play(move.there.all(), 2);
    expect(sameBytes(content(ram!), content(source))).toBe(true);
  });

  test("tells of untouched pages", () => {
    const move = new Move({ seed: 12, pages: 80, rounds: 0 });
    move.writer.begin();
    move.machine();
    move.writer.untouched([
      { first: 0, pages: 30 },
      { first: 30, pages: 1 },
      { first: 79, pages: 1 },
    ]);
    move.writer.handOver();
    expect(play(move.there.all(), 80).reader.pagesKnown()).toBe(32);
  });

  test.each([
    ["overlap", [0, 30, 29, 2]],
    ["come twice", [0, 30, 0, 30]],
    ["go backwards", [30, 1, 0, 1]],
    ["are empty", [0, 0]],
    ["end outside", [79, 2]],
    ["are huge", [1, 0xffffffff]],
  ])("is refused where untouched ranges %s", (_, numbers) => {
    const move = new Move({ seed: 13, pages: 80, rounds: 0 });
    move.writer.begin();
    move.machine();
    const ranges = [];
    for (let i = 0; i < numbers.length; i += 2) ranges.push({ first: numbers[i], pages: numbers[i + 1] });
    move.writer.untouched(ranges);
    move.writer.handOver();
    expect(errorOf(move.there.all(), 80)).toMatchObject({
      code: "E_STREAM",
      message: expect.stringContaining("untouched pages"),
    });
  });

  test("greets, asks and confirms on a two-way channel", () => {
    const move = new Move({ seed: 10, pages: 80, rounds: 3, twoWay: true });
    const target = new Target(new MemoryEnd(move.back, move.there, true, () => 1 << 20), 80);
    move.writer.begin();
    target.run("hello-wanted");
    expect(move.writer.awaitHello(1000)).toEqual(HELLO);
    move.machine();
    move.rounds();
    move.writer.devices(DEVICES, "running");
    target.run("ready-wanted");
    move.writer.awaitReady(1000);
    move.writer.handOver();
    target.run("end").reader.confirm(1.25);
    expect(move.writer.awaitConfirmation(1000)).toEqual({ startedAfterMs: 1.25 });
    expect(sameBytes(content(target.outcome.ram!), content(move.source))).toBe(true);
  });

  test("tells the source why the target refuses", () => {
    const move = new Move({ seed: 11, pages: 1, rounds: 1, twoWay: true });
    const target = new Target(new MemoryEnd(move.back, move.there, true, () => 1 << 20), 1);
    move.writer.begin();
    target.run("hello-wanted");
    move.writer.awaitHello(1000);
    target.outcome.reader.refuse({ message: "no room", code: "E_REFUSED", found: "none", next: "make some" });
    const closed = new TramError("E_CHANNEL_CLOSED", "closed");
    expect(move.writer.explain(closed)).toMatchObject({
      code: "E_REFUSED",
      message: "the target refuses the guest: no room",
      details: { found: "none", next: "there, and start it again: make some" },
    });
  });
});

test("a target that goes on talking does not keep the source from its error", () => {
  const move = new Move({ seed: 14, pages: 1, rounds: 1, twoWay: true });
  const pong = Uint8Array.of(0, 2, 0, 4, 0, 0, 0, 0);
  const talking = { name: "talking", twoWay: true, write() {}, drain: () => true, close() {} } as unknown as Transport;
  let left = 100;
  talking.read = (out) => {
    if (left-- === 0) throw new TramError("E_INTERNAL", "it was listened to for too long");
    Bun.sleepSync(20);
    out.set(pong);
    return pong.length;
  };
  const startedMs = performance.now();
  const closed = new TramError("E_CHANNEL_CLOSED", "channel 0: closed");
  expect(new StreamWriter(talking, move.source).explain(closed)).toBe(closed);
  expect(performance.now() - startedMs).toBeLessThan(1500);
});

describe("a stream that is cut off", () => {
  const SEED = 21;
  const PAGES = 60;
  const bytes = new Move({ seed: SEED, pages: PAGES, rounds: 3 }).bytes();
  const { boundaries, end } = survey(bytes);
  const random = seeded(SEED);
  const offsets = [...new Set([...boundaries, ...Array.from({ length: 200 }, () => random(end))])];

  test("is whole when nothing is cut", () => {
    expect(errorOf(bytes.subarray(0, end), PAGES)).toBeNull();
  });

  test(`is an error at ${boundaries.length} record boundaries and 200 random offsets, seed ${SEED}`, () => {
    const wrong = offsets
      .map((offset) => ({ offset, error: errorOf(bytes.subarray(0, offset), PAGES) }))
      .filter(({ error }) => !(error instanceof TramError) || !["E_STREAM", "E_STREAM_TRUNCATED"].includes(error.code));
    expect(wrong).toEqual([]);
  });
});

describe("a stream of records by hand", () => {
  const PAGES = 60;
  const LIMIT_MS = 2000;
  const bytes = new Move({ seed: 31, pages: PAGES, rounds: 2 }).bytes();
  const { end, isContent } = survey(bytes);
  const places = Array.from({ length: end }, (_, at) => at).filter((at) => !isContent[at]);

  test("ends well or in an error that says so, soon, for 300 mutations, seeds 1 to 300", () => {
    const outcomes: Record<string, number> = {};
    for (let seed = 1; seed <= 300; seed++) {
      const random = seeded(seed);
      const mutant = bytes.slice();
      for (let n = random(3); n >= 0; n--) mutant[places[random(places.length)]] ^= 1 + random(255);
      const startedMs = performance.now();
      const error = errorOf(mutant, PAGES);
      const code = error === null ? "none" : error instanceof TramError ? error.code : String(error);
      if (!["none", "E_STREAM", "E_STREAM_TRUNCATED"].includes(code)) throw new Error(`seed ${seed}: ${code}`);
      if (performance.now() - startedMs > LIMIT_MS) throw new Error(`seed ${seed}: took over ${LIMIT_MS} ms`);
      outcomes[code] = (outcomes[code] ?? 0) + 1;
    }
    // Most of what can be changed is checked: page numbers within the guest's memory and device state are not.
    expect(outcomes.E_STREAM).toBeGreaterThan(100);
  });

  /** The stream as it is before its first page record, then `records`. */
  function withRecords(records: (out: ByteWriter) => void): Uint8Array {
    const move = new Move({ seed: 32, pages: PAGES, rounds: 0 });
    move.writer.begin();
    move.machine();
    move.writer.beginRound(false);
    move.writer.endRound();
    const whole = move.there.all();
    const out = new ByteWriter();
    out.bytes(whole.subarray(0, whole.length - 13)); // without the round's EOS and footer
    records(out);
    return out.done();
  }

  const page = (out: ByteWriter, index: number, flag = RAM_SAVE_FLAG_PAGE) => {
    encodeFirstPage(out, flag, index, RAM_BLOCK_NAME);
    out.bytes(new Uint8Array(flag === RAM_SAVE_FLAG_PAGE ? PAGE_BYTES : 1).fill(0));
  };
  const good = (out: ByteWriter) => page(out, PAGES - 1);

  test.each<[string, (out: ByteWriter) => void, string]>([
    ["a page just behind the guest's memory", (out) => page(out, PAGES), "outside of block 'ram'"],
    ["a zero page just behind it", (out) => page(out, PAGES, RAM_SAVE_FLAG_ZERO), "outside of block 'ram'"],
    ["page 2^32, which 32 bits would make 0", (out) => page(out, 2 ** 32), "outside of block 'ram'"],
    ["page 2^40 - 1", (out) => page(out, 2 ** 40 - 1), "outside of block 'ram'"],
    [
      "an offset of 2^52",
      (out) =>
        out
          .u32(1 << 20)
          .u32(RAM_SAVE_FLAG_PAGE)
          .pstr(RAM_BLOCK_NAME),
      "outside all memory",
    ],
    ["a page of another block", (out) => encodeFirstPage(out, RAM_SAVE_FLAG_PAGE, 0, "rom"), "unknown block"],
    [
      "a zero page that is filled",
      (out) => encodeFirstPage(out, RAM_SAVE_FLAG_ZERO, 0, RAM_BLOCK_NAME),
      "another fill byte",
    ],
    ["a record with two kinds", (out) => out.size(RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_ZERO), "unknown record"],
    ["a compressed page that is none", (out) => out.size(0x100).pstr("ram").u32(3).u8(1).u8(2).u8(3), "cannot be read"],
    ["changes in an unknown encoding", (out) => out.size(0x40).pstr("ram").u8(2).u16(1).u8(0), "unknown way"],
    ["a second block table", (out) => out.size(4096 | 4), "a second table"],
  ])("refuses %s and says where", (_, record, message) => {
    const bytesBefore = withRecords(good).length;
    const error = errorOf(
      withRecords((out) => {
        good(out);
        record(out);
        out.bytes(new Uint8Array(64).fill(1));
      }).slice(),
      PAGES,
    );
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    const where = Number(/byte (\d+)/.exec((error as TramError).details.where ?? "")?.[1]);
    expect(where).toBeGreaterThanOrEqual(bytesBefore);
    expect(where).toBeLessThanOrEqual(bytesBefore + 16);
  });

  test("refuses a first page that names no block", () => {
    const error = errorOf(
      withRecords((out) => out.size(RAM_SAVE_FLAG_PAGE | 0x20).bytes(ZERO)),
      PAGES,
    );
    expect(error).toMatchObject({ code: "E_STREAM", message: "the first page names no block" });
  });

  test.each(Array.from({ length: 30 }, (_, i) => i + 1))("places the last of a page's records, seed %d", (seed) => {
    const random = seeded(seed);
    const expected = new Uint8Array(PAGES * PAGE_BYTES);
    const stream = withRecords((out) => {
      for (let n = 2 + random(60); n > 0; n--) {
        const index = random(4);
        const fill = random(2) * (1 + random(255));
        encodeFirstPage(out, fill ? RAM_SAVE_FLAG_PAGE : RAM_SAVE_FLAG_ZERO, index, RAM_BLOCK_NAME);
        out.bytes(new Uint8Array(fill ? PAGE_BYTES : 1).fill(fill));
        expected.fill(fill, index * PAGE_BYTES, (index + 1) * PAGE_BYTES);
      }
      out.size(RAM_SAVE_FLAG_EOS).u8(0x7e).u32(1); // the section's end, and its footer
      out.u8(0);
    });
    expect(sameBytes(content(play(stream, PAGES).ram!), expected)).toBe(true);
  });

  test("is refused before the page after a good one is written", () => {
    const some = new Uint8Array(PAGE_BYTES).fill(9);
    const stream = withRecords((out) => {
      encodeFirstPage(out, RAM_SAVE_FLAG_PAGE, 1, RAM_BLOCK_NAME);
      out.bytes(some);
      encodeFirstPage(out, RAM_SAVE_FLAG_PAGE, PAGES + 1, RAM_BLOCK_NAME);
      out.bytes(some);
    });
    const queue = new Queue();
    queue.put(stream);
    const target = new Target(new MemoryEnd(new Queue(), queue, false, () => 1 << 20), PAGES);
    expect(() => target.run("end")).toThrow("outside of block 'ram'");
    const expected = new Uint8Array(PAGES * PAGE_BYTES);
    const found = content(target.outcome.ram!);
    found.fill(0, PAGE_BYTES, 2 * PAGE_BYTES); // the good page may have been written or not
    expect(sameBytes(found, expected)).toBe(true);
  });
});

import { describe, expect, test } from "bun:test";
import { SERIAL_WORDS, Serial } from "../../src/machine/devices/serial.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { serial as table } from "../../src/stream/devices/ports.ts";
import { loadState, saveState } from "../../src/stream/vmstate.ts";

/** Ports of a 16550, in the order of its data sheet. */
const [DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 3, 4, 5, 6, 7];
const LATCH = 0x80;

function create(): { port: Serial; words: Int32Array; sent: number[]; line: boolean[] } {
  const words = new Int32Array(new SharedArrayBuffer(SERIAL_WORDS * 4));
  Serial.reset(words);
  const sent: number[] = [];
  const line: boolean[] = [];
  const port = new Serial(
    words,
    (byte) => sent.push(byte),
    (on) => line.push(on),
  );
  return { port, words, sent, line };
}

type Write = [port: number, value: number];

describe("a serial port", () => {
  test.each<{ what: string; writes: Write[]; port: number; value: number }>([
    { what: "after reset: nothing received", writes: [], port: DATA, value: 0 },
    { what: "after reset: no interrupt enabled", writes: [], port: IER, value: 0 },
    { what: "after reset: no interrupt pending, no FIFO", writes: [], port: IIR_FCR, value: 0x01 },
    { what: "after reset: 5 bits, no latch", writes: [], port: LCR, value: 0 },
    { what: "after reset: OUT2", writes: [], port: MCR, value: 0x08 },
    { what: "after reset: the transmitter is empty", writes: [], port: LSR, value: 0x60 },
    { what: "after reset: the other side is there", writes: [], port: MSR, value: 0xb0 },
    { what: "after reset: an empty scratch register", writes: [], port: SCR, value: 0 },
    { what: "the scratch register holds a byte", writes: [[SCR, 0xa5]], port: SCR, value: 0xa5 },
    { what: "four interrupts can be enabled", writes: [[IER, 0xff]], port: IER, value: 0x0f },
    { what: "the line control holds a byte", writes: [[LCR, 0x1b]], port: LCR, value: 0x1b },
    { what: "the modem control has five bits", writes: [[MCR, 0xff]], port: MCR, value: 0x1f },
    { what: "FIFOs show in the interrupt register", writes: [[IIR_FCR, 0x01]], port: IIR_FCR, value: 0xc1 },
    {
      what: "and go when they are disabled",
      writes: [
        [IIR_FCR, 0x01],
        [IIR_FCR, 0x00],
      ],
      port: IIR_FCR,
      value: 0x01,
    },
    { what: "resetting FIFOs is no enabling", writes: [[IIR_FCR, 0x06]], port: IIR_FCR, value: 0x01 },
    { what: "the line status is not written", writes: [[LSR, 0x00]], port: LSR, value: 0x60 },
    { what: "the modem status is not written", writes: [[MSR, 0x00]], port: MSR, value: 0xb0 },
    { what: "the divisor is 12 after reset: 9600 baud", writes: [[LCR, LATCH]], port: DATA, value: 12 },
    { what: "its high byte is 0", writes: [[LCR, LATCH]], port: IER, value: 0 },
    {
      what: "its low byte is written behind the latch",
      writes: [
        [LCR, LATCH],
        [DATA, 0x34],
        [IER, 0x12],
      ],
      port: DATA,
      value: 0x34,
    },
    {
      what: "and its high byte",
      writes: [
        [LCR, LATCH],
        [DATA, 0x34],
        [IER, 0x12],
      ],
      port: IER,
      value: 0x12,
    },
    {
      what: "in any order",
      writes: [
        [LCR, LATCH],
        [IER, 0xff],
        [DATA, 0x01],
      ],
      port: IER,
      value: 0xff,
    },
    {
      what: "the latch hides the interrupt enables and keeps them",
      writes: [
        [IER, 5],
        [LCR, LATCH],
        [IER, 9],
        [LCR, 3],
      ],
      port: IER,
      value: 5,
    },
    {
      what: "the latch hides received data",
      writes: [
        [LCR, LATCH],
        [LCR, 0],
      ],
      port: DATA,
      value: 0,
    },
  ])("$what", ({ writes, port, value }) => {
    const { port: device } = create();
    for (const [at, byte] of writes) device.write(at, byte);
    expect(device.read(port)).toBe(value);
  });

  test("sends what is written to its data port, but not the divisor", () => {
    const { port, sent } = create();
    port.write(DATA, 0x41);
    port.write(LCR, LATCH);
    port.write(DATA, 0x42);
    port.write(LCR, 0x03);
    port.write(DATA, 0xff);
    expect(sent).toEqual([0x41, 0xff]);
  });

  test("is ready for the next byte at once", () => {
    const { port, sent } = create();
    for (let byte = 0; byte < 256; byte++) {
      expect(port.read(LSR) & 0x60).toBe(0x60);
      port.write(DATA, byte);
    }
    expect(sent).toEqual(Array.from({ length: 256 }, (_, byte) => byte));
  });

  test("has a byte once", () => {
    const { port, words } = create();
    Serial.load(words, { ...Serial.save(words), rbr: 0x5a, lsr: 0x61 });
    expect(port.read(LSR)).toBe(0x61);
    expect(port.read(DATA)).toBe(0x5a);
    expect(port.read(LSR)).toBe(0x60);
  });

  test("is the same port on the other side of a stream", () => {
    const source = create();
    for (const [at, value] of [
      [LCR, LATCH],
      [DATA, 0xcd],
      [IER, 0xab],
      [LCR, 0x1f],
      [IER, 7],
      [MCR, 0x13],
      [SCR, 0x99],
      [IIR_FCR, 0xc1],
    ])
      source.port.write(at, value);
    const out = new ByteWriter();
    saveState(table, Serial.save(source.words), out);
    const target = create();
    Serial.load(target.words, loadState(table, new ByteReader(out.done())));
    expect(target.words).toEqual(source.words);
    const registers = (port: Serial) => Array.from({ length: 8 }, (_, at) => port.read(at));
    expect(registers(target.port)).toEqual(registers(source.port));
    expect(target.port.read(IIR_FCR)).toBe(0xc1);
    target.port.write(LCR, LATCH);
    expect([target.port.read(DATA), target.port.read(IER)]).toEqual([0xcd, 0xab]);
    expect(target.sent).toEqual([]);
  });
});

describe("its interrupt", () => {
  const NONE = 1;
  const EMPTY = 2;
  const RECEIVED = 4;
  const bytes = (...values: number[]) => Uint8Array.from(values);

  test("comes when it may send more, and goes when it was asked why", () => {
    const { port, line } = create();
    port.write(DATA, 65); // nobody wants to know
    expect(line).toEqual([]);
    port.write(IER, 2);
    expect(line).toEqual([true]);
    expect(port.read(IIR_FCR)).toBe(EMPTY);
    expect(line).toEqual([true, false]);
    expect(port.read(IIR_FCR)).toBe(NONE);
    port.write(DATA, 66);
    port.write(DATA, 67);
    expect(line).toEqual([true, false, true]);
    port.write(IER, 0);
    expect(line).toEqual([true, false, true, false]);
    port.write(IER, 2); // switched on while it is empty
    expect(line.at(-1)).toBe(true);
  });

  test("comes with bytes, before anything else, and goes with the last of them", () => {
    const { port, line } = create();
    port.write(IER, 3);
    port.read(IIR_FCR);
    expect(port.receive(bytes(1, 2))).toBe(2);
    port.write(DATA, 65);
    expect(port.read(IIR_FCR)).toBe(RECEIVED);
    expect(port.read(IIR_FCR)).toBe(RECEIVED); // asking takes nothing away
    expect([port.read(LSR) & 1, port.read(DATA), port.read(LSR) & 1, port.read(DATA), port.read(LSR) & 1]).toEqual([
      1, 1, 1, 2, 0,
    ]);
    expect(port.read(IIR_FCR)).toBe(EMPTY);
    expect(line).toEqual([true, false, true, false]);
    expect(port.read(DATA)).toBe(2); // nothing new
  });

  test("has room for sixteen bytes, until they are read or thrown away", () => {
    const { port } = create();
    const many = Uint8Array.from({ length: 20 }, (_, i) => i);
    expect([port.receive(many), port.receive(many)]).toEqual([16, 0]);
    expect(port.read(DATA)).toBe(0);
    expect(port.receive(bytes(99))).toBe(1);
    expect(Array.from({ length: 16 }, () => port.read(DATA))).toEqual([...many.subarray(1, 16), 99]);
    port.receive(many);
    port.write(IIR_FCR, 0x03);
    expect(port.read(LSR) & 1).toBe(0);
  });

  test("and what has come travel with it", () => {
    const { port, words } = create();
    port.write(IER, 3);
    port.receive(bytes(7, 8, 9));
    const there = create();
    Serial.load(there.words, Serial.save(words));
    Serial.loadMore(there.words, Serial.saveMore(words));
    expect(there.words).toEqual(words);
    expect([there.port.read(IIR_FCR), there.port.read(DATA), there.port.read(DATA), there.port.read(DATA)]).toEqual([
      RECEIVED,
      7,
      8,
      9,
    ]);
    expect(there.port.read(IIR_FCR)).toBe(EMPTY);
  });
});

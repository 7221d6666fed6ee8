import { describe, expect, test } from "bun:test";
import { SERIAL_WORDS, Serial } from "../../src/machine/devices/serial.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { serial as table } from "../../src/stream/devices/ports.ts";
import { loadState, saveState } from "../../src/stream/vmstate.ts";

/** Ports of a 16550, in the order of its data sheet. */
const [DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 3, 4, 5, 6, 7];
const LATCH = 0x80;

function create(): { port: Serial; words: Int32Array; sent: number[] } {
  const words = new Int32Array(new SharedArrayBuffer(SERIAL_WORDS * 4));
  Serial.reset(words);
  const sent: number[] = [];
  return { port: new Serial(words, (byte) => sent.push(byte)), words, sent };
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

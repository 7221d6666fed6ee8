// A 16550 serial port at 0x3f8: what is written goes out at once, so the transmitter is always empty.
// Its registers live in shared memory, so that whichever vCPU took the exit can run it, and saving is reading them.
// Source of the register meanings: the PC16550D data sheet.
import type { State } from "../../stream/vmstate.ts";

export const SERIAL_PORT = 0x3f8;
export const SERIAL_PORTS = 8;
export const SERIAL_LINE = 4;

const REG = { divider: 0, rbr: 1, ier: 2, iir: 3, lcr: 4, mcr: 5, lsr: 6, msr: 7, scr: 8, fcr: 9 } as const;
/** The transmitter has become empty, and the guest has not been told. */
const EMPTIED = 10;
/** Bytes that have come and were not read: how many, and each. */
const RECEIVED = 11;
export const SERIAL_RECEIVED_MAX = 16;
export const SERIAL_WORDS = RECEIVED + 1 + SERIAL_RECEIVED_MAX;

const IER_DATA = 0x01;
const IER_EMPTY = 0x02;
const IIR_EMPTY = 0x02;
const IIR_DATA = 0x04;

const LCR_DIVISOR_LATCH = 0x80;
const LSR_EMPTY = 0x60; // transmitter and holding register
const LSR_DATA_READY = 0x01;
const IIR_NONE = 0x01;
const IIR_FIFOS = 0xc0;
const MSR_CONNECTED = 0xb0; // carrier, data set ready, clear to send
const FCR_ENABLE = 0x01;
const FCR_CLEAR_RECEIVED = 0x02;
const RESET_DIVIDER = 12; // 9600 baud

export class Serial {
  readonly #reg: Int32Array;
  readonly #put: (byte: number) => void;
  readonly #setInterrupt: (on: boolean) => void;

  /** `words` is SERIAL_WORDS of shared memory; `put` takes each byte the guest sends; `setInterrupt` the level of its line. */
  constructor(words: Int32Array, put: (byte: number) => void, setInterrupt: (on: boolean) => void) {
    this.#reg = words;
    this.#put = put;
    this.#setInterrupt = setInterrupt;
  }

  static reset(words: Int32Array): void {
    words.fill(0);
    words[REG.divider] = RESET_DIVIDER;
    words[REG.iir] = IIR_NONE;
    words[REG.mcr] = 0x08;
    words[REG.lsr] = LSR_EMPTY;
    words[REG.msr] = MSR_CONNECTED;
  }

  read(port: number): number {
    const reg = this.#reg;
    const latched = (reg[REG.lcr] & LCR_DIVISOR_LATCH) !== 0;
    switch (port) {
      case 0:
        if (latched) return reg[REG.divider] & 0xff;
        return this.#take();
      case 1:
        return latched ? reg[REG.divider] >> 8 : reg[REG.ier];
      case 2: {
        const why = reg[REG.iir];
        if (why === IIR_EMPTY) {
          reg[EMPTIED] = 0; // it knows now
          this.#interrupt();
        }
        return why | (reg[REG.fcr] & FCR_ENABLE ? IIR_FIFOS : 0);
      }
      case 3:
        return reg[REG.lcr];
      case 4:
        return reg[REG.mcr];
      case 5:
        return reg[REG.lsr];
      case 6:
        return reg[REG.msr];
      default:
        return reg[REG.scr];
    }
  }

  write(port: number, value: number): void {
    const reg = this.#reg;
    const latched = (reg[REG.lcr] & LCR_DIVISOR_LATCH) !== 0;
    switch (port) {
      case 0:
        if (latched) reg[REG.divider] = (reg[REG.divider] & 0xff00) | value;
        else {
          this.#put(value);
          reg[EMPTIED] = 1;
          this.#interrupt();
        }
        return;
      case 1:
        if (latched) reg[REG.divider] = (reg[REG.divider] & 0xff) | (value << 8);
        else {
          if (value & ~reg[REG.ier] & IER_EMPTY) reg[EMPTIED] = 1;
          reg[REG.ier] = value & 0x0f;
          this.#interrupt();
        }
        return;
      case 2:
        reg[REG.fcr] = value & 0xc9;
        if (value & FCR_CLEAR_RECEIVED) this.#clear();
        return;
      case 3:
        reg[REG.lcr] = value;
        return;
      case 4:
        reg[REG.mcr] = value & 0x1f;
        return;
      case 7:
        reg[REG.scr] = value;
    }
  }

  /** Bytes from the other end of the line; how many of them there is room for. */
  receive(bytes: Uint8Array): number {
    const reg = this.#reg;
    const count = Math.min(bytes.length, SERIAL_RECEIVED_MAX - reg[RECEIVED]);
    reg.set(bytes.subarray(0, count), RECEIVED + 1 + reg[RECEIVED]);
    reg[RECEIVED] += count;
    if (reg[RECEIVED] > 0) reg[REG.lsr] |= LSR_DATA_READY;
    this.#interrupt();
    return count;
  }

  #clear(): void {
    this.#reg[RECEIVED] = 0;
    this.#reg[REG.lsr] &= ~LSR_DATA_READY;
    this.#interrupt();
  }

  #take(): number {
    const reg = this.#reg;
    if (reg[RECEIVED] === 0) return reg[REG.rbr];
    reg[REG.rbr] = reg[RECEIVED + 1];
    reg.copyWithin(RECEIVED + 1, RECEIVED + 2, RECEIVED + 1 + reg[RECEIVED]);
    if (--reg[RECEIVED] === 0) reg[REG.lsr] &= ~LSR_DATA_READY;
    this.#interrupt();
    return reg[REG.rbr];
  }

  /** What the port has to say most urgently, and its line. */
  #interrupt(): void {
    const reg = this.#reg;
    const was = reg[REG.iir];
    const hasData = reg[REG.ier] & IER_DATA && reg[REG.lsr] & LSR_DATA_READY;
    const isEmptied = reg[REG.ier] & IER_EMPTY && reg[EMPTIED];
    reg[REG.iir] = hasData ? IIR_DATA : isEmptied ? IIR_EMPTY : IIR_NONE;
    if ((was === IIR_NONE) !== (reg[REG.iir] === IIR_NONE)) this.#setInterrupt(was === IIR_NONE);
  }

  static save(words: Int32Array): State {
    return Object.fromEntries(Object.entries(REG).map(([name, at]) => [name, words[at]]));
  }

  static load(words: Int32Array, state: State): void {
    for (const [name, at] of Object.entries(REG)) words[at] = Number(state[name]);
    words[EMPTIED] = words[REG.iir] === IIR_EMPTY ? 1 : 0;
    words[RECEIVED] = words[REG.lsr] & LSR_DATA_READY ? 1 : 0;
    words[RECEIVED + 1] = words[REG.rbr];
  }

  /** What QEMU's port has no place for. */
  static saveMore(words: Int32Array): State {
    const count = words[RECEIVED];
    const received = Uint8Array.from(words.subarray(RECEIVED + 1, RECEIVED + 1 + count));
    return { emptied: words[EMPTIED], received_bytes: count, received };
  }

  static loadMore(words: Int32Array, { emptied, received }: State): void {
    const bytes = received as Uint8Array;
    words[EMPTIED] = Number(emptied) ? 1 : 0;
    words[RECEIVED] = bytes.length;
    words.set(bytes, RECEIVED + 1);
  }
}

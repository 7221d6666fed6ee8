// A 16550 serial port at 0x3f8, output side: what is written goes out at once, so the transmitter is always empty.
// Its registers live in shared memory, so that whichever vCPU took the exit can run it, and saving is reading them.
// Source of the register meanings: the PC16550D data sheet.
import type { State } from "../../stream/vmstate.ts";

export const SERIAL_PORT = 0x3f8;
export const SERIAL_PORTS = 8;

const REG = { divider: 0, rbr: 1, ier: 2, iir: 3, lcr: 4, mcr: 5, lsr: 6, msr: 7, scr: 8, fcr: 9 } as const;
export const SERIAL_WORDS = 10;

const LCR_DIVISOR_LATCH = 0x80;
const LSR_EMPTY = 0x60; // transmitter and holding register
const LSR_DATA_READY = 0x01;
const IIR_NONE = 0x01;
const IIR_FIFOS = 0xc0;
const MSR_CONNECTED = 0xb0; // carrier, data set ready, clear to send
const FCR_ENABLE = 0x01;
const RESET_DIVIDER = 12; // 9600 baud

export class Serial {
  readonly #reg: Int32Array;
  readonly #put: (byte: number) => void;

  /** `words` is SERIAL_WORDS of shared memory; `put` takes each byte the guest sends. */
  constructor(words: Int32Array, put: (byte: number) => void) {
    this.#reg = words;
    this.#put = put;
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
        reg[REG.lsr] &= ~LSR_DATA_READY;
        return reg[REG.rbr];
      case 1:
        return latched ? reg[REG.divider] >> 8 : reg[REG.ier];
      case 2:
        return reg[REG.iir] | (reg[REG.fcr] & FCR_ENABLE ? IIR_FIFOS : 0);
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
        else this.#put(value);
        return;
      case 1:
        if (latched) reg[REG.divider] = (reg[REG.divider] & 0xff) | (value << 8);
        else reg[REG.ier] = value & 0x0f;
        return;
      case 2:
        reg[REG.fcr] = value & 0xc9;
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

  static save(words: Int32Array): State {
    return Object.fromEntries(Object.entries(REG).map(([name, at]) => [name, words[at]]));
  }

  static load(words: Int32Array, state: State): void {
    for (const [name, at] of Object.entries(REG)) words[at] = Number(state[name]);
  }
}

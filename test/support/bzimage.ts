// Kernels of a few bytes, in the form of a real one's file.
import { HEADER } from "../../src/machine/linux/bzimage.ts";

const MIB = 2 ** 20;
const ENTRY = 0x200;

/** A kernel of `bytes` that does nothing, behind a header as real ones have it. */
export function bzImage(bytes = 8 * MIB, change: (view: DataView) => void = () => {}): Uint8Array {
  const setupSectors = 30;
  const kernelAt = (setupSectors + 1) * 512;
  const file = new Uint8Array(kernelAt + bytes);
  const view = new DataView(file.buffer);
  file.fill(0xee, kernelAt);
  view.setUint8(HEADER.setupSectors, setupSectors);
  view.setUint32(HEADER.setupSectors + 3, bytes / 16, true);
  view.setUint16(HEADER.bootFlag, 0xaa55, true);
  view.setUint8(HEADER.jumpBytes - 1, 0xeb);
  view.setUint8(HEADER.jumpBytes, 0x6a);
  view.setUint32(HEADER.magic, 0x53726448, true);
  view.setUint16(HEADER.version, 0x20f, true);
  view.setUint8(HEADER.loadFlags, 1);
  view.setUint32(HEADER.initrdMax, 0x7fffffff, true);
  view.setUint32(HEADER.alignment, 2 * MIB, true);
  view.setUint16(HEADER.extendedLoadFlags, 0x3f, true);
  view.setUint32(HEADER.commandLineBytes, 2047, true);
  view.setBigUint64(HEADER.preferredAt, BigInt(16 * MIB), true);
  view.setUint32(HEADER.initBytes, 40 * MIB, true);
  change(view);
  return file;
}

/** One that runs this code in 64-bit mode. */
export function kernelOf(...code: number[]): Uint8Array {
  const file = bzImage(4096);
  file.set(code, file.length - 4096 + ENTRY);
  return file;
}

const DATA = [0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
const STATUS = [0x66, 0xba, 0xfd, 0x03]; // mov dx, 0x3fd
const IN = 0xec;
const OUT = 0xee;
const STOP = [0xf4, 0xeb, 0xfd]; // again: hlt; jmp again

/** Sends each byte back that comes over the serial line; polls. */
export const ECHO = [...STATUS, IN, 0xa8, 0x01, 0x74, 0xf7, ...DATA, IN, OUT, 0xeb, 0xef]; // test al, 1; jz; …; jmp
/** Says a letter, then writes a byte to a port. */
export const sayAndWrite = (letter: string, port: number, value: number): number[] => [
  ...[...DATA, 0xb0, letter.charCodeAt(0), OUT], // mov al, letter
  ...[0x66, 0xba, port & 0xff, port >> 8, 0xb0, value, OUT],
  ...STOP,
];

/** An ELF file with one part of this code at 1 MiB, some zeros behind it, and the note that says that it is entered there. */
export function pvhKernelOf(code: readonly number[], change: (view: DataView) => void = () => {}): Uint8Array {
  const [codeAt, notesAt] = [512, 256];
  const file = new Uint8Array(codeAt + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 2, true);
  const segment = (at: number, type: number, offset: number, address: number, bytes: number, memory: number) => {
    view.setUint32(at, type, true);
    [offset, address, address, bytes, memory].forEach((value, i) => {
      view.setBigUint64(at + 8 + 8 * i, BigInt(value), true);
    });
  };
  segment(64, 1, codeAt, MIB, code.length, code.length + 100);
  // Another's note before it.
  const notes = [4, 2, 18, 0x554e47, 0, 4, 4, 18, 0x6e6558, MIB];
  segment(120, 4, notesAt, 0, notes.length * 4, 0);
  notes.forEach((word, i) => {
    view.setUint32(notesAt + 4 * i, word, true);
  });
  file.set(code, codeAt);
  change(view);
  return file;
}

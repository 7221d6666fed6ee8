// An ELF core of a stopped guest, as debuggers open it: one PT_LOAD for each run of guest-physical memory, one NT_PRSTATUS for
// each vCPU whose registers are known.
//
//   Elf64_Ehdr   Elf64_Phdr PT_NOTE   Elf64_Phdr PT_LOAD …   notes   (4096-aligned) memory …

import type { RamRange } from "./machine.ts";
import type { FieldValue } from "./values.ts";

const EHDR_BYTES = 64;
const PHDR_BYTES = 56;
const ET_CORE = 4;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;
const NT_PRSTATUS = 1;
const PRSTATUS_BYTES = 336;
const PRSTATUS_PID = 32;
const PRSTATUS_REGISTERS = 112;
const NOTE_NAME = "CORE";

/** In the order of user_regs_struct; null: not known. */
export type Registers = readonly bigint[];
export const REGISTER_COUNT = 27;

/** QEMU's order of the general registers, by where user_regs_struct has them. */
const GENERAL = [10, 11, 12, 5, 19, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];
const RIP = 16;
const EFLAGS = 18;
const ORIG_RAX = 15;

/** The registers of a section "cpu", as its fields name them; null where it has others. */
export function registersOf(fields: readonly FieldValue[], tail: Uint8Array, base: number): Registers | null {
  const find = (name: string) => fields.find((field) => field.name === name);
  const regs = find("env.regs");
  const rip = find("env.eip");
  const flags = find("env.eflags");
  if (!regs || regs.bytes !== GENERAL.length * 8 || rip?.bytes !== 8) return null;
  const view = new DataView(tail.buffer, tail.byteOffset, tail.length);
  const out = new Array<bigint>(REGISTER_COUNT).fill(0n);
  for (const [i, at] of GENERAL.entries()) out[at] = view.getBigUint64(regs.offset - base + i * 8);
  out[RIP] = view.getBigUint64(rip.offset - base);
  if (flags)
    out[EFLAGS] =
      flags.bytes === 8 ? view.getBigUint64(flags.offset - base) : BigInt(view.getUint32(flags.offset - base));
  out[ORIG_RAX] = 0xffffffffffffffffn;
  return out;
}

export interface CoreLayout {
  /** Everything before the memory. */
  head: Uint8Array;
  /** Where each run of memory lies in the file. */
  placed: (RamRange & { fileOffset: number })[];
  bytes: number;
}

export function layOutCore(ranges: readonly RamRange[], cpus: readonly Registers[]): CoreLayout {
  const noteBytes = 12 + 8 + PRSTATUS_BYTES;
  const notes = cpus.length ? 1 : 0;
  const notesAt = EHDR_BYTES + PHDR_BYTES * (ranges.length + notes);
  let at = Math.ceil((notesAt + noteBytes * cpus.length) / 4096) * 4096;
  const head = new Uint8Array(at);
  const view = new DataView(head.buffer);
  const placed = ranges.map((range) => {
    const fileOffset = at;
    at += range.bytes;
    return { ...range, fileOffset };
  });

  head.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // ELF, 64 bits, little-endian, version 1
  view.setUint16(16, ET_CORE, true);
  view.setUint16(18, EM_X86_64, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(32, BigInt(EHDR_BYTES), true);
  view.setUint16(52, EHDR_BYTES, true);
  view.setUint16(54, PHDR_BYTES, true);
  view.setUint16(56, ranges.length + notes, true);

  if (notes) programHeader(view, EHDR_BYTES, PT_NOTE, notesAt, 0, noteBytes * cpus.length);
  for (const [i, { fileOffset, gpa, bytes }] of placed.entries())
    programHeader(view, EHDR_BYTES + PHDR_BYTES * (i + notes), PT_LOAD, fileOffset, gpa, bytes);
  for (const [i, registers] of cpus.entries()) note(view, head, notesAt + i * noteBytes, i + 1, registers);
  return { head, placed, bytes: at };
}

function programHeader(view: DataView, at: number, type: number, offset: number, address: number, bytes: number): void {
  view.setUint32(at, type, true);
  if (type === PT_LOAD) view.setUint32(at + 4, 7, true); // readable, writable, executable
  view.setBigUint64(at + 8, BigInt(offset), true);
  view.setBigUint64(at + 16, BigInt(address), true); // virtual: a debugger without page tables sees physical memory
  view.setBigUint64(at + 24, BigInt(address), true);
  view.setBigUint64(at + 32, BigInt(bytes), true);
  view.setBigUint64(at + 40, BigInt(bytes), true);
}

function note(view: DataView, head: Uint8Array, at: number, pid: number, registers: Registers): void {
  view.setUint32(at, NOTE_NAME.length + 1, true);
  view.setUint32(at + 4, PRSTATUS_BYTES, true);
  view.setUint32(at + 8, NT_PRSTATUS, true);
  new TextEncoder().encodeInto(NOTE_NAME, head.subarray(at + 12));
  const body = at + 20;
  view.setUint32(body + PRSTATUS_PID, pid, true);
  for (const [i, value] of registers.entries()) view.setBigUint64(body + PRSTATUS_REGISTERS + i * 8, value, true);
}

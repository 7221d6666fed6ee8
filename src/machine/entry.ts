// The first registers of a vCPU that begins in 64-bit mode, or in protected mode: flat segments, interrupts off.
import { ioctl, KVM_MP_STATE_RUNNABLE } from "../native/kvm.ts";
import { regs as regsTable, sregs as sregsTable } from "../stream/devices/vcpu.ts";
import type { State } from "../stream/vmstate.ts";
import { stateToStruct, structToState } from "./kvm-state.ts";

interface Entry {
  /** Selectors; the descriptors need not be in memory before they are loaded again. */
  code: number;
  data: number;
  /** Where the segments' descriptors are; null: nowhere yet. */
  gdt: { base: number; limit: number } | null;
  registers: Partial<Record<"rip" | "rsp" | "rsi" | "rdi" | "rbx", number>>;
}

/** `cr3`: the tables that map memory to itself. */
export function enterLongMode(vcpu: number, { cr3, ...entry }: Entry & { cr3: number }): void {
  enter(vcpu, entry, { db: 0, l: 1 }, (state) => {
    state.cr0 = 0x80000033n; // PG NE ET MP PE
    state.cr3 = BigInt(cr3);
    state.cr4 = (state.cr4 as bigint) | 0x620n; // OSXMMEXCPT OSFXSR PAE
    state.efer = (state.efer as bigint) | 0x500n; // LMA LME
  });
}

/** 32 bits, no paging. */
export function enterProtectedMode(vcpu: number, entry: Entry): void {
  enter(vcpu, entry, { db: 1, l: 0 }, (state) => {
    state.cr0 = 0x11n; // ET PE
    state.cr4 = 0n;
  });
}

function enter(
  vcpu: number,
  { code, data, gdt, registers }: Entry,
  codeBits: { db: number; l: number },
  setMode: (state: State) => void,
): void {
  const sregs = new DataView(new ArrayBuffer(320));
  ioctl(vcpu, "GET_SREGS2", new Uint8Array(sregs.buffer));
  const state = structToState(sregsTable, sregs);
  const flat = {
    base: 0n,
    limit: 0xffffffff,
    selector: data,
    type: 3,
    present: 1,
    dpl: 0,
    db: 1,
    s: 1,
    l: 0,
    g: 1,
    avl: 0,
    unusable: 0,
    padding: 0,
  };
  for (const name of ["ds", "es", "fs", "gs", "ss"]) state[name] = flat;
  state.cs = { ...flat, selector: code, type: 11, ...codeBits };
  if (gdt) state.gdt = { ...(state.gdt as State), base: BigInt(gdt.base), limit: gdt.limit };
  setMode(state);
  stateToStruct(sregsTable, state, sregs);
  ioctl(vcpu, "SET_SREGS2", new Uint8Array(sregs.buffer));

  const regs: State = Object.fromEntries(regsTable.fields.map((field) => [field.name, 0n]));
  for (const [name, value] of Object.entries(registers)) regs[name] = BigInt(value);
  regs.rflags = 2n;
  const view = new DataView(new ArrayBuffer(144));
  stateToStruct(regsTable, regs, view);
  ioctl(vcpu, "SET_REGS", new Uint8Array(view.buffer));
  const runnable = new Uint8Array(4);
  runnable[0] = KVM_MP_STATE_RUNNABLE;
  ioctl(vcpu, "SET_MP_STATE", runnable);
}

/** Entries of a page table, or of a table of tables, as bytes. */
const tableBytes = (values: readonly bigint[]): Uint8Array => new Uint8Array(BigUint64Array.from(values).buffer);
const PRESENT_WRITE = 3n;
const HUGE = 0x80n;
const TABLE_BYTES = 4096;

/** Tables that map the first `gigabytes` to themselves, in pages of 2 MiB: where each goes, and what is in it. */
export function identityTables(
  gigabytes: number,
  { pml4, pdpt, pds }: { pml4: number; pdpt: number; pds: number },
): { at: number; bytes: Uint8Array }[] {
  const directories = Array.from({ length: gigabytes }, (_, g) => pds + g * TABLE_BYTES);
  return [
    { at: pml4, bytes: tableBytes([BigInt(pdpt) | PRESENT_WRITE]) },
    { at: pdpt, bytes: tableBytes(directories.map((at) => BigInt(at) | PRESENT_WRITE)) },
    ...directories.map((at, g) => ({
      at,
      bytes: tableBytes(Array.from({ length: 512 }, (_, i) => (BigInt(g * 512 + i) << 21n) | HUGE | PRESENT_WRITE)),
    })),
  ];
}

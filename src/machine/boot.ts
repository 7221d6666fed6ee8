// Puts the walker guest (c/guest/walker.h) into a fresh machine: code, page tables, parameters, first registers.
import { readFileSync } from "node:fs";
import walkerFile from "../../build/walker.bin" with { type: "file" };
import { TramError } from "../errors.ts";
import { HIGH_GPA, LOW_BYTES_MAX, PAGE_BYTES } from "../memory/block.ts";
import { ioctl, KVM_MP_STATE_RUNNABLE, walkerFill } from "../native/kvm.ts";
import { isTwin } from "../stream/devices/machine.ts";
import { regs as regsTable, sregs as sregsTable } from "../stream/devices/vcpu.ts";
import type { State } from "../stream/vmstate.ts";
import type { Board, MachineHandles } from "./board.ts";
import { WalkerPorts } from "./devices/walker.ts";
import { stateToStruct, structToState } from "./kvm-state.ts";
import { attachRam, deviceWords } from "./machine.ts";

export const FILLS = ["zero", "random", "text", "mixed"] as const;
export type Fill = (typeof FILLS)[number];

/** What it does when it is asked which of its pages are free; see enum walker_habit in c/guest/walker.h. */
export const HABITS = ["keep", "reuse", "late", "stale", "silent", "report"] as const;
export type Habit = (typeof HABITS)[number];

export interface WalkerOptions {
  workingSetBytes: number;
  /** Pages per second over all vCPUs; 0: as fast as it can. */
  dirtyRate: number;
  fill: Fill;
  seed: number;
  /** What it does not walk and does not need; and of that, what is cache at first. */
  freeBytes: number;
  cacheBytes: number;
  habit: Habit;
}

// c/guest/walker.h
const PARAMS = 0x1000;
const PML4 = 0x2000;
const PDPT = 0x3000;
const CODE = 0x8000;
const CODE_BYTES = 0x8000;
const STACKS = 0x40000;
const STACK_BYTES = 0x4000;
const PDS = 0x100000;
export const WALKER_RAM_START = 0x200000;
const MAGIC = 0x4b4c4157;

/** The least memory a walker can run in: its own, and one huge page to walk. */
export const WALKER_MEMORY_MIN = 2 * WALKER_RAM_START;

export function bootWalker(handles: MachineHandles, board: Board, options: WalkerOptions): void {
  const ram = attachRam(handles);
  const setPages = options.workingSetBytes / PAGE_BYTES;
  const firstPage = WALKER_RAM_START / PAGE_BYTES;
  const { cpus } = handles.description;
  const freePages = options.freeBytes / PAGE_BYTES;
  const tableFirst = ram.pages - freePages - Math.ceil((4 * freePages) / PAGE_BYTES); // 4 bytes for each
  const room = tableFirst - firstPage;
  if (setPages < cpus || setPages > room)
    throw new TramError("E_USAGE", "the working set does not fit the guest's memory", {
      expected: `${cpus} to ${Math.max(0, room)} pages (--memory less ${WALKER_RAM_START >> 20} MiB for the walker itself, and less --free)`,
      found: `${setPages} pages`,
      next: "use a larger --memory, or a smaller --working-set or --free",
    });
  const needsCode = !isTwin(handles.description);
  if (needsCode) {
    const code = readFileSync(walkerFile);
    if (code.length > CODE_BYTES) throw new TramError("E_INTERNAL", "the walker has outgrown its code area");
    ram.write(CODE, code);
    writePageTables(handles);
  }

  const params = new DataView(new ArrayBuffer(64));
  params.setUint32(0, MAGIC, true);
  params.setUint32(4, cpus, true);
  params.setUint32(8, ram.pages, true);
  params.setUint32(12, Math.min(ram.pages, LOW_BYTES_MAX / PAGE_BYTES), true);
  params.setUint32(16, firstPage, true);
  params.setUint32(20, setPages, true);
  params.setUint32(24, FILLS.indexOf(options.fill), true);
  params.setBigUint64(32, BigInt(options.seed), true);
  params.setUint32(40, ram.pages - freePages, true);
  params.setUint32(44, freePages, true);
  params.setUint32(48, tableFirst, true);
  params.setUint32(52, options.cacheBytes / PAGE_BYTES, true);
  params.setUint32(56, HABITS.indexOf(options.habit), true);
  ram.write(PARAMS, new Uint8Array(params.buffer));
  walkerFill(ram.native, ram.read(PARAMS, 64 + 64 * 16));
  WalkerPorts.reset(deviceWords(board).walker, options.dirtyRate);
  if (needsCode) handles.vcpus.forEach(setFirstRegisters);
}

/** Identity-maps all RAM and the hole below 4 GiB with 2 MiB pages. */
function writePageTables(handles: MachineHandles): void {
  const ram = attachRam(handles);
  const PRESENT_WRITE = 3n;
  const HUGE = 0x80n;
  const top = ram.bytes <= LOW_BYTES_MAX ? HIGH_GPA : HIGH_GPA + ram.bytes - LOW_BYTES_MAX;
  const gigabytes = Math.ceil(top / 2 ** 30);
  const entry = (at: number, values: bigint[]) => ram.write(at, new Uint8Array(BigUint64Array.from(values).buffer));
  entry(PML4, [BigInt(PDPT) | PRESENT_WRITE]);
  const directories = Array.from({ length: gigabytes }, (_, g) => BigInt(PDS + g * PAGE_BYTES));
  entry(
    PDPT,
    directories.map((at) => at | PRESENT_WRITE),
  );
  directories.forEach((at, g) => {
    entry(
      Number(at),
      Array.from({ length: 512 }, (_, i) => (BigInt(g * 512 + i) << 21n) | HUGE | PRESENT_WRITE),
    );
  });
}

/** 64-bit mode, flat segments, paging on, interrupts off: what a kernel gets after its own start-up code. */
function setFirstRegisters(vcpu: number, cpu: number): void {
  const sregs = new DataView(new ArrayBuffer(320));
  ioctl(vcpu, "GET_SREGS2", new Uint8Array(sregs.buffer));
  const state = structToState(sregsTable, sregs);
  const data = {
    base: 0n,
    limit: 0xffffffff,
    selector: 0x10,
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
  for (const name of ["ds", "es", "fs", "gs", "ss"]) state[name] = data;
  state.cs = { ...data, selector: 8, type: 11, db: 0, l: 1 };
  state.cr0 = 0x80000033n; // PG NE ET MP PE
  state.cr3 = BigInt(PML4);
  state.cr4 = (state.cr4 as bigint) | 0x620n; // OSXMMEXCPT OSFXSR PAE
  state.efer = (state.efer as bigint) | 0x500n; // LMA LME
  stateToStruct(sregsTable, state, sregs);
  ioctl(vcpu, "SET_SREGS2", new Uint8Array(sregs.buffer));

  const regs: State = Object.fromEntries(regsTable.fields.map((field) => [field.name, 0n]));
  regs.rip = BigInt(CODE);
  regs.rsp = BigInt(STACKS + (cpu + 1) * STACK_BYTES - 8); // as after a call: 8 below a multiple of 16
  regs.rdi = BigInt(cpu);
  regs.rflags = 2n;
  const view = new DataView(new ArrayBuffer(144));
  stateToStruct(regsTable, regs, view);
  ioctl(vcpu, "SET_REGS", new Uint8Array(view.buffer));
  const runnable = new Uint8Array(4);
  runnable[0] = KVM_MP_STATE_RUNNABLE;
  ioctl(vcpu, "SET_MP_STATE", runnable);
}

// Puts the walker guest (c/guest/walker.h) into a fresh machine: code, page tables, parameters, first registers.
import { readFileSync } from "node:fs";
import walkerFile from "../../build/walker.bin" with { type: "file" };
import { TramError } from "../errors.ts";
import { HIGH_GPA, LOW_BYTES_MAX, PAGE_BYTES } from "../memory/block.ts";
import { walkerFill } from "../native/kvm.ts";
import { isTwin } from "../stream/devices/machine.ts";
import type { Board, MachineHandles } from "./board.ts";
import { WalkerPorts } from "./devices/walker.ts";
import { enterLongMode, identityTables } from "./entry.ts";
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

/** Maps all RAM and the hole below 4 GiB to itself. */
function writePageTables(handles: MachineHandles): void {
  const ram = attachRam(handles);
  const top = ram.bytes <= LOW_BYTES_MAX ? HIGH_GPA : HIGH_GPA + ram.bytes - LOW_BYTES_MAX;
  const tables = identityTables(Math.ceil(top / 2 ** 30), { pml4: PML4, pdpt: PDPT, pds: PDS });
  for (const { at, bytes } of tables) ram.write(at, bytes);
}

function setFirstRegisters(vcpu: number, cpu: number): void {
  const rsp = STACKS + (cpu + 1) * STACK_BYTES - 8; // as after a call: 8 below a multiple of 16
  enterLongMode(vcpu, { code: 8, data: 0x10, cr3: PML4, gdt: null, registers: { rip: CODE, rsp, rdi: cpu } });
}

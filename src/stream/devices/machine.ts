// tram/machine, version 2: what the target must be, before any RAM. Also QEMU's globalstate.
import { badStream } from "../bytes.ts";
import type { State, Table } from "../vmstate.ts";
import { formatMac, MAC_BYTES, parseMac } from "./mac.ts";

/** The CONFIGURATION name of tram's own machine. */
export const MACHINE_NAME = "tram";
export const RAM_BLOCK_NAME = "ram";

const cpuidEntry: Table = {
  name: "tram/machine/cpuid",
  version: 1,
  fields: "function index flags eax ebx ecx edx".split(" ").map((name) => ({ name, type: "uint32" })),
};

/** Beside those that every machine has: the walker guest's ports, a memory balloon, what stock kernels expect of a PC, sockets to its host, a console. */
const DEVICE = { walker: 1, balloon: 2, pc: 4, vsock: 8, console: 16 } as const;
const NO_MAC = new Uint8Array(MAC_BYTES);

const DEVICES = Object.keys(DEVICE) as (keyof typeof DEVICE)[];

const DISK_MODES = ["rw", "ro"] as const;

const disk: Table = {
  name: "tram/machine/disk",
  version: 1,
  fields: [
    { name: "bytes", type: "uint64" },
    /** 0: the guest writes to it; 1: it only reads. */
    { name: "mode", type: "uint8" },
    { name: "inode", type: "uint64" },
    { name: "path_bytes", type: "uint32" },
    { name: "path", type: "blob", countFrom: "path_bytes", max: 4096 },
  ],
};

export const DISKS_MAX = 8;
export const CPUID_ENTRIES_MAX = 256;
export const NAME_BYTES_MAX = 64;

export const machine: Table = {
  name: "tram/machine",
  version: 2,
  fields: [
    { name: "memory_bytes", type: "uint64" },
    { name: "cpus", type: "uint32" },
    { name: "tsc_khz", type: "uint32" },
    /** DEVICE bits. */
    { name: "devices", type: "uint8" },
    { name: "name_bytes", type: "uint8" },
    { name: "name", type: "blob", countFrom: "name_bytes", max: NAME_BYTES_MAX },
    { name: "cpuid_count", type: "uint32" },
    { name: "cpuid", type: "list", table: cpuidEntry, countFrom: "cpuid_count", max: CPUID_ENTRIES_MAX },
    /** Its network card's address; zeros: it has none. */
    { name: "mac", type: "buffer", size: NO_MAC.length },
    { name: "disk_count", type: "uint32" },
    { name: "disks", type: "list", table: disk, countFrom: "disk_count", max: DISKS_MAX },
  ],
};

/** The source wants the target to hash each page that it places: XXH3-64, seed 0. */
export const verify: Table = {
  name: "tram/verify",
  version: 1,
  fields: [{ name: "algorithm", type: "uint32" }],
};
export const VERIFY_XXH3 = 1;

/** Ranges of pages that were not sent, because nobody has ever written to them: be32 first page, be32 pages, and so on. */
export const untouched: Table = {
  name: "tram/untouched",
  version: 1,
  fields: [
    { name: "bytes", type: "uint32" },
    { name: "ranges", type: "blob", countFrom: "bytes", max: 32 << 20 },
  ],
};

interface PageRange {
  first: number;
  pages: number;
}

export function untouchedToState(ranges: readonly PageRange[]): State {
  const bytes = new Uint8Array(ranges.length * 8);
  const view = new DataView(bytes.buffer);
  ranges.forEach(({ first, pages }, i) => {
    view.setUint32(i * 8, first);
    view.setUint32(i * 8 + 4, pages);
  });
  return { bytes: bytes.length, ranges: bytes };
}

export function untouchedFromState(state: State, offset: number): PageRange[] {
  const bytes = state.ranges as Uint8Array;
  if (bytes.length % 8) throw badStream("half a range of pages", offset, "8 bytes for each", `${bytes.length}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / 8 }, (_, i) => ({
    first: view.getUint32(i * 8),
    pages: view.getUint32(i * 8 + 4),
  }));
}

export interface CpuidEntry {
  function: number;
  index: number;
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** A disk, as its guest's source has it. */
export interface DiskDescription {
  path: string;
  bytes: number;
  mode: (typeof DISK_MODES)[number];
  /** Of its file, in decimal; 0: it is none. */
  inode: string;
}

/** By what a disk's file is known again: which it is, how long, and when it was last written to. Inode 0: nobody can tell. */
export interface DiskIdentity {
  inode: string;
  bytes: number;
  /** Nanoseconds since 1970, in decimal. */
  changedNs: string;
}

/** What two ends must agree on before RAM moves. */
export interface MachineDescription {
  name: string;
  memoryBytes: number;
  cpus: number;
  tscKhz: number;
  walker: boolean;
  balloon: boolean;
  /** An interval timer, the serial port's interrupt, ports to switch it off and to start it anew. */
  pc: boolean;
  /** Sockets to its host: only with `pc`. */
  vsock: boolean;
  /** A line whose bytes come many at a time: only with `pc`. */
  console: boolean;
  /** Its network card's address, as people write it; null: it has none. Only with `pc`. */
  mac: string | null;
  cpuid: CpuidEntry[];
  disks: DiskDescription[];
}

/** The walker's native twin, which needs no KVM, and no CPU of any kind: no guest of KVM's has seen no CPUID at all. */
export const isTwin = ({ cpuid }: Pick<MachineDescription, "cpuid">): boolean => cpuid.length === 0;

export function machineToState(description: MachineDescription): State {
  const name = new TextEncoder().encode(description.name);
  return {
    memory_bytes: BigInt(description.memoryBytes),
    cpus: description.cpus,
    tsc_khz: description.tscKhz,
    devices: DEVICES.reduce((bits, name) => bits | (description[name] ? DEVICE[name] : 0), 0),
    name_bytes: name.length,
    name,
    cpuid_count: description.cpuid.length,
    cpuid: description.cpuid as unknown as State[],
    mac: parseMac(description.mac ?? "") ?? NO_MAC,
    disk_count: description.disks.length,
    disks: description.disks.map(diskToState),
  };
}

function diskToState({ path, bytes, mode, inode }: DiskDescription): State {
  const name = new TextEncoder().encode(path);
  return {
    bytes: BigInt(bytes),
    mode: DISK_MODES.indexOf(mode),
    inode: BigInt(inode),
    path_bytes: name.length,
    path: name,
  };
}

function diskFromState(state: State, offset: number): DiskDescription {
  const bytes = Number(state.bytes);
  const mode = DISK_MODES[Number(state.mode)];
  if (!mode || !Number.isSafeInteger(bytes) || bytes === 0 || bytes % 512)
    throw badStream(
      "the machine has an impossible disk",
      offset,
      "sectors of 512 bytes, and mode 0 or 1",
      `${bytes} bytes, mode ${state.mode}`,
    );
  return { path: new TextDecoder().decode(state.path as Uint8Array), bytes, mode, inode: `${state.inode}` };
}

function macFromState({ mac }: State): string | null {
  const bytes = mac as Uint8Array;
  return bytes.every((byte) => byte === 0) ? null : formatMac(bytes);
}

export const CPUS_MAX = 16;
/** Its firmware's place is below this. */
const PC_MEMORY_MIN = 1 << 20;
export const MEMORY_BYTES_MAX = 256 * 2 ** 30;

export function machineFromState(state: State, offset: number): MachineDescription {
  const memoryBytes = Number(state.memory_bytes);
  const cpus = Number(state.cpus);
  if (memoryBytes < 4096 || memoryBytes > MEMORY_BYTES_MAX || memoryBytes % 4096)
    throw badStream(
      "the machine has an impossible memory size",
      offset,
      `pages up to ${MEMORY_BYTES_MAX} bytes`,
      `${memoryBytes}`,
    );
  if (cpus < 1 || cpus > CPUS_MAX)
    throw badStream("the machine has an impossible number of CPUs", offset, `1 to ${CPUS_MAX}`, `${cpus}`);
  const devices = Number(state.devices);
  const known = DEVICES.reduce((bits, name) => bits | DEVICE[name], 0);
  if (devices & ~known)
    throw badStream("the machine has devices that this tram does not know", offset, `bits ${known}`, `${devices}`);
  const isPc = (devices & DEVICE.pc) !== 0;
  const hasDevices = isPc || (devices & DEVICE.balloon) !== 0;
  if (hasDevices && (state.cpuid as unknown[]).length === 0)
    throw badStream(
      "a machine without CPUs of KVM's has devices",
      offset,
      "CPUID rows, or no devices",
      `bits ${devices}`,
    );
  const disks = (state.disks as State[]).map((one) => diskFromState(one, offset));
  const mac = macFromState(state);
  if (!isPc && (disks.length || devices & (DEVICE.vsock | DEVICE.console) || mac))
    throw badStream(
      "a machine that is no PC has a PC's devices",
      offset,
      "none",
      `bits ${devices}, ${disks.length} disks`,
    );
  if (isPc && memoryBytes < PC_MEMORY_MIN)
    throw badStream("the machine is too small for a PC", offset, `at least ${PC_MEMORY_MIN} bytes`, `${memoryBytes}`);
  return {
    name: new TextDecoder().decode(state.name as Uint8Array),
    memoryBytes,
    cpus,
    tscKhz: Number(state.tsc_khz),
    walker: (devices & DEVICE.walker) !== 0,
    balloon: (devices & DEVICE.balloon) !== 0,
    pc: isPc,
    vsock: (devices & DEVICE.vsock) !== 0,
    console: (devices & DEVICE.console) !== 0,
    mac,
    cpuid: state.cpuid as unknown as CpuidEntry[],
    disks,
  };
}

/** QEMU's globalstate: the run state the guest had at the source. 32 bytes of text and padding to 104 in all. */
export const globalstate: Table = {
  name: "globalstate",
  version: 1,
  fields: [
    { name: "size", type: "uint32" },
    { name: "runstate", type: "buffer", size: 32 },
    { name: "has_vm_was_suspended", type: "uint8" },
    { name: "vm_was_suspended", type: "uint8" },
    { name: "unused", type: "unused_buffer", size: 66 },
  ],
};

export function globalstateFrom(runState: string): State {
  const runstate = new Uint8Array(32);
  new TextEncoder().encodeInto(runState, runstate);
  return { size: runState.length + 1, runstate, has_vm_was_suspended: 1, vm_was_suspended: 0 };
}

export function runStateFrom(state: State): string {
  const bytes = state.runstate as Uint8Array;
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

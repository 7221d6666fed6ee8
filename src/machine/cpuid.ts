// CPUID: what the host's KVM can show a guest, and what each vCPU sees of it.
import { TramError } from "../errors.ts";
import { ioctl, KVM_CAP, tryIoctl, tryIoctlValue } from "../native/kvm.ts";
import { CPUID_ENTRIES_MAX, type CpuidEntry } from "../stream/devices/machine.ts";

const ENTRY_BYTES = 40;

function encode(entries: readonly CpuidEntry[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 + ENTRY_BYTES * entries.length));
  view.setUint32(0, entries.length, true);
  entries.forEach((entry, i) => {
    const { function: leaf, index, flags, eax, ebx, ecx, edx } = entry;
    [leaf, index, flags, eax, ebx, ecx, edx].forEach((word, j) => {
      view.setUint32(8 + ENTRY_BYTES * i + 4 * j, word, true);
    });
  });
  return new Uint8Array(view.buffer);
}

function decode(bytes: Uint8Array): CpuidEntry[] {
  const view = new DataView(bytes.buffer);
  return Array.from({ length: view.getUint32(0, true) }, (_, i) => {
    const word = (j: number) => view.getUint32(8 + ENTRY_BYTES * i + 4 * j, true);
    return {
      function: word(0),
      index: word(1),
      flags: word(2),
      eax: word(3),
      ebx: word(4),
      ecx: word(5),
      edx: word(6),
    };
  });
}

/** What the host's KVM can show a guest, and what its users are to add: that it is a guest, and the timer of its local APIC. */
export function supportedCpuid(kvm: number): CpuidEntry[] {
  const bytes = new Uint8Array(8 + ENTRY_BYTES * CPUID_ENTRIES_MAX);
  new DataView(bytes.buffer).setUint32(0, CPUID_ENTRIES_MAX, true);
  ioctl(kvm, "GET_SUPPORTED_CPUID", bytes);
  const hasDeadline = tryIoctlValue(kvm, "CHECK_EXTENSION", KVM_CAP.TSC_DEADLINE_TIMER) > 0;
  const added = (LEAF_1.hypervisor | (hasDeadline ? LEAF_1.tscDeadline : 0)) >>> 0;
  return decode(bytes)
    .map((entry) => (entry.function === 1 ? { ...entry, ecx: (entry.ecx | added) >>> 0 } : entry))
    .map(withoutStaying);
}

/**
 * What a guest must not rely on, because it does not travel: a time stamp counter that goes on whatever happens, guests of its own, and
 * shadow stacks. By leaf, index and register.
 */
const STAYING: readonly [leaf: number, index: number, register: "ecx" | "edx", bits: number][] = [
  [0x1, 0, "ecx", 1 << 5], // VMX
  [0x7, 0, "ecx", 1 << 7], // shadow stacks
  [0x7, 0, "edx", 1 << 20], // indirect branch tracking
  [0x80000001, 0, "ecx", 1 << 2], // SVM
  [0x80000007, 0, "edx", 1 << 8], // invariant TSC
];

export function withoutStaying(entry: CpuidEntry): CpuidEntry {
  const left = { ...entry };
  for (const [leaf, index, register, bits] of STAYING)
    if (leaf === entry.function && index === entry.index) left[register] = (left[register] & ~bits) >>> 0;
  return left;
}

/** In ECX of leaf 1. */
const LEAF_1 = { tscDeadline: 1 << 24, hypervisor: 1 << 31 } as const;
const LEAF_1_EDX_SEVERAL = 1 << 28;
/** In ECX of leaf 0xb: what a level is made of. */
const LEVEL = { thread: 1, core: 2 } as const;

/**
 * What vCPU `cpu` of `cpus` sees of the table: which of them it is. Each is a core of one thread, all are in one package.
 * Source: Intel's and AMD's manuals, CPUID: leaves 1, 4, 0xb, 0x80000008 and 0x8000001e.
 */
export function cpuidOf(entries: readonly CpuidEntry[], cpu: number, cpus: number): CpuidEntry[] {
  const idBits = Math.ceil(Math.log2(cpus));
  const several = cpus > 1 ? LEAF_1_EDX_SEVERAL : 0;
  const own = (entry: CpuidEntry): CpuidEntry => {
    const { eax, ebx, ecx, edx } = entry;
    switch (entry.function) {
      case 1:
        return {
          ...entry,
          ebx: ((ebx & 0xff00) | (cpus << 16) | (cpu << 24)) >>> 0,
          edx: ((edx & ~LEAF_1_EDX_SEVERAL) | several) >>> 0,
        };
      case 4: // no cache is shared but the last
        return { ...entry, eax: ((eax & 0x3fff) | (((1 << idBits) - 1) << 26)) >>> 0 };
      case 0x80000008:
        return { ...entry, ecx: ((ecx & 0xffff0000) | (idBits << 12) | (cpus - 1)) >>> 0 };
      case 0x8000001e:
        return { ...entry, eax: cpu, ebx: cpu, ecx: 0 };
      default:
        return entry;
    }
  };
  const levels = (leaf: number): CpuidEntry[] =>
    [
      { index: 0, eax: 0, ebx: 1, ecx: LEVEL.thread << 8 },
      { index: 1, eax: idBits, ebx: cpus, ecx: (LEVEL.core << 8) | 1 },
      { index: 2, eax: 0, ebx: 0, ecx: 2 },
    ].map((level) => ({ function: leaf, flags: SIGNIFICANT_INDEX, edx: cpu, ...level }));
  const topology = TOPOLOGY.filter((leaf) => entries.some((entry) => entry.function === leaf));
  return [...entries.filter((entry) => !topology.includes(entry.function)).map(own), ...topology.flatMap(levels)];
}
/** Leaves that name the levels. */
const TOPOLOGY: readonly number[] = [0xb, 0x1f];
/** KVM_CPUID_FLAG_SIGNIFCANT_INDEX: there are several of this leaf. */
const SIGNIFICANT_INDEX = 1;

export function setCpuid(vcpu: number, entries: readonly CpuidEntry[], cpu: number, cpus: number): void {
  if (tryIoctl(vcpu, "SET_CPUID2", encode(cpuidOf(entries, cpu, cpus))) < 0)
    throw new TramError("E_REFUSED", "this host's KVM refuses the guest's CPUID table", {
      next: "move to a host with the same CPU and kernel generation",
    });
}

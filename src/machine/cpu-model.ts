// What CPU a guest sees: all that the host can show, or what every server of the last fifteen years has, so that it can go to any of them.
import { TramError } from "../errors.ts";
import type { CpuidEntry } from "../stream/devices/machine.ts";

export const CPU_MODELS = ["host", "baseline"] as const;
export type CpuModel = (typeof CPU_MODELS)[number];

type Register = "eax" | "ebx" | "ecx" | "edx";

const bits = (...numbers: number[]): number => numbers.reduce((all, bit) => all | (1 << bit), 0);

/**
 * The baseline: x86-64-v2 (SSE to 4.2, POPCNT, CMPXCHG16B, LAHF) and what kernels need, without XSAVE and what it brings; of KVM what it
 * has had for years. Of the leaves that are features only these bits are left.
 * Source: x86-64 psABI 1.0, 3.1.1; KVM's cpuid.rst.
 */
const FEATURES: readonly [leaf: number, register: Register, bits: number][] = [
  [1, "ecx", bits(0, 9, 13, 19, 20, 21, 23, 24, 31)],
  [1, "edx", bits(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26)],
  [6, "eax", bits(2)], // the local timer ticks in every state
  [0x40000001, "eax", bits(0, 1, 3, 6, 7, 24)],
  [0x80000001, "ecx", bits(0)],
  [0x80000001, "edx", bits(11, 20, 29)],
];
/** Without these there is no x86-64-v2. */
const NEEDED: readonly [leaf: number, register: Register, bits: number][] = [
  [1, "ecx", bits(0, 9, 13, 19, 20, 23)],
  [0x80000001, "ecx", bits(0)],
  [0x80000001, "edx", bits(11, 29)],
];
/** As the host shows them: names, caches, where each vCPU is. */
const AS_THEY_ARE = [0, 2, 4, 0xb, 0x40000000, 0x80000000, 0x80000002, 0x80000003, 0x80000004, 0x80000005, 0x80000006];
const ADDRESSES = 0x80000008;
/** 40 bits of physical addresses, 48 of linear ones. */
const ADDRESS_BITS = 40 | (48 << 8);
/** The last of each range that is left. */
const LAST: Record<number, number> = { 0: 0xb, 2147483648: ADDRESSES };

export function cpuOf(model: CpuModel, host: readonly CpuidEntry[]): CpuidEntry[] {
  return model === "host" ? [...host] : baseline(host);
}

function baseline(host: readonly CpuidEntry[]): CpuidEntry[] {
  const lacks = NEEDED.filter(([leaf, register, wanted]) => {
    const there = host.find((entry) => entry.function === leaf)?.[register] ?? 0;
    return (there & wanted) !== wanted;
  });
  if (lacks.length)
    throw new TramError("E_REFUSED", "this host's CPU is no x86-64-v2: it has not what --cpu baseline promises", {
      found: lacks.map(([leaf, register]) => `leaf 0x${leaf.toString(16)} ${register}`).join(", "),
      next: "--cpu host, and its guests go to hosts like this one",
    });
  return host.flatMap((entry) => {
    const leaf = entry.function;
    if (AS_THEY_ARE.includes(leaf)) return leaf in LAST ? { ...entry, eax: Math.min(entry.eax, LAST[leaf]) } : entry;
    if (leaf === ADDRESSES) return { ...entry, eax: ADDRESS_BITS, ebx: 0, edx: 0 };
    const kept = FEATURES.filter(([of]) => of === leaf);
    if (kept.length === 0) return [];
    const left = { ...entry, ...(leaf === 1 ? {} : { eax: 0, ebx: 0, ecx: 0, edx: 0 }) };
    for (const [, register, mask] of kept) left[register] = (entry[register] & mask) >>> 0;
    return left;
  });
}

// CPUID: what the host's KVM can show a guest, and what each vCPU sees of it.
import { TramError } from "../errors.ts";
import { ioctl, tryIoctl } from "../native/kvm.ts";
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

export function supportedCpuid(kvm: number): CpuidEntry[] {
  const bytes = new Uint8Array(8 + ENTRY_BYTES * CPUID_ENTRIES_MAX);
  new DataView(bytes.buffer).setUint32(0, CPUID_ENTRIES_MAX, true);
  ioctl(kvm, "GET_SUPPORTED_CPUID", bytes);
  return decode(bytes);
}

/** The table as vCPU `cpu` sees it: its own APIC id in the leaves that name one. */
export function setCpuid(vcpu: number, entries: readonly CpuidEntry[], cpu: number): void {
  const own = entries.map((entry) => {
    if (entry.function === 1) return { ...entry, ebx: ((entry.ebx & 0x00ffffff) | (cpu << 24)) >>> 0 };
    if (entry.function === 0xb || entry.function === 0x1f) return { ...entry, edx: cpu };
    return entry;
  });
  if (tryIoctl(vcpu, "SET_CPUID2", encode(own)) < 0)
    throw new TramError("E_REFUSED", "this host's KVM refuses the guest's CPUID table", {
      next: "move to a host with the same CPU and kernel generation",
    });
}

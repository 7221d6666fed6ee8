// What a kernel's 64-bit entry is handed: the boot parameters ("zero page"), with the map of memory in them.
// Source: the kernel's Documentation/arch/x86/zero-page.rst and boot.rst.
import { HIGH_GPA, LOW_BYTES_MAX } from "../../memory/block.ts";
import { HEADER } from "./bzimage.ts";

export const BOOT_PARAMS_BYTES = 4096;
const RSDP_AT = 0x070;
const E820_COUNT_AT = 0x1e8;
const E820_AT = 0x2d0;
const E820_BYTES = 20;
const LOADER_UNDEFINED = 0xff;

/** As firmware keeps it: the last KiB below 640 KiB, and the hole up to 1 MiB, where the ACPI tables are. */
const LOW_END = 0x9fc00;
export const HIGH_START = 0x100000;

const E820 = { ram: 1, reserved: 2 } as const;

interface MemoryRange {
  address: number;
  bytes: number;
  type: number;
}

/** Where a guest of so much memory has it. */
export function memoryMap(memoryBytes: number): MemoryRange[] {
  const low = Math.min(memoryBytes, LOW_BYTES_MAX);
  const ranges = [
    { address: 0, bytes: LOW_END, type: E820.ram },
    { address: LOW_END, bytes: HIGH_START - LOW_END, type: E820.reserved },
    { address: HIGH_START, bytes: low - HIGH_START, type: E820.ram },
  ];
  if (memoryBytes > low) ranges.push({ address: HIGH_GPA, bytes: memoryBytes - low, type: E820.ram });
  return ranges;
}

/** What a kernel is told, in whichever way it is entered. */
export interface Boot {
  memoryBytes: number;
  commandLineAt: number;
  initrd: { address: number; bytes: number } | null;
  rsdpAt: number;
}

/** `header`: the kernel's own set-up header. */
export function bootParams(boot: Boot & { header: Uint8Array }): Uint8Array {
  const all = new Uint8Array(BOOT_PARAMS_BYTES);
  const view = new DataView(all.buffer);
  all.set(boot.header, HEADER.setupSectors);
  all[HEADER.loaderType] = LOADER_UNDEFINED;
  view.setUint32(HEADER.commandLineAt, boot.commandLineAt, true);
  if (boot.initrd) {
    view.setUint32(HEADER.initrdAt, boot.initrd.address, true);
    view.setUint32(HEADER.initrdBytes, boot.initrd.bytes, true);
  }
  view.setBigUint64(RSDP_AT, BigInt(boot.rsdpAt), true);
  const map = memoryMap(boot.memoryBytes);
  all[E820_COUNT_AT] = map.length;
  map.forEach(({ address, bytes, type }, i) => {
    view.setBigUint64(E820_AT + i * E820_BYTES, BigInt(address), true);
    view.setBigUint64(E820_AT + i * E820_BYTES + 8, BigInt(bytes), true);
    view.setUint32(E820_AT + i * E820_BYTES + 16, type, true);
  });
  return all;
}

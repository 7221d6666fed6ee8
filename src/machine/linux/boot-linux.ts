// Puts a Linux kernel into a fresh machine: kernel, initrd, command line, what it is told of its machine, first registers.
import { TramError } from "../../errors.ts";
import { LOW_BYTES_MAX, PAGE_BYTES } from "../../memory/block.ts";
import type { MachineHandles } from "../board.ts";
import { SERIAL_LINE, SERIAL_PORT, SERIAL_PORTS } from "../devices/serial.ts";
import { enterLongMode, enterProtectedMode, identityTables } from "../entry.ts";
import { attachRam } from "../machine.ts";
import { BALLOON_PLACE, CONSOLE_PLACE, diskPlace, NET_PLACE, RNG_PLACE, VSOCK_PLACE } from "../places.ts";
import { acpiTables, RESET_PORT, RESET_VALUE } from "./acpi.ts";
import { bootParams, HIGH_START } from "./boot-params.ts";
import { parseBzImage } from "./bzimage.ts";
import { GENERATION_AT, GENERATION_LINE, setGeneration } from "./generation.ts";
import { type KernelPart, parsePvh, startInfo } from "./pvh.ts";

/** Where things are below 1 MiB, in memory that the kernel takes over once it is up. */
const AT = { gdt: 0x500, bootParams: 0x7000, pml4: 0x9000, pdpt: 0xa000, pds: 0xb000, commandLine: 0x20000 } as const;
/** In what firmware keeps: the kernel lets it be. */
const ACPI_AT = 0xe0000;
const MAPPED_GIB = 4;
/**
 * Where a PC's firmware begins. Kernels that start a machine anew by way of it go there in real mode, and find:
 *   mov al, RESET_VALUE; mov dx, RESET_PORT; out dx, al; again: hlt; jmp again
 */
const FIRMWARE_AT = 0xffff0;
const FIRMWARE = Uint8Array.of(0xb0, RESET_VALUE, 0xba, RESET_PORT & 0xff, RESET_PORT >> 8, 0xee, 0xf4, 0xeb, 0xfd);
/** The selectors that the boot protocol asks for, __BOOT_CS and __BOOT_DS. */
const CODE = 0x10;
const DATA = 0x18;
const GDT = [0n, 0n, 0x00af9a000000ffffn, 0x00cf92000000ffffn];
/** Of an ELF file nobody says. */
const COMMAND_LINE_BYTES_MAX = 2047;
const INITRD_MAX = 0x7fffffff;

export interface LinuxFiles {
  kernel: { name: string; bytes: Uint8Array };
  initrd: { name: string; bytes: Uint8Array } | null;
  commandLine: string;
}

/** A kernel that was looked at, and where everything goes: before a machine is made. */
export interface LinuxPlan {
  kernel: Kernel;
  initrd: { at: number; bytes: Uint8Array } | null;
  /** With the byte that ends it. */
  commandLine: Uint8Array;
}

/** Of either kind. */
interface Kernel {
  parts: KernelPart[];
  /** Memory that it needs until it is up, [from, to). */
  from: number;
  to: number;
  entry: number;
  /** The set-up header of a bzImage, entered in 64-bit mode; null: a PVH kernel, entered in protected mode. */
  header: Uint8Array | null;
  commandLineBytesMax: number;
  initrdMax: number;
}

function parseKernel({ bytes, name }: LinuxFiles["kernel"]): Kernel {
  const pvh = parsePvh(bytes, name);
  if (pvh) return { ...pvh, header: null, commandLineBytesMax: COMMAND_LINE_BYTES_MAX, initrdMax: INITRD_MAX };
  const { header, kernel, preferredAt, initBytes, entry, ...limits } = parseBzImage(bytes, name);
  const to = preferredAt + Math.max(initBytes, kernel.length);
  return {
    parts: [{ at: preferredAt, bytes: kernel, zeros: 0 }],
    from: preferredAt,
    to,
    entry: preferredAt + entry,
    header,
    ...limits,
  };
}

export function planLinux({ kernel: file, initrd, commandLine }: LinuxFiles, memoryBytes: number): LinuxPlan {
  const kernel = parseKernel(file);
  const text = new TextEncoder().encode(`${commandLine}\0`);
  if (text.length - 1 > kernel.commandLineBytesMax)
    throw new TramError("E_USAGE", "--append is too long for this kernel", {
      expected: `at most ${kernel.commandLineBytesMax} bytes`,
      found: `${text.length - 1}`,
    });
  const kernelEnd = kernel.to;
  const lowEnd = Math.min(memoryBytes, LOW_BYTES_MAX);
  const initrdBytes = initrd?.bytes.length ?? 0;
  const top = Math.min(lowEnd, kernel.initrdMax + 1);
  const initrdAt = Math.floor((top - initrdBytes) / PAGE_BYTES) * PAGE_BYTES;
  if (kernel.from < HIGH_START || kernelEnd > lowEnd || (initrd && initrdAt < kernelEnd)) {
    const needed = kernelEnd + Math.ceil(initrdBytes / PAGE_BYTES) * PAGE_BYTES;
    throw new TramError(
      "E_USAGE",
      `${initrd && kernelEnd <= lowEnd ? initrd.name : file.name} does not fit the guest's memory`,
      {
        expected: `--memory ${Math.ceil(needed / 2 ** 20)}M or more: the kernel needs ${Math.ceil(kernelEnd / 2 ** 20)} MiB to come up${initrd ? `, the initrd ${Math.ceil(initrdBytes / 2 ** 20)} MiB` : ""}`,
        found: `${Math.floor(memoryBytes / 2 ** 20)} MiB`,
      },
    );
  }
  return { kernel, initrd: initrd && { at: initrdAt, bytes: initrd.bytes }, commandLine: text };
}

export function bootLinux(handles: MachineHandles, { kernel, initrd, commandLine }: LinuxPlan): void {
  const ram = attachRam(handles);
  const { cpus, memoryBytes, balloon, vsock, mac, console: hasConsole } = handles.description;
  for (const { at, bytes, zeros } of kernel.parts) {
    if (bytes.length) ram.write(at, bytes);
    if (zeros) ram.write(at + bytes.length, new Uint8Array(zeros)); // the machine may have run before
  }
  if (initrd) ram.write(initrd.at, initrd.bytes);
  ram.write(AT.commandLine, commandLine);
  const virtio = [
    ...handles.disks.map((_, disk) => diskPlace(disk)), // the first disk is the first that the kernel finds
    ...(balloon ? [BALLOON_PLACE] : []),
    RNG_PLACE,
    ...(vsock ? [VSOCK_PLACE] : []),
    ...(mac === null ? [] : [NET_PLACE]),
    ...(hasConsole ? [CONSOLE_PLACE] : []),
  ];
  const generation = { address: GENERATION_AT, line: GENERATION_LINE };
  const serial = { port: SERIAL_PORT, ports: SERIAL_PORTS, line: SERIAL_LINE };
  ram.write(ACPI_AT, acpiTables({ cpus, serial, generation, virtio }, ACPI_AT));
  ram.write(FIRMWARE_AT, FIRMWARE);
  setGeneration(handles);
  ram.write(AT.gdt, new Uint8Array(BigUint64Array.from(GDT).buffer));
  const gdt = { base: AT.gdt, limit: 8 * GDT.length - 1 };
  const boot = {
    memoryBytes,
    commandLineAt: AT.commandLine,
    initrd: initrd && { address: initrd.at, bytes: initrd.bytes.length },
    rsdpAt: ACPI_AT,
  };
  // The other vCPUs wait in the kernel until this one starts them.
  const [first] = handles.vcpus;
  const { header, entry } = kernel;
  if (header) {
    ram.write(AT.bootParams, bootParams({ header, ...boot }));
    for (const { at, bytes } of identityTables(MAPPED_GIB, AT)) ram.write(at, bytes);
    enterLongMode(first, { code: CODE, data: DATA, gdt, cr3: AT.pml4, registers: { rip: entry, rsi: AT.bootParams } });
  } else {
    ram.write(AT.bootParams, startInfo(boot, AT.bootParams));
    enterProtectedMode(first, { code: CODE, data: DATA, gdt, registers: { rip: entry, rbx: AT.bootParams } });
  }
}

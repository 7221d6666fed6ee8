// A Linux kernel as distributions ship it: "bzImage", entered in 64-bit mode behind its own 16-bit set-up code.
// Source: the kernel's Documentation/arch/x86/boot.rst. Offsets are of the file; the header's fields have the same place in the
// boot parameters.
//
//   0x000  boot sector …  0x1f1 set-up header …  0x200 + set-up sectors: the kernel, of which 64-bit code is entered at + 0x200
import { TramError } from "../../errors.ts";

export const HEADER = {
  setupSectors: 0x1f1,
  bootFlag: 0x1fe,
  jumpBytes: 0x201,
  magic: 0x202,
  version: 0x206,
  loaderType: 0x210,
  loadFlags: 0x211,
  initrdAt: 0x218,
  initrdBytes: 0x21c,
  commandLineAt: 0x228,
  initrdMax: 0x22c,
  alignment: 0x230,
  extendedLoadFlags: 0x236,
  commandLineBytes: 0x238,
  preferredAt: 0x258,
  initBytes: 0x260,
} as const;

const SECTOR_BYTES = 512;
const BOOT_FLAG = 0xaa55;
const MAGIC = 0x53726448; // "HdrS"
const VERSION_MIN = 0x20c; // 3.8: extended load flags
const LOADED_HIGH = 1;
const ENTERED_64 = 1;
const ENTRY = 0x200;
/** All fields above are in it. */
export const HEADER_BYTES_MIN = 0x268;

export interface BzImage {
  /** The set-up header, from HEADER.setupSectors on, as it goes into the boot parameters. */
  header: Uint8Array;
  kernel: Uint8Array;
  /** Where it likes to be; what it needs from there on until it is up. */
  preferredAt: number;
  initBytes: number;
  alignment: number;
  /** From where the kernel lies. */
  entry: number;
  /** Without the byte that ends it. */
  commandLineBytesMax: number;
  /** The last address that an initrd may have. */
  initrdMax: number;
}

/** `name` is for errors. */
export function parseBzImage(file: Uint8Array, name: string): BzImage {
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const isOne =
    file.length >= HEADER_BYTES_MIN &&
    view.getUint16(HEADER.bootFlag, true) === BOOT_FLAG &&
    view.getUint32(HEADER.magic, true) === MAGIC;
  if (!isOne)
    throw new TramError("E_USAGE", `${name} is no Linux kernel`, {
      expected: "a bzImage, as distributions have it in /boot: vmlinuz-…",
      found: kindOf(file),
    });
  const version = view.getUint16(HEADER.version, true);
  if (version < VERSION_MIN || !(view.getUint16(HEADER.extendedLoadFlags, true) & ENTERED_64))
    throw new TramError("E_REFUSED", `${name}: this kernel cannot be entered in 64-bit mode`, {
      expected: "a kernel for x86-64, of version 3.8 or later",
      found: `boot protocol ${version >> 8}.${version & 0xff}`,
    });
  if (!(view.getUint8(HEADER.loadFlags) & LOADED_HIGH))
    throw new TramError("E_REFUSED", `${name}: this kernel wants to be below 1 MiB`, { expected: "a bzImage" });
  const kernelAt = ((view.getUint8(HEADER.setupSectors) || 4) + 1) * SECTOR_BYTES;
  const headerEnd = HEADER.magic + view.getUint8(HEADER.jumpBytes);
  const kernelBytes = view.getUint32(HEADER.setupSectors + 3, true) * 16;
  if (file.length < kernelAt + kernelBytes || headerEnd > kernelAt)
    throw new TramError("E_FILE", `${name} is cut short`, {
      expected: `${kernelAt + kernelBytes} bytes, as its header says`,
      found: `${file.length}`,
      next: "copy it again",
    });
  return {
    header: file.slice(HEADER.setupSectors, headerEnd),
    kernel: file.subarray(kernelAt),
    preferredAt: Number(view.getBigUint64(HEADER.preferredAt, true)),
    initBytes: view.getUint32(HEADER.initBytes, true),
    alignment: view.getUint32(HEADER.alignment, true),
    entry: ENTRY,
    commandLineBytesMax: view.getUint32(HEADER.commandLineBytes, true),
    initrdMax: view.getUint32(HEADER.initrdMax, true),
  };
}

/** For who took the wrong file. */
function kindOf(file: Uint8Array): string {
  if (file.length === 0) return "an empty file";
  const begins = (...bytes: number[]) => bytes.every((byte, i) => file[i] === byte);
  if (begins(0x1f, 0x8b)) return "a gzip file";
  if (begins(0x28, 0xb5, 0x2f, 0xfd)) return "a zstd file";
  if (begins(0x30, 0x37, 0x30, 0x37)) return "a cpio archive: an initrd?";
  return `${file.length} bytes of something else`;
}

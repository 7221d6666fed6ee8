// A kernel that is an ELF file and says where it is entered without firmware ("PVH"): a vmlinux, uncompressed.
// Source: Xen's documentation, misc/pvh.pandoc, and public/arch-x86/hvm/start_info.h; ELF-64 object file format 1.5.
import { TramError } from "../../errors.ts";
import { type Boot, memoryMap } from "./boot-params.ts";

const ELF_MAGIC = 0x464c457f;
const ELF64_LITTLE = 0x0102;
const X86_64 = 62;
const PROGRAM_HEADER_BYTES = 56;
const SEGMENT = { load: 1, note: 4 } as const;
const NOTE_ENTRY = 18; // XEN_ELFNOTE_PHYS32_ENTRY
const HEADERS_MAX = 256;

export interface KernelPart {
  at: number;
  bytes: Uint8Array;
  /** Bytes behind it that are zero. */
  zeros: number;
}

export interface PvhImage {
  parts: KernelPart[];
  /** Memory that it takes, [from, to). */
  from: number;
  to: number;
  entry: number;
}

/** Null: this is no ELF file. `name` is for errors. */
export function parsePvh(file: Uint8Array, name: string): PvhImage | null {
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  if (file.length < 64 || view.getUint32(0, true) !== ELF_MAGIC) return null;
  const short = (): TramError =>
    new TramError("E_FILE", `${name} is cut short`, { found: `${file.length} bytes`, next: "copy it again" });
  if (view.getUint16(4, true) !== ELF64_LITTLE || view.getUint16(18, true) !== X86_64)
    throw new TramError("E_USAGE", `${name} is no kernel for x86-64`, { found: "an ELF file of another kind" });
  const u64 = (at: number): number => {
    const value = view.getBigUint64(at, true);
    return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
  };
  const headersAt = u64(32);
  const count = view.getUint16(56, true);
  if (view.getUint16(54, true) !== PROGRAM_HEADER_BYTES || count > HEADERS_MAX)
    throw new TramError("E_USAGE", `${name} is no kernel`, { found: "an ELF file without usual program headers" });
  if (headersAt + count * PROGRAM_HEADER_BYTES > file.length) throw short();
  const segments = Array.from({ length: count }, (_, i) => {
    const at = headersAt + i * PROGRAM_HEADER_BYTES;
    const [offset, address, bytes, memory] = [u64(at + 8), u64(at + 24), u64(at + 32), u64(at + 40)];
    const type = view.getUint32(at, true);
    if ((type === SEGMENT.load || type === SEGMENT.note) && offset + bytes > file.length) throw short();
    return { type, offset, address, bytes, memory };
  });
  const loads = segments.filter(({ type, memory }) => type === SEGMENT.load && memory > 0);
  const entry = segments
    .filter(({ type }) => type === SEGMENT.note)
    .map(({ offset, bytes }) => entryOf(file.subarray(offset, offset + bytes)))
    .find((found) => found !== null);
  if (entry === undefined || entry === null || loads.length === 0)
    throw new TramError("E_USAGE", `${name} says nowhere how it is entered`, {
      expected: "a bzImage (vmlinuz), or a vmlinux with CONFIG_PVH",
      found: "an ELF file without the note for it",
    });
  return {
    parts: loads.map(({ offset, address, bytes, memory }) => ({
      at: address,
      bytes: file.subarray(offset, offset + bytes),
      zeros: Math.max(0, memory - bytes),
    })),
    from: Math.min(...loads.map(({ address }) => address)),
    to: Math.max(...loads.map(({ address, bytes, memory }) => address + Math.max(bytes, memory))),
    entry,
  };
}

/** Of a segment of notes: le32 name's length, description's length, type; each rounded up to 4 bytes. Null: it is not there. */
function entryOf(notes: Uint8Array): number | null {
  const view = new DataView(notes.buffer, notes.byteOffset, notes.length);
  const padded = (bytes: number) => Math.ceil(bytes / 4) * 4;
  for (let at = 0; at + 12 <= notes.length; ) {
    const [nameBytes, bytes, type] = [0, 4, 8].map((field) => view.getUint32(at + field, true));
    const descriptionAt = at + 12 + padded(nameBytes);
    const end = descriptionAt + padded(bytes);
    if (end > notes.length) return null;
    const name = new TextDecoder().decode(notes.subarray(at + 12, at + 12 + nameBytes));
    if (name === "Xen\0" && type === NOTE_ENTRY && bytes >= 4) return view.getUint32(descriptionAt, true);
    at = end;
  }
  return null;
}

const START_MAGIC = 0x336ec578;
const START_BYTES = 56;
const MODULE_BYTES = 32;
const RANGE_BYTES = 24;

/** What it finds at the address in EBX, as one piece for guest address `at`: start info, its only module, the map of memory. */
export function startInfo(boot: Boot, at: number): Uint8Array {
  const map = memoryMap(boot.memoryBytes);
  const mapAt = START_BYTES + MODULE_BYTES;
  const view = new DataView(new ArrayBuffer(mapAt + map.length * RANGE_BYTES));
  const u64 = (where: number, value: number) => view.setBigUint64(where, BigInt(value), true);
  view.setUint32(0, START_MAGIC, true);
  view.setUint32(4, 1, true); // version
  view.setUint32(12, boot.initrd ? 1 : 0, true);
  u64(16, boot.initrd ? at + START_BYTES : 0);
  u64(24, boot.commandLineAt);
  u64(32, boot.rsdpAt);
  u64(40, at + mapAt);
  view.setUint32(48, map.length, true);
  if (boot.initrd) {
    u64(START_BYTES, boot.initrd.address);
    u64(START_BYTES + 8, boot.initrd.bytes);
  }
  map.forEach(({ address, bytes, type }, i) => {
    u64(mapAt + i * RANGE_BYTES, address);
    u64(mapAt + i * RANGE_BYTES + 8, bytes);
    view.setUint32(mapAt + i * RANGE_BYTES + 16, type, true);
  });
  return new Uint8Array(view.buffer);
}

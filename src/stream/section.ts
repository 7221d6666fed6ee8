// The main channel's frame: header, configuration, sections, commands, end. Mirrored pairs.
//
//   header         51 45 56 4d  00 00 00 03
//   CONFIGURATION  07  be32 length  name                              { 05 pstr be32 … }*   (tram writes none of these)
//   START, FULL    01|04  be32 id  pstr name  be32 instance  be32 version   body   7e be32 id
//   PART, END      02|03  be32 id                                           body   7e be32 id
//   COMMAND        08  be16 command  be16 length  data
//   EOF            00, then VMDESCRIPTION  06  be32 length  JSON
import { type ByteSource, type ByteWriter, badStream, hex } from "./bytes.ts";
import {
  MACHINE_NAME_BYTES_MAX,
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PING,
  QEMU_VM_COMMAND,
  QEMU_VM_CONFIGURATION,
  QEMU_VM_FILE_MAGIC,
  QEMU_VM_FILE_VERSION,
  QEMU_VM_SECTION_FOOTER,
  QEMU_VM_VMDESCRIPTION,
} from "./wire.ts";

export function encodeHeader(out: ByteWriter, machine: string): void {
  out.u32(QEMU_VM_FILE_MAGIC).u32(QEMU_VM_FILE_VERSION);
  const name = new TextEncoder().encode(machine);
  out.u8(QEMU_VM_CONFIGURATION).u32(name.length).bytes(name);
}

/** Reads the header up to the machine's name; QEMU's configuration subsections are the caller's next bytes. */
export function decodeHeader(source: ByteSource): { machine: string } {
  const at = source.offset;
  const magic = source.u32();
  if (magic !== QEMU_VM_FILE_MAGIC)
    throw badStream("this is not a migration stream", at, "QEVM (51 45 56 4d)", hex(magic, 8));
  const version = source.u32();
  if (version !== QEMU_VM_FILE_VERSION)
    throw badStream("the stream has another version", at + 4, `version ${QEMU_VM_FILE_VERSION}`, `version ${version}`);
  const type = source.u8();
  if (type !== QEMU_VM_CONFIGURATION)
    throw badStream("the stream does not name its machine", at + 8, `CONFIGURATION (${hex(7)})`, hex(type));
  const length = source.u32();
  if (length > MACHINE_NAME_BYTES_MAX)
    throw badStream("the machine's name is too long", at + 9, `at most ${MACHINE_NAME_BYTES_MAX} bytes`, `${length}`);
  return { machine: new TextDecoder().decode(source.bytes(length)) };
}

export interface SectionHeader {
  id: number;
  name: string;
  instance: number;
  version: number;
}

/** START and FULL. */
export function encodeSectionStart(out: ByteWriter, type: number, section: SectionHeader): void {
  out.u8(type).u32(section.id).pstr(section.name).u32(section.instance).u32(section.version);
}

/** After the type byte. */
export function decodeSectionStart(source: ByteSource): SectionHeader {
  const at = source.offset;
  const header = { id: source.u32(), name: source.pstr(), instance: source.u32(), version: source.u32() };
  if (header.name === "") throw badStream("a section has no name", at + 4, "a name", "none");
  return header;
}

/** PART and END. */
export function encodeSectionPart(out: ByteWriter, type: number, id: number): void {
  out.u8(type).u32(id);
}

export function decodeSectionPart(source: ByteSource): number {
  return source.u32();
}

export function encodeFooter(out: ByteWriter, id: number): void {
  out.u8(QEMU_VM_SECTION_FOOTER).u32(id);
}

export function decodeFooter(source: ByteSource, id: number, name: string): void {
  const at = source.offset;
  const type = source.u8();
  const found = type === QEMU_VM_SECTION_FOOTER ? source.u32() : -1;
  if (found !== id)
    throw badStream(
      `section '${name}' does not end where it should`,
      at,
      `footer ${hex(QEMU_VM_SECTION_FOOTER)} of section ${id}`,
      found < 0 ? hex(type) : `footer of section ${found}`,
    );
}

export function encodeOpenReturnPath(out: ByteWriter): void {
  out.u8(QEMU_VM_COMMAND).u16(MIG_CMD_OPEN_RETURN_PATH).u16(0);
}

export function encodePing(out: ByteWriter, value: number): void {
  out.u8(QEMU_VM_COMMAND).u16(MIG_CMD_PING).u16(4).u32(value);
}

export type Command =
  | { command: typeof MIG_CMD_OPEN_RETURN_PATH }
  | { command: typeof MIG_CMD_PING; value: number }
  | { command: "other"; number: number };

/** After the type byte. Commands that ask nothing of us come back as "other". */
export function decodeCommand(source: ByteSource): Command {
  const at = source.offset;
  const number = source.u16();
  const length = source.u16();
  if (number === MIG_CMD_OPEN_RETURN_PATH && length === 0) return { command: MIG_CMD_OPEN_RETURN_PATH };
  if (number === MIG_CMD_PING && length === 4) return { command: MIG_CMD_PING, value: source.u32() };
  if (number === MIG_CMD_OPEN_RETURN_PATH || number === MIG_CMD_PING)
    throw badStream(`command ${number} has another length`, at + 2, number === MIG_CMD_PING ? "4" : "0", `${length}`);
  source.bytes(length);
  return { command: "other", number };
}

export function encodeVmDescription(out: ByteWriter, description: unknown): void {
  // ASCII only, on one line, as QEMU writes it.
  const text = JSON.stringify(description).replace(/[^\x20-\x7e]/g, "?");
  const bytes = new TextEncoder().encode(text);
  out.u8(QEMU_VM_VMDESCRIPTION).u32(bytes.length).bytes(bytes);
}

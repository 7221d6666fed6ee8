// The main channel's frame: header, configuration, sections, commands, end. Mirrored pairs.
//
//   header         51 45 56 4d  00 00 00 03
//   CONFIGURATION  07  be32 length  name  [capabilities]  [uuid]
//     capabilities 05 pstr "configuration/capabilities" be32 1  be32 count  { pstr }*
//     uuid         05 pstr "configuration/uuid" be32 1  16 bytes
//   START, FULL    01|04  be32 id  pstr name  be32 instance  be32 version   body   7e be32 id
//   PART, END      02|03  be32 id                                           body   7e be32 id
//   COMMAND        08  be16 command  be16 length  data
//   EOF            00, then VMDESCRIPTION  06  be32 length  JSON
import { asciiText, type ByteSource, ByteWriter, badStream, hex } from "./bytes.ts";
import {
  CAPABILITIES_MAX,
  MACHINE_NAME_BYTES_MAX,
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PING,
  QEMU_VM_COMMAND,
  QEMU_VM_CONFIGURATION,
  QEMU_VM_FILE_MAGIC,
  QEMU_VM_FILE_VERSION,
  QEMU_VM_SECTION_FOOTER,
  QEMU_VM_SUBSECTION,
  QEMU_VM_VMDESCRIPTION,
} from "./wire.ts";

export interface Configuration {
  machine: string;
  /** Of those that must be on at both ends or at neither. */
  capabilities: readonly string[];
  /** 16 bytes, where the source was told to validate it. */
  uuid: Uint8Array | null;
}

const CAPABILITIES = "configuration/capabilities";
const UUID = "configuration/uuid";
const UUID_BYTES = 16;
const SUBSECTION_VERSION = 1;

export function encodeHeader(out: ByteWriter, { machine, capabilities, uuid }: Configuration): void {
  out.u32(QEMU_VM_FILE_MAGIC).u32(QEMU_VM_FILE_VERSION);
  const name = new TextEncoder().encode(machine);
  out.u8(QEMU_VM_CONFIGURATION).u32(name.length).bytes(name);
  if (capabilities.length) {
    out.u8(QEMU_VM_SUBSECTION).pstr(CAPABILITIES).u32(SUBSECTION_VERSION).u32(capabilities.length);
    for (const capability of capabilities) out.pstr(capability);
  }
  if (uuid) out.u8(QEMU_VM_SUBSECTION).pstr(UUID).u32(SUBSECTION_VERSION).bytes(uuid);
}

export function decodeHeader(source: ByteSource): Configuration {
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
  const configuration = {
    machine: asciiText(source.bytes(length), at + 13),
    capabilities: [] as string[],
    uuid: null as Uint8Array | null,
  };
  // No record begins with the byte of a subsection, so one more byte tells.
  while (source.peek() === QEMU_VM_SUBSECTION) {
    const where = source.offset;
    source.u8();
    const name = source.pstr();
    const subversion = source.u32();
    if (subversion !== SUBSECTION_VERSION || (name !== CAPABILITIES && name !== UUID))
      throw badStream(
        "the stream's configuration has an unknown part",
        where,
        `${CAPABILITIES} or ${UUID}, version ${SUBSECTION_VERSION}`,
        `${name} version ${subversion}`,
      );
    if (name === UUID) configuration.uuid = source.bytes(UUID_BYTES);
    else configuration.capabilities = decodeCapabilities(source);
  }
  return configuration;
}

function decodeCapabilities(source: ByteSource): string[] {
  const at = source.offset;
  const count = source.u32();
  if (count > CAPABILITIES_MAX)
    throw badStream("the stream names too many capabilities", at, `at most ${CAPABILITIES_MAX}`, `${count}`);
  return Array.from({ length: count }, () => source.pstr());
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
  encodeCommand(out, { command: MIG_CMD_OPEN_RETURN_PATH, data: new Uint8Array(0) });
}

export function encodePing(out: ByteWriter, value: number): void {
  encodeCommand(out, { command: MIG_CMD_PING, data: new ByteWriter(4).u32(value).done() });
}

/** Any command; of most only the number matters. */
export interface Command {
  command: number;
  data: Uint8Array;
}

const COMMAND_BYTES: Record<number, number> = { [MIG_CMD_OPEN_RETURN_PATH]: 0, [MIG_CMD_PING]: 4 };

export function encodeCommand(out: ByteWriter, { command, data }: Command): void {
  out.u8(QEMU_VM_COMMAND).u16(command).u16(data.length).bytes(data);
}

/** After the type byte. */
export function decodeCommand(source: ByteSource): Command {
  const at = source.offset;
  const command = source.u16();
  const length = source.u16();
  const expected = COMMAND_BYTES[command];
  if (expected !== undefined && length !== expected)
    throw badStream(`command ${command} has another length`, at + 2, `${expected}`, `${length}`);
  return { command, data: source.bytes(length) };
}

/** The value that a PING asks to have back. */
export const pingValue = ({ data }: Command): number => new DataView(data.buffer, data.byteOffset).getUint32(0);

export function encodeVmDescription(out: ByteWriter, description: unknown): void {
  // ASCII only, on one line, as QEMU writes it.
  const text = JSON.stringify(description).replace(/[^\x20-\x7e]/g, "?");
  const bytes = new TextEncoder().encode(text);
  out.u8(QEMU_VM_VMDESCRIPTION).u32(bytes.length).bytes(bytes);
}

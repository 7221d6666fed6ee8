// The device state behind a stream's RAM, read by the description that follows it. Bodies have no lengths, so without the
// description nobody but the device itself knows where its section ends.
//
//   tail           { END of another iterative section | COMMAND | FULL … }*  EOF  [VMDESCRIPTION]
//   description    { "page_size", "devices": [ { "name", "instance_id", STRUCT } ] }
//   STRUCT         "vmsd_name", "version", "fields": [ { "name", "type", "size", ["array_len"], ["struct": STRUCT] } ],
//                  "subsections": [ STRUCT ]: on the wire  05 pstr name  be32 version  fields
//
// "size" is that of one element. Types with a nested layout but no "struct" (tmp, lists) count as "size" bytes.
import { TramError } from "../errors.ts";
import { ByteReader, badStream, hex } from "./bytes.ts";
import { skipDirtyBitmaps } from "./dirty-bitmap.ts";
import { decodeCommand, decodeFooter, decodeSectionPart, decodeSectionStart, type SectionHeader } from "./section.ts";
import {
  QEMU_VM_COMMAND,
  QEMU_VM_EOF,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_FOOTER,
  QEMU_VM_SECTION_FULL,
  QEMU_VM_SUBSECTION,
  QEMU_VM_VMDESCRIPTION,
  VMDESC_BYTES_MAX,
} from "./wire.ts";

/** One leaf of a device's state, or a group of them. Offsets count from the beginning of the stream. */
export interface DeviceField {
  name: string;
  type: string;
  offset: number;
  bytes: number;
  fields?: DeviceField[];
}

export interface DeviceSection extends SectionHeader {
  /** From its type byte to the end of its footer. */
  offset: number;
  bytes: number;
  bodyOffset: number;
  bodyBytes: number;
  /** Empty where only the section's borders are known. */
  fields: DeviceField[];
}

/** What lies behind a stream's RAM. Offsets count from the beginning of the stream. */
export interface Tail {
  devices: DeviceSection[];
  eofOffset: number;
  /** The description's JSON; null: the stream has none. */
  description: string | null;
  /** How the devices' borders were found: field by field, by their headers alone, or not at all. */
  bordersBy: "fields" | "headers" | "nothing";
}

interface Layout {
  name: string;
  fields: unknown[];
  subsections: unknown[];
  version: number;
}

const END_AND_DESCRIPTION = Buffer.from([QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION]);
const TRIES_MAX = 8;
const DEPTH_MAX = 32;
const FIELDS_MAX = 1_000_000;

/**
 * Where `bytes`, the tail of a stream from the end of its RAM on, are complete: the stream's last byte is there, and it is
 * the end of a description. Null: not yet, or the stream has no description.
 */
export function findDescription(bytes: Uint8Array): { eofAt: number; json: string } | null {
  if (bytes.at(-1) !== 0x7d /* } */) return null;
  const first = Math.max(0, bytes.length - VMDESC_BYTES_MAX - 6);
  return lastDescription(bytes, first, (end) => end === bytes.length);
}

/** Where a described stream ends in `bytes`, its tail with whatever follows it; -1: nowhere. */
export const describedEnd = (bytes: Uint8Array): number =>
  lastDescription(bytes, 0, (end) => end <= bytes.length)?.end ?? -1;

/** The last description that begins at or behind `first` and ends where it `mayEnd`. */
function lastDescription(
  bytes: Uint8Array,
  first: number,
  mayEnd: (end: number) => boolean,
): { eofAt: number; json: string; end: number } | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const haystack = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  let tries = 0;
  for (
    let at = haystack.lastIndexOf(END_AND_DESCRIPTION);
    at >= first;
    at = haystack.lastIndexOf(END_AND_DESCRIPTION, at - 1)
  ) {
    const text = at + 6;
    const end = text < bytes.length && bytes[text] === 0x7b /* { */ ? text + view.getUint32(at + 2) : text;
    if (end > text && mayEnd(end)) {
      const json = new TextDecoder("latin1").decode(bytes.subarray(text, end));
      if (parseDescription(json)) return { eofAt: at, json, end };
      if (++tries === TRIES_MAX) return null; // no stream has so many that look like one: somebody wants us to be busy
    }
    if (at === 0) break;
  }
  return null;
}

/** The description's devices; null if this is no description. */
function parseDescription(json: string): unknown[] | null {
  try {
    const value = JSON.parse(json) as { devices?: unknown };
    return value !== null && typeof value === "object" && Array.isArray(value.devices) ? value.devices : null;
  } catch {
    return null;
  }
}

/**
 * The tail of a stream, whole. `base` is where it lies in the stream, `devicesBefore` how many of the description's devices
 * came before the RAM. Without a description only the end is looked for.
 */
export function readTail(bytes: Uint8Array, base: number, devicesBefore = 0): Tail {
  const found = findDescription(bytes);
  if (!found)
    return {
      devices: [],
      eofOffset: base + endWithoutDescription(bytes, base),
      description: null,
      bordersBy: "nothing",
    };
  const descriptions = (parseDescription(found.json) as unknown[]).slice(devicesBefore);
  const tail = { eofOffset: base + found.eofAt, description: found.json };
  try {
    return { ...tail, devices: walkByFields(bytes, base, found.eofAt, descriptions), bordersBy: "fields" };
  } catch (error) {
    // A description may be wrong about a device without anything being wrong with the state: its neighbours' headers decide.
    const devices = walkByHeaders(bytes, base, found.eofAt, descriptions);
    if (!devices) throw error;
    return { ...tail, devices, bordersBy: "headers" };
  }
}

/** A stream that nobody described ends with the last section's footer and the EOF byte. */
export function endsUndescribed(bytes: Uint8Array): boolean {
  if (bytes.at(-1) !== QEMU_VM_EOF) return false;
  return bytes.length === 1 || bytes.at(-6) === QEMU_VM_SECTION_FOOTER;
}

function endWithoutDescription(bytes: Uint8Array, base: number): number {
  const end = describedEnd(bytes);
  if (end >= 0)
    throw new TramError("E_STREAM", "bytes follow the stream's end", {
      where: `byte ${base + end} of the stream`,
      expected: "nothing",
      found: `${bytes.length - end} bytes`,
      next: "what is left of a seal is replaced by tram seal --force; anything else does not belong there",
    });
  if (endsUndescribed(bytes)) return bytes.length - 1;
  throw new TramError("E_STREAM_TRUNCATED", "the stream ends in the middle of the device state", {
    where: `byte ${base + bytes.length} of the stream`,
    expected: "a description, or the footer of a section and the end",
    found: `${bytes.length} bytes of device state that end otherwise`,
  });
}

function walkByFields(
  bytes: Uint8Array,
  base: number,
  eofAt: number,
  descriptions: readonly unknown[],
): DeviceSection[] {
  const source = new ByteReader(bytes.subarray(0, eofAt + 1), base);
  const devices: DeviceSection[] = [];
  const walk = new FieldWalk(source);
  for (;;) {
    const offset = source.offset;
    const type = source.u8();
    if (type === QEMU_VM_EOF && devices.length === descriptions.length && source.left === 0) return devices;
    if (type === QEMU_VM_COMMAND) decodeCommand(source);
    else if (type === QEMU_VM_SECTION_END) skipEnd(source);
    else if (type === QEMU_VM_SECTION_FULL && devices.length < descriptions.length) {
      const header = decodeSectionStart(source);
      const description = asObject(descriptions[devices.length], offset);
      if (description.name !== header.name || description.instance_id !== header.instance)
        throw badStream(
          "the description has another device here",
          offset,
          `'${textOf(description.name)}' instance ${textOf(description.instance_id)}`,
          `'${header.name}' instance ${header.instance}`,
        );
      const bodyOffset = source.offset;
      const fields = walk.struct(description, 0);
      const bodyBytes = source.offset - bodyOffset;
      decodeFooter(source, header.id, header.name);
      devices.push({ ...header, offset, bytes: source.offset - offset, bodyOffset, bodyBytes, fields });
    } else {
      throw badStream("no device's section begins here", offset, "a section, or the end", hex(type));
    }
  }
}

function skipEnd(source: ByteReader): void {
  const id = decodeSectionPart(source);
  skipDirtyBitmaps(source);
  decodeFooter(source, id, "dirty-bitmap");
}

/** Consumes a device's body field by field. */
class FieldWalk {
  readonly #source: ByteReader;
  #count = 0;

  constructor(source: ByteReader) {
    this.#source = source;
  }

  struct(value: unknown, depth: number): DeviceField[] {
    const source = this.#source;
    const layout = layoutOf(value, source.offset);
    if (depth > DEPTH_MAX)
      throw badStream("the description is nested too deeply", source.offset, `${DEPTH_MAX} levels`, "more");
    const fields = layout.fields.flatMap((field) => this.#field(asObject(field, source.offset), depth));
    for (const sub of layout.subsections) {
      const offset = source.offset;
      const { name, version } = layoutOf(sub, offset);
      const found = source.u8() === QEMU_VM_SUBSECTION ? source.pstr() : "";
      if (found !== name || source.u32() !== version)
        throw badStream(
          "a subsection is not where the description has it",
          offset,
          `'${name}' version ${version}`,
          found || "no subsection",
        );
      const nested = this.struct(sub, depth + 1);
      fields.push({ name, type: "subsection", offset, bytes: source.offset - offset, fields: nested });
    }
    return fields;
  }

  #field(field: Record<string, unknown>, depth: number): DeviceField[] {
    const source = this.#source;
    const name = textOf(field.name);
    const type = textOf(field.type);
    const size = countOf(field.size, source.offset);
    if (field.array_len === undefined) return [this.#element(field, name, type, size, depth)];
    const length = countOf(field.array_len, source.offset);
    const { offset } = source;
    if (length > source.left)
      throw badStream("the description has too many fields", offset, `at most ${source.left}`, `${length}`);
    if (type !== "struct") {
      source.skip(size * length);
      return [{ name, type: `${type}[${length}]`, offset, bytes: size * length }];
    }
    const elements = Array.from({ length }, (_, i) => this.#element(field, `[${i}]`, type, size, depth));
    return [{ name, type: `struct[${length}]`, offset, bytes: source.offset - offset, fields: elements }];
  }

  #element(field: Record<string, unknown>, name: string, type: string, size: number, depth: number): DeviceField {
    const source = this.#source;
    const { offset } = source;
    if (++this.#count > FIELDS_MAX)
      throw badStream("the description has too many fields", offset, `at most ${FIELDS_MAX}`, "more");
    const nested = field.struct as { fields?: unknown } | undefined;
    if (type === "struct" && Array.isArray(nested?.fields)) {
      const fields = this.struct(nested, depth + 1);
      const bytes = source.offset - offset;
      if (bytes !== size && field.array_len === undefined)
        throw badStream(`field '${name}' has another size than described`, offset, `${size} bytes`, `${bytes} bytes`);
      return { name, type, offset, bytes, fields };
    }
    source.skip(size);
    return { name, type, offset, bytes: size };
  }
}

/** A peer's JSON may have anything anywhere, also what cannot be made a text. */
const textOf = (value: unknown): string => (typeof value === "string" || typeof value === "number" ? `${value}` : "");

function asObject(value: unknown, offset: number): Record<string, unknown> {
  if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  throw badStream("the description is wrong", offset, "an object", typeof value);
}

function layoutOf(value: unknown, offset: number): Layout {
  const { vmsd_name, version, fields, subsections } = asObject(value, offset);
  return {
    name: textOf(vmsd_name),
    version: typeof version === "number" ? version : 0,
    fields: Array.isArray(fields) ? fields : [],
    subsections: Array.isArray(subsections) ? subsections : [],
  };
}

function countOf(value: unknown, offset: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw badStream("the description is wrong", offset, "a size", textOf(value) || typeof value);
}

/** The borders of the devices by the next one's header, which the description names; null if one is not found. */
function walkByHeaders(
  bytes: Uint8Array,
  base: number,
  eofAt: number,
  descriptions: readonly unknown[],
): DeviceSection[] | null {
  const devices: DeviceSection[] = [];
  const headers = descriptions.map((one) => one as { name?: unknown; instance_id?: unknown } | null);
  let at = headers.length ? nextHeader(bytes, 0, headers[0]) : eofAt;
  for (let i = 0; i < headers.length; i++) {
    if (at < 0) return null;
    const source = new ByteReader(bytes.subarray(at, eofAt), base + at);
    source.u8();
    const header = decodeSectionStart(source);
    const body = source.offset - base;
    const next = i + 1 < headers.length ? nextHeader(bytes, body, headers[i + 1]) : eofAt;
    const footer = next - 5;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    if (footer < body || bytes[footer] !== QEMU_VM_SECTION_FOOTER || view.getUint32(footer + 1) !== header.id)
      return null;
    devices.push({
      ...header,
      offset: base + at,
      bytes: next - at,
      bodyOffset: base + body,
      bodyBytes: footer - body,
      fields: [],
    });
    at = next;
  }
  return at === eofAt ? devices : null;
}

/** Where  04 be32 ? pstr name be32 instance  stands at or behind `from`; -1: nowhere. */
function nextHeader(bytes: Uint8Array, from: number, device: { name?: unknown; instance_id?: unknown } | null): number {
  const name = Buffer.from(textOf(device?.name), "latin1");
  const instance = Buffer.alloc(4);
  instance.writeUInt32BE(Number(textOf(device?.instance_id)) >>> 0);
  const pattern = Buffer.concat([Buffer.from([name.length]), name, instance]);
  const haystack = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = haystack.indexOf(pattern, from + 5); at >= 0; at = haystack.indexOf(pattern, at + 1))
    if (bytes[at - 5] === QEMU_VM_SECTION_FULL) return at - 5;
  return -1;
}

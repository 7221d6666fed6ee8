// A device's fields as people and programs read them.
import type { DeviceField, DeviceSection } from "../stream/description.ts";

/** A field with its value. `value`: a number (as text beyond 2^53), true or false, text, or hexadecimal bytes. */
export interface FieldValue {
  name: string;
  type: string;
  offset: number;
  bytes: number;
  value?: number | string | boolean;
  fields?: FieldValue[];
}

const BYTES_SHOWN = 64;
const NOT_ARMED = (1n << 64n) - 1n;

/** `tail`: the bytes that the sections lie in, from stream offset `base` on. */
export function fieldValues(section: Pick<DeviceSection, "fields">, tail: Uint8Array, base: number): FieldValue[] {
  return section.fields.map((field) => withValue(field, tail, base));
}

function withValue(field: DeviceField, tail: Uint8Array, base: number): FieldValue {
  const { name, type, offset, bytes, fields } = field;
  if (fields) return { name, type, offset, bytes, fields: fieldValues({ fields }, tail, base) };
  return { name, type, offset, bytes, value: decodeValue(type, tail.subarray(offset - base, offset - base + bytes)) };
}

function decodeValue(type: string, bytes: Uint8Array): number | string | boolean {
  if (type === "bool" && bytes.length === 1) return bytes[0] !== 0;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (type === "timer" && bytes.length === 8) {
    const ns = view.getBigUint64(0);
    return ns === NOT_ARMED ? "not armed" : number(ns);
  }
  if (/^u?int(8|16|32|64)\b/.test(type) && !type.endsWith("]")) {
    const signed = type.startsWith("int");
    if (bytes.length === 1) return signed ? view.getInt8(0) : view.getUint8(0);
    if (bytes.length === 2) return signed ? view.getInt16(0) : view.getUint16(0);
    if (bytes.length === 4) return signed ? view.getInt32(0) : view.getUint32(0);
    if (bytes.length === 8) return number(signed ? view.getBigInt64(0) : view.getBigUint64(0));
  }
  const text = asText(bytes);
  if (text !== null) return text;
  const shown = Buffer.from(bytes.subarray(0, BYTES_SHOWN)).toString("hex");
  return bytes.length > BYTES_SHOWN ? `${shown}…` : shown;
}

function number(value: bigint): number | string {
  const exact = Number(value);
  return Number.isSafeInteger(exact) ? exact : value.toString();
}

/** Printable text that is padded with zeros: names, states. */
function asText(bytes: Uint8Array): string | null {
  const end = bytes.indexOf(0);
  const text = end < 0 ? bytes : bytes.subarray(0, end);
  if (text.length < 3 || bytes.subarray(text.length).some((byte) => byte !== 0)) return null;
  return text.every((byte) => byte >= 0x20 && byte <= 0x7e)
    ? JSON.stringify(Buffer.from(text).toString("latin1"))
    : null;
}

// ACPI's machine language, as much of it as describes devices: names, constants, packages, resources. Terms are bytes.
// Source: ACPI specification 6.5, 20.2 (AML grammar) and 6.4 (resource data types).

const encoder = new TextEncoder();
const join = (...parts: Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));
const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);
const le = (value: number, size: number): number[] =>
  Array.from({ length: size }, (_, i) => (value / 2 ** (8 * i)) & 0xff);

/** The length of a package counts its own bytes. */
function packageLength(content: number): Uint8Array {
  if (content + 1 < 0x40) return bytes(content + 1);
  const more = content + 2 < 0x1000 ? 1 : content + 3 < 0x100000 ? 2 : 3;
  const length = content + 1 + more;
  return bytes((more << 6) | (length & 0xf), ...le(Math.floor(length / 16), more));
}

const packaged = (opcode: readonly number[], ...content: Uint8Array[]): Uint8Array => {
  const all = join(...content);
  return join(bytes(...opcode), packageLength(all.length), all);
};

/** One segment, "COM1" or "_CRS", or two, "_SB.COM1"; "\\" before them: from the root. */
function nameString(name: string): Uint8Array {
  const [root, path] = name.startsWith("\\") ? ["\\", name.slice(1)] : ["", name];
  const segments = path.split(".").map((segment) => segment.padEnd(4, "_"));
  const prefix = segments.length === 2 ? TWO_SEGMENTS : "";
  return encoder.encode(root + prefix + segments.join(""));
}
const TWO_SEGMENTS = ".";

export function integer(value: number): Uint8Array {
  if (value === 0 || value === 1) return bytes(value);
  if (value < 0x100) return bytes(0x0a, value);
  if (value < 0x10000) return bytes(0x0b, ...le(value, 2));
  return value < 2 ** 32 ? bytes(0x0c, ...le(value, 4)) : bytes(0x0e, ...le(value, 8));
}

export const string = (text: string): Uint8Array => join(bytes(0x0d), encoder.encode(text), bytes(0));

/** "PNP0501" as the number that stands for it. */
export function eisaId(text: string): Uint8Array {
  const [a, b, c] = [0, 1, 2].map((i) => text.charCodeAt(i) - 0x40);
  const value = (a << 26) | (b << 21) | (c << 16) | Number.parseInt(text.slice(3), 16);
  return bytes(0x0c, ...le(value >>> 0, 4).reverse());
}

export const scope = (name: string, ...terms: Uint8Array[]): Uint8Array => packaged([0x10], nameString(name), ...terms);
export const device = (name: string, ...terms: Uint8Array[]): Uint8Array =>
  packaged([0x5b, 0x82], nameString(name), ...terms);
export const name = (of: string, value: Uint8Array): Uint8Array => join(bytes(0x08), nameString(of), value);
export const list = (...elements: Uint8Array[]): Uint8Array => packaged([0x12], bytes(elements.length), ...elements);

/** A method of so many arguments that nobody runs twice at a time. */
export const method = (of: string, args: number, ...terms: Uint8Array[]): Uint8Array =>
  packaged([0x14], nameString(of), bytes(args | 0x08), ...terms);
export const notify = (of: string, value: number): Uint8Array => join(bytes(0x86), nameString(of), integer(value));

const buffer = (content: Uint8Array): Uint8Array => packaged([0x11], integer(content.length), content);

/** What a device uses, for its _CRS. */
export const resources = (...descriptors: Uint8Array[]): Uint8Array => buffer(join(...descriptors, bytes(0x79, 0)));
export const ioPorts = (first: number, count: number): Uint8Array =>
  bytes(0x47, 1, ...le(first, 2), ...le(first, 2), 1, count);
export const memory = (address: number, size: number): Uint8Array =>
  bytes(0x86, 9, 0, 1, ...le(address, 4), ...le(size, 4));
/** Active high, not shared. */
export const interrupt = (line: number, trigger: "edge" | "level"): Uint8Array =>
  bytes(0x89, 6, 0, trigger === "edge" ? 0x03 : 0x01, 1, ...le(line, 4));

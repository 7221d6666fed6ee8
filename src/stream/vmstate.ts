// Device state from declarative tables: one table saves, loads, and writes the description in QEMU's schema.
import { type ByteSource, type ByteWriter, badStream } from "./bytes.ts";
import { QEMU_VM_SUBSECTION } from "./wire.ts";

/** Integers on the wire are big-endian; in a state those of 64 bits are bigints, all others numbers. */
export type ScalarType = "bool" | "uint8" | "uint16" | "uint32" | "uint64" | "int32" | "int64";
export type StateValue = number | bigint | Uint8Array | number[] | bigint[] | State | State[];
export interface State {
  [name: string]: StateValue;
}

export type Field =
  | { name: string; type: ScalarType; count?: number }
  | { name: string; type: "buffer"; size: number }
  | { name: string; type: "unused_buffer"; size: number }
  | { name: string; type: "struct"; table: Table; count?: number }
  /** As many structs as the field `countFrom`, which comes before it, says; at most `max`. */
  | { name: string; type: "list"; table: Table; countFrom: string; max: number }
  /** As many bytes as the field `countFrom` says; at most `max`. */
  | { name: string; type: "blob"; countFrom: string; max: number };

export interface Table {
  name: string;
  version: number;
  fields: readonly Field[];
  subsections?: readonly Table[];
}

const SCALAR_BYTES: Record<ScalarType, number> = {
  bool: 1,
  uint8: 1,
  uint16: 2,
  uint32: 4,
  uint64: 8,
  int32: 4,
  int64: 8,
};

function putScalar(out: ByteWriter, type: ScalarType, value: number | bigint): void {
  const bytes = SCALAR_BYTES[type];
  if (bytes === 8) out.u64(BigInt(value));
  else if (bytes === 4) out.u32(Number(value) >>> 0);
  else if (bytes === 2) out.u16(Number(value));
  else out.u8(Number(value));
}

function takeScalar(source: ByteSource, type: ScalarType): number | bigint {
  if (type === "uint64") return source.u64();
  if (type === "int64") return BigInt.asIntN(64, source.u64());
  if (type === "uint32") return source.u32();
  if (type === "int32") return source.u32() | 0;
  return type === "uint16" ? source.u16() : source.u8();
}

/** The body of a section or subsection. */
export function saveState(table: Table, state: State, out: ByteWriter): void {
  for (const field of table.fields) {
    const value = state[field.name];
    if (field.type === "buffer") out.bytes(exactly(value as Uint8Array, field.size, field.name));
    else if (field.type === "unused_buffer") out.bytes(new Uint8Array(field.size));
    else if (field.type === "blob") out.bytes(exactly(value as Uint8Array, Number(state[field.countFrom]), field.name));
    else if (field.type === "struct" || field.type === "list")
      for (const one of structs(value)) saveState(field.table, one, out);
    else if (field.count === undefined) putScalar(out, field.type, value as number | bigint);
    else for (let i = 0; i < field.count; i++) putScalar(out, field.type, (value as number[])[i]);
  }
  for (const sub of table.subsections ?? []) {
    const value = state[sub.name];
    if (value === undefined) continue;
    out.u8(QEMU_VM_SUBSECTION).pstr(sub.name).u32(sub.version);
    saveState(sub, value as State, out);
  }
}

/** The mirror of saveState; checks counts and versions before anything is allocated for them. */
export function loadState(table: Table, source: ByteSource): State {
  const state: State = {};
  for (const field of table.fields) {
    const at = source.offset;
    if (field.type === "buffer") state[field.name] = source.bytes(field.size);
    else if (field.type === "unused_buffer") source.bytes(field.size);
    else if (field.type === "blob") state[field.name] = source.bytes(boundedCount(state, field, at));
    else if (field.type === "list")
      state[field.name] = Array.from({ length: boundedCount(state, field, at) }, () => loadState(field.table, source));
    else if (field.type === "struct")
      state[field.name] =
        field.count === undefined
          ? loadState(field.table, source)
          : Array.from({ length: field.count }, () => loadState(field.table, source));
    else if (field.count === undefined) state[field.name] = takeScalar(source, field.type);
    else {
      const { type } = field;
      state[field.name] = Array.from({ length: field.count }, () => takeScalar(source, type)) as number[];
    }
  }
  for (const sub of table.subsections ?? []) {
    // Our own tables always write all their subsections: there is nothing to guess from the next byte.
    const at = source.offset;
    const type = source.u8();
    const name = type === QEMU_VM_SUBSECTION ? source.pstr() : "";
    const version = name === sub.name ? source.u32() : -1;
    if (version !== sub.version)
      throw badStream(
        `'${table.name}' lacks a subsection`,
        at,
        `${sub.name} version ${sub.version}`,
        name || `byte ${type}`,
      );
    state[sub.name] = loadState(sub, source);
  }
  return state;
}

/** The table's part of the stream's description, as QEMU's schema has it. Sizes are those of `state`. */
export function describeState(table: Table, state: State): object {
  const subsections = (table.subsections ?? []).filter((sub) => state[sub.name] !== undefined);
  return {
    vmsd_name: table.name,
    version: table.version,
    fields: table.fields.flatMap((field) => describeField(field, state)),
    ...(subsections.length && { subsections: subsections.map((sub) => describeState(sub, state[sub.name] as State)) }),
  };
}

function describeField(field: Field, state: State): object[] {
  const { name } = field;
  if (field.type === "buffer" || field.type === "unused_buffer") return [{ name, type: field.type, size: field.size }];
  if (field.type === "blob") return [{ name, type: "buffer", size: Number(state[field.countFrom]) }];
  if (field.type === "struct" || field.type === "list") {
    const list = structs(state[name]);
    if (list.length === 0) return [];
    const entry = (one: State) => ({
      type: "struct",
      struct: describeState(field.table, one),
      size: stateBytes(field.table, one),
    });
    const first = entry(list[0]);
    if (list.length === 1) return [{ name, ...first }];
    if (list.every((one) => stateBytes(field.table, one) === first.size))
      return [{ name, array_len: list.length, ...first }];
    return list.map((one, index) => ({ name, index, ...entry(one) })); // of one size or another
  }
  const size = SCALAR_BYTES[field.type];
  return [
    field.count === undefined
      ? { name, type: field.type, size }
      : { name, array_len: field.count, type: field.type, size },
  ];
}

function stateBytes(table: Table, state: State): number {
  let sum = 0;
  for (const field of table.fields) {
    if (field.type === "buffer" || field.type === "unused_buffer") sum += field.size;
    else if (field.type === "blob") sum += Number(state[field.countFrom]);
    else if (field.type === "struct" || field.type === "list")
      for (const one of structs(state[field.name])) sum += stateBytes(field.table, one);
    else sum += SCALAR_BYTES[field.type] * (field.count ?? 1);
  }
  return sum;
}

function structs(value: StateValue): State[] {
  return Array.isArray(value) ? (value as State[]) : [value as State];
}

function exactly(bytes: Uint8Array, size: number, name: string): Uint8Array {
  if (bytes.length !== size) throw new RangeError(`field ${name} has ${bytes.length} bytes, not ${size}`);
  return bytes;
}

function boundedCount(state: State, field: { name: string; countFrom: string; max: number }, at: number): number {
  const count = Number(state[field.countFrom]);
  if (count > field.max)
    throw badStream(`'${field.name}' has too many entries`, at, `at most ${field.max}`, `${count}`);
  return count;
}

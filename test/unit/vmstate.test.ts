import { describe, expect, test } from "bun:test";
import { TramError } from "../../src/errors.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { DEVICE_TABLES } from "../../src/stream/devices/index.ts";
import {
  CPUS_MAX,
  globalstateFrom,
  type MachineDescription,
  MEMORY_BYTES_MAX,
  machine,
  machineFromState,
  machineToState,
  runStateFrom,
} from "../../src/stream/devices/machine.ts";
import {
  describeState,
  type Field,
  loadState,
  type State,
  type StateValue,
  saveState,
  type Table,
} from "../../src/stream/vmstate.ts";

type Random = (below: number) => number;

function seeded(seed: number): Random {
  let n = 0;
  return (below) => Number(Bun.hash.wyhash(`${n++}`, BigInt(seed)) % BigInt(below));
}

const randomBytes = (count: number, random: Random): Uint8Array =>
  Uint8Array.from({ length: count }, () => random(256));

function randomScalar(type: string, random: Random): number | bigint {
  const bits = BigInt(random(2 ** 32)) * 2n ** 32n + BigInt(random(2 ** 32));
  if (type === "bool") return random(2);
  if (type === "uint64") return bits;
  if (type === "int64") return BigInt.asIntN(64, bits);
  if (type === "int32") return Number(BigInt.asIntN(32, bits));
  return Number(BigInt.asUintN(Number(type.replace("uint", "")), bits));
}

/** Any state that the table can hold. */
function randomState(table: Table, random: Random): State {
  const counts = new Map(
    table.fields.flatMap((field) =>
      "countFrom" in field ? [[field.countFrom, random(Math.min(field.max, 20) + 1)]] : [],
    ),
  );
  const state: State = {};
  const times = (count: number | undefined, make: () => StateValue): StateValue =>
    count === undefined ? make() : (Array.from({ length: count }, make) as State[]);
  for (const field of table.fields) {
    const { name } = field;
    if (field.type === "unused_buffer") continue;
    if (field.type === "buffer") state[name] = randomBytes(field.size, random);
    else if (field.type === "blob") state[name] = randomBytes(counts.get(field.countFrom)!, random);
    else if (field.type === "list")
      state[name] = times(counts.get(field.countFrom)!, () => randomState(field.table, random));
    else if (field.type === "struct") state[name] = times(field.count, () => randomState(field.table, random));
    else state[name] = counts.get(name) ?? times(field.count, () => randomScalar(field.type, random));
  }
  for (const sub of table.subsections ?? []) state[sub.name] = randomState(sub, random);
  return state;
}

function save(table: Table, state: State): Uint8Array {
  const out = new ByteWriter();
  saveState(table, state, out);
  return out.done();
}

interface Described {
  vmsd_name: string;
  version: number;
  fields: { name: string; type: string; size: number; array_len?: number; struct?: Described }[];
  subsections?: Described[];
}

/** What a reader that has only the description would take for the section's length; checks inner sums on the way. */
function describedBytes(description: Described): number {
  let sum = 0;
  for (const { size, array_len, struct } of description.fields) {
    if (struct) expect(describedBytes(struct)).toBe(size);
    sum += size * (array_len ?? 1);
  }
  for (const sub of description.subsections ?? []) sum += 1 + 1 + sub.vmsd_name.length + 4 + describedBytes(sub);
  return sum;
}

const ALL: Table = {
  name: "all",
  version: 1,
  fields: [
    { name: "flag", type: "bool" },
    { name: "a", type: "uint8" },
    { name: "b", type: "uint16", count: 2 },
    { name: "c", type: "int32" },
    { name: "d", type: "int64" },
    { name: "raw", type: "buffer", size: 2 },
    { name: "gap", type: "unused_buffer", size: 3 },
    { name: "n", type: "uint8" },
    {
      name: "list",
      type: "list",
      table: { name: "one", version: 1, fields: [{ name: "x", type: "uint16" }] },
      countFrom: "n",
      max: 2,
    },
    { name: "m", type: "uint32" },
    { name: "blob", type: "blob", countFrom: "m", max: 3 },
  ],
  subsections: [{ name: "all/sub", version: 7, fields: [{ name: "y", type: "uint32" }] }],
};
const ALL_STATE: State = {
  flag: 1,
  a: 2,
  b: [3, 0x405],
  c: -2,
  d: -3n,
  raw: new Uint8Array([6, 7]),
  n: 2,
  list: [{ x: 8 }, { x: 9 }],
  m: 1,
  blob: new Uint8Array([10]),
  "all/sub": { y: 11 },
};
const ALL_BYTES =
  "01" +
  "02" +
  "0003" +
  "0405" +
  "fffffffe" +
  "fffffffffffffffd" +
  "0607" +
  "000000" +
  "02" +
  "0008" +
  "0009" +
  "00000001" +
  "0a" +
  `05${"07"}${Buffer.from("all/sub").toString("hex")}00000007${"0000000b"}`;

describe("a table with every kind of field", () => {
  test("is these bytes", () => {
    expect(Buffer.from(save(ALL, ALL_STATE)).toString("hex")).toBe(ALL_BYTES);
    expect(loadState(ALL, new ByteReader(Buffer.from(ALL_BYTES, "hex")))).toEqual(ALL_STATE);
  });

  test("refuses to save a buffer of another size", () => {
    expect(() => save(ALL, { ...ALL_STATE, raw: new Uint8Array(3) })).toThrow("field raw has 3 bytes, not 2");
    expect(() => save(ALL, { ...ALL_STATE, blob: new Uint8Array(3) })).toThrow("field blob has 3 bytes, not 1");
  });

  test.each<[string, number, string, string]>([
    ["more entries than a list may have", 23, "03", "'list' has too many entries"],
    ["a larger blob than there may be", 28, "00000004", "'blob' has too many entries"],
    ["a blob of 4 GiB", 28, "ffffffff", "'blob' has too many entries"],
    ["something else where its subsection should be", 33, "7e", "'all' lacks a subsection"],
    ["another subsection", 35, "62", "'all' lacks a subsection"],
    ["another version of its subsection", 45, "08", "'all' lacks a subsection"],
  ])("refuses to load %s", (_, at, bytes, message) => {
    const hex = ALL_BYTES.slice(0, at * 2) + bytes + ALL_BYTES.slice(at * 2 + bytes.length);
    expect(() => loadState(ALL, new ByteReader(Buffer.from(hex, "hex")))).toThrow(message);
  });

  test("is described in QEMU's words", () => {
    const { fields, subsections } = describeState(ALL, ALL_STATE) as Described;
    expect(fields.slice(0, 3)).toEqual([
      { name: "flag", type: "bool", size: 1 },
      { name: "a", type: "uint8", size: 1 },
      { name: "b", array_len: 2, type: "uint16", size: 2 },
    ]);
    expect(fields.find(({ name }) => name === "list")).toMatchObject({
      array_len: 2,
      type: "struct",
      size: 2,
      struct: { vmsd_name: "one" },
    });
    expect(fields.find(({ name }) => name === "gap")).toEqual({ name: "gap", type: "unused_buffer", size: 3 });
    expect(subsections).toMatchObject([{ vmsd_name: "all/sub", version: 7 }]);
    expect(describedBytes(describeState(ALL, ALL_STATE) as Described)).toBe(ALL_BYTES.length / 2);
  });
});

describe.each([...DEVICE_TABLES.values()])("table $name", (table) => {
  const SEEDS = [1, 2, 3, 4, 5];

  test.each(SEEDS)("comes back as it was saved, whole, seed %d", (seed) => {
    const state = randomState(table, seeded(seed));
    const source = new ByteReader(save(table, state));
    expect(loadState(table, source)).toEqual(state);
    expect(source.left).toBe(0);
  });

  test.each(SEEDS)("is described with sizes that sum to its bytes, seed %d", (seed) => {
    const state = randomState(table, seeded(seed));
    const description = describeState(table, state) as Described;
    expect(description).toMatchObject({ vmsd_name: table.name, version: table.version });
    expect(describedBytes(description)).toBe(save(table, state).length);
  });

  test("is an error of the stream when cut after any byte, seed 1", () => {
    const bytes = save(table, randomState(table, seeded(1)));
    const wrong: unknown[] = [];
    for (let length = 0; length < bytes.length; length++)
      try {
        loadState(table, new ByteReader(bytes.subarray(0, length)));
        wrong.push(`${length} bytes were enough`);
      } catch (error) {
        if (!(error instanceof TramError) || !["E_STREAM_TRUNCATED", "E_STREAM"].includes(error.code))
          wrong.push(error);
      }
    expect(wrong).toEqual([]);
  });

  test("is loaded or refused, whatever its bytes are, seeds 1 to 50", () => {
    for (let seed = 1; seed <= 50; seed++) {
      const bytes = randomBytes(8192, seeded(seed));
      try {
        expect(save(table, loadState(table, new ByteReader(bytes))).length).toBeLessThanOrEqual(bytes.length);
      } catch (error) {
        if (!(error instanceof TramError)) throw new Error(`seed ${seed}: ${error}`);
      }
    }
  });

  test("counts in a field that comes before, in bounds that the field can express", () => {
    const wide: Record<string, number> = { uint8: 255, uint16: 65535, uint32: 2 ** 32 - 1 };
    const names = table.fields.map(({ name }) => name);
    const wrong = table.fields.filter((field: Field, at) => {
      if (!("countFrom" in field)) return false;
      const from = names.indexOf(field.countFrom);
      return from < 0 || from >= at || !(field.max <= wide[table.fields[from].type]);
    });
    expect(wrong).toEqual([]);
    expect(new Set(names).size).toBe(names.length);
  });
});

describe("the machine's description", () => {
  const entry = { function: 1, index: 0, flags: 0, eax: 1, ebx: 2, ecx: 0xffffffff, edx: 4 };
  const description: MachineDescription = {
    name: "größe",
    memoryBytes: 5 * 2 ** 30,
    cpus: 4,
    tscKhz: 2_000_000,
    walker: true,
    balloon: false,
    pc: false,
    vsock: false,
    console: false,
    mac: null,
    disks: [],
    cpuid: [entry, { ...entry, index: 1 }],
  };

  test("comes back through its section", () => {
    const bytes = save(machine, machineToState(description));
    expect(machineFromState(loadState(machine, new ByteReader(bytes)), 0)).toEqual(description);
  });

  test.each<[string, Partial<MachineDescription>]>([
    ["no memory", { memoryBytes: 0 }],
    ["half a page", { memoryBytes: 2048 }],
    ["a page and a byte", { memoryBytes: 4097 }],
    ["more memory than may be", { memoryBytes: MEMORY_BYTES_MAX + 4096 }],
    ["2^60 bytes", { memoryBytes: 2 ** 60 }],
    ["no CPU", { cpus: 0 }],
    ["more CPUs than may be", { cpus: CPUS_MAX + 1 }],
  ])("is refused with %s", (_, wrong) => {
    const state = machineToState({ ...description, ...wrong });
    expect(() => machineFromState(state, 9)).toThrow("impossible");
  });

  test.each([
    { memoryBytes: 4096, cpus: 1 },
    { memoryBytes: MEMORY_BYTES_MAX, cpus: CPUS_MAX },
  ])("is taken at its limits: %j", (limits) => {
    expect(machineFromState(machineToState({ ...description, ...limits }), 0)).toMatchObject(limits);
  });
});

describe("the run state", () => {
  test.each(["running", "paused", "postmigrate", "x".repeat(31)])("%p comes back", (runState) => {
    const table = DEVICE_TABLES.get("globalstate")!;
    const bytes = save(table, globalstateFrom(runState));
    expect(bytes).toHaveLength(104);
    expect(runStateFrom(loadState(table, new ByteReader(bytes)))).toBe(runState);
  });

  test("may fill its field to the end", () => {
    expect(runStateFrom({ runstate: new Uint8Array(32).fill(0x78) })).toBe("x".repeat(32));
  });
});

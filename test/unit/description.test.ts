import { describe, expect, test } from "bun:test";
import { ByteWriter } from "../../src/stream/bytes.ts";
import {
  type DeviceField,
  type DeviceSection,
  describedEnd,
  findDescription,
  readTail,
  type Tail,
} from "../../src/stream/description.ts";
import { encodeFooter, encodeSectionStart } from "../../src/stream/section.ts";
import { errorOf } from "../support/errors.ts";
import { captures } from "../support/golden.ts";

/** Where the tail of a captured main channel begins: behind the last footer of "ram", in front of the first device. */
function tailStart(main: Uint8Array, ramId: number): number {
  const at = Buffer.from(main).lastIndexOf(Uint8Array.of(0x7e, 0, 0, 0, ramId, 4));
  expect(at).toBeGreaterThan(0);
  return at + 5;
}

/** Fields that follow each other without a gap, all the way down; where they end. */
function endOf(fields: readonly DeviceField[], start: number): number {
  let at = start;
  for (const field of fields) {
    expect(field.offset).toBe(at);
    at += field.bytes;
    // A subsection's own fields come behind its name and version.
    if (field.fields?.length) expect(endOf(field.fields, field.fields[0].offset)).toBe(at);
  }
  return at;
}

describe.each(captures())("the tail of $name", ({ name, main }) => {
  const isOld = name.startsWith("qemu-7.2");
  const start = tailStart(main, isOld ? 2 : 1);
  const tail = readTail(main.subarray(start), start);

  test("has QEMU's devices, field by field", () => {
    expect(tail.bordersBy).toBe("fields");
    const shown = tail.devices.map((device) => [
      device.name,
      device.instance,
      device.version,
      device.fields.map((field) => `${field.name}:${field.type}:${field.bytes}`).join(" "),
    ]);
    expect(shown).toEqual([
      ["timer", 0, 2, "cpu_ticks_offset:int64:8 unused:unused_buffer:8 cpu_clock_offset:int64:8"],
      [
        "globalstate",
        0,
        1,
        isOld
          ? "size:uint32:4 runstate:buffer:100"
          : "size:uint32:4 runstate:buffer:32 has_vm_was_suspended:uint8:1 vm_was_suspended:uint8:1 unused:buffer:66",
      ],
    ]);
  });

  test("is consumed to the last byte, and each offset is that of the stream", () => {
    let at = start;
    for (const device of tail.devices) {
      expect(device.offset).toBe(at);
      expect(main[device.offset]).toBe(4);
      expect(endOf(device.fields, device.bodyOffset)).toBe(device.bodyOffset + device.bodyBytes);
      expect(main[device.bodyOffset + device.bodyBytes]).toBe(0x7e);
      at = device.offset + device.bytes;
    }
    expect(tail.eofOffset).toBe(at);
    expect([main[at], main[at + 1]]).toEqual([0, 6]);
    expect(at + 6 + (tail.description as string).length).toBe(main.length);
  });

  test("has what the guest was: stopped before it ran", () => {
    const [, state] = tail.devices;
    const [size, runstate] = state.fields;
    expect(new DataView(main.buffer, main.byteOffset).getUint32(size.offset)).toBe("prelaunch".length + 1);
    expect(Buffer.from(main.subarray(runstate.offset, runstate.offset + 9)).toString()).toBe("prelaunch");
  });

  test("is found only when its last byte is there", () => {
    const bytes = main.subarray(start);
    expect(findDescription(bytes)).not.toBeNull();
    for (let cut = bytes.length - 1; cut > 0; cut--) if (findDescription(bytes.subarray(0, cut))) expect(cut).toBe(-1);
  });

  test("ends where its description does, and whatever follows it is told of", () => {
    const whole = main.subarray(start);
    for (const more of [
      [0],
      [0x7d],
      Array.from({ length: 5000 }, () => 0),
      [0, 6, 0, 0, 0, 2, 0x7b, 0x7d],
      [0x7e, 0, 0, 0, 1, 0],
    ]) {
      // biome-ignore format: one line
      const bytes = Buffer.concat([whole, Uint8Array.from(more)]);
      expect(describedEnd(bytes)).toBe(whole.length);
      expect(errorOf(() => readTail(bytes, start))).toMatchObject({
        code: "E_STREAM",
        message: "bytes follow the stream's end",
        details: { where: `byte ${main.length} of the stream`, found: `${more.length} bytes` },
      });
    }
    expect(describedEnd(whole)).toBe(whole.length);
    expect(describedEnd(whole.subarray(0, -1))).toBe(-1);
    expect(describedEnd(new Uint8Array(0))).toBe(-1);
  });

  test("that is cut anywhere but between two devices and the end is cut short", () => {
    const bytes = main.subarray(start);
    const eof = tail.eofOffset - start;
    for (let cut = 0; cut < bytes.length; cut++) {
      if (cut === eof + 1) continue; // the EOF byte is there: a stream that nobody described
      expect(errorOf(() => readTail(bytes.subarray(0, cut), start)).code).toBe("E_STREAM_TRUNCATED");
    }
    expect(readTail(bytes.subarray(0, eof + 1), start)).toMatchObject({ bordersBy: "nothing", eofOffset: start + eof });
  });
});

interface Device {
  name?: string;
  instance?: number;
  body: Uint8Array;
  /** As the description has it: STRUCT's members. */
  layout?: object;
}
const BASE = 10_000;
const body = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, (_, i) => i & 0x7f);

const described = (devices: readonly Device[]) => ({
  page_size: 4096,
  devices: devices.map(({ name = "dev", instance = 0, layout }) => ({ name, instance_id: instance, ...layout })),
});

function tailOf(devices: readonly Device[], description: object | string = described(devices)): Uint8Array {
  const out = new ByteWriter();
  for (const [i, { name = "dev", instance = 0, body }] of devices.entries()) {
    encodeSectionStart(out, 4, { id: 40 + i, name, instance, version: 3 });
    out.bytes(body);
    encodeFooter(out, 40 + i);
  }
  const json = Buffer.from(typeof description === "string" ? description : JSON.stringify(description));
  return out.u8(0).u8(6).u32(json.length).bytes(json).done().slice();
}

const read = (devices: readonly Device[], description?: object | string): Tail =>
  readTail(tailOf(devices, description), BASE);
const only = (body: Uint8Array, layout: object): DeviceSection => read([{ body, layout }]).devices[0];
const bodyAt = BASE + 1 + 4 + 4 + 4 + 4; // the type, the id, "dev", instance and version

describe("a described device", () => {
  const simple = (bytes: number) => ({ fields: [{ name: "data", type: "buffer", size: bytes }] });

  test("has its fields in a row, whatever their type", () => {
    const fields = [
      { name: "a", type: "uint8", size: 1 },
      { name: "b", type: "int32 le", size: 4 },
      {
        name: "c",
        type: "tmp",
        size: 3,
        vmsd_name: "inner",
        version: 1,
        fields: [{ name: "x", type: "uint8", size: 9 }],
      },
      { name: "d", type: "qtailq", size: 2 },
      { name: "e", type: "struct", size: 1 }, // older QEMU's NULL pointer in an array: a struct without fields
      { name: "f", type: "nullptr", size: 1 },
    ];
    const device = only(body(12), { fields });
    expect(device.fields.map(({ name, offset, bytes }) => [name, offset - bodyAt, bytes])).toEqual([
      ["a", 0, 1],
      ["b", 1, 4],
      ["c", 5, 3],
      ["d", 8, 2],
      ["e", 10, 1],
      ["f", 11, 1],
    ]);
  });

  test("has arrays of plain elements as one field", () => {
    const device = only(body(24), { fields: [{ name: "r", array_len: 3, type: "uint64", size: 8 }] });
    expect(device.fields).toEqual([{ name: "r", type: "uint64[3]", offset: bodyAt, bytes: 24 }]);
  });

  test("has arrays of structs element by element, nested ones, too", () => {
    const inner = { vmsd_name: "in", version: 1, fields: [{ name: "x", type: "uint8", size: 1 }, { name: "y", array_len: 2, type: "uint16", size: 2 }] }; // biome-ignore format: one value
    const outer = { vmsd_name: "out", version: 1, fields: [{ name: "list", array_len: 2, type: "struct", struct: inner, size: 5 }] }; // biome-ignore format: one value
    const device = only(body(31), {
      fields: [
        { name: "head", type: "uint8", size: 1 },
        { name: "rows", array_len: 3, type: "struct", struct: outer, size: 10 },
      ],
    });
    expect(endOf(device.fields, bodyAt)).toBe(bodyAt + 31);
    const rows = device.fields[1];
    expect(rows.fields?.map(({ offset, bytes }) => [offset - bodyAt, bytes])).toEqual([
      [1, 10],
      [11, 10],
      [21, 10],
    ]);
    const last = rows.fields?.[2].fields?.[0].fields?.[1].fields?.[1];
    expect(last).toEqual({ name: "y", type: "uint16[2]", offset: bodyAt + 27, bytes: 4 });
  });

  test("has elements that are described one by one, the last one without its index", () => {
    const struct = { vmsd_name: "ahci_dev", version: 1, fields: [{ name: "x", type: "uint16", size: 2 }] };
    const element = (index?: number) => ({
      name: "dev",
      ...(index !== undefined && { index }),
      type: "struct",
      struct,
      size: 2,
    });
    const device = only(body(6), { fields: [element(0), element(1), element()] });
    expect(device.fields.map(({ offset }) => offset - bodyAt)).toEqual([0, 2, 4]);
  });

  test("has its subsections behind its fields", () => {
    const out = new ByteWriter();
    out.u32(7).u8(5).pstr("dev/more").u32(2).u16(9).u8(5).pstr("dev/more/still").u32(1).u8(1);
    const still = { vmsd_name: "dev/more/still", version: 1, fields: [{ name: "z", type: "bool", size: 1 }] };
    const more = {
      vmsd_name: "dev/more",
      version: 2,
      fields: [{ name: "y", type: "uint16", size: 2 }],
      subsections: [still],
    };
    const device = only(out.done().slice(), { fields: [{ name: "x", type: "uint32", size: 4 }], subsections: [more] });
    expect(device.bodyBytes).toBe(4 + 14 + 2 + 20 + 1);
    const [x, sub] = device.fields;
    expect([x.name, sub.name, sub.type]).toEqual(["x", "dev/more", "subsection"]);
    expect(sub.fields?.map(({ name, offset }) => [name, offset - bodyAt])).toEqual([
      ["y", 18],
      ["dev/more/still", 20],
    ]);
  });

  test("may be empty, and there may be none", () => {
    expect(only(body(0), { fields: [] })).toMatchObject({ bodyBytes: 0, fields: [] });
    expect(read([])).toMatchObject({ devices: [], bordersBy: "fields", eofOffset: BASE });
  });

  test("may stand behind commands and ends of dirty bitmaps", () => {
    const out = new ByteWriter().u8(8).u16(11).u16(0).u8(3).u32(9).u8(1);
    encodeFooter(out, 9);
    const bytes = Buffer.concat([out.done(), tailOf([{ body: body(5), layout: simple(5) }])]);
    expect(readTail(bytes, BASE).devices).toMatchObject([{ name: "dev", offset: BASE + out.length }]);
  });

  test("is the first of those behind the RAM, where others came before it", () => {
    const before = { body: body(3), name: "early", layout: simple(3) };
    const behind = { body: body(5), layout: simple(5) };
    const bytes = tailOf([behind], described([before, behind]));
    expect(readTail(bytes, BASE, 1)).toMatchObject({ bordersBy: "fields", devices: [{ name: "dev" }] });
  });

  test.each<[string, object]>([
    ["too small", simple(90)],
    ["too large", simple(110)],
    ["larger than the stream", simple(2 ** 40)],
    ["of a missing subsection", { ...simple(100), subsections: [{ vmsd_name: "dev/x", version: 1, fields: [] }] }],
    ["of a struct with another size", { fields: [{ name: "s", type: "struct", size: 99, struct: simple(100) }] }],
  ])("whose description is %s is found by its neighbours' headers", (_, layout) => {
    const devices = [
      { name: "first", body: body(10), layout: simple(10) },
      { name: "wrong", body: body(100), layout },
      { name: "last", instance: 2, body: body(20), layout: simple(20) },
    ];
    const tail = read(devices);
    expect(tail.bordersBy).toBe("headers");
    expect(tail.devices.map(({ name, instance, version, bodyBytes }) => [name, instance, version, bodyBytes])).toEqual([
      ["first", 0, 3, 10],
      ["wrong", 0, 3, 100],
      ["last", 2, 3, 20],
    ]);
    for (const [i, device] of tail.devices.entries()) {
      expect(device.bodyOffset).toBe(device.offset + device.bytes - 5 - device.bodyBytes);
      if (i > 0) expect(device.offset).toBe(tail.devices[i - 1].offset + tail.devices[i - 1].bytes);
    }
  });

  test("whose body looks like its neighbour's header is found all the same, where its own description is right", () => {
    const trap = new ByteWriter();
    encodeSectionStart(trap, 4, { id: 41, name: "last", instance: 0, version: 3 });
    const bytes = trap.done().slice();
    const devices = [{ name: "first", body: bytes, layout: simple(bytes.length) }, { name: "last", body: body(3), layout: simple(3) }]; // biome-ignore format: one value
    expect(read(devices).devices.map(({ bodyBytes }) => bodyBytes)).toEqual([bytes.length, 3]);
  });
});

describe("a hostile description", () => {
  const device = { body: body(8), layout: { fields: [{ name: "a", type: "uint64", size: 8 }] } };
  /** Of one device whose fields these are. */
  const fields = (list: unknown): string =>
    JSON.stringify({ devices: [{ name: "dev", instance_id: 0, vmsd_name: "dev", version: 3, fields: list }] });

  /** Whatever it says, the outcome is devices with the right borders, or a coded error with a place. */
  function outcome(bytes: Uint8Array): "read" | "refused" {
    const started = performance.now();
    try {
      const tail = readTail(bytes, BASE);
      for (const { offset, bytes: length } of tail.devices)
        expect(offset + length).toBeLessThanOrEqual(BASE + bytes.length);
      return "read";
    } catch (error) {
      expect(error).toMatchObject({ name: "TramError", details: { where: expect.stringMatching(/^byte \d+ of/) } });
      expect((error as { code: string }).code).toMatch(/^E_STREAM(_TRUNCATED)?$/);
      return "refused";
    } finally {
      expect(performance.now() - started).toBeLessThan(5000);
    }
  }

  const odd = { toString: 1, valueOf: 1 }; // String() and Number() of it throw
  const structs = (length: number, size = 0) => [
    { name: "a", type: "struct", array_len: length, size, struct: { fields: [{ name: "x", type: "uint8", size }] } },
  ];
  test.each<[string, object | string]>([
    ["that is no JSON", '{"devices": [}'],
    ["that is no object", "[1]"],
    ["without devices", '{"page_size": 4096}'],
    ["with devices that are none", '{"devices": {}}'],
    ["with a device that is null", '{"devices": [null]}'],
    ["with a device that is a number", '{"devices": [7]}'],
    ["with more devices than there are", described([device, device])],
    ["with fewer devices than there are", described([])],
    ["of another device", described([{ ...device, name: "other" }])],
    ["of another instance", described([{ ...device, instance: 1 }])],
    ["with a device's name that cannot be shown", { devices: [{ name: odd, instance_id: 0, fields: [] }] }],
    ["with an instance that is no number", { devices: [{ name: "dex", instance_id: odd, fields: [] }] }],
    ["with a version that is no number", { devices: [{ name: "dev", instance_id: 0, version: odd, fields: [] }] }],
    ["with fields that are none", fields("many")],
    ["with a field that is null", fields([null])],
    ["with a field's name that cannot be shown", fields([{ name: odd, type: "uint64", size: 8 }])],
    ["with a field's type that cannot be shown", fields([{ name: "a", type: odd, size: 8 }])],
    ["with a size that is missing", fields([{ name: "a", type: "uint64" }])],
    ["with a negative size", fields([{ name: "a", type: "uint64", size: -8 }])],
    ["with half a byte", fields([{ name: "a", type: "uint64", size: 0.5 }])],
    ["with a size of 2^53", fields([{ name: "a", type: "uint64", size: 2 ** 53 }])],
    [
      "with a size of 1e308",
      '{"devices":[{"name":"dev","instance_id":0,"fields":[{"name":"a","type":"u","size":1e308}]}]}',
    ],
    ["with a size that is text", fields([{ name: "a", type: "uint64", size: "8" }])],
    ["with a negative array", fields([{ name: "a", type: "uint64", size: 8, array_len: -1 }])],
    ["with an array of 2^53 - 1", fields([{ name: "a", type: "uint64", size: 8, array_len: 2 ** 53 - 1 }])],
    ["with an array of 2^40 empty elements", fields([{ name: "a", type: "uint64", size: 0, array_len: 2 ** 40 }])],
    ["with an array of 2^40 empty structs", fields(structs(2 ** 40))],
    ["with an array of 2^31 structs", fields(structs(2 ** 31, 1))],
    ["with a subsection that is null", { devices: [{ name: "dev", instance_id: 0, fields: [], subsections: [null] }] }],
    ["with 100 levels", fields(nested(100))],
  ])("%s ends as devices by their headers, or as an error", (_, description) => {
    outcome(tailOf([device], description));
  });

  function nested(levels: number): unknown[] {
    let list: unknown[] = [{ name: "a", type: "uint64", size: 8 }];
    for (let i = 0; i < levels; i++) list = [{ name: "s", type: "struct", size: 8, struct: { fields: list } }];
    return list;
  }

  test("of 1,000,000 brackets is no description", () => {
    const brackets = `{"devices":[${"[".repeat(500_000)}${"]".repeat(500_000)}]}`;
    outcome(tailOf([device], brackets));
  });

  test("nested 100,000 levels deep does not overflow the stack", () => {
    const open = '{"name":"s","type":"struct","size":8,"struct":{"fields":[';
    const deep = `{"devices":[{"name":"dev","instance_id":0,"fields":[${open.repeat(100_000)}${"]}}".repeat(100_000)}]}]}`;
    outcome(tailOf([device], deep));
  });

  test("cannot make more fields than a bound: small arrays of large structs", () => {
    // 60,000 elements with 500 fields of no bytes each: 30 million in all, from 20 KB of JSON and 60 KB of state.
    const struct = { fields: Array.from({ length: 500 }, () => ({ name: "x", type: "u", size: 0 })) };
    const list = [
      { name: "a", type: "struct", array_len: 60_000, size: 0, struct },
      { name: "rest", type: "buffer", size: 60_000 },
    ];
    const before = process.memoryUsage().rss;
    outcome(tailOf([{ body: body(60_000) }], fields(list)));
    expect(process.memoryUsage().rss - before).toBeLessThan(500 << 20);
  });

  test("is looked for in linear time, also where every 7 bytes look like its beginning", () => {
    // Each 7 bytes are EOF, 06, the length that is right there, and "{".
    const bytes = new Uint8Array(7 * 16_000 + 1);
    const view = new DataView(bytes.buffer);
    for (let at = 1; at + 6 < bytes.length; at += 7) {
      bytes[at] = 6;
      view.setUint32(at + 1, bytes.length - at - 5);
      bytes[at + 5] = 0x7b;
    }
    bytes[bytes.length - 1] = 0x7d;
    // Of all of it only as much is looked at as a quadratic search does in some seconds: twice as much, twice the time.
    const timeOf = (candidates: number): number => {
      const started = performance.now();
      expect(findDescription(cut(bytes, candidates))).toBeNull();
      return performance.now() - started;
    };
    timeOf(1000);
    expect(timeOf(16_000)).toBeLessThan(300);
  });
});

/** The last `candidates` of them, whose lengths are right as they stand. */
const cut = (bytes: Uint8Array, candidates: number): Uint8Array => bytes.slice(-(7 * candidates + 1));

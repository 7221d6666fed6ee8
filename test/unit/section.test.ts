import { describe, expect, test } from "bun:test";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import {
  type Command,
  type Configuration,
  decodeCommand,
  decodeFooter,
  decodeHeader,
  decodeSectionPart,
  decodeSectionStart,
  encodeCommand,
  encodeFooter,
  encodeHeader,
  encodeOpenReturnPath,
  encodePing,
  encodeSectionPart,
  encodeSectionStart,
  encodeVmDescription,
  pingValue,
} from "../../src/stream/section.ts";
import { byteOf, errorOf } from "../support/errors.ts";

const bytesOf = (write: (out: ByteWriter) => void): Uint8Array => {
  const out = new ByteWriter();
  write(out);
  return out.done();
};
const reader = (write: (out: ByteWriter) => void, base = 0): ByteReader => new ByteReader(bytesOf(write), base);
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

describe("the header", () => {
  test("is QEMU's", () => {
    expect(text(bytesOf((out) => encodeHeader(out, { machine: "none", capabilities: [], uuid: null })))).toBe(
      `5145564d${"00000003"}07${"00000004"}6e6f6e65`,
    );
  });

  test.each(["", "tram", "pc-i440fx-10.2", "x".repeat(256)])("comes back with the machine's name %p", (machine) => {
    const source = reader((out) => encodeHeader(out, { machine, capabilities: [], uuid: null }));
    expect(decodeHeader(source)).toEqual({ machine, capabilities: [], uuid: null });
    expect(source.left).toBe(0);
  });

  test.each<[string, (out: ByteWriter) => void, string, string]>([
    ["no magic", (out) => out.u32(0x7f454c46).u32(3), "not a migration stream", "byte 100"],
    ["the dead version 2", (out) => out.u32(0x5145564d).u32(2).u8(7), "another version", "byte 104"],
    ["no machine", (out) => out.u32(0x5145564d).u32(3).u8(1), "does not name its machine", "byte 108"],
    ["a name that is too long", (out) => out.u32(0x5145564d).u32(3).u8(7).u32(257), "too long", "byte 109"],
    ["a name of 4 GiB", (out) => out.u32(0x5145564d).u32(3).u8(7).u32(0xffffffff), "too long", "byte 109"],
  ])("with %s is refused there", (_, write, message, where) => {
    try {
      decodeHeader(reader(write, 100));
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
      expect(error).toMatchObject({ details: { where: `${where} of the stream` } });
    }
  });
});

describe("a section", () => {
  const section = { id: 0xfffffffe, name: "0000:00:03.0/e1000", instance: 3, version: 4 };

  test("begins as QEMU's do", () => {
    const ram = { id: 2, name: "ram", instance: 0, version: 4 };
    expect(text(bytesOf((out) => encodeSectionStart(out, 1, ram)))).toBe(
      `01${"00000002"}03${"72616d"}${"00000000"}${"00000004"}`,
    );
    expect(text(bytesOf((out) => encodeSectionPart(out, 3, 2)))).toBe(`03${"00000002"}`);
    expect(text(bytesOf((out) => encodeFooter(out, 2)))).toBe(`7e${"00000002"}`);
  });

  test("comes back as it was written", () => {
    const source = reader((out) => {
      encodeSectionStart(out, 4, section);
      encodeSectionPart(out, 2, section.id);
      encodeFooter(out, section.id);
    });
    expect(source.u8()).toBe(4);
    expect(decodeSectionStart(source)).toEqual(section);
    expect(source.u8()).toBe(2);
    expect(decodeSectionPart(source)).toBe(section.id);
    decodeFooter(source, section.id, section.name);
    expect(source.left).toBe(0);
  });

  test("must have a name", () => {
    expect(() => decodeSectionStart(reader((out) => out.u32(1).pstr("").u32(0).u32(1)))).toThrow(
      "a section has no name",
    );
  });

  test.each<[string, (out: ByteWriter) => void, string]>([
    ["another section's footer", (out) => encodeFooter(out, 8), "footer of section 8"],
    ["another record", (out) => out.u8(1).u32(7), "0x01"],
  ])("that ends with %s is refused", (_, write, found) => {
    try {
      decodeFooter(reader(write), 7, "apic");
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ code: "E_STREAM", message: "section 'apic' does not end where it should" });
      expect(error).toMatchObject({ details: { expected: "footer 0x7e of section 7", found } });
    }
  });
});

describe("a command", () => {
  test("is written as QEMU does", () => {
    expect(text(bytesOf(encodeOpenReturnPath))).toBe(`08${"0001"}${"0000"}`);
    expect(text(bytesOf((out) => encodePing(out, 0x74720001)))).toBe(`08${"0002"}${"0004"}74720001`);
  });

  test.each<[string, (out: ByteWriter) => void, Command]>([
    ["OPEN_RETURN_PATH", encodeOpenReturnPath, { command: 1, data: new Uint8Array(0) }],
    ["PING", (out) => encodePing(out, 0xffffffff), { command: 2, data: new Uint8Array(4).fill(255) }],
    ["SWITCHOVER_START", (out) => out.u8(8).u16(11).u16(0), { command: 11, data: new Uint8Array(0) }],
    [
      "one with data that asks nothing of us",
      (out) => out.u8(8).u16(3).u16(5).bytes(new Uint8Array(5)),
      { command: 3, data: new Uint8Array(5) },
    ],
  ])("%s is read whole", (_, write, expected) => {
    const source = reader(write);
    source.u8();
    expect(decodeCommand(source)).toEqual(expected);
    expect(source.left).toBe(0);
  });

  test.each<[string, number, number]>([
    ["OPEN_RETURN_PATH", 1, 4],
    ["PING", 2, 0],
    ["PING", 2, 8],
  ])("%s (%d) of %d bytes is refused", (_, command, length) => {
    const source = reader((out) => out.u16(command).u16(length).bytes(new Uint8Array(length)));
    expect(() => decodeCommand(source)).toThrow(`command ${command} has another length`);
  });

  test("that is cut short is the stream's end", () => {
    expect(() => decodeCommand(reader((out) => out.u16(3).u16(9).u8(0)))).toThrow("ends too early");
  });
});

describe("the description", () => {
  test("is one line of ASCII JSON behind its length", () => {
    const source = reader((out) => encodeVmDescription(out, { page_size: 4096, name: "ü\n" }));
    expect(source.u8()).toBe(6);
    const json = new TextDecoder().decode(source.bytes(source.u32()));
    expect(source.left).toBe(0);
    expect(json).toMatch(/^[ -~]*$/);
    expect(JSON.parse(json)).toEqual({ page_size: 4096, name: "?\n" });
  });
});

describe("the configuration", () => {
  const uuid = Uint8Array.from({ length: 16 }, (_, i) => 0xf0 + i);
  const header = (write: (out: ByteWriter) => void) => (out: ByteWriter) => {
    encodeHeader(out, { machine: "pc", capabilities: [], uuid: null });
    write(out);
  };
  const HEADER_BYTES = 15;

  test.each<[string, Configuration]>([
    ["one capability", { machine: "pc-i440fx-7.2", capabilities: ["x-ignore-shared"], uuid: null }],
    ["64 of them", { machine: "pc", capabilities: Array.from({ length: 64 }, (_, i) => `c${i}`), uuid: null }],
    ["names of no and of 255 bytes", { machine: "pc", capabilities: ["", "c".repeat(255)], uuid: null }],
    ["a uuid", { machine: "pc", capabilities: [], uuid }],
    ["both", { machine: "pc", capabilities: ["x-ignore-shared", "mapped-ram"], uuid }],
  ])("with %s comes back as it was written", (_, configuration) => {
    const source = reader((out) => encodeHeader(out, configuration));
    expect(decodeHeader(source)).toEqual(configuration);
    expect(source.left).toBe(0);
  });

  test("is QEMU's", () => {
    const both = { machine: "none", capabilities: ["x-ignore-shared", "mapped-ram"], uuid: null };
    expect(text(bytesOf((out) => encodeHeader(out, both))).slice(34)).toBe(
      `05${"1a"}${Buffer.from("configuration/capabilities").toString("hex")}0000000100000002` +
        `0f${Buffer.from("x-ignore-shared").toString("hex")}0a${Buffer.from("mapped-ram").toString("hex")}`,
    );
    expect(text(bytesOf((out) => encodeHeader(out, { machine: "none", capabilities: [], uuid }))).slice(34)).toBe(
      `05${"12"}${Buffer.from("configuration/uuid").toString("hex")}00000001f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff`,
    );
  });

  test("ends where a record begins", () => {
    const source = reader(header((out) => out.u8(1).u32(0)));
    expect(decodeHeader(source)).toMatchObject({ capabilities: [], uuid: null });
    expect(source.left).toBe(5);
  });

  test.each<[string, (out: ByteWriter) => void, string, number]>([
    ["an unknown part", (out) => out.u8(5).pstr("configuration/other").u32(1), "unknown part", HEADER_BYTES],
    ["a part without a name", (out) => out.u8(5).pstr("").u32(1), "unknown part", HEADER_BYTES],
    ["page bits, which x86 has not", (out) => out.u8(5).pstr("configuration/target-page-bits").u32(1).u32(12), "unknown part", HEADER_BYTES], // biome-ignore format: one row
    ["capabilities of version 2", (out) => out.u8(5).pstr("configuration/capabilities").u32(2), "unknown part", HEADER_BYTES], // biome-ignore format: one row
    ["65 capabilities", (out) => out.u8(5).pstr("configuration/capabilities").u32(1).u32(65), "too many", HEADER_BYTES + 32], // biome-ignore format: one row
    ["2^32 - 1 capabilities", (out) => out.u8(5).pstr("configuration/capabilities").u32(1).u32(0xffffffff), "too many", HEADER_BYTES + 32], // biome-ignore format: one row
    ["a name that is no text", (out) => out.u8(5).u8(1).u8(0x9b), "not text", HEADER_BYTES + 1],
  ])("with %s is refused there", (_, write, message, where) => {
    const error = errorOf(() => decodeHeader(reader(header(write))));
    expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    expect(byteOf(error)).toBe(where);
  });

  test("of a machine whose name steers a terminal is refused", () => {
    const error = errorOf(() => decodeHeader(reader((out) => out.u32(0x5145564d).u32(3).u8(7).u32(1).u8(0x1b))));
    expect(error).toMatchObject({ code: "E_STREAM", message: "a name is not text" });
  });
});

describe("a section's name and a command's data", () => {
  test.each([1, 255])("of %d bytes come back as they were written", (length) => {
    const section = { id: 0, name: "n".repeat(length), instance: 0xffffffff, version: 0xffffffff };
    const command = { command: 0xffff, data: new Uint8Array(length * 257).fill(length) };
    const source = reader((out) => {
      encodeSectionStart(out, 1, section);
      encodeCommand(out, command);
    });
    source.u8();
    expect(decodeSectionStart(source)).toEqual(section);
    source.u8();
    expect(decodeCommand(source)).toEqual(command);
    expect(source.left).toBe(0);
  });

  test("a PING's value is the one that was sent", () => {
    const source = reader((out) => encodePing(out, 0xfedcba98), 7);
    source.u8();
    expect(pingValue(decodeCommand(source))).toBe(0xfedcba98);
  });
});

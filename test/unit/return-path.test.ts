import { describe, expect, test } from "bun:test";
import { TramError } from "../../src/errors.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { CPUID_ENTRIES_MAX } from "../../src/stream/devices/machine.ts";
import {
  decodeReturnMessage,
  describeMessage,
  encodeHello,
  encodePong,
  encodeRefuse,
  encodeShut,
  type Hello,
  type ReturnMessage,
} from "../../src/stream/return-path.ts";
import { RP_MESSAGE_BYTES_MAX, TRAM_RP_MSG_HELLO, TRAM_RP_MSG_REFUSE } from "../../src/stream/wire.ts";

const bytesOf = (write: (out: ByteWriter) => void): Uint8Array => {
  const out = new ByteWriter();
  write(out);
  return out.done().slice();
};

function decode(bytes: Uint8Array): ReturnMessage {
  const source = new ByteReader(bytes);
  const message = decodeReturnMessage(source);
  expect(source.left).toBe(0);
  return message;
}

const json = (type: number, text: string): Uint8Array => {
  const bytes = new TextEncoder().encode(text);
  return bytesOf((out) => out.u16(type).u16(bytes.length).bytes(bytes));
};

const entry = { function: 0x80000001, index: 0, flags: 1, eax: 0xffffffff, ebx: 0, ecx: 2, edx: 3 };
const hello: Hello = {
  version: 1,
  name: "größe",
  memoryBytes: 2 ** 38,
  cpus: 16,
  cpuid: [entry, { ...entry, index: 1 }],
};

describe("a message of the target", () => {
  test.each<[string, (out: ByteWriter) => void, string]>([
    ["SHUT 0", (out) => encodeShut(out, 0), "0001000400000000"],
    ["SHUT 1", (out) => encodeShut(out, 1), "0001000400000001"],
    ["PONG", (out) => encodePong(out, 0x74720002), "0002000474720002"],
  ])("%s is QEMU's bytes", (_, write, hex) => {
    expect(Buffer.from(bytesOf(write)).toString("hex")).toBe(hex);
  });

  test.each<[string, (out: ByteWriter) => void, ReturnMessage]>([
    ["SHUT", (out) => encodeShut(out, 0xffffffff), { type: "shut", status: 0xffffffff }],
    ["PONG", (out) => encodePong(out, 7), { type: "pong", value: 7 }],
    ["HELLO", (out) => encodeHello(out, hello), { type: "hello", hello }],
    [
      "HELLO",
      (out) => encodeHello(out, { ...hello, memoryBytes: null, cpus: null, cpuid: [] }),
      { type: "hello", hello: { ...hello, memoryBytes: null, cpus: null, cpuid: [] } },
    ],
    [
      "REFUSE",
      (out) => encodeRefuse(out, { message: 'no "room"\n', code: "E_MEMORY", where: "here", next: "make some" }),
      { type: "refuse", reason: 'no "room"\n', code: "E_MEMORY", details: { next: "make some" } },
    ],
    ["REQ_PAGES", (out) => out.u16(3).u16(12).bytes(new Uint8Array(12)), { type: "other", number: 3 }],
  ])("%s comes back as it was sent", (_, write, message) => {
    expect(decode(bytesOf(write))).toEqual(message);
  });

  test("fits its length field with the largest CPUID and the worst reason", () => {
    const cpuid = Array.from({ length: CPUID_ENTRIES_MAX }, (_, i) => ({
      ...entry,
      index: i,
      ebx: 0xffffffff,
      ecx: 0xffffffff,
      edx: 0xffffffff,
    }));
    const large = bytesOf((out) => encodeHello(out, { ...hello, cpuid }));
    expect(decode(large)).toEqual({ type: "hello", hello: { ...hello, cpuid } });
    const worst = "\u0001".repeat(10_000);
    const error = { message: worst, code: "E_INTERNAL", expected: worst, found: worst, next: worst } as const;
    const refusal = bytesOf((out) => encodeRefuse(out, error));
    expect(decode(refusal)).toMatchObject({ type: "refuse", reason: "\u0001".repeat(4000) });
    for (const message of [large, refusal]) expect(message.length - 4).toBeLessThanOrEqual(RP_MESSAGE_BYTES_MAX);
  });

  test("may lack words, and then says that it does", () => {
    expect(decode(json(TRAM_RP_MSG_REFUSE, "{}"))).toEqual({
      type: "refuse",
      reason: "no reason given",
      code: "",
      details: {},
    });
  });

  test.each<[string, Uint8Array, string]>([
    ["a SHUT of 2 bytes", bytesOf((out) => out.u16(1).u16(2).u16(0)), "another length"],
    ["a PONG of 8 bytes", bytesOf((out) => out.u16(2).u16(8).u64(0n)), "another length"],
    ["no JSON", json(TRAM_RP_MSG_HELLO, "{"), "cannot be read"],
    ["a text", json(TRAM_RP_MSG_REFUSE, '"no"'), "cannot be read"],
    ["null", json(TRAM_RP_MSG_REFUSE, "null"), "cannot be read"],
    ["no bytes", json(TRAM_RP_MSG_HELLO, ""), "cannot be read"],
    ["a greeting without numbers", json(TRAM_RP_MSG_HELLO, '{"cpuid":[]}'), "greeting is wrong"],
    [
      "a negative memory",
      json(TRAM_RP_MSG_HELLO, '{"version":1,"memoryBytes":-1,"cpus":1,"cpuid":[]}'),
      "greeting is wrong",
    ],
    ["1.5 CPUs", json(TRAM_RP_MSG_HELLO, '{"version":1,"memoryBytes":1,"cpus":1.5,"cpuid":[]}'), "greeting is wrong"],
    [
      "a version in words",
      json(TRAM_RP_MSG_HELLO, '{"version":"1","memoryBytes":1,"cpus":1,"cpuid":[]}'),
      "greeting is wrong",
    ],
    ["no CPUID", json(TRAM_RP_MSG_HELLO, '{"version":1,"memoryBytes":1,"cpus":1}'), "greeting is wrong"],
    [
      "a CPUID row of 6",
      json(TRAM_RP_MSG_HELLO, '{"version":1,"memoryBytes":1,"cpus":1,"cpuid":[[1,2,3,4,5,6]]}'),
      "greeting is wrong",
    ],
    [
      "a CPUID row of texts",
      json(TRAM_RP_MSG_HELLO, '{"version":1,"memoryBytes":1,"cpus":1,"cpuid":[["1",2,3,4,5,6,7]]}'),
      "greeting is wrong",
    ],
    [
      "too many CPUID rows",
      json(
        TRAM_RP_MSG_HELLO,
        JSON.stringify({ version: 1, memoryBytes: 1, cpus: 1, cpuid: Array(257).fill([1, 2, 3, 4, 5, 6, 7]) }),
      ),
      "greeting is wrong",
    ],
  ])("%s is refused", (_, bytes, message) => {
    try {
      decode(bytes);
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ code: "E_STREAM", message: expect.stringContaining(message) });
    }
  });

  test("is an error of the stream when cut after any byte", () => {
    const bytes = bytesOf((out) => encodeHello(out, hello));
    for (let length = 0; length < bytes.length; length++)
      expect(() => decodeReturnMessage(new ByteReader(bytes.subarray(0, length)))).toThrow(TramError);
  });

  test.each([1, 2, 3])("with any byte changed is read or refused, 500 times, seed %d", (seed) => {
    const whole = bytesOf((out) => encodeHello(out, hello));
    let n = 0;
    const random = (below: number) => Number(Bun.hash.wyhash(`${n++}`, BigInt(seed)) % BigInt(below));
    let refused = 0;
    for (let i = 0; i < 500; i++) {
      const bytes = whole.slice();
      bytes[random(bytes.length)] = random(256);
      try {
        decodeReturnMessage(new ByteReader(bytes));
      } catch (error) {
        if (!(error instanceof TramError)) throw new Error(`mutation ${i}: ${error}`);
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(50);
  });

  test.each<[ReturnMessage, string]>([
    [{ type: "shut", status: 0 }, "SHUT"],
    [{ type: "other", number: 3 }, "message 0x0003"],
  ])("%j is called %s", (message, text) => {
    expect(describeMessage(message)).toBe(text);
  });
});

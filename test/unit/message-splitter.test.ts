import { describe, expect, test } from "bun:test";
import { TramError } from "../../src/errors.ts";
import { MESSAGE_BYTES_MAX, MessageSplitter } from "../../src/qmp/protocol.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

function errorOf(push: () => unknown): TramError {
  try {
    push();
  } catch (error) {
    expect(error).toBeInstanceOf(TramError);
    return error as TramError;
  }
  throw new Error("nothing was thrown");
}

const MESSAGES = [
  { execute: "qmp_capabilities" },
  {},
  { a: { b: [{ c: [] }, [[{}]]] } },
  { text: "braces } { ] [ in a string" },
  { text: 'quotes " and \\ backslashes \\" }' },
  { text: "\\" },
  { text: "a line\nand \u0000 and ünïcödé 🚋" },
  { 'a key with " and }': 1 },
  { number: -1.5e300, yes: true, no: null },
];

describe("MessageSplitter", () => {
  test.each(Array.from({ length: 20 }, (_, i) => i + 1))(
    "finds the same objects however they arrive, seed %d",
    (seed) => {
      let n = 0;
      const random = (below: number) => Number(Bun.hash.wyhash(`${n++}`, BigInt(seed)) % BigInt(below));
      const sent = Array.from({ length: 30 }, () => MESSAGES[random(MESSAGES.length)]);
      const gaps = ["", "\n", "\r\n", " \t "];
      const stream = bytes(sent.map((one) => gaps[random(4)] + JSON.stringify(one, null, random(3))).join(""));
      const splitter = new MessageSplitter();
      const found: string[] = [];
      for (let at = 0; at < stream.length; ) {
        const piece = 1 + random(seed % 2 ? 5 : 200);
        found.push(...splitter.push(stream.subarray(at, at + piece)));
        at += piece;
      }
      expect(found.map((text) => JSON.parse(text))).toEqual(sent);
    },
  );

  test("gives an object as soon as its last byte is there", () => {
    const splitter = new MessageSplitter();
    expect(splitter.push(bytes('{"a":{}'))).toEqual([]);
    expect(splitter.push(bytes("}"))).toEqual(['{"a":{}}']);
  });

  test("ignores what QMP clients send between objects, 0xff to reset included", () => {
    expect(new MessageSplitter().push(new Uint8Array([0x20, 0x09, 0x0d, 0x0a, 0xff, 0x7b, 0x7d, 0xff]))).toEqual([
      "{}",
    ]);
  });

  test.each(["x", "]", "}", "[1]", '"text"', "GET / HTTP/1.1", "\u0000", "1"])(
    "refuses %j outside an object",
    (text) => {
      const error = errorOf(() => new MessageSplitter().push(bytes(text)));
      expect(error).toMatchObject({ code: "E_QMP", details: { expected: "a JSON object" } });
      expect(error.details.found).toBe(`byte 0x${text.charCodeAt(0).toString(16)}`);
    },
  );

  test("refuses garbage after a whole object", () => {
    expect(errorOf(() => new MessageSplitter().push(bytes("{}x"))).code).toBe("E_QMP");
  });

  test("holds an object of 1 MiB and refuses one byte more", () => {
    expect(MESSAGE_BYTES_MAX).toBe(1 << 20);
    const wrapped = '{"a":""}'.length;
    const text = (length: number) => bytes(`{"a":"${"x".repeat(length - wrapped)}"}`);
    const splitter = new MessageSplitter();
    expect(splitter.push(text(MESSAGE_BYTES_MAX)).map((one) => one.length)).toEqual([MESSAGE_BYTES_MAX]);
    expect(splitter.push(text(MESSAGE_BYTES_MAX)).map((one) => one.length)).toEqual([MESSAGE_BYTES_MAX]);
    expect(errorOf(() => new MessageSplitter().push(text(MESSAGE_BYTES_MAX + 1)))).toMatchObject({
      code: "E_QMP",
      message: "a QMP message is too long",
    });
  });

  test("refuses nesting without end by its length, not by running out of stack", () => {
    const splitter = new MessageSplitter();
    const deep = bytes(`{"a":${"[".repeat(MESSAGE_BYTES_MAX)}`);
    expect(errorOf(() => splitter.push(deep)).message).toBe("a QMP message is too long");
  });
});

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { SYMBOL_NAMES } from "../../src/native/symbols.ts";

const ROOT = join(import.meta.dir, "../..");

interface Prototype {
  name: string;
  args: string[];
  returns: string;
}

/** The exported functions of a C header, in order; each type as the FFI would see it. */
function prototypesIn(header: string): Prototype[] {
  const code = header.replace(/\/\*[\s\S]*?\*\//g, " ").replace(/^\s*#.*$/gm, "");
  return [...code.matchAll(/TRAM_API\s+([^;]*?)(\w+)\s*\(([^)]*)\)\s*;/g)].map(([, returns, name, list]) => ({
    name,
    args: list.trim() === "void" ? [] : list.split(",").map((one) => cType(one)),
    returns: cType(`${returns} x`),
  }));
}

const C_TYPES: Record<string, string> = { int: "i32", uint32_t: "u32", int64_t: "i64", uint64_t: "u64", double: "f64" };

function cType(declaration: string): string {
  if (declaration.includes("*")) return "pointer";
  const words = declaration.trim().split(/\s+/);
  return C_TYPES[words[0]] ?? `unknown type '${words[0]}'`;
}

/** The same out of the text of symbols.ts. */
function signaturesIn(text: string): Prototype[] {
  const table = /const SIGNATURES = \{([\s\S]*?)\n\} as const;/.exec(text)?.[1] ?? "";
  return [...table.matchAll(/(\w+):\s*\{\s*args:\s*\[([^\]]*)\],\s*returns:\s*"(\w+)",?\s*\}/g)].map(
    ([, name, list, returns]) => ({
      name,
      args: [...list.matchAll(/"(\w+)"/g)].map(([, type]) => type.replace("_fast", "")),
      returns: returns.replace("_fast", ""),
    }),
  );
}

/** Buffers cross as "ptr", handles and addresses as 64-bit numbers. */
const fits = (c: string, ffi: string): boolean => c === ffi || (c === "pointer" && (ffi === "ptr" || ffi === "u64"));

const header = readFileSync(join(ROOT, "c/tram.h"), "utf8");
const prototypes = prototypesIn(header);
const signatures = signaturesIn(readFileSync(join(ROOT, "src/native/symbols.ts"), "utf8"));

describe("the reader of prototypes", () => {
  test("takes prototypes over several lines, without arguments, and past comments", () => {
    const text = `/* TRAM_API int no(void); */
      TRAM_API int one(void); /* says (something); */
      TRAM_API int64_t two(const struct tram_ram *ram, uint32_t count,
                           uint64_t bytes, int *stop);`;
    expect(prototypesIn(text)).toEqual([
      { name: "one", args: [], returns: "i32" },
      { name: "two", args: ["pointer", "u32", "u64", "pointer"], returns: "i64" },
    ]);
  });
});

describe("the C library's symbols", () => {
  test("are those of the header, in its order", () => {
    expect(prototypes.length).toBe(header.match(/^TRAM_API /gm)?.length ?? 0);
    expect(SYMBOL_NAMES).toEqual(prototypes.map(({ name }) => name));
    expect(signatures.map(({ name }) => name)).toEqual(SYMBOL_NAMES);
  });

  test.each(prototypes)("have the header's arguments and result: $name", ({ name, args, returns }) => {
    const signature = signatures.find((one) => one.name === name);
    expect(signature?.args).toHaveLength(args.length);
    const wrong = args.flatMap((c, i) =>
      fits(c, signature!.args[i]) ? [] : [`argument ${i}: ${c} is ${signature!.args[i]}`],
    );
    expect(wrong).toEqual([]);
    expect(signature?.returns).toBe(returns);
  });

  test("are all that the library exports", () => {
    const { stdout, exitCode } = Bun.spawnSync(["nm", "-D", "--defined-only", join(ROOT, "build/libtram.so")]);
    expect(exitCode).toBe(0);
    const lines = stdout.toString().trim().split("\n");
    const exported = lines.map((line) => line.split(/\s+/).at(-1) ?? "");
    expect(exported.sort()).toEqual([...SYMBOL_NAMES].sort());
  });
});

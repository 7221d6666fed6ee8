import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join, posix } from "node:path";

const SRC = join(import.meta.dir, "../../src");

/** A folder of src/, or a file that stands beside the folders. */
const RANK: Record<string, number> = {
  "errors.ts": 0,
  "thread.ts": 0,
  "version.ts": 0,
  stream: 1,
  memory: 2,
  native: 1,
  transport: 2,
  control: 3,
  writer: 4,
  reader: 4,
  inspect: 5,
  keep: 5,
  machine: 5,
  qmp: 6,
  "workers.ts": 7,
  cli: 8,
  "main.ts": 9,
};

/** What each may import. "type:" allows only types. */
const ALLOWED: Record<string, string[]> = {
  "errors.ts": [],
  "thread.ts": [],
  "version.ts": [],
  stream: ["errors.ts"],
  memory: ["native"],
  native: ["errors.ts"],
  transport: ["errors.ts", "native"],
  control: ["errors.ts", "stream", "memory", "type:native"],
  writer: ["errors.ts", "stream", "memory", "native", "type:transport", "control"],
  reader: ["errors.ts", "stream", "memory", "native", "type:transport", "type:control"],
  inspect: ["errors.ts", "thread.ts", "native", "stream", "memory", "transport", "reader"],
  keep: ["errors.ts", "thread.ts", "native", "stream", "memory", "transport", "control", "reader", "writer"],
  machine: ["errors.ts", "thread.ts", "stream", "memory", "native", "transport", "control", "writer", "reader"],
  qmp: ["errors.ts", "thread.ts", "memory", "native", "transport", "control", "machine"],
  "workers.ts": ["thread.ts", "type:inspect", "type:keep", "type:machine", "type:qmp"],
  cli: [
    "errors.ts",
    "version.ts",
    "type:thread.ts",
    "stream",
    "native",
    "transport",
    "control",
    "reader",
    "writer",
    "inspect",
    "keep",
    "machine",
    "qmp",
    "workers.ts",
  ],
  "main.ts": ["errors.ts", "version.ts", "cli"],
};

interface Import {
  file: string;
  /** As it stands in the file. */
  specifier: string;
  /** Relative imports: what it means, from src/. */
  target: string | null;
  typeOnly: boolean;
  /** Between `import` and `from`. */
  clause: string;
}

/** Every import and re-export of a file, static or dynamic, types included. */
function importsOf(file: string, text: string): Import[] {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  const found: Import[] = [];
  const add = (specifier: string, clause: string) => {
    const target = specifier.startsWith(".") ? posix.join(posix.dirname(file), specifier) : null;
    found.push({ file, specifier, target, typeOnly: /^type\b/.test(clause), clause });
  };
  for (const match of code.matchAll(/^\s*(?:import|export)\s+([^;"']*?)\s*\bfrom\s*["']([^"']+)["']/gm))
    add(match[2], match[1]);
  for (const match of code.matchAll(/^\s*import\s*["']([^"']+)["']/gm)) add(match[1], "");
  for (const match of code.matchAll(/\bimport\s*\(\s*["'`]([^"'`]+)["'`]/g)) add(match[1], "");
  return found;
}

const homeOf = (path: string): string => path.split("/")[0];

/** Sentences about imports that the table does not allow. */
function violations(imports: readonly Import[]): string[] {
  return imports.flatMap(({ file, target, typeOnly, specifier }) => {
    if (target === null || /^\.\.\/(build|schema)\//.test(target)) return [];
    const from = homeOf(file);
    const to = homeOf(target);
    const allowed = ALLOWED[from] ?? [];
    if (from === to || allowed.includes(to) || (typeOnly && allowed.includes(`type:${to}`))) return [];
    return [`${file} imports ${typeOnly ? "a type from " : ""}${specifier}`];
  });
}

const FILES = [...new Bun.Glob("**/*.ts").scanSync(SRC)].filter((file) => !file.endsWith(".d.ts")).sort();
const TEXTS = new Map(FILES.map((file) => [file, readFileSync(join(SRC, file), "utf8")]));
const IMPORTS = FILES.flatMap((file) => importsOf(file, TEXTS.get(file)!));

describe("the finder of imports", () => {
  const find = (text: string) =>
    importsOf("stream/bad.ts", text).map(
      ({ target, specifier, typeOnly }) => `${typeOnly ? "type " : ""}${target ?? specifier}`,
    );

  test.each([
    [`import { a } from "../control/send.ts";`, ["control/send.ts"]],
    [`import {\n  a,\n  type B,\n} from "../control/send.ts";`, ["control/send.ts"]],
    [`import type { A } from "../control/send.ts";`, ["type control/send.ts"]],
    [`import * as a from '../control/send.ts';`, ["control/send.ts"]],
    [`export { a } from "../control/send.ts";`, ["control/send.ts"]],
    [`export type { A } from "../control/send.ts";`, ["type control/send.ts"]],
    [`export * from "../control/send.ts";`, ["control/send.ts"]],
    [`import "../control/send.ts";`, ["control/send.ts"]],
    [`const a = await import("../control/send.ts");`, ["control/send.ts"]],
    [`import { dlopen } from "bun:ffi";`, ["bun:ffi"]],
    [`import file from "../../build/x.so" with { type: "file" };`, ["../build/x.so"]],
    [`// import { a } from "../control/send.ts";\nimport b from "./b.ts";`, ["stream/b.ts"]],
    [`export const from = "x";`, []],
  ])("sees %j", (text, expected) => {
    expect(find(text)).toEqual(expected);
  });

  test.each([
    ["stream/bad.ts", `import { a } from "../native/ram.ts";`],
    ["memory/bad.ts", `import type { A } from "../stream/ram.ts";`],
    ["control/bad.ts", `import { net } from "../native/net.ts";`],
    ["control/bad.ts", `import type { T } from "../transport/transport.ts";`],
    ["native/bad.ts", `export { a } from "../memory/bitmap.ts";`],
    ["machine/devices/bad.ts", `import { a } from "../../cli/run.ts";`],
    ["errors.ts", `import { a } from "./version.ts";`],
    ["unheard-of/bad.ts", `import { a } from "../errors.ts";`],
  ])("leads to a sentence about %s with %s", (file, text) => {
    expect(violations(importsOf(file, text))).toHaveLength(1);
  });
});

describe("the parts of src/", () => {
  test("are all in the table", () => {
    expect([...new Set(FILES.map(homeOf))].sort()).toEqual(Object.keys(ALLOWED).sort());
    expect(Object.keys(RANK).sort()).toEqual(Object.keys(ALLOWED).sort());
  });

  test("import only what the table allows", () => {
    expect(violations(IMPORTS)).toEqual([]);
  });

  test("need everything that the table allows", () => {
    const used = new Set(
      IMPORTS.flatMap(({ file, target, typeOnly }) => {
        if (target === null) return [];
        const pair = `${homeOf(file)} -> ${homeOf(target)}`;
        return typeOnly ? [`${pair} as type`] : [pair, `${pair} as type`];
      }),
    );
    const unused = Object.entries(ALLOWED).flatMap(([from, list]) =>
      list
        .map((to) => (to.startsWith("type:") ? `${from} -> ${to.slice(5)} as type` : `${from} -> ${to}`))
        .filter((pair) => !used.has(pair)),
    );
    expect(unused).toEqual([]);
  });

  test("depend downwards only", () => {
    const upwards = Object.entries(ALLOWED).flatMap(([from, list]) =>
      list
        .map((to) => to.replace(/^type:/, ""))
        .filter((to) => RANK[to] >= RANK[from])
        .map((to) => `${from} -> ${to}`),
    );
    expect(upwards).toEqual([]);
  });

  test("have no cycle", () => {
    const next = new Map(Object.keys(ALLOWED).map((from) => [from, new Set<string>()]));
    for (const { file, target } of IMPORTS)
      if (target !== null && homeOf(file) !== homeOf(target)) next.get(homeOf(file))?.add(homeOf(target));
    const cycles: string[][] = [];
    const walk = (at: string, path: string[]) => {
      if (path.includes(at)) cycles.push([...path.slice(path.indexOf(at)), at]);
      else for (const to of next.get(at) ?? []) walk(to, [...path, at]);
    };
    for (const from of next.keys()) walk(from, []);
    expect(cycles).toEqual([]);
  });
});

describe("the outside world", () => {
  const importers = (pattern: RegExp) =>
    IMPORTS.filter(({ specifier }) => pattern.test(specifier)).map(({ file }) => file);
  const filesWith = (pattern: RegExp) =>
    FILES.filter((file) => pattern.test(TEXTS.get(file)!.replace(/^\s*(\/\/|\*).*$/gm, "")));

  test("is reached through bun:ffi from native/ alone", () => {
    const files = importers(/^bun:ffi$/);
    expect(files.filter((file) => homeOf(file) !== "native")).toEqual([]);
    expect(files).toContain("native/symbols.ts");
  });

  test("is opened as a library in one file", () => {
    expect(filesWith(/\bdlopen\(/)).toEqual(["native/symbols.ts"]);
  });

  test("does not exist for stream/: no module but its own and the errors", () => {
    const strange = IMPORTS.filter(({ file }) => homeOf(file) === "stream").filter(
      ({ specifier, file, target }) =>
        target === null || (homeOf(target) !== homeOf(file) && specifier.split("/").at(-1) !== "errors.ts"),
    );
    expect(strange).toEqual([]);
  });

  test("has no clock and no process in stream/ and memory/", () => {
    const globals = filesWith(/\b(Bun|process|performance|Date)\s*\./).filter((file) =>
      ["stream", "memory"].includes(homeOf(file)),
    );
    expect(globals).toEqual([]);
  });

  test("is drawn in one file, by a library that is loaded with the first page and not before", () => {
    expect([...new Set(importers(/^(echarts|zrender)\b/))]).toEqual(["cli/page/charts.ts"]);
    const early = IMPORTS.filter(({ file, target, typeOnly, clause }) => {
      const isPart = target?.startsWith("cli/page/") && !["cli/page/story.ts"].includes(target);
      return isPart && !file.startsWith("cli/page/") && !typeOnly && clause !== "";
    });
    expect(early).toEqual([]);
    const parts = IMPORTS.filter(({ file, typeOnly }) => file === "cli/page/story.ts" && !typeOnly);
    expect(parts.map(({ target }) => target).filter((target) => target?.startsWith("cli/page/"))).toEqual([]);
  });

  test("is told an exit code by main.ts alone", () => {
    expect(filesWith(/\bprocess\s*\.\s*exit\b/)).toEqual(["main.ts"]);
  });
});

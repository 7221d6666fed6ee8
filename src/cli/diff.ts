// tram diff: what differs between two streams or files: pages, and device fields.
import { EXIT, formatError, TramError, toErrorData } from "../errors.ts";
import { changeKinds } from "../inspect/change-map.ts";
import type { PagesByKind } from "../inspect/kinds.ts";
import { changesBetween, differingRuns } from "../inspect/pages.ts";
import { type FieldValue, fieldValues } from "../inspect/values.ts";
import type { MappedFile } from "../reader/mapped.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import { openForPages } from "./extract.ts";
import { inFile } from "./file-target.ts";
import { changePicture, checkMap, figuresOf, legend, MAP_OPTION, writeMap } from "./map.ts";
import type { Picture } from "./picture/picture.ts";
import { JSON_SCHEMA } from "./report.ts";
import { formatCount } from "./units.ts";

const SAME = 0;
const DIFFERS = 1;
const TROUBLE = EXIT.usage;
const RANGES_SHOWN = 8;

interface FieldDifference {
  field: string;
  a: string;
  b: string;
}

export const diff = command({
  name: "diff",
  summary: "what differs between two streams or files: pages and device fields",
  args: {
    a: { type: "positional", description: "a file, plain or with fixed offsets", required: true, names: "file" },
    b: { type: "positional", description: "the file to compare it with", required: true, names: "file" },
    map: MAP_OPTION,
    json: { type: "boolean", description: "one JSON object on standard output" },
  },
  examples: [
    "tram diff before.tram after.tram               # exits with 0: the same; 1: they differ; 2: it cannot be told",
    "tram diff a.tram b.tram --json | jq .fields",
    "tram diff a.tram b.tram --map changes.svg",
  ],
  run(args) {
    try {
      if (args.map === undefined) return tell(args.a, args.b, compare(args.a, args.b), args.json === true, null);
      const out = args.map;
      checkMap(out, [args.a, args.b]);
      const { found, picture } = writeMap(out, () => {
        const found = compare(args.a, args.b);
        return { found, picture: pictureOf(`${args.a} → ${args.b}`, found) };
      });
      return tell(args.a, args.b, found, args.json === true, { picture, out });
    } catch (error) {
      if (!(error instanceof TramError)) throw error;
      say(formatError(toErrorData(error)));
      return TROUBLE;
    }
  },
});

interface Comparison {
  headers: FieldDifference[];
  blocks: BlockDifference[];
  fields: FieldDifference[];
  /** Of the blocks that both have. */
  pages: PagesByKind[];
  /** The second one. */
  after: MappedFile;
}

function compare(pathA: string, pathB: string): Comparison {
  const a = inFile(pathA, () => openForPages(pathA, "-"));
  const b = inFile(pathB, () => openForPages(pathB, "-"));
  const compared = compareBlocks(a, b);
  return {
    headers: compareHeaders(a, b),
    blocks: compared.map(({ difference }) => difference),
    fields: compareFields(a, b),
    pages: compared.flatMap(({ pages }) => pages ?? []),
    after: b,
  };
}

function tell(
  a: string,
  b: string,
  { headers, blocks, fields }: Comparison,
  json: boolean,
  map: { picture: Picture; out: string } | null,
): number {
  const same =
    !headers.length && blocks.every(({ differingPages: pages, onlyIn }) => pages === 0 && !onlyIn) && !fields.length;
  const figures = map && figuresOf(map.out, map.picture);
  if (json)
    print(
      JSON.stringify({ schema: JSON_SCHEMA, a, b, same, headers, blocks, fields, ...(figures && { map: figures }) }),
    );
  else {
    print(format(headers, blocks, fields));
    if (map && figures) print(`\n${legend(map.picture, figures)}`);
  }
  return same ? SAME : DIFFERS;
}

function pictureOf(title: string, { pages, fields, after }: Comparison): Picture {
  const differing = new Set(fields.map(({ field }) => field.split(".")[0]));
  return changePicture({
    title,
    machine: after.configuration.machine,
    blocks: pages,
    sections: after.tail.devices.map(({ name, instance, bodyBytes }) => ({
      name: instance ? `${name}/${instance}` : name,
      bytes: bodyBytes,
      differs: differing.has(`${name}/${instance}`),
    })),
  });
}

function compareHeaders(a: MappedFile, b: MappedFile): FieldDifference[] {
  const rows: [string, string, string][] = [
    ["machine", a.configuration.machine, b.configuration.machine],
    ["uuid", hexOf(a.configuration.uuid), hexOf(b.configuration.uuid)],
  ];
  return rows.flatMap(([field, left, right]) => (left === right ? [] : [{ field, a: left, b: right }]));
}

const hexOf = (bytes: Uint8Array | null): string => (bytes ? Buffer.from(bytes).toString("hex") : "none");

interface BlockDifference {
  name: string;
  pages: number;
  differingPages: number;
  /** [first, end) */
  ranges: [number, number][];
  onlyIn: "a" | "b" | null;
}

/** `pages`: what became of each; null where one of them has no such block. */
function compareBlocks(a: MappedFile, b: MappedFile): { difference: BlockDifference; pages: PagesByKind | null }[] {
  const names = [...new Set([...a.blocks, ...b.blocks].map(({ name }) => name))];
  return names.map((name) => {
    const left = a.blocks.find((block) => block.name === name);
    const right = b.blocks.find((block) => block.name === name);
    if (!left || !right) {
      const pages = (left ?? right)?.present.pages ?? 0;
      const difference = { name, pages, differingPages: 0, ranges: [], onlyIn: left ? ("a" as const) : ("b" as const) };
      return { difference, pages: null };
    }
    if (left.bytes !== right.bytes)
      throw new TramError("E_STREAM", `block '${name}' has two sizes`, {
        expected: `${left.bytes} bytes`,
        found: `${right.bytes} bytes`,
        next: "these are different machines",
      });
    const changes = changesBetween(a, left, b, right);
    const ranges = differingRuns(changes);
    const differingPages = ranges.reduce((sum, [first, end]) => sum + end - first, 0);
    return {
      difference: { name, pages: left.present.pages, differingPages, ranges, onlyIn: null },
      pages: { name, bytes: left.bytes, kinds: changeKinds(changes) },
    };
  });
}

/** Every leaf of every device by its path, with its value. */
function leaves(file: MappedFile): Map<string, string> {
  const all = new Map<string, string>();
  const add = (path: string, fields: readonly FieldValue[]) => {
    for (const { name, value, fields: nested } of fields) {
      const here = `${path}.${name}`;
      if (nested) add(here, nested);
      else all.set(here, String(value));
    }
  };
  for (const section of file.tail.devices) {
    const path = `${section.name}/${section.instance}`;
    const values = fieldValues(section, file.tailBytes, file.tailOffset);
    const body = file.tailBytes.subarray(
      section.bodyOffset - file.tailOffset,
      section.bodyOffset - file.tailOffset + section.bodyBytes,
    );
    if (values.length) add(path, values);
    else all.set(path, Bun.hash(body).toString(16));
    all.set(`${path}.version`, `${section.version}`);
  }
  return all;
}

function compareFields(a: MappedFile, b: MappedFile): FieldDifference[] {
  const left = leaves(a);
  const right = leaves(b);
  return [...new Set([...left.keys(), ...right.keys()])].flatMap((field) => {
    const [one, other] = [left.get(field) ?? "absent", right.get(field) ?? "absent"];
    return one === other ? [] : [{ field, a: one, b: other }];
  });
}

function format(
  headers: readonly FieldDifference[],
  blocks: readonly BlockDifference[],
  fields: readonly FieldDifference[],
): string {
  const lines = headers.map(({ field, a, b }) => `${field}: ${a} / ${b}`);
  for (const { name, pages, differingPages: count, ranges, onlyIn } of blocks) {
    if (onlyIn) lines.push(`block ${name}: only in ${onlyIn}`);
    else if (count) {
      const shown = ranges
        .slice(0, RANGES_SHOWN)
        .map(([first, end]) => (end - first === 1 ? `${first}` : `${first}-${end - 1}`));
      const more = ranges.length > RANGES_SHOWN ? ` and ${ranges.length - RANGES_SHOWN} more ranges` : "";
      lines.push(
        `block ${name}: ${formatCount(count)} of ${formatCount(pages)} pages differ: ${shown.join(", ")}${more}`,
      );
    }
  }
  for (const { field, a, b } of fields) lines.push(`${field}: ${a} / ${b}`);
  return lines.length ? lines.join("\n") : "the same";
}

// tram diff: what differs between two streams or files: pages, and device fields.
import { EXIT, formatError, TramError, toErrorData } from "../errors.ts";
import { differingPages } from "../inspect/pages.ts";
import { type FieldValue, fieldValues } from "../inspect/values.ts";
import type { MappedFile } from "../reader/mapped.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import { openForPages } from "./extract.ts";
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
    b: { type: "positional", description: "another", required: true, names: "file" },
    json: { type: "boolean", description: "one JSON object on standard output" },
  },
  examples: ["tram diff before.tram after.tram", "tram diff a.tram b.tram --json | jq .fields"],
  run(args) {
    try {
      const a = openForPages(args.a, "-");
      const b = openForPages(args.b, "-");
      const headers = compareHeaders(a, b);
      const blocks = compareBlocks(a, b);
      const fields = compareFields(a, b);
      const same =
        !headers.length &&
        blocks.every(({ differingPages: pages, onlyIn }) => pages === 0 && !onlyIn) &&
        !fields.length;
      if (args.json)
        print(JSON.stringify({ schema: JSON_SCHEMA, a: args.a, b: args.b, same, headers, blocks, fields }));
      else print(format(headers, blocks, fields));
      return same ? SAME : DIFFERS;
    } catch (error) {
      if (!(error instanceof TramError)) throw error;
      say(formatError(toErrorData(error)));
      return TROUBLE;
    }
  },
});

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

function compareBlocks(a: MappedFile, b: MappedFile): BlockDifference[] {
  const names = [...new Set([...a.blocks, ...b.blocks].map(({ name }) => name))];
  return names.map((name) => {
    const left = a.blocks.find((block) => block.name === name);
    const right = b.blocks.find((block) => block.name === name);
    if (!left || !right)
      return {
        name,
        pages: (left ?? right)?.present.pages ?? 0,
        differingPages: 0,
        ranges: [],
        onlyIn: left ? "a" : "b",
      };
    if (left.bytes !== right.bytes)
      throw new TramError("E_STREAM", `block '${name}' has two sizes`, {
        expected: `${left.bytes} bytes`,
        found: `${right.bytes} bytes`,
        next: "these are different machines",
      });
    const ranges = differingPages(a, left, b, right);
    return {
      name,
      pages: left.present.pages,
      differingPages: ranges.reduce((sum, [first, end]) => sum + end - first, 0),
      ranges,
      onlyIn: null,
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

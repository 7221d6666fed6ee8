// The schema of --json, closed: outside of tests a program lets unknown fields be, but what tram says is all described.
import Ajv2020, { type ValidateFunction } from "ajv/dist/2020";
import schema from "../../schema/tram-1.schema.json";

type Node = { [key: string]: unknown };
const isNode = (value: unknown): value is Node => typeof value === "object" && value !== null && !Array.isArray(value);

/** Definitions that others are made of: they are closed with those. */
function mixinsOf(node: unknown): string[] {
  if (Array.isArray(node)) return node.flatMap(mixinsOf);
  if (!isNode(node)) return [];
  const own = Array.isArray(node.allOf) ? node.allOf.map((one: Node) => String(one.$ref).replace("#/$defs/", "")) : [];
  return [...own, ...Object.values(node).flatMap(mixinsOf)];
}

function closed(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(closed);
  if (!isNode(node)) return node;
  const inner = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, closed(value)]));
  const isObject = node.type === "object" && isNode(node.properties);
  return isObject ? { ...inner, unevaluatedProperties: false } : inner;
}

function closedSchema(): Node {
  const mixins = new Set(mixinsOf(schema));
  const whole = closed(schema) as Node & { $defs: Record<string, Node> };
  for (const name of mixins) {
    // "stall" is told by itself, too: as an event it is closed by the event.
    const { unevaluatedProperties: _, ...open } = whole.$defs[name];
    whole.$defs[name] = open;
  }
  return whole;
}

const ajv = new Ajv2020({ strict: true, strictTypes: false, strictRequired: false, allErrors: false });
ajv.addSchema(closedSchema());

/** What its definitions are called. */
export const DEFINITIONS: readonly string[] = Object.keys(schema.$defs);

const validators = new Map<string, ValidateFunction>();

/** Why `value` is not what a definition says; null: it is. Without a definition: nothing that tram says. */
export function whyNot(value: unknown, definition?: string): string | null {
  const name = definition === undefined ? "urn:tram:1" : `urn:tram:1#/$defs/${definition}`;
  const validate = validators.get(name) ?? ajv.getSchema(name);
  if (!validate) throw new Error(`the schema has no ${name}`);
  validators.set(name, validate);
  if (validate(value)) return null;
  return `${ajv.errorsText(validate.errors)} in ${JSON.stringify(value).slice(0, 300)}`;
}

/** As a program would read it: one object, or one event a line; the names of what came. */
export function checkLines(text: string, definition = "event"): string[] {
  return text
    .trim()
    .split("\n")
    .map((line) => {
      const value = JSON.parse(line);
      const problem = whyNot(value, definition) ?? whyNot(value);
      if (problem) throw new Error(problem);
      return value.event ?? definition;
    });
}

// What a command is made of, and the strictness that citty lacks: unknown options are refused with the nearest match.
import { type ArgsDef, type CommandDef, defineCommand, type ParsedArgs } from "citty";
import { TramError } from "../errors.ts";
import { formatMany } from "./units.ts";

/** What a value names: completion offers these. */
export type Names = "guest" | "file" | "folder" | "uri";

/** An option or argument: what citty knows of it, and what its help, completion and manual tell besides. */
export type TramArg = ArgsDef[string] & {
  /** Its short form, a letter. */
  alias?: string;
  many?: boolean;
  /** All that it takes. */
  values?: readonly string[];
  /** Some of what it takes. What ends in ":" or "=" goes on behind that. */
  suggestions?: readonly string[];
  names?: Names;
};
export type TramArgs = Record<string, TramArg>;

export interface TramCommand {
  name: string;
  summary: string;
  definition: CommandDef<ArgsDef>;
  args: TramArgs;
  examples: readonly string[];
}

/** A command whose `run` returns the exit code. */
export function command<const T extends TramArgs>(options: {
  name: string;
  summary: string;
  args: T;
  examples: readonly string[];
  run: (args: ParsedArgs<T>) => Promise<number> | number;
}): TramCommand {
  const { name, summary, args, examples, run } = options;
  const definition = defineCommand({
    meta: { name, description: summary },
    args,
    run: ({ args: given }) => run(given),
  });
  return { name, summary, args, examples, definition: definition as unknown as CommandDef<ArgsDef> };
}

const camel = (name: string): string => name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** An option as it is typed. */
export interface Option {
  /** "--max-downtime". */
  long: string;
  /** "-d". */
  short: string | null;
  /** What stands for its value, "TIME"; null: it takes none. */
  hint: string | null;
  /** It may be left out; else it follows "=". */
  hasOptionalValue: boolean;
  arg: TramArg;
}

export function optionsOf(args: TramArgs): Option[] {
  const options = Object.entries(args).filter(([, arg]) => arg.type !== "positional");
  return options.map(([key, arg]) => ({
    long: `--${kebab(key)}`,
    short: arg.alias === undefined ? null : `-${arg.alias}`,
    hint: arg.type === "boolean" ? null : (arg.valueHint ?? arg.values?.join("|") ?? "VALUE"),
    hasOptionalValue: key === "json" && arg.type === "string",
    arg,
  }));
}

/** An argument: "VM". */
export interface Positional {
  name: string;
  isRequired: boolean;
  isMany: boolean;
  arg: TramArg;
}

export function positionalsOf(args: TramArgs): Positional[] {
  const positionals = Object.entries(args).filter(([, arg]) => arg.type === "positional");
  return positionals.map(([key, arg]) => ({
    name: key.toUpperCase(),
    isRequired: arg.required !== false,
    isMany: arg.many === true,
    arg,
  }));
}

/** "VM [SIZE]". */
export const positionalLine = (args: TramArgs): string =>
  positionalsOf(args)
    .map(({ name, isRequired, isMany }) => `${isRequired ? name : `[${name}]`}${isMany ? "..." : ""}`)
    .join(" ");

/** "--detach, -d", "--timeout TIME", "--json[=PATH|fd:N]". */
export function optionText({ long, short, hint, hasOptionalValue }: Option): string {
  const value = hint === null ? "" : hasOptionalValue ? `[=${hint}]` : ` ${hint}`;
  return `${long}${short ? `, ${short}` : ""}${value}`;
}

/**
 * Refuses what citty would silently accept: unknown options, options without their value, too many arguments. Returns the
 * arguments for citty, with a bare --json spelt out.
 */
export function checkArguments(raw: readonly string[], { name, args }: TramCommand): string[] {
  const options = optionsOf(args);
  const positionals = positionalsOf(args);
  const checked: string[] = [];
  /** Options that may be given several times reach citty as one, a line for each: it would keep the last alone. */
  const several = new Map<string, string[]>();
  let given = 0;
  for (let i = 0; i < raw.length; i++) {
    const text = raw[i];
    if (!text.startsWith("-") || text === "-") {
      given++;
      checked.push(text);
      continue;
    }
    const [typed, value] = text.includes("=")
      ? [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)]
      : [text, null];
    const option = options.find(({ long, short }) => typed === long || typed === short);
    if (!option) throw unknownOption(typed, name, options);
    const { long, hint, hasOptionalValue, arg } = option;
    if (hint === null) {
      if (value !== null) throw new TramError("E_USAGE", `${long} takes no value`, { found: text });
      checked.push(long.startsWith("--no-") ? `--${camel(long.slice(2))}` : long); // citty would take --no-x for the opposite of --x
    } else if (hasOptionalValue) {
      checked.push(`${long}=${value ?? "-"}`);
    } else {
      const next = value ?? raw[++i];
      if (next === undefined) throw new TramError("E_USAGE", `${long} needs a value`, { expected: arg.description });
      if (arg.many) several.set(long, [...(several.get(long) ?? []), next]);
      else checked.push(`${long}=${next}`);
    }
  }
  for (const [long, values] of several) checked.push(`${long}=${values.join("\n")}`);
  if (given > positionals.length && !positionals.some(({ isMany }) => isMany))
    throw new TramError(
      "E_USAGE",
      `tram ${name} takes ${positionals.length ? formatMany(positionals.length, "argument") : "no arguments"}, and was given ${given}`,
      {
        next: `see tram help ${name}`,
      },
    );
  if (given < positionals.filter(({ isRequired }) => isRequired).length) {
    const missing = positionals[given];
    throw new TramError("E_USAGE", `tram ${name} needs ${missing.name}`, {
      expected: missing.arg.description,
      next: `see tram help ${name}`,
    });
  }
  return checked;
}

function unknownOption(typed: string, name: string, options: readonly Option[]): TramError {
  const names = options.map(({ long }) => long.slice(2));
  const near = nearest(typed.replace(/^-+/, ""), names);
  return new TramError("E_USAGE", `tram ${name} has no option ${typed}`, {
    next: near ? `did you mean --${near}?` : `see tram help ${name}`,
  });
}

/** The name within two edits or with the same beginning, if there is one. */
export function nearest(text: string, names: readonly string[]): string | null {
  const scored = names.map((name) => ({
    name,
    distance: name.startsWith(text) && text.length > 1 ? 0 : editDistance(text, name),
  }));
  const best = scored.sort((a, b) => a.distance - b.distance)[0];
  return best && best.distance <= Math.max(1, Math.min(3, Math.floor(text.length / 3) + 1)) ? best.name : null;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length];
}

/** Help of one command, from its table. */
export function usage({ name, summary, args, examples }: TramCommand): string {
  const options = optionsOf(args);
  const positionals = positionalsOf(args);
  const rows = (list: [string, string][]) => {
    const width = Math.max(...list.map(([left]) => left.length));
    return list.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`).join("\n");
  };
  const described = (arg: TramArg): string => arg.description ?? "";
  const parts = [
    `tram ${name}: ${summary}`,
    `Usage: tram ${name} ${positionalLine(args)}${options.length ? " [OPTIONS]" : ""}`.replace(/ +/g, " "),
  ];
  if (positionals.length) parts.push(`Arguments:\n${rows(positionals.map((one) => [one.name, described(one.arg)]))}`);
  if (options.length) parts.push(`Options:\n${rows(options.map((one) => [optionText(one), described(one.arg)]))}`);
  parts.push(`Examples:\n${examples.map((example) => `  ${example}`).join("\n")}`);
  return `${parts.join("\n\n")}\n`;
}

// What a command is made of, and the strictness that citty lacks: unknown options are refused with the nearest match.
import { type ArgsDef, type CommandDef, defineCommand, type ParsedArgs } from "citty";
import { TramError } from "../errors.ts";

export interface TramCommand {
  name: string;
  summary: string;
  definition: CommandDef<ArgsDef>;
  args: ArgsDef;
  examples: readonly string[];
}

/** A command whose `run` returns the exit code. */
export function command<T extends ArgsDef>(options: {
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

export function optionNames(args: ArgsDef): string[] {
  return Object.entries(args)
    .filter(([, definition]) => definition.type !== "positional")
    .map(([name]) => kebab(name));
}

/**
 * Refuses what citty would silently accept: unknown options, options without their value, too many arguments. Returns the
 * arguments for citty, with a bare --json spelt out.
 */
export function checkArguments(raw: readonly string[], { name, args }: TramCommand): string[] {
  const known = new Map(Object.entries(args).map(([key, definition]) => [kebab(key), definition]));
  const positionals = Object.values(args).filter((definition) => definition.type === "positional");
  const checked: string[] = [];
  let given = 0;
  for (let i = 0; i < raw.length; i++) {
    const text = raw[i];
    if (!text.startsWith("-") || text === "-") {
      given++;
      checked.push(text);
      continue;
    }
    const [option, value] = text.includes("=")
      ? [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)]
      : [text, null];
    const key = option.replace(/^--/, "");
    const definition = option.startsWith("--") && known.get(key)?.type !== "positional" ? known.get(key) : undefined;
    if (!definition) throw unknownOption(option, name, args);
    if (definition.type === "boolean") {
      if (value !== null) throw new TramError("E_USAGE", `--${key} takes no value`, { found: text });
      checked.push(key.startsWith("no-") ? `--${camel(key)}` : text); // citty would take --no-x for the opposite of --x
    } else if (key === "json") {
      checked.push(`--json=${value ?? "-"}`);
    } else {
      const next = value ?? raw[++i];
      if (next === undefined)
        throw new TramError("E_USAGE", `--${key} needs a value`, { expected: definition.description });
      checked.push(`--${key}=${next}`);
    }
  }
  const takesMany = Object.values(args).some((definition) => "many" in definition);
  if (given > positionals.length && !takesMany)
    throw new TramError(
      "E_USAGE",
      `tram ${name} takes ${positionals.length || "no"} argument${positionals.length === 1 ? "" : "s"}, and was given ${given}`,
      {
        next: `see tram help ${name}`,
      },
    );
  if (given < positionals.filter((one) => one.required !== false).length) {
    const missing = Object.keys(args).filter((key) => args[key].type === "positional")[given];
    throw new TramError("E_USAGE", `tram ${name} needs ${missing.toUpperCase()}`, {
      expected: args[missing].description,
      next: `see tram help ${name}`,
    });
  }
  return checked;
}

function unknownOption(option: string, name: string, args: ArgsDef): TramError {
  const near = nearest(option.replace(/^-+/, ""), optionNames(args));
  return new TramError("E_USAGE", `tram ${name} has no option ${option}`, {
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
  const entries = Object.entries(args);
  const positionals = entries.filter(([, d]) => d.type === "positional");
  const options = entries.filter(([, d]) => d.type !== "positional");
  const line = positionals
    .map(
      ([key, d]) => `${d.required === false ? `[${key.toUpperCase()}]` : key.toUpperCase()}${"many" in d ? "..." : ""}`,
    )
    .join(" ");
  const rows = (list: [string, string][]) => {
    const width = Math.max(...list.map(([left]) => left.length));
    return list.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`).join("\n");
  };
  const left = (key: string, definition: ArgsDef[string]): string => {
    if (definition.type === "boolean") return `--${kebab(key)}`;
    const hint = "valueHint" in definition && definition.valueHint ? definition.valueHint : "VALUE";
    return key === "json" ? "--json[=PATH|fd:N]" : `--${kebab(key)} ${hint}`;
  };
  const parts = [
    `tram ${name}: ${summary}`,
    `Usage: tram ${name} ${line}${options.length ? " [OPTIONS]" : ""}`.replace(/ +/g, " "),
  ];
  if (positionals.length)
    parts.push(`Arguments:\n${rows(positionals.map(([key, d]) => [key.toUpperCase(), d.description ?? ""]))}`);
  if (options.length) parts.push(`Options:\n${rows(options.map(([key, d]) => [left(key, d), d.description ?? ""]))}`);
  parts.push(`Examples:\n${examples.map((example) => `  ${example}`).join("\n")}`);
  return `${parts.join("\n\n")}\n`;
}

// What may stand where in a command line, as all shells' scripts need it.
import { type Names, optionsOf, positionalsOf, type TramArg, type TramCommand } from "./command.ts";

/** What a value may be. What ends in ":" or "=" goes on behind that, with a path if that is "file:" or "unix:". */
export interface Choice {
  names: Names | null;
  words: readonly string[];
}

export interface Place {
  /** What stands for the value: "TIME", "VM". */
  hint: string;
  choice: Choice;
}

export interface OptionPlace {
  /** "--detach", and "-d" where it has a short form. */
  spellings: string[];
  description: string;
  /** Null: it takes no value. */
  value: Place | null;
  /** The value follows "=", or is left out. */
  hasOptionalValue: boolean;
}

export interface CommandPlaces {
  name: string;
  summary: string;
  options: OptionPlace[];
  positionals: (Place & { isMany: boolean })[];
}

/** How addresses begin. */
const ADDRESSES = ["tcp:", "unix:", "file:", "exec:", "fd:", "-"];
const ALSO: Record<Names, readonly string[]> = { guest: ["unix:"], uri: ADDRESSES, file: [], folder: [] };

function choiceOf({ names, values = [], suggestions = [] }: TramArg): Choice {
  return { names: names ?? null, words: [...values, ...suggestions, ...(names ? ALSO[names] : [])] };
}

/** All commands, and what main.ts knows besides. */
export function placesOf(commands: readonly TramCommand[]): CommandPlaces[] {
  const known = commands.map(({ name, summary, args }) => ({
    name,
    summary,
    options: optionsOf(args).map(({ long, short, hint, hasOptionalValue, arg }) => ({
      spellings: short ? [long, short] : [long],
      description: arg.description ?? "",
      value: hint === null ? null : { hint, choice: choiceOf(arg) },
      hasOptionalValue,
    })),
    positionals: positionalsOf(args).map((one) => ({ hint: one.name, choice: choiceOf(one.arg), isMany: one.isMany })),
  }));
  const names = { names: null, words: commands.map(({ name }) => name) };
  const help = { name: "help", summary: "shows a command's options, with examples", options: [] };
  return [...known, { ...help, positionals: [{ hint: "COMMAND", choice: names, isMany: false }] }];
}

/** In single quotes, as bash and zsh read it. */
export const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

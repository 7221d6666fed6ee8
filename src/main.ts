// tram: find the command, run it, and turn whatever comes out into text and an exit code. The one place that does.
import { runCommand } from "citty";
import { checkArguments, nearest, type TramCommand, usage } from "./cli/command.ts";
import { COMMANDS } from "./cli/commands.ts";
import { print, say } from "./cli/console.ts";
import { EXITS, manual } from "./cli/man.ts";
import { EXIT, formatError, TramError, toErrorData } from "./errors.ts";
import { VERSION } from "./version.ts";

function overview(): string {
  const width = Math.max(...COMMANDS.map(({ name }) => name.length));
  const rows = COMMANDS.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`);
  return `tram ${VERSION}: moves running KVM guests from one process or host to another.

Usage: tram COMMAND [ARGUMENTS] [OPTIONS]

Commands:
${rows.join("\n")}

tram help COMMAND shows a command's options, with examples; tram help --man prints the manual page.
Exit codes:
${EXITS.map(([code, means]) => `  ${String(code).padStart(3)}  ${means}`).join("\n")}
`;
}

/** What others call them. */
const SYNONYMS: Record<string, string> = {
  stop: "pause, or tram quit",
  kill: "quit",
  shutdown: "quit",
  start: "run",
  create: "run",
  list: "ps",
  ls: "ps",
  snapshot: "save",
  load: "restore",
  info: "inspect",
};

function findCommand(name: string): TramCommand {
  const found = COMMANDS.find((one) => one.name === name);
  if (found) return found;
  const known = SYNONYMS[name] ?? null;
  const near =
    known ??
    nearest(
      name,
      COMMANDS.map((one) => one.name),
    );
  throw new TramError("E_USAGE", `there is no command '${name}'`, {
    next: near ? `did you mean tram ${near}?` : "see tram help",
  });
}

async function dispatch(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === "help" && rest[0] === "--man") {
    print(manual(COMMANDS).trimEnd());
    return EXIT.done;
  }
  if (name === undefined || ["help", "--help", "-h"].includes(name)) {
    print((rest[0] === undefined ? overview() : usage(findCommand(rest[0]))).trimEnd());
    return name === undefined ? EXIT.usage : EXIT.done;
  }
  if (name === "version" || name === "--version") {
    print(`tram ${VERSION}`);
    return EXIT.done;
  }
  const command = findCommand(name);
  if (rest.includes("--help") || rest.includes("-h")) {
    print(usage(command).trimEnd());
    return EXIT.done;
  }
  const { result } = await runCommand(command.definition, { rawArgs: checkArguments(rest, command) });
  return result as number;
}

async function main(): Promise<never> {
  try {
    const code = await dispatch(process.argv.slice(2));
    process.exit(code || Number(process.exitCode ?? EXIT.done)); // standard output may have taken nothing
  } catch (error) {
    const data = toErrorData(error);
    say(formatError(data));
    if (process.env.TRAM_DEBUG === "1" && error instanceof Error) say(error.stack ?? "");
    process.exit(error instanceof TramError ? error.exitCode : EXIT.failed);
  }
}

await main();

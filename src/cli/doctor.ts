// tram doctor: what tram can do on this host, and what to type where it cannot.
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { EXIT, TramError } from "../errors.ts";
import { command } from "./command.ts";
import { print } from "./console.ts";
import { diagnose, formatChecks, lacksNeeded } from "./doctor-checks.ts";
import { gatherFacts } from "./doctor-facts.ts";
import { JSON_SCHEMA } from "./report.ts";

export const doctor = command({
  name: "doctor",
  summary: "says what tram can do on this host, and what to type where it cannot",
  args: {
    folder: {
      type: "positional",
      description: "where guests' files shall go (default: the current folder); a file is tried there and removed",
      required: false,
      names: "folder",
    },
    json: { type: "boolean", description: "one JSON object on standard output" },
  },
  examples: ["tram doctor", "tram doctor /var/lib/guests --json"],
  run(args) {
    const checks = diagnose(gatherFacts(resolveFolder(args.folder ?? ".")));
    // A pipe or file gets one line a check, however long.
    const width = process.stdout.isTTY ? (process.stdout.columns ?? 80) : Number.POSITIVE_INFINITY;
    print(args.json ? JSON.stringify({ schema: JSON_SCHEMA, checks }) : formatChecks(checks, width));
    return lacksNeeded(checks) ? EXIT.failed : EXIT.done;
  },
});

function resolveFolder(text: string): string {
  const path = resolve(text);
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory())
    throw new TramError("E_USAGE", `there is no folder ${path}`, { next: `make it: mkdir -p ${path}` });
  return path;
}

// tram verify: everything that tram check looks at, and every byte against the hashes of the file's seal.
import { formatError } from "../errors.ts";
import { type NamedPage, placeOf, type Verification, verify as verifyFile } from "../inspect/verify.ts";
import { hex } from "../reader/seal.ts";
import { leftovers, summary } from "./check.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import { locatedIn, parseFile } from "./file-target.ts";
import { CHANNELS_OPTION, HashCrew } from "./hashing.ts";
import { exitOf, JSON_SCHEMA } from "./report.ts";
import { formatBytes, formatCount, formatMs, formatRate } from "./units.ts";

const SHOWN = 20;

export const verify = command({
  name: "verify",
  summary: "checks a file as tram check does, and compares every byte with its seal",
  args: {
    file: {
      type: "positional",
      description: "a file with fixed offsets: PATH, file:PATH,offset=N or fd:N; others are checked only",
      required: true,
      names: "file",
    },
    channels: CHANNELS_OPTION,
    seal: { type: "string", description: "where the seal is (default: at the file's end, or in FILE.seal)", valueHint: "PATH", names: "file" }, // biome-ignore format: one line
    json: { type: "boolean", description: "one JSON object on standard output" },
  },
  examples: ["tram verify vm.tram", "tram verify vm.mapped --seal /backup/vm.mapped.seal", "tram verify vm.tram --json | jq .bad"], // biome-ignore format: one line
  async run(args) {
    const spec = parseFile(args.file, 0);
    const began = performance.now();
    const crew = new HashCrew(args.channels, "verifying", args.json !== true);
    try {
      const found = await verifyFile(spec, args.seal ?? null, crew.hash);
      found.notes.push(...leftovers(spec.path));
      const elapsedMs = performance.now() - began;
      if (args.json) print(JSON.stringify(asJson(args.file, found, elapsedMs)));
      else tell(args.file, found, elapsedMs);
      return exitOf(found.problems);
    } finally {
      crew.end();
    }
  },
});

function asJson(file: string, result: Verification, elapsedMs: number): object {
  const { sealed, seal, found, checkedBytes, bad, badCount, unreadableCount, problems, notes } = result;
  const blocks = found?.blocks.map(({ name, bytes, pages, content }) => ({ name, bytes, pages, present: content }));
  const sealedBlocks = seal?.head.blocks.map(({ name, bytes }) => ({
    name,
    bytes,
    pages: bytes / 4096,
    present: null,
  }));
  return {
    schema: JSON_SCHEMA,
    file,
    sealed,
    good: problems.length === 0,
    root: seal ? hex(seal.root) : null,
    machine: found?.configuration.machine || null,
    blocks: blocks ?? sealedBlocks ?? [],
    checkedBytes,
    elapsedMs: Math.round(elapsedMs),
    bad,
    badCount,
    unreadableCount,
    problems,
    notes,
  };
}

function tell(file: string, result: Verification, elapsedMs: number): void {
  const { seal, found, checkedBytes, bad, badCount, unreadableCount, problems, notes } = result;
  if (found && !problems.length && seal)
    print(
      `${file}: good; ${summary(found)}\n  sealed, and every byte is as it was then: root ${hex(seal.root)}, ${formatBytes(checkedBytes)} in ${formatMs(elapsedMs)}, ${formatRate((checkedBytes * 1000) / Math.max(1, elapsedMs))}`,
    );
  else if (found && !problems.length)
    print(
      `${file}: good as far as can be seen; ${summary(found)}\n  unsealed: there are no hashes, so nobody can tell whether its pages are as they were; ${found.kind === "fixed" ? `tram seal ${file} adds them` : `tram convert ${file} FILE makes a file that has them`}`,
    );
  for (const note of notes) print(`note: ${note}`);
  for (const problem of problems) say(formatError(locatedIn(file, problem)));
  if (bad.length) say(listed(bad, badCount + unreadableCount));
}

function listed(bad: readonly NamedPage[], count: number): string {
  const lines = bad.slice(0, SHOWN).map((one) => `${placeOf(one)}: ${one.what}`);
  if (count > lines.length) lines.push(`and ${formatCount(count - lines.length)} pages more`);
  return ["the pages:", ...lines].join("\n  ");
}

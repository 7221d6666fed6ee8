// tram check: everything that would make a restore fail, before anything is touched.
import { existsSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { type ErrorData, formatError, TramError, toErrorData } from "../errors.ts";
import { examine, type Sealed } from "../inspect/examine.ts";
import type { Survey } from "../inspect/survey.ts";
import { QmpClient } from "../qmp/client.ts";
import { temporaryPrefix } from "../writer/output-file.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import { locatedIn, parseFile } from "./file-target.ts";
import { exitOf, JSON_SCHEMA } from "./report.ts";
import { findSocket } from "./runtime.ts";
import { formatBytes, formatMany } from "./units.ts";

export const check = command({
  name: "check",
  summary: "finds everything that would make a restore fail, and touches nothing",
  args: {
    file: {
      type: "positional",
      description: "a file, plain or with fixed offsets, a libvirt save image, fd:N or -",
      required: true,
      names: "file",
    },
    against: {
      type: "string",
      description: "the QEMU that waits for it: its machine and RAM must be the file's",
      valueHint: "VM",
      names: "guest",
    },
    json: { type: "boolean", description: "one JSON object on standard output" },
  },
  examples: ["tram check vm.tram", "tram check vm.tram --against unix:/run/vm.qmp"],
  async run(args) {
    const spec = parseFile(args.file, 0);
    const { found, sealed, problems, notes } = examine(spec);
    notes.push(...leftovers(spec.path));
    if (found && args.against !== undefined) await compare(found, args.against, problems);
    if (args.json)
      print(
        JSON.stringify({
          schema: JSON_SCHEMA,
          file: args.file,
          good: problems.length === 0,
          sealed,
          machine: found?.configuration.machine ?? null,
          problems,
          notes,
        }),
      );
    else {
      if (found && !problems.length) print(`${args.file}: good; ${summary(found)}; ${SEALED[`${sealed}`]}`);
      for (const note of notes) print(`note: ${note}`);
      for (const problem of problems) say(formatError(locatedIn(args.file, problem)));
    }
    return exitOf(problems);
  },
});

const SEALED: Record<`${Sealed}`, string> = {
  true: "sealed (tram verify compares the hashes)",
  beside: "sealed in a file beside it (tram verify compares the hashes)",
  false: "not sealed",
};

export function summary({ configuration, kind, blocks, devices, tail }: Survey): string {
  const content = blocks.reduce((sum, block) => sum + block.content, 0);
  const bytes = blocks.reduce((sum, block) => sum + block.bytes, 0);
  return `${kind === "fixed" ? "fixed offsets" : "plain stream"}, machine ${configuration.machine}, ${formatBytes(bytes)} of RAM in ${formatMany(blocks.length, "block")}, ${formatMany(content, "page")} with content, ${tail?.description ? formatMany(devices.length, "device") : "devices not described"}`;
}

/** Files beside it that a killed tram left behind. */
export function leftovers(path: string | null): string[] {
  if (path === null) return [];
  const folder = dirname(resolve(path));
  const prefix = temporaryPrefix(path);
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => name.startsWith(prefix) && !existsSync(`/proc/${Number.parseInt(name.slice(prefix.length), 10)}`))
    .map((name) => `${join(folder, name)} is left of a save that was killed: remove it`);
}

/** Against a QEMU that waits, or runs: the same machine, the same RAM. */
async function compare(found: Survey, vm: string, problems: ErrorData[]): Promise<void> {
  const client = await QmpClient.connect(findSocket(vm), vm);
  const differs = (what: string, expected: string, actual: string, next: string) =>
    problems.push(toErrorData(new TramError("E_REFUSED", `${vm}: ${what}`, { expected, found: actual, next })));
  try {
    const type = (await client.execute<string>("qom-get", { path: "/machine", property: "type" })).replace(
      /-machine$/,
      "",
    );
    if (type !== found.configuration.machine)
      differs(
        "it has another machine type",
        found.configuration.machine,
        type,
        `start it with -M ${found.configuration.machine}`,
      );
    const text = await client.execute<string>("human-monitor-command", { "command-line": "info ramblock" });
    const blocks = parseRamBlocks(text);
    for (const { name, bytes } of found.blocks) {
      const there = blocks.get(name);
      if (there === undefined)
        differs(
          `it has no RAM block '${name}'`,
          `'${name}' of ${bytes} bytes`,
          [...blocks.keys()].join(", "),
          "give it the same devices and memory backends",
        );
      else if (there !== bytes)
        differs(
          `RAM block '${name}' has another size`,
          `${bytes} bytes`,
          `${there} bytes`,
          "give it the same -m and devices",
        );
    }
    for (const name of blocks.keys())
      if (!found.blocks.some((block) => block.name === name))
        differs(
          `RAM block '${name}' is not in the file`,
          found.blocks.map((block) => block.name).join(", "),
          `'${name}'`,
          "leave out the device that has it",
        );
  } finally {
    client.close();
  }
}

/** "pc.ram    4 KiB  0x0000000000000000 0x0000000006000000 0x0000000006000000 …": name, page size, offset, used, total. */
export function parseRamBlocks(text: string): Map<string, number> {
  const blocks = new Map<string, number>();
  for (const line of text.split(/\r?\n/)) {
    const match = /^\s*(\S+)\s+\d+ [KMG]iB\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+0x[0-9a-f]+/i.exec(line);
    if (match) blocks.set(match[1], Number.parseInt(match[2], 16));
  }
  return blocks;
}

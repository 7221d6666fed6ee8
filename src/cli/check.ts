// tram check: everything that would make a restore fail, before anything is touched.
import { existsSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { type ErrorData, EXIT, formatError, fromErrorData, TramError, toErrorData } from "../errors.ts";
import { openInput } from "../inspect/source.ts";
import { type Survey, survey } from "../inspect/survey.ts";
import { QmpClient } from "../qmp/client.ts";
import { MappedFile } from "../reader/mapped.ts";
import { temporaryPrefix } from "../writer/output-file.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import { parseFile } from "./file-target.ts";
import { JSON_SCHEMA } from "./report.ts";
import { findSocket } from "./runtime.ts";
import { formatBytes, formatCount } from "./units.ts";

export const check = command({
  name: "check",
  summary: "finds everything that would make a restore fail, and touches nothing",
  args: {
    file: {
      type: "positional",
      description: "a file, plain or with fixed offsets, a libvirt save image, fd:N or -",
      required: true,
    },
    against: {
      type: "string",
      description: "the QEMU that waits for it: its machine and RAM must be the file's",
      valueHint: "VM",
    },
    json: { type: "boolean", description: "one JSON object on standard output" },
  },
  examples: ["tram check vm.tram", "tram check vm.tram --against unix:/run/vm.qmp"],
  async run(args) {
    const problems: ErrorData[] = [];
    const notes: string[] = [];
    const spec = parseFile(args.file, 0);
    const found = attempt(problems, () => {
      const input = openInput(spec);
      if (input.kind === "channel")
        throw new TramError("E_STREAM", "this is a capture of one multifd channel: it has no machine and no devices");
      const found = survey(input.transport, input.offset, null);
      if (found.problem) problems.push(found.problem);
      else if (found.kind === "fixed" && input.file)
        attempt(problems, () => new MappedFile(input.file as NonNullable<typeof input.file>, input.offset));
      return found;
    });
    if (found) look(found, problems, notes);
    if (spec.path) notes.push(...leftovers(spec.path));
    if (found && args.against !== undefined) await compare(found, args.against, problems);
    if (args.json)
      print(
        JSON.stringify({
          schema: JSON_SCHEMA,
          file: args.file,
          good: problems.length === 0,
          machine: found?.configuration.machine ?? null,
          problems,
          notes,
        }),
      );
    else {
      if (found && !problems.length) print(`${args.file}: good; ${summary(found)}`);
      for (const note of notes) print(`note: ${note}`);
      for (const problem of problems) say(formatError(problem));
    }
    return problems.length ? fromErrorData(problems[0]).exitCode : EXIT.done;
  },
});

function attempt<T>(problems: ErrorData[], action: () => T): T | null {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof TramError)) throw error;
    problems.push(toErrorData(error));
    return null;
  }
}

function summary({ configuration, kind, blocks, devices, tail }: Survey): string {
  const content = blocks.reduce((sum, block) => sum + block.content, 0);
  const bytes = blocks.reduce((sum, block) => sum + block.bytes, 0);
  return `${kind === "fixed" ? "fixed offsets" : "plain stream"}, machine ${configuration.machine}, ${formatBytes(bytes)} of RAM in ${blocks.length} blocks, ${formatCount(content)} pages with content, ${tail?.description ? `${devices.length} devices` : "devices not described"}`;
}

/** What is not wrong in itself, and would bring back another guest than was saved. */
function look(found: Survey, problems: ErrorData[], notes: string[]): void {
  const { blocks, kind, multifd, tail } = found;
  if (multifd)
    problems.push(
      toErrorData(
        new TramError("E_STREAM", "the stream's RAM went over other channels: this file has none of it", {
          next: "tram receive keeps all channels of a multifd migration",
        }),
      ),
    );
  const largest = [...blocks].sort((a, b) => b.bytes - a.bytes)[0];
  if (kind === "fixed" && blocks.every(({ content }) => content === 0) && largest)
    notes.push("every page is zero: a save by QEMU that was interrupted looks so, because it writes its bitmaps last");
  const untold = blocks.reduce((sum, block) => sum + block.untold, 0);
  if (untold && !multifd)
    notes.push(
      `the source told nothing of ${formatCount(untold)} pages: a target has them as it makes them, mostly zero`,
    );
  if (tail && !tail.description) notes.push("no description follows the devices: their borders cannot be checked");
  if (tail?.bordersBy === "headers")
    notes.push("the description does not fit the devices: only their borders were checked");
}

/** Files beside it that a killed tram left behind. */
function leftovers(path: string): string[] {
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

// tram inspect: shows what is in a stream or file, QEMU's or tram's.
import { type ErrorData, EXIT, formatError, fromErrorData, TramError, toErrorData } from "../errors.ts";
import { type ChannelSurvey, surveyChannel } from "../inspect/channel.ts";
import { commandLine, pluggedDevices } from "../inspect/machine.ts";
import { PageMap } from "../inspect/page-map.ts";
import { openInput, type StreamInput } from "../inspect/source.ts";
import { type Survey, survey } from "../inspect/survey.ts";
import { type FieldValue, fieldValues } from "../inspect/values.ts";
import { sealNotWhole } from "../reader/mapped.ts";
import { hex } from "../reader/seal.ts";
import { commandName } from "../stream/commands.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import { inFile, locatedIn, parseFile } from "./file-target.ts";
import { checkMap, contentPicture, figuresOf, legend, MAP_OPTION, writeMap } from "./map.ts";
import type { Picture } from "./picture/picture.ts";
import { exitOf, JSON_SCHEMA } from "./report.ts";
import { table } from "./table.ts";
import { formatBytes, formatCount } from "./units.ts";

export const inspect = command({
  name: "inspect",
  summary: "shows what is in a stream or file, QEMU's or tram's",
  args: {
    source: {
      type: "positional",
      description:
        "a file, plain or with fixed offsets; a libvirt save image; a capture of one multifd channel; fd:N; or -",
      required: true,
      names: "file",
    },
    device: {
      type: "string",
      description: "shows the fields of one device, by its name or a part of it",
      valueHint: "NAME",
    },
    at: { type: "string", description: "names the record that has a byte of the file", valueHint: "OFFSET" },
    map: MAP_OPTION,
    json: { type: "boolean", description: "everything as one JSON object on standard output" },
  },
  examples: [
    "tram inspect vm.tram",
    "tram inspect vm.tram --device rtc",
    "tram inspect stream.bin --at 0x1234",
    "zstdcat stream.zst | tram inspect - --json | jq .devices[].name",
    "tram inspect vm.tram --map vm.svg",
  ],
  run: (args) => inFile(args.source, () => (args.map === undefined ? show(args) : showMap(args))),
});

/** A question about a byte that the stream has not got is a mistake, unless a program asks: `at` is null there. */
function outside(offset: number, input: StreamInput, { endOffset }: Survey): string {
  if (offset >= input.offset && offset < endOffset) return `byte ${offset} is in no record`;
  throw new TramError("E_USAGE", `--at: byte ${offset} is not in the stream`, {
    expected: `${input.offset} to ${endOffset - 1}`,
  });
}

interface InspectArgs {
  source: string;
  device?: string;
  at?: string;
  map?: string;
  json?: boolean;
}

function show(args: InspectArgs): number {
  const input = openInput(parseFile(args.source, 0));
  const watched = args.at === undefined ? null : parseOffset(args.at);
  if (input.kind === "channel") return showChannel(args.source, surveyChannel(input.transport), args.json === true);
  const found = survey(input.transport, input.offset, watched);
  if (args.json) print(JSON.stringify(asJson(args.source, input, found)));
  else if (watched !== null) print(found.at ?? outside(watched, input, found));
  else if (args.device !== undefined) print(formatDevices(found, args.device));
  else print(format(args.source, input, found));
  const problems = [found.problem, sealProblemOf(input, found)].filter((one) => one !== null);
  for (const problem of problems) say(formatError(locatedIn(args.source, problem)));
  return exitOf(problems);
}

/** What is wrong with the stream ends it: nobody is to take half a map for a whole one. */
function showMap(args: InspectArgs): number {
  const out = args.map as string;
  if (args.device !== undefined || args.at !== undefined)
    throw new TramError("E_USAGE", "tram inspect shows one thing at a time", {
      expected: "--map, --device or --at",
      found: args.device === undefined ? "--map and --at" : "--map and --device",
    });
  checkMap(out, [args.source]);
  const input = openInput(parseFile(args.source, 0));
  if (input.kind === "channel")
    throw new TramError("E_STREAM", `${args.source} is a capture of one multifd channel: it has no RAM blocks`, {
      next: "tram receive keeps all channels of a multifd migration",
    });
  const pages = new PageMap();
  const { found, picture } = writeMap(out, () => {
    const found = survey(input.transport, input.offset, null, pages);
    return { found, picture: pictureOf(args.source === "-" ? input.name : args.source, input, found, pages) };
  });
  const map = { ...figuresOf(out, picture), changedPages: pages.changedPages };
  if (args.json) print(JSON.stringify({ ...asJson(args.source, input, found), map }));
  else print(legend(picture, map));
  if (pages.changedPages)
    say(
      `${formatCount(pages.changedPages)} pages came as changes (XBZRLE) to what they had been: they are drawn as what they had been`,
    );
  const problems = [sealProblemOf(input, found)].filter((one) => one !== null);
  for (const problem of problems) say(formatError(locatedIn(args.source, problem)));
  return exitOf(problems);
}

function pictureOf(title: string, input: StreamInput, found: Survey, pages: PageMap): Picture {
  if (found.problem) throw fromErrorData(found.problem);
  if (found.multifd)
    throw new TramError("E_STREAM", `${title}: the pages went over other channels: there are none to draw here`, {
      next: "tram receive keeps all channels of a multifd migration",
    });
  const { configuration, devices, tailBytes } = found;
  const sections = devices.map(({ name, instance, bodyBytes }) => ({
    name: instance ? `${name}/${instance}` : name,
    bytes: bodyBytes,
  }));
  const unknown = tailBytes.length > 1 ? [{ name: "not described", bytes: tailBytes.length }] : [];
  return contentPicture({
    title,
    kind: `${kindOf(input, found)}: pages that are not in it ${found.kind === "fixed" ? "are zero" : "were never sent"}`,
    machine: configuration.machine,
    blocks: pages.blocks(),
    sections: sections.length || found.tail?.description ? sections : unknown,
  });
}

function parseOffset(text: string): number {
  const value = /^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value))
    throw new TramError("E_USAGE", `--at: '${text}' is no offset`, {
      expected: "a number, for example 4096 or 0x1000",
    });
  return value;
}

function kindOf({ libvirt }: StreamInput, { kind }: Survey): string {
  const stream = kind === "fixed" ? "fixed offsets (mapped-ram)" : "plain stream";
  return libvirt
    ? `libvirt save image of a domain that ${libvirt.wasRunning ? "was running" : "was paused"}: ${stream}`
    : stream;
}

const runState = (found: Survey): string | null => {
  const section = found.devices.find(({ name }) => name === "globalstate");
  if (!section) return null;
  const value = fieldValues(section, found.tailBytes, found.tailOffset).find(({ name }) => name === "runstate")?.value;
  return typeof value === "string" ? value.replaceAll('"', "") : null;
};

function format(source: string, input: StreamInput, found: Survey): string {
  const { configuration, blocks, records, devices, tail } = found;
  const rows: [string, string][] = [
    ["kind", kindOf(input, found)],
    ["machine", configuration.machine],
    ["run state", runState(found) ?? "not said"],
  ];
  if (configuration.capabilities.length) rows.push(["needs", configuration.capabilities.join(", ")]);
  if (configuration.uuid) rows.push(["uuid", Buffer.from(configuration.uuid).toString("hex")]);
  if (found.commands.length) rows.push(["commands", [...new Set(found.commands)].map(commandName).join(", ")]);
  rows.push([
    "bytes",
    `${formatCount(input.bytes ?? found.endOffset)} (${formatBytes(input.bytes ?? found.endOffset)})${input.offset ? `, the stream from ${input.offset} on` : ""}`,
  ]);
  const seal = sealText(input, found);
  if (seal) rows.push(["seal", seal]);
  if (found.kind === "plain" && blocks.length)
    rows.push([
      "records",
      `${formatCount(records.pages)} pages, ${formatCount(records.zeroPages)} zero${records.xbzrlePages ? `, ${formatCount(records.xbzrlePages)} changed (XBZRLE)` : ""}${records.compressedPages ? `, ${formatCount(records.compressedPages)} compressed` : ""}`,
    ]);
  if (found.multifd)
    rows.push(["note", "RAM came over other channels (multifd): a capture of this one has none of it"]);
  if (tail && !tail.description)
    rows.push([
      "note",
      `no description: the device state begins at byte ${found.tailOffset}, and its inner borders are not known`,
    ]);
  if (tail?.bordersBy === "headers")
    rows.push(["note", "the description does not fit the devices: their borders are known by their headers alone"]);
  const parts = [`${source}\n${rows.map(([name, text]) => `  ${name.padEnd(10)} ${text}`).join("\n")}`];
  if (blocks.length) parts.push(blockTable(found));
  if (devices.length) parts.push(deviceTable(found));
  if (configuration.machine && found.kind === "fixed" && configuration.machine !== "tram")
    parts.push(
      `Restore with:  ${commandLine(configuration.machine, blocks, devices).join(" ")} … -incoming defer   (see tram restore ${source})`,
    );
  return parts.join("\n\n");
}

function sealProblemOf({ name, file, seal, sealProblem }: StreamInput, found: Survey): ErrorData | null {
  return sealProblem ?? (file && !seal && found.seal ? toErrorData(sealNotWhole(name, found.seal)) : null);
}

function sealText(input: StreamInput, found: Survey): string | null {
  const { seal } = input;
  if (seal) return `root ${hex(seal.root)}, ${formatCount(seal.bytes)} bytes from byte ${seal.headOffset} on`;
  const problem = sealProblemOf(input, found);
  if (problem) return `damaged: ${problem.message}`;
  return found.seal && `from byte ${found.seal.offset} on; what it says is read from a regular file only`;
}

function blockTable({ blocks }: Survey): string {
  const lines = blocks.map(({ name, bytes, content, zero, untold, mapped }) => [
    name,
    formatBytes(bytes),
    formatCount(content),
    formatCount(zero),
    formatCount(untold),
    mapped ? `${mapped.pagesOffset}` : "-",
  ]);
  return table(["RAM BLOCK", "SIZE", "CONTENT", "ZERO", "UNTOLD", "PAGES AT"], lines);
}

function deviceTable({ devices }: Survey): string {
  return table(
    ["DEVICE", "INSTANCE", "VERSION", "BYTES", "AT"],
    devices.map(({ name, instance, version, bodyBytes, offset }) => [
      name,
      `${instance}`,
      `${version}`,
      formatCount(bodyBytes),
      `${offset}`,
    ]),
  );
}

function formatDevices(found: Survey, wanted: string): string {
  const chosen = found.devices.filter(({ name }) => name === wanted);
  const near = chosen.length ? chosen : found.devices.filter(({ name }) => name.includes(wanted));
  if (near.length === 0)
    throw new TramError("E_USAGE", `no device is named '${wanted}'`, {
      expected: [...new Set(found.devices.map(({ name }) => name))].join(", ") || "a stream with a description",
    });
  return near
    .map((section) => {
      const lines: string[] = [
        `${section.name} instance ${section.instance} version ${section.version}: ${section.bodyBytes} bytes at ${section.bodyOffset}`,
      ];
      const add = (fields: readonly FieldValue[], indent: string) => {
        for (const { name, type, offset, value, fields: nested } of fields) {
          lines.push(
            `${indent}${name.padEnd(Math.max(1, 34 - indent.length))} ${type.padEnd(16)} ${String(offset).padStart(12)}${value === undefined ? "" : `  ${value}`}`,
          );
          if (nested) add(nested, `${indent}  `);
        }
      };
      add(fieldValues(section, found.tailBytes, found.tailOffset), "  ");
      return lines.join("\n");
    })
    .join("\n\n");
}

function asJson(source: string, input: StreamInput, found: Survey): object {
  const { kind, configuration, commands, blocks, records, multifd, devices, tail, tailOffset, endOffset, problem, at } =
    found;
  return {
    schema: JSON_SCHEMA,
    source,
    kind,
    container: input.libvirt ? "libvirt" : null,
    offset: input.offset,
    bytes: input.bytes ?? endOffset,
    machine: configuration.machine,
    capabilities: configuration.capabilities,
    uuid: configuration.uuid ? Buffer.from(configuration.uuid).toString("hex") : null,
    runState: runState(found),
    commands: commands.map(commandName),
    blocks,
    records,
    multifd,
    devices: devices.map((section) => ({ ...section, fields: fieldValues(section, found.tailBytes, tailOffset) })),
    plugged: pluggedDevices(devices),
    seal: input.seal
      ? {
          root: hex(input.seal.root),
          offset: input.seal.headOffset,
          bytes: input.seal.bytes,
          holes: input.seal.head.holes,
        }
      : null,
    sealProblem: sealProblemOf(input, found),
    tailOffset,
    eofOffset: tail?.eofOffset ?? null,
    described: tail?.description != null,
    bordersBy: tail?.bordersBy ?? null,
    at,
    problem,
  };
}

function showChannel(source: string, found: ChannelSurvey, json: boolean): number {
  if (json) print(JSON.stringify({ schema: JSON_SCHEMA, source, kind: "channel", ...found }));
  else {
    const rows: [string, string][] = [
      ["kind", `multifd channel ${found.channel}`],
      ["uuid", found.uuid],
      ["packets", `${formatCount(found.packets)}, ${formatCount(found.syncs)} of them barriers`],
      ["pages", `${formatCount(found.pages)} with content, ${formatCount(found.zeroPages)} zero`],
      ["method", found.methods.join(", ") || "no pages"],
      ["blocks", found.blocks.join(", ") || "none"],
      ["bytes", formatCount(found.bytes)],
    ];
    print(`${source}\n${rows.map(([name, text]) => `  ${name.padEnd(10)} ${text}`).join("\n")}`);
  }
  if (!found.problem) return EXIT.done;
  say(formatError(locatedIn(source, found.problem)));
  return fromErrorData(found.problem).exitCode;
}

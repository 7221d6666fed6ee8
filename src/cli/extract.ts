// tram extract: takes one thing out of a stream or file.
import { dirname, resolve } from "node:path";
import { EXIT, TramError } from "../errors.ts";
import { layOutCore, registersOf } from "../inspect/elf.ts";
import { mainBlock, ramLayout } from "../inspect/machine.ts";
import { copyRange } from "../inspect/pages.ts";
import { openInput } from "../inspect/source.ts";
import { survey } from "../inspect/survey.ts";
import { fieldValues } from "../inspect/values.ts";
import { keepTemporarily } from "../keep/temporary.ts";
import { setLength, writeAt } from "../native/file.ts";
import { hasFixedOffsets, MappedFile, type StoredBlock } from "../reader/mapped.ts";
import { OutputFile } from "../writer/output-file.ts";
import { command } from "./command.ts";
import { print, say, writeAll } from "./console.ts";
import { fileTarget, inFile, parseFile, refuseSameFile } from "./file-target.ts";
import { formatBytes, formatCount } from "./units.ts";

const KINDS = ["ram", "block", "elf", "section", "description"] as const;

export const extract = command({
  name: "extract",
  summary: "takes RAM, an ELF core, a device's state or the description out of a stream or file",
  args: {
    file: {
      type: "positional",
      description: "a file, plain or with fixed offsets, or a libvirt save image",
      required: true,
      names: "file",
    },
    out: { type: "positional", description: "where it goes: PATH, fd:N or -", required: true, names: "file" },
    ram: {
      type: "boolean",
      description: "the guest's main memory as it lies in its RAM block, with holes for zero pages",
    },
    elf: { type: "boolean", description: "an ELF core: memory by guest-physical address, and the CPUs' registers" },
    block: { type: "string", description: "one RAM block", valueHint: "NAME" },
    section: {
      type: "string",
      description: "one device's state, as it stands in the stream",
      valueHint: "NAME[/INSTANCE]",
    },
    description: { type: "boolean", description: "the JSON that describes the devices" },
  },
  examples: [
    "tram extract vm.tram ram.bin --ram",
    "tram extract vm.tram vm.core --elf && gdb vmlinux vm.core",
    "tram extract vm.tram vram.bin --block 0000:00:02.0/vga.vram",
    "tram extract vm.tram - --description | jq .devices[].name",
  ],
  run(args) {
    const wanted = KINDS.filter((kind) => args[kind] !== undefined && args[kind] !== false);
    if (wanted.length !== 1)
      throw new TramError("E_USAGE", "tram extract takes out one thing at a time", {
        expected: KINDS.map((kind) => `--${kind}`).join(", "),
        found: wanted.map((kind) => `--${kind}`).join(" ") || "none of them",
      });
    const [kind] = wanted;
    refuseSameFile(args.file, args.out);
    if (kind === "section" || kind === "description") return extractState(args.file, args.out, args.section ?? null);
    const file = inFile(args.file, () => openForPages(args.file, args.out));
    if (kind === "elf") return extractCore(file, args.out);
    const block = kind === "ram" ? mainBlock(file.blocks) : file.blocks.find(({ name }) => name === args.block);
    if (!block)
      throw new TramError("E_USAGE", `there is no RAM block '${args.block ?? ""}'`, {
        expected: file.blocks.map(({ name }) => name).join(", "),
      });
    return extractBlock(file, block, args.out);
  },
});

/** A plain stream has its pages in the order in which they came: they are sorted into a temporary file first. */
export function openForPages(source: string, near: string): MappedFile {
  const input = openInput(parseFile(source, 0));
  if (input.kind === "channel")
    throw new TramError("E_STREAM", `${source} is a capture of one multifd channel, not of the main one`);
  if (input.file && hasFixedOffsets(input.file, input.offset)) return new MappedFile(input.file, input.offset);
  return keepTemporarily(
    input.transport,
    input.offset,
    near === "-" || near.startsWith("fd:") ? (process.env.TMPDIR ?? "/tmp") : dirname(resolve(near)),
  );
}

/** Writes a file as a whole, or nothing. */
function written(out: string, write: (fd: number, at: number) => number): void {
  const output = new OutputFile(fileTarget(out));
  try {
    setLength(output.fd, output.offset + write(output.fd, output.offset));
  } catch (error) {
    output.discard();
    throw error;
  }
  output.commit();
}

function extractBlock(file: MappedFile, block: StoredBlock, out: string): number {
  let pages = 0;
  written(out, (fd, at) => {
    pages = copyRange(file, block, 0, block.bytes, fd, at);
    return block.bytes;
  });
  say(`${out}: block '${block.name}', ${formatBytes(block.bytes)}, ${formatCount(pages)} pages with content`);
  return EXIT.done;
}

function extractCore(file: MappedFile, out: string): number {
  const block = mainBlock(file.blocks);
  if (!block) throw new TramError("E_STREAM", "the stream has no RAM");
  const { ranges, assumed } = ramLayout(file.configuration.machine, block.bytes);
  const registers = file.tail.devices
    .filter(({ name }) => name === "cpu")
    .map((section) =>
      registersOf(fieldValues(section, file.tailBytes, file.tailOffset), file.tailBytes, file.tailOffset),
    )
    .filter((one) => one !== null);
  const core = layOutCore(ranges, registers);
  written(out, (fd, at) => {
    writeAt(fd, core.head, at);
    for (const { offset, bytes, fileOffset } of core.placed) copyRange(file, block, offset, bytes, fd, at + fileOffset);
    return core.bytes;
  });
  say(`${out}: ELF core of block '${block.name}': ${assumed}; registers of ${registers.length} CPUs`);
  return EXIT.done;
}

function extractState(source: string, out: string, section: string | null): number {
  const found = inFile(source, () => {
    const input = openInput(parseFile(source, 0));
    return survey(input.transport, input.offset, null);
  });
  const bytes = section === null ? description(found.tail?.description ?? null) : sectionBytes(found, section);
  if (out === "-") {
    if (section === null) print(new TextDecoder().decode(bytes));
    else if (!writeAll(1, bytes)) throw new TramError("E_FILE", "standard output does not take the bytes");
    return EXIT.done;
  }
  written(out, (fd, at) => {
    writeAt(fd, bytes, at);
    return bytes.length;
  });
  return EXIT.done;
}

function description(text: string | null): Uint8Array {
  if (text === null) throw new TramError("E_STREAM", "the stream has no description");
  return new TextEncoder().encode(text);
}

function sectionBytes({ devices, tailBytes, tailOffset }: ReturnType<typeof survey>, wanted: string): Uint8Array {
  const found = devices.filter(({ name, instance }) => name === wanted || `${name}/${instance}` === wanted);
  if (found.length !== 1)
    throw new TramError(
      "E_USAGE",
      found.length ? `'${wanted}' names ${found.length} devices` : `no device is named '${wanted}'`,
      {
        expected:
          (found.length ? found : devices)
            .map(({ name, instance }) => (found.length ? `${name}/${instance}` : name))
            .join(", ") || "a stream with a description",
      },
    );
  const [{ bodyOffset, bodyBytes }] = found;
  return tailBytes.slice(bodyOffset - tailOffset, bodyOffset - tailOffset + bodyBytes);
}

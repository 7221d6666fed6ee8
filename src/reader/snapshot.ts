// A file with fixed offsets of one of our guests, opened: everything of it but the pages, decoded and checked.
import type { DeviceState } from "../control/guest.ts";
import { TramError } from "../errors.ts";
import { ByteReader, badStream } from "../stream/bytes.ts";
import { DEVICE_TABLES } from "../stream/devices/index.ts";
import {
  globalstate,
  MACHINE_NAME,
  type MachineDescription,
  machine,
  machineFromState,
  RAM_BLOCK_NAME,
  runStateFrom,
} from "../stream/devices/machine.ts";
import { decodeFooter, decodeSectionStart, type SectionHeader } from "../stream/section.ts";
import { loadState, type State } from "../stream/vmstate.ts";
import { QEMU_VM_EOF, QEMU_VM_SECTION_FULL } from "../stream/wire.ts";
import type { FileTransport } from "../transport/file.ts";
import { MappedFile, type StoredBlock, sealAtEnd } from "./mapped.ts";
import type { Seal } from "./seal.ts";

export class SnapshotFile {
  readonly file: FileTransport;
  readonly block: StoredBlock;
  readonly seal: Seal | null;
  readonly description: MachineDescription;
  readonly devices: readonly DeviceState[];
  /** The state in which the guest was saved. */
  readonly runState: string;

  /** The stream begins at `offset`. Throws what is wrong with anything but the pages. */
  constructor(file: FileTransport, offset: number) {
    const mapped = new MappedFile(file, offset, sealAtEnd(file), false);
    const { machine: name } = mapped.configuration;
    if (name !== MACHINE_NAME)
      throw new TramError("E_STREAM", `the file is of a QEMU guest (machine '${name}'), which tram cannot run`, {
        where: file.name,
        expected: `machine '${MACHINE_NAME}'`,
        found: `machine '${name}'`,
        next: `tram restore ${file.name} says how it is brought back`,
      });
    this.file = file;
    this.seal = mapped.seal;
    if (this.seal) this.#checkSeal(this.seal);
    else void mapped.tail; // by its description, which takes longer than its hash does
    const early = sectionsOf(mapped.early, 0);
    const described = early.find(({ header }) => header.name === machine.name);
    if (!described) throw badStream("the file has no machine", offset, `section '${machine.name}'`, "none");
    this.description = machineFromState(described.state, described.at);
    this.block = this.#onlyBlock(mapped.blocks);
    const late = sectionsOf(mapped.tailBytes, mapped.tailOffset);
    const state = late.find(({ header }) => header.name === globalstate.name);
    this.runState = state ? runStateFrom(state.state) : "running";
    if (this.runState !== "running" && this.runState !== "paused")
      throw new TramError("E_STREAM", "the guest was in a state in which none is saved", {
        expected: "running or paused",
        found: this.runState.slice(0, 40),
      });
    this.devices = late
      .filter(({ header }) => header.name !== globalstate.name)
      .map(({ header, state }) => {
        const table = DEVICE_TABLES.get(header.name) as DeviceState["table"];
        return { table, instance: header.instance, state };
      });
  }

  /** Small as they are, headers, bitmap and device state are always compared with the seal. */
  #checkSeal(seal: Seal): void {
    const [wrong] = seal.wrongExtents(this.file);
    if (wrong)
      throw new TramError("E_HASH", "the file is not as it was saved", {
        where: `${this.file.name}, bytes ${wrong.offset} to ${wrong.offset + wrong.bytes - 1}: headers, bitmap or device state`,
        expected: `hash ${wrong.hash.toString(16)}`,
        next: `tram verify ${this.file.name} says more`,
      });
  }

  #onlyBlock(blocks: readonly StoredBlock[]): StoredBlock {
    const found = blocks.map(({ name, bytes }) => `'${name}' of ${bytes} bytes`).join(", ");
    const expected = `'${RAM_BLOCK_NAME}' of ${this.description.memoryBytes} bytes`;
    if (found === expected) return blocks[0];
    throw new TramError("E_STREAM", "the file's RAM is not its machine's", { where: this.file.name, expected, found });
  }
}

interface Section {
  at: number;
  header: SectionHeader;
  state: State;
}

/** Whole sections of our own devices, one after the other, up to the end of the stream. */
function sectionsOf(bytes: Uint8Array, at: number): Section[] {
  const source = new ByteReader(bytes, at);
  const sections: Section[] = [];
  while (source.left > 0 && source.peek() !== QEMU_VM_EOF) {
    const begin = source.offset;
    const type = source.u8();
    if (type !== QEMU_VM_SECTION_FULL)
      throw badStream("unknown record", begin, "a device's section or the end", `${type}`);
    const header = decodeSectionStart(source);
    const table = DEVICE_TABLES.get(header.name);
    if (!table || table.version !== header.version)
      throw badStream(
        "a device that tram does not know",
        begin,
        table ? `'${header.name}' version ${table.version}` : [...DEVICE_TABLES.keys()].join(", "),
        `'${header.name}' version ${header.version}`,
      );
    if (sections.some((one) => one.header.name === header.name && one.header.instance === header.instance))
      throw badStream("a device comes twice", begin, "each once", `'${header.name}' instance ${header.instance}`);
    sections.push({ at: begin, header, state: loadState(table, source) });
    decodeFooter(source, header.id, header.name);
  }
  return sections;
}

// The main channel of any migration stream, QEMU's or tram's, record by record. What a record means is for the caller to
// decide; here it is only decoded and checked, and pages go to the sinks that the caller gives.
import { badStream, hex } from "../stream/bytes.ts";
import { DIRTY_BITMAP_SECTION, skipDirtyBitmaps } from "../stream/dirty-bitmap.ts";
import { decodeMappedHeader, endOfBlock, type MappedBlock } from "../stream/mapped.ts";
import { type BlockEntry, decodeBlockTable } from "../stream/ram.ts";
import {
  type Command,
  type Configuration,
  decodeCommand,
  decodeFooter,
  decodeHeader,
  decodeSectionPart,
  decodeSectionStart,
  type SectionHeader,
} from "../stream/section.ts";
import {
  CAPABILITY_IGNORE_SHARED,
  CAPABILITY_MAPPED_RAM,
  QEMU_VM_COMMAND,
  QEMU_VM_EOF,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_FULL,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  RAM_SECTION_NAME,
  RAM_SECTION_VERSION,
} from "../stream/wire.ts";
import type { BlockSink } from "./pages.ts";
import { RamRecords } from "./ram-records.ts";
import type { TransportSource } from "./source.ts";

/** A block of the table, with what the stream says of it. */
export interface StreamBlock extends BlockEntry {
  /** Where its pages lie; null: they come as records. */
  mapped: MappedBlock | null;
}

/** `at`: the offset of the record's first byte. */
export type MainRecord =
  | { kind: "configuration"; at: number; configuration: Configuration }
  | { kind: "command"; at: number; command: Command }
  /** In START of section "ram": the blocks. The sinks must be given before the next call, if there are page records. */
  | { kind: "blocks"; at: number; section: SectionHeader; blocks: StreamBlock[] }
  | { kind: "pages"; at: number }
  /** Multifd: the channels' pages so far belong before what follows. */
  | { kind: "flush"; at: number }
  /** A section of "ram" ends. Its footer is still to come: a source may hold it back until the channels have met here. */
  | { kind: "eos"; at: number }
  /** Its footer was read. */
  | { kind: "ram-end"; at: number; type: number }
  /** A section of dirty bitmaps, footer included. */
  | { kind: "dirty-bitmaps"; at: number; type: number }
  /** A device's section. Its body, which only its device or the description can read, is the caller's next. */
  | { kind: "device"; at: number; section: SectionHeader }
  | { kind: "end"; at: number };

/** The section of "ram" that is being read. */
interface RamSection {
  id: number;
  type: number;
  /** Of a START: there is a block table. */
  header: SectionHeader | null;
  ended: boolean;
}

export class MainChannel {
  readonly source: TransportSource;
  readonly records: RamRecords;
  configuration: Configuration | null = null;
  /** Called with each block of a file with fixed offsets, in front of its bitmap and pages, which are passed over then. */
  onMapped: ((block: MappedBlock) => void) | null = null;
  readonly #sectionsMax: number;
  readonly #sections = new Map<number, string>();
  #tableSeen = false;
  #ram: RamSection | null = null;

  /** `sectionsMax`: how many sections a stream may have. */
  constructor(source: TransportSource, sectionsMax = 4096) {
    this.source = source;
    this.records = new RamRecords(source);
    this.#sectionsMax = sectionsMax;
  }

  into(blocks: readonly BlockSink[]): void {
    this.records.into(blocks);
  }

  get isMapped(): boolean {
    return this.configuration?.capabilities.includes(CAPABILITY_MAPPED_RAM) ?? false;
  }

  next(): MainRecord {
    const { source } = this;
    const at = source.offset;
    if (!this.configuration) {
      this.configuration = decodeHeader(source);
      return { kind: "configuration", at, configuration: this.configuration };
    }
    if (this.#ram?.ended) return this.#ramFooter(at, this.#ram);
    if (this.#ram) return this.#ramBody(this.#ram);
    const type = source.u8();
    switch (type) {
      case QEMU_VM_COMMAND:
        return { kind: "command", at, command: decodeCommand(source) };
      case QEMU_VM_SECTION_START:
        return this.#start(at);
      case QEMU_VM_SECTION_FULL:
        return { kind: "device", at, section: this.#newSection(at) };
      case QEMU_VM_SECTION_PART:
      case QEMU_VM_SECTION_END:
        return this.#part(at, type);
      case QEMU_VM_EOF:
        return { kind: "end", at };
      default:
        throw badStream("unknown record", at, "a section, a command or the end", hex(type));
    }
  }

  /** After a device's body. */
  endDevice({ id, name }: SectionHeader): void {
    decodeFooter(this.source, id, name);
  }

  #newSection(at: number): SectionHeader {
    const section = decodeSectionStart(this.source);
    if (this.#sections.size === this.#sectionsMax)
      throw badStream(
        "the stream has more sections than a machine has devices",
        at,
        `at most ${this.#sectionsMax} sections`,
        `'${section.name}' instance ${section.instance}`,
      );
    if (this.#sections.has(section.id)) throw badStream("a section id is used twice", at, "a new id", `${section.id}`);
    this.#sections.set(section.id, section.name);
    return section;
  }

  #start(at: number): MainRecord {
    const header = this.#newSection(at);
    if (header.name === DIRTY_BITMAP_SECTION && header.version === 1)
      return this.#dirtyBitmaps(at, QEMU_VM_SECTION_START, header.id);
    if (header.name !== RAM_SECTION_NAME || header.version !== RAM_SECTION_VERSION)
      throw badStream(
        "an iterative section whose length nobody but its device knows",
        at,
        `'${RAM_SECTION_NAME}' version ${RAM_SECTION_VERSION}, or '${DIRTY_BITMAP_SECTION}' version 1`,
        `'${header.name}' version ${header.version}`,
      );
    this.#ram = { id: header.id, type: QEMU_VM_SECTION_START, header, ended: false };
    return this.#ramBody(this.#ram);
  }

  #part(at: number, type: number): MainRecord {
    const id = decodeSectionPart(this.source);
    const name = this.#sections.get(id);
    if (name === DIRTY_BITMAP_SECTION) return this.#dirtyBitmaps(at, type, id);
    if (name !== RAM_SECTION_NAME)
      throw badStream(
        "a part of a section that is not open",
        at,
        `section '${RAM_SECTION_NAME}'`,
        `id ${id}: ${name ?? "unknown"}`,
      );
    this.#ram = { id, type, header: null, ended: false };
    return this.#ramBody(this.#ram);
  }

  #dirtyBitmaps(at: number, type: number, id: number): MainRecord {
    skipDirtyBitmaps(this.source);
    decodeFooter(this.source, id, DIRTY_BITMAP_SECTION);
    return { kind: "dirty-bitmaps", at, type };
  }

  #ramBody(ram: RamSection): MainRecord {
    const at = this.source.offset;
    const mark = this.records.read();
    if (mark === "more") return { kind: "pages", at };
    if (mark === "flush") return { kind: "flush", at };
    if (mark === "table") {
      const { header } = ram;
      if (!header || this.#tableSeen)
        throw badStream(
          "a second table of RAM blocks",
          this.source.offset - 8,
          "one, in the section's START",
          "another",
        );
      this.#tableSeen = true;
      return { kind: "blocks", at, section: header, blocks: this.#table() };
    }
    ram.ended = true;
    return { kind: "eos", at };
  }

  #ramFooter(at: number, { id, type }: RamSection): MainRecord {
    decodeFooter(this.source, id, RAM_SECTION_NAME);
    this.#ram = null;
    if (type === QEMU_VM_SECTION_END) this.#sections.set(id, `${RAM_SECTION_NAME}, which has ended`);
    return { kind: "ram-end", at, type };
  }

  #table(): StreamBlock[] {
    const { source, configuration } = this;
    const shared = configuration?.capabilities.includes(CAPABILITY_IGNORE_SHARED);
    return decodeBlockTable(source, this.records.totalBytes, (block) => {
      if (shared) source.size(); // where the block lies in the machine
      if (!this.isMapped) return { ...block, mapped: null };
      const mapped = decodeMappedHeader(source, block);
      this.onMapped?.(mapped);
      source.seek(endOfBlock(mapped));
      return { ...block, mapped };
    });
  }
}

// A file with fixed offsets, opened: everything of it but the pages, which are read when they are wanted.
import { TramError } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { PageFile } from "../native/file.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import { ByteWriter, badStream } from "../stream/bytes.ts";
import { readTail, type Tail } from "../stream/description.ts";
import { DEVICE_TABLES } from "../stream/devices/index.ts";
import { MACHINE_NAME } from "../stream/devices/machine.ts";
import { bitmapBytes, type MappedBlock } from "../stream/mapped.ts";
import { findSealHead, type SealSeen } from "../stream/seal.ts";
import { type Configuration, decodeHeader, type SectionHeader } from "../stream/section.ts";
import { loadState } from "../stream/vmstate.ts";
import { CAPABILITY_MAPPED_RAM, QEMU_VM_SECTION_END, TAIL_BYTES_MAX } from "../stream/wire.ts";
import type { FileTransport } from "../transport/file.ts";
import { MainChannel, type MainRecord } from "./main-channel.ts";
import { Seal } from "./seal.ts";
import { SMALL_BUFFER_BYTES, TransportSource } from "./source.ts";

/** One block, and which of its pages have content in the file. */
export interface StoredBlock extends MappedBlock {
  present: Bitmap;
}

/** A whole record that is no section of RAM; `command`: its number, if it is one. */
export interface KeptRecord {
  command: number | null;
  bytes: Uint8Array;
}

export class MappedFile {
  readonly file: FileTransport;
  readonly configuration: Configuration;
  readonly section: SectionHeader;
  readonly blocks: readonly StoredBlock[];
  /** Whole sections before the RAM, records between its sections, everything behind it: as they stand in the file. */
  readonly early: Uint8Array;
  readonly between: readonly KeptRecord[];
  readonly tailBytes: Uint8Array;
  readonly tailOffset: number;
  readonly offset: number;
  /** The one at the file's own end; null: it has none. */
  readonly seal: Seal | null;
  readonly #pages: PageFile;
  readonly #earlyDevices: number;
  #tail: Tail | null = null;

  /**
   * Reads everything but the pages, and checks what can be checked without them. The stream begins at `offset`. `seal`: null
   * where it is not to be looked for. `checkTail` false: what lies behind the RAM is checked when it is asked for.
   */
  constructor(file: FileTransport, offset = 0, seal: Seal | null = sealAtEnd(file), checkTail = true) {
    this.file = file;
    this.offset = offset;
    this.seal = seal;
    this.#pages = new PageFile(file.fd);
    file.seek(offset);
    const source = new TransportSource(file, offset, SMALL_BUFFER_BYTES);
    const main = new MainChannel(source);
    const raw = new ByteWriter();
    const early = new ByteWriter();
    const between: KeptRecord[] = [];
    const blocks: StoredBlock[] = [];
    let section: SectionHeader | null = null;
    let earlyDevices = 0;
    main.onMapped = (block) => blocks.push(this.#stored(block));
    source.tap = raw;
    for (let ended = false; !ended; ) {
      raw.reset();
      const record = main.next();
      const before = section === null;
      if (record.kind === "configuration" && !main.isMapped) throw notMapped(file.name);
      if (record.kind === "blocks") section = record.section;
      if (record.kind === "pages" || record.kind === "flush")
        throw badStream("a file with fixed offsets has page records", record.at, "bitmaps and page areas", record.kind);
      if (record.kind === "device") {
        skipDevice(main, record);
        earlyDevices++;
      }
      if (record.kind === "command" || record.kind === "dirty-bitmaps" || record.kind === "device") {
        if (before) early.bytes(raw.done());
        else
          between.push({
            command: record.kind === "command" ? record.command.command : null,
            bytes: raw.done().slice(),
          });
      }
      ended = record.kind === "ram-end" && record.type === QEMU_VM_SECTION_END;
      if (record.kind === "end")
        throw badStream("the stream ends before its RAM does", record.at, "section 'ram' and its END", "the end");
    }
    if (!section)
      throw badStream("the stream has no RAM blocks", source.offset, "a block table in section 'ram'", "none");
    this.configuration = main.configuration as Configuration;
    this.section = section;
    this.blocks = blocks;
    this.early = early.done();
    this.between = between;
    this.tailOffset = source.offset;
    this.tailBytes = this.#tailBytes();
    this.seal?.checkLayout(offset, blocks);
    this.#earlyDevices = earlyDevices;
    if (checkTail) void this.tail;
  }

  /** What lies behind the RAM, by its description. Throws what is wrong with it. */
  get tail(): Tail {
    this.#tail ??= readTail(this.tailBytes, this.tailOffset, this.#earlyDevices);
    return this.#tail;
  }

  #stored(block: MappedBlock): StoredBlock {
    const { bytes: fileBytes } = this.file;
    if (block.bitmapOffset < this.offset)
      throw badStream(
        `the bitmap of block '${block.name}' lies before the stream`,
        block.bitmapOffset,
        `byte ${this.offset} or behind`,
        `byte ${block.bitmapOffset}`,
      );
    const size = bitmapBytes(block.bytes);
    const end = Math.max(block.bitmapOffset + size, block.pagesOffset + block.bytes);
    if (end > fileBytes)
      throw new TramError("E_STREAM_TRUNCATED", `the file is cut short: block '${block.name}' lies beyond its end`, {
        where: this.file.name,
        expected: `at least ${end} bytes`,
        found: `${fileBytes} bytes`,
      });
    const present = new Bitmap(block.bytes / PAGE_BYTES); // not before: a small file may say that it has a large one
    const words = new Uint8Array(present.words.buffer);
    if (this.file.readAt(words, block.bitmapOffset) !== size)
      throw new TramError("E_FILE", `cannot read the bitmap of block '${block.name}'`);
    const beyond = present.countFrom(present.pages);
    if (beyond)
      throw badStream(
        `the bitmap of block '${block.name}' has pages the block has not`,
        block.bitmapOffset,
        `${present.pages} pages`,
        `${beyond} more`,
      );
    return { ...block, present };
  }

  #tailBytes(): Uint8Array {
    const bytes = Math.max(0, this.file.bytes - this.tailOffset);
    const out = new Uint8Array(Math.min(bytes, TAIL_BYTES_MAX));
    for (let done = 0; done < out.length; ) {
      const count = this.file.readAt(out.subarray(done), this.tailOffset + done);
      if (count === 0) break;
      done += count;
    }
    const seen = this.seal ? null : findSealHead(out, this.tailOffset);
    if (seen) throw sealNotWhole(this.file.name, seen);
    if (bytes > out.length)
      throw badStream("the device state is too large", this.tailOffset, `at most ${TAIL_BYTES_MAX} bytes`, `${bytes}`);
    return out;
  }

  /** Pages index[0, count) of a block to `buffer` at `offset`. */
  readPages(block: MappedBlock, buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    const area = { pagesOffset: block.pagesOffset, pages: block.bytes / PAGE_BYTES };
    this.#pages.read(area, buffer, index, offset, count);
  }
}

/** A file is read up to the seal that is at its end. */
export function sealAtEnd(file: FileTransport): Seal | null {
  const seal = Seal.find(file);
  if (seal?.isBeside)
    throw new TramError("E_STREAM", `${file.name} is a seal, and not the file that it is about`, {
      next: `tram verify FILE --seal ${file.name}`,
    });
  if (seal) file.endAt(seal.head.streamEnd);
  return seal;
}

/** A seal begins behind the stream, and the file does not end as one does. */
export const sealNotWhole = (name: string, { offset, streamEnd }: SealSeen): TramError =>
  new TramError("E_STREAM_TRUNCATED", "the seal at the file's end is not whole", {
    where: `${name}, from byte ${offset} on`,
    expected: "the seal's last bytes at the file's end",
    found: "other bytes: the file was cut short, or sealing it was interrupted",
    next: `tram seal --force makes a new one; the stream before it is the file's first ${streamEnd} bytes`,
  });

/** Whether the stream at `offset` is one with fixed offsets, by its own header. */
export function hasFixedOffsets(file: FileTransport, offset: number): boolean {
  file.seek(offset);
  const { capabilities } = decodeHeader(new TransportSource(file, offset, SMALL_BUFFER_BYTES));
  file.seek(offset);
  return capabilities.includes(CAPABILITY_MAPPED_RAM);
}

function skipDevice(main: MainChannel, { at, section }: Extract<MainRecord, { kind: "device" }>): void {
  const table = main.configuration?.machine === MACHINE_NAME ? DEVICE_TABLES.get(section.name) : undefined;
  if (!table || table.version !== section.version)
    throw badStream(
      `section '${section.name}' stands before the RAM, and only its device knows where it ends`,
      at,
      "section 'ram' first",
      `'${section.name}' version ${section.version}`,
    );
  loadState(table, main.source);
  main.endDevice(section);
}

const notMapped = (name: string): TramError =>
  new TramError("E_STREAM", "the file has no fixed offsets: it is a plain stream", {
    where: name,
    expected: "capability mapped-ram",
    found: "none",
    next: `tram convert ${name} FILE makes one of it`,
  });

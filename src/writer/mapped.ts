// A file with fixed offsets, as QEMU's mapped-ram writes it: headers first, pages each at its place in any order and as often
// as they come, bitmaps and device state last.
import { Bitmap, SharedBitmap } from "../memory/bitmap.ts";
import { type PageArea, type PageFile, setLength, writeAt } from "../native/file.ts";
import { HashTable, hashOf } from "../native/hash.ts";
import { net } from "../native/net.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import { ByteWriter } from "../stream/bytes.ts";
import { encodeMappedBlock, endOfBlock, layOutBlocks, type MappedBlock } from "../stream/mapped.ts";
import { type BlockEntry, encodeEndOfSection } from "../stream/ram.ts";
import { alignSeal, extentsOf, layOutSeal, SEAL_FOOTER_BYTES } from "../stream/seal.ts";
import {
  type Configuration,
  encodeFooter,
  encodeHeader,
  encodeSectionPart,
  encodeSectionStart,
  type SectionHeader,
} from "../stream/section.ts";
import {
  CAPABILITY_MAPPED_RAM,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  RAM_SAVE_FLAG_MEM_SIZE,
} from "../stream/wire.ts";
import { writeSeal } from "./seal.ts";

/** One block's pages in the file, and which of them it has. Plain data, for the threads that write to it. */
export interface MappedTarget {
  block: MappedBlock;
  present: SharedArrayBuffer;
  told: SharedArrayBuffer;
  hashes: SharedArrayBuffer;
}

/** The pages of one block in the file: what a reader's pages go to. */
export class MappedSink {
  readonly name: string;
  readonly pages: number;
  readonly sink = this;
  readonly present: Bitmap;
  readonly told: Bitmap;
  readonly #file: PageFile;
  readonly #area: PageArea;
  readonly #hashes: HashTable;

  constructor(file: PageFile, { block, present, told, hashes }: MappedTarget) {
    this.name = block.name;
    this.pages = block.bytes / PAGE_BYTES;
    this.present = new SharedBitmap(this.pages, present);
    this.told = new SharedBitmap(this.pages, told);
    this.#hashes = new HashTable(this.pages, hashes);
    this.#file = file;
    this.#area = { pagesOffset: block.pagesOffset, pages: this.pages };
  }

  scatter(buffer: Uint8Array, index: Uint32Array, offset: Uint32Array, count: number): void {
    this.#hashes.set(buffer, index, offset, count);
    this.#file.write(this.#area, buffer, index, offset, count);
  }
  clear(index: Uint32Array, count: number): void {
    this.#hashes.clear(index, 0, count);
    this.#file.punch(this.#area, index, count);
  }
  read(offset: number, bytes: number): Uint8Array {
    return this.#file.readBytes(this.#area, offset, bytes);
  }
}

export class MappedWriter {
  readonly #fd: number;
  readonly #base: number;
  #section: SectionHeader | null = null;
  #targets: MappedTarget[] = [];
  /** Headers as they stand before each block's bitmap. */
  readonly #headers: Uint8Array[] = [];
  #end = 0;

  /** The stream begins at `base`; everything from there on is replaced. */
  constructor(fd: number, base: number) {
    this.#fd = fd;
    this.#base = base;
  }

  get targets(): readonly MappedTarget[] {
    return this.#targets;
  }

  /** Where the file ends, as far as it is written; holes counted. */
  get bytes(): number {
    return this.#end;
  }

  /** Everything up to the blocks. `early`: whole sections that stand before the RAM. */
  begin(configuration: Configuration, early: Uint8Array, section: SectionHeader, blocks: readonly BlockEntry[]): void {
    this.#section = section;
    const out = new ByteWriter();
    const capabilities = [
      ...configuration.capabilities.filter((one) => one !== CAPABILITY_MAPPED_RAM),
      CAPABILITY_MAPPED_RAM,
    ];
    encodeHeader(out, { ...configuration, capabilities });
    out.bytes(early);
    encodeSectionStart(out, QEMU_VM_SECTION_START, section);
    out.size(blocks.reduce((sum, { bytes }) => sum + bytes, 0) + RAM_SAVE_FLAG_MEM_SIZE);
    setLength(this.#fd, this.#base);
    const start = this.#base + out.length;
    writeAt(this.#fd, out.done(), this.#base);
    let at = start;
    for (const block of layOutBlocks(blocks, start)) {
      const header = encodedBlock(block);
      writeAt(this.#fd, header, at);
      at = endOfBlock(block);
      const pages = block.bytes / PAGE_BYTES;
      this.#headers.push(this.#targets.length ? header : Buffer.concat([out.done(), header]));
      this.#targets.push({
        block,
        present: new SharedArrayBuffer(Bitmap.bytesFor(pages)),
        told: new SharedArrayBuffer(Bitmap.bytesFor(pages)),
        hashes: new SharedArrayBuffer(HashTable.bytesFor(pages)),
      });
    }
    this.#end = at;
    setLength(this.#fd, at); // pages come in any order, and none of them makes the file longer
  }

  /**
   * Everything behind the blocks, and their bitmaps, which until now were empty; then the seal. The pages are on disk before
   * any of it is written, and nothing else need be. `between`: records that stood between the RAM's sections. `tail`: all that
   * came behind them.
   */
  finish(between: Uint8Array, tail: Uint8Array): void {
    net.sync(this.#fd);
    const { id } = this.#section as SectionHeader;
    const out = new ByteWriter();
    encodeEndOfSection(out);
    encodeFooter(out, id);
    encodeSectionPart(out, QEMU_VM_SECTION_PART, id);
    encodeEndOfSection(out);
    encodeFooter(out, id);
    out.bytes(between);
    encodeSectionPart(out, QEMU_VM_SECTION_END, id);
    encodeEndOfSection(out);
    encodeFooter(out, id);
    writeAt(this.#fd, out.done(), this.#end);
    writeAt(this.#fd, tail, this.#end + out.length);
    for (const { block, present } of this.#targets) writeAt(this.#fd, new Uint8Array(present), block.bitmapOffset);
    const tailOffset = this.#end;
    this.#end += out.length + tail.length;
    this.#seal(Buffer.concat([out.done(), tail]), tailOffset);
  }

  #seal(tail: Uint8Array, tailOffset: number): void {
    const streamEnd = this.#end;
    const sealOffset = alignSeal(streamEnd);
    const blocks = this.#targets.map(({ block }) => block);
    const contents = this.#targets.map(({ block, present }, i): Uint8Array[] => {
      const bitmap = new Uint8Array(present);
      const padding = block.pagesOffset - block.bitmapOffset - bitmap.length;
      return [this.#headers[i], bitmap, new Uint8Array(padding)];
    });
    contents.push([tail, new Uint8Array(sealOffset - tailOffset - tail.length)]);
    const ranges = extentsOf(this.#base, blocks, sealOffset);
    writeSeal(this.#fd, sealOffset, {
      streamOffset: this.#base,
      streamEnd,
      holes: true,
      extents: ranges.map((range, i) => ({ ...range, hash: hashOf(...contents[i]) })),
      blocks,
      tables: this.#targets.map(({ block, hashes }) => new HashTable(block.bytes / PAGE_BYTES, hashes)),
    });
    this.#end = sealOffset + layOutSeal(blocks).footer + SEAL_FOOTER_BYTES;
  }
}

function encodedBlock(block: MappedBlock): Uint8Array {
  const out = new ByteWriter();
  encodeMappedBlock(out, block);
  return out.done();
}

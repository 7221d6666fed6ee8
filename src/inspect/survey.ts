// What is in a stream, whoever wrote it and wherever it lies: read once, forward from its header, and nothing is kept but
// numbers and the device state.
import { type ErrorData, TramError, toErrorData } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { MainChannel, type MainRecord } from "../reader/main-channel.ts";
import type { PageSink } from "../reader/pages.ts";
import type { RecordCounts } from "../reader/ram-records.ts";
import { TransportSource } from "../reader/source.ts";
import { ByteWriter, badStream, hex } from "../stream/bytes.ts";
import { type DeviceSection, readTail, type Tail } from "../stream/description.ts";
import { DEVICE_TABLES } from "../stream/devices/index.ts";
import { MACHINE_NAME } from "../stream/devices/machine.ts";
import { bitmapBytes, type MappedBlock } from "../stream/mapped.ts";
import { findSealHead, type SealSeen } from "../stream/seal.ts";
import type { Configuration } from "../stream/section.ts";
import { loadState } from "../stream/vmstate.ts";
import { QEMU_VM_SECTION_END, TAIL_BYTES_MAX } from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";

export interface SurveyBlock {
  name: string;
  bytes: number;
  pages: number;
  /** Pages with content; zero pages that the stream tells of; pages of which it says nothing. */
  content: number;
  zero: number;
  untold: number;
  mapped: MappedBlock | null;
}

export interface Survey {
  kind: "plain" | "fixed";
  configuration: Configuration;
  /** Numbers of the commands, in their order. */
  commands: number[];
  blocks: SurveyBlock[];
  /** Records of RAM by kind; in a file with fixed offsets there are none. */
  records: RecordCounts;
  /** The pages come over other channels. */
  multifd: boolean;
  devices: DeviceSection[];
  tail: Tail | null;
  tailBytes: Uint8Array;
  tailOffset: number;
  /** A seal that follows the stream where nobody has ended the reading before it: through a pipe, or if it is not whole. */
  seal: SealSeen | null;
  /** Behind the last byte that was understood. */
  endOffset: number;
  /** Why the reading ended early, if it did; everything else is what was read before. */
  problem: ErrorData | null;
  /** The record that has the byte that was asked for. */
  at: string | null;
}

/** Somebody who looks at the pages, too, as they come by. */
export interface PageWatcher {
  /** Where a block's pages go; once for each, in their order. */
  sink(name: string, pages: number): PageSink;
  /** At the end of a plain stream: the block's pages with content, and those that the stream has told of. */
  told(name: string, present: Bitmap, told: Bitmap): void;
}

/** Nobody looks. */
class CountingSink implements PageSink {
  readonly pages: number;
  constructor(pages: number) {
    this.pages = pages;
  }
  scatter(): void {}
  clear(): void {}
  read(_offset: number, bytes: number): Uint8Array {
    return new Uint8Array(bytes);
  }
}

/** Pages of a file with fixed offsets that are given to a watcher at once. */
const BATCH_PAGES = 128;

/** Reads a stream that begins at `offset` of its file or channel. `watched`: a byte to name the record of. */
export function survey(
  transport: Transport,
  offset: number,
  watched: number | null,
  watcher: PageWatcher | null = null,
): Survey {
  const surveying = new Surveying(transport, offset, watched, watcher);
  surveying.read();
  return surveying.result;
}

class Surveying {
  readonly result: Survey;
  readonly #source: TransportSource;
  readonly #main: MainChannel;
  readonly #watched: number | null;
  readonly #watcher: PageWatcher | null;
  readonly #raw = new ByteWriter();
  readonly #sinks: { name: string; sink: PageSink; present: Bitmap; told: Bitmap }[] = [];
  #noted = Number.POSITIVE_INFINITY;
  #ramEnded = false;
  #earlyDevices = 0;

  constructor(transport: Transport, offset: number, watched: number | null, watcher: PageWatcher | null) {
    this.#watcher = watcher;
    this.#source = new TransportSource(transport, offset);
    this.#main = new MainChannel(this.#source);
    this.#watched = watched;
    this.result = {
      kind: "plain",
      configuration: { machine: "", capabilities: [], uuid: null },
      commands: [],
      blocks: [],
      records: this.#main.records.counts,
      multifd: false,
      devices: [],
      tail: null,
      tailBytes: new Uint8Array(0),
      tailOffset: 0,
      seal: null,
      endOffset: offset,
      problem: null,
      at: null,
    };
    if (watched !== null) this.#main.records.watch = (begin, end, what) => this.#note(begin, end, what);
    this.#main.onMapped = (block) => this.#mapped(block);
  }

  read(): void {
    const { result } = this;
    try {
      while (!this.#step()) result.endOffset = this.#source.offset;
    } catch (error) {
      if (!(error instanceof TramError) || result.configuration.machine === "") throw error;
      result.problem = toErrorData(error);
    }
    for (const [i, { name, present, told }] of this.#sinks.entries()) {
      this.#watcher?.told(name, present, told);
      const block = result.blocks[i];
      block.content = present.count();
      block.untold = block.pages - told.count();
      block.zero = block.pages - block.content - block.untold;
    }
    // QEMU before 9.0 tells on the main channel of zero pages only; no guest has nothing but these and pages not told of.
    const lacks = result.blocks.every(({ content }) => content === 0) && result.blocks.some(({ untold }) => untold > 0);
    result.multifd ||= result.kind === "plain" && this.#ramEnded && lacks;
    this.#nameTail();
  }

  /** True when the stream is over. */
  #step(): boolean {
    const { result } = this;
    this.#source.tap = this.#ramEnded ? this.#raw : null;
    const record = this.#main.next();
    this.#note(record.at, this.#source.offset, describe(record));
    switch (record.kind) {
      case "configuration":
        result.configuration = record.configuration;
        if (this.#main.isMapped) result.kind = "fixed";
        return false;
      case "command":
        result.commands.push(record.command.command);
        return false;
      case "blocks":
        for (const { name, bytes, mapped } of record.blocks) {
          const pages = bytes / 4096;
          const stored = this.#stored.get(name);
          result.blocks.push({
            name,
            bytes,
            pages,
            content: stored?.count() ?? 0,
            zero: stored ? pages - stored.count() : 0,
            untold: 0,
            mapped,
          });
          if (!mapped)
            this.#sinks.push({
              name,
              sink: this.#watcher?.sink(name, pages) ?? new CountingSink(pages),
              present: new Bitmap(pages),
              told: new Bitmap(pages),
            });
        }
        this.#main.into(this.#sinks);
        return false;
      case "flush":
        result.multifd = true;
        return false;
      case "ram-end":
        if (record.type === QEMU_VM_SECTION_END) {
          this.#ramEnded = true;
          result.tailOffset = this.#source.offset;
        }
        return false;
      case "device":
        return this.#device(record);
      case "end":
        return this.#tail();
      default:
        return false;
    }
  }

  readonly #stored = new Map<string, Bitmap>();

  #mapped(block: MappedBlock): void {
    const bitmapEnd = block.bitmapOffset + bitmapBytes(block.bytes);
    this.#note(block.bitmapOffset, bitmapEnd, `the bitmap of block '${block.name}'`);
    this.#note(bitmapEnd, block.pagesOffset, `the padding before the pages of block '${block.name}'`);
    const page = Math.floor(((this.#watched ?? 0) - block.pagesOffset) / 4096);
    if (page >= 0 && page < block.bytes / 4096) {
      const at = block.pagesOffset + page * 4096;
      this.#note(at, at + 4096, `page ${page} of block '${block.name}'`);
    }
    const present = new Bitmap(block.bytes / 4096);
    // Forward only: a stream that comes through a pipe is read on, and its bitmap lies in front of its pages.
    this.#source.seek(block.bitmapOffset);
    const bytes = new Uint8Array(present.words.buffer);
    bytes.set(this.#source.bytes(bytes.length));
    this.#stored.set(block.name, present);
    if (this.#watcher) this.#givePages(block, present, this.#watcher.sink(block.name, present.pages));
  }

  /** The pages with content, run by run, each where it lies in the buffer. */
  #givePages(block: MappedBlock, present: Bitmap, sink: PageSink): void {
    const source = this.#source;
    const index = new Uint32Array(BATCH_PAGES);
    const offset = new Uint32Array(BATCH_PAGES);
    for (let page = 0; page < present.pages; ) {
      const { count, next } = present.find(page, present.pages, index);
      for (let i = 0, run = 0; i < count; i += run) {
        source.seek(block.pagesOffset + index[i] * 4096);
        source.fill(4096);
        const ready = Math.floor(source.ready / 4096);
        for (run = 0; run < ready && index[i + run] === index[i] + run && i + run < count; run++)
          offset[run] = source.at + run * 4096;
        sink.scatter(source.buffer, index.subarray(i, i + run), offset, run);
        source.skip(run * 4096);
      }
      page = next;
    }
  }

  #device({ at, section }: Extract<MainRecord, { kind: "device" }>): boolean {
    const { machine } = this.result.configuration;
    const table = machine === MACHINE_NAME ? DEVICE_TABLES.get(section.name) : undefined;
    if (!table || table.version !== section.version) {
      if (!this.#ramEnded)
        throw badStream(
          `section '${section.name}' stands before the RAM, and only its device knows where it ends`,
          at,
          "section 'ram' first",
          `'${section.name}'`,
        );
      return this.#tail();
    }
    loadState(table, this.#source);
    this.#main.endDevice(section);
    if (!this.#ramEnded) this.#earlyDevices++;
    return false;
  }

  #tail(): boolean {
    const { result } = this;
    this.#source.tap = null;
    const raw = this.#raw;
    for (let piece = this.#source.takeReady(); piece; piece = this.#source.takeReady()) {
      if (result.seal) continue; // its tables may be long
      raw.bytes(piece);
      if (raw.length <= TAIL_BYTES_MAX) continue;
      result.seal = findSealHead(raw.done(), result.tailOffset);
      if (!result.seal)
        throw badStream(
          "the device state is too large",
          this.#source.offset,
          `at most ${TAIL_BYTES_MAX} bytes`,
          "more",
        );
    }
    result.seal ??= findSealHead(raw.done(), result.tailOffset);
    result.tailBytes = raw.done().subarray(0, result.seal ? result.seal.streamEnd - result.tailOffset : raw.length);
    result.tail = readTail(result.tailBytes, result.tailOffset, this.#earlyDevices);
    result.devices = result.tail.devices;
    result.endOffset = this.#source.offset;
    return true;
  }

  #note(begin: number, end: number, what: string): void {
    const { result } = this;
    if (this.#watched === null || this.#watched < begin || this.#watched >= end) return;
    if (end - begin > this.#noted) return; // the smallest thing that has the byte is the one to name
    this.#noted = end - begin;
    result.at = `${what}, which is bytes ${begin} to ${end - 1}`;
  }

  #nameTail(): void {
    const { result } = this;
    const { tail } = result;
    if (!tail || this.#watched === null) return;
    for (const section of tail.devices) {
      const { offset, bytes, name, instance, bodyOffset, bodyBytes } = section;
      this.#note(offset, offset + bytes, `device '${name}' instance ${instance}`);
      this.#note(offset, bodyOffset, `the header of device '${name}' instance ${instance}`);
      this.#note(bodyOffset + bodyBytes, offset + bytes, `the footer of device '${name}' instance ${instance}`);
      this.#noteFields(section.fields, `${name}/${instance}`);
    }
    this.#note(tail.eofOffset, tail.eofOffset + 1, "the end of the stream");
    if (tail.description)
      this.#note(tail.eofOffset + 1, tail.eofOffset + 6 + tail.description.length, "the description");
  }

  #noteFields(fields: DeviceSection["fields"], path: string): void {
    for (const field of fields) {
      this.#note(field.offset, field.offset + field.bytes, `field ${path}.${field.name} (${field.type})`);
      if (field.fields) this.#noteFields(field.fields, `${path}.${field.name}`);
    }
  }
}

function describe(record: MainRecord): string {
  switch (record.kind) {
    case "configuration":
      return "the header and the configuration";
    case "command":
      return `command ${record.command.command}`;
    case "blocks":
      return "the START of section 'ram' and its block table";
    case "flush":
      return "a multifd flush";
    case "eos":
      return "the end of records of section 'ram'";
    case "ram-end":
      return "the footer of section 'ram'";
    case "dirty-bitmaps":
      return "section 'dirty-bitmap'";
    case "device":
      return `the header of device '${record.section.name}'`;
    case "pages":
      return "page records of section 'ram'";
    case "end":
      return `the end (${hex(0)})`;
  }
}

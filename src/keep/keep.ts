// The story of a stream that is kept, top to bottom: whatever its source sends, and however often it sends a page again, comes
// to lie at its place in one file. The source hears of success when the file is durable.
import type { MoveLog } from "../control/journal.ts";
import { TramError } from "../errors.ts";
import type { PageRange } from "../memory/bitmap.ts";
import type { MainChannel, MainRecord } from "../reader/main-channel.ts";
import { ByteWriter, badStream } from "../stream/bytes.ts";
import { endsUndescribed, findDescription, readTail, type Tail } from "../stream/description.ts";
import { DEVICE_TABLES } from "../stream/devices/index.ts";
import { MACHINE_NAME, untouched, untouchedFromState } from "../stream/devices/machine.ts";
import { type Command, type Configuration, pingValue } from "../stream/section.ts";
import { loadState } from "../stream/vmstate.ts";
import {
  CAPABILITY_IGNORE_SHARED,
  MIG_CMD_ENABLE_COLO,
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PACKAGED,
  MIG_CMD_PING,
  MIG_CMD_POSTCOPY_ADVISE,
  MIG_CMD_POSTCOPY_RAM_DISCARD,
  QEMU_VM_SECTION_END,
  TAIL_BYTES_MAX,
  TARGET_PAGE_BYTES,
} from "../stream/wire.ts";
import type { MappedWriter } from "../writer/mapped.ts";

/** What the story needs of its surroundings. */
export interface KeepContext {
  /** The source wants answers. */
  openReturnPath(): void;
  answerPing(value: number, at: number): void;
  /** The blocks are known: gives the sinks to the reader, and to the channels when there are some. */
  begin(): void;
  /** A tram's guest: these pages were left out, because nobody has written to them. */
  untouched(ranges: readonly PageRange[], at: number): void;
  /** Multifd: everything that was sent before, on any channel, has come to the file. `flush`: the stream says so
   * itself. `progress` is called while it waits. */
  barrier(flush: boolean, progress: () => void): void;
  /** What the other channels have brought so far, added up. */
  channelCounts(): ChannelTotals;
  checkCancelled(): void;
}

export interface ChannelTotals {
  pages: number;
  zeroPages: number;
  bytes: number;
}

export interface Kept {
  configuration: Configuration;
  tail: Tail;
}

/** A stream without a description just stops: this long after what may be its last byte it has. */
const UNDESCRIBED_MS = 1000;

/** Either it is cancelled, and nothing is left of the file, or the file gets its name, and no cancel counts any more. */
export const KEEP_FATE = { at: 1, open: 0, committed: 1, cancelled: 2 } as const;

/** Reads the stream to its end. When this returns, everything is in the file; nothing is durable yet. */
export function keep(main: MainChannel, file: MappedWriter, context: KeepContext, log: MoveLog): Kept {
  const story = new Keeping(main, file, context, log);
  log.setPhase("setup");
  for (;;) {
    context.checkCancelled();
    main.source.tap?.reset();
    const record = main.next();
    const tail = story.take(record);
    if (!tail) continue;
    story.finish();
    return { configuration: main.configuration as Configuration, tail };
  }
}

class Keeping {
  readonly #main: MainChannel;
  readonly #file: MappedWriter;
  readonly #context: KeepContext;
  readonly #log: MoveLog;
  /** The record's own bytes; records of RAM excepted. */
  readonly #raw = new ByteWriter();
  /** Sections before the RAM, records between its sections, and everything behind it. */
  readonly #early = new ByteWriter();
  readonly #between = new ByteWriter();
  readonly #tail = new ByteWriter();
  #stage: "early" | "ram" | "tail" = "early";
  #earlyDevices = 0;
  /** START, PARTs and END, as far as they have come. */
  #ramSections = 0;
  #tailBase = 0;
  /** The stream says itself when the channels must meet; else each end of a section of RAM says so. */
  #flushes = false;

  constructor(main: MainChannel, file: MappedWriter, context: KeepContext, log: MoveLog) {
    this.#main = main;
    this.#file = file;
    this.#context = context;
    this.#log = log;
    main.source.tap = this.#raw;
  }

  /** Null: the stream goes on. */
  take(record: MainRecord): Tail | null {
    switch (record.kind) {
      case "configuration":
        this.#configuration(record.configuration);
        return null;
      case "command":
        this.#command(record.command, record.at);
        return null;
      case "blocks": {
        const { configuration } = this.#main;
        this.#file.begin(configuration as Configuration, this.#early.done(), record.section, record.blocks);
        this.#stage = "ram";
        this.#context.begin();
        this.#log.journal.totalPages = record.blocks.reduce((sum, { bytes }) => sum + bytes / TARGET_PAGE_BYTES, 0);
        this.#log.setPhase("active");
        return null;
      }
      case "pages":
        this.#count();
        return null;
      case "flush":
        this.#flushes = true;
        this.#context.barrier(true, () => this.#count());
        return null;
      case "eos":
        this.#count();
        if (!this.#flushes) this.#context.barrier(false, () => this.#count());
        return null;
      case "ram-end":
        this.#ramEnd(record.type);
        return null;
      case "dirty-bitmaps":
        this.#kept().bytes(this.#raw.done());
        return null;
      case "device":
        return this.#device(record);
      case "end":
        if (this.#stage !== "tail")
          throw badStream("the stream ends before its RAM does", record.at, "section 'ram' and its END", "the end");
        this.#tail.bytes(this.#raw.done());
        return this.#spool();
    }
  }

  #kept(): ByteWriter {
    return this.#stage === "early" ? this.#early : this.#stage === "ram" ? this.#between : this.#tail;
  }

  #configuration({ capabilities }: Configuration): void {
    if (capabilities.includes(CAPABILITY_IGNORE_SHARED))
      throw new TramError("E_STREAM", "the stream leaves out RAM that the target is to find in shared memory", {
        expected: `no capability ${CAPABILITY_IGNORE_SHARED}`,
        found: capabilities.join(", "),
        next: "switch it off at the source: what is kept here must be all of the guest",
      });
    if (this.#main.isMapped)
      throw new TramError("E_STREAM", "the stream has fixed offsets already, and cannot come over a channel", {
        next: "it is a file: copy it with cp --sparse=always",
      });
  }

  #command(command: Command, at: number): void {
    switch (command.command) {
      case MIG_CMD_OPEN_RETURN_PATH:
        this.#context.openReturnPath();
        return;
      case MIG_CMD_PING:
        this.#context.answerPing(pingValue(command), at);
        return;
      case MIG_CMD_POSTCOPY_ADVISE:
        // Only an announcement: if the source really switches, it says so. But its block table may have another form then.
        if (
          command.data.length === 16 &&
          new DataView(command.data.buffer).getBigUint64(0) !== BigInt(TARGET_PAGE_BYTES)
        )
          throw refusedCommand("postcopy with huge pages", at);
        return;
      case MIG_CMD_POSTCOPY_RAM_DISCARD:
      case MIG_CMD_PACKAGED:
        throw refusedCommand("postcopy: the rest of the RAM would come only when the guest runs", at);
      case MIG_CMD_ENABLE_COLO:
        throw refusedCommand("COLO: two guests that run in step", at);
      default:
        this.#kept().bytes(this.#raw.done());
    }
  }

  #count(): void {
    const { journal } = this.#log;
    const { pages, xbzrlePages, compressedPages, zeroPages } = this.#main.records.counts;
    const others = this.#context.channelCounts();
    journal.sentPages = pages + xbzrlePages + compressedPages + others.pages;
    journal.zeroPages = zeroPages + others.zeroPages;
    journal.bytes = this.#main.source.offset + others.bytes;
    this.#log.refresh();
  }

  #ramEnd(type: number): void {
    if (this.#stage === "early")
      throw badStream(
        "the stream has no RAM blocks",
        this.#main.source.offset,
        "a block table in section 'ram'",
        "none",
      );
    this.#ramSections++;
    if (type !== QEMU_VM_SECTION_END) return;
    this.#enterTail();
  }

  #enterTail(): void {
    this.#stage = "tail";
    this.#tailBase = this.#main.source.offset;
    this.#log.setPhase("device");
  }

  #device({ at, section }: Extract<MainRecord, { kind: "device" }>): Tail | null {
    const { source, configuration } = this.#main;
    const table = configuration?.machine === MACHINE_NAME ? DEVICE_TABLES.get(section.name) : undefined;
    if (table && table.version === section.version) {
      const state = loadState(table, source);
      this.#main.endDevice(section);
      if (table === untouched) this.#context.untouched(untouchedFromState(state, at), at);
      this.#kept().bytes(this.#raw.done());
      if (this.#stage === "early") this.#earlyDevices++;
      return null;
    }
    if (this.#stage === "early" || this.#ramSections === 1)
      throw badStream(
        `section '${section.name}' stands before the RAM, and only its device knows where it ends`,
        at,
        "section 'ram' first",
        `'${section.name}' version ${section.version}`,
      );
    // A background snapshot has no END: its first device says that the RAM is over.
    if (this.#stage === "ram") {
      this.#enterTail();
      this.#tailBase = at;
    }
    this.#tail.bytes(this.#raw.done());
    return this.#spool();
  }

  /** Everything up to the stream's end, as it comes: where each device ends only the description at the end tells. */
  #spool(): Tail {
    const { source } = this.#main;
    source.tap = null;
    for (;;) {
      this.#context.checkCancelled();
      const piece = this.#nextPiece();
      if (piece === null) break;
      this.#tail.bytes(piece);
      if (this.#tail.length > TAIL_BYTES_MAX)
        throw badStream("the device state is too large", source.offset, `at most ${TAIL_BYTES_MAX} bytes`, "more");
      // The source may keep the channel open, and wait for our word: the end must be known from the bytes.
      if (findDescription(this.#tail.done())) break;
    }
    const bytes = this.#tail.done();
    if (!findDescription(bytes) && !endsUndescribed(bytes)) throw source.ended("the rest of the device state");
    return readTail(bytes, this.#tailBase, this.#earlyDevices);
  }

  /** Null at the end: the source's, or, where it described nothing and only waits, that of its last section. */
  #nextPiece(): Uint8Array | null {
    const complete = endsUndescribed(this.#tail.done());
    try {
      return this.#main.source.takeReady(complete ? UNDESCRIBED_MS : undefined);
    } catch (error) {
      if (complete && error instanceof TramError && error.code === "E_PEER_SILENT") return null;
      throw error;
    }
  }

  /** The RAM is complete, and so is everything else: writes what the pages did not. */
  finish(): void {
    this.#count();
    this.#file.finish(this.#between.done(), this.#tail.done());
  }
}

function refusedCommand(what: string, at: number): TramError {
  return badStream("the stream cannot be kept", at, "a precopy migration", what);
}

// The main channel's reader: decodes records, checks each whole, and only then touches guest memory.
import type { Incoming, MoveReader, PagesReceived } from "../control/channel.ts";
import type { Guest } from "../control/guest.ts";
import { TramError } from "../errors.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { PAGE_BYTES, type Ram } from "../native/ram.ts";
import { ByteWriter, badStream, hex } from "../stream/bytes.ts";
import { DEVICE_TABLES } from "../stream/devices/index.ts";
import {
  CPUS_MAX,
  globalstate,
  machine,
  machineFromState,
  RAM_BLOCK_NAME,
  runStateFrom,
} from "../stream/devices/machine.ts";
import { decodeBlockTable, decodePageWord } from "../stream/ram.ts";
import { encodeHello, encodePong, encodeRefuse, encodeShut, type Hello } from "../stream/return-path.ts";
import { decodeCommand, decodeFooter, decodeHeader, decodeSectionPart, decodeSectionStart } from "../stream/section.ts";
import { loadState } from "../stream/vmstate.ts";
import {
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PING,
  QEMU_VM_COMMAND,
  QEMU_VM_EOF,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_FULL,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  QEMU_VM_VMDESCRIPTION,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
  RAM_SECTION_NAME,
  RAM_SECTION_VERSION,
  TRAM_PING_HELLO,
  TRAM_PING_READY,
  VMDESC_BYTES_MAX,
} from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";
import { MACHINE_NAME } from "../writer/stream.ts";
import { TransportSource } from "./source.ts";

const WORD_BYTES = 8;
const CONTINUED_PAGE = RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_CONTINUE;
const CONTINUED_PAGE_BYTES = WORD_BYTES + PAGE_BYTES;
/** One for each vCPU and its APIC, and room for the others. */
const SECTIONS_MAX = 2 * CPUS_MAX + 32;
/** Pages placed by one call: a buffer holds fewer. */
const BATCH_PAGES = 1024;
/** Waiting for the source to take note: of a confirmation before its process may go, of a refusal before the close. */
const DRAIN_MS = 2000;

export class StreamReader implements MoveReader {
  readonly name: string;
  readonly received: PagesReceived = { pages: 0, zeroPages: 0 };
  readonly #transport: Transport;
  readonly #source: TransportSource;
  readonly #pages: PagePlacer = new PagePlacer();
  readonly #sectionNames = new Map<number, string>();
  #started = false;
  #returnPathOpen = false;
  /** The RAM section whose body is being read; null between sections. */
  #inRam: number | null = null;
  #blockNamed = false;

  constructor(transport: Transport) {
    this.name = transport.name;
    this.#transport = transport;
    this.#source = new TransportSource(transport);
  }

  get bytes(): number {
    return this.#source.offset;
  }

  /** Waits for the first byte; false: the peer only looked whether somebody listens. */
  hasBegun(): boolean {
    return this.#source.tryFill(1);
  }

  into(guest: Guest): void {
    this.#pages.into(guest.ram);
  }

  pagesKnown(): number {
    return this.#pages.known();
  }

  next(): Incoming {
    const source = this.#source;
    if (!this.#started) this.#readHeader();
    if (this.#inRam !== null) return this.#ramRecords();
    for (;;) {
      const at = source.offset;
      const type = source.u8();
      switch (type) {
        case QEMU_VM_COMMAND: {
          const incoming = this.#command(at);
          if (incoming) return incoming;
          break;
        }
        case QEMU_VM_SECTION_START:
        case QEMU_VM_SECTION_FULL: {
          const incoming = this.#section(type);
          if (incoming) return incoming;
          break;
        }
        case QEMU_VM_SECTION_PART:
        case QEMU_VM_SECTION_END: {
          const id = decodeSectionPart(source);
          if (this.#sectionNames.get(id) !== RAM_SECTION_NAME)
            throw badStream("a part of an unknown section", at, "section 'ram'", `section id ${id}`);
          this.#inRam = id;
          return this.#ramRecords();
        }
        case QEMU_VM_EOF:
          return { kind: "end" };
        default:
          throw badStream("unknown record", at, "a section, a command or the end", hex(type));
      }
    }
  }

  #readHeader(): void {
    const { machine: name } = decodeHeader(this.#source);
    if (name !== MACHINE_NAME)
      throw new TramError("E_STREAM", `the stream is of a QEMU guest (machine '${name}'), which tram cannot run`, {
        expected: `machine '${MACHINE_NAME}'`,
        found: `machine '${name}'`,
        next: "give the stream to QEMU: qemu-system-x86_64 … -incoming URI",
      });
    this.#started = true;
  }

  #command(at: number): Incoming | null {
    const command = decodeCommand(this.#source);
    if (command.command === MIG_CMD_OPEN_RETURN_PATH) {
      if (!this.#transport.twoWay)
        throw badStream("the source wants an answer on a one-way channel", at, "no OPEN_RETURN_PATH", "one");
      this.#returnPathOpen = true;
      return null;
    }
    if (command.command !== MIG_CMD_PING) return null;
    if (!this.#returnPathOpen) throw badStream("a PING before the return path is open", at, "OPEN_RETURN_PATH", "PING");
    if (command.value === TRAM_PING_HELLO) return { kind: "hello-wanted" };
    if (command.value === TRAM_PING_READY) return { kind: "ready-wanted" };
    this.#answer((out) => encodePong(out, command.value));
    return null;
  }

  #section(type: number): Incoming | null {
    const source = this.#source;
    const at = source.offset;
    const header = decodeSectionStart(source);
    if (this.#sectionNames.size === SECTIONS_MAX || header.instance >= CPUS_MAX)
      throw badStream(
        "the stream has more devices than a machine",
        at,
        `at most ${SECTIONS_MAX} sections, instances below ${CPUS_MAX}`,
        `'${header.name}' instance ${header.instance}`,
      );
    if (this.#sectionNames.has(header.id))
      throw badStream("a section id is used twice", at, "a new id", `${header.id}`);
    this.#sectionNames.set(header.id, header.name);
    if (type === QEMU_VM_SECTION_START) {
      if (header.name !== RAM_SECTION_NAME || header.version !== RAM_SECTION_VERSION)
        throw badStream(
          "an iterative section that tram does not know",
          at,
          "'ram' version 4",
          `'${header.name}' version ${header.version}`,
        );
      this.#inRam = header.id;
      return this.#ramRecords();
    }
    const table = DEVICE_TABLES.get(header.name);
    if (!table || header.version !== table.version) {
      const expected = table ? `'${header.name}' version ${table.version}` : [...DEVICE_TABLES.keys()].join(", ");
      throw badStream("a device that tram does not know", at, expected, `'${header.name}' version ${header.version}`);
    }
    const state = loadState(table, source);
    decodeFooter(source, header.id, header.name);
    if (table === machine) return { kind: "machine", description: machineFromState(state, at) };
    if (table === globalstate) return { kind: "run-state", runState: runStateFrom(state) };
    return { kind: "device", device: { table, instance: header.instance, state } };
  }

  /** Records of section 'ram' until the buffer runs dry, the section ends, or there is a block table to look at. */
  #ramRecords(): Incoming {
    const source = this.#source;
    const id = this.#inRam as number;
    const limit = source.offset + source.buffer.length;
    for (;;) {
      if (!this.#pages.roomForOne) this.#place();
      this.#pageRun();
      if (source.ready < WORD_BYTES) {
        this.#place();
        source.fill(WORD_BYTES);
      }
      const at = source.at;
      const word = decodePageWord(source.peekU32(at), source.peekU32(at + 4), source.offset);
      if (word.flag === RAM_SAVE_FLAG_EOS) {
        source.skip(WORD_BYTES);
        this.#place();
        decodeFooter(source, id, RAM_SECTION_NAME);
        this.#inRam = null;
        return { kind: "pages" };
      }
      if (word.flag === RAM_SAVE_FLAG_MEM_SIZE) {
        source.skip(WORD_BYTES);
        this.#place(); // reading the table may move what waits in the buffer
        return { kind: "blocks", blocks: decodeBlockTable(source, word.page * PAGE_BYTES) };
      }
      const headBytes = this.#recordHead(word.continues);
      if (word.flag === RAM_SAVE_FLAG_ZERO) this.#zeroRecord(word.page, headBytes);
      else this.#pageRecord(word.page, headBytes);
      if (source.offset >= limit) {
        this.#place();
        return { kind: "pages" };
      }
    }
  }

  /**
   * The common case, in one tight loop: pages with content that continue the block and lie whole in the buffer. Stops before
   * the first record that is anything else, which the general path then looks at.
   */
  #pageRun(): void {
    const source = this.#source;
    if (!this.#blockNamed || this.#pages.hasZeros) return;
    const last = source.at + source.ready - CONTINUED_PAGE_BYTES;
    let at = source.at;
    for (; at <= last; at += CONTINUED_PAGE_BYTES) {
      const low = source.peekU32(at + 4);
      if ((low & 0xfff) !== CONTINUED_PAGE) break;
      if (!this.#pages.tryAdd(source.peekU32(at) * 0x100000 + (low >>> 12), at + WORD_BYTES)) break;
    }
    this.received.pages += (at - source.at) / CONTINUED_PAGE_BYTES;
    source.skip(at - source.at);
  }

  /** The bytes before a record's content: its word and, unless it continues, the block's name. */
  #recordHead(continues: boolean): number {
    const source = this.#source;
    if (continues) {
      if (!this.#blockNamed)
        throw badStream("the first page names no block", source.offset, "a block name", "CONTINUE");
      return WORD_BYTES;
    }
    const nameBytes = WORD_BYTES + 1 + RAM_BLOCK_NAME.length;
    this.#makeReady(nameBytes);
    const at = source.at + WORD_BYTES;
    const name = new TextDecoder().decode(source.buffer.subarray(at + 1, at + 1 + RAM_BLOCK_NAME.length));
    if (source.buffer[at] !== RAM_BLOCK_NAME.length || name !== RAM_BLOCK_NAME)
      throw badStream("a page of an unknown block", source.offset, `block '${RAM_BLOCK_NAME}'`, "another");
    this.#blockNamed = true;
    return nameBytes;
  }

  /** Filling the buffer moves what is in it: pages that wait there are placed first. */
  #makeReady(bytes: number): void {
    if (this.#source.ready >= bytes) return;
    this.#place();
    this.#source.fill(bytes);
  }

  #pageRecord(page: number, headBytes: number): void {
    this.#makeReady(headBytes + PAGE_BYTES);
    if (this.#pages.hasZeros) this.#place(); // the last record of a page wins
    this.#pages.add(page, this.#source.at + headBytes, this.#source.offset);
    this.#source.skip(headBytes + PAGE_BYTES);
    this.received.pages++;
  }

  #zeroRecord(page: number, headBytes: number): void {
    this.#makeReady(headBytes + 1);
    const fill = this.#source.buffer[this.#source.at + headBytes];
    if (fill !== 0) throw badStream("a zero page has another fill byte", this.#source.offset, "00", hex(fill));
    if (this.#pages.noteZero(page, this.#source.offset)) {
      if (this.#pages.hasPages) this.#place(); // the last record of a page wins
      this.#pages.addZero(page);
    }
    this.#source.skip(headBytes + 1);
    this.received.zeroPages++;
  }

  #place(): void {
    this.#pages.place(this.#source.buffer);
  }

  #answer(encode: (out: ByteWriter) => void): void {
    const out = new ByteWriter();
    encode(out);
    this.#transport.write(out.done());
  }

  sendHello(hello: Hello): void {
    this.#answer((out) => {
      encodeHello(out, hello);
      encodePong(out, TRAM_PING_HELLO);
    });
  }

  sendReady(): void {
    this.#answer((out) => encodePong(out, TRAM_PING_READY));
  }

  confirm(): void {
    if (this.#returnPathOpen) this.#answer((out) => encodeShut(out, 0));
    this.#skipDescription();
    this.#transport.drain(DRAIN_MS);
  }

  /** The stream's description follows its end. Unread bytes would turn our close into a reset. */
  #skipDescription(): void {
    const source = this.#source;
    if (!source.tryFill(5) || source.u8() !== QEMU_VM_VMDESCRIPTION) return;
    const length = source.u32();
    if (length <= VMDESC_BYTES_MAX) source.bytes(length);
  }

  refuse(reason: string, code: string): void {
    if (!this.#returnPathOpen) return;
    try {
      this.#answer((out) => encodeRefuse(out, reason, code));
      // Read on until the source has noticed, or a close now would throw the message away.
      const end = performance.now() + DRAIN_MS;
      const rest = new Uint8Array(64 << 10);
      while (performance.now() < end && this.#transport.read(rest, DRAIN_MS) > 0);
    } catch {
      // The source is gone; there is nobody left to tell.
    }
  }

  close(): void {
    this.#transport.close();
  }
}

/** Pages on their way from the buffer into guest memory, each checked against the guest before any is written. */
class PagePlacer {
  #ram: Ram | null = null;
  /** Pages that this stream has written, and those that it has told of at all. */
  #written: Bitmap | null = null;
  #zeroed: Bitmap | null = null;
  readonly #index = new Uint32Array(BATCH_PAGES);
  readonly #offset = new Uint32Array(BATCH_PAGES);
  readonly #zero = new Uint32Array(BATCH_PAGES);
  #count = 0;
  #zeros = 0;
  #pageCount = 0;

  into(ram: Ram): void {
    this.#ram = ram;
    this.#pageCount = ram.pages;
    this.#written = new Bitmap(ram.pages);
    this.#zeroed = new Bitmap(ram.pages);
  }

  known(): number {
    if (!this.#written || !this.#zeroed) return 0;
    return this.#written.count() + this.#zeroed.count() - this.#written.countCommon(this.#zeroed);
  }

  get roomForOne(): boolean {
    return this.#count < BATCH_PAGES && this.#zeros < BATCH_PAGES;
  }

  #check(page: number, streamOffset: number): Bitmap {
    if (!this.#ram || !this.#written)
      throw badStream("pages before the machine", streamOffset, "section 'tram/machine'", "a page");
    if (page >= this.#ram.pages)
      throw badStream(
        "a page outside the guest's memory",
        streamOffset,
        `a page below ${this.#ram.pages}`,
        `page ${page}`,
      );
    return this.#written;
  }

  add(page: number, at: number, streamOffset: number): void {
    this.#check(page, streamOffset).add(page);
    this.#index[this.#count] = page;
    this.#offset[this.#count++] = at;
  }

  /** False: there is no room, or the page is not one of the guest's. */
  tryAdd(page: number, at: number): boolean {
    if (this.#count === BATCH_PAGES || page >= this.#pageCount) return false;
    (this.#written as Bitmap).add(page);
    this.#index[this.#count] = page;
    this.#offset[this.#count++] = at;
    return true;
  }

  /** True if the page must be cleared: one that never had content is zero already, in a machine made for this stream. */
  noteZero(page: number, streamOffset: number): boolean {
    const written = this.#check(page, streamOffset);
    this.#zeroed?.add(page);
    return written.has(page);
  }

  addZero(page: number): void {
    this.#zero[this.#zeros++] = page;
  }

  get hasPages(): boolean {
    return this.#count > 0;
  }
  get hasZeros(): boolean {
    return this.#zeros > 0;
  }

  place(buffer: Uint8Array): void {
    if (this.#count) this.#ram?.scatter(buffer, this.#index, this.#offset, this.#count);
    if (this.#zeros) this.#ram?.clear(this.#zero, this.#zeros);
    this.#count = 0;
    this.#zeros = 0;
  }
}

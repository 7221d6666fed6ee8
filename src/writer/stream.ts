// The main channel's writer: QEMU's stream, headers from a small buffer, pages uncopied from guest memory.
import type { Confirmation, MoveWriter, PagesSent } from "../control/channel.ts";
import type { DeviceState } from "../control/guest.ts";
import { TramError } from "../errors.ts";
import type { PageRange } from "../memory/bitmap.ts";
import { HashTable, hashOf } from "../native/hash.ts";
import { PAGE_BYTES, type Ram } from "../native/ram.ts";
import { ByteWriter } from "../stream/bytes.ts";
import {
  MACHINE_NAME,
  type MachineDescription,
  machine,
  machineToState,
  RAM_BLOCK_NAME,
  untouched,
  untouchedToState,
  VERIFY_XXH3,
  verify,
} from "../stream/devices/machine.ts";
import {
  type BlockEntry,
  encodeBlockTable,
  encodeEndOfSection,
  encodeFirstPage,
  encodeFlush,
  encodePageWords,
} from "../stream/ram.ts";
import type { Hello } from "../stream/return-path.ts";
import {
  encodeFooter,
  encodeHeader,
  encodeOpenReturnPath,
  encodePing,
  encodeSectionPart,
  encodeSectionStart,
} from "../stream/section.ts";
import {
  QEMU_VM_EOF,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
  RAM_SECTION_NAME,
  RAM_SECTION_VERSION,
  TRAM_PING_CHANNELS,
  TRAM_PING_HASHES,
  TRAM_PING_HELLO,
  TRAM_PING_MACHINE,
  TRAM_PING_READY,
  TRAM_PING_ROOT,
} from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";
import { DeviceSections, RAM_SECTION_ID } from "./devices.ts";
import { Replies } from "./replies.ts";

/** The most pages write() takes: what the zero scan sorts at once. */
export const WRITE_PAGES_MAX = 4096;
const ZERO_RECORD_BYTES = 9;
const WORD_BYTES = 8;
/** How long to look for the target's reason after it closed the channel. */
const EXPLAIN_MS = 300;

export class StreamWriter implements MoveWriter {
  readonly name: string;
  readonly twoWay: boolean;
  bytes = 0;
  readonly #transport: Transport;
  readonly #ram: Ram;
  /** Records not yet sent: they go out with the next pages, or by #flush. */
  readonly #pending = new ByteWriter(4096);
  /** Pending, zero records, and the first page's word, as one run of bytes. */
  readonly #head = new Uint8Array(8192 + WRITE_PAGES_MAX * ZERO_RECORD_BYTES);
  readonly #headView = new DataView(this.#head.buffer);
  readonly #words = new Uint8Array(WRITE_PAGES_MAX * WORD_BYTES);
  readonly #wordsView = new DataView(this.#words.buffer);
  #gathered: Uint8Array | null = null;
  #blockNamed = false;
  /** The pages go over others. */
  #channels = false;
  readonly #replies: Replies;
  /** Of what was sent, with --verify. */
  #hashes: HashTable | null = null;
  readonly #devices = new DeviceSections();

  constructor(transport: Transport, ram: Ram) {
    this.name = transport.name;
    this.twoWay = transport.twoWay;
    this.#transport = transport;
    this.#ram = ram;
    this.#replies = new Replies(transport);
  }

  #flush(): void {
    const bytes = this.#pending.done();
    this.#transport.write(bytes);
    this.bytes += bytes.length;
    this.#pending.reset();
  }

  begin(): void {
    encodeHeader(this.#pending, { machine: MACHINE_NAME, capabilities: [], uuid: null });
    if (this.twoWay) {
      encodeOpenReturnPath(this.#pending);
      encodePing(this.#pending, TRAM_PING_HELLO);
    }
    this.#flush();
  }

  awaitHello(timeoutMs: number): Hello | null {
    return this.#replies.awaitHello(timeoutMs);
  }

  machine(description: MachineDescription): void {
    const state = machineToState(description);
    this.#devices.full(this.#pending, { table: machine, instance: 0, state });
  }

  awaitMachine(timeoutMs: number): void {
    encodePing(this.#pending, TRAM_PING_MACHINE);
    this.#flush();
    this.#replies.awaitPong(TRAM_PING_MACHINE, timeoutMs);
  }

  openChannels(count: number, timeoutMs: number): void {
    this.#channels = true;
    encodePing(this.#pending, TRAM_PING_CHANNELS + count);
    this.#flush();
    this.#replies.awaitPong(TRAM_PING_CHANNELS + count, timeoutMs);
  }

  /** Of what is sent, for the other channels; null: not wanted. */
  get hashes(): HashTable | null {
    return this.#hashes;
  }

  verifyPages(): void {
    this.#hashes = new HashTable(this.#ram.pages);
    this.#devices.full(this.#pending, { table: verify, instance: 0, state: { algorithm: VERIFY_XXH3 } });
  }

  differingPages(timeoutMs: number): Uint32Array {
    const { bytes } = this.#hashes as HashTable;
    encodePing(this.#pending, TRAM_PING_ROOT);
    this.#flush();
    if (this.#replies.awaitRoot(timeoutMs) === hashOf(bytes)) return new Uint32Array(0);
    encodePing(this.#pending, TRAM_PING_HASHES);
    this.#flush();
    const theirs = this.#replies.awaitHashes(this.#ram.pages, timeoutMs);
    const differing: number[] = [];
    const [a, b] = [new BigUint64Array(bytes.buffer), new BigUint64Array(theirs.buffer)];
    for (let page = 0; page < a.length; page++) if (a[page] !== b[page]) differing.push(page);
    return Uint32Array.from(differing);
  }

  startRam(blocks: readonly BlockEntry[]): void {
    const section = { id: RAM_SECTION_ID, name: RAM_SECTION_NAME, instance: 0, version: RAM_SECTION_VERSION };
    encodeSectionStart(this.#pending, QEMU_VM_SECTION_START, section);
    encodeBlockTable(this.#pending, blocks);
    if (this.#channels) encodeFlush(this.#pending);
    this.#endSection();
  }

  beginRound(last: boolean): void {
    encodeSectionPart(this.#pending, last ? QEMU_VM_SECTION_END : QEMU_VM_SECTION_PART, RAM_SECTION_ID);
    if (!this.#channels) return;
    // At once: behind it the target waits for the channels as long as they bring anything, and not for this one.
    encodeFlush(this.#pending);
    this.#flush();
  }

  write(index: Uint32Array, count: number): PagesSent {
    if (count === 0) return { pages: 0, zeroPages: 0, bytes: 0 };
    const bytesBefore = this.bytes;
    const pages = this.#ram.splitZero(index, count);
    this.#hashes?.setFromRam(this.#ram, index, pages); // what changes from here on is sent again
    this.#hashes?.clear(index, pages, count);
    let at = this.#takePending();
    if (!this.#blockNamed) at = this.#nameBlock(index, pages, count, at);
    at = this.#zeroRecords(index, pages, count, at);
    this.bytes += pages === 0 ? this.#writeHead(at) : this.#writePages(index, pages, at);
    return { pages, zeroPages: count - pages, bytes: this.bytes - bytesBefore };
  }

  /** Moves the pending records to the front of the head; returns where they end. */
  #takePending(): number {
    const pending = this.#pending.done();
    this.#head.set(pending);
    this.#pending.reset();
    return pending.length;
  }

  /** The very first record cannot continue a block: it is a zero page if there is one, else it is part of the head anyway. */
  #nameBlock(index: Uint32Array, pages: number, count: number, at: number): number {
    const first = new ByteWriter();
    this.#blockNamed = true;
    if (pages < count) {
      encodeFirstPage(first, RAM_SAVE_FLAG_ZERO, index[count - 1], RAM_BLOCK_NAME);
      first.u8(0);
    } else {
      // Every page has content. Send the first alone, as an ordinary run of one, so that all others continue its block.
      encodeFirstPage(first, RAM_SAVE_FLAG_PAGE, index[0], RAM_BLOCK_NAME);
      first.bytes(this.#ram.read(index[0] * PAGE_BYTES, PAGE_BYTES));
    }
    this.#transport.write(this.#head, at);
    this.#transport.write(first.done());
    this.bytes += at + first.length;
    return 0;
  }

  #zeroRecords(index: Uint32Array, pages: number, count: number, at: number): number {
    encodePageWords(view(this.#headView, at), ZERO_RECORD_BYTES, RAM_SAVE_FLAG_ZERO, index, pages, count);
    for (let i = pages; i < count; i++) this.#head[at + (i - pages) * ZERO_RECORD_BYTES + WORD_BYTES] = 0; // the fill byte
    return at + (count - pages) * ZERO_RECORD_BYTES;
  }

  #writeHead(bytes: number): number {
    this.#transport.write(this.#head, bytes);
    return bytes;
  }

  #writePages(index: Uint32Array, count: number, at: number): number {
    encodePageWords(this.#wordsView, WORD_BYTES, RAM_SAVE_FLAG_PAGE, index, 0, count);
    this.#head.set(this.#words.subarray(0, WORD_BYTES), at);
    const records = { ram: this.#ram, head: this.#head, headBytes: at + WORD_BYTES, words: this.#words, index, count };
    if (this.#transport.writePages) return this.#transport.writePages(records);
    this.#gathered ??= new Uint8Array(this.#head.length + WRITE_PAGES_MAX * (PAGE_BYTES + WORD_BYTES));
    const bytes = this.#ram.gather(this.#head, records.headBytes, this.#words, index, count, this.#gathered);
    this.#transport.write(this.#gathered, bytes);
    return bytes;
  }

  endRound(): void {
    this.#endSection();
  }

  endRounds(): void {
    encodeSectionPart(this.#pending, QEMU_VM_SECTION_END, RAM_SECTION_ID);
    this.#endSection();
  }

  #endSection(): void {
    encodeEndOfSection(this.#pending);
    encodeFooter(this.#pending, RAM_SECTION_ID);
    this.#flush();
  }

  untouched(ranges: readonly PageRange[]): void {
    if (ranges.length === 0) return;
    this.#devices.full(this.#pending, { table: untouched, instance: 0, state: untouchedToState(ranges) });
  }

  devices(devices: readonly DeviceState[], runState: string): void {
    this.#devices.all(this.#pending, devices, runState);
    if (this.twoWay) encodePing(this.#pending, TRAM_PING_READY);
    this.#flush();
  }

  awaitReady(timeoutMs: number): void {
    this.#replies.awaitPong(TRAM_PING_READY, timeoutMs);
  }

  handOver(): void {
    this.#pending.u8(QEMU_VM_EOF);
    this.#flush();
  }

  describe(): void {
    this.#devices.describe(this.#pending);
    this.#flush();
  }

  awaitConfirmation(timeoutMs: number): Confirmation | TramError | null {
    try {
      return this.#replies.awaitLastWord(timeoutMs);
    } catch {
      return null; // the caller says what an unconfirmed hand-over means
    }
  }

  explain(error: unknown): unknown {
    const closed =
      error instanceof TramError && (error.code === "E_CHANNEL_CLOSED" || error.code === "E_STREAM_TRUNCATED");
    if (!closed || !this.twoWay) return error;
    const end = performance.now() + EXPLAIN_MS;
    try {
      for (let left = EXPLAIN_MS; left > 0; left = end - performance.now()) this.#replies.next(Math.ceil(left));
    } catch (reason) {
      if (reason instanceof TramError && reason.code === "E_REFUSED") return reason;
    }
    return error;
  }

  close(): void {
    this.#transport.close();
  }
}

const view = (of: DataView, at: number): DataView => new DataView(of.buffer, at);

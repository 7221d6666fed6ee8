// The reader of a move of our own machines: what the main channel brings, as things for the target to decide about.
import type { Incoming, MoveReader, PageMarks, PagesReceived } from "../control/channel.ts";
import type { Guest } from "../control/guest.ts";
import { type ErrorData, TramError } from "../errors.ts";
import { Bitmap, type PageRange, SharedBitmap } from "../memory/bitmap.ts";
import { HASH_BYTES, HashTable, hashOf } from "../native/hash.ts";
import type { Ram } from "../native/ram.ts";
import { ByteWriter, badStream } from "../stream/bytes.ts";
import { DEVICE_TABLES } from "../stream/devices/index.ts";
import {
  CPUS_MAX,
  globalstate,
  MACHINE_NAME,
  machine,
  machineFromState,
  RAM_BLOCK_NAME,
  runStateFrom,
  untouched,
  untouchedFromState,
  verify,
} from "../stream/devices/machine.ts";
import {
  encodeHashes,
  encodeHello,
  encodePong,
  encodeRefuse,
  encodeRoot,
  encodeShut,
  encodeStarted,
  HASHES_PAGES_MAX,
  type Hello,
} from "../stream/return-path.ts";
import { type Command, type Configuration, pingValue, type SectionHeader } from "../stream/section.ts";
import { loadState } from "../stream/vmstate.ts";
import {
  MIG_CMD_OPEN_RETURN_PATH,
  MIG_CMD_PING,
  MULTIFD_CHANNELS_MAX,
  QEMU_VM_VMDESCRIPTION,
  TRAM_PING_CHANNELS,
  TRAM_PING_HASHES,
  TRAM_PING_HELLO,
  TRAM_PING_READY,
  TRAM_PING_ROOT,
  VMDESC_BYTES_MAX,
} from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";
import { MainChannel } from "./main-channel.ts";
import { type PageSink, tellUntouched } from "./pages.ts";
import { RamSink } from "./ram-sink.ts";
import { TransportSource } from "./source.ts";

/** One for each vCPU and its APIC, and room for the others. */
const SECTIONS_MAX = 2 * CPUS_MAX + 32;
/** Waiting for the source to take note: of a confirmation before its process may go, of a refusal before the close. */
const DRAIN_MS = 2000;

export class StreamReader implements MoveReader {
  readonly name: string;
  readonly #transport: Transport;
  readonly #source: TransportSource;
  readonly #main: MainChannel;
  #returnPathOpen = false;
  /** The source is a tram, too. */
  #greeted = false;
  #ram: Ram | null = null;
  /** Of what has arrived, when the source wants it. */
  #hashes: HashTable | null = null;
  #marks: Omit<PageMarks, "hashes"> = { present: new SharedArrayBuffer(0), told: new SharedArrayBuffer(0) };

  constructor(transport: Transport) {
    this.name = transport.name;
    this.#transport = transport;
    this.#source = new TransportSource(transport);
    this.#main = new MainChannel(this.#source, SECTIONS_MAX);
  }

  get bytes(): number {
    return this.#source.offset;
  }

  get received(): PagesReceived {
    return this.#main.records.counts;
  }

  into(guest: Guest): void {
    const bytes = Bitmap.bytesFor(guest.ram.pages);
    this.#ram = guest.ram;
    this.#marks = { present: new SharedArrayBuffer(bytes), told: new SharedArrayBuffer(bytes) };
    this.#sinkInto(new RamSink(guest.ram, null));
  }

  get marks(): PageMarks {
    return { ...this.#marks, hashes: this.#hashes?.shared ?? null };
  }

  #sinkInto(sink: PageSink): void {
    const { pages } = sink;
    const present = new SharedBitmap(pages, this.#marks.present);
    const told = new SharedBitmap(pages, this.#marks.told);
    this.#main.into([{ name: RAM_BLOCK_NAME, sink, present, told }]);
  }

  /** From here on pages are hashed as they lie in the guest's memory. */
  #verifyPages(at: number): void {
    if (!this.#ram) throw badStream("what is to be verified has not come", at, "section 'tram/machine' first", "none");
    this.#hashes = new HashTable(this.#ram.pages);
    this.#sinkInto(new RamSink(this.#ram, this.#hashes));
  }

  /** They are as they were made here: zero. */
  #untouched(ranges: readonly PageRange[], at: number): void {
    const pages = this.#ram?.pages ?? 0;
    const told = new SharedBitmap(pages, this.#marks.told);
    const present = new SharedBitmap(pages, this.#marks.present);
    tellUntouched({ present, told }, ranges, at);
  }

  #answerRoot(hashes: HashTable): void {
    this.#answer((out) => encodeRoot(out, hashOf(hashes.bytes)));
  }

  #answerHashes({ bytes }: HashTable): void {
    const size = HASHES_PAGES_MAX * HASH_BYTES;
    for (let at = 0; at < bytes.length; at += size)
      this.#answer((out) => encodeHashes(out, at / HASH_BYTES, bytes.subarray(at, at + size)));
  }

  pagesKnown(): number {
    return this.#main.records.known();
  }

  next(): Incoming {
    for (;;) {
      const record = this.#main.next();
      switch (record.kind) {
        case "configuration":
          checkMachine(record.configuration);
          break;
        case "command": {
          const incoming = this.#command(record.at, record.command);
          if (incoming) return incoming;
          break;
        }
        case "blocks":
          return { kind: "blocks", blocks: record.blocks };
        case "pages":
        case "eos":
        case "ram-end":
          return { kind: "pages" };
        case "device":
          return this.#device(record.at, record.section);
        case "flush":
          return { kind: "flush" };
        case "dirty-bitmaps":
          throw badStream("no machine of tram's has this", record.at, "RAM and devices", record.kind);
        case "end":
          return { kind: "end" };
      }
    }
  }

  #command(at: number, command: Command): Incoming | null {
    if (command.command === MIG_CMD_OPEN_RETURN_PATH) {
      if (!this.#transport.twoWay)
        throw badStream("the source wants an answer on a one-way channel", at, "no OPEN_RETURN_PATH", "one");
      this.#returnPathOpen = true;
      return null;
    }
    if (command.command !== MIG_CMD_PING) return null;
    if (!this.#returnPathOpen) throw badStream("a PING before the return path is open", at, "OPEN_RETURN_PATH", "PING");
    const value = pingValue(command);
    if (value === TRAM_PING_HELLO) return { kind: "hello-wanted" };
    if (value === TRAM_PING_READY) return { kind: "ready-wanted" };
    const channels = value - TRAM_PING_CHANNELS;
    if (channels > 0 && channels <= MULTIFD_CHANNELS_MAX) return { kind: "channels-wanted", count: channels };
    if (this.#hashes && value === TRAM_PING_ROOT) this.#answerRoot(this.#hashes);
    else if (this.#hashes && value === TRAM_PING_HASHES) this.#answerHashes(this.#hashes);
    else this.#answer((out) => encodePong(out, value));
    return null;
  }

  #device(at: number, section: SectionHeader): Incoming {
    const table = DEVICE_TABLES.get(section.name);
    if (section.instance >= CPUS_MAX)
      throw badStream("a device's instance is out of range", at, `below ${CPUS_MAX}`, `${section.instance}`);
    if (!table || section.version !== table.version) {
      const expected = table ? `'${section.name}' version ${table.version}` : [...DEVICE_TABLES.keys()].join(", ");
      throw badStream("a device that tram does not know", at, expected, `'${section.name}' version ${section.version}`);
    }
    const state = loadState(table, this.#source);
    this.#main.endDevice(section);
    if (table === machine) return { kind: "machine", description: machineFromState(state, at) };
    if (table === verify) {
      this.#verifyPages(at);
      return { kind: "pages" };
    }
    if (table === untouched) {
      this.#untouched(untouchedFromState(state, at), at);
      return { kind: "pages" };
    }
    if (table === globalstate) return { kind: "run-state", runState: runStateFrom(state) };
    return { kind: "device", device: { table, instance: section.instance, state } };
  }

  #answer(encode: (out: ByteWriter) => void): void {
    const out = new ByteWriter();
    encode(out);
    this.#transport.write(out.done());
  }

  sendHello(hello: Hello): void {
    this.#greeted = true;
    this.#answer((out) => {
      encodeHello(out, hello);
      encodePong(out, TRAM_PING_HELLO);
    });
  }

  sendChannels(count: number): void {
    this.#answer((out) => encodePong(out, TRAM_PING_CHANNELS + count));
  }

  sendReady(): void {
    this.#answer((out) => encodePong(out, TRAM_PING_READY));
  }

  confirm(startedAfterMs: number | null): void {
    if (this.#returnPathOpen)
      this.#answer((out) => {
        if (startedAfterMs !== null && this.#greeted) encodeStarted(out, startedAfterMs * 1000);
        encodeShut(out, 0);
      });
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

  refuse(error: ErrorData): void {
    if (!this.#returnPathOpen) return;
    try {
      this.#answer((out) => encodeRefuse(out, error));
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

function checkMachine({ machine: name, capabilities }: Configuration): void {
  if (name !== MACHINE_NAME)
    throw new TramError("E_STREAM", `the stream is of a QEMU guest (machine '${name}'), which tram cannot run`, {
      expected: `machine '${MACHINE_NAME}'`,
      found: `machine '${name}'`,
      next: "give the stream to QEMU: qemu-system-x86_64 … -incoming URI",
    });
  if (capabilities.length)
    throw new TramError("E_STREAM", "the stream needs what tram's machines have not", {
      expected: "no capabilities",
      found: capabilities.join(", "),
    });
}

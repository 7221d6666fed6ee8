// The story of a kept guest that goes on elsewhere: a file with fixed offsets becomes the stream that its source once sent.
import type { Confirmation } from "../control/channel.ts";
import type { MoveLog } from "../control/journal.ts";
import { TokenBucket } from "../control/rate.ts";
import { TramError } from "../errors.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { MappedFile, StoredBlock } from "../reader/mapped.ts";
import { ByteWriter } from "../stream/bytes.ts";
import { MACHINE_NAME } from "../stream/devices/machine.ts";
import { encodeBlockTable, encodeEndOfSection, encodeFirstPage, encodeFlush } from "../stream/ram.ts";
import {
  encodeFooter,
  encodeHeader,
  encodeOpenReturnPath,
  encodePing,
  encodeSectionPart,
  encodeSectionStart,
} from "../stream/section.ts";
import {
  CAPABILITY_MAPPED_RAM,
  MIG_CMD_SWITCHOVER_START,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
  TRAM_PING_CHANNELS,
  TRAM_PING_HELLO,
  TRAM_PING_READY,
} from "../stream/wire.ts";
import type { Transport } from "../transport/transport.ts";
import type { Replies } from "../writer/replies.ts";

export interface PlayOptions {
  /** 0: no limit. */
  maxBandwidthBytesPerSec: number;
  /** How long the target may take to answer. */
  replyMs: number;
  /** Written as QEMU wrote it, for a file: the words are kept that a waiting QEMU before 10.0 does not know. */
  verbatim: boolean;
}

export interface PlayContext {
  checkCancelled(): void;
  sleep(ms: number): void;
  /** The pages with content go over other channels, which do so by themselves; null: over this one. */
  channels: PlayChannels | null;
}

export interface PlayChannels {
  count: number;
  /** The target meets them where the stream says so, and not at each end of a section. */
  flushes: boolean;
  /** Waits until they have sent everything. */
  awaitSent(): void;
}

const BATCH_PAGES = 1024;

/** Plays it. Returns when the target has it, or, one-way, when every byte was accepted. */
export function play(
  file: MappedFile,
  transport: Transport,
  replies: Replies,
  options: PlayOptions,
  context: PlayContext,
  log: MoveLog,
): void {
  const player = new Player(file, transport, replies, options, context, log);
  log.setPhase("setup");
  player.begin();
  log.setPhase("active");
  player.startRam();
  for (const block of file.blocks) player.pages(block);
  player.endRam();
  log.setPhase("device");
  player.tail();
}

class Player {
  readonly #file: MappedFile;
  readonly #transport: Transport;
  readonly #replies: Replies;
  readonly #options: PlayOptions;
  readonly #context: PlayContext;
  readonly #log: MoveLog;
  readonly #out = new ByteWriter();
  readonly #bucket: TokenBucket | null;
  readonly #isTram: boolean;
  /** The target keeps the guest in a file. */
  #keeps = false;
  readonly #buffer = new Uint8Array(BATCH_PAGES * (PAGE_BYTES + 8) + 512);
  readonly #view = new DataView(this.#buffer.buffer);
  readonly #index = new Uint32Array(BATCH_PAGES);
  readonly #offset = new Uint32Array(BATCH_PAGES);

  constructor(
    file: MappedFile,
    transport: Transport,
    replies: Replies,
    options: PlayOptions,
    context: PlayContext,
    log: MoveLog,
  ) {
    this.#file = file;
    this.#transport = transport;
    this.#replies = replies;
    this.#options = options;
    this.#context = context;
    this.#log = log;
    const rate = options.maxBandwidthBytesPerSec;
    this.#bucket = rate > 0 ? new TokenBucket({ maxBandwidthBytesPerSec: rate }, log.now()) : null;
    this.#isTram = file.configuration.machine === MACHINE_NAME;
    log.journal.totalPages = file.blocks.reduce((sum, { present }) => sum + present.pages, 0);
    log.journal.remainingPages = log.journal.totalPages;
  }

  get #answers(): boolean {
    return this.#transport.twoWay;
  }

  #flush(): void {
    this.#send(this.#out.done(), this.#out.length);
    this.#out.reset();
  }

  #send(bytes: Uint8Array, count: number): void {
    this.#context.checkCancelled();
    this.#transport.write(bytes, count);
    this.#log.journal.bytes += count;
    const waitMs = this.#bucket?.spend(count, this.#log.now()) ?? 0;
    if (waitMs > 0) this.#context.sleep(waitMs);
    this.#log.refresh();
  }

  begin(): void {
    const { configuration, early } = this.#file;
    const capabilities = configuration.capabilities.filter((one) => one !== CAPABILITY_MAPPED_RAM);
    encodeHeader(this.#out, { ...configuration, capabilities });
    if (this.#answers) {
      encodeOpenReturnPath(this.#out);
      encodePing(this.#out, TRAM_PING_HELLO);
    }
    this.#flush();
    if (this.#answers) this.#keeps = this.#replies.awaitHello(this.#options.replyMs)?.keeps === true;
    this.#out.bytes(early);
    const { channels } = this.#context;
    if (channels && this.#isTram) this.#awaitChannels(TRAM_PING_CHANNELS + channels.count);
  }

  /** A tram must have them before it is told of RAM. */
  #awaitChannels(ping: number): void {
    encodePing(this.#out, ping);
    this.#flush();
    this.#replies.awaitPong(ping, this.#options.replyMs);
  }

  startRam(): void {
    const { section, blocks } = this.#file;
    encodeSectionStart(this.#out, QEMU_VM_SECTION_START, section);
    encodeBlockTable(this.#out, blocks);
    this.#endSection();
    encodeSectionPart(this.#out, QEMU_VM_SECTION_PART, section.id);
    this.#flush();
  }

  #endSection(): void {
    if (this.#context.channels?.flushes) encodeFlush(this.#out);
    encodeEndOfSection(this.#out);
    encodeFooter(this.#out, this.#file.section.id);
  }

  /** All of a block in ascending order: pages with content, and one short record for each that is zero. */
  pages(block: StoredBlock): void {
    const { present } = block;
    const { journal } = this.#log;
    let named = false;
    for (let page = 0; page < present.pages; ) {
      let at = 0;
      let contents = 0;
      let zeros = 0;
      const end = Math.min(page + BATCH_PAGES, present.pages);
      const first = page;
      for (; page < end; page++) {
        const isPresent = present.has(page);
        if (isPresent && this.#context.channels) continue;
        const flag = isPresent ? RAM_SAVE_FLAG_PAGE : RAM_SAVE_FLAG_ZERO;
        at = named ? this.#word(at, page, flag) : this.#firstWord(at, page, flag, block.name);
        named = true;
        if (isPresent) {
          this.#index[contents] = page;
          this.#offset[contents++] = at;
          at += PAGE_BYTES;
        } else {
          this.#buffer[at++] = 0; // the fill byte
          zeros++;
        }
      }
      if (contents) this.#file.readPages(block, this.#buffer, this.#index, this.#offset, contents);
      if (at) this.#send(this.#buffer, at);
      journal.sentPages += contents;
      journal.zeroPages += zeros;
      journal.remainingPages -= page - first;
    }
  }

  #word(at: number, page: number, flag: number): number {
    this.#view.setUint32(at, page >>> 20);
    this.#view.setUint32(at + 4, ((page << 12) | flag | RAM_SAVE_FLAG_CONTINUE) >>> 0);
    return at + 8;
  }

  #firstWord(at: number, page: number, flag: number, block: string): number {
    const word = new ByteWriter();
    encodeFirstPage(word, flag, page, block);
    this.#buffer.set(word.done(), at);
    return at + word.length;
  }

  endRam(): void {
    this.#endSection();
    for (const { command, bytes } of this.#file.between)
      if (this.#options.verbatim || command !== MIG_CMD_SWITCHOVER_START) this.#out.bytes(bytes);
    encodeSectionPart(this.#out, QEMU_VM_SECTION_END, this.#file.section.id);
    this.#endSection();
    this.#flush();
  }

  /** The devices, as they were kept; then the end, and the target's word that it has the guest. */
  tail(): void {
    const { tailBytes, tailOffset, tail } = this.#file;
    const eof = tail.eofOffset - tailOffset;
    this.#send(tailBytes, eof);
    this.#context.channels?.awaitSent();
    if (this.#answers && (this.#isTram || !this.#keeps)) {
      // The answer comes when the target has loaded every device: from here on only the end is missing. One that keeps a
      // QEMU guest knows nothing of devices, and would not see the question among them.
      encodePing(this.#out, TRAM_PING_READY);
      this.#flush();
      this.#replies.awaitPong(TRAM_PING_READY, this.#options.replyMs);
    }
    this.#log.setPhase("handover");
    this.#log.journal.owner = "unconfirmed";
    this.#send(tailBytes.subarray(eof), tailBytes.length - eof);
    if (!this.#answers) return;
    if (!tail.description) this.#transport.endWriting?.(); // the target looks for one until the stream ends
    const answer = this.#awaitLastWord();
    // QEMU says so, too, when it misses the description, and runs the guest.
    if (answer instanceof TramError && !tail.description) throw unknown(answer);
    if (answer instanceof TramError) {
      this.#log.journal.owner = "file";
      throw answer;
    }
    this.#log.journal.owner = "target";
  }

  #awaitLastWord(): Confirmation | TramError {
    try {
      return this.#replies.awaitLastWord(this.#options.replyMs);
    } catch (error) {
      throw unknown(error as Error);
    }
  }
}

const unknown = ({ message }: Error): TramError =>
  new TramError("E_HANDOVER_UNKNOWN", "the target was told to run the guest, and did not confirm that it does", {
    expected: "SHUT 0 from the target",
    found: message,
    next: "look at the target: if the guest does not run there, send it again; the file is as it was",
  });

// Plays a kept guest to a waiting target: the thread of the main channel. It blocks in its channel; whoever wants it to end
// sets the stop word.

import { Barrier, sumCounts } from "../control/barrier.ts";
import type { ZeroCopyMode } from "../control/copying.ts";
import { type Journal, MoveLog } from "../control/journal.ts";
import { TramError, toErrorData } from "../errors.ts";
import { PAGE_BYTES, Ram, type RamHandle } from "../native/ram.ts";
import { MappedFile } from "../reader/mapped.ts";
import { MACHINE_NAME } from "../stream/devices/machine.ts";
import type { MappedBlock } from "../stream/mapped.ts";
import { channelsFlush } from "../stream/multifd.ts";
import { MIG_CMD_SWITCHOVER_START } from "../stream/wire.ts";
import { initOf, tell } from "../thread.ts";
import { FileTransport } from "../transport/file.ts";
import { type Endpoint, endpointName, open } from "../transport/index.ts";
import { Replies } from "../writer/replies.ts";
import { type PlayChannels, type PlayOptions, play } from "./play.ts";
import type { SenderInit } from "./sender-worker.ts";

export interface PlayerInit {
  path: string;
  offset: number;
  endpoint: Endpoint;
  /** Multifd channels beside the main one; 0: none. */
  channels: number;
  zeroCopy: ZeroCopyMode;
  /** The version of the QEMU that waits, where the user knows it: "7.2". */
  qemuVersion: string | null;
  /** The guest's UUID at the target; null: as the file has it, or none. */
  uuid: Uint8Array | null;
  options: PlayOptions;
  stop: SharedArrayBuffer;
}

export type PlayerMessage =
  | { event: "journal"; journal: Journal }
  | { event: "channels"; inits: SenderInit[] }
  | { event: "over"; journal: Journal };

const init = initOf<PlayerInit>();
const stop = new Int32Array(init.stop);
const tellMain = (message: PlayerMessage): void => tell(message);

function checkCancelled(): void {
  if (stop[0] !== 0) throw new TramError("E_CANCELLED", "cancelled");
}

let barrier = new Barrier(0);

/** Connects them behind the main channel, whose connection the target takes for it because it was the first. */
function openChannels(file: MappedFile, log: MoveLog): PlayChannels {
  if (init.endpoint.scheme === "passed")
    throw new TramError("E_USAGE", "--channels needs an address that can be connected to more than once", {
      expected: "tcp: or unix:",
      found: init.endpoint.name,
    });
  const { channels, options, zeroCopy } = init;
  const { machine } = file.configuration;
  const flushes = machine === MACHINE_NAME || channelsFlush(machine, init.qemuVersion, writtenByNewQemu(file));
  barrier = new Barrier(channels);
  const blocks = file.blocks.map(({ name, bytes, bitmapOffset, pagesOffset, present }) => {
    const shared = new SharedArrayBuffer(present.words.byteLength);
    new Uint32Array(shared).set(present.words);
    const block = { name, bytes, bitmapOffset, pagesOffset };
    return { block, present: shared, memory: zeroCopy === "off" ? null : mapPages(file.file.fd, block) };
  });
  const shared = {
    barrier: barrier.shared,
    channels,
    silenceMs: options.replyMs,
    zeroCopy,
    uuid: init.uuid ?? file.configuration.uuid ?? new Uint8Array(16),
    fileFd: file.file.fd,
    blocks,
    next: new SharedArrayBuffer(4),
    barriers: BARRIERS,
  };
  const inits = Array.from({ length: channels }, (_, channel) => {
    const { fd } = open(init.endpoint, { stop, silenceMs: options.replyMs });
    return { ...shared, channel, name: `channel ${channel}`, fd };
  });
  tellMain({ event: "channels", inits });
  return {
    count: channels,
    flushes,
    awaitSent() {
      barrier.awaitLeft(checkCancelled);
      log.journal.channels = barrier.counts();
      log.journal.multifd = true;
      const { pages, bytes } = sumCounts(log.journal.channels);
      log.journal.sentPages += pages;
      log.journal.bytes += bytes;
    },
  };
}

/** The block's pages as memory, from which they can be sent without a copy. Those without content are not looked at. */
function mapPages(fd: number, { name, bytes, pagesOffset }: MappedBlock): RamHandle {
  if (pagesOffset % PAGE_BYTES)
    throw new TramError("E_REFUSED", `--zero-copy: the pages of block '${name}' do not lie at the borders of pages`, {
      expected: `a multiple of ${PAGE_BYTES}`,
      found: `byte ${pagesOffset} of the file`,
      next: "leave --zero-copy out",
    });
  const memory = Ram.create(bytes);
  memory.mapFile(0, bytes, fd, pagesOffset);
  return memory.share();
}

/** START, one PART, END: the target meets the channels behind each. */
const BARRIERS = 3;

/** What QEMU 10 puts into a stream, and 7.2 does not. */
function writtenByNewQemu({ between, tail }: MappedFile): boolean {
  const switches = between.some(({ command }) => command === MIG_CMD_SWITCHOVER_START);
  return switches || (tail.description?.startsWith('{"configuration"') ?? false);
}

function work(): void {
  const log = new MoveLog(
    "outgoing",
    endpointName(init.endpoint),
    (journal) => tellMain({ event: "journal", journal }),
    () => performance.now(),
  );
  log.journal.owner = "file";
  log.setPhase("waiting");
  try {
    const file = new MappedFile(FileTransport.open(init.path), init.offset);
    const transport = open(init.endpoint, { stop, silenceMs: init.options.replyMs });
    try {
      const channels = init.channels > 0 ? openChannels(file, log) : null;
      const context = { checkCancelled, sleep: (ms: number) => void Atomics.wait(stop, 0, 0, ms), channels };
      play(file, transport, new Replies(transport), init.options, context, log);
      transport.drain(init.options.replyMs);
    } finally {
      barrier.end();
      transport.close();
      file.file.close();
    }
    log.setPhase("completed");
  } catch (error) {
    log.journal.error = toErrorData(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  }
  tellMain({ event: "over", journal: log.journal });
}

work();

// Takes a stream and keeps it in a file: the thread of the main channel. It blocks in its channel; whoever wants it to end sets
// the stop word.

import { Barrier, type ChannelCounts } from "../control/barrier.ts";
import { type Journal, MoveLog } from "../control/journal.ts";
import { TramError, toErrorData } from "../errors.ts";
import type { PageRange } from "../memory/bitmap.ts";
import { openDirect, PageFile } from "../native/file.ts";
import { net } from "../native/net.ts";
import { channelsInOrder, kindOfFirst } from "../reader/channels.ts";
import { MainChannel } from "../reader/main-channel.ts";
import { tellUntouched } from "../reader/pages.ts";
import { TransportSource } from "../reader/source.ts";
import { ByteWriter, badStream } from "../stream/bytes.ts";
import { MACHINE_NAME } from "../stream/devices/machine.ts";
import { encodeHello, encodePong, encodeRefuse, encodeShut, HELLO_VERSION } from "../stream/return-path.ts";
import { MULTIFD_CHANNELS_MAX, TRAM_PING_CHANNELS, TRAM_PING_HELLO, TRAM_PING_READY } from "../stream/wire.ts";
import { initOf, tell } from "../thread.ts";
import { Arrivals } from "../transport/arrivals.ts";
import { FdTransport } from "../transport/fd.ts";
import { endpointName, type Listener, unlisten } from "../transport/index.ts";
import { MappedSink, MappedWriter } from "../writer/mapped.ts";
import { type FileTarget, OutputFile } from "../writer/output-file.ts";
import type { ChannelInit } from "./channel-worker.ts";
import { type ChannelTotals, KEEP_FATE, keep } from "./keep.ts";

export interface KeeperInit {
  listener: Listener;
  target: FileTarget;
  /** How many channels besides the main one; null: as many as come. */
  channels: number | null;
  silenceMs: number;
  /** Two words: not zero ends everything; which came first, a cancel or the file's name: KEEP_FATE. */
  stop: SharedArrayBuffer;
}

/** What was kept, when it is durable. */
export interface KeptSummary {
  machine: string;
  blocks: { name: string; bytes: number; present: number; untold: number }[];
  devices: number;
  described: boolean;
  channels: ChannelCounts[];
  fileBytes: number;
  /** Of the pages' bytes, those that were written past the page cache. */
  directBytes: number;
}

export type KeeperMessage =
  | { event: "journal"; journal: Journal }
  | { event: "channels"; inits: ChannelInit[] }
  | { event: "over"; journal: Journal; summary: KeptSummary | null };

/** A channel's first bytes may be a little behind the main channel's. */
const GATHER_MS = 1000;
/** Waiting for the source to take note of how it ended. */
const DRAIN_MS = 2000;

const init = initOf<KeeperInit>();
const stop = new Int32Array(init.stop);
const tellMain = (message: KeeperMessage): void => tell(message);

function checkCancelled(): void {
  if (stop[0] !== 0) throw new TramError("E_CANCELLED", "cancelled");
}

class Keeper {
  readonly #log: MoveLog;
  readonly #output: OutputFile;
  readonly #directFd: number;
  readonly #pages: PageFile;
  readonly #file: MappedWriter;
  #arrivals: Arrivals | null = null;
  #transport: FdTransport | null = null;
  #main: MainChannel | null = null;
  #barrier = new Barrier(0);
  #barriers = 0;
  #gathered = false;
  /** The source has said how many channels it has. */
  #announced: number | null = null;
  #returnPathAsked = false;
  #returnPathOpen = false;

  constructor(log: MoveLog) {
    this.#log = log;
    this.#output = new OutputFile(init.target);
    this.#directFd = openDirect(this.#output.fd);
    this.#pages = new PageFile(this.#output.fd, { fd: this.#directFd, only: false });
    this.#file = new MappedWriter(this.#output.fd, this.#output.offset);
  }

  run(): KeptSummary {
    const transport = this.#awaitSource();
    const main = new MainChannel(new TransportSource(transport));
    this.#transport = transport;
    this.#main = main;
    const { configuration, tail } = keep(main, this.#file, this, this.#log);
    this.#endChannels();
    this.#log.setPhase("handover");
    this.#checkComplete();
    const summary = {
      machine: configuration.machine,
      blocks: this.#sinks.map(({ name, pages, present, told }) => ({
        name,
        bytes: pages * 4096,
        present: present.count(),
        untold: pages - told.count(),
      })),
      devices: tail.devices.length,
      described: tail.description !== null,
      channels: this.#barrier.counts(),
      fileBytes: this.#file.bytes,
      directBytes: this.#barrier.counts().reduce((sum, { directBytes }) => sum + directBytes, this.#pages.directBytes),
    };
    const fate = Atomics.compareExchange(stop, KEEP_FATE.at, KEEP_FATE.open, KEEP_FATE.committed);
    if (fate === KEEP_FATE.cancelled) throw new TramError("E_CANCELLED", "cancelled");
    this.#output.commit();
    this.#log.journal.owner = "file";
    this.#confirm(transport);
    return summary;
  }

  #sinks: MappedSink[] = [];

  #awaitSource(): FdTransport {
    const { listener, silenceMs } = init;
    const name = endpointName(listener.endpoint);
    if (listener.endpoint.scheme === "passed") return new FdTransport(listener.endpoint.fd, { name, stop, silenceMs });
    this.#arrivals = new Arrivals(listener.fd, stop, kindOfFirst);
    return new FdTransport(this.#arrivals.awaitMain(), { name, stop, silenceMs });
  }

  begin(): void {
    this.#sinks = this.#file.targets.map((target) => new MappedSink(this.#pages, target));
    this.#main?.into(this.#sinks);
  }

  /** A capture that comes through a pipe may ask, too; there is nobody behind it who waits. */
  openReturnPath(): void {
    this.#returnPathOpen = this.#transport?.twoWay ?? false;
    this.#returnPathAsked = true;
  }

  answerPing(value: number, at: number): void {
    if (!this.#returnPathAsked)
      throw badStream("a PING before the return path is open", at, "OPEN_RETURN_PATH", "PING");
    if (!this.#returnPathOpen) return;
    const announced = value - TRAM_PING_CHANNELS;
    if (announced > 0 && announced <= MULTIFD_CHANNELS_MAX) this.#awaitAnnounced(announced);
    if (value === TRAM_PING_READY) this.#checkComplete();
    // The longest part comes before a tram hands its guest over: whatever fails here, the guest is still at its source.
    if (value === TRAM_PING_READY) net.sync(this.#output.fd);
    this.#answer((out) => {
      if (value === TRAM_PING_HELLO)
        encodeHello(out, {
          version: HELLO_VERSION,
          name: "",
          memoryBytes: null,
          cpus: null,
          cpuid: [],
          keeps: true,
          channels: this.#arrivals !== null,
        });
      encodePong(out, value);
    });
  }

  /** A tram says how many there are, and its pages come over all of them. */
  #awaitAnnounced(count: number): void {
    if (this.#announced !== null || this.#gathered)
      throw new TramError("E_STREAM", "the stream speaks of its channels where it must not");
    if ((init.channels ?? count) !== count) throw otherNumber(init.channels, count);
    this.#announced = count;
    this.#awaitChannels(count, init.silenceMs, `${count} channels`);
  }

  /** Of a tram's guest every page is told of: a target that ran it would refuse it otherwise. */
  #checkComplete(): void {
    if (this.#main?.configuration?.machine !== MACHINE_NAME) return;
    for (const { pages, told } of this.#sinks)
      if (told.count() !== pages)
        throw new TramError("E_STREAM", "the stream ends without all of its RAM", {
          expected: `${pages} pages, zero ones included`,
          found: `${told.count()} pages`,
        });
  }

  /** What is left out is zero in the file as it is made. */
  untouched(ranges: readonly PageRange[], at: number): void {
    for (const sink of this.#sinks) tellUntouched(sink, ranges, at);
  }

  #answer(encode: (out: ByteWriter) => void): void {
    const out = new ByteWriter();
    encode(out);
    this.#transport?.write(out.done());
  }

  /** At the first one all channels are there: a source sends their first SYNC before it lets the main channel go on. */
  barrier(flush: boolean, progress: () => void): void {
    if (!this.#gathered) {
      this.#gathered = true;
      this.#gather(flush);
    }
    this.#barrier.meet(++this.#barriers, () => {
      checkCancelled();
      progress();
    });
  }

  checkCancelled(): void {
    checkCancelled();
  }

  channelCounts(): ChannelTotals {
    return totalsOf(this.#barrier.counts());
  }

  #gather(flush: boolean): void {
    const wanted = init.channels ?? this.#announced;
    if (wanted !== null || flush) {
      const expected = wanted === null ? "multifd channels to the same address" : `${wanted} channels`;
      this.#awaitChannels(wanted ?? 1, wanted === null ? GATHER_MS : init.silenceMs, expected);
    }
    const fds = this.#arrivals?.gather(GATHER_MS) ?? [];
    if (wanted !== null && fds.length !== wanted) throw otherNumber(wanted, fds.length);
    if (fds.length) this.#startChannels(fds);
  }

  #awaitChannels(count: number, timeoutMs: number, expected: string): void {
    const arrivals = this.#arrivals;
    if (count === 0 || arrivals?.awaitChannels(count, timeoutMs)) return;
    throw new TramError("E_STREAM", "the stream's pages come over other channels, which are not there", {
      expected,
      found: `${arrivals?.channels().length ?? 0}`,
      next: "a multifd migration needs a socket to which the source can connect more than once: tcp: or unix:",
    });
  }

  #startChannels(fds: readonly number[]): void {
    const inOrder = channelsInOrder(fds, init.silenceMs, stop);
    this.#barrier = new Barrier(fds.length);
    const { fd: fileFd } = this.#output;
    const shared = {
      barrier: this.#barrier.shared,
      channels: fds.length,
      silenceMs: init.silenceMs,
      fileFd,
      directFd: this.#directFd,
      targets: this.#file.targets,
    };
    tellMain({
      event: "channels",
      inits: inOrder.map((fd, channel) => ({ ...shared, channel, name: `channel ${channel}`, fd })),
    });
  }

  /** They write to the file's descriptor: it is closed only when they do not any more. */
  #endChannels(): void {
    this.#barrier.end();
    this.#barrier.awaitGone();
  }

  #confirm(transport: FdTransport): void {
    try {
      if (this.#returnPathOpen) this.#answer((out) => encodeShut(out, 0));
      transport.drain(DRAIN_MS);
    } catch {
      // It is durable here whether or not the source hears so; what a source does that hears nothing, the README says.
    }
  }

  /** It did not work: the source is told, and nothing is left of the file. */
  fail(error: unknown): void {
    this.#endChannels();
    if (this.#log.journal.owner === "file" || this.#output.isNamed) return; // it is there: who says that it is not lets the guest go on
    this.#output.discard();
    if (!this.#returnPathOpen || !this.#transport) return;
    try {
      this.#answer((out) => {
        if (this.#main?.configuration?.machine === MACHINE_NAME) encodeRefuse(out, toErrorData(error));
        else encodeShut(out, 1);
      });
      this.#transport.drain(DRAIN_MS);
    } catch {
      // The source is gone; there is nobody left to tell.
    }
  }

  close(): void {
    if (this.#directFd >= 0) net.close(this.#directFd);
    this.#arrivals?.close();
    this.#transport?.close();
  }
}

const otherNumber = (expected: number | null, found: number): TramError =>
  new TramError("E_STREAM", "the source has another number of channels", {
    expected: `${expected}`,
    found: `${found}`,
  });

const totalsOf = (counts: readonly ChannelCounts[]): ChannelTotals => {
  const sum = (field: keyof ChannelTotals) => counts.reduce((total, one) => total + one[field], 0);
  return { pages: sum("pages"), zeroPages: sum("zeroPages"), bytes: sum("bytes") };
};

function work(): void {
  const log = new MoveLog(
    "incoming",
    endpointName(init.listener.endpoint),
    (journal) => tellMain({ event: "journal", journal }),
    () => performance.now(),
  );
  log.setPhase("waiting");
  let keeper: Keeper | null = null;
  let summary: KeptSummary | null = null;
  try {
    keeper = new Keeper(log);
    summary = keeper.run();
    log.setPhase("completed");
  } catch (error) {
    log.journal.error = toErrorData(error);
    keeper?.fail(error);
    log.setPhase(log.journal.error.code === "E_CANCELLED" ? "cancelled" : "failed");
  } finally {
    keeper?.close();
    unlisten(init.listener);
  }
  tellMain({ event: "over", journal: log.journal, summary });
}

work();

// The two ends of a move as control/ sees them: sections and pages, no bytes, no descriptors.
import type { ErrorData, TramError } from "../errors.ts";
import type { PageRange } from "../memory/bitmap.ts";
import type { MachineDescription } from "../stream/devices/machine.ts";
import type { BlockEntry } from "../stream/ram.ts";
import type { Hello } from "../stream/return-path.ts";
import type { DeviceState, Guest } from "./guest.ts";

export interface PagesSent {
  pages: number;
  zeroPages: number;
  bytes: number;
  /** To a file: of these, the ones that went past the page cache. */
  directBytes?: number;
}

/** Pages of guest memory, in any order; the last write of a page wins. */
export interface PageWriter {
  /** `index[0, count)`: pages of the guest's block. The array's order may change. */
  write(index: Uint32Array, count: number): PagesSent;
}

/** The source's end. Calls come in the order in which they stand here. */
export interface MoveWriter extends PageWriter {
  readonly name: string;
  readonly twoWay: boolean;
  /** Everything written, headers included. */
  readonly bytes: number;
  begin(): void;
  /** Two-way only: the target's greeting; null from a peer that is no tram. */
  awaitHello(timeoutMs: number): Hello | null;
  machine(description: MachineDescription): void;
  /** Two-way only: until the target has made it. Throws what it refuses it for. */
  awaitMachine(timeoutMs: number): void;
  /** Two-way only: pages will come over so many other channels, which the target has when this returns. Before startRam. */
  openChannels(count: number, timeoutMs: number): void;
  startRam(blocks: readonly BlockEntry[]): void;
  /** Two-way only: from here on each page is hashed as it goes, and as it arrives. Before startRam. */
  verifyPages(): void;
  /** Two-way only: asks the target for its hashes. The pages that have arrived otherwise than they were sent. */
  differingPages(timeoutMs: number): Uint32Array;
  /** Between two of these, write() may be called any number of times. */
  beginRound(last: boolean): void;
  /** With other channels: they have sent all of the round, and said so. */
  endRound(): void;
  /** The end of all rounds without one: no channel says anything. */
  endRounds(): void;
  /** Pages that were not sent at all. */
  untouched(ranges: readonly PageRange[]): void;
  devices(devices: readonly DeviceState[], runState: string): void;
  /** Two-way only: until the target has accepted everything. */
  awaitReady(timeoutMs: number): void;
  /** The hand-over word, alone: one byte leaves or does not. An error means that it did not leave this host. */
  handOver(): void;
  /** What follows it, and only describes. */
  describe(): void;
  /** Two-way only: the target owns the guest, or (an error: why) never will. null: it does not say. */
  awaitConfirmation(timeoutMs: number): Confirmation | TramError | null;
  /** If the target has said why it closed the channel: that, instead of `error`. */
  explain(error: unknown): unknown;
  close(): void;
}

/** A file in which each page has its place; its pages are written by a PageWriter in each thread. */
export interface SnapshotWriter {
  /** Everything before the pages. */
  begin(description: MachineDescription): void;
  /** Everything behind them. The file is on disk when this returns, and whole. */
  finish(devices: readonly DeviceState[], runState: string): void;
  /** How many pages have content in it. */
  presentPages(): number;
}

/** The target owns the guest. */
export interface Confirmation {
  /** By the target's clock, from the hand-over word's arrival to the guest's first instruction; null: it does not run there. */
  startedAfterMs: number | null;
}

export type Incoming =
  | { kind: "hello-wanted" }
  | { kind: "ready-wanted" }
  /** The pages come over so many other channels. */
  | { kind: "channels-wanted"; count: number }
  /** What these have brought so far belongs before what follows. */
  | { kind: "flush" }
  | { kind: "machine"; description: MachineDescription }
  | { kind: "blocks"; blocks: BlockEntry[] }
  | { kind: "pages" }
  | { kind: "device"; device: DeviceState }
  | { kind: "run-state"; runState: string }
  | { kind: "end" };

export interface PagesReceived {
  pages: number;
  zeroPages: number;
}

/** Which pages have come, for all who take some. */
export interface PageMarks {
  /** Pages with content. */
  present: SharedArrayBuffer;
  /** Pages that the source has told of, with content or as zero. */
  told: SharedArrayBuffer;
  /** Hashes of what has come; null: not wanted (yet). */
  hashes: SharedArrayBuffer | null;
}

/** The target's end. */
export interface MoveReader {
  readonly name: string;
  readonly bytes: number;
  readonly received: PagesReceived;
  /** How many different pages the stream has told of, with content or as zero. */
  pagesKnown(): number;
  /** The next thing that asks for a decision. Page records go into the guest given to `into`, and are only counted here. */
  next(): Incoming;
  into(guest: Guest): void;
  /** For others who take pages of the guest given to `into`. */
  readonly marks: PageMarks;
  sendHello(hello: Hello): void;
  sendReady(): void;
  /** The other channels are there. */
  sendChannels(count: number): void;
  /** The guest is here now, and runs since so long after the hand-over word came; null: it does not run. */
  confirm(startedAfterMs: number | null): void;
  /** Tells the source why not, where it can be told. */
  refuse(error: ErrorData): void;
  close(): void;
}

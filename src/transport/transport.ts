// A transport: where bytes go and come from. Whatever the scheme, a move sees this.
import type { Copying, PageCounts } from "../native/channel.ts";
import type { Ram } from "../native/ram.ts";

/** One gathered write of page records: see tram_pages_gather in c/tram.h. */
export interface PageRecords {
  ram: Ram;
  head: Uint8Array;
  headBytes: number;
  words: Uint8Array;
  index: Uint32Array;
  count: number;
}

/** Packets: a head, and guest pages straight from guest memory. Where a transport has none, packets go by its write. */
export interface PacketSender {
  /** Whether pages may be sent without a copy. With `must` an error says why not. */
  openZeroCopy(must: boolean): boolean;
  /** `head[0, headBytes)` and guest pages `index[0, count)` behind it; the bytes. */
  sendPages(head: Uint8Array, headBytes: number, ram: Ram, index: Uint32Array, count: number, copying: Copying): number;
  /** `head[0, headBytes)` and, if there are any, `data[0, bytes)`; the bytes. */
  sendBytes(head: Uint8Array, headBytes: number, data?: Uint8Array, bytes?: number): number;
  /** Waits until the kernel holds no guest page any more. */
  flushPages(): void;
  readonly pageCounts: PageCounts;
  /** An error as soon as the other side is gone. */
  sleep(ms: number): void;
}

export interface Transport {
  /** As a person names it. */
  readonly name: string;
  /** The other side can answer on it. */
  readonly twoWay: boolean;

  /** All bytes, or an error. */
  write(data: Uint8Array, bytes?: number): void;
  /** Guest pages straight from guest memory. A transport without it is given the same bytes by write. */
  writePages?(records: PageRecords): number;
  readonly packets?: PacketSender;
  /** At least one byte; 0 at the end. Waits `timeoutMs` at most; by default the transport's own limit. */
  read(out: Uint8Array, timeoutMs?: number): number;
  /** Guest pages `index[0, count)` straight into guest memory; false if the stream ended before the last of them. */
  readPages?(ram: Ram, index: Uint32Array, count: number): boolean;
  /** Regular files only: the next read begins there. */
  seek?(offset: number): void;
  /** Sockets only: no more bytes from us, while the other side may still answer. */
  endWriting?(): void;
  /** Sockets only: bytes that were written and have not reached the other side's kernel. */
  unsent?(): number;
  /** Waits until what was written has reached the other side's kernel; false if that did not happen in time. */
  drain(timeoutMs: number): boolean;
  /** No more bytes, neither way. */
  close(): void;
}

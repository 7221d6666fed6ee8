// One channel of a move: packets of guest pages to a descriptor, where the kernel can send them without copying them.
import { TramError } from "../errors.ts";
import { check, errnoName, u32, u53 } from "./errno.ts";
import { channelFailed, type StopWord } from "./net.ts";
import { PAGE_BYTES, type Ram, readable } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** How pages leave. auto: without a copy if there is memory to hold them, else copied. on: never copied by us. */
export type Copying = "off" | "auto" | "on";
const COPYING: Record<Copying, number> = { off: 0, auto: 1, on: 2 };

/** What has become of pages that were sent: struct tram_channel_counts. */
export interface PageCounts {
  systemCalls: number;
  /** Sent without a copy of ours. */
  zeroCopyBytes: number;
  /** Of these, those that the kernel copied after all. */
  copiedBytes: number;
  /** Calls that were made to copy, because the kernel had no memory to hold pages with. */
  fallbacks: number;
  /** Pages that the kernel holds now. */
  inFlightBytes: number;
  flushWaitMs: number;
}

/** The most that the kernel may hold of one channel's pages: more than a fast network has on its way. */
const IN_FLIGHT_BYTES_MAX = 64 << 20;

const NO_MEMORY = {
  expected: "memory for pages that are being sent: RLIMIT_MEMLOCK of this user, and net.core.optmem_max",
  next: "raise them (ulimit -l unlimited; sysctl net.core.optmem_max=1048576), use fewer --channels, or --zero-copy auto",
};

export class PageChannel {
  readonly #iovMax: number;
  readonly #stop: StopWord;
  readonly #counts = new Float64Array(6);
  #handle: number | null;

  /**
   * The descriptor stays the caller's. With `zeroCopy` its pages may be sent without a copy; an error if it cannot. `silenceMs`: how
   * long the other side may take nothing; negative: as long as it likes.
   */
  constructor(fd: number, isSocket: boolean, zeroCopy: boolean, iovMax: number, silenceMs: number, stop: StopWord) {
    this.#iovMax = iovMax;
    this.#stop = stop;
    const handle = symbols.tram_channel_open(fd, isSocket ? 1 : 0, zeroCopy ? 1 : 0, silenceMs);
    if (zeroCopy && handle < 0)
      throw new TramError("E_REFUSED", "--zero-copy on: the kernel cannot send from this descriptor without a copy", {
        expected: "a TCP connection",
        found: errnoName(handle),
        next: "use tcp:, or leave --zero-copy out",
      });
    this.#handle = check(handle, "E_MEMORY", "cannot make a channel");
  }

  get #h(): number {
    if (this.#handle === null) throw new TramError("E_INTERNAL", "a channel used after it was released");
    return this.#handle;
  }

  /** `head[0, headBytes)`, then guest pages `index[0, count)` in this order; returns the bytes. */
  send(
    head: Uint8Array,
    headBytes: number,
    ram: Ram,
    index: Uint32Array,
    count: number,
    copying: Copying,
    inFlightMax = IN_FLIGHT_BYTES_MAX,
  ): number {
    if (headBytes > head.length || count > index.length) throw new TramError("E_INTERNAL", "more bytes than there are");
    const result = symbols.tram_channel_send(
      this.#h,
      head,
      u32(headBytes, "head"),
      ram.native,
      index,
      u32(count, "count"),
      COPYING[copying],
      this.#iovMax,
      u53(inFlightMax, "limit"),
      this.#stop,
    );
    return this.#sent(result);
  }

  /** `head[0, headBytes)`, then `data[0, bytes)`. */
  write(head: Uint8Array, headBytes: number, data = head, bytes = 0): number {
    if (headBytes > head.length || bytes > data.length) throw new TramError("E_INTERNAL", "more bytes than there are");
    return this.#sent(symbols.tram_channel_write(this.#h, head, u32(headBytes, "head"), data, bytes, this.#stop));
  }

  #sent(result: number): number {
    if (result >= 0) return result;
    if (errnoName(result) === "EFAULT") readable(result, "send pages");
    if (errnoName(result) === "ENOBUFS")
      throw new TramError("E_NO_BUFFERS", "--zero-copy on: the kernel has no memory to send pages with", NO_MEMORY);
    return channelFailed(result, "sending pages");
  }

  /** Until the kernel holds no page any more; an error if for all of the silence that is allowed it was done with none. */
  flush(): void {
    const result = symbols.tram_channel_flush(this.#h, this.#stop);
    if (result < 0) channelFailed(result, "waiting for pages to be sent");
  }

  /** As long as it says; an error as soon as the other side is gone. */
  sleep(ms: number): void {
    const result = symbols.tram_channel_sleep(this.#h, Math.ceil(ms), this.#stop);
    if (result < 0) channelFailed(result, "waiting to send");
  }

  counts(): PageCounts {
    symbols.tram_channel_counts(this.#h, this.#counts);
    const [systemCalls, zeroCopyBytes, copiedBytes, fallbacks, inFlightBytes, flushWaitMs] = this.#counts;
    return { systemCalls, zeroCopyBytes, copiedBytes, fallbacks, inFlightBytes, flushWaitMs };
  }

  close(): void {
    if (this.#handle !== null) symbols.tram_channel_close(this.#handle);
    this.#handle = null;
  }
}

/** Guest pages `index[0, count)` from a descriptor straight to their places; false if it ended before. */
export function receivePages(
  fd: number,
  ram: Ram,
  index: Uint32Array,
  count: number,
  timeoutMs: number,
  stop: StopWord | null,
): boolean {
  if (count > index.length) throw new TramError("E_INTERNAL", "more pages than indexes");
  const result = symbols.tram_receive_pages(fd, ram.native, index, u32(count, "count"), timeoutMs, stop);
  if (result < 0 && errnoName(result) === "EFAULT") readable(result, "receive pages");
  return (result >= 0 ? result : channelFailed(result, "receiving pages")) === count * PAGE_BYTES;
}

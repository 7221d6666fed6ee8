// The one transport there is underneath: a descriptor. Sockets are two-way; pipes and files are not.
import { TramError } from "../errors.ts";
import { PageChannel, receivePages, type SocketCounts } from "../native/channel.ts";
import { type FdType, net, type StopWord } from "../native/net.ts";
import type { Ram } from "../native/ram.ts";
import type { PageRecords, Transport } from "./transport.ts";

/** IOV_MAX of Linux: the most one call takes. */
export const IOV_MAX = 1024;

export interface FdOptions {
  name: string;
  stop: StopWord;
  /** Longest silence of a socket's peer, negative: as long as it likes; pipes and files may take as long as they like. */
  silenceMs: number;
  iovMax?: number;
}

export class FdTransport implements Transport {
  readonly name: string;
  readonly twoWay: boolean;
  readonly type: FdType;
  readonly #stop: StopWord;
  readonly #silenceMs: number;
  readonly #iovMax: number;
  #fd: number;
  #pages: PageChannel | null = null;

  /** Takes the descriptor over: close() closes it. */
  constructor(fd: number, options: FdOptions) {
    this.name = options.name;
    this.type = net.fdType(fd);
    this.twoWay = this.type === "socket";
    this.#fd = fd;
    this.#stop = options.stop;
    this.#silenceMs = this.twoWay ? options.silenceMs : -1;
    this.#iovMax = options.iovMax ?? IOV_MAX;
    if (this.twoWay) net.setTimeouts(fd, Math.max(0, options.silenceMs));
  }

  get fd(): number {
    if (this.#fd < 0) throw new TramError("E_CHANNEL_CLOSED", `${this.name} was closed`);
    return this.#fd;
  }

  write(data: Uint8Array, bytes = data.length): void {
    net.write(this.fd, this.twoWay, data, bytes, this.#stop);
  }

  writePages(records: PageRecords): number {
    const { ram, head, headBytes, words, index, count } = records;
    return net.writePages(this.fd, this.twoWay, ram, head, headBytes, words, index, count, this.#iovMax, this.#stop);
  }

  /** Whether sendPages may send without a copy. With `must` an error says why not. */
  openZeroCopy(must: boolean): boolean {
    try {
      this.#pages = new PageChannel(this.fd, this.twoWay, true, this.#iovMax, this.#stop);
      return true;
    } catch (error) {
      if (must || !(error instanceof TramError && error.code === "E_REFUSED")) throw error;
      return false;
    }
  }

  get #channel(): PageChannel {
    this.#pages ??= new PageChannel(this.fd, this.twoWay, false, this.#iovMax, this.#stop);
    return this.#pages;
  }

  /** What has become of what sendPages and sendBytes sent. */
  get pageCounts(): SocketCounts {
    return this.#channel.counts();
  }

  /** `head[0, headBytes)` and guest pages `index[0, count)` behind it; the bytes. */
  sendPages(
    head: Uint8Array,
    headBytes: number,
    ram: Ram,
    index: Uint32Array,
    count: number,
    copying: "off" | "auto" | "on",
  ): number {
    return this.#channel.send(head, headBytes, ram, index, count, copying);
  }

  /** `head[0, headBytes)` and `data[0, bytes)`; the bytes. */
  sendBytes(head: Uint8Array, headBytes: number, data: Uint8Array, bytes: number): number {
    return this.#channel.write(head, headBytes, data, bytes);
  }

  /** Waits until the kernel holds no guest page any more. */
  flushPages(): void {
    this.#channel.flush();
  }

  /** An error as soon as the other side is gone. */
  sleep(ms: number): void {
    this.#channel.sleep(ms);
  }

  readPages(ram: Ram, index: Uint32Array, count: number): boolean {
    return receivePages(this.fd, ram, index, count, this.#silenceMs, this.#stop);
  }

  read(out: Uint8Array, timeoutMs = this.#silenceMs): number {
    return net.read(this.fd, out, timeoutMs, this.#stop);
  }

  endWriting(): void {
    if (this.twoWay) net.shutdown(this.fd, "writing");
  }

  drain(timeoutMs: number): boolean {
    if (!this.twoWay) return true;
    const end = performance.now() + timeoutMs;
    while (net.unsent(this.fd) > 0) {
      if (performance.now() > end) return false;
      Bun.sleepSync(1);
    }
    return true;
  }

  close(): void {
    if (this.#fd < 0) return;
    this.#pages?.close();
    net.close(this.#fd);
    this.#fd = -1;
  }
}

// The one transport there is underneath: a descriptor. Sockets are two-way; pipes and files are not.
import { TramError } from "../errors.ts";
import { type Copying, PageChannel, type PageCounts, receivePages } from "../native/channel.ts";
import { type FdType, net, type StopWord } from "../native/net.ts";
import type { Ram } from "../native/ram.ts";
import type { PacketSender, PageRecords, Transport } from "./transport.ts";

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
  #packets: FdPackets | null = null;

  /** Takes the descriptor over: close() closes it. */
  constructor(fd: number, options: FdOptions) {
    this.name = options.name;
    this.type = net.fdType(fd);
    this.twoWay = this.type === "socket";
    this.#fd = fd;
    this.#stop = options.stop;
    this.#silenceMs = this.twoWay ? options.silenceMs : -1;
    this.#iovMax = options.iovMax ?? IOV_MAX;
    if (this.twoWay) net.tune(fd);
  }

  get fd(): number {
    if (this.#fd < 0) throw new TramError("E_CHANNEL_CLOSED", `${this.name} was closed`);
    return this.#fd;
  }

  write(data: Uint8Array, bytes = data.length): void {
    net.write(this.fd, this.twoWay, data, bytes, this.#silenceMs, this.#stop);
  }

  writePages(records: PageRecords): number {
    const { ram, head, headBytes, words, index, count } = records;
    const [iovMax, silenceMs, stop] = [this.#iovMax, this.#silenceMs, this.#stop];
    return net.writePages(this.fd, this.twoWay, ram, head, headBytes, words, index, count, iovMax, silenceMs, stop);
  }

  /** Of its own: a descriptor has one sender of packets. */
  get packets(): FdPackets {
    this.#packets ??= new FdPackets(this.fd, this.twoWay, this.#iovMax, this.#silenceMs, this.#stop);
    return this.#packets;
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

  unsent(): number {
    return this.twoWay ? Math.max(0, net.unsent(this.fd)) : 0;
  }

  drain(timeoutMs: number): boolean {
    const end = performance.now() + timeoutMs;
    while (this.unsent() > 0) {
      if (performance.now() > end) return false;
      Bun.sleepSync(1);
    }
    return true;
  }

  close(): void {
    if (this.#fd < 0) return;
    this.#packets?.close();
    net.close(this.#fd);
    this.#fd = -1;
  }
}

class FdPackets implements PacketSender {
  readonly #open: (zeroCopy: boolean) => PageChannel;
  #opened: PageChannel | null = null;

  constructor(fd: number, isSocket: boolean, iovMax: number, silenceMs: number, stop: StopWord) {
    this.#open = (zeroCopy) => new PageChannel(fd, isSocket, zeroCopy, iovMax, silenceMs, stop);
  }

  get #channel(): PageChannel {
    this.#opened ??= this.#open(false);
    return this.#opened;
  }

  openZeroCopy(must: boolean): boolean {
    try {
      this.#opened = this.#open(true);
      return true;
    } catch (error) {
      if (must || !(error instanceof TramError && error.code === "E_REFUSED")) throw error;
      return false;
    }
  }

  sendPages(
    head: Uint8Array,
    headBytes: number,
    ram: Ram,
    index: Uint32Array,
    count: number,
    copying: Copying,
  ): number {
    return this.#channel.send(head, headBytes, ram, index, count, copying);
  }

  sendBytes(head: Uint8Array, headBytes: number, data?: Uint8Array, bytes?: number): number {
    return this.#channel.write(head, headBytes, data, bytes);
  }

  flushPages(): void {
    this.#channel.flush();
  }

  get pageCounts(): PageCounts {
    return this.#channel.counts();
  }

  sleep(ms: number): void {
    this.#channel.sleep(ms);
  }

  close(): void {
    this.#opened?.close();
  }
}

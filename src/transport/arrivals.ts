// Who comes to a listening socket. A source opens its main channel and perhaps others, in any order; others only look whether
// somebody listens. The first four bytes tell them apart.
import { TramError } from "../errors.ts";
import { net, POLL, type StopWord } from "../native/net.ts";

const SLICE_MS = 20;
const WAITING_MAX = 512;

export type Kind = "main" | "channel";

export class Arrivals {
  readonly #listenFd: number;
  readonly #stop: StopWord;
  readonly #kindOf: (first: number) => Kind;
  /** Connections that have not said enough yet. */
  readonly #silent: number[] = [];
  readonly #channels: number[] = [];
  #main: number | null = null;

  /** `kindOf`: what the first four bytes of a connection, big-endian, make it. */
  constructor(listenFd: number, stop: StopWord, kindOf: (first: number) => Kind) {
    this.#listenFd = listenFd;
    this.#stop = stop;
    this.#kindOf = kindOf;
  }

  /** The main channel's socket, as long as it takes. */
  awaitMain(): number {
    while (this.#main === null) this.#look(SLICE_MS);
    return this.#main;
  }

  /** All other channels that are there; with `look` those included that have come since. */
  channels(look = true): readonly number[] {
    if (look) this.#look(0);
    return this.#channels;
  }

  /** All other channels, those included that are connected and about to speak. */
  gather(timeoutMs: number): readonly number[] {
    const end = performance.now() + timeoutMs;
    this.#look(0);
    while (this.#silent.length && performance.now() < end) this.#look(SLICE_MS);
    return this.#channels;
  }

  /**
   * Waits until there are `count` other channels; false: not within `timeoutMs`. `mainStays`: a source that closes its main
   * channel before they are there is gone.
   */
  awaitChannels(count: number, timeoutMs: number, { mainStays = false } = {}): boolean {
    const end = performance.now() + timeoutMs;
    while (this.#channels.length < count) {
      if (performance.now() > end) return false;
      if (mainStays && this.#mainIsGone())
        throw new TramError("E_CHANNEL_CLOSED", "the source closed the main channel before its others were there", {
          expected: `${count} channels`,
          found: `${this.#channels.length}`,
        });
      this.#look(SLICE_MS);
    }
    return true;
  }

  #mainIsGone(): boolean {
    return this.#main !== null && net.poll([{ fd: this.#main, events: POLL.peerHangup }], 0) !== null;
  }

  /** One look at the door and at those who wait behind it. */
  #look(timeoutMs: number): void {
    if (this.#stop[0] !== 0) throw new TramError("E_CANCELLED", "cancelled");
    const watched = [this.#listenFd, ...this.#silent].map((fd) => ({ fd, events: POLL.in }));
    const ready = net.poll(watched, timeoutMs);
    if (!ready) return;
    // In the order in which they came; newcomers are looked at once they have something to say.
    const speaking = this.#silent.filter((_, i) => ready[i + 1] !== 0);
    for (const fd of speaking) {
      this.#silent.splice(this.#silent.indexOf(fd), 1);
      this.#listenTo(fd);
    }
    if (ready[0])
      for (let fd = net.tryAccept(this.#listenFd); fd >= 0; fd = net.tryAccept(this.#listenFd)) {
        this.#silent.push(fd);
        if (this.#silent.length > WAITING_MAX) net.close(this.#silent.shift() as number);
      }
  }

  #listenTo(fd: number): void {
    const first = new Uint8Array(4);
    const count = net.peek(fd, first);
    if (count === 0 || (count < 0 && count !== -11)) net.close(fd);
    else if (count < 4) {
      this.#silent.push(fd);
      Bun.sleepSync(1); // poll would call it ready at once, again and again
    } else if (this.#kindOf(new DataView(first.buffer).getUint32(0)) === "channel") this.#channels.push(fd);
    else if (this.#main === null) this.#main = fd;
    else net.close(fd); // a second source: there is one already
  }

  /** Closes those who never became anything. */
  close(): void {
    for (const fd of this.#silent) net.close(fd);
    this.#silent.length = 0;
  }
}

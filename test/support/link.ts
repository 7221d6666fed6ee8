// A link that a test can hold at any arrow of the hand-over, then cut or release. It looks at the bytes that pass, so that
// neither end needs a hook.
import { connect, createServer, type Server, type Socket } from "node:net";

const hex = (text: string): Buffer => Buffer.from(text.replace(/ /g, ""), "hex");

const PING_HELLO = hex("08 0002 0004 74720001");
const PING_READY = hex("08 0002 0004 74720002");
const PONG_READY = hex("0002 0004 74720002");
const HELLO = hex("7400");
const SHUT = hex("0001 0004 00000000");
const END_OF_SECTION = hex("0000000000000010 7e 00000001");

/** Where to hold: nothing of what matched, or came after it, has been passed on. */
export const ARROWS = {
  connect: { forward: hex("5145564d") },
  greeting: { forward: PING_HELLO },
  hello: { back: HELLO },
  "bulk pass": { forward: Buffer.concat([END_OF_SECTION, hex("02 00000001")]) },
  "dirty round": { forward: Buffer.concat([END_OF_SECTION, hex("02 00000001")]), nth: 2 },
  "last round": { forward: Buffer.concat([END_OF_SECTION, hex("03 00000001")]) },
  "device state": { forward: PING_READY },
  ready: { back: PONG_READY },
  "hand-over word": { forward: PING_READY, behind: true },
  confirmation: { back: SHUT },
} as const satisfies Record<string, Arrow>;

/** What each packet of another channel begins with, its flags behind it. The first match is the channel's own greeting. */
const PACKET = hex("11223344 00000001");

/** Where to hold one of the other channels. Whichever comes there first is held, and those that come there later. */
export const CHANNEL_ARROWS = {
  "channel's greeting": { forward: PACKET },
  "channel's pages": { forward: PACKET, nth: 5 },
  "channel's end of a round": { forward: Buffer.concat([PACKET, hex("00000001")]), nth: 2 },
} as const satisfies Record<string, Arrow>;

export type ArrowName = keyof typeof ARROWS | keyof typeof CHANNEL_ARROWS;

interface Arrow {
  forward?: Buffer;
  back?: Buffer;
  /** The nth time it passes; 1 if not said. */
  nth?: number;
  /** Pass the match itself on, and hold what follows. */
  behind?: boolean;
}

/** Finds a pattern in a stream that comes in pieces. */
class Watch {
  readonly #pattern: Buffer;
  readonly #behind: boolean;
  #left: number;
  /** The end of what has passed: a match may have begun there. */
  #tail = Buffer.alloc(0);

  constructor(pattern: Buffer, nth: number, behind: boolean) {
    this.#pattern = pattern;
    this.#left = nth;
    this.#behind = behind;
  }

  /**
   * What may pass of `piece`, and what is held; held null: all passes. Of a match that began in a piece before, at least
   * the last byte is held, so that the other end cannot act on it.
   */
  push(piece: Buffer): { pass: Buffer; held: Buffer | null } {
    const before = this.#tail.length;
    const whole = Buffer.concat([this.#tail, piece]);
    for (let from = 0; ; ) {
      const at = whole.indexOf(this.#pattern, from);
      if (at < 0) break;
      const end = at + this.#pattern.length;
      if (--this.#left === 0) {
        const cut = Math.max(0, (this.#behind ? end : at) - before);
        return { pass: piece.subarray(0, cut), held: piece.subarray(cut) };
      }
      from = end;
    }
    this.#tail = Buffer.from(whole.subarray(Math.max(0, whole.length - (this.#pattern.length - 1))));
    return { pass: piece, held: null };
  }
}

export class HeldLink {
  readonly port: number;
  /** Resolves when the arrow was reached and is held. */
  readonly held: Promise<void>;
  readonly #server: Server;
  readonly #sockets: Socket[] = [];
  readonly #releases: (() => void)[] = [];
  #released = false;
  #reached = () => {};

  private constructor(server: Server, port: number, targetPort: number, arrow: Arrow) {
    this.#server = server;
    this.port = port;
    this.held = new Promise((resolve) => {
      this.#reached = resolve;
    });
    server.on("connection", (source) => this.#link(source, targetPort, arrow));
  }

  static async start(targetPort: number, name: ArrowName): Promise<HeldLink> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    return new HeldLink(server, port, targetPort, { ...ARROWS, ...CHANNEL_ARROWS }[name]);
  }

  #link(source: Socket, targetPort: number, arrow: Arrow): void {
    const target = connect(targetPort, "127.0.0.1");
    this.#sockets.push(source, target);
    this.#pipe(source, target, arrow.forward, arrow);
    this.#pipe(target, source, arrow.back, arrow);
  }

  #pipe(from: Socket, to: Socket, pattern: Buffer | undefined, arrow: Arrow): void {
    let watch = pattern ? new Watch(pattern, arrow.nth ?? 1, arrow.behind ?? false) : null;
    let holding: Buffer[] | null = null;
    const send = (bytes: Buffer) => {
      if (bytes.length && !to.write(bytes)) {
        from.pause();
        to.once("drain", () => from.resume());
      }
    };
    const hold = (bytes: Buffer) => {
      from.pause();
      holding = [bytes];
      this.#releases.push(() => {
        const kept = holding ?? [];
        holding = null;
        from.resume();
        for (const piece of kept) send(piece);
        if (ended) to.end();
      });
      this.#reached();
    };
    let holdNext = false;
    from.on("data", (piece: Buffer) => {
      if (holding)
        holding.push(piece); // a paused socket may hand over what it had read
      else if (holdNext && !this.#released) hold(piece);
      else if (!watch || this.#released) send(piece);
      else {
        const { pass, held } = watch.push(piece);
        send(pass);
        if (held === null) return;
        watch = null;
        if (held.length) hold(held);
        else holdNext = true; // with `behind`, nothing may be there yet to hold
      }
    });
    let ended = false;
    const end = () => {
      ended = true;
      if (!holding) to.end();
    };
    from.on("end", end);
    from.on("close", end);
    from.on("error", () => to.destroy());
  }

  release(): void {
    this.#released = true;
    for (const release of this.#releases.splice(0)) release();
  }

  /** Both ways at once, with a reset: as when the cable is pulled and the keepalive has given up. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  stop(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }
}

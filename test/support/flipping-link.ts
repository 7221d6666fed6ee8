// A link that changes one byte of a page's content on its way: what neither TCP's checksum nor the page's frame would show.
import { connect, createServer, type Server, type Socket } from "node:net";

const PAGE_BYTES = 4096;
const RECORD_BYTES = 8 + PAGE_BYTES;
/** The flags of a page with content that continues its block, in the word's last 12 bits. */
const CONTINUED_PAGE = 0x28;

export class FlippingLink {
  readonly port: number;
  /** How often the page's content was changed, and which page it is. */
  flips = 0;
  page = -1;
  readonly #server: Server;
  readonly #times: number;
  readonly #fromPage: number;

  private constructor(server: Server, port: number, targetPort: number, times: number, fromPage: number) {
    this.#server = server;
    this.#times = times;
    this.#fromPage = fromPage;
    this.port = port;
    server.on("connection", (source) => this.#link(source, targetPort));
  }

  /** `times`: how often; it is the same page each time, and none before `fromPage`. */
  static async start(targetPort: number, times: number, fromPage: number): Promise<FlippingLink> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    return new FlippingLink(server, port, targetPort, times, fromPage);
  }

  #link(source: Socket, targetPort: number): void {
    const target = connect(targetPort, "127.0.0.1");
    source.on("data", (piece: Buffer) => {
      if (this.flips < this.#times) this.#flip(piece);
      if (target.write(piece)) return;
      source.pause();
      target.once("drain", () => source.resume());
    });
    target.on("data", (piece) => source.write(piece));
    for (const [one, other] of [
      [source, target],
      [target, source],
    ]) {
      one.on("close", () => other.destroy());
      one.on("error", () => other.destroy());
    }
  }

  /** The first page of the piece at whose place its own word says where it begins, and the next one's that it ends. */
  #flip(piece: Buffer): void {
    for (let at = 0; at + RECORD_BYTES + 8 <= piece.length; at++) {
      const page = pageAt(piece, at);
      if (page < this.#fromPage || pageAt(piece, at + RECORD_BYTES) < 0) continue;
      if (this.page >= 0 && page !== this.page) continue;
      this.page = page;
      piece[at + 8 + 2000] ^= 0x10;
      this.flips++;
      return;
    }
    // The last page of its round has no other behind it.
    const last = this.page < 0 ? -1 : piece.indexOf(wordOf(this.page));
    if (last < 0 || last + RECORD_BYTES > piece.length) return;
    piece[last + 8 + 2000] ^= 0x10;
    this.flips++;
  }

  stop(): void {
    this.#server.close();
  }
}

function wordOf(page: number): Buffer {
  const word = Buffer.alloc(8);
  word.writeBigUInt64BE(BigInt(page) * 4096n + BigInt(CONTINUED_PAGE));
  return word;
}

/** The page whose record begins there; -1: none does. */
function pageAt(piece: Buffer, at: number): number {
  if (piece[at] || piece[at + 1] || piece[at + 2]) return -1;
  const low = piece.readUInt32BE(at + 4);
  if ((low & 0xfff) !== CONTINUED_PAGE) return -1;
  return piece.readUInt32BE(at) * 0x100000 + (low >>> 12);
}

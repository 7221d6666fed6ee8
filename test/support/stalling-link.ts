// A link of any number of connections, of which a test can hold single ones: nothing more is read from them, as from a receiver
// that has stopped, until they go on.
import { connect, createServer, type Server, type Socket } from "node:net";

interface Connection {
  source: Socket;
  target: Socket;
  /** From the source, so far. */
  bytes: number;
  stalled: boolean;
}

export class StallingLink {
  readonly port: number;
  readonly #server: Server;
  readonly #connections: Connection[] = [];

  private constructor(server: Server, port: number, targetPort: number) {
    this.#server = server;
    this.port = port;
    server.on("connection", (source) => this.#link(source, targetPort));
  }

  static async start(targetPort: number): Promise<StallingLink> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    return new StallingLink(server, port, targetPort);
  }

  #link(source: Socket, targetPort: number): void {
    const target = connect(targetPort, "127.0.0.1");
    const connection: Connection = { source, target, bytes: 0, stalled: false };
    this.#connections.push(connection);
    source.on("data", (piece: Buffer) => {
      connection.bytes += piece.length;
      if (target.write(piece)) return;
      source.pause();
      target.once("drain", () => {
        if (!connection.stalled) source.resume();
      });
    });
    target.on("data", (piece) => source.write(piece));
    for (const [one, other] of [
      [source, target],
      [target, source],
    ] as const) {
      one.on("close", () => other.destroy());
      one.on("error", () => other.destroy());
    }
  }

  /** How much each connection has brought, in the order in which they came. */
  get bytes(): number[] {
    return this.#connections.map(({ bytes }) => bytes);
  }

  stall(nth: number): void {
    const connection = this.#connections[nth] as Connection;
    connection.stalled = true;
    connection.source.pause();
  }

  goOn(nth: number): void {
    const connection = this.#connections[nth] as Connection;
    connection.stalled = false;
    connection.source.resume();
  }

  /** All connections at once, with a reset. */
  cut(): void {
    for (const { source, target } of this.#connections) for (const one of [source, target]) one.resetAndDestroy();
  }

  stop(): void {
    for (const { source, target } of this.#connections) for (const one of [source, target]) one.destroy();
    this.#server.close();
  }
}

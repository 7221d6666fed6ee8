// A plain QMP client for tests: what any other program would do.
import { connect, type Socket } from "node:net";

export type Message = Record<string, unknown>;

export class Qmp {
  readonly #socket: Socket;
  readonly #messages: Message[] = [];
  #text = "";
  #wake = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (piece: Buffer) => {
      this.#text += piece.toString("utf8");
      const lines = this.#text.split("\n");
      this.#text = lines.pop() ?? "";
      this.#messages.push(...lines.filter((line) => line.trim()).map((line) => JSON.parse(line) as Message));
      this.#wake();
    });
    socket.on("error", () => this.#wake());
    socket.on("close", () => this.#wake());
  }

  static async connect(path: string, negotiate = true): Promise<Qmp> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    const client = new Qmp(socket);
    if (!("QMP" in ((await client.next()) ?? {}))) throw new Error("no greeting");
    if (negotiate) await client.execute("qmp_capabilities");
    return client;
  }

  /** Events that came before an answer that was waited for. */
  readonly events: Message[] = [];

  /** The next message; null when the server has closed, or nothing comes. */
  async next(limitMs = 5000): Promise<Message | null> {
    const end = performance.now() + limitMs;
    for (;;) {
      const message = this.#messages.shift();
      if (message) return message;
      if (this.#socket.destroyed || performance.now() > end) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 50);
      });
    }
  }

  send(text: string | Uint8Array): void {
    this.#socket.write(text);
  }

  async execute(command: string, args?: object, id?: unknown): Promise<Message | null> {
    this.send(
      `${JSON.stringify({ execute: command, ...(args && { arguments: args }), ...(id !== undefined && { id }) })}\n`,
    );
    for (;;) {
      const message = await this.next();
      if (!message || !("event" in message)) return message;
      this.events.push(message);
    }
  }

  /** Messages that have come, and were not looked at yet. */
  get arrived(): number {
    return this.#messages.length;
  }

  /** Asks nothing more. */
  end(): void {
    this.#socket.end();
  }

  close(): void {
    this.#socket.destroy();
  }
}

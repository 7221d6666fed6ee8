// A QMP client: one request at a time, events ignored.
import { createConnection, type Socket } from "node:net";
import { createInterface } from "node:readline";

export class Qmp {
  readonly #socket: Socket;
  readonly #messages: AsyncIterator<string>;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#messages = createInterface({ input: socket })[Symbol.asyncIterator]();
  }

  static async connect(path: string): Promise<Qmp> {
    const socket = createConnection(path);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    socket.on("error", () => {}); // seen as the end of the messages
    const client = new Qmp(socket);
    await client.#messages.next(); // the greeting
    await client.execute("qmp_capabilities");
    return client;
  }

  // biome-ignore lint/suspicious/noExplicitAny: answers are what the caller knows them to be
  async execute(command: string, args: object = {}): Promise<any> {
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    for (;;) {
      const { value, done } = await this.#messages.next();
      if (done) throw new Error(`${command}: the connection was closed`);
      const message = JSON.parse(value);
      if (message.error) throw new Error(`${command}: ${message.error.desc}`);
      if ("return" in message) return message.return;
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

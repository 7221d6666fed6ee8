// A QMP client for tests that steer QEMU: answers as promises, events kept until somebody asks for them.
import { connect, type Socket } from "node:net";

export interface QmpEvent {
  event: string;
  data: Record<string, unknown>;
  timestamp: { seconds: number; microseconds: number };
}

/** An answer that is an error: QEMU's own sentence, with its class. */
export class QmpError extends Error {
  readonly kind: string;

  constructor(command: string, { class: kind, desc }: { class: string; desc: string }) {
    super(`${command}: ${desc}`);
    this.kind = kind;
  }
}

interface Pending {
  command: string;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class QmpClient {
  readonly #socket: Socket;
  /** In the order in which they were sent, which is that of the answers. */
  readonly #pending: Pending[] = [];
  readonly #events: QmpEvent[] = [];
  #text = "";
  #wake = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (piece: string) => {
      const lines = (this.#text + piece).split("\n");
      this.#text = lines.pop() ?? "";
      for (const line of lines) if (line.trim()) this.#take(JSON.parse(line));
    });
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => {
      for (const { command, reject } of this.#pending.splice(0))
        reject(new Error(`${command}: QEMU closed its monitor`));
      this.#wake();
    });
  }

  static async connect(path: string): Promise<QmpClient> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    const client = new QmpClient(socket);
    await client.execute("qmp_capabilities");
    return client;
  }

  // biome-ignore lint/suspicious/noExplicitAny: answers are as many as commands
  #take(message: any): void {
    if ("event" in message) {
      this.#events.push(message);
      this.#wake();
    } else if ("return" in message) this.#pending.shift()?.resolve(message.return);
    else if ("error" in message) {
      const pending = this.#pending.shift();
      pending?.reject(new QmpError(pending.command, message.error));
    }
  }

  execute<T = unknown>(command: string, args?: object): Promise<T> {
    if (this.#socket.destroyed) return Promise.reject(new Error(`${command}: QEMU closed its monitor`));
    return new Promise<T>((resolve, reject) => {
      this.#pending.push({ command, resolve: resolve as (value: unknown) => void, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, ...(args && { arguments: args }) })}\n`);
    });
  }

  /** The oldest event of this name that nobody has taken yet, or the next one. */
  async event(name: string, limitMs = 10_000): Promise<QmpEvent> {
    const end = performance.now() + limitMs;
    for (;;) {
      const at = this.#events.findIndex(({ event }) => event === name);
      if (at >= 0) return this.#events.splice(at, 1)[0] as QmpEvent;
      if (this.#socket.destroyed) throw new Error(`event ${name}: QEMU closed its monitor`);
      if (performance.now() > end) throw new Error(`event ${name}: not within ${limitMs} ms`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 50);
      });
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

// A QMP client, for tram's guests and QEMU's alike. Short polls beside the event loop, so that Ctrl-C is heard.
import { readFileSync } from "node:fs";
import { type ErrorData, fromErrorData, TramError } from "../errors.ts";
import { describeErrno, errnoName } from "../native/errno.ts";
import { net } from "../native/net.ts";
import { MessageSplitter, type QmpMessage } from "./protocol.ts";

const CONNECT_MS = 3000;
/** QEMU's monitor serves one client at a time and greets no other. */
const GREETING_MS = 3000;
const ANSWER_MS = 30_000;
const POLL_MS = 1;
const EAGAIN = -11;

export class QmpClient {
  readonly path: string;
  readonly #fd: number;
  readonly #splitter = new MessageSplitter();
  readonly #arrived: QmpMessage[] = [];
  readonly #buffer = new Uint8Array(256 << 10);
  #closed = false;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  static async connect(path: string, vm: string): Promise<QmpClient> {
    const fd = net.tryConnectUnix(path, CONNECT_MS);
    if (fd < 0) {
      const gone = ["ENOENT", "ECONNREFUSED"].includes(errnoName(fd));
      throw new TramError(
        "E_NO_SUCH_GUEST",
        gone ? `there is no guest '${vm}'` : `cannot reach the guest '${vm}': ${describeErrno(fd)}`,
        {
          where: path,
          next: "tram ps lists the guests of this user",
        },
      );
    }
    const client = new QmpClient(path, fd);
    try {
      const greeting = await client.#message(GREETING_MS);
      if (!greeting) client.#refuseStopped(vm);
      if (!greeting || !("QMP" in greeting))
        throw new TramError("E_MONITOR_IN_USE", `the monitor of '${vm}' does not greet`, {
          where: path,
          expected: "a QMP greeting",
          found: greeting ? "something else" : "silence",
          next: "QEMU's monitor serves one client at a time: close the other one, or give QEMU a second -qmp socket",
        });
      await client.execute("qmp_capabilities");
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** A process that was stopped, by Ctrl-Z or a debugger, says nothing before it goes on. */
  #refuseStopped(vm: string): void {
    const { pid } = this;
    const state = pid === null ? null : stateOf(pid);
    if (state !== "T" && state !== "t") return;
    throw new TramError("E_QMP", `the process of '${vm}' is stopped, and answers nobody`, {
      where: this.path,
      found: state === "T" ? `process ${pid} was stopped by a signal` : `a debugger holds process ${pid}`,
      next: state === "T" ? `kill -CONT ${pid} lets it go on, or fg in its shell` : "let the debugger go on",
    });
  }

  /** The guest's process; null: it cannot be seen from here. */
  get pid(): number | null {
    return net.peerPid(this.#fd);
  }

  async #message(timeoutMs: number): Promise<QmpMessage | null> {
    const end = performance.now() + timeoutMs;
    for (;;) {
      const ready = this.#arrived.shift();
      if (ready) return ready;
      const { bytes, fds } = net.receiveMessage(this.#fd, this.#buffer);
      for (const fd of fds) net.close(fd);
      if (bytes > 0) {
        const texts = this.#splitter.push(this.#buffer.subarray(0, bytes));
        this.#arrived.push(...texts.map((text) => JSON.parse(text) as QmpMessage));
      } else if (bytes !== EAGAIN) {
        throw this.#ended();
      } else {
        if (performance.now() > end) return null;
        await Bun.sleep(POLL_MS);
      }
    }
  }

  #ended(): TramError {
    return new TramError("E_QMP", "the guest's process closed its QMP socket: it has ended, or has too many clients", {
      where: this.path,
      next: "its own output says why; tram ps shows whether it still runs",
    });
  }

  /** One command and its answer; events in between are dropped. `passFd` goes with it. */
  async execute<T = unknown>(command: string, args?: object, passFd = -1): Promise<T> {
    let unsent = Buffer.from(`${JSON.stringify({ execute: command, ...(args && { arguments: args }) })}\n`);
    for (let fd = passFd; unsent.length > 0; ) {
      const sent = net.sendMessage(this.#fd, unsent, fd);
      if (sent === EAGAIN) await Bun.sleep(POLL_MS);
      else if (sent < 0) throw this.#ended();
      else {
        unsent = unsent.subarray(sent);
        fd = -1;
      }
    }
    for (;;) {
      const message = await this.#message(ANSWER_MS);
      if (!message)
        throw new TramError("E_QMP", `the guest did not answer '${command}' within ${ANSWER_MS / 1000} s`, {
          where: this.path,
        });
      if ("return" in message) return message.return as T;
      if ("error" in message) throw answeredError(message.error, command);
    }
  }

  /** Waits for the other side to end; false: it did not. */
  async ended(timeoutMs: number): Promise<boolean> {
    const end = performance.now() + timeoutMs;
    try {
      while (performance.now() < end) await this.#message(100); // an event
      return false;
    } catch {
      return true;
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    net.close(this.#fd);
  }
}

/** As proc(5) has it: R, S, T, …; null: it cannot be seen. */
function stateOf(pid: number): string | null {
  try {
    return /^State:\s+(.)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1] ?? null;
  } catch {
    return null;
  }
}

function answeredError(error: unknown, command: string): TramError {
  const { desc, tram } = error as { desc?: string; tram?: ErrorData };
  return tram ? fromErrorData(tram) : new TramError("E_QMP", `'${command}' failed: ${desc ?? "no reason given"}`);
}

// tram logs: what a detached guest's process has said. The log outlives the guest.
import { openSync, readSync } from "node:fs";
import { EXIT, reasonOf, TramError } from "../errors.ts";
import { net } from "../native/net.ts";
import { command } from "./command.ts";
import { writeAll } from "./console.ts";
import { VM_ARG } from "./guest.ts";
import { findSocket, logPathOf, statOrNull } from "./runtime.ts";

const CONNECT_MS = 1000;
const LOOK_MS = 100;

export const logs = command({
  name: "logs",
  summary: "shows what a detached guest's process has said",
  args: {
    vm: VM_ARG,
    follow: { type: "boolean", alias: "f", description: "go on until the guest's process has ended" },
  },
  examples: ["tram logs a", "tram logs a --follow"],
  async run(args) {
    const socketPath = findSocket(args.vm);
    const path = logPathOf(socketPath);
    const pid = pidBehind(socketPath);
    if (pid !== null && !isWrittenBy(path, pid))
      throw new TramError("E_STATE", `'${args.vm}' was not started with --detach, and has no log`, {
        where: `process ${pid}`,
        next: "what it says is where its output went: its terminal, or what that was redirected to",
      });
    if (!statOrNull(path))
      throw new TramError("E_NO_SUCH_GUEST", `there is no log of a guest '${args.vm}'`, {
        where: path,
        next: "tram run -d and tram restore -d make one; tram ps lists the guests of this user",
      });
    const log = new Log(path);
    for (let goesOn = args.follow === true && pid !== null; ; ) {
      const isDone = !goesOn; // looked at before the last lines are read
      if (!log.copy() || isDone) return EXIT.done;
      await Bun.sleep(LOOK_MS);
      goesOn = isWrittenBy(path, pid as number);
    }
  },
});

/** Of who listens there; null: nobody, or nobody that this process can see. */
function pidBehind(socketPath: string): number | null {
  const fd = net.tryConnectUnix(socketPath, CONNECT_MS);
  if (fd < 0) return null;
  try {
    return net.peerPid(fd);
  } finally {
    net.close(fd);
  }
}

function isWrittenBy(path: string, pid: number): boolean {
  const its = statOrNull(`/proc/${pid}/fd/2`); // null: it has ended
  const log = statOrNull(path);
  return its !== null && log !== null && its.dev === log.dev && its.ino === log.ino;
}

/** A file that grows, and may begin anew. */
class Log {
  readonly #fd: number;
  #offset = 0;

  constructor(path: string) {
    try {
      this.#fd = openSync(path, "r");
    } catch (error) {
      throw new TramError("E_FILE", `cannot read ${path}: ${reasonOf(error)}`);
    }
  }

  /** What is new goes to standard output; false: nobody reads it. */
  copy(): boolean {
    const piece = new Uint8Array(64 << 10);
    if ((statOrNull(`/proc/self/fd/${this.#fd}`)?.size ?? 0) < this.#offset) this.#offset = 0;
    for (;;) {
      const bytes = readSync(this.#fd, piece, 0, piece.length, this.#offset);
      if (bytes === 0) return true;
      this.#offset += bytes;
      if (!writeAll(1, piece.subarray(0, bytes))) return false;
    }
  }
}

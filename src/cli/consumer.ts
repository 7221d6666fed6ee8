// exec: a shell command at the other end of a pipe.
import { net } from "../native/net.ts";

export interface Consumer {
  /** Our end of the pipe. */
  fd: number;
  /** 0, or how it ended: "exited 3", "was killed by SIGKILL". */
  finished: Promise<string | null>;
  kill(): void;
}

/** "write": the command reads what we write. "read": we read what it writes. */
export function startConsumer(command: string, direction: "write" | "read"): Consumer {
  const pipe = net.pipe();
  const [own, its] = direction === "write" ? [pipe.write, pipe.read] : [pipe.read, pipe.write];
  const child = Bun.spawn(["/bin/sh", "-c", command], {
    stdin: direction === "write" ? its : "ignore",
    stdout: direction === "read" ? its : 2, // our stdout carries the product; what the command says goes to stderr
    stderr: "inherit",
  });
  net.close(its);
  const finished = child.exited.then(() => {
    if (child.signalCode) return `was killed by ${child.signalCode}`;
    return child.exitCode === 0 ? null : `exited ${child.exitCode}`;
  });
  return { fd: own, finished, kill: () => child.kill() };
}

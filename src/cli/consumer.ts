// exec: a shell command at the other end of a pipe.
import { readFileSync } from "node:fs";
import { net } from "../native/net.ts";

export interface Consumer {
  /** Our end of the pipe. */
  fd: number;
  /** 0, or how it ended: "exited 3", "was killed by SIGKILL". */
  finished: Promise<string | null>;
  /** For a consumer that is no longer wanted. */
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
    env: process.env, // as it is by now: see detach.ts
  });
  net.close(its);
  const finished = child.exited.then(() => {
    if (child.signalCode) return `was killed by ${child.signalCode}`;
    return child.exitCode === 0 ? null : `exited ${child.exitCode}`;
  });
  return { fd: own, finished, kill: () => killTree(child.pid) };
}

/**
 * The shell and what it started. Not by process group: one of its own would take the terminal from a command that asks for a
 * password there.
 */
function killTree(pid: number): void {
  let children = "";
  try {
    children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
    process.kill(pid, "SIGTERM");
  } catch {
    return; // it has ended by itself
  }
  for (const child of children.trim().split(/\s+/).filter(Boolean)) killTree(Number(child));
}

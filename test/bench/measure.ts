// What contestants share: the figures of one move, a process's CPU time and memory, and one process that ends with us.
import { dlopen } from "bun:ffi";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Qmp } from "./qmp.ts";

export interface Sample {
  seconds: number;
  /** With connecting and handing over, where `seconds` is without. */
  wholeSeconds?: number;
  /** Sent on the wire; in files.ts, of pages that are not zero. */
  bytes: number;
  txCpuSeconds: number;
  rxCpuSeconds: number;
  /** Resident beyond guest RAM at the end of the move. */
  txExtraBytes?: number;
  rxExtraBytes?: number;
  /** The most that the receiver was ever resident with, all of the process. */
  peakBytes?: number;
  /** Of whoever sends the pages, as it counts them itself. */
  systemCalls?: number;
  /** Of all of the source's process, as perf counts them; that disturbs the move. */
  countedCalls?: number;
}

export type Scheme = "unix" | "tcp";
/** free: where the scheduler puts them. apart: the source on core 0, the target on core 1. */
export type Placement = "free" | "apart";
/** What runs a command there. */
const onCore = (placement: Placement, core: number) => (placement === "apart" ? ["taskset", "-c", `${core}`] : []);
export const asSource = (placement: Placement): string[] => onCore(placement, 0);
export const asTarget = (placement: Placement): string[] => onCore(placement, 1);

/** How often a move under way is looked at: what tram migrate does too. */
export const POLL_MS = 20;
const READY_MS = 60_000;
/** USER_HZ, the same on every x86-64. */
const TICKS_PER_SECOND = 100;

const libc = dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });

/** All threads of a process, also ended ones, in nanoseconds: /proc/PID/stat has hundredths of a second. */
export function cpuSeconds(pid: number): number {
  const time = new BigInt64Array(2);
  const clock = (~pid << 3) | 2; // clock_getcpuclockid
  if (libc.symbols.clock_gettime(clock, time) !== 0) throw new Error(`process ${pid} is gone`);
  return Number(time[0]) + Number(time[1]) / 1e9;
}

/** Of /proc/PID/stat, from the state on, which proc(5) calls (3). */
function statFields(pid: number): string[] {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
}

/** All that a process has started and seen end, in seconds. */
export function childrenCpuSeconds(pid: number): number {
  const fields = statFields(pid);
  return (Number(fields[13]) + Number(fields[14])) / TICKS_PER_SECOND; // cutime, cstime
}

/** Of all threads of a process: those that needed no disk. */
export const minorFaults = (pid: number): number => Number(statFields(pid)[7]);

function memoryBytes(pid: number, field: "VmRSS" | "VmHWM"): number {
  const kib = new RegExp(`^${field}:\\s+([0-9]+) kB$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  if (!kib) throw new Error(`process ${pid} has no memory`);
  return Number(kib) * 1024;
}

export const residentBytes = (pid: number): number => memoryBytes(pid, "VmRSS");
/** The most that it has ever been. */
export const peakResidentBytes = (pid: number): number => memoryBytes(pid, "VmHWM");

export async function freePort(): Promise<number> {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}

const running = new Set<Bun.Subprocess>();

/** A process that an interrupt ends. */
export function watch<T extends Bun.Subprocess>(child: T): T {
  running.add(child);
  child.exited.finally(() => running.delete(child));
  return child;
}

export function endRunning(): void {
  for (const child of running) child.kill("SIGKILL");
}

/** What a command prints; its complaints go to our standard error. */
export async function outputOf(command: string[]): Promise<string> {
  const child = watch(Bun.spawn(command, { stdin: "ignore", stdout: "pipe", stderr: "inherit" }));
  const text = await child.stdout.text();
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")}: failed`);
  return text;
}

/** perf has opened its counters by then. */
const PERF_STARTS_MS = 500;

/** Counts the system calls of all threads of a process, also those to come; null where perf cannot. */
export class CallCounter {
  readonly #perf: Bun.Subprocess;
  readonly #file: string;

  private constructor(pid: number, file: string) {
    const command = ["perf", "stat", "-e", "raw_syscalls:sys_enter", "-x,", "-o", file, "-p", `${pid}`];
    this.#perf = watch(Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "ignore" }));
    this.#file = file;
  }

  static async start(pid: number, folder: string): Promise<CallCounter | null> {
    if (!Bun.which("perf")) return null;
    const counter = new CallCounter(pid, join(folder, "perf.csv"));
    await Bun.sleep(PERF_STARTS_MS);
    return counter.#perf.exitCode === null ? counter : null;
  }

  async end(): Promise<number | undefined> {
    this.#perf.kill("SIGINT");
    await this.#perf.exited;
    const count = /^([0-9]+),/m.exec(readFileSync(this.#file, "utf8"))?.[1];
    return count === undefined ? undefined : Number(count);
  }
}

/** A process with a QMP socket. */
export class Peer implements AsyncDisposable {
  readonly pid: number;
  readonly #process: Bun.Subprocess<"ignore", "ignore", Bun.BunFile>;
  readonly #log: Bun.BunFile;
  readonly #socket: string;
  readonly #clients: Qmp[] = [];

  constructor(command: string[], socket: string, env: Record<string, string> = {}) {
    this.#socket = socket;
    this.#log = Bun.file(`${socket}.log`);
    this.#process = watch(
      Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: this.#log, env: { ...process.env, ...env } }),
    );
    this.pid = this.#process.pid;
  }

  /** A client of it, once it listens. */
  async connect(): Promise<Qmp> {
    const end = performance.now() + READY_MS;
    for (;;) {
      try {
        const client = await Qmp.connect(this.#socket);
        this.#clients.push(client);
        return client;
      } catch (error) {
        if (this.#process.exitCode !== null) throw new Error(`ended early: ${await this.#log.text()}`);
        if (performance.now() > end) throw error;
        await Bun.sleep(POLL_MS);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
    for (const client of this.#clients) client.close();
  }
}

/** Asks until `done` says so. */
export async function pollUntil<T>(
  ask: () => Promise<T>,
  done: (answer: T) => boolean,
  everyMs = POLL_MS,
  limitMs = READY_MS,
): Promise<T> {
  const end = performance.now() + limitMs;
  for (;;) {
    const answer = await ask();
    if (done(answer)) return answer;
    if (performance.now() > end) throw new Error(`still waiting: ${JSON.stringify(answer)}`);
    await Bun.sleep(everyMs);
  }
}

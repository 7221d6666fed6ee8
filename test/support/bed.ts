// A bed for tests with real guests: the compiled binary, a runtime folder of its own, and nothing left behind.
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Subprocess } from "bun";
import type { Journal } from "../../src/control/journal.ts";
import type { RestoreJournal } from "../../src/control/restore.ts";
import type { TrackingFacts } from "../../src/qmp/commands.ts";
import { QmpClient } from "./qmp-client.ts";

export const TRAM = resolve(import.meta.dir, "../../build/tram");

/** Why tests with real guests cannot run here; null if they can. */
export function whyNoKvm(): string | null {
  if (!existsSync("/dev/kvm")) return "/dev/kvm does not exist";
  try {
    closeSync(openSync("/dev/kvm", "r+"));
    return null;
  } catch (error) {
    return `/dev/kvm: ${(error as Error).message}`;
  }
}

export interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

/** A tram process that goes on. */
export class Running {
  readonly child: Subprocess;
  stderr = "";
  readonly code: Promise<number>;

  constructor(child: Subprocess<"ignore" | "pipe", "pipe" | "ignore", "pipe">) {
    this.child = child;
    const drained = this.#drain(child.stderr);
    this.code = child.exited.then(async () => {
      await drained;
      return child.exitCode ?? 128;
    });
  }

  async #drain(stream: ReadableStream<Uint8Array>): Promise<void> {
    const decoder = new TextDecoder();
    for await (const piece of stream) this.stderr += decoder.decode(piece, { stream: true });
  }

  get pid(): number {
    return this.child.pid;
  }
  get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null;
  }
  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }
}

export interface Status {
  name: string;
  status: string;
  memory: number;
  cpus: number;
  /** Only tram's guests tell. */
  tracking?: boolean;
  throttlePercent?: number;
  dirtyTracking?: TrackingFacts["dirtyTracking"];
  /** Of a guest that was restored from a file. */
  restore?: RestoreJournal;
}

export interface Verified {
  pages: number;
  stoppedInPio: number;
  stoppedInMmio: number;
  cpus: { pass: number; boundary: number }[];
}

export class Bed {
  readonly folder = mkdtempSync(join(tmpdir(), "tram-test-"));
  readonly env: Record<string, string>;
  readonly #running: Running[] = [];

  constructor(env: Record<string, string> = {}) {
    this.env = {
      PATH: process.env.PATH ?? "",
      HOME: this.folder,
      XDG_RUNTIME_DIR: this.folder,
      TMPDIR: this.folder,
      ...env,
    };
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  async tram(...args: string[]): Promise<Result> {
    return this.exec([TRAM, ...args]);
  }

  async exec(
    argv: string[],
    options: { env?: Record<string, string>; cwd?: string; stdin?: Blob } = {},
  ): Promise<Result> {
    const child = Bun.spawn(argv, {
      env: options.env ?? this.env,
      cwd: options.cwd ?? this.folder,
      stdin: options.stdin ?? "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    await child.exited;
    return { code: child.exitCode ?? 128, stdout, stderr };
  }

  start(args: string[]): Running {
    return this.spawn([TRAM, ...args]);
  }

  spawn(argv: string[]): Running {
    const child = Bun.spawn(argv, {
      env: this.env,
      cwd: this.folder,
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    const running = new Running(child);
    this.#running.push(running);
    return running;
  }

  /** A walker that runs. */
  async walker(name: string, ...options: string[]): Promise<Running> {
    const running = this.start(["run", "--guest", "walker", "--name", name, ...options]);
    await this.until(
      async () => (await this.status(name))?.status === (options.includes("--paused") ? "paused" : "running"),
      `walker ${name}`,
      running,
    );
    return running;
  }

  /** A guest out of a snapshot; in the state in which it is then. */
  async restored(name: string, file: string, ...options: string[]): Promise<Running> {
    return this.appeared(name, this.start(["restore", file, "--name", name, ...options]));
  }

  /** `running` is, or is to be, a guest's process: returns when that guest runs, is paused, or stands still for good. */
  async appeared(name: string, running: Running): Promise<Running> {
    const isThere = async () => ["running", "paused", "io-error"].includes((await this.status(name))?.status ?? "");
    await this.until(isThere, `guest ${name}`, running);
    return running;
  }

  /** A process that waits for a guest. */
  async target(name: string, uri: string, ...options: string[]): Promise<Running> {
    const running = this.start(["run", "--incoming", uri, "--name", name, ...options]);
    await this.until(async () => running.stderr.includes("waits on"), `target ${name}`, running);
    return running;
  }

  async status(name: string): Promise<Status | null> {
    const { code, stdout } = await this.tram("status", name, "--json");
    return code === 0 ? (JSON.parse(stdout) as Status) : null;
  }

  /** What the guest's process says of its move; nothing before the first. */
  async moveOf(name: string): Promise<Partial<Journal>> {
    const qmp = await QmpClient.connect(this.path(`tram/${name}.qmp`));
    try {
      return await qmp.execute<Partial<Journal>>("tram-query-move");
    } finally {
      qmp.close();
    }
  }

  /** Polls until `condition` holds. */
  async until(condition: () => Promise<boolean>, what: string, process?: Running, limitMs = 20_000): Promise<void> {
    const end = performance.now() + limitMs;
    for (;;) {
      if (await condition()) return;
      if (process?.hasEnded) throw new Error(`${what}: the process ended: ${process.stderr}`);
      if (performance.now() > end) throw new Error(`${what}: not within ${limitMs} ms. ${process?.stderr ?? ""}`);
      await Bun.sleep(10);
    }
  }

  /** Pauses the walker, verifies every page, and lets it go on. */
  async verify(name: string): Promise<Verified> {
    const wasRunning = (await this.status(name))?.status === "running";
    if (wasRunning) await this.expectDone("pause", name);
    const { code, stdout, stderr } = await this.tram("check-guest", name, "--json");
    if (code !== 0) throw new Error(`check-guest ${name}: ${stdout}${stderr}`);
    if (wasRunning) await this.expectDone("resume", name);
    return JSON.parse(stdout);
  }

  /** The walker makes progress: its passes or positions change. */
  async goesOn(name: string): Promise<void> {
    const progress = async () => JSON.stringify((await this.verify(name)).cpus);
    const before = await progress();
    await this.until(async () => (await progress()) !== before, `walker ${name} goes on`);
  }

  async expectDone(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.tram(...args);
    if (code !== 0) throw new Error(`tram ${args.join(" ")} exited ${code}: ${stderr}`);
    return stdout;
  }

  /** Sockets and other files in the bed's runtime folder. */
  leftovers(): string[] {
    const folder = this.path("tram");
    return existsSync(folder) ? readdirSync(folder).sort() : [];
  }

  /** Processes that say what they say into a file here: nobody waits for those. */
  #detached(): number[] {
    const outputs = readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map((name) => ({ pid: Number(name), output: linkOf(`/proc/${name}/fd/2`) }));
    return outputs.filter(({ output }) => output?.startsWith(`${this.folder}/`)).map(({ pid }) => pid);
  }

  async dispose(): Promise<void> {
    for (const running of this.#running) if (!running.hasEnded) running.kill("SIGKILL");
    await Promise.all(this.#running.map((running) => running.code));
    for (const pid of this.#detached()) process.kill(pid, "SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function linkOf(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
}

/** What a process has open, by kind of descriptor: the numbers in sockets and pipes differ each time. */
export function openFds(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .map((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/\d+/g, "N");
      } catch {
        return "gone";
      }
    })
    .sort();
}

export function threads(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).length;
}

/** Resident memory in KiB: anonymous and file pages apart. */
export function residentKib(pid: number): { anon: number; file: number } {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return { anon: kib("RssAnon"), file: kib("RssFile") };
}

/** A free TCP port: taken for a moment, and given back. */
export function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}

/** Gives a bed, and clears it away whatever happens. */
export async function inBed(action: (bed: Bed) => Promise<void>, env: Record<string, string> = {}): Promise<void> {
  const bed = new Bed(env);
  try {
    await action(bed);
  } finally {
    await bed.dispose();
  }
}

// A paused QEMU guest into a file: by tram receive, by tram save, and by the bare C loop. What tram shows of the file.
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { cpuSeconds, outputOf, POLL_MS, peakResidentBytes, pollUntil, type Sample, watch } from "./measure.ts";
import { machine, prepareMove, timeMove } from "./qemu.ts";
import { TRAM } from "./tram.ts";

const BARE_FILE = process.env.BARE_FILE ?? "build/bench/bare-file";

export interface KeepOptions {
  mib: number;
  /** For sockets. */
  folder: string;
  /** The guest's RAM. */
  ram: string;
  /** Of its pages that are not zero. */
  bytes: number;
  file: string;
}

/** tram receive or save under way. */
class Keeper implements AsyncDisposable {
  readonly pid: number;
  readonly #process: Bun.Subprocess<"ignore", "ignore", Bun.BunFile>;
  readonly #events: string;
  readonly #log: Bun.BunFile;
  readonly #watching: Timer;
  #peakBytes = 0;

  constructor(args: string[], folder: string) {
    this.#events = join(folder, "keep.json");
    this.#log = Bun.file(join(folder, "keep.log"));
    rmSync(this.#events, { force: true });
    this.#process = watch(
      Bun.spawn([TRAM, ...args, `--json=${this.#events}`], { stdin: "ignore", stdout: "ignore", stderr: this.#log }),
    );
    this.pid = this.#process.pid;
    this.#watching = setInterval(() => this.#look(), POLL_MS);
  }

  /** The kernel keeps the peak, so that only that of the last moment could be missed. */
  #look(): void {
    try {
      this.#peakBytes = peakResidentBytes(this.pid);
    } catch {} // it has just ended
  }

  async waits(): Promise<void> {
    const phase = async () => {
      if (this.#process.exitCode !== null) throw new Error(`tram has ended: ${await this.#log.text()}`);
      return readText(this.#events);
    };
    await pollUntil(phase, (text) => text.includes('"waiting"'));
  }

  /** Its CPU time, with all that it did before, and its peak; throws unless it kept just so much content. */
  async ends(bytes: number): Promise<{ cpuSeconds: number; peakBytes: number }> {
    this.#look();
    if ((await this.#process.exited) !== 0) throw new Error(`tram has failed: ${await this.#log.text()}`);
    const report = JSON.parse(readText(this.#events).trimEnd().split("\n").at(-1) ?? "");
    const kept = report.blocks.reduce((sum: number, { present }: { present: number }) => sum + present * 4096, 0);
    if (kept !== bytes) throw new Error(`tram kept ${kept} bytes of content, not ${bytes}`);
    return { cpuSeconds: Number(this.#process.resourceUsage()?.cpuTime.total) / 1e6, peakBytes: this.#peakBytes };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#watching);
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}

export function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** What was written before has left for the disk. */
async function clear(file: string): Promise<void> {
  rmSync(file, { force: true });
  await outputOf(["sync"]);
}

/** Timed as QEMU sees it: completed is when tram has confirmed, and tram does that when the file is on disk. */
export async function receive(options: KeepOptions, channels: number): Promise<Sample> {
  const { mib, folder, ram, bytes, file } = options;
  const socket = join(folder, "channel-keep");
  await using source = machine([], ram, mib, true, join(folder, "qemu-source"), []);
  const client = await source.connect();
  await prepareMove(client, channels);
  await clear(file);
  await using keeper = new Keeper(["receive", `unix:${socket}`, file, "--channels", `${channels}`], folder);
  await keeper.waits();
  const before = [cpuSeconds(source.pid), cpuSeconds(keeper.pid)];
  const seconds = await timeMove(client, `unix:${socket}`);
  const txCpuSeconds = cpuSeconds(source.pid) - before[0];
  const end = await keeper.ends(bytes);
  return { seconds, bytes, txCpuSeconds, rxCpuSeconds: end.cpuSeconds - before[1], peakBytes: end.peakBytes };
}

/** The whole command, from its start to its end. */
export async function save(options: KeepOptions, channels: number): Promise<Sample> {
  const { mib, folder, ram, bytes, file } = options;
  const monitor = join(folder, "qemu-tram"); // QEMU's first one is ours
  await using source = machine([], ram, mib, true, join(folder, "qemu-source"), [
    "-qmp",
    `unix:${monitor},server=on,wait=off`,
  ]);
  await (await source.connect()).execute("query-status");
  await clear(file);
  const before = cpuSeconds(source.pid);
  const startedMs = performance.now();
  const args = ["save", `unix:${monitor}`, file, "--after", "pause", "--channels", `${channels}`];
  await using keeper = new Keeper(args, folder);
  const end = await keeper.ends(bytes);
  const seconds = (performance.now() - startedMs) / 1000;
  const txCpuSeconds = cpuSeconds(source.pid) - before;
  return { seconds, bytes, txCpuSeconds, rxCpuSeconds: end.cpuSeconds, peakBytes: end.peakBytes };
}

export async function keepBare({ ram, bytes, file }: KeepOptions, way: "cached" | "direct"): Promise<Sample> {
  await clear(file);
  const sample: Sample = JSON.parse(await outputOf([BARE_FILE, way, ram, file]));
  if (sample.bytes !== bytes) throw new Error(`bare-file wrote ${sample.bytes} bytes, not ${bytes}`);
  return sample;
}

/** tram inspect, in seconds. */
export async function inspect(file: string): Promise<number> {
  const startedMs = performance.now();
  const text = await outputOf([TRAM, "inspect", file]);
  const seconds = (performance.now() - startedMs) / 1000;
  if (!text) throw new Error("tram inspect: showed nothing");
  return seconds;
}

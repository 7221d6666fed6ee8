// A guest of tram's own into a file, by tram save; the same pages by the bare C loop, and by QEMU.
import { closeSync, existsSync, fsyncSync, openSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { readText } from "./keep.ts";
import { childrenCpuSeconds, cpuSeconds, outputOf, Peer, pollUntil, type Sample, watch } from "./measure.ts";
import { LOOK_MS, machine, type QemuCommand, timeMove } from "./qemu.ts";
import { TRAM } from "./tram.ts";

const BARE_SNAPSHOT = process.env.BARE_SNAPSHOT ?? "build/bench/bare-snapshot";

export interface SavePlaces {
  mib: number;
  /** For sockets and reports. */
  folder: string;
  /** The guest's pages: what QEMU has as its RAM, and the bare loop copies. */
  ram: string;
  files: Files;
}

/**
 * The host of a virtual machine takes back what is free, a part of it within seconds, and whoever uses it again pays for that: after
 * this, most of what files had in the page cache has gone.
 */
const SETTLE_MS = { one: 2000, many: 8000 };

/** New files, one after the other. */
export class Files {
  readonly #folder: string;
  readonly #keep: number;
  #files: string[] = [];
  #count = 0;

  /**
   * Of those before so many stay, in the page cache, too, and go all at once: many small runs take a disk long to free, and not
   * longer for many files.
   */
  constructor(folder: string, keep: number) {
    this.#folder = folder;
    this.#keep = keep;
  }

  /** A name for the next one. Nothing of those before is on its way to the disk. `cached`: it will go through the page cache. */
  async next(cached: boolean): Promise<string> {
    await outputOf(["sync"]);
    const isFull = this.#files.length > this.#keep;
    if (isFull) await this.remove();
    if (this.#keep > 0 && isFull) await Bun.sleep(SETTLE_MS.many);
    if (this.#keep === 0 && cached) await Bun.sleep(SETTLE_MS.one);
    const file = join(this.#folder, `snapshot-${++this.#count}`);
    this.#files.push(file);
    return file;
  }

  /** All at once. */
  async remove(): Promise<void> {
    await Promise.all(this.#files.map((file) => outputOf(["rm", "-f", file])));
    await outputOf(["sync"]);
    this.#files = [];
  }
}

/** `seconds`: until the file is durable and has its name. bytes: of pages that are not zero. tx is who has the pages, rx the command. */
export interface SaveSample extends Sample {
  /** As the contestant itself tells it. */
  toldSeconds?: number;
}

// --- tram

export type Direct = "off" | "auto" | "on";

export interface SaveReport {
  blocks: { present: number }[];
  elapsedMs: number;
  rounds: number;
  resentPages: number;
  bytes: number;
  directBytes: number;
  downtimeMs: number;
}

/** A walker that was filled, and all of its memory touched. */
export class Walker implements AsyncDisposable {
  readonly name: string;
  readonly #peer: Peer;
  readonly #env: Record<string, string>;
  readonly #folder: string;

  private constructor(name: string, folder: string, options: string[]) {
    this.name = name;
    this.#folder = folder;
    this.#env = { XDG_RUNTIME_DIR: folder };
    const command = [TRAM, "run", "--guest", "walker", "--name", name, "--prealloc", ...options];
    this.#peer = new Peer(command, join(folder, "tram", `${name}.qmp`), this.#env);
  }

  static async start(name: string, folder: string, options: string[]): Promise<Walker> {
    const walker = new Walker(name, folder, options);
    const client = await walker.#peer.connect();
    const wanted = options.includes("--paused") ? "paused" : "running";
    await pollUntil(
      () => client.execute("query-status"),
      ({ status }) => status === wanted,
    );
    client.close();
    return walker;
  }

  /** The whole command. */
  async save(file: string, options: string[]): Promise<{ sample: SaveSample; report: SaveReport }> {
    const events = join(this.#folder, "save.json");
    const log = Bun.file(join(this.#folder, "save.log"));
    const before = cpuSeconds(this.#peer.pid);
    const startedMs = performance.now();
    const command = watch(
      Bun.spawn([TRAM, "save", this.name, file, ...options, `--json=${events}`], {
        stdin: "ignore",
        stdout: "ignore",
        stderr: log,
        env: { ...process.env, ...this.#env },
      }),
    );
    const code = await command.exited;
    const seconds = (performance.now() - startedMs) / 1000;
    if (code !== 0) throw new Error(`tram save: ${await log.text()}`);
    const txCpuSeconds = options.includes("quit") ? 0 : cpuSeconds(this.#peer.pid) - before;
    const report: SaveReport = JSON.parse(readText(events).trimEnd().split("\n").at(-1) ?? "");
    const bytes = report.blocks.reduce((sum, { present }) => sum + present * 4096, 0);
    const rxCpuSeconds = Number(command.resourceUsage()?.cpuTime.total) / 1e6;
    return { sample: { seconds, bytes, txCpuSeconds, rxCpuSeconds, toldSeconds: report.elapsedMs / 1000 }, report };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#peer[Symbol.asyncDispose]();
  }
}

export interface SaveWay {
  channels: number;
  direct: Direct;
  /** It goes through the page cache. */
  cached: boolean;
}

export async function saveTram(
  walker: Walker,
  files: Files,
  { channels, direct, cached }: SaveWay,
): Promise<SaveSample> {
  const options = ["--after", "pause", "--channels", `${channels}`, "--direct-io", direct];
  return (await walker.save(await files.next(cached), options)).sample;
}

/** A guest that runs goes on. */
export async function saveLive(walker: Walker, files: Files): Promise<{ sample: SaveSample; report: SaveReport }> {
  return walker.save(await files.next(false), ["--after", "resume"]);
}

/** The guest's RAM as one file. */
export async function extractRam(snapshot: string, ram: string): Promise<void> {
  await outputOf([TRAM, "extract", snapshot, ram, "--ram"]);
}

// --- bare

/** hash: each page is hashed, too. zeros: zero pages are written, too. */
export type BareKind = "plain" | "hash" | "zeros";

export class BareSnapshot implements AsyncDisposable {
  readonly #process: Subprocess<"pipe", "pipe", "inherit">;
  readonly #answers: AsyncIterator<Uint8Array>;

  constructor(ram: string) {
    this.#process = watch(Bun.spawn([BARE_SNAPSHOT, ram], { stdin: "pipe", stdout: "pipe", stderr: "inherit" }));
    this.#answers = this.#process.stdout[Symbol.asyncIterator]();
  }

  async #ask(line: string): Promise<SaveSample> {
    this.#process.stdin.write(`${line}\n`);
    this.#process.stdin.flush();
    let text = "";
    const decoder = new TextDecoder();
    while (!text.endsWith("\n")) {
      const { value, done } = await this.#answers.next();
      if (done) throw new Error(`bare-snapshot has ended: ${line}`);
      text += decoder.decode(value, { stream: true });
    }
    return JSON.parse(text);
  }

  async write(files: Files, threads: number, way: "cached" | "direct", kind: BareKind): Promise<SaveSample> {
    const file = await files.next(way === "cached");
    return this.#ask(`write ${way} ${threads} ${kind} ${file}`);
  }

  /** All pages that are not zero, in one thread. */
  hash(): Promise<SaveSample> {
    return this.#ask("hash");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#process.kill("SIGKILL");
    await this.#process.exited;
  }
}

// --- QEMU

/** What query-migrate tells of a save that is over. */
const toldBy = (info: { "total-time": number; ram: { normal: number } }) => ({
  bytes: info.ram.normal * 4096,
  toldSeconds: info["total-time"] / 1000,
});

/** Through a pipe, as QEMU 7.2 does it; what stands behind it makes the file durable and gives it its name. */
export async function saveExec(qemu: QemuCommand, places: SavePlaces): Promise<SaveSample> {
  const { mib, folder, ram, files } = places;
  await using source = machine([], ram, mib, true, join(folder, "qemu-source"), [], qemu);
  const client = await source.connect();
  await client.execute("migrate-set-parameters", { "max-bandwidth": 2 ** 40 });
  const file = await files.next(true);
  const cpu = () => cpuSeconds(source.pid) + childrenCpuSeconds(source.pid);
  const before = cpu();
  const startedMs = performance.now();
  await timeMove(client, `exec:cat > ${file}.part && sync ${file}.part && mv ${file}.part ${file}`);
  while (!existsSync(file)) await Bun.sleep(LOOK_MS);
  const seconds = (performance.now() - startedMs) / 1000;
  const told = toldBy(await client.execute("query-migrate")); // answered when the command has been waited for
  return { ...told, seconds, txCpuSeconds: cpu() - before, rxCpuSeconds: 0 };
}

/** With fixed offsets, as QEMU 9.0 and later do it; we make the file durable. */
export async function saveMappedRam(qemu: QemuCommand, places: SavePlaces, channels: number): Promise<SaveSample> {
  const { mib, folder, ram, files } = places;
  await using source = machine([], ram, mib, true, join(folder, "qemu-source"), [], qemu);
  const client = await source.connect();
  const capabilities = ["mapped-ram", "multifd"].map((capability) => ({ capability, state: true }));
  await client.execute("migrate-set-capabilities", { capabilities });
  await client.execute("migrate-set-parameters", {
    "max-bandwidth": 2 ** 40,
    "multifd-channels": channels,
    "direct-io": true,
  });
  const file = await files.next(false);
  const before = cpuSeconds(source.pid);
  const startedMs = performance.now();
  await timeMove(client, `file:${file}`);
  const fd = openSync(file, "r+");
  fsyncSync(fd);
  closeSync(fd);
  const seconds = (performance.now() - startedMs) / 1000;
  const told = toldBy(await client.execute("query-migrate"));
  return { ...told, seconds, txCpuSeconds: cpuSeconds(source.pid) - before, rxCpuSeconds: 0 };
}

// What all parts of make bench share: rounds, figures, the table of the host, and an end that leaves nothing behind.
import { dlopen } from "bun:ffi";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release } from "node:os";
import { join } from "node:path";
import { endRunning, outputOf, type Sample } from "./measure.ts";
import { table } from "./stats.ts";
import { TRAM } from "./tram.ts";

export const PAIRS = Number(process.env.BENCH_PAIRS ?? 5);
export const MIB = Number(process.env.BENCH_MIB ?? 2048);
export const GIB = 2 ** 30;
const SAMPLE_MS = 300_000;

export type Contestants<T = Sample> = Record<string, () => Promise<T>>;
export type Samples<T = Sample> = Record<string, T[]>;

/** How long a contest goes on: there is no round that would begin too late to end in time, but always a first one. */
export interface Extent {
  rounds: number;
  seconds: number;
}

export const print = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

/** Work that takes too long has failed: what it started is ended, and with it whatever waits for that. */
export async function bounded<T>(name: string, work: () => Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new Error(`${name}: has not ended after ${SAMPLE_MS / 1000} s`));
    endRunning();
  }, SAMPLE_MS);
  try {
    return await Promise.race([late.promise, work()]);
  } finally {
    clearTimeout(timer);
  }
}

/** Interleaved: A B C A B C … */
export async function contest<T extends object = Sample>(
  section: string,
  contestants: Contestants<T>,
  { rounds, seconds }: Extent = { rounds: PAIRS, seconds: Number.POSITIVE_INFINITY },
): Promise<Samples<T>> {
  const samples: Samples<T> = {};
  const startedMs = performance.now();
  const elapsed = () => (performance.now() - startedMs) / 1000;
  for (let pair = 1; pair <= rounds && (pair === 1 || elapsed() * (pair / (pair - 1)) <= seconds); pair++) {
    for (const [name, move] of Object.entries(contestants)) {
      const sample = await bounded(`${section}, ${name}`, move);
      samples[name] ??= [];
      samples[name].push(sample);
      print({ section, pair, name, ...sample });
    }
  }
  return samples;
}

export const speeds = (samples: Sample[]) => samples.map(({ bytes, seconds }) => bytes / GIB / seconds);
export const txCpu = (samples: Sample[]) => samples.map(({ bytes, txCpuSeconds }) => (txCpuSeconds * GIB) / bytes);
export const rxCpu = (samples: Sample[]) => samples.map(({ bytes, rxCpuSeconds }) => (rxCpuSeconds * GIB) / bytes);

export async function environment(qemu: string | null, more: string[][] = []): Promise<string> {
  const caches = ["2", "3"].map((level) => {
    const size = readFileSync(`/sys/devices/system/cpu/cpu0/cache/index${level}/size`, "utf8").trim();
    return `L${level} ${size}`;
  });
  const memory = /MemTotal:\s+([0-9]+)/.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? "0";
  return table(
    ["", ""],
    [
      ["date", new Date().toISOString().slice(0, 10)],
      ["CPU", `${cpus()[0].model}, ${availableParallelism()} cores, ${caches.join(", ")}`],
      ["memory", `${Math.round(Number(memory) / 2 ** 20)} GiB`],
      ["kernel", release()],
      ["load average at the start", loadavg()[0].toFixed(2)],
      ["tram", (await Bun.$`${TRAM} --version`.text()).trim()],
      ["Bun", Bun.version],
      ["QEMU", qemu ?? "not installed"],
      ...more,
    ],
  );
}

export const freeGib = (folder: string): number => {
  const { bavail, bsize } = statfsSync(folder);
  return (bavail * bsize) / GIB;
};

export function availableMemoryGib(): number {
  const kib = /MemAvailable:\s+([0-9]+)/.exec(readFileSync("/proc/meminfo", "utf8"))?.[1] ?? "0";
  return Number(kib) / 2 ** 20;
}

/** The file system that has a folder: "ext4 on /dev/vda, 70 GiB free". */
export async function diskOf(folder: string): Promise<string> {
  const [type, source] = (await outputOf(["df", "--output=fstype,source", folder])).trim().split("\n")[1].split(/\s+/);
  return `${type} on ${source}, ${Math.floor(freeGib(folder))} GiB free`;
}

const DROP_CACHES = "/proc/sys/vm/drop_caches";

/** Whether the host let us: then the next reader, and its executable, come from the disk. */
export async function dropCaches(): Promise<boolean> {
  await outputOf(["sync"]);
  try {
    writeFileSync(DROP_CACHES, "1");
    return true;
  } catch {
    return false;
  }
}

const POSIX_FADV_DONTNEED = 4;
const libc = dlopen("libc.so.6", {
  posix_fadvise: { args: ["i32", "i64", "i64", "i32"], returns: "i32" },
  clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
});

const CLOCK_MONOTONIC = 1;

/** Milliseconds of the host's monotonic clock, the same for all processes. */
export function monotonicMs(): number {
  const time = new BigInt64Array(2); // struct timespec
  libc.symbols.clock_gettime(CLOCK_MONOTONIC, time);
  return Number(time[0]) * 1e3 + Number(time[1]) / 1e6;
}

/** The page cache has nothing of a file. */
export async function dropFromCache(file: string): Promise<void> {
  await outputOf(["sync", file]);
  const fd = openSync(file, "r");
  const error = libc.symbols.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  closeSync(fd);
  if (error) throw new Error(`${file}: the page cache keeps it: error ${error}`);
}

/** A new folder that is gone when this process ends, whichever way; what it runs has ended before. */
export function scratchFolder(parent: string): string {
  const folder = mkdtempSync(join(parent, "tram-bench-"));
  process.once("exit", () => {
    endRunning();
    rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 20 }); // what was just ended may still write
  });
  return folder;
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(130));

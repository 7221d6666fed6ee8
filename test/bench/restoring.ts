// A guest out of a snapshot, by tram restore: how soon it runs, how soon all of it is there, and what clones of it cost.
import { readFileSync } from "node:fs";
import { dropCaches, dropFromCache } from "./contest.ts";
import { outputOf, watch } from "./measure.ts";
import { Walker } from "./saving.ts";
import { TRAM } from "./tram.ts";

/** warm: the snapshot is in the page cache. cold: it is not. host: nothing is, tram's executable neither. */
export type Cache = "warm" | "cold" | "host";

export const MODES = {
  lazy: ["--lazy"],
  first: ["--verify", "first"],
  eager: ["--eager", "--channels", "2", "--direct-io", "on"],
} as const;
export type Mode = keyof typeof MODES;

/** All in milliseconds from just before the process is started. */
export interface RestoreSample {
  /** The first byte on the serial port: the guest has run. */
  byteMs: number;
  /** The line that says that it runs. */
  lineMs: number;
  /** What stands in this line, of the process's own clock. */
  toldMs: number;
  /** All pages are in memory, each of them verified; null: it was ended before. */
  hereMs: number | null;
}

/** Of its own memory it walks one page, which costs nothing beside the restore; each pass is a byte on the serial port. */
const WALK = ["--fill", "random", "--working-set", "4K", "--dirty-rate", "1000"];

/** A snapshot of a guest that runs. */
export async function makeSnapshot(mib: number, folder: string, file: string): Promise<void> {
  await using walker = await Walker.start("template", folder, [...WALK, "--memory", `${mib}M`]);
  await walker.save(file, ["--after", "quit"]);
}

/** The page cache is as `cache` says; false: the host does not let us. */
export async function prepareCache(file: string, cache: Cache): Promise<boolean> {
  if (cache === "host") return dropCaches();
  if (cache === "warm") {
    await outputOf(["dd", `if=${file}`, "of=/dev/null", "bs=1M", "status=none"]);
    return true;
  }
  await dropFromCache(file);
  return true;
}

const RUNS = /^tram: guest '.*' runs: .* in ([0-9.]+) (ms|s)$/m;
const HERE = /^tram: all .* are here, as they were saved/m;

/** tram's standard error, and when things were said there. */
class Said {
  text = "";
  readonly #marks: { pattern: RegExp; seen: PromiseWithResolvers<{ atMs: number; match: RegExpExecArray }> }[] = [];

  constructor(stream: ReadableStream<Uint8Array>, startedMs: number, patterns: readonly RegExp[]) {
    this.#marks = patterns.map((pattern) => ({ pattern, seen: Promise.withResolvers() }));
    for (const { seen } of this.#marks) seen.promise.catch(() => undefined); // not everybody waits for all of them
    this.#read(stream, startedMs);
  }

  async #read(stream: ReadableStream<Uint8Array>, startedMs: number): Promise<void> {
    const decoder = new TextDecoder();
    for await (const piece of stream) {
      const atMs = performance.now() - startedMs;
      this.text += decoder.decode(piece, { stream: true });
      for (const { pattern, seen } of this.#marks) {
        const match = pattern.exec(this.text);
        if (match) seen.resolve({ atMs, match });
      }
    }
    for (const { pattern, seen } of this.#marks) seen.reject(new Error(`tram restore: not ${pattern}: ${this.text}`));
  }

  when(pattern: RegExp): Promise<{ atMs: number; match: RegExpExecArray }> {
    const mark = this.#marks.find((one) => one.pattern === pattern);
    return mark ? mark.seen.promise : Promise.reject(new Error(`${pattern} is not looked for`));
  }
}

/** Until all of it is there, or only until it runs. */
export async function restore(file: string, folder: string, mode: Mode, untilHere: boolean): Promise<RestoreSample> {
  const startedMs = performance.now();
  const tram = watch(
    Bun.spawn([TRAM, "restore", file, "--name", "restored", "--serial", "stdio", ...MODES[mode]], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
      env: { ...process.env, XDG_RUNTIME_DIR: folder },
    }),
  );
  try {
    const firstByte = async () => {
      const { value } = await tram.stdout.getReader().read();
      return value?.length ? performance.now() - startedMs : null;
    };
    const said = new Said(tram.stderr, startedMs, [RUNS, HERE]);
    const [byteMs, runs] = await Promise.all([firstByte(), said.when(RUNS)]);
    if (byteMs === null) throw new Error(`tram restore: no byte on the serial port: ${said.text}`);
    const toldMs = Number(runs.match[1]) * (runs.match[2] === "s" ? 1000 : 1);
    // Eagerly all is there before the guest runs.
    const hereMs = mode === "eager" ? runs.atMs : untilHere ? (await said.when(HERE)).atMs : null;
    return { byteMs, lineMs: runs.atMs, toldMs, hereMs };
  } finally {
    tram.kill("SIGKILL");
    await tram.exited;
  }
}

export interface CloneMemory {
  name: string;
  residentBytes: number;
  /** Shared pages counted in equal parts for those who share them. */
  shareBytes: number;
  /** Nobody else's, and in no file. */
  anonymousBytes: number;
}

function memoryOf(name: string, pid: number): CloneMemory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const bytes = (field: string) => Number(new RegExp(`^${field}:\\s+([0-9]+) kB$`, "m").exec(text)?.[1]) * 1024;
  return {
    name,
    residentBytes: bytes("Rss"),
    shareBytes: bytes("Pss"),
    anonymousBytes: bytes("Anonymous"),
  };
}

/** So many guests out of one snapshot, each with all of its pages in memory. */
export async function clones(file: string, folder: string, count: number): Promise<CloneMemory[]> {
  const names = Array.from({ length: count }, (_, i) => `clone-${i + 1}`);
  const children = names.map((name) =>
    watch(
      Bun.spawn([TRAM, "restore", file, "--name", name], {
        stdin: "ignore",
        stdout: "ignore",
        stderr: "pipe",
        env: { ...process.env, XDG_RUNTIME_DIR: folder },
      }),
    ),
  );
  try {
    await Promise.all(children.map(({ stderr }) => new Said(stderr, 0, [HERE]).when(HERE)));
    return children.map(({ pid }, i) => memoryOf(names[i], pid));
  } finally {
    for (const child of children) child.kill("SIGKILL");
    await Promise.all(children.map(({ exited }) => exited));
  }
}

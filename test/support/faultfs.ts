// A file system with faults, mounted on a temporary folder. What it can do, and what a recording of it is, test/support/faultfs.c
// says; it is compiled when it is first wanted.
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { release, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import type { Subprocess } from "bun";

const SOURCE = join(import.meta.dir, "faultfs.c");
const PROGRAM = resolve(import.meta.dir, "../../build/test/faultfs");
const WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Wcast-qual", "-Wwrite-strings", "-Werror"];
const ANSWER_MS = 10_000;
const END_MS = 5_000;
/** Linux's O_TMPFILE, with the O_DIRECTORY that belongs to it. */
const O_TMPFILE = 0o20200000;

/** Why it cannot be mounted here; null if it can, which is found out by mounting it. */
export function whyNoFaultFs(): string | null {
  found ??= { reason: findReason() };
  return found.reason;
}
let found: { reason: string | null } | undefined;

/** Why files in it cannot begin without a name (O_TMPFILE); null if they can. */
export function whyNoNameless(): string | null {
  const [major, minor] = release().split(".").map(Number);
  if (major < 6 || (major === 6 && minor < 2)) return "FUSE has no files without a name before Linux 6.2";
  return hasNameless(tmpdir()) ? null : `the file system of ${tmpdir()} has no files without a name`;
}

/** Whether files in this folder can begin without a name. */
export function hasNameless(folder: string): boolean {
  try {
    closeSync(openSync(folder, O_TMPFILE | constants.O_RDWR, 0o600));
    return true;
  } catch {
    return false;
  }
}

function findReason(): string | null {
  try {
    closeSync(openSync("/dev/fuse", "r+"));
  } catch (error) {
    return `/dev/fuse: ${(error as Error).message}`;
  }
  if (process.getuid?.() !== 0 && !Bun.which("fusermount3")) return "not root, and no fusermount3: package fuse3";
  const problem = compile();
  if (problem) return problem;
  const top = makeFolders();
  // Its standard input is at its end at once, so it mounts, unmounts and ends.
  const { exitCode, stderr } = Bun.spawnSync([PROGRAM, join(top, "disk"), join(top, "mounted")], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
    timeout: ANSWER_MS,
    killSignal: "SIGKILL",
  });
  removeFolders(top);
  if (exitCode === 0) return null;
  if (exitCode === 1) return `cannot mount: ${stderr.toString().trim()}`;
  throw new Error(`${PROGRAM} ended with ${exitCode}: ${stderr}`); // no reason to skip: it is ours
}

function compile(): string | null {
  if (existsSync(PROGRAM) && statSync(PROGRAM).mtimeMs > statSync(SOURCE).mtimeMs) return null;
  const flags = (kind: string) => Bun.spawnSync(["pkg-config", kind, "fuse3"]).stdout.toString().split(/\s+/).filter(Boolean); // biome-ignore format: one line
  if (!Bun.which("pkg-config")) return "no pkg-config: package pkg-config";
  if (flags("--libs").length === 0) return "no libfuse3: package libfuse3-dev";
  mkdirSync(dirname(PROGRAM), { recursive: true });
  const fresh = `${PROGRAM}.${process.pid}`;
  const compiler = process.env.CC ?? "cc";
  const { exitCode, stderr } = Bun.spawnSync(
    [compiler, "-std=gnu11", "-O2", ...WARNINGS, ...flags("--cflags"), "-o", fresh, SOURCE, ...flags("--libs")],
    { stderr: "pipe", timeout: 60_000 },
  );
  if (exitCode !== 0) throw new Error(`${SOURCE} does not compile: ${stderr}`);
  renameSync(fresh, PROGRAM);
  return null;
}

/** disk: the files as they are. mounted: the same files, through it. */
function makeFolders(): string {
  const top = realpathSync(mkdtempSync(join(tmpdir(), "tram-faultfs-")));
  mkdirSync(join(top, "disk"));
  mkdirSync(join(top, "mounted"));
  return top;
}

/** Also when it is still mounted, because it was killed or hangs. */
function removeFolders(top: string): void {
  const path = join(top, "mounted");
  const isMounted = () => readFileSync("/proc/self/mounts", "utf8").includes(` ${path} `);
  const ways = [["umount", "-f", path], ["umount", "-l", path], ["fusermount3", "-u", "-z", path]]; // biome-ignore format: one line
  for (const way of ways) if (isMounted() && Bun.which(way[0])) Bun.spawnSync(way, { timeout: END_MS });
  if (isMounted()) throw new Error(`${path} is still mounted`);
  rmSync(top, { recursive: true, force: true });
}

export type Failing = "create" | "write" | "allocate" | "fsync" | "fsyncdir" | "link" | "rename" | "unlink";

export class FaultFs {
  /** Where it is mounted. */
  readonly folder: string;
  /** What has been recorded, when recordOff has returned. */
  readonly recording: string;
  readonly #top: string;
  readonly #child: Subprocess<"pipe", "pipe", "pipe">;
  readonly #answers: AsyncIterator<string>;
  #ended = false;

  private constructor(nameless: boolean) {
    this.#top = makeFolders();
    this.folder = join(this.#top, "mounted");
    this.recording = join(this.#top, "recording");
    const argv = [PROGRAM, join(this.#top, "disk"), this.folder, ...(nameless ? [] : ["no-nameless"])];
    this.#child = Bun.spawn(argv, { stdin: "pipe", stdout: "pipe", stderr: "pipe" });
    this.#answers = lines(this.#child.stdout);
  }

  /** `nameless`: whether a file may begin without a name, where the kernel and the temporary folder can do that. */
  static async mount({ nameless = true } = {}): Promise<FaultFs> {
    const reason = whyNoFaultFs();
    if (reason) throw new Error(reason);
    const fs = new FaultFs(nameless);
    await fs.#answered("mount");
    return fs;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Reads of this file's bytes from `from` to before `to` fail, where they are not cached: see drop. */
  async eio(name: string, from: number, to: number): Promise<void> {
    await this.#say(`eio ${name} ${from} ${to}`);
  }
  async eioOff(): Promise<void> {
    await this.#say("eio-off");
  }
  /** The disk writes so many bytes a second; 0: as fast as it can. */
  async slow(bytesPerSec: number): Promise<void> {
    await this.#say(`slow ${bytesPerSec}`);
  }
  /** The disk is full after so many more bytes. `reserve`: fallocate knows it, too. */
  async enospc(bytes: number, { reserve = false } = {}): Promise<void> {
    await this.#say(`enospc ${bytes}${reserve ? " reserve" : ""}`);
  }
  async enospcOff(): Promise<void> {
    await this.#say("enospc-off");
  }
  /** Every operation of this kind fails with EIO. */
  async fail(operation: Failing): Promise<void> {
    await this.#say(`fail ${operation}`);
  }
  async failOff(): Promise<void> {
    await this.#say("fail-off");
  }
  /** What is cached of this file is read again, also where it is mapped. */
  async drop(name: string): Promise<void> {
    await this.#say(`drop ${name}`);
  }
  async record(): Promise<void> {
    await this.#say(`record ${this.recording}`);
  }
  async recordOff(): Promise<void> {
    await this.#say("record-off");
  }

  /** Unmounts, and removes every file. */
  async stop(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    try {
      this.#child.stdin.write("quit\n");
      this.#child.stdin.end();
    } catch {
      // it has ended by itself
    }
    if (!(await within(END_MS, this.#child.exited))) this.#child.kill("SIGKILL");
    removeFolders(this.#top);
  }

  async #say(line: string): Promise<void> {
    this.#child.stdin.write(`${line}\n`);
    this.#child.stdin.flush();
    await this.#answered(line);
  }

  async #answered(to: string): Promise<void> {
    const next = await within(ANSWER_MS, this.#answers.next());
    if (next?.value === "ok") return;
    const said = next?.value ?? (next ? await new Response(this.#child.stderr).text() : "no answer");
    await this.stop();
    throw new Error(`faultfs: ${to}: ${said}`);
  }
}

/** undefined: not within that time. */
async function within<T>(limitMs: number, what: Promise<T>): Promise<T | undefined> {
  const { promise, resolve: late } = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late(undefined), limitMs);
  try {
    return await Promise.race([what, promise]);
  } finally {
    clearTimeout(timer);
  }
}

async function* lines(stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of stream) {
    text += decoder.decode(piece, { stream: true });
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      yield text.slice(0, end);
      text = text.slice(end + 1);
    }
  }
}

// Debian's QEMU, from one process to another: RAM in files that already hold the same mix of pages.
import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import {
  asSource,
  asTarget,
  CallCounter,
  cpuSeconds,
  freePort,
  Peer,
  type Placement,
  pollUntil,
  type Sample,
  type Scheme,
} from "./measure.ts";
import type { Qmp } from "./qmp.ts";

const QEMU = "qemu-system-x86_64";

/** What starts a QEMU. */
export interface QemuCommand {
  argv: string[];
  env: Record<string, string>;
}
const INSTALLED: QemuCommand = { argv: [QEMU], env: {} };

/** Its version; null where it is not installed. */
export async function qemuVersion({ argv, env }: QemuCommand = INSTALLED): Promise<string | null> {
  if (!Bun.which(argv[0])) return null;
  const text = await Bun.$`${argv[0]} --version`.env({ ...process.env, ...env }).text();
  return /version ([^)]*\))/.exec(text)?.[1] ?? text;
}

/**
 * What RAM holds; QEMU only tells zero from other pages. fragments: the walker's mix, four pages by four: random, text, random,
 * zero. runs: the same four by four MiB, all random but the zero one. sparse: one MiB of fragments in 16, the others zero.
 */
export type Form = "fragments" | "runs" | "sparse";

/** Of the pages that are not zero. */
export const contentBytes = (form: Form, mib: number): number => mib * 2 ** 20 * (form === "sparse" ? 3 / 64 : 3 / 4);

export function fillFile(path: string, mib: number, form: Form = "fragments"): void {
  const piece = new Uint8Array(1 << 20);
  const fd = openSync(path, "w");
  ftruncateSync(fd, mib * 2 ** 20);
  for (let done = 0; done < mib; done++) {
    if (form === "runs" ? done % 4 === 3 : form === "sparse" && done % 16 !== 0) continue;
    for (let at = 0; at < piece.length; at += 65536) crypto.getRandomValues(piece.subarray(at, at + 65536));
    for (let at = 0; at < piece.length && form !== "runs"; at += 16384) {
      piece.fill(0x20, at + 4096, at + 8192);
      piece.fill(0, at + 12288, at + 16384);
    }
    writeSync(fd, piece, 0, piece.length, done * piece.length);
  }
  closeSync(fd);
}

/** A machine that is nothing but RAM, and never runs. */
export function machine(
  runner: string[],
  ram: string,
  mib: number,
  prealloc: boolean,
  qmp: string,
  more: string[],
  { argv, env }: QemuCommand = INSTALLED,
): Peer {
  const backend = `memory-backend-file,id=ram,size=${mib}M,mem-path=${ram},share=on,prealloc=${prealloc ? "on" : "off"}`;
  const options = ["-M", "none,memory-backend=ram", "-m", `${mib}M`, "-object", backend, "-accel", "tcg", "-S"];
  const rest = ["-nodefaults", "-display", "none", "-qmp", `unix:${qmp},server=on,wait=off`, ...more];
  return new Peer([...runner, ...argv, ...options, ...rest], qmp, env);
}

export interface QemuOptions {
  scheme: Scheme;
  placement: Placement;
  mib: number;
  folder: string;
  /** The source's RAM; the target's is made anew beside it for each move. */
  ram: string;
  cold?: boolean;
}

export async function moveQemu({ scheme, placement, mib, folder, ram, cold }: QemuOptions): Promise<Sample> {
  const uri = scheme === "unix" ? `unix:${join(folder, "channel-qemu")}` : `tcp:127.0.0.1:${await freePort()}`;
  const targetRam = `${ram}.target`;
  rmSync(targetRam, { force: true });
  try {
    await using source = machine(asSource(placement), ram, mib, true, join(folder, "qemu-source"), []);
    await using target = machine(asTarget(placement), targetRam, mib, !cold, join(folder, "qemu-target"), [
      "-incoming",
      uri,
    ]);
    const client = await source.connect();
    await (await target.connect()).execute("query-status");
    await client.execute("migrate-set-parameters", { "max-bandwidth": 2 ** 40 });
    const before = [cpuSeconds(source.pid), cpuSeconds(target.pid)];
    await client.execute("migrate", { uri });
    const info = await pollUntil(
      () => client.execute("query-migrate"),
      ({ status }) => status === "completed" || status === "failed",
    );
    if (info.status === "failed") throw new Error(`QEMU: ${info["error-desc"]}`);
    return {
      seconds: info["total-time"] / 1000,
      bytes: info.ram.transferred,
      txCpuSeconds: cpuSeconds(source.pid) - before[0],
      rxCpuSeconds: cpuSeconds(target.pid) - before[1],
    };
  } finally {
    rmSync(targetRam, { force: true });
  }
}

/** For a move over multifd channels, or over the main one alone, that its target confirms and nothing slows down. */
export async function prepareMove(client: Qmp, channels: number, zeroCopy = false): Promise<void> {
  const capabilities = [
    { capability: "multifd", state: channels > 0 },
    { capability: "return-path", state: true },
    ...(zeroCopy ? [{ capability: "zero-copy-send", state: true }] : []),
  ];
  await client.execute("migrate-set-capabilities", { capabilities });
  await client.execute("migrate-set-parameters", {
    "max-bandwidth": 2 ** 40,
    "downtime-limit": 2_000_000,
    ...(channels > 0 ? { "multifd-channels": channels } : {}),
  });
}

/** Often: some moves take a tenth of a second. */
export const LOOK_MS = 5;

/** From the command until QEMU calls it completed, in seconds. */
export async function timeMove(client: Qmp, uri: string): Promise<number> {
  const startedMs = performance.now();
  await client.execute("migrate", { uri });
  const info = await pollUntil(
    () => client.execute("query-migrate"),
    ({ status }) => ["completed", "failed", "cancelled"].includes(status),
    LOOK_MS,
    Number.POSITIVE_INFINITY, // whoever takes too long is ended from outside
  );
  const seconds = (performance.now() - startedMs) / 1000;
  if (info.status !== "completed") throw new Error(`QEMU: ${info.status}: ${info["error-desc"]}`);
  return seconds;
}

export interface MultifdOptions {
  command?: QemuCommand;
  scheme?: Scheme;
  mib: number;
  folder: string;
  /** The source's RAM; the target's is made anew beside it for each move. */
  ram: string;
  /** Of its pages that are not zero. */
  bytes: number;
  channels: number;
  zeroCopy?: boolean;
  /** The target's RAM stays, and what it had of the move before is overwritten: its host takes long to make it anew. */
  keepsTarget?: boolean;
  countsCalls?: boolean;
}

/** From process to process, over multifd channels; `wholeSeconds` as QEMU itself tells it. */
export async function moveMultifd(options: MultifdOptions): Promise<Sample> {
  const { command, scheme, mib, folder, ram, bytes, channels, zeroCopy, keepsTarget, countsCalls } = options;
  const uri = scheme === "tcp" ? `tcp:127.0.0.1:${await freePort()}` : `unix:${join(folder, "channel-qemu")}`;
  const targetRam = `${ram}.target`;
  if (!keepsTarget) rmSync(targetRam, { force: true });
  try {
    const incoming = ["-incoming", "defer"];
    await using source = machine([], ram, mib, true, join(folder, "qemu-source"), [], command);
    await using target = machine([], targetRam, mib, true, join(folder, "qemu-target"), incoming, command);
    const client = await source.connect();
    const receiver = await target.connect();
    await prepareMove(client, channels, zeroCopy);
    await prepareMove(receiver, channels);
    await receiver.execute("migrate-incoming", { uri });
    const counter = countsCalls ? await CallCounter.start(source.pid, folder) : null;
    const before = [cpuSeconds(source.pid), cpuSeconds(target.pid)];
    const seconds = await timeMove(client, uri);
    const [txCpuSeconds, rxCpuSeconds] = [source, target].map(({ pid }, i) => cpuSeconds(pid) - before[i]);
    const countedCalls = await counter?.end();
    const { "total-time": totalMs } = await client.execute("query-migrate");
    return {
      seconds,
      wholeSeconds: totalMs / 1000,
      bytes,
      txCpuSeconds,
      rxCpuSeconds,
      ...(countsCalls && { countedCalls }),
    };
  } finally {
    if (!keepsTarget) rmSync(targetRam, { force: true });
  }
}

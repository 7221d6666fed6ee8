// Debian's QEMU, its plain stream: RAM in files that already hold the same mix of pages.
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import {
  asSource,
  asTarget,
  cpuSeconds,
  freePort,
  Peer,
  type Placement,
  pollUntil,
  type Sample,
  type Scheme,
} from "./measure.ts";

const QEMU = "qemu-system-x86_64";

/** Its version; null where it is not installed. */
export async function qemuVersion(): Promise<string | null> {
  if (!Bun.which(QEMU)) return null;
  const text = await Bun.$`${QEMU} --version`.text();
  return /version ([^)]*\))/.exec(text)?.[1] ?? text;
}

/** The walker's mix: random, text, random, zero. QEMU only tells zero from other pages. */
export function fillFile(path: string, mib: number): void {
  const piece = new Uint8Array(1 << 20);
  const fd = openSync(path, "w");
  for (let done = 0; done < mib; done++) {
    for (let at = 0; at < piece.length; at += 65536) crypto.getRandomValues(piece.subarray(at, at + 65536));
    for (let at = 0; at < piece.length; at += 16384) {
      piece.fill(0x20, at + 4096, at + 8192);
      piece.fill(0, at + 12288, at + 16384);
    }
    writeSync(fd, piece);
  }
  closeSync(fd);
}

/** A machine that is nothing but RAM, and never runs. */
function machine(runner: string[], ram: string, mib: number, prealloc: boolean, qmp: string, more: string[]): Peer {
  const backend = `memory-backend-file,id=ram,size=${mib}M,mem-path=${ram},share=on,prealloc=${prealloc ? "on" : "off"}`;
  const options = ["-M", "none,memory-backend=ram", "-m", `${mib}M`, "-object", backend, "-accel", "tcg", "-S"];
  const rest = ["-nodefaults", "-display", "none", "-qmp", `unix:${qmp},server=on,wait=off`, ...more];
  return new Peer([...runner, QEMU, ...options, ...rest], qmp);
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

// tram to tram: a paused, preallocated walker into a second process.
import { join } from "node:path";
import {
  asSource,
  asTarget,
  cpuSeconds,
  freePort,
  Peer,
  type Placement,
  pollUntil,
  residentBytes,
  type Sample,
  type Scheme,
} from "./measure.ts";

export const TRAM = process.env.TRAM ?? "build/tram";

export interface TramOptions {
  scheme: Scheme;
  placement: Placement;
  mib: number;
  folder: string;
  iovMax?: number;
  /** The same stream through a copying buffer. */
  copying?: boolean;
  /** The target's RAM is not touched before the move. */
  cold?: boolean;
}

/** Round 1 is the whole guest: it is paused. Connecting and handing over are in the CPU time, not in `seconds`. */
export async function moveTram({
  scheme,
  placement,
  mib,
  folder,
  iovMax,
  copying,
  cold,
}: TramOptions): Promise<Sample> {
  const socket = (name: string) => join(folder, "tram", `${name}.qmp`);
  const env = { XDG_RUNTIME_DIR: folder };
  const uri = scheme === "unix" ? `unix:${join(folder, "channel")}` : `tcp:127.0.0.1:${await freePort()}`;
  const memory = ["--memory", `${mib}M`];
  const walker = ["--guest", "walker", "--fill", "mixed", "--working-set", "4M", "--paused", "--prealloc"];
  await using source = new Peer(
    [...asSource(placement), TRAM, "run", ...walker, ...memory, "--name", "source"],
    socket("source"),
    env,
  );
  const incoming = ["--incoming", uri, ...(cold ? [] : [...memory, "--prealloc"])];
  await using target = new Peer(
    [...asTarget(placement), TRAM, "run", ...incoming, "--name", "target"],
    socket("target"),
    env,
  );
  const client = await source.connect();
  // The source leaves once the client that asked for the move has seen its end; another one may look on meanwhile.
  const watcher = await source.connect();
  const receiver = await target.connect();
  await pollUntil(
    () => client.execute("query-status"),
    ({ status }) => status === "paused",
  );
  await pollUntil(
    () => receiver.execute("query-status"),
    ({ status }) => status === "inmigrate",
  );

  const before = [cpuSeconds(source.pid), cpuSeconds(target.pid)];
  await client.execute("migrate", { uri, tram: { iovMax: iovMax ?? 1024, copying: copying === true } });
  const journal = await pollUntil(
    () => watcher.execute("tram-query-move"),
    ({ phase }) => ["completed", "failed", "cancelled"].includes(phase),
  );
  if (journal.phase !== "completed") throw new Error(`tram: ${journal.error?.message ?? journal.phase}`);
  const [round] = journal.rounds;
  return {
    seconds: round.durationMs / 1000,
    wholeSeconds: journal.elapsedMs / 1000,
    bytes: round.bytes,
    txCpuSeconds: cpuSeconds(source.pid) - before[0],
    rxCpuSeconds: cpuSeconds(target.pid) - before[1],
    txExtraBytes: residentBytes(source.pid) - mib * 2 ** 20,
    rxExtraBytes: residentBytes(target.pid) - mib * 2 ** 20,
  };
}

/** From spawn to the first byte on the serial port, in ms: the walker writes it after one pass over its one page. */
export async function startTram(folder: string): Promise<number> {
  const guest = [
    "--guest",
    "walker",
    "--memory",
    "16M",
    "--fill",
    "zero",
    "--working-set",
    "4K",
    "--dirty-rate",
    "max",
  ];
  const startedMs = performance.now();
  const tram = Bun.spawn([TRAM, "run", ...guest, "--serial", "stdio"], {
    stdin: "ignore",
    stderr: "ignore",
    env: { ...process.env, XDG_RUNTIME_DIR: folder },
  });
  try {
    const { value } = await tram.stdout.getReader().read();
    if (!value?.length) throw new Error("tram run: no byte on the serial port");
    return performance.now() - startedMs;
  } finally {
    tram.kill("SIGTERM");
    await tram.exited;
  }
}

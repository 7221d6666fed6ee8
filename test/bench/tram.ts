// tram to tram: a paused walker, preallocated but for one kind of move, into a second process.
import { join } from "node:path";
import { sumCounts } from "../../src/control/barrier.ts";
import type { ZeroCopyMode } from "../../src/control/copying.ts";
import type { Journal } from "../../src/control/journal.ts";
import {
  asSource,
  asTarget,
  CallCounter,
  cpuSeconds,
  freePort,
  minorFaults,
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
  /** Nor is the source's, but for a small working set. */
  untouched?: boolean;
  /** Connections beside the main one, which carry the pages. */
  channels?: number;
  zeroCopy?: ZeroCopyMode;
  countsCalls?: boolean;
}

export interface TramSample extends Sample {
  wholeSeconds: number;
  /** Those that were sent with content; and those that were not even looked at. */
  pages: number;
  untouchedPages: number;
  txFaults: number;
  rxFaults: number;
  /** Sent without a copy of tram's, and of these the share that the kernel copied after all. */
  zeroCopyBytes: number;
  copiedShare: number;
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
  untouched,
  channels,
  zeroCopy,
  countsCalls,
}: TramOptions): Promise<TramSample> {
  const socket = (name: string) => join(folder, "tram", `${name}.qmp`);
  const env = { XDG_RUNTIME_DIR: folder };
  const uri = scheme === "unix" ? `unix:${join(folder, "channel")}` : `tcp:127.0.0.1:${await freePort()}`;
  const memory = ["--memory", `${mib}M`];
  const content = untouched ? ["--fill", "zero"] : ["--fill", "mixed", "--prealloc"];
  const walker = ["--guest", "walker", ...content, "--working-set", "4M", "--paused"];
  await using source = new Peer(
    [...asSource(placement), TRAM, "run", ...walker, ...memory, "--name", "source"],
    socket("source"),
    env,
  );
  const incoming = ["--incoming", uri, ...(cold || untouched ? [] : [...memory, "--prealloc"])];
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

  const counter = countsCalls ? await CallCounter.start(source.pid, folder) : null;
  const before = [cpuSeconds(source.pid), cpuSeconds(target.pid)];
  const faultsBefore = [minorFaults(source.pid), minorFaults(target.pid)];
  const ways = { iovMax: iovMax ?? 1024, copying: copying === true, channels: channels ?? 0, zeroCopy };
  await client.execute("migrate", { uri, tram: ways });
  const journal: Journal = await pollUntil(
    () => watcher.execute("tram-query-move"),
    ({ phase }) => ["completed", "failed", "cancelled"].includes(phase),
  );
  if (journal.phase !== "completed") throw new Error(`tram: ${journal.error?.message ?? journal.phase}`);
  const [round] = journal.rounds;
  const counts = sumCounts(journal.multifd ? journal.channels : []);
  return {
    ...(journal.multifd && { systemCalls: counts.systemCalls }),
    ...(counter && { countedCalls: await counter.end() }),
    pages: round.pages,
    untouchedPages: journal.untouchedPages,
    txFaults: minorFaults(source.pid) - faultsBefore[0],
    rxFaults: minorFaults(target.pid) - faultsBefore[1],
    zeroCopyBytes: counts.zeroCopyBytes,
    copiedShare: counts.copiedBytes / Math.max(1, counts.zeroCopyBytes),
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

// Moves of a walker that a test holds in one of their phases: the other side stands still, as a process that was stopped does, and
// neither reads nor answers. And the guest that is moved, asked without a command in between.
import { expect } from "bun:test";
import { closeSync, constants, openSync, readFileSync, writeSync } from "node:fs";
import type { Journal, Phase } from "../../src/control/journal.ts";
import { net } from "../../src/native/net.ts";
import { parseAddress } from "../../src/transport/address.ts";
import { connect, type Endpoint } from "../../src/transport/index.ts";
import { type Bed, freePort, type Running, TRAM, type Verified } from "./bed.ts";
import { QmpClient } from "./qmp-client.ts";

const WALKER = ["--dirty-rate", "max", "--fill", "random"];
/** Slow enough to be met in each phase; what the walker writes meanwhile is never sent in a millisecond. */
export const ENDLESS = ["--max-bandwidth", "64MiB/s", "--max-downtime", "1ms"];
/** What only a hang would take. */
export const HANG_MS = 5000;
const QUIET_MS = 120;

/** The guest that is moved, asked without a command in between. */
export class Source {
  readonly running: Running;
  readonly #qmp: QmpClient;
  readonly #setPages: number;

  private constructor(running: Running, qmp: QmpClient, setPages: number) {
    this.#setPages = setPages;
    this.running = running;
    this.#qmp = qmp;
  }

  /** Half of its memory is its working set. All of it is more than the buffers of a TCP connection take. */
  static async start(bed: Bed, mib = 64): Promise<Source> {
    const running = await bed.walker("a", "--memory", `${mib}M`, "--working-set", `${mib / 2}M`, ...WALKER);
    return new Source(running, await QmpClient.connect(bed.path("tram/a.qmp")), mib * 128);
  }

  ask<T>(command: string, args?: object): Promise<T> {
    return this.#qmp.execute<T>(command, args);
  }

  move(): Promise<Partial<Journal>> {
    return this.ask("tram-query-move");
  }

  async state() {
    const { status } = await this.ask<{ status: string }>("query-status");
    return { status, ...(await this.ask<{ tracking: boolean; throttlePercent: number }>("tram-query-tracking")) };
  }

  /** How long it takes from now until the move is over, and the guest as if there had been none. */
  async back(): Promise<number> {
    const startedMs = performance.now();
    for (;;) {
      const isOver = ["cancelled", "failed"].includes((await this.move()).phase ?? "");
      const state = await this.state();
      const ms = performance.now() - startedMs;
      if (isOver && state.status === "running" && !state.tracking && state.throttlePercent === 0) return ms;
      if (ms > HANG_MS) throw new Error(`it does not come back: ${JSON.stringify([state, await this.move()])}`);
      await Bun.sleep(1);
    }
  }

  /** Stops the walker, verifies every page, and lets it go on: the pages that it has been through. */
  async steps(): Promise<number> {
    await this.ask("stop");
    const { bad, badCpus, cpus } = await this.ask<Verified & { bad: number; badCpus: number }>("tram-check-guest");
    expect({ bad, badCpus }).toEqual({ bad: 0, badCpus: 0 });
    await this.ask("cont");
    return cpus.reduce((sum, { pass, boundary }) => sum + pass * this.#setPages + boundary, 0);
  }

  async goesOn(): Promise<void> {
    const before = await this.steps();
    for (const end = performance.now() + HANG_MS; (await this.steps()) === before; )
      if (performance.now() > end) throw new Error("the walker stands still");
  }

  /** Pages that the walker goes through in a second of its CPU: what else the host does counts little. */
  async pace(): Promise<number> {
    const [before, cpuBefore] = [await this.steps(), this.#cpuSeconds()];
    await Bun.sleep(1500);
    const [cpu, after] = [this.#cpuSeconds(), await this.steps()];
    return (after - before) / (cpu - cpuBefore);
  }

  /** All threads', and the guest's own time is the most of it. */
  #cpuSeconds(): number {
    const fields = readFileSync(`/proc/${this.running.pid}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ");
    return (Number(fields[11]) + Number(fields[12])) / 100; // utime and stime, in ticks
  }
}

/** What the guest is sent to. Stopped, it neither reads nor answers. */
export interface Far {
  /** Of the guest that waits there, if one does. */
  name: string;
  uri: string;
  running: Running;
  /** Behind its address nobody is let in any more; returns what ends that. */
  fill(): () => void;
  /** The command that moves the guest there. */
  move(options: readonly string[]): Running;
}

let made = 0;

async function socket(bed: Bed, uri: string, ...more: string[]): Promise<Far> {
  const name = `b${++made}`;
  return {
    name,
    uri,
    running: await bed.target(name, uri),
    fill: () => fillBacklog(parseAddress(uri) as Endpoint),
    move: (options) => bed.start(["migrate", "a", uri, ...more, ...options]),
  };
}

/** Connections that say nothing, until no other is taken. */
function fillBacklog(endpoint: Endpoint): () => void {
  const fds: number[] = [];
  try {
    for (;;) fds.push(connect(endpoint, 40, new Int32Array(1)));
  } catch {
    return () => fds.forEach((fd) => void net.close(fd));
  }
}

async function fifo(bed: Bed, uri: (path: string) => string): Promise<Far> {
  const path = bed.path(`pipe${++made}`);
  await bed.exec(["mkfifo", path]);
  const to = uri(path);
  // Its standard output is the pipe itself: opening that waits for the reader.
  const command = to === "-" ? `exec "$0" migrate a - "$@" > '${path}'` : `exec "$0" migrate a '${to}' "$@"`;
  return {
    name: "",
    uri: to,
    running: bed.spawn(["sh", "-c", `exec cat '${path}' > /dev/null`]),
    fill: () => fillPipe(path),
    move: (options) => bed.spawn(["sh", "-c", command, TRAM, ...options]),
  };
}

function fillPipe(path: string): () => void {
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  try {
    for (;;) writeSync(fd, new Uint8Array(4096));
  } catch {
    return () => closeSync(fd);
  }
}

const tcp = () => `tcp:127.0.0.1:${freePort()}`;
export const OVER = {
  tcp: (bed) => socket(bed, tcp()),
  unix: (bed) => socket(bed, `unix:${bed.path(`in${++made}`)}`),
  "two channels": (bed) => socket(bed, tcp(), "--channels", "2"),
  "a pipe": (bed) => fifo(bed, () => "-"),
  "exec:": (bed) => fifo(bed, (path) => `exec:cat > ${path}`),
} satisfies Record<string, (bed: Bed) => Promise<Far>>;
export type Over = keyof typeof OVER;

export const PLACES = ["waiting", "setup", "bulk pass", "later round", "device"] as const;
export type Place = (typeof PLACES)[number];
export const phaseOf = (place: Place): Phase => (place === "bulk pass" || place === "later round" ? "active" : place);

export interface Held {
  cli: Running;
  far: Far;
  /** The other side reads and answers. */
  goOn(): void;
}

/** A move that has come there and no further, because the other side does not answer, or does not read. */
export async function held(bed: Bed, source: Source, over: Over, place: Place, ...more: string[]): Promise<Held> {
  const far = await OVER[over](bed);
  const { running } = far;
  const isPipe = far.uri === "-";
  let open = () => {};
  const isEarly = place === "waiting" || place === "setup";
  if (isEarly) running.kill("SIGSTOP");
  if (place === "waiting" || (isEarly && isPipe)) open = far.fill();
  const cli = far.move([...ENDLESS, ...(place === "device" ? ["--max-downtime", "10m"] : []), ...more]);
  const isThere = async () => {
    const { phase, bytes = 0, roundsDone = 0 } = await source.move();
    return phase === phaseOf(place) && (isEarly || bytes > 0) && (place !== "later round" || roundsDone > 0);
  };
  // The last round is a moment for a reader that reads on.
  for (const end = performance.now() + HANG_MS; !(await isThere()); await Bun.sleep(1)) {
    if (cli.hasEnded || performance.now() > end)
      throw new Error(`${over}, ${place}: never there: ${cli.stderr} ${JSON.stringify(await source.move())}`);
    if (place !== "device") continue;
    running.kill("SIGCONT");
    await Bun.sleep(1);
    running.kill("SIGSTOP");
  }
  running.kill("SIGSTOP");
  const isQuiet = async () => {
    const { bytes } = await source.move();
    await Bun.sleep(QUIET_MS);
    return (await source.move()).bytes === bytes;
  };
  if (!isEarly) await bed.until(isQuiet, "nothing more is sent");
  const { phase, roundsDone = 0 } = await source.move();
  expect({ place, phase, isLater: roundsDone > 0 }).toEqual({
    place,
    phase: phaseOf(place),
    isLater: place === "later round" || place === "device",
  });
  expect((await source.state()).status).toBe(place === "device" ? "finish-migrate" : "running");
  const goOn = () => {
    open();
    running.kill("SIGCONT");
  };
  return { cli, far, goOn };
}

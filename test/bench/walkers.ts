// A walker of tram's own that writes while it moves, from one process to another: on one host, or over a cable of a fixed rate. Its
// move may be helped when it says that it stalls, and is cancelled when it takes too long.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Stall } from "../../src/control/convergence.ts";
import type { Journal } from "../../src/control/journal.ts";
import type { Limits } from "../../src/control/limits.ts";
import type { Network } from "../support/network.ts";
import { freePort, outputOf, Peer, pollUntil } from "./measure.ts";
import type { Qmp } from "./qmp.ts";
import { TRAM } from "./tram.ts";

export interface WalkerOptions {
  memoryMib: number;
  setMib: number;
  /** Null: as fast as it can. */
  pagesPerSec: number | null;
  fill: "random" | "mixed";
}

/** Where the two processes are; null: on this host, joined by its loopback. */
export type Place = Network | null;

/** When the move said for the first time that it does not come nearer to its end. */
export interface Said {
  stall: Stall;
  atMs: number;
  bytes: number;
}

export interface Moved {
  /** The target has it; else it was cancelled. */
  ended: boolean;
  said: Said | null;
  journal: Journal;
}

export interface MoveOptions {
  limits?: Partial<Limits>;
  /** How long to wait for its end. */
  boundMs: number;
  /** What is done when it says that it stalls; nothing, if not given. */
  onStall?: (stall: Stall) => Partial<Limits> | "cancel";
}

/** So many pages has the guest written by then. */
export interface Written {
  pages: number;
  atMs: number;
}

/** Pages a second between the two. */
export const paceOf = (from: Written, to: Written): number => ((to.pages - from.pages) * 1000) / (to.atMs - from.atMs);

/** A walker that runs, and a process that waits for it. */
export class Walker implements AsyncDisposable {
  readonly #source: Peer;
  readonly #target: Peer;
  readonly #uri: string;
  readonly #setPages: number;
  readonly #socket: (name: string) => string;
  #client!: Qmp;
  #watcher!: Qmp;
  #receiver!: Qmp;
  #stoodMs = 0;

  private constructor(source: Peer, target: Peer, uri: string, socket: (name: string) => string, setPages: number) {
    this.#source = source;
    this.#target = target;
    this.#uri = uri;
    this.#socket = socket;
    this.#setPages = setPages;
  }

  static async start(folder: string, place: Place, options: WalkerOptions): Promise<Walker> {
    const { memoryMib, setMib, pagesPerSec, fill } = options;
    mkdirSync(join(folder, "tram"), { recursive: true, mode: 0o700 });
    const socket = (name: string) => join(folder, "tram", `${name}.qmp`);
    const env = { XDG_RUNTIME_DIR: folder };
    const uri = `tcp:${place?.far.address ?? "127.0.0.1"}:${await freePort()}`;
    const guest = ["--guest", "walker", "--memory", `${memoryMib}M`, "--working-set", `${setMib}M`, "--fill", fill];
    const rate = ["--dirty-rate", pagesPerSec === null ? "max" : `${pagesPerSec}`];
    const run = (enter: string[] | undefined, name: string, args: string[]) =>
      new Peer([...(enter ?? []), TRAM, "run", ...args, "--name", name], socket(name), env);
    const source = run(place?.near.enter, "source", [...guest, ...rate]);
    const target = run(place?.far.enter, "target", ["--incoming", uri]);
    const walker = new Walker(source, target, uri, socket, setMib * 256);
    try {
      await walker.#isReady();
      return walker;
    } catch (error) {
      await walker[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #isReady(): Promise<void> {
    this.#client = await this.#source.connect();
    // The source leaves once the client that asked for the move has seen its end; another one may look on meanwhile.
    this.#watcher = await this.#source.connect();
    this.#receiver = await this.#target.connect();
    for (const [client, ready] of [
      [this.#client, "running"],
      [this.#receiver, "inmigrate"],
    ] as const)
      await pollUntil(
        () => client.execute("query-status"),
        ({ status }) => status === ready,
      );
  }

  /** What a command of tram's tells of it as JSON. */
  async ask<T>(command: string, ...args: string[]): Promise<T> {
    return this.#askOf("source", command, ...args);
  }

  async #askOf<T>(name: string, command: string, ...args: string[]): Promise<T> {
    return JSON.parse(await outputOf([TRAM, command, `unix:${this.#socket(name)}`, ...args, "--json"]));
  }

  /** By the guest's own account, which needs it to stand still for a moment: at the target, if it has moved. */
  async written(hasMoved: boolean): Promise<Written> {
    const client = hasMoved ? this.#receiver : this.#client;
    await client.execute("stop");
    const stoppedMs = performance.now();
    const { cpus } = await this.#askOf<{ cpus: { pass: number; boundary: number }[] }>(
      hasMoved ? "target" : "source",
      "check-guest",
    );
    await client.execute("cont");
    const stoodMs = performance.now() - stoppedMs;
    this.#stoodMs += stoodMs;
    const pages = cpus.reduce((sum, { pass, boundary }) => sum + pass * this.#setPages + boundary, 0);
    return { pages, atMs: stoppedMs + stoodMs - this.#stoodMs }; // as if it had never stood still
  }

  /** Pages that it really writes each second, before it has been through all of its working set. */
  async dirtyRate(forMs: number): Promise<number> {
    const { written } = await this.ask<{ written: { ms: number; pages: number }[] }>(
      "dirty-rate",
      "--for",
      `${forMs}ms`,
    );
    const { ms, pages } = written.findLast((point) => point.pages < this.#setPages * 0.9) ?? written[0];
    return (pages * 1000) / ms;
  }

  async move({ limits, boundMs, onStall }: MoveOptions): Promise<Moved> {
    await this.#client.execute("migrate", { uri: this.#uri, tram: { ...limits } });
    const startedMs = performance.now();
    let said: Said | null = null;
    let isCancelled = false;
    const cancel = async () => {
      if (!isCancelled) await this.#client.execute("migrate_cancel");
      isCancelled = true;
    };
    const journal: Journal = await pollUntil(
      async () => {
        const now: Journal = await this.#watcher.execute("tram-query-move");
        if (now.stall && !said) {
          said = { stall: now.stall, atMs: now.elapsedMs, bytes: now.bytes };
          const help = onStall?.(now.stall);
          if (help === "cancel") await cancel();
          else if (help) await this.#client.execute("tram-set", help);
        }
        if (performance.now() - startedMs > boundMs) await cancel();
        return now;
      },
      ({ phase }) => ["completed", "failed", "cancelled"].includes(phase),
      undefined,
      boundMs + 10_000,
    );
    if (journal.phase === "failed") throw new Error(`tram: ${journal.error?.message}`);
    return { ended: journal.phase === "completed", said, journal };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source[Symbol.asyncDispose]();
    await this.#target[Symbol.asyncDispose]();
  }
}

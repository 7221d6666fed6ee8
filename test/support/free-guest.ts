// Walkers with free pages: asked without a command in between, moved in every way, and checked.
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { inflateSync } from "node:zlib";
import type { FinalReport } from "../../src/cli/report.ts";
import type { Journal } from "../../src/control/journal.ts";
import type { BalloonFacts } from "../../src/machine/balloon.ts";
import { type Bed, freePort, type Running, TRAM } from "./bed.ts";
import { QmpClient } from "./qmp-client.ts";

/** What only a hang would take. */
const HANG_MS = 20_000;

export interface Checked {
  bad: number;
  badCpus: number;
  nonZero: number;
  /** Of the pages that may be free, those that are in use. */
  reused: number;
  cpus: { pass: number; boundary: number }[];
}

export interface FreePagesFacts {
  pages: number;
  free: number;
  bitmap: string;
}

/** Polls until `look` finds something. */
export async function found<T>(look: () => Promise<T | null>, what: string, running?: Running): Promise<T> {
  for (const end = performance.now() + HANG_MS; ; await Bun.sleep(2)) {
    const it = await look();
    if (it !== null) return it;
    if (running?.hasEnded) throw new Error(`${what}: the process ended: ${running.stderr}`);
    if (performance.now() > end) throw new Error(`${what}: not within ${HANG_MS} ms. ${running?.stderr ?? ""}`);
  }
}

/** A guest and its process. */
export class FreeGuest {
  readonly name: string;
  readonly running: Running;
  readonly #qmp: QmpClient;

  private constructor(name: string, running: Running, qmp: QmpClient) {
    this.name = name;
    this.running = running;
    this.#qmp = qmp;
  }

  /** Of a process that was started: as soon as it answers. */
  static async at(bed: Bed, name: string, running: Running): Promise<FreeGuest> {
    const qmp = await found(
      () => QmpClient.connect(bed.path(`tram/${name}.qmp`)).catch(() => null),
      `guest ${name}`,
      running,
    );
    return new FreeGuest(name, running, qmp);
  }

  /** A walker whose balloon has its driver. */
  static async walker(bed: Bed, name: string, ...options: string[]): Promise<FreeGuest> {
    const guest = await FreeGuest.at(bed, name, bed.start(["run", "--guest", "walker", "--name", name, ...options]));
    return guest.driven();
  }

  async driven(): Promise<this> {
    await this.until(async () => (await this.balloon()).hints === true, "its balloon has a driver");
    return this;
  }

  ask<T>(command: string, args?: object): Promise<T> {
    return this.#qmp.execute<T>(command, args);
  }

  move(): Promise<Partial<Journal>> {
    return this.ask("tram-query-move");
  }

  balloon(): Promise<Partial<BalloonFacts>> {
    return this.ask("tram-query-balloon");
  }

  freePages(): Promise<FreePagesFacts> {
    return this.ask("tram-query-free-pages");
  }

  async status(): Promise<string> {
    return (await this.ask<{ status: string }>("query-status")).status;
  }

  async isTracked(): Promise<boolean> {
    return (await this.ask<{ tracking: boolean }>("tram-query-tracking")).tracking;
  }

  async until(condition: () => Promise<boolean>, what: string): Promise<void> {
    await found(async () => (await condition()) || null, `${this.name}: ${what}`, this.running);
  }

  /** Every page is what it must be. A guest that runs is stopped for that, and goes on. */
  async check(): Promise<Checked> {
    const runs = (await this.status()) === "running";
    if (runs) await this.ask("stop");
    const checked = await this.ask<Checked>("tram-check-guest");
    expect({ name: this.name, ...checked }).toMatchObject({ name: this.name, bad: 0, badCpus: 0 });
    if (runs) await this.ask("cont");
    return checked;
  }

  /** It runs, and walks; every page is right before and behind. */
  async goesOn(): Promise<Checked> {
    const before = JSON.stringify((await this.check()).cpus);
    return found(async () => {
      const checked = await this.check();
      return JSON.stringify(checked.cpus) === before ? null : checked;
    }, `${this.name} goes on`);
  }

  /** A person ends it. */
  async quit(): Promise<void> {
    await this.ask("quit").catch(() => {}); // it may be gone before it has answered
    await this.running.code;
    this.close();
  }

  close(): void {
    this.#qmp.close();
  }
}

// --- moves

export const OVER = ["tcp", "unix", "two channels", "a pipe", "verified", "verified channels"] as const;
export type Over = (typeof OVER)[number];
const OPTIONS: Partial<Record<Over, string[]>> = {
  "two channels": ["--channels", "2"],
  verified: ["--verify"],
  "verified channels": ["--verify", "--channels", "2"],
};

export interface MovePlan {
  over?: Over;
  /** Of tram migrate. */
  options?: readonly string[];
  /** Of the guest's new process. */
  target?: readonly string[];
  /** What is done while it moves. */
  during?: (from: FreeGuest) => Promise<unknown>;
}

export interface Move {
  report: FinalReport;
  code: number;
  stderr: string;
  /** The new process; null if the guest did not leave. */
  to: FreeGuest | null;
}

let moves = 0;

/** Moves the guest to a process of that name. What is left behind is ended. */
export async function moved(bed: Bed, from: FreeGuest, name: string, plan: MovePlan = {}): Promise<Move> {
  const { over = "unix", options = [], target = [], during = async () => {} } = plan;
  const n = ++moves;
  const events = bed.path(`events${n}`);
  const words = [...(OPTIONS[over] ?? []), ...options];
  let cli: Running;
  let far: Running;
  if (over === "a pipe") {
    const pipe = bed.path(`pipe${n}`);
    await bed.exec(["mkfifo", pipe]);
    far = bed.spawn(["sh", "-c", `exec "$0" run --incoming - --name "$@" < '${pipe}'`, TRAM, name, ...target]);
    const line = `exec "$0" migrate "$@" > '${pipe}'`;
    cli = bed.spawn(["sh", "-c", line, TRAM, from.name, "-", `--json=${events}`, ...words]);
  } else {
    const uri = over === "unix" ? `unix:${bed.path(`in${n}`)}` : `tcp:127.0.0.1:${freePort()}`;
    far = await bed.target(name, uri, ...target);
    cli = bed.start(["migrate", from.name, uri, `--json=${events}`, ...words]);
  }
  const [code] = await Promise.all([cli.code, during(from)]);
  const text = readFileSync(events, "utf8").trim();
  const report = JSON.parse(text.split("\n").at(-1) as string) as FinalReport;
  if (report.owner === "source") {
    if (!far.hasEnded) far.kill("SIGKILL");
    await far.code;
    return { report, code, stderr: cli.stderr, to: null };
  }
  const to = await FreeGuest.at(bed, name, far);
  await to.until(async () => ["running", "paused"].includes(await to.status()), "has arrived");
  if (report.owner === "unconfirmed") await from.quit();
  else await from.running.code;
  from.close();
  return { report, code, stderr: cli.stderr, to };
}

/** Moves it, which must succeed. */
export async function arrived(
  bed: Bed,
  from: FreeGuest,
  name: string,
  plan: MovePlan = {},
): Promise<{ report: FinalReport; to: FreeGuest }> {
  const { report, code, stderr, to } = await moved(bed, from, name, plan);
  const { outcome, error } = report;
  expect({ code, stderr: code === 0 ? "" : stderr, outcome, error }).toEqual({
    ...{ code: 0, stderr: "", outcome: "completed", error: null },
  });
  if (!to) throw new Error("it is where it was");
  return { report, to };
}

/** Pages that were left out when it was their turn. */
export const leftOut = (report: FinalReport): number =>
  report.untouchedPages + report.hintedPages + report.balloonedPages + report.reportedPages;

/** Of those that were left out, how many were sent later: somebody had written to them in between. */
export const cameLater = (report: FinalReport): number =>
  report.sentPages + report.zeroPages - report.resentPages + leftOut(report) - report.totalPages;

/** The numbers of the pages in it. */
export function pagesIn({ pages, bitmap }: FreePagesFacts): number[] {
  const bytes = inflateSync(Buffer.from(bitmap, "base64"));
  expect(bytes.length * 8).toBeGreaterThanOrEqual(pages);
  return Array.from({ length: bytes.length * 8 }, (_, page) => page).filter(
    (page) => bytes[page >> 3] & (1 << (page & 7)),
  );
}

/** This move has begun to send, and its guest is asked for its free pages; or it is over already, and the guest gone. */
export const isAsked = (guest: FreeGuest): Promise<void> =>
  guest.until(async () => {
    const move = await guest.move().catch(() => null);
    if (!move) return true;
    const { direction, phase = "none" } = move; // until it begins these are of the move before, which may have brought it here
    return direction === "outgoing" && ["active", "held", "device", "handover", "completed"].includes(phase);
  }, "it moves");

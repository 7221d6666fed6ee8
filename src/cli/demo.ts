// tram demo: a busy guest moves twice, and every page of it is verified after each move. What a newcomer runs first.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { EXIT, TramError } from "../errors.ts";
import { ACCELS, type Accel } from "../machine/tracking.ts";
import { openKvm } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import type { FinalReport } from "./report.ts";
import { parseAccel } from "./run.ts";
import { ownCommand } from "./self.ts";
import { formatBytes, formatCount, formatMs, formatRate, parseMemory } from "./units.ts";

const READY_MS = 20_000;
const BETWEEN_MOVES_MS = 1000;
/** It would write faster than anything is carried. */
const TWIN_RATE = "20000";

export const demo = command({
  name: "demo",
  summary: "moves a busy guest twice on this host and verifies every page",
  args: {
    memory: { type: "string", description: "the guest's RAM (default 512M)", valueHint: "SIZE" },
    dirtyRate: {
      type: "string",
      description: "pages the guest writes each second, or max (default max; without KVM 20000)",
      valueHint: "PAGES|max",
      suggestions: ["max"],
    },
    accel: { type: "string", description: "kvm, or none (default kvm where it is)", values: ACCELS },
  },
  examples: ["tram demo", "tram demo --memory 2G --dirty-rate 20000"],
  async run(args) {
    const memory = args.memory ?? "512M";
    parseMemory(memory, "--memory");
    const accel = args.accel === undefined ? whatRunsHere() : parseAccel(args.accel);
    const stage = new Stage();
    try {
      await stage.play(memory, args.dirtyRate ?? (accel === "kvm" ? "max" : TWIN_RATE), accel);
      return EXIT.done;
    } finally {
      await stage.clear();
    }
  },
});

/** KVM, or why not. */
function whatRunsHere(): Accel {
  try {
    net.close(openKvm());
    return "kvm";
  } catch (error) {
    say(`${(error as Error).message}: the guest's native twin walks through the same memory instead (--accel none)`);
    return "none";
  }
}

/** Runs this same executable as a user would, with a runtime folder of its own. */
class Stage {
  readonly #folder = mkdtempSync(join(tmpdir(), "tram-demo-"));
  readonly #guests: Subprocess[] = [];

  get #env(): Record<string, string | undefined> {
    return { ...process.env, XDG_RUNTIME_DIR: this.#folder };
  }

  async #tram(...args: string[]): Promise<string> {
    const child = Bun.spawn(ownCommand(args), { env: this.#env, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const [out, problem] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    const code = await child.exited;
    if (code !== 0)
      throw new TramError("E_GUEST", `tram ${args.join(" ")} exited ${code}`, { found: problem.trim() || out.trim() });
    return out.trim();
  }

  /** A guest's process, once it says that it runs, or waits. */
  async #start(...args: string[]): Promise<void> {
    const child = Bun.spawn(ownCommand(["run", ...args]), {
      env: this.#env,
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    this.#guests.push(child);
    let said = "";
    const ready = Promise.withResolvers<void>();
    const timer = setTimeout(
      () => ready.reject(new TramError("E_TIMED_OUT", "a guest's process does not start", { found: said })),
      READY_MS,
    );
    void (async () => {
      for await (const piece of child.stderr) {
        said += new TextDecoder().decode(piece);
        if (/ (runs|waits)[ :]/.test(said)) ready.resolve();
      }
      ready.reject(new TramError("E_GUEST", "a guest's process ended early", { found: said.trim() }));
    })();
    await ready.promise.finally(() => clearTimeout(timer));
  }

  async #verified(name: string): Promise<string> {
    await this.#tram("pause", name);
    const line = await this.#tram("check-guest", name);
    await this.#tram("resume", name);
    return line.replace(`${name}: `, "");
  }

  async #move(from: string, to: string, uri: string, accel: Accel): Promise<FinalReport> {
    await this.#start("--incoming", uri, "--name", to, "--accel", accel);
    const lines = (await this.#tram("migrate", from, uri, "--json")).split("\n");
    return JSON.parse(lines.at(-1) as string) as FinalReport;
  }

  async play(memory: string, dirtyRate: string, accel: Accel): Promise<void> {
    say(
      `${accel === "kvm" ? "booting a guest" : "starting the native twin of a guest"} of ${memory} that writes ${dirtyRate === "max" ? "as fast as it can" : `${dirtyRate} pages a second`}`,
    );
    const walker = ["--guest", "walker", "--memory", memory, "--dirty-rate", dirtyRate];
    await this.#start(...walker, "--name", "one", "--accel", accel);
    await Bun.sleep(BETWEEN_MOVES_MS);

    const moves: [string, FinalReport][] = [];
    for (const [from, to, uri] of [
      ["one", "two", `tcp:127.0.0.1:${freePort()}`],
      ["two", "three", `unix:${join(this.#folder, "three.sock")}`],
    ]) {
      const scheme = uri.split(":")[0];
      say(`moving it to process '${to}' over ${scheme}:`);
      moves.push([`${scheme}:`, await this.#move(from, to, uri, accel)]);
      say(`'${to}' owns it. ${await this.#verified(to)}`);
      await Bun.sleep(BETWEEN_MOVES_MS);
    }
    const before = await this.#verified("three");
    await Bun.sleep(BETWEEN_MOVES_MS);
    const after = await this.#verified("three");
    if (before === after) throw new TramError("E_GUEST", "the guest does not go on after its moves", { found: after });
    say(`it goes on: ${after}`);
    const how = JSON.parse(await this.#tram("status", "three", "--json")).dirtyTracking.by;
    await this.#tram("quit", "three");
    print(table(moves));
    say(
      accel === "kvm"
        ? "the guest ran on KVM"
        : `without KVM: what ran was the guest's native twin, its writes found by --dirty-tracking ${how}`,
    );
  }

  async clear(): Promise<void> {
    for (const guest of this.#guests) guest.kill("SIGKILL");
    await Promise.all(this.#guests.map((guest) => guest.exited));
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** A port that is free now; port 0 cannot be told to the source. */
function freePort(): number {
  const fd = net.listenTcp("127.0.0.1", 0);
  const port = net.localPort(fd);
  net.close(fd);
  return port;
}

function table(moves: [string, FinalReport][]): string {
  const rows: [string, (report: FinalReport) => string][] = [
    ["rounds", (r) => `${r.rounds}`],
    ["pages sent", (r) => formatCount(r.sentPages)],
    ["  of these re-sent", (r) => formatCount(r.resentPages)],
    ["zero pages", (r) => formatCount(r.zeroPages)],
    ["bytes", (r) => formatBytes(r.bytes)],
    ["time", (r) => formatMs(r.elapsedMs)],
    ["rate", (r) => formatRate(r.bandwidthBytesPerSec)],
    ["downtime", (r) => `${r.downtimeMs} ms`],
    ...Object.keys(moves[0][1].downtimePartsMs).map((part): [string, (r: FinalReport) => string] => [
      `  ${part}`,
      (r) => `${r.downtimePartsMs[part]} ms`,
    ]),
    ["owner", (r) => r.owner],
  ];
  const line = (cells: string[]) =>
    `${cells[0].padEnd(20)}${cells
      .slice(1)
      .map((cell) => cell.padStart(16))
      .join("")}`;
  return [
    line(["move over", ...moves.map(([name]) => name)]),
    ...rows.map(([name, cell]) => line([name, ...moves.map(([, report]) => cell(report))])),
  ].join("\n");
}

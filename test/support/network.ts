// Two hosts for tests: network namespaces joined by a cable, with settings of their own. Needs root, and package iproute2.
import { existsSync, mkdirSync, renameSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

const SOURCE = join(import.meta.dir, "xdp-pass.c");
const PROGRAM = resolve(import.meta.dir, "../../build/test/xdp-pass");
const ANSWER_MS = 10_000;
/** What a slow cable lets pass at once: a few of the largest packets; and how long one may wait for it. */
const BURST_BYTES = 256 << 10;
const QUEUE_MS = 50;

/** Why there can be no such hosts here; null if there can. */
export async function whyNoNetwork(): Promise<string | null> {
  if (process.getuid?.() !== 0) return "network namespaces need root";
  if (!Bun.which("ip")) return "no ip: package iproute2";
  return unlessDone(async () => (await Network.create()).dispose());
}

/** Why the cable between them cannot be slow; null if it can. */
export async function whyNoSlowCable(): Promise<string | null> {
  if (!Bun.which("tc")) return "no tc: package iproute2";
  return (await whyNoNetwork()) ?? unlessDone(async () => (await Network.create({ bytesPerSec: 1e6 })).dispose());
}

/** Why pages cannot travel between them uncopied; null if they can. */
export async function whyNoUncopied(): Promise<string | null> {
  return (await whyNoNetwork()) ?? unlessDone(async () => (await Network.create({ uncopied: true })).dispose());
}

async function unlessDone(action: () => Promise<void>): Promise<string | null> {
  try {
    await action();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

function run(...argv: string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(argv, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString().trim()}`);
}

function compile(): void {
  if (existsSync(PROGRAM) && statSync(PROGRAM).mtimeMs > statSync(SOURCE).mtimeMs) return;
  mkdirSync(dirname(PROGRAM), { recursive: true });
  const made = `${PROGRAM}.${process.pid}`;
  run(process.env.CC ?? "cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-o", made, SOURCE);
  renameSync(made, PROGRAM);
}

/** One host of the two. */
export class Host {
  readonly address: string;
  readonly #namespace: string;

  constructor(namespace: string, address: string) {
    this.#namespace = namespace;
    this.address = address;
  }

  /** What goes before a command line that is to run on this host. */
  get enter(): string[] {
    return ["ip", "netns", "exec", this.#namespace];
  }

  /** How much memory a socket there may take besides its buffers, net.core.optmem_max. */
  limitOptionMemory(bytes: number): void {
    run(...this.enter, "sh", "-c", `echo ${bytes} > /proc/sys/net/core/optmem_max`);
  }
}

let made = 0;

export class Network {
  readonly near: Host;
  readonly far: Host;
  readonly #namespaces: readonly [near: string, far: string];
  /** Keeps the cable's far end from needing copies. */
  #uncopied: Bun.Subprocess<"pipe", "pipe", "pipe"> | null = null;

  private constructor() {
    const name = `tram-test-${process.pid}-${++made}`;
    this.#namespaces = [`${name}-near`, `${name}-far`];
    this.near = new Host(this.#namespaces[0], "192.0.2.1");
    this.far = new Host(this.#namespaces[1], "192.0.2.2");
  }

  /**
   * `uncopied`: what the near host sends to the far one without a copy is not copied on its way. `bytesPerSec`: what the cable
   * carries from the near host to the far one, headers of Ethernet included; 0: no limit.
   */
  static async create({ uncopied = false, bytesPerSec = 0 } = {}): Promise<Network> {
    const network = new Network();
    try {
      await network.#make(uncopied);
      if (bytesPerSec > 0) network.#slowDown(bytesPerSec);
      return network;
    } catch (error) {
      await network.dispose();
      throw error;
    }
  }

  async #make(uncopied: boolean): Promise<void> {
    const [near, far] = this.#namespaces;
    for (const name of this.#namespaces) run("ip", "netns", "add", name);
    run("ip", "link", "add", "cable", "netns", near, "type", "veth", "peer", "name", "cable", "netns", far);
    for (const [name, { address }] of [
      [near, this.near],
      [far, this.far],
    ] as const) {
      run("ip", "-n", name, "address", "add", `${address}/24`, "dev", "cable");
      for (const device of ["lo", "cable"]) run("ip", "-n", name, "link", "set", device, "up");
    }
    if (!uncopied) return;
    compile();
    const stdio = ["pipe", "pipe", "pipe"] as const;
    this.#uncopied = Bun.spawn([...this.far.enter, PROGRAM, "cable"], { stdio: [...stdio] });
    const { done } = await this.#uncopied.stdout.getReader().read();
    if (done) throw new Error(`XDP: ${(await new Response(this.#uncopied.stderr).text()).trim()}`);
  }

  #slowDown(bytesPerSec: number): void {
    const limits = ["rate", `${bytesPerSec * 8}bit`, "burst", `${BURST_BYTES}`, "latency", `${QUEUE_MS}ms`];
    run("tc", "-n", this.#namespaces[0], "qdisc", "add", "dev", "cable", "root", "tbf", ...limits);
  }

  async dispose(): Promise<void> {
    if (this.#uncopied) await this.#endUncopied(this.#uncopied); // else all is done before this returns
    for (const name of this.#namespaces) Bun.spawnSync(["ip", "netns", "delete", name], { stdio: ["ignore", "ignore", "ignore"] }); // biome-ignore format: one line
  }

  async #endUncopied(program: Bun.Subprocess<"pipe", "pipe", "pipe">): Promise<void> {
    program.stdin.end();
    const late = setTimeout(() => program.kill("SIGKILL"), ANSWER_MS);
    await program.exited;
    clearTimeout(late);
  }
}

// QEMU as a peer, in two versions, with a Linux guest that verifies its own memory and counts on its serial port
// (guest/init.c). fetch-peers.sh brings QEMU 10.0 and the kernel; QEMU 7.2 is the one that Debian 12 installs.
import { existsSync, readFileSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { QmpClient as TramQmpClient } from "../../src/qmp/client.ts";
import { Bed, Running } from "./bed.ts";
import { QmpClient } from "./qmp-client.ts";

export type QemuVersion = "7.2" | "10.0";

const CACHE = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "tram-test");
const KERNEL = join(CACHE, "linux-6.1/vmlinuz");
const INITRAMFS = resolve(import.meta.dir, "../../build/test/initramfs.cpio");

const UNPACKED = join(CACHE, "qemu-10.0/usr");
const FIRMWARE = ["qemu", "seabios"].flatMap((folder) => ["-L", join(UNPACKED, "share", folder)]);
const COMMANDS: Record<QemuVersion, { argv: string[]; env: Record<string, string> }> = {
  "7.2": { argv: ["qemu-system-x86_64"], env: {} },
  "10.0": {
    argv: [join(UNPACKED, "bin/qemu-system-x86_64"), ...FIRMWARE],
    env: { QEMU_MODULE_DIR: join(UNPACKED, "lib/x86_64-linux-gnu/qemu") },
  },
};

/** What starts this QEMU, its own firmware and modules included. */
export function qemuCommand(version: QemuVersion): { argv: string[]; env: Record<string, string> } {
  return COMMANDS[version];
}

const FETCH = "run test/support/fetch-peers.sh";

/** Why this QEMU cannot be started here; null if it can. */
export function whyNoBinary(version: QemuVersion): string | null {
  const { argv, env } = qemuCommand(version);
  const binary = Bun.which(argv[0] as string);
  if (!binary)
    return version === "7.2" ? "qemu-system-x86_64 is not installed" : `QEMU ${version} is missing: ${FETCH}`;
  const { stdout, stderr } = Bun.spawnSync([binary, "--version"], { env: { ...process.env, ...env } });
  const found = /version (\d+\.\d+)/.exec(stdout.toString())?.[1];
  if (!found) return `${binary} does not start: ${stderr.toString().trim()}`;
  return found === version ? null : `${binary} is version ${found}, not ${version}`;
}

const reasons = new Map<QemuVersion, string | null>();

/** Why tests with this QEMU and its Linux guest cannot run here; null if they can. */
export function whyNoQemu(version: QemuVersion): string | null {
  if (!reasons.has(version)) reasons.set(version, whyNoBinary(version));
  return (
    reasons.get(version) ??
    (existsSync(KERNEL) ? null : `the guest's kernel is missing: ${FETCH}`) ??
    (existsSync(INITRAMFS) ? null : "the guest's initramfs is missing: make build/test/initramfs.cpio")
  );
}

/** The guest's own settings: see main in guest/init.c. */
export interface GuestOptions {
  /** Memory that it keeps busy. */
  mib?: number;
  /** How long a tick takes at least. */
  ms?: number;
  /** Pages that it rewrites in each. */
  dirty?: number;
}

export interface PeerOptions {
  version: QemuVersion;
  /** As -M takes it: "pc", "q35", "microvm", "none", "pc-i440fx-7.2"; both ends need the same one. */
  machine: string;
  memoryMib?: number;
  /** Waits for a guest: "defer" (see listen) or a URI. */
  incoming?: string;
  /** Does not start the guest's CPU, also not when it has arrived. */
  paused?: boolean;
  /** The Linux guest. Without it, as always on machine none, nothing runs. */
  kernel?: boolean;
  guest?: GuestOptions;
  /** Keeps the guest's RAM in this file, where tests read and spoil it. The RAM block is then called "ram". */
  ramFile?: string;
  /** Descriptors that QEMU inherits, as 3, 4, ...: for incoming "fd:3". To migrate, QEMU takes named ones only (getfd). */
  fds?: number[];
  extraArgs?: string[];
}

export interface MigrateInfo {
  status: string;
  "error-desc"?: string;
  "total-time"?: number;
  downtime?: number;
  ram?: Record<string, number>;
  [more: string]: unknown;
}

/** The smallest that Debian's kernel and 24 MiB of busy memory fit in is 88. */
const MEMORY_MIB = 96;
/**
 * QEMU 7.2 under TCG loses pages of a running guest whose RAM is a multiple of 64 pages: its dirty bitmap is then read in
 * whole words, and the vCPU is not told to report its next write. So a guest that runs gets two pages more.
 */
const ODD_KIB = 8;
const TROUBLE = /^BAD .*|^tick \d+ bad .*|Kernel panic.*|BUG: .*|Oops.*|general protection.*/m;

let started = 0;

export class QemuPeer {
  readonly name: string;
  readonly options: PeerOptions;
  readonly running: Running;
  /** A second monitor, free for tram: `unix:${qmpPath}`. */
  readonly qmpPath: string;
  readonly #bed: Bed;
  readonly #serial: string;
  #qmp!: QmpClient;

  private constructor(bed: Bed, options: PeerOptions) {
    this.name = `qemu${++started}`;
    this.options = options;
    this.#bed = bed;
    this.qmpPath = bed.path(`${this.name}.qmp`);
    this.#serial = bed.path(`${this.name}.serial`);
    const { argv, env } = qemuCommand(options.version);
    // Whatever becomes of the test process, its QEMUs do not outlive it.
    const child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...argv, ...this.#args()], {
      env: { ...bed.env, ...env },
      cwd: bed.folder,
      stdio: ["ignore", "ignore", "pipe", ...(options.fds ?? [])],
    });
    this.running = new Running(child);
  }

  /** Returns when its monitor answers; the guest takes two seconds more: see goesOn. */
  static async start(bed: Bed, options: PeerOptions): Promise<QemuPeer> {
    const peer = new QemuPeer(bed, options);
    try {
      // The socket is there a moment before it listens.
      const answers = async () => {
        if (!existsSync(peer.#ownQmpPath)) return false;
        const qmp = await QmpClient.connect(peer.#ownQmpPath).catch(() => null);
        if (qmp) peer.#qmp = qmp;
        return qmp !== null;
      };
      await bed.until(answers, `${peer} starts`, peer.running);
    } catch (error) {
      await peer.dispose();
      throw error;
    }
    return peer;
  }

  get #ownQmpPath(): string {
    return `${this.qmpPath}.own`;
  }

  get #isBare(): boolean {
    return this.options.machine.split(",")[0] === "none";
  }
  get #hasKernel(): boolean {
    return !this.#isBare && this.options.kernel !== false;
  }

  /** The guest's RAM, in bytes. */
  get ramSize(): number {
    const kib = (this.options.memoryMib ?? (this.#hasKernel ? MEMORY_MIB : 16)) * 1024;
    return (kib + (this.#hasKernel ? ODD_KIB : 0)) * 1024;
  }

  #args(): string[] {
    const { incoming, paused, guest = {}, ramFile, extraArgs = [] } = this.options;
    let { machine } = this.options;
    // With ACPI, Linux does not unmask the timer's interrupt there, and waits for it: most boots hang.
    if (machine === "microvm") machine += ",acpi=off";
    if (ramFile) machine += ",memory-backend=ram";
    const size = this.ramSize;
    const args = ["-name", this.name, "-M", machine, "-m", `${size / 1024}K`, "-accel", "tcg"];
    args.push("-display", "none", "-nodefaults", "-no-reboot");
    if (ramFile) args.push("-object", `memory-backend-file,id=ram,size=${size},mem-path=${ramFile},share=on`);
    for (const path of [this.#ownQmpPath, this.qmpPath]) args.push("-qmp", `unix:${path},server=on,wait=off`);
    if (!this.#isBare) args.push("-serial", `file:${this.#serial}`);
    if (this.#hasKernel) {
      // nokaslr: the least memory that suffices does not differ from boot to boot. notests: saves 15 % of the boot.
      const settings = Object.entries(guest).map(([name, value]) => ` tram.${name}=${value}`);
      const append = `console=ttyS0 quiet nokaslr cryptomgr.notests${settings.join("")}`;
      args.push("-kernel", KERNEL, "-initrd", INITRAMFS, "-append", append);
    }
    if (incoming) args.push("-incoming", incoming);
    if (paused) args.push("-S");
    return [...args, ...extraArgs];
  }

  get pid(): number {
    return this.running.pid;
  }

  get qmp(): QmpClient {
    return this.#qmp;
  }

  // --- the guest, by its serial port ---------------------------------------------------------------------------------

  /** All that the guest has printed in this process. */
  serial(): string {
    return existsSync(this.#serial) ? readFileSync(this.#serial, "latin1").replaceAll("\r", "") : "";
  }

  /** The numbers of the good ticks seen in this process, in their order. */
  #ticks(): number[] {
    return Array.from(this.serial().matchAll(/^tick (\d+) ok\n/gm), ([, number]) => Number(number));
  }

  /** The last good tick seen in this process; 0 before the first. */
  ticks(): number {
    return this.#ticks().at(-1) ?? 0;
  }

  /** The guest's complaint, or its kernel's; null if there is none. */
  trouble(): string | null {
    return TROUBLE.exec(this.serial())?.[0] ?? null;
  }

  /** Waits for so many more good ticks; throws when one is missing, or anything is wrong with the guest. */
  async goesOn(minTicks = 3, limitMs = 20_000): Promise<number> {
    const before = this.#ticks().length;
    await this.#bed.until(
      async () => {
        const trouble = this.trouble();
        if (trouble) throw new Error(`${this}: ${trouble}`);
        return this.#ticks().length >= before + minTicks;
      },
      `${this} goes on for ${minTicks} ticks`,
      this.running,
      limitMs,
    );
    const ticks = this.#ticks();
    const gap = ticks.findIndex((tick, i) => i > 0 && tick !== (ticks[i - 1] as number) + 1);
    if (gap > 0) throw new Error(`${this}: tick ${ticks[gap]} came after tick ${ticks[gap - 1]}`);
    return this.ticks();
  }

  // --- its monitor ---------------------------------------------------------------------------------------------------

  execute<T = unknown>(command: string, args?: object): Promise<T> {
    return this.#qmp.execute<T>(command, args);
  }

  /** A command of the human monitor; what it printed. */
  async hmp(line: string): Promise<string> {
    return this.execute<string>("human-monitor-command", { "command-line": line });
  }

  /** "running", "paused", "inmigrate", "postmigrate", ... */
  async status(): Promise<string> {
    return (await this.execute<{ status: string }>("query-status")).status;
  }

  /** The guest's RAM below the hole, byte for byte, as it is now. */
  async readRam(): Promise<Uint8Array> {
    const filename = this.#bed.path(`${this.name}.ram`);
    try {
      await this.execute("pmemsave", { val: 0, size: this.ramSize, filename });
      return readFileSync(filename);
    } finally {
      rmSync(filename, { force: true });
    }
  }

  /** Gives QEMU a descriptor of this process for file:/dev/fdset/SET. */
  async addFd(set: number, fd: number): Promise<void> {
    const client = await TramQmpClient.connect(this.qmpPath, this.name);
    try {
      await client.execute("add-fd", { "fdset-id": set }, fd);
    } finally {
      client.close();
    }
  }

  async setCapabilities(capabilities: Record<string, boolean>): Promise<void> {
    const list = Object.entries(capabilities).map(([capability, state]) => ({ capability, state }));
    await this.execute("migrate-set-capabilities", { capabilities: list });
  }

  async setParameters(parameters: Record<string, unknown>): Promise<void> {
    await this.execute("migrate-set-parameters", parameters);
  }

  /** Listens, when it was started with incoming: "defer". */
  async listen(uri: string): Promise<void> {
    await this.execute("migrate-incoming", { uri });
  }

  migration(): Promise<MigrateInfo> {
    return this.execute<MigrateInfo>("query-migrate");
  }

  /** Waits until the migration, outgoing or incoming, has ended in whichever way. */
  async migrationEnds(limitMs = 30_000): Promise<MigrateInfo> {
    let info: MigrateInfo = { status: "none" };
    const hasEnded = async () => {
      info = await this.migration();
      return ["completed", "failed", "cancelled"].includes(info.status);
    };
    await this.#bed.until(hasEnded, `${this} migrates`, this.running, limitMs);
    return info;
  }

  /** Begins to send the guest; see migrationEnds. */
  async startMigrate(uri: string): Promise<void> {
    await this.execute("migrate", { uri });
  }

  /** Sends the guest; throws unless QEMU calls the migration completed. */
  async migrate(uri: string, limitMs?: number): Promise<MigrateInfo> {
    await this.startMigrate(uri);
    const info = await this.migrationEnds(limitMs);
    if (info.status !== "completed") throw new Error(`${this}: migration ${info.status}: ${info["error-desc"] ?? ""}`);
    return info;
  }

  // -------------------------------------------------------------------------------------------------------------------

  toString(): string {
    return `${this.name} (QEMU ${this.options.version}, ${this.options.machine})`;
  }

  async dispose(): Promise<void> {
    this.#qmp?.close();
    if (!this.running.hasEnded) this.running.kill("SIGKILL");
    await this.running.code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

/** A guest that is at work, and what tram calls it. */
export async function withGuest(
  options: Partial<PeerOptions>,
  action: (bed: Bed, guest: QemuPeer, vm: string) => Promise<void>,
): Promise<void> {
  const bed = new Bed();
  const guest = await QemuPeer.start(bed, { version: "7.2", machine: "pc", ...options });
  try {
    await guest.goesOn(3);
    await action(bed, guest, `unix:${guest.qmpPath}`);
  } finally {
    await guest.dispose();
    await bed.dispose();
  }
}

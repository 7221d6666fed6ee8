// Hosts of their own: stock Linux in an emulated machine that has a real KVM (QEMU's TCG emulates AMD's virtualization), with
// tram on board, joined by virtual cables over which the kernel does not copy what is sent without a copy. What takes time there
// says nothing of real hardware. Needs root, for the cables, and what fetch-peers.sh brings.
import { closeSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { homedir, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { openTap, sendFrame } from "../../src/native/tap.ts";
import { type Entry, folder, program, writeInitramfs } from "./guest/initramfs.ts";
import { qemuCommand, whyNoBinary } from "./qemu.ts";

const CACHE = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "tram-test");
const PARTS = join(CACHE, "host");
const BUILD = resolve(import.meta.dir, "../../build");
const TRAM = join(BUILD, "tram");
const IMAGE = join(BUILD, "test/host.cpio");
const INIT = join(import.meta.dir, "hosts/init");
/** A program that verifies its memory, as the only one of a Linux guest. */
const VERIFIER = join(BUILD, "test/initramfs.cpio");
const SHELL_INIT = join(import.meta.dir, "hosts/guest-init");
/** Speaks to its host. */
const GUEST_VSOCK = join(BUILD, "test/vsock");
/** Kernels of the guests in there. */
export const GUEST_KERNELS = ["6.1", "6.12"] as const;
const guestParts = (version: string): string => join(CACHE, `guest-${version}`);
/** 7.2 emulates two busy processors wrongly now and then: the kernel that runs there meets memory that it has never written. */
export const EMULATOR = "10.0";
const BOOT_MS = 90_000;
const COMMAND_MS = 120_000;
/** A host that says nothing of a command for so long behind its end is gone. */
const DEAF_MS = 30_000;
const WAKE_MS = 5000;
const PULSE_MS = 100;
/** By SIGKILL. */
const KILLED = 137;
/** Processes of ours, where each of their threads is and how long it has run; and their last words. */
const WHAT_GOES_ON = [
  "for p in $(pidof tram); do echo $p $(tr '\\0' ' ' </proc/$p/cmdline)",
  "for t in /proc/$p/task/*; do echo $t $(tr ' ' _ <$t/comm) $(sed 's/.*) //' $t/stat | cut -d' ' -f1,12,13) $(cat $t/wchan) $(cat $t/syscall); done; done",
  "for f in /tmp/*.log /tmp/*.line; do echo $f: $(tail -c 500 $f); done",
  "for s in /run/user/tram/*.qmp; do timeout 5 tram status $(basename $s .qmp) --json; done",
  "dmesg | tail -5",
].join("; ");
const GUEST_TRIES = 100;
const GUEST_AGAIN_MS = 200;

/** Why there can be no such hosts here; null if there can. */
export function whyNoHosts(): string | null {
  if (process.getuid?.() !== 0) return "network cables between emulated hosts need root";
  if (!Bun.which("ip")) return "no ip: package iproute2";
  const noQemu = whyNoBinary(EMULATOR);
  if (noQemu) return noQemu;
  if (!existsSync("/dev/net/tun")) return "no /dev/net/tun";
  const parts = [PARTS, ...GUEST_KERNELS.map(guestParts)];
  if (!parts.every((path) => existsSync(path)))
    return "what hosts and their guests are made of is missing: run test/support/fetch-peers.sh";
  return [VERIFIER, GUEST_VSOCK].every((path) => existsSync(path))
    ? null
    : "the guests' programs are missing: make build/test/initramfs.cpio build/test/vsock";
}

function run(...argv: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(argv, { stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${argv.join(" ")}: ${stderr.toString().trim()}`);
  return stdout.toString();
}

/** A shell on the serial line, busybox and the modules of a guest's devices: /boot/shell-VERSION.cpio. */
function makeShell(version: string): Uint8Array {
  const parts = guestParts(version);
  const out = join(BUILD, `test/shell-${version}.cpio`);
  const modules = join(parts, "modules");
  writeInitramfs(out, [
    ...["bin", "proc", "sys", "tmp", "modules"].map(folder),
    program("init", readFileSync(SHELL_INIT)),
    program("bin/busybox", readFileSync(join(parts, "busybox"))),
    program("bin/vsock", readFileSync(GUEST_VSOCK)),
    ...readdirSync(modules).map((name) => program(`modules/${name}`, readFileSync(join(modules, name)))),
  ]);
  return readFileSync(out);
}

/** tram, the libraries that it needs, busybox and the kernel's modules; in /boot what guests boot. */
function makeImage(): void {
  const made = existsSync(IMAGE) ? statSync(IMAGE).mtimeMs : 0;
  const sources = [
    TRAM,
    INIT,
    PARTS,
    VERIFIER,
    SHELL_INIT,
    GUEST_VSOCK,
    ...GUEST_KERNELS.map(guestParts),
    import.meta.path,
  ];
  if (sources.every((path) => statSync(path).mtimeMs < made)) return;
  const libraries = [...run("ldd", TRAM).matchAll(/(\/\S+) \(0x/g)].map(([, path]) => path);
  const folders = new Set(["bin", "proc", "sys", "tmp", "run", "modules", "boot"]);
  for (const path of libraries)
    dirname(path)
      .slice(1)
      .split("/")
      .forEach((_, i, parts) => {
        folders.add(parts.slice(0, i + 1).join("/"));
      });
  const file = (name: string, path: string): Entry => program(name, readFileSync(path));
  mkdirSync(dirname(IMAGE), { recursive: true });
  writeInitramfs(IMAGE, [
    ...[...folders].map(folder),
    file("init", INIT),
    file("bin/busybox", join(PARTS, "busybox")),
    file("bin/tram", TRAM),
    file("bin/vsock", GUEST_VSOCK),
    ...libraries.map((path) => file(path.slice(1), path)),
    file("boot/verifier.cpio", VERIFIER),
    ...GUEST_KERNELS.flatMap((version) => [
      file(`boot/vmlinuz-${version}`, join(guestParts(version), "vmlinuz")),
      program(`boot/shell-${version}.cpio`, makeShell(version)),
    ]),
    ...readdirSync(join(PARTS, "modules")).map((name) => file(`modules/${name}`, join(PARTS, "modules", name))),
  ]);
}

export interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

/** One of them, running. */
export class EmulatedHost {
  readonly address: string;
  readonly #qemu: Bun.Subprocess;
  readonly #socket: Socket;
  /** Its files begin with this. */
  readonly #at: string;
  #received: Buffer = Buffer.alloc(0);
  #changed: () => void = () => {};
  #commands = 0;

  readonly #share: Bun.Subprocess | null;

  private constructor(address: string, qemu: Bun.Subprocess, share: Bun.Subprocess | null, socket: Socket, at: string) {
    this.#share = share;
    this.address = address;
    this.#qemu = qemu;
    this.#socket = socket;
    this.#at = at;
    socket.on("data", (bytes: Buffer) => {
      this.#received = Buffer.concat([this.#received, bytes]);
      this.#changed();
    });
    socket.on("close", () => this.#changed());
    socket.on("error", () => this.#changed());
  }

  static async boot(
    address: string,
    tap: string,
    { cpus, memoryMib }: HostOptions,
    at: string,
    shared: string | null,
  ): Promise<EmulatedHost> {
    const share = shared === null ? null : serveShare(shared, at, memoryMib);
    const mac = `52:54:00:00:00:${Number(address.split(".")[3]).toString(16).padStart(2, "0")}`;
    const { argv, env } = qemuCommand(EMULATOR);
    const qemu = Bun.spawn(
      [
        ...argv,
        ...["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", `${cpus}`, "-m", `${memoryMib}`],
        ...["-kernel", join(PARTS, "vmlinuz"), "-initrd", IMAGE],
        ...["-append", `console=ttyS0 quiet panic=-1 address=${address}/24`],
        ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", `file:${at}.console`],
        ...["-chardev", `socket,id=commands,path=${at}.socket,server=on,wait=off`],
        ...["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=commands"], // a UART loses bytes of a slow CPU
        ...["-netdev", `tap,id=cable,ifname=${tap},script=no,downscript=no,vnet_hdr=on`],
        ...["-device", `virtio-net-pci,netdev=cable,mac=${mac},romfile=`],
        ...(share?.options ?? []),
      ],
      { stdin: "ignore", stdout: "ignore", stderr: Bun.file(`${at}.qemu`), env: { ...process.env, ...env } },
    );
    const socket = await connected(`${at}.socket`, qemu);
    const host = new EmulatedHost(address, qemu, share?.server ?? null, socket, at);
    await host.#line(/^ready /, BOOT_MS);
    return host;
  }

  /** Runs a command line in the host's shell; waits for its end. What is to go on behind it redirects its output. */
  async exec(command: string, timeoutMs = COMMAND_MS): Promise<Output> {
    const startedMs = Date.now();
    const output = await this.#exec(command, timeoutMs);
    if (output.code !== KILLED || Date.now() - startedMs < timeoutMs) return output;
    const state = await this.whatGoesOn();
    throw new Error(`host ${this.address}, ${command}: not done after ${timeoutMs} ms: ${output.stderr}\n${state}`);
  }

  /** For who finds that something does not. */
  async whatGoesOn(): Promise<string> {
    return (await this.#exec(WHAT_GOES_ON, COMMAND_MS)).stdout;
  }

  async #exec(command: string, timeoutMs: number): Promise<Output> {
    if (command.includes("\n")) throw new Error("one line at a time");
    const number = ++this.#commands;
    this.#socket.write(`${number} ${Math.ceil(timeoutMs / 1000)} ${command}\n`);
    timeoutMs += DEAF_MS;
    const [, code, out, err] = (await this.#line(new RegExp(`^#${number} (\\d+) (\\d+) (\\d+)$`), timeoutMs)).map(
      Number,
    );
    await this.#until(() => this.#received.length >= out + err, timeoutMs, command);
    const bytes = this.#received;
    this.#received = bytes.subarray(out + err);
    const text = (from: number, to: number) => bytes.subarray(from, to).toString();
    return { code, stdout: text(0, out), stderr: text(out, out + err) };
  }

  /** As exec, of a command that must succeed; its stdout. */
  async run(command: string, timeoutMs = COMMAND_MS): Promise<string> {
    const { code, stdout, stderr } = await this.exec(command, timeoutMs);
    if (code !== 0) throw new Error(`${command}: exit ${code}: ${stderr}${stdout}`);
    return stdout;
  }

  /** Waits until the guest of this name is in this state; its process writes to /tmp/NAME.log. */
  async guestIs(name: string, status: string): Promise<void> {
    for (let tries = 0; tries < GUEST_TRIES; tries++) {
      const { code, stdout } = await this.exec(`tram status ${name} --json`);
      if (code === 0 && JSON.parse(stdout).status === status) return;
      await Bun.sleep(GUEST_AGAIN_MS);
    }
    throw new Error(`no guest that is ${status}: ${await this.run(`cat /tmp/${name}.log`)}`);
  }

  async #line(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    let found: RegExpExecArray | null = null;
    await this.#until(
      () => {
        for (let end = this.#received.indexOf(10); end >= 0 && !found; end = this.#received.indexOf(10)) {
          found = pattern.exec(this.#received.subarray(0, end).toString());
          this.#received = this.#received.subarray(end + 1);
        }
        return found !== null;
      },
      timeoutMs,
      `${pattern}`,
    );
    return found as unknown as RegExpExecArray;
  }

  async #until(done: () => boolean, timeoutMs: number, what: string): Promise<void> {
    const end = Date.now() + timeoutMs;
    while (!done()) {
      const leftMs = end - Date.now();
      if (leftMs <= 0 || this.#qemu.exitCode !== null || this.#socket.destroyed)
        throw new Error(`host ${this.address}, ${what}: ${await this.#fate()}: ${this.#console()}`);
      await new Promise<void>((wake) => {
        const timer = setTimeout(wake, Math.min(leftMs, 500));
        this.#changed = () => {
          clearTimeout(timer);
          wake();
        };
      });
    }
  }

  /** QEMU goes on, or has ended, and how: by itself where its machine wants to start anew. */
  async #fate(): Promise<string> {
    const ended = await Promise.race([this.#qemu.exited.then(() => true), Bun.sleep(1000).then(() => false)]);
    if (!ended) return this.#woken();
    const { exitCode, signalCode } = this.#qemu;
    return `it has ended (${signalCode ?? `exit ${exitCode}`}): ${textOf(`${this.#at}.qemu`)}`;
  }

  /** Whether it stood still only because none of its timers ran: any interrupt has it go on then. */
  async #woken(): Promise<string> {
    const before = this.#received.length;
    this.#socket.write("\n"); // an empty command
    await Bun.sleep(WAKE_MS);
    return this.#received.length > before ? "no answer before it was woken: its timers had stopped" : "no answer";
  }

  #console(): string {
    return textOf(`${this.#at}.console`).slice(-2000);
  }

  /** Its block device is pulled out. */
  async pullDisk(): Promise<void> {
    const monitor = await connected(`${this.#at}.monitor`, this.#qemu);
    monitor.write("device_del disk\n");
    await this.run("for i in $(seq 100); do [ -e /dev/vda ] || exit 0; sleep 0.1; done; exit 1");
    monitor.destroy();
  }

  async dispose(): Promise<void> {
    this.#socket.destroy();
    this.#qemu.kill("SIGKILL");
    await this.#qemu.exited;
    this.#share?.kill("SIGKILL");
    await this.#share?.exited;
  }
}

const textOf = (path: string): string => (existsSync(path) ? readFileSync(path, "utf8") : "");

async function connected(path: string, qemu: Bun.Subprocess): Promise<Socket> {
  for (let tries = 0; tries < 200; tries++) {
    const socket = connect(path);
    const ok = await new Promise<boolean>((tell) => {
      socket.once("connect", () => tell(true));
      socket.once("error", () => tell(false));
    });
    if (ok) return socket;
    if (qemu.exitCode !== null) break;
    await Bun.sleep(50);
  }
  throw new Error("QEMU does not start");
}

export interface HostOptions {
  cpus: number;
  memoryMib: number;
  /** They have a folder in common, /share, whose locks reach from one to the other, and a block device, /dev/vda. */
  share?: boolean;
}

/** Part of Debian's qemu-system-common, of QEMU 7.2. */
const VIRTIOFSD = "/usr/lib/qemu/virtiofsd";

/** Why hosts cannot have a folder in common; null if they can. */
export const whyNoShare = (): string | null =>
  existsSync(VIRTIOFSD) ? null : `no ${VIRTIOFSD}: package qemu-system-common of Debian 12`;

const SHARED_DISK = "disk";

/** Serves a folder to one of them; QEMU's options for it, and for the disk. */
function serveShare(source: string, at: string, memoryMib: number): { server: Bun.Subprocess; options: string[] } {
  const socket = `${at}.share`;
  const server = Bun.spawn(
    [VIRTIOFSD, `--socket-path=${socket}`, ...["-o", `source=${source},cache=none,flock,sandbox=chroot`]],
    { stdin: "ignore", stdout: "ignore", stderr: Bun.file(`${at}.virtiofsd`) },
  );
  const options = [
    ...["-object", `memory-backend-memfd,id=memory,size=${memoryMib}M,share=on`, "-machine", "memory-backend=memory"],
    ...["-chardev", `socket,id=share,path=${socket}`, "-device", "vhost-user-fs-pci,chardev=share,tag=share"],
    ...["-drive", `file=${join(source, SHARED_DISK)},if=none,id=disk,format=raw,file.locking=off`],
    ...[
      "-device",
      "virtio-blk-pci,id=disk,drive=disk,share-rw=on",
      "-monitor",
      `unix:${at}.monitor,server=on,wait=off`,
    ],
  ];
  for (let tries = 0; !existsSync(socket) && tries < 100; tries++) Bun.sleepSync(20);
  return { server, options };
}

/**
 * Sends everybody on that network a packet that nobody wants, again and again; what is returned ends that. QEMU's TCG loses an interrupt now
 * and then where nested virtualization is emulated: its monitor shows a processor that has halted, interrupts enabled, with its timer's
 * interrupt pending, and so it stays (the kernel there calls it a soft lockup, of the idle task) until there is any other interrupt.
 */
function startPulse(tap: string): () => void {
  const fd = openTap(tap);
  const frame = new Uint8Array(60);
  frame.fill(0xff, 0, 6); // to all
  frame.set([0x02, 0, 0, 0, 0, 0xfe, 0x88, 0xb5], 6); // of nobody's, of a kind for experiments
  const timer = setInterval(() => sendFrame(fd, frame), PULSE_MS);
  return () => {
    clearInterval(timer);
    closeSync(fd);
  };
}

/** Hosts on one network. */
export class Hosts {
  readonly #undo: (() => Promise<unknown> | unknown)[] = [];
  readonly hosts: EmulatedHost[] = [];
  /** What they see as /share; null: nothing. */
  share: string | null = null;

  static async boot(count: number, options: HostOptions): Promise<Hosts> {
    makeImage();
    const all = new Hosts();
    try {
      const at = join(tmpdir(), `tram-hosts-${process.pid}`);
      mkdirSync(at, { recursive: true });
      all.#undo.push(() => rmSync(at, { recursive: true, force: true }));
      const name = `tram${(process.pid % 46656).toString(36)}`;
      run("ip", "link", "add", name, "type", "bridge");
      all.#undo.push(() => run("ip", "link", "delete", name));
      run("ip", "link", "set", name, "up");
      const taps = Array.from({ length: count }, (_, i) => `${name}.${i}`);
      const pulse = `${name}.p`;
      for (const tap of [...taps, pulse]) {
        run("ip", "tuntap", "add", tap, "mode", "tap", "vnet_hdr");
        all.#undo.push(() => run("ip", "link", "delete", tap));
        run("ip", "link", "set", tap, "master", name);
        run("ip", "link", "set", tap, "up");
      }
      all.#undo.push(startPulse(pulse));
      const shared = options.share ? join(at, "share") : null;
      if (shared) mkdirSync(shared);
      if (shared) writeFileSync(join(shared, SHARED_DISK), new Uint8Array(24 << 20));
      all.share = shared;
      const booting = taps.map((tap, i) =>
        EmulatedHost.boot(`10.77.0.${i + 1}`, tap, options, join(at, `${i}`), shared),
      );
      const booted = await Promise.allSettled(booting);
      for (const one of booted) if (one.status === "fulfilled") all.hosts.push(one.value);
      for (const one of booted) if (one.status === "rejected") throw one.reason;
      return all;
    } catch (error) {
      await all.dispose();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  async dispose(): Promise<void> {
    for (const host of this.hosts) await host.dispose();
    for (const step of this.#undo.reverse()) await step();
    this.#undo.length = 0;
  }
}

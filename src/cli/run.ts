// tram run: boots a guest, or waits for one.
import { constants, openSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { DEFAULT_REPLY_MS, MOVE_CHANNELS_MAX } from "../control/send.ts";
import { EXIT, reasonOf, TramError } from "../errors.ts";
import {
  bootWalker,
  FILLS,
  type Fill,
  HABITS,
  type Habit,
  WALKER_MEMORY_MIN,
  type WalkerOptions,
} from "../machine/boot.ts";
import { CPU_MODELS, type CpuModel, cpuOf } from "../machine/cpu-model.ts";
import { describeDisk, lookAtDisks, openDisk, openRestored } from "../machine/disk-file.ts";
import { checkGiven, type Given } from "../machine/given.ts";
import { diskIdentities } from "../machine/guest.ts";
import { bootLinux, type LinuxFiles, planLinux } from "../machine/linux/boot-linux.ts";
import { Reboot } from "../machine/linux/reboot.ts";
import { createMachine, createRam, createVm } from "../machine/machine.ts";
import { ACCELS, type Accel, TRACKING, type TrackingWish } from "../machine/tracking.ts";
import { openKvm } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import { CPUS_MAX, DISKS_MAX } from "../stream/devices/machine.ts";
import { parseAddress } from "../transport/address.ts";
import { endpointName, type Listener, listen } from "../transport/index.ts";
import { VERSION } from "../version.ts";
import { command } from "./command.ts";
import { say } from "./console.ts";
import { startConsumer } from "./consumer.ts";
import { Detached, detach } from "./detach.ts";
import { parseDisks } from "./disks.ts";
import { type FileSpec, parseFile } from "./file-target.ts";
import { GuestProcess } from "./guest-process.ts";
import { macOf, openNet, parseNet } from "./network.ts";
import {
  isOurSnapshot,
  openSnapshot,
  RESTORE_ARGS,
  readSnapshot,
  restoreGuest,
  restoreOptions,
} from "./restore-guest.ts";
import { checkName, claimSocket, isName, runtimeFolder, socketPathOf } from "./runtime.ts";
import { SerialInput } from "./serial-input.ts";
import { formatBytes, formatMany, parseCount, parseDuration, parseMemory } from "./units.ts";

const DEFAULT_MEMORY = 512 << 20;
const DEFAULT_COMMAND_LINE = "console=ttyS0";
/** Filling more than this takes longer than starting the QMP Worker. */
const LARGE_MEMORY = 128 << 20;

export const ACCEL_ARGS = {
  dirtyTracking: {
    type: "string",
    description:
      "how writes are found during a move: log, ring[=ENTRIES of each vCPU's], without KVM scan, faults or marks, or auto (default auto)",
    valueHint: "HOW",
    suggestions: [...new Set([...TRACKING.kvm, ...TRACKING.none]), "ring="],
  },
  accel: {
    type: "string",
    description: "kvm; or none: the walker's native twin, where there is no /dev/kvm (default kvm)",
    values: ACCELS,
  },
} as const;

/** Of every guest's process, however its guest comes. */
export const PROCESS_ARGS = {
  detach: {
    type: "boolean",
    alias: "d",
    description:
      "return when the guest is there, and print its name; it goes on by itself: tram logs NAME has what it says",
  },
  paused: { type: "boolean", description: "do not run the guest yet: tram resume NAME does" },
  serial: {
    type: "string",
    description: "the serial port: none, stdio, or file:PATH for its output alone (default none)",
    valueHint: "WHERE",
    suggestions: ["none", "stdio", "file:"],
  },
  console: {
    type: "string",
    description: "a virtio console, the guest's hvc0: none, stdio, or file:PATH for its output alone (default none)",
    valueHint: "WHERE",
    suggestions: ["none", "stdio", "file:"],
  },
  qmp: {
    type: "string",
    description: "QMP socket (default: NAME.qmp in the runtime folder)",
    valueHint: "unix:PATH",
    suggestions: ["unix:"],
  },
} as const;

export const run = command({
  name: "run",
  summary: "boots a guest, or waits for one to arrive",
  args: {
    guest: {
      type: "string",
      description: "the guest to boot: walker, which dirties memory and checks itself",
      values: ["walker"],
    },
    kernel: {
      type: "string",
      description: "boot this Linux kernel: a bzImage, as in /boot/vmlinuz-…, or a vmlinux with CONFIG_PVH",
      valueHint: "FILE",
      names: "file",
    },
    initrd: { type: "string", description: "kernel: its initial RAM disk", valueHint: "FILE", names: "file" },
    append: {
      type: "string",
      description: `kernel: its command line (default "${DEFAULT_COMMAND_LINE}")`,
      valueHint: "TEXT",
    },
    disk: {
      type: "string",
      description: `kernel: a raw file or block device as its disk, up to ${DISKS_MAX} of them: FILE[,mode=rw|ro|cow][,format=raw] (default rw); incoming: where each of its disks lies here`,
      valueHint: "FILE",
      names: "file",
      many: true,
    },
    net: {
      type: "string",
      description:
        "kernel: a network card on a tap of this host; incoming: the tap that it has here, or none: its cable is unplugged",
      valueHint: "tap:NAME[,mac=ADDRESS]",
      suggestions: ["tap:", "none"],
    },
    cpu: {
      type: "string",
      description: "what CPU the guest sees: host, or baseline, which every host has (default host)",
      valueHint: "MODEL",
      values: CPU_MODELS,
    },
    vsock: {
      type: "boolean",
      description: "kernel: sockets between it and this host, without a network: tram connect NAME PORT",
    },
    diskShared: {
      type: "boolean",
      description:
        "incoming: its disks here are the source's own, though nothing proves it: only their size is compared",
    },
    incoming: {
      type: "string",
      description: "wait for a guest here instead: tcp:, unix:, file:, fd:, exec:, - or defer",
      valueHint: "URI",
      names: "uri",
      suggestions: ["defer"],
    },
    name: { type: "string", description: "the guest's name (default tram-PID)", valueHint: "NAME" },
    memory: { type: "string", description: "RAM (default 512M; an incoming guest brings its own)", valueHint: "SIZE" },
    cpus: {
      type: "string",
      description: `vCPUs, 1 to ${CPUS_MAX} (default 1; an incoming guest brings its own)`,
      valueHint: "N",
    },
    workingSet: {
      type: "string",
      description: "walker: memory that it walks (default half of the RAM)",
      valueHint: "SIZE",
    },
    dirtyRate: {
      type: "string",
      description: "walker: pages it writes each second, or max (default 1000)",
      valueHint: "PAGES|max",
      suggestions: ["max"],
    },
    fill: {
      type: "string",
      description: "walker: what the rest of RAM holds: zero, random, text, mixed (default mixed)",
      valueHint: "KIND",
      values: FILLS,
    },
    seed: { type: "string", description: "walker: seed of that content (default 1)", valueHint: "N" },
    balloon: {
      type: "boolean",
      description: "a memory balloon: tram balloon resizes the guest, and its free pages are not moved",
    },
    free: {
      type: "string",
      description:
        "walker: memory that it has written to once, and has free since; with it there is a balloon (default 0)",
      valueHint: "SIZE",
    },
    cache: {
      type: "string",
      description: "walker: what of that is a cache, which it gives up when its balloon needs it (default 0)",
      valueHint: "SIZE",
    },
    habit: {
      type: "string",
      description: `walker: what it does when asked for free pages: ${HABITS.join(", ")} (default keep)`,
      valueHint: "HABIT",
      values: HABITS,
    },
    timeout: {
      type: "string",
      description: "incoming: longest silence of the source (default 10s)",
      valueHint: "TIME",
    },
    ...RESTORE_ARGS,
    channels: {
      type: "string",
      description:
        "incoming: over how many connections its pages must come (default: as the source likes); eager: threads",
      valueHint: "N",
    },
    ...ACCEL_ARGS,
    ...PROCESS_ARGS,
    prealloc: {
      type: "boolean",
      description:
        "touch all RAM before the guest runs (with --incoming and --memory: before it arrives); a balloon gives it back",
    },
  },
  examples: [
    "tram run --kernel /boot/vmlinuz --initrd initrd.img --serial stdio     # Ctrl-A x ends it",
    "tram run --kernel vmlinuz --initrd initrd.img --disk disk.img --net tap:tap0 --vsock --name lx",
    "tram run --guest walker --name a --memory 1G --dirty-rate max",
    "tram run --incoming tcp:0.0.0.0:4444 --name a",
    "tram run -d --guest walker --name a     # in the background; tram logs a",
    "tram migrate a - | ssh host tram run --incoming - --name a",
  ],
  run(args) {
    if (!args.guest && !args.kernel && !args.incoming)
      throw new TramError("E_USAGE", "tram run needs a guest", {
        expected: "--kernel FILE, --guest walker or --incoming URI",
        next: "see tram help run",
      });
    if (args.kernel && args.guest)
      throw new TramError("E_USAGE", "--kernel and --guest exclude each other: a guest runs one or the other");
    const booted = args.kernel ? "--kernel" : "--guest";
    if ((args.guest || args.kernel) && args.incoming)
      throw new TramError(
        "E_USAGE",
        `${booted} and --incoming exclude each other: an incoming guest is what the source sends`,
      );
    const kernelOnly = KERNEL_ARGS.find((key) => args[key] !== undefined);
    if (!args.kernel && kernelOnly)
      throw new TramError(
        "E_USAGE",
        `${option(kernelOnly)} is for --kernel${args.incoming ? ": an incoming guest brings its own" : ""}`,
        args.incoming ? {} : { next: "give --kernel FILE, too" },
      );
    const deviceOption = (["disk", "net", "console"] as const).find(
      (key) => args[key] !== undefined && !(key === "console" && args.console === "none"),
    );
    if (deviceOption && args.guest)
      throw new TramError("E_USAGE", `--${deviceOption} is for --kernel and --incoming: the walker has none`);
    if (args.cpu !== undefined && args.incoming)
      throw new TramError("E_USAGE", "--cpu is for a guest that boots here: an incoming guest brings its own");
    if (args.diskShared && !args.incoming)
      throw new TramError("E_USAGE", "--disk-shared is for --incoming: here its disks are opened");
    if (args.guest && args.guest !== "walker")
      throw new TramError("E_USAGE", `--guest: there is no guest '${args.guest}'`, { expected: "walker" });
    const walkerOnly = WALKER_ARGS.find((key) => args[key] !== undefined);
    if (!args.guest && walkerOnly && !(args.kernel && walkerOnly === "balloon"))
      throw new TramError(
        "E_USAGE",
        `${option(walkerOnly)} is for ${walkerOnly === "balloon" ? "--kernel and " : ""}--guest walker${args.incoming ? ": an incoming guest brings its own" : ""}`,
      );
    const snapshot = args.incoming ? snapshotOf(args.incoming) : null;
    const restoreOnly = (Object.keys(RESTORE_ARGS) as (keyof typeof RESTORE_ARGS)[]).find(
      (key) => args[key] !== undefined && !(key === "channels" && args.incoming),
    );
    if (!snapshot && restoreOnly)
      throw new TramError("E_USAGE", `${option(restoreOnly)} is for a guest out of a snapshot: --incoming file:FILE`);
    return startGuest(args, snapshot);
  },
});

const WALKER_ARGS = ["workingSet", "dirtyRate", "fill", "seed", "balloon", "free", "cache", "habit"] as const;

const KERNEL_ARGS = ["initrd", "append", "vsock"] as const;

const option = (key: string): string => `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;

/** Over how many connections an incoming guest's pages must come; null: the source decides. */
const incomingChannels = ({ channels }: { channels?: string }): number | null =>
  channels === undefined ? null : parseCount(channels, "--channels", 0, MOVE_CHANNELS_MAX);

/** A file with fixed offsets of one of our guests. Everything else is a stream, and read from its beginning. */
function snapshotOf(uri: string): FileSpec | null {
  if (!/^(file:|fd:|-$)/.test(uri)) return null;
  const spec = parseFile(uri, 0);
  return isOurSnapshot(spec) ? spec : null;
}

interface RunArgs {
  guest?: string;
  kernel?: string;
  initrd?: string;
  append?: string;
  /** A line for each. */
  disk?: string;
  vsock?: boolean;
  cpu?: string;
  net?: string;
  diskShared?: boolean;
  incoming?: string;
  name?: string;
  memory?: string;
  cpus?: string;
  workingSet?: string;
  dirtyRate?: string;
  fill?: string;
  seed?: string;
  balloon?: boolean;
  free?: string;
  cache?: string;
  habit?: string;
  serial?: string;
  console?: string;
  qmp?: string;
  timeout?: string;
  detach?: boolean;
  paused?: boolean;
  prealloc?: boolean;
  lazy?: boolean;
  eager?: boolean;
  verify?: string;
  noPrefetch?: boolean;
  channels?: string;
  directIo?: string;
  dirtyTracking?: string;
  accel?: string;
}

/** A guest in this process, or with --detach in one of its own; the exit code. `spec`: it comes out of this snapshot. */
export function startGuest(args: RunArgs, spec: FileSpec | null): Promise<number> {
  if (!args.detach) return runGuest(args, spec, null);
  const detached = Detached.here();
  if (detached) return runGuest(args, spec, detached);
  const wantsTerminal = (["serial", "console"] as const).find((line) => args[line] === "stdio");
  if (wantsTerminal)
    throw new TramError(
      "E_USAGE",
      `--${wantsTerminal} stdio and --detach exclude each other: the guest has no terminal then`,
      { next: `use --${wantsTerminal} file:PATH` },
    );
  if (args.incoming && /^(-$|fd:)/.test(args.incoming))
    throw new TramError("E_USAGE", `'${args.incoming}' is this command's own, and a detached guest has none of that`, {
      expected: "tcp:, unix:, file:, exec: or a path",
      next: "receive the stream from a socket, or leave --detach out and let the shell do it: tram run ... &",
    });
  return detach(args.qmp === undefined ? runtimeFolder() : dirname(qmpPath(args.qmp)));
}

/** One guest's whole life. */
async function runGuest(args: RunArgs, spec: FileSpec | null, detached: Detached | null): Promise<number> {
  const given = args.name === undefined ? null : checkName(args.name);
  const memory = args.memory === undefined ? null : parseMemory(args.memory, "--memory");
  const cpus = args.cpus === undefined ? null : parseCount(args.cpus, "--cpus", 1, CPUS_MAX);
  const replyMs = args.timeout === undefined ? DEFAULT_REPLY_MS : parseDuration(args.timeout, "--timeout");
  const prealloc = args.prealloc === true;
  const walker = args.guest ? walkerOptions(args, memory ?? DEFAULT_MEMORY) : null;
  const linux = args.kernel ? planLinux(linuxFiles(args, args.kernel), memory ?? DEFAULT_MEMORY) : null;
  const serial = parseLine("serial", args.serial ?? "none", args.incoming);
  const terminal = parseLine("console", args.console ?? "none", args.incoming);
  if (args.serial === "stdio" && args.console === "stdio")
    throw new TramError("E_USAGE", "--serial stdio and --console stdio both want the terminal");
  const restoring = restoreOptions(spec ? args : {});
  const guest = new GuestProcess({ version: VERSION, serialFd: serial, consoleFd: terminal, replyMs, say });
  // Takes longer than all else that comes before the first instruction, and goes on beside it; every guest has one.
  const accel = parseAccel(args.accel);
  const tracking = parseTracking(accel, args.dirtyTracking);
  const balloon = args.balloon === true || (walker !== null && walker.freeBytes > 0);
  if (balloon && accel !== "kvm")
    throw new TramError("E_USAGE", "--balloon and --free: the walker's twin has no devices", {
      next: "leave --accel out",
    });
  if (linux && accel !== "kvm")
    throw new TramError("E_USAGE", `--accel ${accel} runs nothing but the walker`, { next: "leave --accel out" });
  const wishes = parseDisks(args.disk);
  if (wishes && args.incoming && !spec) lookAtDisks(wishes);
  const cpuModel = parseCpu(args.cpu);
  const network = parseNet(args.net);
  if (network?.mac && args.incoming)
    throw new TramError(
      "E_USAGE",
      "--net mac= is for --kernel: a guest that comes here has the address that it was booted with",
    );
  const vm = accel === "kvm" && !(args.incoming && !spec) ? createVm(tracking) : null;
  const within = vm ?? tracking;
  if (spec || walker || linux) guest.startCpus(1);
  const opened = spec ? openSnapshot(spec) : null;
  const snapshot =
    opened &&
    readSnapshot(opened.file, opened.offset, restoring, { memoryBytes: memory, cpus, cpuid: vm?.cpuid ?? [] });
  const hasConsole = args.console !== undefined && args.console !== "none";
  const lines: Given = { net: network && (network.tap === null ? "none" : "tap"), console: hasConsole };
  if (snapshot) checkGiven(snapshot.description, lines);
  const tapFd = openNet(network);
  const disks = snapshot
    ? openRestored(snapshot.description.disks, diskIdentities(snapshot.description, snapshot.devices), wishes)
    : linux && wishes
      ? wishes.map(openDisk)
      : [];
  const name =
    given ?? (snapshot && isName(snapshot.description.name) ? snapshot.description.name : `tram-${process.pid}`);

  const listener = !spec && args.incoming && args.incoming !== "defer" ? listenOn(args.incoming) : null;
  const socketPath = args.qmp === undefined ? socketPathOf(name) : qmpPath(args.qmp);
  const socket = { fd: claimSocket(socketPath, name, args.qmp !== undefined) };

  detached?.nameLog(socketPath);
  guest.identify(name, socketPath);
  const signals = onEndSignals(guest, name);
  const typed =
    ([args.serial, args.console].includes("stdio") && (args.serial === "stdio" ? "serial" : "console")) || null;
  const input = typed && new SerialInput(guest.board, typed, say, () => guest.end(EXIT.done));
  input?.start();
  try {
    if (snapshot) {
      guest.startCpus(snapshot.description.cpus);
      guest.startDevices(disks, snapshot.description);
      const waits = restoring.mode !== "lazy";
      guest.expectGuest();
      if (waits) guest.serve(socket);
      await Promise.race([
        restoreGuest(guest, snapshot, { within, disks, tapFd }, name, restoring, args.paused === true),
        guest.ended,
      ]);
      if (!waits) guest.serve(socket);
    } else if (walker || linux) {
      const memoryBytes = memory ?? DEFAULT_MEMORY;
      guest.startCpus(cpus ?? 1);
      const [vsock, mac] = [args.vsock === true, network && macOf(network)];
      guest.startDevices(disks, { vsock, mac });
      // Who asks while much memory is filled shall get an answer; a small guest's first instruction comes first.
      const isLarge = memoryBytes > LARGE_MEMORY;
      if (isLarge) guest.serve(socket);
      const cpuid = vm ? cpuOf(cpuModel, vm.cpuid) : [];
      const kind = { walker: walker !== null, pc: linux !== null };
      const description = {
        name,
        memoryBytes,
        cpus: cpus ?? 1,
        tscKhz: 0,
        ...kind,
        balloon,
        vsock,
        console: hasConsole,
        mac,
        cpuid,
        disks: disks.map(describeDisk),
      };
      const handles = createMachine(description, createRam(memoryBytes, prealloc), guest.board, within, {
        disks,
        tapFd,
      });
      if (walker) bootWalker(handles, guest.board, walker);
      if (linux) {
        bootLinux(handles, linux);
        const reboot = new Reboot(handles, guest.board, linux);
        guest.reboot = () => reboot.now();
      }
      guest.start(handles, !args.paused);
      if (!isLarge) guest.serve(socket);
      const { cpus: count } = description;
      const state = args.paused ? "is paused" : "runs";
      const by = vm ? "" : ", without KVM";
      say(`guest '${name}' ${state}: ${formatBytes(memoryBytes)}, ${formatMany(count, "CPU")}${by}`);
    } else {
      if (accel === "kvm") net.close(openKvm()); // no guest will ever run here: say so now
      guest.expectGuest();
      guest.serve(socket);
      const ram = memory !== null && prealloc ? createRam(memory, true).share() : null;
      guest.await(listener, {
        name,
        memoryBytes: memory,
        cpus,
        ram,
        prealloc,
        accel,
        tracking,
        channels: incomingChannels(args),
        disks: wishes,
        disksAreShared: args.diskShared === true,
        given: lines,
        tapFd,
      });
      say(`guest '${name}' waits on ${listener ? endpointName(listener.endpoint) : "QMP migrate-incoming"}`);
    }
    detached?.ready(name);
    return await guest.ended;
  } finally {
    signals.remove();
    input?.stop();
    guest.cleanUp();
    detached?.cleanUp();
  }
}

function linuxFiles({ initrd, append }: RunArgs, kernel: string): LinuxFiles {
  const read = (name: string) => {
    try {
      return { name, bytes: new Uint8Array(readFileSync(name)) };
    } catch (error) {
      throw new TramError("E_FILE", `cannot read ${name}: ${reasonOf(error)}`);
    }
  };
  return {
    kernel: read(kernel),
    initrd: initrd === undefined ? null : read(initrd),
    commandLine: append ?? DEFAULT_COMMAND_LINE,
  };
}

function walkerOptions(args: Pick<RunArgs, (typeof WALKER_ARGS)[number]>, memoryBytes: number): WalkerOptions {
  if (memoryBytes < WALKER_MEMORY_MIN)
    throw new TramError("E_USAGE", "--memory is too small for the walker", {
      expected: `at least ${formatBytes(WALKER_MEMORY_MIN)}`,
      found: formatBytes(memoryBytes),
    });
  const freeBytes = parseMemory(args.free ?? "0", "--free", 0);
  const cacheBytes = parseMemory(args.cache ?? "0", "--cache", 0);
  if (cacheBytes > freeBytes)
    throw new TramError("E_USAGE", "--cache is a part of --free", {
      expected: `at most ${formatBytes(freeBytes)}`,
      found: formatBytes(cacheBytes),
    });
  const habit = (args.habit ?? "keep") as Habit;
  if (!HABITS.includes(habit))
    throw new TramError("E_USAGE", `--habit: there is no '${habit}'`, { expected: HABITS.join(", ") });
  const half = Math.floor(Math.max(0, memoryBytes - freeBytes) / 2 / 4096) * 4096;
  const fill = (args.fill ?? "mixed") as Fill;
  if (!FILLS.includes(fill))
    throw new TramError("E_USAGE", `--fill: there is no '${fill}'`, { expected: FILLS.join(", ") });
  const rate = args.dirtyRate ?? "1000";
  return {
    workingSetBytes: args.workingSet === undefined ? half : parseMemory(args.workingSet, "--working-set"),
    dirtyRate: rate === "max" ? 0 : parseCount(rate, "--dirty-rate", 1, 100_000_000, "max, or "),
    fill,
    seed: args.seed === undefined ? 1 : parseCount(args.seed, "--seed", 0, 2 ** 32 - 1),
    freeBytes,
    cacheBytes,
    habit,
  };
}

export function parseAccel(text = "kvm"): Accel {
  const accel = ACCELS.find((one) => one === text);
  if (accel) return accel;
  throw new TramError("E_USAGE", `--accel: '${text}' is not known`, { expected: ACCELS.join(" or ") });
}

function parseCpu(text = "host"): CpuModel {
  const model = CPU_MODELS.find((one) => one === text);
  if (model) return model;
  throw new TramError("E_USAGE", `--cpu: '${text}' is not known`, { expected: CPU_MODELS.join(" or ") });
}

/** ring=ENTRIES: of each vCPU's ring. */
function parseTracking(accel: Accel, text = "auto"): TrackingWish {
  const [name, entries] = text.split("=", 2);
  const known: readonly TrackingWish["by"][] = TRACKING[accel];
  const by = known.find((one) => one === name);
  if (!by || (entries !== undefined && by !== "ring"))
    throw new TramError("E_USAGE", `--dirty-tracking: '${text}' is not known, or not with --accel ${accel}`, {
      expected: `${known.join(", ")}${accel === "kvm" ? ", ring=ENTRIES" : ""}`,
    });
  return { by, entries: entries === undefined ? null : parseCount(entries, "--dirty-tracking ring", 1, 2 ** 20) };
}

/** A descriptor for the line's output; -1: none. */
function parseLine(line: "serial" | "console", text: string, incoming: string | undefined): number {
  if (text === "none") return -1;
  if (text === "stdio") {
    if (incoming === "-")
      throw new TramError("E_USAGE", `--${line} stdio and --incoming - both want the terminal`, {
        next: `use --${line} file:PATH`,
      });
    return process.stdout.isTTY ? ownTerminal() : 1;
  }
  if (text.startsWith("file:") && text.length > 5) {
    try {
      return openSync(resolve(text.slice(5)), "a", 0o600);
    } catch (error) {
      throw new TramError("E_FILE", `--${line}: cannot open ${text.slice(5)}: ${reasonOf(error)}`);
    }
  }
  throw new TramError("E_USAGE", `--${line}: '${text}' is no place for it`, {
    expected: "none, stdio or file:PATH",
  });
}

/** Another description of it: a stopped terminal, whose room may end in the middle of what is written, then keeps no vCPU waiting. */
function ownTerminal(): number {
  try {
    return openSync("/proc/self/fd/1", constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    return 1; // another user's: behind su
  }
}

function qmpPath(text: string): string {
  const address = parseAddress(text);
  if (address.scheme !== "unix")
    throw new TramError("E_USAGE", `--qmp: '${text}' is no socket`, { expected: "unix:PATH" });
  return resolve(address.path);
}

/** file:, exec:, fd: and - are this process's own; the mover is given their descriptor. */
function listenOn(uri: string): Listener {
  const address = parseAddress(uri);
  switch (address.scheme) {
    case "tcp":
    case "unix":
      return listen(address.scheme === "unix" ? { ...address, path: resolve(address.path) } : address);
    case "stdio":
      if (process.stdin.isTTY)
        throw new TramError("E_USAGE", "--incoming -: standard input is a terminal", {
          next: "pipe a stream in: tram migrate VM - | tram run --incoming -",
        });
      return listen({ scheme: "passed", fd: net.duplicate(0), name: "standard input" });
    case "fd":
      net.fdType(address.fd);
      return listen({ scheme: "passed", fd: net.duplicate(address.fd), name: uri });
    case "file":
      try {
        return listen({ scheme: "passed", fd: net.duplicate(openSync(resolve(address.path), "r")), name: uri });
      } catch (error) {
        throw new TramError("E_FILE", `cannot read ${address.path}: ${reasonOf(error)}`);
      }
    case "exec": {
      const producer = startConsumer(address.command, "read");
      return listen({ scheme: "passed", fd: producer.fd, name: uri });
    }
  }
}

/** The guest ends with its process: who did not mean that shall at least know. */
function onEndSignals(guest: GuestProcess, name: string): { remove: () => void } {
  const codes = { SIGINT: EXIT.interrupted, SIGTERM: EXIT.done, SIGHUP: EXIT.done };
  const handlers = Object.entries(codes).map(([signal, code]) => {
    const handler = () => {
      say(`${signal}: guest '${name}' ends`);
      guest.end(code);
    };
    process.on(signal, handler);
    return [signal, handler] as const;
  });
  return {
    remove() {
      for (const [signal, handler] of handlers) process.off(signal, handler);
    },
  };
}

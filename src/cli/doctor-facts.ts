// Facts about this host for tram doctor. Each is tried rather than looked up wherever trying leaves nothing behind.
import {
  accessSync,
  closeSync,
  existsSync,
  constants as fs,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  realpathSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from "node:fs";
import { release } from "node:os";
import { isAbsolute, join } from "node:path";
import { TramError } from "../errors.ts";
import { errnoName } from "../native/errno.ts";
import { HOST_CAP, host } from "../native/host.ts";
import { KVM_CAP, tryIoctlValue } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import type {
  CpuFacts,
  DeviceFacts,
  FolderFacts,
  HostFacts,
  KvmCapabilities,
  KvmFacts,
  RuntimeFacts,
  UserFacts,
  UserfaultfdFacts,
  ZeroCopyFacts,
} from "./doctor-checks.ts";
import { runtimeFolder } from "./runtime.ts";

/** `folder`: where files of guests shall go. */
export function gatherFacts(folder: string): HostFacts {
  const user = readUser();
  return {
    user,
    kernel: release(),
    cpu: readCpu(),
    kvm: tryKvm(user),
    zeroCopy: readZeroCopy(),
    userfaultfd: tryUserfaultfd(user),
    runtime: tryRuntime(),
    folder: tryFolder(folder),
    qemus: findQemus(),
  };
}

/** A file of /proc, /sys or /etc; "" if it is not there or not to be read. */
function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** A number alone in a file; null if there is none. */
function readNumber(path: string): number | null {
  const text = readText(path).trim();
  return /^[0-9]+$/.test(text) ? Number(text) : null;
}

/** The value of a "name: value" line. */
const fieldOf = (text: string, name: string): string =>
  new RegExp(`^${name}[ \\t]*:[ \\t]*(.*)$`, "m").exec(text)?.[1].trim() ?? "";

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? "EIO";

// --- the user ---

const CAP_IPC_LOCK = 14n;
const CAP_SYS_PTRACE = 19n;
const ALL_IDS = 2 ** 32 - 1;
const INITIAL_PID_NAMESPACE = "pid:[4026531836]"; // PROC_PID_INIT_INO, the same on every host

function readUser(): UserFacts {
  const uid = process.getuid?.() ?? 0;
  const held = BigInt(`0x${fieldOf(readText("/proc/self/status"), "CapEff") || "0"}`);
  // In a user namespace of its own a process holds all capabilities, and none over the host.
  const [, , ids] = readText("/proc/self/uid_map").trim().split(/\s+/).map(Number);
  const hasOwnUsers = ids !== ALL_IDS;
  const has = (capability: bigint): boolean => !hasOwnUsers && ((held >> capability) & 1n) === 1n;
  const login = readText("/etc/passwd")
    .split("\n")
    .map((line) => line.split(":"))
    .find(([, , id]) => id === String(uid));
  return {
    name: login?.[0] ?? process.env.USER ?? String(uid),
    uid,
    mayLockMemory: has(CAP_IPC_LOCK),
    mayTrace: has(CAP_SYS_PTRACE),
    isInContainer: hasOwnUsers || hasOwnProcesses(),
  };
}

/** Marks like /.dockerenv say too much: virtual machines made from a container's image have them. */
function hasOwnProcesses(): boolean {
  try {
    return readlinkSync("/proc/self/ns/pid") !== INITIAL_PID_NAMESPACE;
  } catch {
    return false;
  }
}

// --- devices ---

/** Opens a device; the descriptor is the caller's, -1 if it refused. */
function openDevice(path: string, user: UserFacts): { fd: number; facts: DeviceFacts } {
  let fd = -1;
  let error: string | null = null;
  try {
    fd = openSync(path, "r+");
  } catch (thrown) {
    error = codeOf(thrown);
  }
  return { fd, facts: { path, error, ...groupOf(path, user) } };
}

function groupOf(path: string, user: UserFacts): Pick<DeviceFacts, "group" | "groupListsUser"> {
  const none = { group: null, groupListsUser: false };
  try {
    const { mode, gid } = statSync(path);
    if ((mode & 0o060) !== 0o060 || gid === 0) return none;
    const entry = readText("/etc/group")
      .split("\n")
      .map((line) => line.split(":"))
      .find(([, , id]) => id === String(gid));
    if (!entry) return none;
    return { group: { name: entry[0], gid }, groupListsUser: (entry[3] ?? "").split(",").includes(user.name) };
  } catch {
    return none;
  }
}

// --- CPU and KVM ---

function readCpu(): CpuFacts {
  const text = readText("/proc/cpuinfo");
  return { vendor: fieldOf(text, "vendor_id"), flags: new Set(fieldOf(text, "flags").split(" ")) };
}

function tryKvm(user: UserFacts): KvmFacts {
  const { fd, facts: device } = openDevice("/dev/kvm", user);
  const modules = existsSync("/sys/module") ? readdirSync("/sys/module") : [];
  const facts: KvmFacts = {
    device,
    apiVersion: null,
    machineError: null,
    capabilities: null,
    tscKhz: 0,
    // Built-in ones have no folder unless they have parameters; KVM's have.
    module: modules.find((name) => /^kvm_/.test(name)) ?? null,
  };
  if (fd < 0) return facts;
  try {
    const version = tryIoctlValue(fd, "GET_API_VERSION", 0);
    return version === 12
      ? { ...facts, apiVersion: version, ...tryMachine(fd) }
      : { ...facts, apiVersion: version < 0 ? null : version };
  } finally {
    closeSync(fd);
  }
}

/** A machine with one vCPU, for a moment: some capabilities are a machine's, and the clock is a vCPU's. */
function tryMachine(kvm: number): Pick<KvmFacts, "machineError" | "capabilities" | "tscKhz"> {
  const vm = tryIoctlValue(kvm, "CREATE_VM", 0);
  if (vm < 0) return { machineError: errnoName(vm), capabilities: null, tscKhz: 0 };
  const vcpu = tryIoctlValue(vm, "CREATE_VCPU", 0);
  const tscKhz = vcpu < 0 ? 0 : Math.max(0, tryIoctlValue(vcpu, "GET_TSC_KHZ", 0));
  const capabilities = readCapabilities(vm);
  if (vcpu >= 0) net.close(vcpu);
  net.close(vm);
  return { machineError: vcpu < 0 ? errnoName(vcpu) : null, capabilities: vcpu < 0 ? null : capabilities, tscKhz };
}

function readCapabilities(vm: number): KvmCapabilities {
  const ask = (capability: number): number => Math.max(0, tryIoctlValue(vm, "CHECK_EXTENSION", capability));
  return {
    sregs2: ask(KVM_CAP.SREGS2),
    immediateExit: ask(KVM_CAP.IMMEDIATE_EXIT),
    irqchip: ask(KVM_CAP.IRQCHIP),
    manualDirtyLog: ask(KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2),
    dirtyRing: ask(HOST_CAP.DIRTY_LOG_RING_ACQ_REL) || ask(HOST_CAP.DIRTY_LOG_RING), // the older name, before 6.1
    adjustClock: ask(HOST_CAP.ADJUST_CLOCK),
    tscControl: ask(HOST_CAP.TSC_CONTROL),
  };
}

// --- MSG_ZEROCOPY ---

const SEND_BUFFER_DEFAULT = 4 << 20; // the kernel's, on hosts with 1 GiB and more

function readZeroCopy(): ZeroCopyFacts {
  const limits = /^Max locked memory\s+(\S+)\s+(\S+)/m.exec(readText("/proc/self/limits"));
  const bytes = (text: string | undefined) =>
    text === undefined || text === "unlimited" ? Number.POSITIVE_INFINITY : Number(text);
  return {
    lockedSoft: bytes(limits?.[1]),
    lockedHard: bytes(limits?.[2]),
    optmem: readNumber("/proc/sys/net/core/optmem_max"),
    sendBuffer: Number(readText("/proc/sys/net/ipv4/tcp_wmem").trim().split(/\s+/)[2] ?? SEND_BUFFER_DEFAULT),
  };
}

// --- userfaultfd ---

function tryUserfaultfd(user: UserFacts): UserfaultfdFacts {
  const called = host.userfaultfd();
  if (called >= 0) net.close(called);
  const { fd, facts: device } = openDevice("/dev/userfaultfd", user);
  if (fd >= 0) {
    const made = host.userfaultfdFrom(fd);
    if (made >= 0) net.close(made);
    else device.error = errnoName(made);
    closeSync(fd);
  }
  return {
    callError: called < 0 ? errnoName(called) : null,
    device,
    unprivileged: readNumber("/proc/sys/vm/unprivileged_userfaultfd"),
  };
}

// --- folders ---

function tryRuntime(): RuntimeFacts {
  try {
    const path = runtimeFolder();
    const mode = statSync(path).mode & 0o777;
    accessSync(path, fs.W_OK | fs.X_OK);
    return { path, mode, error: null };
  } catch (error) {
    const details = error instanceof TramError ? error.details : {};
    const found = [(error as Error).message, details.found].filter(Boolean).join(": ");
    const remedy = details.next ?? "set XDG_RUNTIME_DIR to a folder where you may write";
    return { path: "", mode: 0, error: { found, remedy } };
  }
}

const TRIED_BYTES = 1 << 20;
const HOLE = { offset: 256 << 10, bytes: 512 << 10 }; // whole blocks of every filesystem
const DIRECT_WRITES = [512, 4096, 64 << 10];

function tryFolder(path: string): FolderFacts {
  const facts: FolderFacts = {
    path,
    error: null,
    freeBytes: 0,
    direct: { error: null, alignment: null, smallestWrite: null },
    holes: { error: null, frees: false, isFound: false },
  };
  let fd = -1;
  try {
    const { bavail, bsize } = statfsSync(path);
    fd = openNameless(path);
    return { ...facts, freeBytes: bavail * bsize, holes: tryHoles(fd), direct: tryDirect(fd) };
  } catch (error) {
    return { ...facts, error: codeOf(error) };
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** A new file that has lost its name already: however this process ends, nothing stays behind. */
function openNameless(folder: string): number {
  const path = join(folder, `.tram-doctor-${process.pid}-${Date.now()}`);
  const fd = openSync(path, fs.O_RDWR | fs.O_CREAT | fs.O_EXCL, 0o600);
  rmSync(path);
  return fd;
}

function tryHoles(fd: number): FolderFacts["holes"] {
  const content = new Uint8Array(TRIED_BYTES).fill(0xff);
  for (let done = 0; done < content.length; ) done += writeSync(fd, content, done);
  net.sync(fd); // until then some filesystems have given the file no blocks
  const before = fstatSync(fd).blocks;
  const punched = host.punchHole(fd, HOLE.offset, HOLE.bytes);
  if (punched < 0) return { error: errnoName(punched), frees: false, isFound: false };
  const word = new Uint8Array(1);
  readSync(fd, word, 0, 1, HOLE.offset);
  const isFound = host.seekHole(fd, 0) === HOLE.offset;
  // Some filesystems count a file's blocks seconds later: what the kernel calls a hole has none.
  return { error: null, frees: word[0] === 0 && (isFound || fstatSync(fd).blocks < before), isFound };
}

function tryDirect(fd: number): FolderFacts["direct"] {
  let direct = -1;
  try {
    direct = openSync(`/proc/self/fd/${fd}`, fs.O_RDWR | fs.O_DIRECT);
    return {
      error: null,
      alignment: host.directAlignment(direct),
      smallestWrite: DIRECT_WRITES.find((bytes) => host.directWrite(direct, bytes) === bytes) ?? null,
    };
  } catch (error) {
    return { error: codeOf(error), alignment: null, smallestWrite: null };
  } finally {
    if (direct >= 0) closeSync(direct);
  }
}

// --- QEMU ---

const QEMU_NAME = /^qemu-(kvm|system-x86_64.*)$/;
const VERSION_MS = 5000;

/** The folders of PATH, but none relative to the current one: what lies there is not to be run by looking. */
function findQemus(): HostFacts["qemus"] {
  const folders = (process.env.PATH ?? "").split(":").filter(isAbsolute);
  const paths = folders.flatMap((folder) => namesIn(folder).map((name) => join(folder, name)));
  const seen = new Set<string>();
  return paths.flatMap((path) => {
    try {
      const file = realpathSync(path);
      if (seen.has(file)) return [];
      seen.add(file);
      accessSync(path, fs.X_OK);
    } catch {
      return [];
    }
    const { stdout } = Bun.spawnSync([path, "--version"], { stdout: "pipe", stderr: "ignore", timeout: VERSION_MS });
    const version = /version (\S+)/.exec(stdout.toString())?.[1];
    return version ? [{ path, version }] : [];
  });
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => QEMU_NAME.test(name))
      .sort();
  } catch {
    return [];
  }
}

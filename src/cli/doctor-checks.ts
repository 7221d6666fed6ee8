// tram doctor's verdicts: facts about a host in, checks out. Pure: nothing here looks at the host.
import { formatBytes, formatCount, formatMany } from "./units.ts";

/** limited: it works, less well. */
export type State = "ok" | "limited" | "missing";

export interface Check {
  name: string;
  state: State;
  found: string;
  /** What a person types or sets; every check that is not ok has one. */
  remedy?: string;
}

export interface UserFacts {
  name: string;
  uid: number;
  /** CAP_IPC_LOCK and CAP_SYS_PTRACE, where they count for the whole host: not in a user namespace. */
  mayLockMemory: boolean;
  mayTrace: boolean;
  isInContainer: boolean;
}

/** A device node, and what opening it gave. */
export interface DeviceFacts {
  path: string;
  /** The errno's name; null: it can be opened. */
  error: string | null;
  /** The group that may read and write, unless it is root's. */
  group: { name: string; gid: number } | null;
  /** The group's list names the user, although this session began before it did. */
  groupListsUser: boolean;
}

export interface CpuFacts {
  vendor: string;
  flags: ReadonlySet<string>;
}

export interface KvmFacts {
  device: DeviceFacts;
  /** Null where it cannot be asked. */
  apiVersion: number | null;
  /** The errno's name of making a machine; null: it was made, or not tried. */
  machineError: string | null;
  /** What KVM_CHECK_EXTENSION said; null: not asked. */
  capabilities: KvmCapabilities | null;
  tscKhz: number;
  /** kvm_intel, kvm_amd or another: what runs the guests. */
  module: string | null;
}

export interface KvmCapabilities {
  sregs2: number;
  immediateExit: number;
  irqchip: number;
  manualDirtyLog: number;
  /** In bytes. */
  dirtyRing: number;
  adjustClock: number;
  tscControl: number;
}

export interface ZeroCopyFacts {
  /** RLIMIT_MEMLOCK in bytes, Infinity without a limit. */
  lockedSoft: number;
  lockedHard: number;
  /** net.core.optmem_max; null: not to be read here. */
  optmem: number | null;
  /** The most that one TCP socket keeps unacknowledged: the last number of net.ipv4.tcp_wmem. */
  sendBuffer: number;
}

export interface UserfaultfdFacts {
  /** The errno's name; null: it works. */
  callError: string | null;
  device: DeviceFacts;
  /** vm.unprivileged_userfaultfd; null: the kernel has no such setting. */
  unprivileged: number | null;
}

export interface FolderFacts {
  path: string;
  /** Why no file can be made there; null: one can, and the rest was tried on it. */
  error: string | null;
  freeBytes: number;
  direct: {
    /** The errno's name of opening a file with O_DIRECT. */
    error: string | null;
    /** From statx; null: it does not say. */
    alignment: { memory: number; offset: number } | null;
    /** The smallest write that was taken; null: none was. */
    smallestWrite: number | null;
  };
  holes: {
    /** The errno's name of punching one. */
    error: string | null;
    /** The blocks were given back, and read as zeros. */
    frees: boolean;
    /** SEEK_HOLE found it. */
    isFound: boolean;
  };
}

export interface RuntimeFacts {
  path: string;
  mode: number;
  /** What is wrong with it, and what to do. */
  error: { found: string; remedy: string } | null;
}

export interface HostFacts {
  user: UserFacts;
  kernel: string;
  cpu: CpuFacts;
  kvm: KvmFacts;
  zeroCopy: ZeroCopyFacts;
  userfaultfd: UserfaultfdFacts;
  runtime: RuntimeFacts;
  folder: FolderFacts;
  qemus: readonly { path: string; version: string }[];
}

/** Without these no guest can be run, moved or steered. A host without KVM still handles streams and files. */
const NEEDED: ReadonlySet<string> = new Set(["cpu-avx2", "runtime-folder"]);

const ok = (name: string, found: string): Check => ({ name, state: "ok", found });
const limited = (name: string, found: string, remedy: string): Check => ({ name, state: "limited", found, remedy });
const missing = (name: string, found: string, remedy: string): Check => ({ name, state: "missing", found, remedy });

export function diagnose(facts: HostFacts): Check[] {
  const { user, kernel, cpu, kvm, zeroCopy, userfaultfd, runtime, folder, qemus } = facts;
  return [
    checkKernel(kernel),
    ...checkCpu(cpu, kvm),
    checkKvm(kvm, cpu, user),
    ...(kvm.capabilities ? checkCapabilities(kvm.capabilities, kvm) : []),
    checkLockedMemory(zeroCopy, user),
    checkOptmem(zeroCopy, user),
    checkUserfaultfd(userfaultfd, user),
    checkRuntime(runtime),
    ...checkFolder(folder),
    checkQemus(qemus),
  ];
}

export const lacksNeeded = (checks: readonly Check[]): boolean =>
  checks.some(({ name, state }) => state === "missing" && NEEDED.has(name));

/** A command for the superuser, as this user types it. */
const asRoot = ({ uid }: UserFacts, text: string): string => (uid === 0 ? text : `sudo ${text}`);

// --- kernel and CPU ---

export function checkKernel(release: string): Check {
  const [major, minor] = release.split(/[.-]/).map(Number);
  const isBefore = (a: number, b: number) => major < a || (major === a && minor < b);
  const found = `Linux ${release}`;
  // Distributions put features into older kernels: only the checks of the features themselves say that one is missing.
  if (isBefore(5, 14)) return limited("kernel", `${found}: KVM_CAP_SREGS2 came with 5.14`, "boot kernel 6.1 or later");
  if (isBefore(6, 1))
    return limited(
      "kernel",
      `${found}: statx with direct I/O and /dev/userfaultfd came with 6.1`,
      "boot kernel 6.1 or later",
    );
  return ok("kernel", found);
}

export function checkCpu({ vendor, flags }: CpuFacts, kvm: KvmFacts): Check[] {
  const avx2 = flags.has("avx2")
    ? ok("cpu-avx2", "yes")
    : missing("cpu-avx2", "no: tram does not run", "use a CPU with AVX2; in a QEMU guest: -cpu host, or -cpu max");
  const aes = flags.has("aes")
    ? ok("cpu-aes", "yes")
    : limited("cpu-aes", "no: moves through ssh are slow", "ssh -c chacha20-poly1305@openssh.com");
  return [avx2, aes, checkVirtualisation({ vendor, flags }, kvm)];
}

function checkVirtualisation(cpu: CpuFacts, { device, module }: KvmFacts): Check {
  const name = "cpu-virtualisation";
  if (cpu.flags.has("vmx")) return ok(name, "VT-x (vmx)");
  if (cpu.flags.has("svm")) return ok(name, "AMD-V (svm)");
  // Where /dev/kvm is there nevertheless, something else runs the guests: kvm_pvm's emulator, for example.
  if (!isAbsent(device))
    return limited(name, `neither vmx nor svm: ${module ?? "KVM"} runs guests slowly`, enableVirtualisation(cpu));
  return missing(name, "neither vmx nor svm", enableVirtualisation(cpu));
}

/** Not there, or there with nothing behind it. */
const isAbsent = ({ error }: DeviceFacts): boolean => ["ENOENT", "ENXIO", "ENODEV"].includes(error ?? "");

const isAmd = ({ vendor }: CpuFacts): boolean => vendor === "AuthenticAMD" || vendor === "HygonGenuine";

function enableVirtualisation(cpu: CpuFacts): string {
  const module = isAmd(cpu) ? "kvm_amd" : "kvm_intel";
  if (cpu.flags.has("hypervisor"))
    return `on the outer host: modprobe ${module} nested=1; give this machine its CPU, in QEMU: -cpu host`;
  return `enable ${isAmd(cpu) ? "SVM (AMD-V)" : "VT-x"} in the firmware`;
}

// --- KVM ---

const WITHOUT_KVM = "only --accel none runs a guest; receive, send and inspect work without it";

export function checkKvm(kvm: KvmFacts, cpu: CpuFacts, user: UserFacts): Check {
  const name = "kvm";
  const { device, apiVersion, machineError, module } = kvm;
  if (isAbsent(device)) {
    const why = device.error === "ENOENT" ? `no ${device.path}` : `${device.path}: ${device.error}`;
    return missing(name, `${why}: ${WITHOUT_KVM}`, makeKvmAppear(cpu, user));
  }
  if (device.error !== null)
    return missing(name, `${device.path}: ${device.error}: ${WITHOUT_KVM}`, letIn(device, user));
  if (apiVersion !== 12)
    return missing(
      name,
      `${device.path} is not KVM of API version 12${apiVersion === null ? "" : ` but ${apiVersion}`}: ${WITHOUT_KVM}`,
      `see what stands in its place: ls -l ${device.path} (KVM's is c 10, 232)`,
    );
  if (machineError !== null)
    return missing(
      name,
      `${device.path} makes no machine: ${machineError}: ${WITHOUT_KVM}`,
      machineError === "EBUSY"
        ? `end the other hypervisor: ${asRoot(user, "modprobe -r vboxdrv")}, or its like`
        : `see what the kernel says: ${asRoot(user, "dmesg | grep -i kvm")}`,
    );
  return ok(name, `${device.path}, API version ${apiVersion}${module ? `, ${module}` : ""}`);
}

function makeKvmAppear(cpu: CpuFacts, user: UserFacts): string {
  if (user.isInContainer) return "start the container with --device /dev/kvm";
  const load = asRoot(user, `modprobe ${isAmd(cpu) ? "kvm_amd" : "kvm_intel"}`);
  const isOffered = cpu.flags.has("vmx") || cpu.flags.has("svm");
  return isOffered ? load : `${enableVirtualisation(cpu)}; then here: ${load}`;
}

/** How this user comes to open a device that refuses. */
function letIn({ path, error, group, groupListsUser }: DeviceFacts, user: UserFacts): string {
  if (error === "EPERM")
    // not the file's mode: a rule about devices, which holds for root too
    return user.isInContainer
      ? `start the container with --device ${path}`
      : `let the service have it: systemd: DeviceAllow=${path} rw`;
  if (error !== "EACCES") return `see what the kernel says: ${asRoot(user, "dmesg | tail")}`;
  if (user.isInContainer) return `start the container with ${group ? `--group-add ${group.gid}` : "--user 0"}`;
  if (group === null) return `${asRoot(user, `chown ${user.name} ${path}`)} (until the next boot)`;
  if (groupListsUser) return `log in again, for the group ${group.name}; or in this shell: newgrp ${group.name}`;
  return `${asRoot(user, `usermod -aG ${group.name} ${user.name}`)}; then log in again`;
}

const RING_ENTRY_BYTES = 16; // struct kvm_dirty_gfn

export function checkCapabilities(capabilities: KvmCapabilities, { tscKhz, module }: KvmFacts): Check[] {
  const { sregs2, immediateExit, irqchip, adjustClock, tscControl } = capabilities;
  const needed = (name: string, cap: string, value: number, kernel = "kernel 5.14 or later"): Check =>
    value > 0 ? ok(name, `KVM_CAP_${cap}`) : missing(name, `no KVM_CAP_${cap}: guests cannot run`, `boot ${kernel}`);
  return [
    needed("kvm-sregs2", "SREGS2", sregs2),
    needed("kvm-immediate-exit", "IMMEDIATE_EXIT", immediateExit),
    needed("kvm-irqchip", "IRQCHIP", irqchip, "a kernel with CONFIG_KVM_IOAPIC=y"),
    needed("kvm-clock", "ADJUST_CLOCK", adjustClock),
    checkDirtyLog(capabilities),
    checkDirtyRing(capabilities, module),
    tscControl > 0
      ? ok("kvm-tsc", `KVM_CAP_TSC_CONTROL; its own: ${formatCount(tscKhz)} kHz`)
      : limited(
          "kvm-tsc",
          "no KVM_CAP_TSC_CONTROL: a guest's clock cannot be scaled",
          `move guests only between hosts with this line's clock: ${formatCount(tscKhz)} kHz`,
        ),
  ];
}

function checkDirtyLog({ manualDirtyLog }: KvmCapabilities): Check {
  const name = "kvm-dirty-log";
  const remedy = "boot kernel 5.7 or later";
  if (!(manualDirtyLog & 1))
    return limited(name, "no KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: every look at it slows the guest", remedy);
  if (!(manualDirtyLog & 2))
    return limited(name, "manual protection, not initially set: a move's start slows the guest", remedy);
  return ok(name, "manual protection, initially set");
}

function checkDirtyRing({ dirtyRing }: KvmCapabilities, module: string | null): Check {
  const name = "kvm-dirty-ring";
  if (dirtyRing <= 0)
    return limited(name, "no KVM_CAP_DIRTY_LOG_RING: the dirty log does the work", "boot kernel 5.11 or later");
  const found = `at most ${formatCount(dirtyRing / RING_ENTRY_BYTES)} entries a vCPU`;
  // Its emulator runs many instructions between two looks at the ring, more than the ring's reserve: entries get lost.
  if (module === "kvm_pvm")
    return limited(name, `${found}; kvm_pvm loses some when it is full`, "use the dirty log, which is the default");
  return ok(name, found);
}

// --- MSG_ZEROCOPY ---

/** As many channels as a move may want. The limit on locked memory is a user's, over all sockets. */
const CHANNELS = 16;
/** A send of 128 pages is counted as 130: measured, and in the kernel's mm_account_pinned_pages. */
const LOCKED_PER_BYTE = 130 / 128;
/** What the kernel charges to a socket's option memory for each 512 KiB that it has not acknowledged: measured. */
const NOTIFICATION_BYTES = 832;
const NOTIFICATION_COVERS = 512 << 10;
/** Completions wait to be read, and those that come out of order are not merged. */
const NOTIFICATION_RESERVE = 4;
const OPTMEM_DEFAULT = 128 << 10; // of kernels since 6.7

export function zeroCopyNeeds({ sendBuffer }: ZeroCopyFacts): { lockedPerChannel: number; optmem: number } {
  return {
    lockedPerChannel: Math.ceil(sendBuffer * LOCKED_PER_BYTE),
    optmem: Math.ceil(sendBuffer / NOTIFICATION_COVERS) * NOTIFICATION_BYTES * NOTIFICATION_RESERVE,
  };
}

export function checkLockedMemory(facts: ZeroCopyFacts, user: UserFacts): Check {
  const name = "locked-memory";
  const { lockedSoft, lockedHard } = facts;
  const { lockedPerChannel } = zeroCopyNeeds(facts);
  const wanted = lockedPerChannel * CHANNELS;
  if (user.mayLockMemory) return ok(name, "no limit (CAP_IPC_LOCK)");
  if (lockedSoft === Number.POSITIVE_INFINITY) return ok(name, "no limit");
  if (lockedSoft >= wanted) return ok(name, formatBytes(lockedSoft));
  const channels = Math.floor(lockedSoft / lockedPerChannel);
  const found = `${formatBytes(lockedSoft)}: zero-copy sending on ${channels ? formatMany(channels, "channel") : "no channels"}, then it copies`;
  const kib = Math.ceil(wanted / 1024);
  if (lockedHard >= wanted) return limited(name, found, `ulimit -l ${kib}, before tram run`);
  if (user.isInContainer) return limited(name, found, `start the container with --ulimit memlock=${kib * 1024}`);
  const raise = asRoot(user, `prlimit --pid $$ --memlock=${kib * 1024}`);
  return limited(name, found, `${raise}, before tram run; for a service: LimitMEMLOCK=${kib}K`);
}

export function checkOptmem(facts: ZeroCopyFacts, user: UserFacts): Check {
  const name = "optmem";
  const needed = zeroCopyNeeds(facts).optmem;
  const raise = `sysctl -w net.core.optmem_max=${Math.max(OPTMEM_DEFAULT, 2 ** Math.ceil(Math.log2(needed)))}`;
  if (facts.optmem === null)
    return limited(
      name,
      "net.core.optmem_max cannot be read in this network namespace",
      `on the host: ${asRoot(user, raise)}`,
    );
  const found = `${formatBytes(facts.optmem)} (net.core.optmem_max)`;
  if (facts.optmem >= needed) return ok(name, found);
  return limited(name, `${found}: zero-copy sending copies at times`, asRoot(user, raise));
}

// --- userfaultfd ---

export function checkUserfaultfd({ callError, device, unprivileged }: UserfaultfdFacts, user: UserFacts): Check {
  const name = "userfaultfd";
  if (callError === null) return ok(name, "by the system call");
  if (device.error === null) return ok(name, `through ${device.path}`);
  const found = `${callError}: memory cannot be filled in when a guest first touches it`;
  if (callError === "ENOSYS") return missing(name, found, "boot a kernel with CONFIG_USERFAULTFD=y");
  // The device lets in one user, the setting all of them.
  if (device.error === "EACCES") return missing(name, found, letIn(device, user));
  if (user.isInContainer) return missing(name, found, `start the container with --device ${device.path}`);
  if (unprivileged === 0 && !user.mayTrace)
    return missing(name, found, asRoot(user, "sysctl -w vm.unprivileged_userfaultfd=1"));
  return missing(name, found, "let the seccomp filter pass it: systemd: SystemCallFilter=userfaultfd");
}

// --- folders ---

export function checkRuntime({ path, mode, error }: RuntimeFacts): Check {
  const name = "runtime-folder";
  if (error) return missing(name, error.found, error.remedy);
  return ok(name, `${path}, mode 0${mode.toString(8)}`);
}

/** A whole new file of the default guest beside the old one. */
const FREE_WANTED = 1 << 30;
const PAGE_BYTES = 4096;
const GOOD_FILESYSTEMS = "keep guests' files on ext4, XFS or btrfs; and ask again: tram doctor FOLDER";

export function checkFolder(facts: FolderFacts): Check[] {
  const { path, error, freeBytes } = facts;
  if (error !== null)
    return [
      missing("folder", `no file can be made in ${path}: ${error}`, "name one where you may write: tram doctor FOLDER"),
    ];
  const free = `${formatBytes(freeBytes)} in ${path}`;
  return [
    freeBytes >= FREE_WANTED
      ? ok("free-space", free)
      : limited("free-space", free, `make ${formatBytes(FREE_WANTED)} free there; or name another: tram doctor FOLDER`),
    checkDirect(facts.direct),
    checkHoles(facts.holes),
  ];
}

function checkDirect({ error, alignment, smallestWrite }: FolderFacts["direct"]): Check {
  const name = "direct-io";
  if (error !== null) return limited(name, `${error}: files go through the page cache`, GOOD_FILESYSTEMS);
  if (smallestWrite === null || (alignment !== null && alignment.offset === 0))
    return limited(name, "refused: files go through the page cache", GOOD_FILESYSTEMS);
  const step = Math.max(smallestWrite, alignment?.offset ?? 0, alignment?.memory ?? 0);
  const found = `aligned to ${formatBytes(step)}${alignment ? "" : " (tried; statx does not say)"}`;
  if (step > PAGE_BYTES)
    return limited(
      name,
      `${found}: more than a page`,
      "use a filesystem with blocks of 4 KiB; ext4's: mkfs.ext4 -b 4096",
    );
  return ok(name, found);
}

function checkHoles({ error, frees, isFound }: FolderFacts["holes"]): Check {
  const name = "holes";
  if (error !== null)
    return limited(name, `cannot be punched (${error}): zero pages keep their space`, GOOD_FILESYSTEMS);
  if (!frees) return limited(name, "punching frees nothing: zero pages keep their space", GOOD_FILESYSTEMS);
  if (!isFound) return limited(name, "SEEK_HOLE does not find them: files are read whole", GOOD_FILESYSTEMS);
  return ok(name, "punched, and found by SEEK_HOLE");
}

// --- QEMU ---

/** For information: tram needs no QEMU. */
export function checkQemus(qemus: HostFacts["qemus"]): Check {
  const list = qemus.map(({ path, version }) => `${path} ${version}`).join(", ");
  return ok("qemu", list || "none on PATH; only QEMU's own guests need one");
}

// --- as text ---

const STATE_WIDTH = 8;
const NAME_WIDTH = 19;

/**
 * One line a check and one a remedy. What does not fit `width` columns is folded (Infinity: never): what was found between
 * words, a remedy only between its steps, because its commands are there to be copied.
 */
export function formatChecks(checks: readonly Check[], width: number): string {
  const lines = checks.flatMap(({ name, state, found, remedy }) => {
    const head = `${state.padEnd(STATE_WIDTH)} ${name.padEnd(NAME_WIDTH)} `;
    const remedyHead = `${" ".repeat(STATE_WIDTH + 1)}remedy: `;
    return [...fold(head, found, " ", width), ...(remedy ? fold(remedyHead, remedy, "; ", width) : [])];
  });
  const count = (state: State) => checks.filter((one) => one.state === state).length;
  return [...lines, `${count("ok")} ok, ${count("limited")} limited, ${count("missing")} missing`].join("\n");
}

/** `head` and `text`, in lines that break at `separator` and go on below the text's beginning. */
function fold(head: string, text: string, separator: string, width: number): string[] {
  const [first, ...rest] = text.split(separator);
  const lines = [head + first];
  for (const part of rest) {
    const longer = lines[lines.length - 1] + separator + part;
    if (longer.length <= width) lines[lines.length - 1] = longer;
    else {
      lines[lines.length - 1] += separator.trimEnd();
      lines.push(" ".repeat(head.length) + part);
    }
  }
  return lines;
}

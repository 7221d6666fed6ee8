import { describe, expect, test } from "bun:test";
import {
  type Check,
  type CpuFacts,
  checkCapabilities,
  checkCpu,
  checkFolder,
  checkKernel,
  checkKvm,
  checkLockedMemory,
  checkOptmem,
  checkQemus,
  checkRuntime,
  checkUserfaultfd,
  type DeviceFacts,
  diagnose,
  type FolderFacts,
  formatChecks,
  type HostFacts,
  type KvmCapabilities,
  type KvmFacts,
  lacksNeeded,
  type UserFacts,
  type UserfaultfdFacts,
  type ZeroCopyFacts,
  zeroCopyNeeds,
} from "../../src/cli/doctor-checks.ts";
import { HOST_CAP } from "../../src/native/host.ts";

const K = 1024;
const M = K * K;

// --- a host with nothing to say about; each test changes what it is about ---

const JOE: UserFacts = { name: "joe", uid: 1000, mayLockMemory: false, mayTrace: false, isInContainer: false };
const ROOT: UserFacts = { ...JOE, name: "root", uid: 0, mayLockMemory: true, mayTrace: true };
const BOXED: UserFacts = { ...JOE, isInContainer: true };

const INTEL: CpuFacts = { vendor: "GenuineIntel", flags: new Set(["avx2", "aes", "vmx"]) };
const cpu = (vendor: string, ...flags: string[]): CpuFacts => ({ vendor, flags: new Set(flags) });

const OPEN: DeviceFacts = { path: "/dev/kvm", error: null, group: null, groupListsUser: false };
const KVM_GROUP = { name: "kvm", gid: 106 };

const ALL: KvmCapabilities = {
  sregs2: 1,
  immediateExit: 1,
  irqchip: 1,
  manualDirtyLog: 3,
  dirtyRing: 1 << 20,
  adjustClock: 14,
  tscControl: 1,
};
const KVM_THERE: KvmFacts = {
  device: OPEN,
  apiVersion: 12,
  machineError: null,
  capabilities: ALL,
  tscKhz: 2_400_000,
  module: "kvm_intel",
};
const kvmWith = (device: Partial<DeviceFacts>): KvmFacts => ({
  ...KVM_THERE,
  device: { ...OPEN, ...device },
  apiVersion: null,
  capabilities: null,
});

const ZERO_COPY: ZeroCopyFacts = {
  lockedSoft: Number.POSITIVE_INFINITY,
  lockedHard: Number.POSITIVE_INFINITY,
  optmem: 128 * K,
  sendBuffer: 4 * M,
};

const UFFD: UserfaultfdFacts = {
  callError: null,
  device: { ...OPEN, path: "/dev/userfaultfd" },
  unprivileged: 0,
};

const FOLDER: FolderFacts = {
  path: "/data",
  error: null,
  freeBytes: 100 * 1024 * M,
  direct: { error: null, alignment: { memory: 4, offset: 512 }, smallestWrite: 512 },
  holes: { error: null, frees: true, isFound: true },
};

const HOST: HostFacts = {
  user: JOE,
  kernel: "6.12.1",
  cpu: INTEL,
  kvm: KVM_THERE,
  zeroCopy: ZERO_COPY,
  userfaultfd: UFFD,
  runtime: { path: "/run/user/1000/tram", mode: 0o700, error: null },
  folder: FOLDER,
  qemus: [],
};

const named = (checks: readonly Check[], name: string): Check => {
  const found = checks.find((one) => one.name === name);
  if (!found) throw new Error(`no check '${name}' among ${checks.map((one) => one.name).join(", ")}`);
  return found;
};

describe("a host that lacks nothing", () => {
  test("is ok in every check, without a remedy", () => {
    const checks = diagnose(HOST);
    expect(checks.filter(({ state, remedy }) => state !== "ok" || remedy !== undefined)).toEqual([]);
    expect(lacksNeeded(checks)).toBe(false);
  });

  test("has each name once", () => {
    const names = diagnose(HOST).map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-z0-9-]{1,18}$/);
  });
});

describe("a host that lacks everything", () => {
  const refused: DeviceFacts = { ...OPEN, error: "EACCES" };
  const checks = diagnose({
    ...HOST,
    kernel: "4.18.0-553.el8",
    cpu: cpu("GenuineIntel"),
    kvm: kvmWith({ error: "ENOENT" }),
    zeroCopy: { ...ZERO_COPY, lockedSoft: 64 * K, lockedHard: 64 * K, optmem: 20480 },
    userfaultfd: { callError: "EPERM", device: { ...refused, path: "/dev/userfaultfd" }, unprivileged: 0 },
    runtime: { path: "", mode: 0, error: { found: "/x cannot be made", remedy: "set XDG_RUNTIME_DIR" } },
    folder: { ...FOLDER, error: "EROFS" },
  });

  test("has a remedy in every check but the informational one", () => {
    expect(checks.filter(({ state }) => state === "ok").map(({ name }) => name)).toEqual(["qemu"]);
    expect(checks.filter(({ state, remedy }) => state !== "ok" && !remedy)).toEqual([]);
  });

  test("has nothing to say about what it could not ask", () => {
    expect(checks.filter(({ name }) => /^kvm-|direct-io|holes|free-space/.test(name))).toEqual([]);
  });

  test("fails, because no guest can be run, moved or steered", () => expect(lacksNeeded(checks)).toBe(true));
});

describe("what every command needs", () => {
  test("is not KVM: streams and files can be handled without it", () => {
    const checks = diagnose({ ...HOST, kvm: kvmWith({ error: "ENOENT" }) });
    expect(named(checks, "kvm")).toMatchObject({ state: "missing" });
    expect(named(checks, "kvm").found).toContain("receive, send and inspect work without it");
    expect(lacksNeeded(checks)).toBe(false);
  });

  test.each<[string, Partial<HostFacts>]>([
    ["AVX2", { cpu: cpu("GenuineIntel", "vmx") }],
    ["a runtime folder", { runtime: { path: "", mode: 0, error: { found: "no", remedy: "x" } } }],
  ])("is %s", (_, facts) => expect(lacksNeeded(diagnose({ ...HOST, ...facts }))).toBe(true));
});

describe("the kernel", () => {
  test.each([
    ["6.18.44-fc-v595", "ok"],
    ["6.1.0-56-cloud-amd64", "ok"],
    ["10.0.0", "ok"],
    ["6.0.19", "limited"],
    ["5.14.0-503.el9", "limited"],
    ["5.13.19", "limited"],
    ["4.18.0-553.el8", "limited"],
  ])("%s is %s", (release, state) => {
    const check = checkKernel(release);
    expect(check.state).toBe(state as Check["state"]);
    expect(check.found).toStartWith(`Linux ${release}`);
    expect(check.remedy).toBe(state === "ok" ? undefined : "boot kernel 6.1 or later");
    expect(check.found.includes("SREGS2")).toBe(release.startsWith("5.13") || release.startsWith("4."));
  });
});

describe("the CPU", () => {
  const gone = kvmWith({ error: "ENOENT" });
  test.each<[string, CpuFacts, KvmFacts, string, Check["state"], string | undefined]>([
    ["has AVX2", INTEL, KVM_THERE, "cpu-avx2", "ok", undefined],
    ["lacks AVX2", cpu("GenuineIntel", "vmx"), KVM_THERE, "cpu-avx2", "missing", "-cpu host"],
    ["lacks AES", cpu("GenuineIntel", "avx2"), KVM_THERE, "cpu-aes", "limited", "ssh -c chacha20-poly1305@openssh.com"],
    ["has VT-x", INTEL, gone, "cpu-virtualisation", "ok", undefined],
    ["has AMD-V", cpu("AuthenticAMD", "svm"), gone, "cpu-virtualisation", "ok", undefined],
    ["is Intel's without VT-x", cpu("GenuineIntel"), gone, "cpu-virtualisation", "missing", "enable VT-x in the firm"],
    ["is AMD's without SVM", cpu("AuthenticAMD"), gone, "cpu-virtualisation", "missing", "enable SVM (AMD-V) in the"],
    ["is a guest's", cpu("AuthenticAMD", "hypervisor"), gone, "cpu-virtualisation", "missing", "kvm_amd nested=1"],
    ["is emulated by KVM", cpu("AuthenticAMD"), KVM_THERE, "cpu-virtualisation", "limited", "enable SVM (AMD-V)"],
  ])("%s", (_, facts, kvm, name, state, remedy) => {
    const check = named(checkCpu(facts, kvm), name);
    expect(check.state).toBe(state);
    if (remedy === undefined) expect(check.remedy).toBeUndefined();
    else expect(check.remedy).toContain(remedy);
  });
});

describe("/dev/kvm", () => {
  const group = { group: KVM_GROUP };
  const amd = cpu("AuthenticAMD", "svm");
  const guest = cpu("AuthenticAMD", "hypervisor");
  test.each<[string, KvmFacts, CpuFacts, UserFacts, string]>([
    ["not there, Intel", kvmWith({ error: "ENOENT" }), INTEL, JOE, "sudo modprobe kvm_intel"],
    ["not there, AMD", kvmWith({ error: "ENOENT" }), amd, JOE, "sudo modprobe kvm_amd"],
    ["not there, root", kvmWith({ error: "ENOENT" }), amd, ROOT, "modprobe kvm_amd"],
    ["nothing behind it", kvmWith({ error: "ENODEV" }), amd, JOE, "sudo modprobe kvm_amd"],
    [
      "not there, in a virtual machine",
      kvmWith({ error: "ENOENT" }),
      guest,
      JOE,
      "on the outer host: modprobe kvm_amd nested=1; give this machine its CPU, in QEMU: -cpu host; then here: sudo modprobe kvm_amd",
    ],
    [
      "not there, in a container",
      kvmWith({ error: "ENOENT" }),
      amd,
      BOXED,
      "start the container with --device /dev/kvm",
    ],
    ["a group's", kvmWith({ error: "EACCES", ...group }), amd, JOE, "sudo usermod -aG kvm joe; then log in again"],
    [
      "a group's, which has the user since a moment ago",
      kvmWith({ error: "EACCES", ...group, groupListsUser: true }),
      amd,
      JOE,
      "log in again, for the group kvm; or in this shell: newgrp kvm",
    ],
    ["root's alone", kvmWith({ error: "EACCES" }), amd, JOE, "sudo chown joe /dev/kvm (until the next boot)"],
    [
      "a group's, in a container",
      kvmWith({ error: "EACCES", ...group }),
      amd,
      BOXED,
      "start the container with --group-add 106",
    ],
    ["root's, in a container", kvmWith({ error: "EACCES" }), amd, BOXED, "start the container with --user 0"],
    ["denied by a container", kvmWith({ error: "EPERM" }), amd, BOXED, "start the container with --device /dev/kvm"],
    [
      "denied to a service",
      kvmWith({ error: "EPERM" }),
      amd,
      ROOT,
      "let the service have it: systemd: DeviceAllow=/dev/kvm rw",
    ],
    ["broken", kvmWith({ error: "EIO" }), amd, JOE, "see what the kernel says: sudo dmesg | tail"],
    ["something else", kvmWith({}), amd, JOE, "see what stands in its place: ls -l /dev/kvm (KVM's is c 10, 232)"],
    [
      "in use by another hypervisor",
      { ...KVM_THERE, machineError: "EBUSY", capabilities: null },
      amd,
      JOE,
      "end the other hypervisor: sudo modprobe -r vboxdrv, or its like",
    ],
    [
      "without memory for a machine",
      { ...KVM_THERE, machineError: "ENOMEM", capabilities: null },
      amd,
      JOE,
      "see what the kernel says: sudo dmesg | grep -i kvm",
    ],
  ])("%s: missing, with the remedy", (_, kvm, facts, user, remedy) => {
    const check = checkKvm(kvm, facts, user);
    expect(check).toMatchObject({ name: "kvm", state: "missing", remedy });
    expect(check.found).toContain("/dev/kvm");
    expect(check.found).toEndWith(": only --accel none runs a guest; receive, send and inspect work without it");
  });

  test("that works says which KVM it is", () => {
    expect(checkKvm(KVM_THERE, INTEL, JOE)).toEqual({
      name: "kvm",
      state: "ok",
      found: "/dev/kvm, API version 12, kvm_intel",
    });
  });
});

describe("KVM's capabilities", () => {
  test.each<[keyof KvmCapabilities, number, string, Check["state"], string]>([
    ["sregs2", 0, "kvm-sregs2", "missing", "boot kernel 5.14 or later"],
    ["immediateExit", 0, "kvm-immediate-exit", "missing", "boot kernel 5.14 or later"],
    ["irqchip", 0, "kvm-irqchip", "missing", "boot a kernel with CONFIG_KVM_IOAPIC=y"],
    ["adjustClock", 0, "kvm-clock", "missing", "boot kernel 5.14 or later"],
    ["manualDirtyLog", 0, "kvm-dirty-log", "limited", "boot kernel 5.7 or later"],
    ["manualDirtyLog", 1, "kvm-dirty-log", "limited", "boot kernel 5.7 or later"],
    ["dirtyRing", 0, "kvm-dirty-ring", "limited", "boot kernel 5.11 or later"],
    ["tscControl", 0, "kvm-tsc", "limited", "move guests only between hosts with this line's clock: 2,400,000 kHz"],
  ])("%s = %d", (key, value, name, state, remedy) => {
    const checks = checkCapabilities({ ...ALL, [key]: value }, KVM_THERE);
    expect(named(checks, name)).toMatchObject({ state, remedy });
    expect(checks.filter((one) => one.state !== "ok")).toHaveLength(1);
  });

  test("the ring's size is given in entries", () => {
    expect(named(checkCapabilities(ALL, KVM_THERE), "kvm-dirty-ring").found).toBe("at most 65,536 entries a vCPU");
  });

  test("a ring that loses entries is limited", () => {
    const check = named(checkCapabilities(ALL, { ...KVM_THERE, module: "kvm_pvm" }), "kvm-dirty-ring");
    expect(check).toMatchObject({ state: "limited", remedy: "use the dirty log, which is the default" });
  });

  test("their numbers are the header's", () => {
    const cc = process.env.CC ?? "cc";
    const { stdout } = Bun.spawnSync([cc, "-E", "-dM", "-include", "linux/kvm.h", "-x", "c", "/dev/null"]);
    const defined = new Map(
      [...stdout.toString().matchAll(/^#define KVM_CAP_(\w+) (\d+)$/gm)].map(([, name, number]) => [
        name,
        Number(number),
      ]),
    );
    for (const [name, number] of Object.entries(HOST_CAP))
      expect({ name, number: defined.get(name) }).toEqual({ name, number });
  });
});

describe("locked memory", () => {
  const with8M = { ...ZERO_COPY, lockedSoft: 8 * M, lockedHard: 8 * M };
  const wanted = 16 * zeroCopyNeeds(ZERO_COPY).lockedPerChannel;

  test("16 channels want 65 MiB where a socket keeps 4 MiB", () => expect(wanted / M).toBe(65));

  test.each<[string, ZeroCopyFacts, UserFacts, string]>([
    ["without a limit", ZERO_COPY, JOE, "no limit"],
    ["with CAP_IPC_LOCK", with8M, ROOT, "no limit (CAP_IPC_LOCK)"],
    ["of just enough", { ...ZERO_COPY, lockedSoft: wanted }, JOE, "65 MiB"],
  ])("%s is ok", (_, facts, user, found) => {
    expect(checkLockedMemory(facts, user)).toEqual({ name: "locked-memory", state: "ok", found });
  });

  test.each<[string, ZeroCopyFacts, UserFacts, string, string]>([
    [
      "8 MiB is enough for one socket, measured",
      with8M,
      JOE,
      "8 MiB: zero-copy sending on 1 channel, then it copies",
      "sudo prlimit --pid $$ --memlock=68157440, before tram run; for a service: LimitMEMLOCK=66560K",
    ],
    [
      "what the hard limit allows needs no root",
      { ...with8M, lockedHard: Number.POSITIVE_INFINITY },
      JOE,
      "8 MiB: zero-copy sending on 1 channel, then it copies",
      "ulimit -l 66560, before tram run",
    ],
    [
      "a container's is set from outside",
      with8M,
      BOXED,
      "8 MiB: zero-copy sending on 1 channel, then it copies",
      "start the container with --ulimit memlock=68157440",
    ],
    [
      "64 KiB is enough for none",
      { ...with8M, lockedSoft: 64 * K },
      BOXED,
      "64 KiB: zero-copy sending on no channels, then it copies",
      "start the container with --ulimit memlock=68157440",
    ],
    [
      "a larger send buffer wants more",
      { ...ZERO_COPY, lockedSoft: 65 * M, lockedHard: 65 * M, sendBuffer: 16 * M },
      BOXED,
      "65 MiB: zero-copy sending on 4 channels, then it copies",
      "start the container with --ulimit memlock=272629760",
    ],
  ])("%s", (_, facts, user, found, remedy) => {
    expect(checkLockedMemory(facts, user)).toEqual({ name: "locked-memory", state: "limited", found, remedy });
  });
});

describe("option memory", () => {
  test.each<[number | null, number, UserFacts, Check["state"], string | undefined]>([
    [128 * K, 4 * M, JOE, "ok", undefined],
    [20480, 4 * M, JOE, "limited", "sudo sysctl -w net.core.optmem_max=131072"],
    [20480, 4 * M, ROOT, "limited", "sysctl -w net.core.optmem_max=131072"],
    [128 * K, 64 * M, JOE, "limited", "sudo sysctl -w net.core.optmem_max=524288"],
    [512 * K, 64 * M, JOE, "ok", undefined],
    [null, 4 * M, JOE, "limited", "on the host: sudo sysctl -w net.core.optmem_max=131072"],
  ])("%p with send buffers of %d", (optmem, sendBuffer, user, state, remedy) => {
    const check = checkOptmem({ ...ZERO_COPY, optmem, sendBuffer }, user);
    expect([check.state, check.remedy]).toEqual([state, remedy]);
  });

  test("what a remedy sets is enough", () => {
    for (const sendBuffer of [M, 4 * M, 6 * M, 64 * M, 2048 * M]) {
      const facts = { ...ZERO_COPY, optmem: 0, sendBuffer };
      const set = Number(checkOptmem(facts, JOE).remedy?.split("=")[1]);
      expect(checkOptmem({ ...facts, optmem: set }, JOE).state).toBe("ok");
    }
  });
});

describe("userfaultfd", () => {
  const device = (error: string | null, more: Partial<DeviceFacts> = {}) => ({
    device: { ...UFFD.device, error, ...more },
  });

  test.each<[string, UserfaultfdFacts, string]>([
    ["the call", UFFD, "by the system call"],
    ["the device alone", { ...UFFD, callError: "EPERM" }, "through /dev/userfaultfd"],
  ])("is ok by %s", (_, facts, found) => {
    expect(checkUserfaultfd(facts, JOE)).toEqual({ name: "userfaultfd", state: "ok", found });
  });

  test.each<[string, UserfaultfdFacts, UserFacts, string]>([
    [
      "no kernel support",
      { ...UFFD, callError: "ENOSYS", ...device("ENOENT") },
      JOE,
      "boot a kernel with CONFIG_USERFAULTFD=y",
    ],
    [
      "a device of root's",
      { ...UFFD, callError: "EPERM", ...device("EACCES") },
      JOE,
      "sudo chown joe /dev/userfaultfd (until the next boot)",
    ],
    [
      "a device of a group's",
      { ...UFFD, callError: "EPERM", ...device("EACCES", { group: KVM_GROUP }) },
      JOE,
      "sudo usermod -aG kvm joe; then log in again",
    ],
    [
      "an old kernel without the device",
      { ...UFFD, callError: "EPERM", ...device("ENOENT") },
      JOE,
      "sudo sysctl -w vm.unprivileged_userfaultfd=1",
    ],
    [
      "a container",
      { ...UFFD, callError: "EPERM", ...device("ENOENT") },
      BOXED,
      "start the container with --device /dev/userfaultfd",
    ],
    [
      "a filter in spite of the setting",
      { callError: "EPERM", ...device("ENOENT"), unprivileged: 1 },
      JOE,
      "let the seccomp filter pass it: systemd: SystemCallFilter=userfaultfd",
    ],
    [
      "a filter in spite of root",
      { ...UFFD, callError: "EPERM", ...device("ENOENT") },
      ROOT,
      "let the seccomp filter pass it: systemd: SystemCallFilter=userfaultfd",
    ],
  ])("is missing with %s", (_, facts, user, remedy) => {
    expect(checkUserfaultfd(facts, user)).toMatchObject({ name: "userfaultfd", state: "missing", remedy });
  });
});

describe("the runtime folder", () => {
  test("shows where it is and its mode", () => {
    expect(checkRuntime({ path: "/run/user/1/tram", mode: 0o700, error: null })).toEqual({
      name: "runtime-folder",
      state: "ok",
      found: "/run/user/1/tram, mode 0700",
    });
  });
});

describe("the folder for files", () => {
  const files = "keep guests' files on ext4, XFS or btrfs; and ask again: tram doctor FOLDER";
  const direct = (facts: Partial<FolderFacts["direct"]>) => ({ direct: { ...FOLDER.direct, ...facts } });
  const holes = (facts: Partial<FolderFacts["holes"]>) => ({ holes: { ...FOLDER.holes, ...facts } });

  test("that takes no file is one line", () => {
    expect(checkFolder({ ...FOLDER, error: "EROFS" })).toEqual([
      {
        name: "folder",
        state: "missing",
        found: "no file can be made in /data: EROFS",
        remedy: "name one where you may write: tram doctor FOLDER",
      },
    ]);
  });

  test.each<[string, Partial<FolderFacts>, string, string]>([
    ["free-space", { freeBytes: 2 ** 40 }, "ok", "1 TiB in /data"],
    ["free-space", { freeBytes: 2 ** 30 }, "ok", "1 GiB in /data"],
    ["free-space", { freeBytes: 2 ** 30 - 1 }, "limited", "make 1 GiB free there; or name another: tram doctor FOLDER"],
    ["direct-io", {}, "ok", "aligned to 512 B"],
    ["direct-io", direct({ alignment: null }), "ok", "aligned to 512 B (tried; statx does not say)"],
    ["direct-io", direct({ alignment: { memory: 512, offset: 4096 } }), "ok", "aligned to 4 KiB"],
    ["direct-io", direct({ smallestWrite: 4096 }), "ok", "aligned to 4 KiB"],
    [
      "direct-io",
      direct({ smallestWrite: 65536 }),
      "limited",
      "use a filesystem with blocks of 4 KiB; ext4's: mkfs.ext4 -b 4096",
    ],
    ["direct-io", direct({ error: "EINVAL" }), "limited", files],
    ["direct-io", direct({ smallestWrite: null }), "limited", files],
    ["direct-io", direct({ alignment: { memory: 0, offset: 0 } }), "limited", files],
    ["holes", {}, "ok", "punched, and found by SEEK_HOLE"],
    ["holes", holes({ error: "EOPNOTSUPP" }), "limited", files],
    ["holes", holes({ frees: false }), "limited", files],
    ["holes", holes({ isFound: false }), "limited", files],
  ])("%s with %j is %s", (name, facts, state, text) => {
    const check = named(checkFolder({ ...FOLDER, ...facts }), name);
    expect(check.state).toBe(state as Check["state"]);
    expect(state === "ok" ? check.found : check.remedy).toBe(text);
  });
});

describe("QEMU", () => {
  test.each([
    [[], "none on PATH; only QEMU's own guests need one"],
    [[{ path: "/usr/bin/qemu-system-x86_64", version: "7.2.22" }], "/usr/bin/qemu-system-x86_64 7.2.22"],
  ])("is for information: %j", (qemus, found) => {
    expect(checkQemus(qemus)).toEqual({ name: "qemu", state: "ok", found });
  });
});

describe("the report", () => {
  const checks: Check[] = [
    { name: "one", state: "ok", found: "a b" },
    {
      name: "two",
      state: "limited",
      found: "alpha beta gamma delta",
      remedy: "sudo a long command; then log in again",
    },
  ];
  const head = (state: string, name: string) => `${state.padEnd(8)} ${name.padEnd(19)} `;

  test("has one line a check and one a remedy in a pipe", () => {
    expect(formatChecks(checks, Number.POSITIVE_INFINITY).split("\n")).toEqual([
      `${head("ok", "one")}a b`,
      `${head("limited", "two")}alpha beta gamma delta`,
      "         remedy: sudo a long command; then log in again",
      "1 ok, 1 limited, 0 missing",
    ]);
  });

  test("folds to a terminal, without breaking a command that is to be copied", () => {
    expect(formatChecks(checks, 42).split("\n")).toEqual([
      `${head("ok", "one")}a b`,
      `${head("limited", "two")}alpha beta`,
      `${" ".repeat(29)}gamma delta`,
      "         remedy: sudo a long command;",
      "                 then log in again",
      "1 ok, 1 limited, 0 missing",
    ]);
  });
});

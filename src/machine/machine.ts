// A guest's machine: VM, memory slots, vCPUs, devices. The maker gives away plain handles; every Worker of the process can
// attach to them.
import { readFileSync } from "node:fs";
import { TramError } from "../errors.ts";
import { layOut } from "../memory/block.ts";
import { describeErrno } from "../native/errno.ts";
import { ioctl, ioctlValue, KVM_CAP, mapRun, openKvm, setMemoryRegion, tryIoctlValue } from "../native/kvm.ts";
import { Marks } from "../native/marks.ts";
import { net } from "../native/net.ts";
import { Ram } from "../native/ram.ts";
import { createTwin, TWIN_RUN_BYTES } from "../native/twin.ts";
import { type CpuidEntry, DISKS_MAX, isTwin, type MachineDescription } from "../stream/devices/machine.ts";
import type { Board, DeviceMarks, MachineHandles } from "./board.ts";
import { setCpuid, supportedCpuid } from "./cpuid.ts";
import { SERIAL_WORDS, Serial } from "./devices/serial.ts";
import { WALKER_WORDS, WalkerPorts } from "./devices/walker.ts";
import { createRings } from "./dirty-ring.ts";
import { describeDisk } from "./disk-file.ts";
import { AUTO, enableTracking, type TrackingWish, trackingWithoutKvm, type VmTracking } from "./tracking.ts";
import { BALLOON_QUEUES, BALLOON_WORDS } from "./virtio/balloon.ts";
import { BLOCK_WORDS } from "./virtio/block.ts";
import { CONSOLE_QUEUES, CONSOLE_WORDS } from "./virtio/console.ts";
import { DeviceMemory } from "./virtio/memory.ts";
import { mmioWords } from "./virtio/mmio.ts";
import { NET_QUEUES } from "./virtio/net.ts";
import { RNG_QUEUES } from "./virtio/rng.ts";
import { VSOCK_QUEUES, VSOCK_WORDS } from "./virtio/vsock.ts";

const TSS_ADDRESS = 0xfffbd000; // below the BIOS area, in the hole

/** Whether the guest wants its machine to be started anew, and whether whoever does that was told. */
export const RESET = { none: 0, wanted: 1, told: 2 } as const;

/** The words of each device in the board's device memory. */
export const deviceWords = (board: Board) => ({
  lock: board.deviceWords(0, 1),
  serial: board.deviceWords(64, SERIAL_WORDS),
  walker: board.deviceWords(192, WALKER_WORDS),
  balloonRegisters: board.deviceWords(512, mmioWords(BALLOON_QUEUES)),
  balloon: board.deviceWords(1024, BALLOON_WORDS),
  discards: board.deviceWords(1280, 1),
  rng: board.deviceWords(1536, mmioWords(RNG_QUEUES)),
  /** RESET. */
  reset: board.deviceWords(1664, 1),
  vsockRegisters: board.deviceWords(1792, mmioWords(VSOCK_QUEUES)),
  vsock: board.deviceWords(2048, VSOCK_WORDS),
  netRegisters: board.deviceWords(2304, mmioWords(NET_QUEUES)),
  net: board.deviceWords(2560, 1),
  consoleRegisters: board.deviceWords(2816, mmioWords(CONSOLE_QUEUES)),
  console: board.deviceWords(3072, CONSOLE_WORDS),
  disks: Array.from({ length: DISKS_MAX }, (_, disk) => ({
    registers: board.deviceWords(4096 + disk * 512, mmioWords(1)),
    block: board.deviceWords(4096 + disk * 512 + 256, BLOCK_WORDS),
  })),
});

/** Devices are shared by all vCPUs, and by who asks them for something: one at a time. */
export function withDevices<T>({ lock }: { lock: Int32Array }, action: () => T): T {
  while (Atomics.compareExchange(lock, 0, 0, 1) !== 0) Atomics.wait(lock, 0, 1, 1);
  try {
    return action();
  } finally {
    Atomics.store(lock, 0, 0);
    Atomics.notify(lock, 0, 1);
  }
}

/** Guest memory as its devices see it: each page that one writes to is noted. */
export function deviceMemory(ram: Ram, marks: DeviceMarks): DeviceMemory {
  const written = Marks.attach(marks.written);
  return new DeviceMemory(ram, layOut(ram.bytes), (first, pages) => written.add(first, pages));
}

/** A VM without memory and vCPUs, and what its host can show a guest. */
export interface EmptyVm {
  kvm: number;
  vm: number;
  cpuid: CpuidEntry[];
  tracking: VmTracking;
}

/**
 * Made some milliseconds before its memory, it saves them: after the interrupt controllers the kernel waits as long (for a
 * grace period of RCU) before a first memory slot is there.
 */
export function createVm(wish: TrackingWish = AUTO): EmptyVm {
  const kvm = openKvm();
  const vm = ioctlValue(kvm, "CREATE_VM", 0);
  require(vm, "SREGS2", KVM_CAP.SREGS2);
  require(vm, "IMMEDIATE_EXIT", KVM_CAP.IMMEDIATE_EXIT);
  ioctlValue(vm, "SET_TSS_ADDR", TSS_ADDRESS);
  ioctlValue(vm, "CREATE_IRQCHIP", 0);
  return { kvm, vm, cpuid: supportedCpuid(kvm), tracking: enableTracking(vm, wish) };
}

/** What a machine has of its host. */
export type HostParts = Pick<MachineHandles, "disks" | "tapFd">;
const NO_PARTS: HostParts = { disks: [], tapFd: -1 };

/** In a VM; or, of a twin, with what finds its writes. */
export function createMachine(
  description: MachineDescription,
  memory: Ram,
  board: Board,
  within: EmptyVm | TrackingWish,
  { disks, tapFd }: HostParts = NO_PARTS,
): MachineHandles {
  Serial.reset(deviceWords(board).serial);
  WalkerPorts.reset(deviceWords(board).walker, 0);
  if (!isTwin(description)) {
    if ("vm" in within) return createKvmMachine(description, memory, within, { disks, tapFd });
    throw new TramError("E_INTERNAL", "a machine for KVM was to be made without a VM");
  }
  if ("vm" in within) for (const fd of [within.vm, within.kvm]) net.close(fd);
  const cpus = Array.from({ length: description.cpus });
  return {
    vm: -1,
    vcpus: cpus.map(() => -1),
    runs: cpus.map(createTwin),
    runBytes: TWIN_RUN_BYTES,
    ram: memory.share(),
    description,
    tracking: trackingWithoutKvm("vm" in within ? AUTO : within, memory.pages),
    marks: null,
    disks: [],
    tapFd: -1,
  };
}

/** `description.tscKhz` 0: the host's own. */
function createKvmMachine(
  description: MachineDescription,
  memory: Ram,
  { kvm, vm, tracking }: EmptyVm,
  { disks, tapFd }: HostParts,
): MachineHandles {
  const runBytes = ioctlValue(kvm, "GET_VCPU_MMAP_SIZE", 0);
  const slots = layOut(memory.bytes);
  for (const slot of slots) setMemoryRegion(vm, { ...slot, host: memory.host(slot.offset, slot.bytes) }, 0);

  if (description.pc) ioctl(vm, "CREATE_PIT2", pitConfig());
  const vcpus = Array.from({ length: description.cpus }, (_, cpu) => {
    const fd = tryIoctlValue(vm, "CREATE_VCPU", cpu);
    if (fd < 0)
      throw new TramError("E_KVM", `KVM cannot make vCPU ${cpu}: ${describeErrno(fd)}`, { next: "use fewer --cpus" });
    if (description.tscKhz) setTscKhz(fd, description.tscKhz);
    setCpuid(fd, description.cpuid, cpu, description.cpus);
    return fd;
  });
  net.close(kvm);
  const runs = vcpus.map((fd) => mapRun(fd, runBytes));
  const tscKhz = description.tscKhz || Math.max(0, tryIoctlValue(vcpus[0], "GET_TSC_KHZ", 0));
  return {
    vm,
    vcpus,
    runs,
    runBytes,
    ram: memory.share(),
    description: { ...description, tscKhz, disks: disks.map(describeDisk) },
    tracking: tracking.by === "log" ? tracking : createRings(vm, tracking.entries, slots, vcpus),
    marks: description.balloon || description.pc ? createMarks(memory.pages) : null,
    disks,
    tapFd,
  };
}

/** struct kvm_pit_config: its only flag has the kernel answer for the loudspeaker's port, too. */
function pitConfig(): Uint8Array {
  const config = new Uint8Array(64);
  config[0] = 1;
  return config;
}

function createMarks(pages: number): DeviceMarks {
  const create = () => Marks.create(pages).handle;
  return { written: create(), hinted: create(), ballooned: create(), reported: create() };
}

function require(vm: number, name: string, capability: number): void {
  if (tryIoctlValue(vm, "CHECK_EXTENSION", capability) <= 0)
    throw new TramError("E_KVM", `this kernel's KVM lacks KVM_CAP_${name}`, {
      next: "use a kernel of version 5.14 or later",
    });
}

/** A host without TSC scaling takes only its own frequency, within KVM's tolerance. */
function setTscKhz(vcpu: number, tscKhz: number): void {
  const own = tryIoctlValue(vcpu, "GET_TSC_KHZ", 0);
  if (own === tscKhz || tryIoctlValue(vcpu, "SET_TSC_KHZ", tscKhz) >= 0) return;
  if (Math.abs(own - tscKhz) * 4000 < tscKhz) return; // 250 ppm, as KVM itself tolerates
  throw new TramError("E_REFUSED", "this host cannot run the guest's time stamp counter", {
    expected: `${tscKhz} kHz, or TSC scaling`,
    found: `${own} kHz`,
    next: "move to a host with the same clock",
  });
}

/** Memory for a guest; with `prealloc` all of it is there before anything runs or arrives. */
export function createRam(bytes: number, prealloc: boolean): Ram {
  const available = availableBytes();
  if (bytes > available)
    throw new TramError("E_MEMORY", "the guest's memory does not fit this host", {
      expected: `at most ${available} bytes (MemAvailable and SwapFree in /proc/meminfo)`,
      found: `${bytes} bytes`,
      next: "use a smaller --memory, or free some",
    });
  const ram = Ram.create(bytes);
  if (prealloc) ram.populate();
  return ram;
}

function availableBytes(): number {
  const text = readFileSync("/proc/meminfo", "utf8");
  const kib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
  return (kib("MemAvailable") + kib("SwapFree")) * 1024;
}

export function attachRam(handles: MachineHandles): Ram {
  return Ram.attach(handles.ram);
}

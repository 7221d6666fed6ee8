// KVM by number: the ioctls, the layout of kvm_run, and calls that check their results.
// Source: the kernel's Documentation/virt/kvm/api.rst and <linux/kvm.h>; a test compares the numbers with the header.
import { ptr, toArrayBuffer } from "bun:ffi";
import { closeSync, openSync } from "node:fs";
import { TramError } from "../errors.ts";
import { check, describeErrno, u32 } from "./errno.ts";
import { pointer } from "./ram.ts";
import { symbols } from "./symbols.ts";

export const KVM = {
  GET_API_VERSION: 0xae00,
  CREATE_VM: 0xae01,
  GET_MSR_INDEX_LIST: 0xc004ae02,
  CHECK_EXTENSION: 0xae03,
  GET_VCPU_MMAP_SIZE: 0xae04,
  GET_SUPPORTED_CPUID: 0xc008ae05,
  CREATE_VCPU: 0xae41,
  GET_DIRTY_LOG: 0x4010ae42,
  SET_USER_MEMORY_REGION: 0x4020ae46,
  SET_TSS_ADDR: 0xae47,
  CREATE_IRQCHIP: 0xae60,
  IRQ_LINE: 0x4008ae61,
  GET_IRQCHIP: 0xc208ae62,
  SET_IRQCHIP: 0x8208ae63,
  CREATE_PIT2: 0x4040ae77,
  SET_CLOCK: 0x4030ae7b,
  GET_CLOCK: 0x8030ae7c,
  GET_REGS: 0x8090ae81,
  SET_REGS: 0x4090ae82,
  GET_MSRS: 0xc008ae88,
  SET_MSRS: 0x4008ae89,
  GET_LAPIC: 0x8400ae8e,
  SET_LAPIC: 0x4400ae8f,
  SET_CPUID2: 0x4008ae90,
  GET_MP_STATE: 0x8004ae98,
  SET_MP_STATE: 0x4004ae99,
  GET_VCPU_EVENTS: 0x8040ae9f,
  SET_VCPU_EVENTS: 0x4040aea0,
  GET_DEBUGREGS: 0x8080aea1,
  SET_DEBUGREGS: 0x4080aea2,
  SET_TSC_KHZ: 0xaea2,
  GET_TSC_KHZ: 0xaea3,
  ENABLE_CAP: 0x4068aea3,
  KVMCLOCK_CTRL: 0xaead,
  GET_XSAVE: 0x9000aea4,
  SET_XSAVE: 0x5000aea5,
  GET_XCRS: 0x8188aea6,
  SET_XCRS: 0x4188aea7,
  CLEAR_DIRTY_LOG: 0xc018aec0,
  GET_PIT2: 0x8070ae9f,
  SET_PIT2: 0x4070aea0,
  GET_SREGS2: 0x8140aecc,
  SET_SREGS2: 0x4140aecd,
} as const;

export const KVM_CAP = {
  IRQCHIP: 0,
  TSC_DEADLINE_TIMER: 72,
  IMMEDIATE_EXIT: 136,
  MANUAL_DIRTY_LOG_PROTECT2: 168,
  DIRTY_LOG_RING: 192,
  SREGS2: 200,
  XSAVE2: 208,
} as const;
export const KVM_MEM_LOG_DIRTY_PAGES = 1;
export const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1;
export const KVM_DIRTY_LOG_INITIALLY_SET = 2;
export const KVM_MP_STATE_RUNNABLE = 0;

export const EXIT_REASON = {
  IO: 2,
  HLT: 5,
  MMIO: 6,
  SHUTDOWN: 8,
  FAIL_ENTRY: 9,
  INTR: 10,
  INTERNAL_ERROR: 17,
  SYSTEM_EVENT: 24,
  DIRTY_RING_FULL: 31,
} as const;

/** Offsets in struct kvm_run. */
export const RUN = {
  immediateExit: 1,
  exitReason: 8,
  io: { direction: 32, size: 33, port: 34, count: 36, dataOffset: 40 },
  mmio: { address: 32, data: 40, length: 48, isWrite: 52 },
  internal: { suberror: 32, count: 36, data: 40 },
} as const;

export const KVM_API_VERSION = 12;

/** Opens /dev/kvm, or says why a guest cannot run here and what to do. */
export function openKvm(path = "/dev/kvm"): number {
  let fd: number;
  try {
    fd = openSync(path, "r+");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? "";
    const next =
      code === "ENOENT"
        ? "enable virtualisation in the firmware, or nested virtualisation on the outer host; then: modprobe kvm-intel or kvm-amd"
        : code === "EACCES" || code === "EPERM"
          ? "let this user in: usermod -aG kvm USER, then log in again; in a container: --device /dev/kvm"
          : "look at the kernel's messages: dmesg | grep kvm";
    const what = {
      ENOENT: "it does not exist",
      EACCES: "this user may not open it",
      EPERM: "this user may not open it",
    };
    const why = what[code as keyof typeof what] ?? (error instanceof Error ? error.message : String(error));
    throw new TramError("E_KVM", `no guest can run here: cannot open ${path}: ${why}`, {
      next: `${next}; or do without: --accel none runs tram's own walker`,
    });
  }
  const version = symbols.tram_ioctl_value(fd, KVM.GET_API_VERSION, 0);
  if (version !== KVM_API_VERSION) {
    closeSync(fd);
    throw new TramError("E_KVM", `${path} is not KVM`, {
      expected: `API version ${KVM_API_VERSION}`,
      found: version < 0 ? describeErrno(version) : `version ${version}`,
    });
  }
  return fd;
}

export function ioctl(fd: number, request: keyof typeof KVM, argument: Uint8Array): number {
  return check(symbols.tram_ioctl(fd, KVM[request], argument), "E_KVM", `KVM_${request}`);
}

/** The plain result, for calls whose failure is an answer. */
export function tryIoctl(fd: number, request: keyof typeof KVM, argument: Uint8Array): number {
  return symbols.tram_ioctl(fd, KVM[request], argument);
}

export function ioctlValue(fd: number, request: keyof typeof KVM, value: number): number {
  return check(symbols.tram_ioctl_value(fd, KVM[request], value), "E_KVM", `KVM_${request}`);
}

export function tryIoctlValue(fd: number, request: keyof typeof KVM, value: number): number {
  return symbols.tram_ioctl_value(fd, KVM[request], value);
}

/** Whether the kernel tracks writes to a slot: reading the log of one that it does not track is ENOENT. */
export function isTracked(vm: number, slot: number, slotBytes: number): boolean {
  const bitmap = new Uint32Array(Math.ceil(slotBytes / 4096 / 64) * 2);
  const view = new DataView(new ArrayBuffer(16));
  view.setUint32(0, slot, true);
  view.setBigUint64(8, BigInt(ptr(bitmap)), true);
  const result = tryIoctl(vm, "GET_DIRTY_LOG", new Uint8Array(view.buffer));
  return result >= 0 && bitmap.length > 0; // the kernel has written to it: it must live until here
}

/** KVM_GET_DIRTY_LOG of one slot into whole 64-bit words of `bitmap`. */
export function getDirtyLog(vm: number, slot: number, bitmap: Uint32Array): void {
  const view = new DataView(new ArrayBuffer(16));
  view.setUint32(0, slot, true);
  view.setBigUint64(8, BigInt(ptr(bitmap)), true);
  ioctl(vm, "GET_DIRTY_LOG", new Uint8Array(view.buffer));
}

/** KVM_CLEAR_DIRTY_LOG: `firstPage` is a multiple of 64, `pages` too unless they end the slot; `bitmap` starts there. */
export function clearDirtyLog(vm: number, slot: number, firstPage: number, pages: number, bitmap: Uint32Array): void {
  const view = new DataView(new ArrayBuffer(24));
  view.setUint32(0, slot, true);
  view.setUint32(4, u32(pages, "pages"), true);
  view.setBigUint64(8, BigInt(firstPage), true);
  view.setBigUint64(16, BigInt(ptr(bitmap)), true);
  ioctl(vm, "CLEAR_DIRTY_LOG", new Uint8Array(view.buffer));
}

/** The level of an interrupt line of the chip in the kernel. */
export function setIrqLine(vm: number, line: number, on: boolean): void {
  ioctl(vm, "IRQ_LINE", new Uint8Array(Uint32Array.of(line, on ? 1 : 0).buffer));
}

export function setMemoryRegion(
  vm: number,
  slot: { slot: number; gpa: number; bytes: number; host: number },
  flags: number,
): void {
  const view = new DataView(new ArrayBuffer(32));
  view.setUint32(0, slot.slot, true);
  view.setUint32(4, flags, true);
  view.setBigUint64(8, BigInt(slot.gpa), true);
  view.setBigUint64(16, BigInt(slot.bytes), true);
  view.setBigUint64(24, BigInt(slot.host), true);
  ioctl(vm, "SET_USER_MEMORY_REGION", new Uint8Array(view.buffer));
}

/** Maps a vCPU's kvm_run; the address is for kicks and for viewRun. */
export function mapRun(vcpu: number, bytes: number): number {
  return check(symbols.tram_map_shared(vcpu, bytes), "E_KVM", "map kvm_run");
}

export function viewRun(address: number, bytes: number): DataView {
  return new DataView(toArrayBuffer(pointer(address), 0, bytes));
}

/** Enters the guest; true: look at kvm_run for the exit, false: interrupted, look at the command word. */
export function runVcpu(vcpu: number): boolean {
  const result = symbols.tram_vcpu_run(vcpu);
  if (result === 0) return true;
  if (result === -4 /* EINTR */ || result === -11 /* EAGAIN: an uninitialised vCPU that was woken */) return false;
  if (result === -14 /* EFAULT */ || result === -133 /* EHWPOISON */)
    throw new TramError("E_GUEST_RAM", `a vCPU cannot reach its memory: KVM_RUN: ${describeErrno(result)}`, {
      next: "the kernel's messages (dmesg) may say why; a guest that was restored from a file wants another snapshot",
    });
  throw new TramError("E_GUEST", `KVM_RUN: ${describeErrno(result)}`);
}

export const threadId = (): number => symbols.tram_thread_id();
export const installKick = (): number => check(symbols.tram_kick_install(), "E_KVM", "install the kick signal");

/** Ends the thread's blocked call; with a kvm_run also the next entry. A thread that has gone is no error. */
export const kick = (runAddress: number, thread: number): number => symbols.tram_kick(runAddress, thread);

/** Ends the calling thread's system calls, again and again. */
export class KickTimer {
  readonly #timer: number;

  constructor(intervalMs: number) {
    this.#timer = check(symbols.tram_kick_timer(intervalMs), "E_KVM", "make a timer for a vCPU");
  }

  close(): void {
    symbols.tram_kick_timer_end(this.#timer);
  }
}

export const walkerFill = (ram: number, params: Uint8Array): number =>
  check(symbols.tram_walker_fill(ram, params), "E_INTERNAL", "fill the walker's memory");

export const walkerCheck = (ram: number, result: Uint32Array): number => symbols.tram_walker_check(ram, result);

/** Looks at a running walker once in each interval: pairs of milliseconds (CLOCK_MONOTONIC) and pages written so far. */
export const walkerWatch = (ram: number, samples: Float64Array, intervalUs: number): number =>
  check(symbols.tram_walker_watch(ram, samples, samples.length / 2, intervalUs), "E_GUEST_RAM", "look at the walker");

// How a guest's writes are found. With KVM by its log, a bitmap for each slot, or by its rings, a list for each vCPU: chosen when
// the VM is made, and with rings there is no log. Without KVM by write-protecting its pages.
import { TramError } from "../errors.ts";
import type { Bitmap } from "../memory/bitmap.ts";
import { layOut } from "../memory/block.ts";
import { describeErrno } from "../native/errno.ts";
import {
  ioctl,
  KVM_CAP,
  KVM_DIRTY_LOG_INITIALLY_SET,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  KVM_MEM_LOG_DIRTY_PAGES,
  setMemoryRegion,
  tryIoctl,
  tryIoctlValue,
} from "../native/kvm.ts";
import { Marks } from "../native/marks.ts";
import type { Ram } from "../native/ram.ts";
import { canWatchWrites } from "../native/write-protect.ts";
import { type DirtyLogHandles, LoggedWrites } from "./dirty-log.ts";
import { DirtyRing, type DirtyRingHandles } from "./dirty-ring.ts";
import type { FaultInit } from "./fault-worker.ts";
import { MarkedWrites, type MarksHandles } from "./marks.ts";
import { FaultedWrites, ScannedWrites } from "./write-protect.ts";

/** What runs a guest: none is the walker's native twin. */
export const ACCELS = ["kvm", "none"] as const;
export type Accel = (typeof ACCELS)[number];

/** How its writes may be found. */
export const TRACKING = { kvm: ["auto", "log", "ring"], none: ["auto", "scan", "faults", "marks"] } as const;

/** What a person asks for. `entries`: of each vCPU's ring; null: as many as the kernel gives. */
export interface TrackingWish {
  by: (typeof TRACKING)[Accel][number];
  entries: number | null;
}

export const AUTO: TrackingWish = { by: "auto", entries: null };

/** What a VM was told to have. `manualProtect`: CLEAR_DIRTY_LOG is there; otherwise getting the log clears it. */
export type VmTracking = { by: "log"; manualProtect: boolean } | { by: "ring"; entries: number };

/** What a machine has, as plain data. */
export type Tracking =
  | { by: "log"; manualProtect: boolean }
  | DirtyRingHandles
  | { by: "scan" | "faults" }
  | MarksHandles;

/** What finds writes, from its making to its stop. */
export interface WriteTracker {
  /** For other threads, which take pages back before they read them; null: what was reported counts again at once. */
  readonly log: DirtyLogHandles | null;
  /** Adds all pages written since the last sync, and not yet cleared; false: some were lost, now or before. */
  sync(dirty: Bitmap): boolean;
  /** Just before [firstPage, firstPage + pages) is read, but for `except` (see CarrierMemory): later writes to it count again. */
  clear(firstPage: number, pages: number, except: Uint32Array | null): void;
  stop(): void;
}

/** Starts threads, for who may not. */
export type StartFaultWatcher = (init: FaultInit) => void;

export function startTracker(vm: number, ram: Ram, how: Tracking, startWatcher: StartFaultWatcher): WriteTracker {
  const slots = layOut(ram.bytes);
  const setFlags = (flags: number) => {
    for (const slot of slots) setMemoryRegion(vm, { ...slot, host: ram.host(slot.offset, slot.bytes) }, flags);
  };
  const setLogging = (on: boolean) => {
    if (!on) return setFlags(0);
    try {
      setFlags(KVM_MEM_LOG_DIRTY_PAGES);
    } catch (error) {
      setFlags(0); // one of the slots may have been told already
      throw error;
    }
  };
  switch (how.by) {
    case "log":
      return new LoggedWrites(vm, slots, how.manualProtect, setLogging);
    case "ring":
      return new DirtyRing(how, setLogging);
    case "scan":
      return new ScannedWrites(ram);
    case "faults":
      return new FaultedWrites(ram, startWatcher);
    case "marks":
      return new MarkedWrites(how);
  }
}

/** What ends a move of a running guest whose ring was found inconsistent; its machine has no log to fall back to. */
export const lostWrites = (code: "E_TRACKING" | "E_REFUSED"): TramError =>
  new TramError(code, "the kernel has lost count of what the guest writes: a dirty ring ran over", {
    expected: "that a vCPU leaves the guest while its ring has room (KVM_EXIT_DIRTY_RING_FULL)",
    next: "the guest is as it was; tram pause it, and it can be moved or saved; or run it with --dirty-tracking log",
  });

const ENTRY_BYTES = 16; // struct kvm_dirty_gfn

/** Before there is a vCPU. By itself the log, unless only rings let pages be taken back in pieces. */
export function enableTracking(vm: number, wish: TrackingWish): VmTracking {
  const offered = (capability: number) => Math.max(0, tryIoctlValue(vm, "CHECK_EXTENSION", capability));
  const manual = offered(KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2);
  const entriesMax = offered(KVM_CAP.DIRTY_LOG_RING) / ENTRY_BYTES;
  const hasManual = (manual & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) !== 0;
  const wantsRing = wish.by === "ring" || (wish.by === "auto" && !hasManual && entriesMax > 0);
  if (wantsRing) return enableRing(vm, wish.entries ?? entriesMax, entriesMax);
  const flags = manual & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
  if (hasManual) ioctl(vm, "ENABLE_CAP", enableCap(KVM_CAP.MANUAL_DIRTY_LOG_PROTECT2, flags));
  return { by: "log", manualProtect: hasManual };
}

/** Of a machine without a VM. */
export function trackingWithoutKvm({ by }: TrackingWish, pages: number): Tracking {
  if (by === "faults") return { by };
  if (by === "marks") return { by, marks: Marks.create(pages).handle };
  if (canWatchWrites(true)) return { by: "scan" };
  if (by === "scan")
    throw new TramError("E_TRACKING", "this kernel does not note by itself which pages are written to", {
      expected:
        "PAGEMAP_SCAN and UFFD_FEATURE_WP_ASYNC, in Linux 6.7 and later, and a sandbox that lets userfaultfd through",
      next: "use --dirty-tracking faults or marks",
    });
  return canWatchWrites(false) ? { by: "faults" } : { by: "marks", marks: Marks.create(pages).handle };
}

function enableRing(vm: number, entries: number, entriesMax: number): VmTracking {
  if (entriesMax === 0)
    throw new TramError("E_KVM", "this kernel's KVM has no dirty ring", {
      next: "use --dirty-tracking log, or a kernel of version 5.11 or later",
    });
  const result = tryIoctl(vm, "ENABLE_CAP", enableCap(KVM_CAP.DIRTY_LOG_RING, entries * ENTRY_BYTES));
  if (result < 0)
    throw new TramError("E_KVM", `KVM makes no dirty ring of ${entries} entries: ${describeErrno(result)}`, {
      expected: `a power of two up to ${entriesMax}, more than the kernel keeps in reserve (up to 576)`,
      next: "use --dirty-tracking ring, which takes the largest",
    });
  return { by: "ring", entries };
}

/** struct kvm_enable_cap, with one argument. */
function enableCap(capability: number, argument: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(104));
  view.setUint32(0, capability, true);
  view.setBigUint64(8, BigInt(argument), true);
  return new Uint8Array(view.buffer);
}

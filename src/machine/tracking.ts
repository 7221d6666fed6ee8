// How a machine's writes are found: by KVM's log, a bitmap for each slot, or by its rings, a list for each vCPU. Chosen when
// the VM is made: with rings there is no log.
import { TramError } from "../errors.ts";
import type { Bitmap } from "../memory/bitmap.ts";
import { describeErrno } from "../native/errno.ts";
import {
  ioctl,
  KVM_CAP,
  KVM_DIRTY_LOG_INITIALLY_SET,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  tryIoctl,
  tryIoctlValue,
} from "../native/kvm.ts";
import { DirtyLog, type DirtyLogHandles } from "./dirty-log.ts";
import { DirtyRing, type DirtyRingHandles } from "./dirty-ring.ts";

export const TRACKING = ["auto", "log", "ring"] as const;

/** What a person asks for. `entries`: of each vCPU's ring; null: as many as the kernel gives. */
export interface TrackingWish {
  by: (typeof TRACKING)[number];
  entries: number | null;
}

export const AUTO: TrackingWish = { by: "auto", entries: null };

/** What a VM was made with. `manualProtect`: CLEAR_DIRTY_LOG is there; otherwise getting the log clears it. */
export type Tracking = { by: "log"; manualProtect: boolean } | { by: "ring"; entries: number };

/** What finds writes, for any thread of the process. */
export interface WriteTracker {
  readonly handles: TrackerHandles;
  /** Adds all pages written since the last sync, and not yet cleared; false: some were lost, now or before. */
  sync(dirty: Bitmap): boolean;
  /** Just before [firstPage, firstPage + pages) is read: later writes to it count again. */
  clear(firstPage: number, pages: number): void;
}

export type TrackerHandles = DirtyLogHandles | DirtyRingHandles;

export const attachTracker = (handles: TrackerHandles): WriteTracker =>
  handles.by === "log" ? new DirtyLog(handles) : new DirtyRing(handles);

/** What ends a move of a running guest whose ring was found inconsistent; its machine has no log to fall back to. */
export const lostWrites = (code: "E_TRACKING" | "E_REFUSED"): TramError =>
  new TramError(code, "the kernel has lost count of what the guest writes: a dirty ring ran over", {
    expected: "that a vCPU leaves the guest while its ring has room (KVM_EXIT_DIRTY_RING_FULL)",
    next: "the guest is as it was; tram pause it, and it can be moved or saved; or run it with --dirty-tracking log",
  });

const ENTRY_BYTES = 16; // struct kvm_dirty_gfn

/** Before there is a vCPU. By itself the log, unless only rings let pages be taken back in pieces. */
export function enableTracking(vm: number, wish: TrackingWish): Tracking {
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

function enableRing(vm: number, entries: number, entriesMax: number): Tracking {
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

// What a move needs of a guest. machine/ has the real one; tests have theirs.
import type { Bitmap } from "../memory/bitmap.ts";
import type { Ram } from "../native/ram.ts";
import type { MachineDescription } from "../stream/devices/machine.ts";
import type { State, Table } from "../stream/vmstate.ts";
import type { FreePages } from "./hints.ts";

/** One device's section. */
export interface DeviceState {
  table: Table;
  instance: number;
  state: State;
}

/** What one thread needs of the guest's memory, beside its bytes. */
export interface CarrierMemory {
  /** Sorts pages that nobody has ever written to behind the others, and says how many others there are. */
  splitUntouched(index: Uint32Array, count: number): number;
  /** Of such pages: those that lie in the guest's balloon, and of the others those that it has reported as free. */
  givenUp(untouched: Uint32Array): { ballooned: number; reported: number };
  /** Of [first, first + pages) those that the guest has said to be free, as words of a set that begins there; null: none. */
  hinted(first: number, pages: number): Uint32Array | null;
  /**
   * Just before [first, first + pages) is read: what is written to it from then on counts again. Multiples of 64, or to the end.
   * `except`, which hinted has returned, is not read: what was written to it since it was named still counts.
   */
  clearDirty(first: number, pages: number, except: Uint32Array | null): void;
}

export interface Guest {
  readonly description: MachineDescription;
  readonly ram: Ram;

  /** From here on every write to guest memory is remembered. */
  startTracking(): void;
  /** While it is tracked: the page tables, where a page that they have nothing for is zero; else -1. */
  readonly pagemapFd: number;
  /** Adds all pages written since the last sync, and not yet cleared, to `dirty`. */
  syncDirty(dirty: Bitmap): void;
  /** While it is tracked: for who carries its pages in this thread. */
  readonly pages: CarrierMemory;
  /** Null: nobody there would answer. */
  readonly freePages: FreePages | null;
  /** And it runs at its full speed. */
  stopTracking(): void;
  /** While it is tracked: has its CPUs rest for this share of time. */
  throttle(percent: number): void;
  /** Returns when all of its memory is there, and known to be good; true: that took a while. Throws if it is not. */
  settle(checkStop: () => void): boolean;

  /** Stops all vCPUs with their pending I/O completed; the state the guest was in. */
  pause(): string;
  /** Undoes pause: back to the state that it returned, whatever that was. */
  unpause(was: string): void;
  /** It may be another host's from here on, and its disks with it; unpause takes them back, or throws. Paused guests only. */
  letGo(): void;
  /**
   * Everything but RAM. Paused guests only; what they have written is on their disks when it returns. `recordsDisks`: a guest
   * that comes out of this again must find them as they are now.
   */
  saveDevices(recordsDisks?: boolean): DeviceState[];
  /** The mirror of saveDevices, into a machine that has never run. */
  loadDevices(devices: readonly DeviceState[]): void;
}

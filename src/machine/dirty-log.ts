// KVM's dirty log of all slots of a machine: reported per round, taken back just before a range is read. Any thread may do so.
import { Bitmap, type PageRange } from "../memory/bitmap.ts";
import { PAGE_BYTES, type Slot } from "../memory/block.ts";
import { clearDirtyLog, getDirtyLog } from "../native/kvm.ts";
import type { WriteTracker } from "./tracking.ts";

/** A log that is being read, as plain data and shared memory. */
export interface DirtyLogHandles {
  vm: number;
  slots: Slot[];
  /** CLEAR_DIRTY_LOG is there; otherwise getting the log clears it. */
  manualProtect: boolean;
  /** What the last sync reported, per slot: CLEAR_DIRTY_LOG takes those bits back. */
  reported: SharedArrayBuffer[];
}

export class DirtyLog {
  readonly handles: DirtyLogHandles;
  readonly #reported: Uint32Array[];

  constructor(handles: DirtyLogHandles) {
    this.handles = handles;
    this.#reported = handles.reported.map((words) => new Uint32Array(words));
  }

  static of(vm: number, slots: Slot[], manualProtect: boolean): DirtyLog {
    const words = ({ bytes }: Slot) => Math.ceil(bytes / PAGE_BYTES / 64) * 8;
    const reported = slots.map((slot) => new SharedArrayBuffer(words(slot)));
    return new DirtyLog({ vm, slots, manualProtect, reported });
  }

  sync(dirty: Bitmap): void {
    for (const { slot, offset } of this.handles.slots) {
      const reported = this.#reported[slot];
      getDirtyLog(this.handles.vm, slot, reported);
      const at = offset / PAGE_BYTES / 32;
      for (let i = 0; i < reported.length; i++) if (reported[i] !== 0) dirty.words[at + i] |= reported[i];
    }
  }

  /** `except`: pages that stay as they are, as words of a set that begins at `firstPage`. */
  clear(firstPage: number, pages: number, except: Uint32Array | null = null): void {
    const { vm, slots, manualProtect } = this.handles;
    if (!manualProtect) return; // getting the log has cleared it already
    for (const { slot, offset, bytes } of slots) {
      const slotFirst = offset / PAGE_BYTES;
      const first = Math.max(firstPage, slotFirst);
      const end = Math.min(firstPage + pages, slotFirst + bytes / PAGE_BYTES);
      if (first >= end) continue;
      const word = (first - slotFirst) / 32;
      const all = this.#reported[slot].subarray(word, word + Math.ceil((end - first) / 64) * 2);
      const reported = except ? without(all, except.subarray((first - firstPage) / 32)) : all;
      if (reported.some((bits) => bits !== 0)) clearDirtyLog(vm, slot, first - slotFirst, end - first, reported);
    }
  }
}

const without = (words: Uint32Array, others: Uint32Array): Uint32Array =>
  words.map((word, i) => word & ~(i < others.length ? others[i] : 0));

/** Just these pages are as if nobody had written to them: of slots whose log is on, and can be taken back. Any thread. */
export function clearPages(vm: number, slots: readonly Slot[], { first, pages }: PageRange): void {
  for (const { slot, offset, bytes } of slots) {
    const slotFirst = offset / PAGE_BYTES;
    const slotPages = bytes / PAGE_BYTES;
    const from = Math.max(first - slotFirst, 0);
    const to = Math.min(first + pages - slotFirst, slotPages);
    if (from >= to) continue;
    const begin = Math.floor(from / 64) * 64; // as the kernel wants it
    const end = Math.min(Math.ceil(to / 64) * 64, slotPages);
    const mask = new Bitmap(end - begin);
    mask.addRange({ first: from - begin, pages: to - from });
    clearDirtyLog(vm, slot, begin, end - begin, mask.words);
  }
}

/** The log, switched on for as long as it is read. */
export class LoggedWrites implements WriteTracker {
  readonly log: DirtyLogHandles;
  readonly #log: DirtyLog;
  readonly #setLogging: (on: boolean) => void;

  constructor(vm: number, slots: Slot[], manualProtect: boolean, setLogging: (on: boolean) => void) {
    this.#log = DirtyLog.of(vm, slots, manualProtect);
    this.log = this.#log.handles;
    this.#setLogging = setLogging;
    setLogging(true);
  }

  sync(dirty: Bitmap): boolean {
    this.#log.sync(dirty);
    return true;
  }

  clear(firstPage: number, pages: number, except: Uint32Array | null): void {
    this.#log.clear(firstPage, pages, except);
  }

  stop(): void {
    this.#setLogging(false);
  }
}

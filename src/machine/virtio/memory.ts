// Guest memory as a device sees it: by guest-physical address, and every byte that it writes is marked for who moves the guest.
import { PAGE_BYTES, type Slot } from "../../memory/block.ts";

/** Memory by its offset in the block. */
export interface Bytes {
  read(offset: number, bytes: number): Uint8Array;
  write(offset: number, data: Uint8Array): void;
}

/** What a guest has told a device makes no sense: the device stops, and waits to be reset. */
export class DriverError extends Error {}

export class DeviceMemory {
  readonly #ram: Bytes;
  readonly #slots: readonly Slot[];
  readonly #mark: (firstPage: number, pages: number) => void;

  /** `mark` is told of each range of pages after it was written. */
  constructor(ram: Bytes, slots: readonly Slot[], mark: (firstPage: number, pages: number) => void) {
    this.#ram = ram;
    this.#slots = slots;
    this.#mark = mark;
  }

  read(gpa: number, bytes: number): Uint8Array {
    return this.#ram.read(this.offsetOf(gpa, bytes), bytes);
  }

  write(gpa: number, data: Uint8Array): void {
    this.#ram.write(this.offsetOf(gpa, data.length), data);
    this.written(gpa, data.length);
  }

  /** These bytes were written by another way: the kernel has read a file into them. */
  written(gpa: number, bytes: number): void {
    const offset = this.offsetOf(gpa, bytes);
    const first = Math.floor(offset / PAGE_BYTES);
    this.#mark(first, Math.floor((offset + bytes - 1) / PAGE_BYTES) - first + 1);
  }

  /** Where each of them lies in the block. */
  parts(segments: readonly { gpa: number; bytes: number }[]): { offset: number; bytes: number }[] {
    return segments.map(({ gpa, bytes }) => ({ offset: this.offsetOf(gpa, bytes), bytes }));
  }

  /** Where [gpa, gpa + bytes) lies in the block; it may not cross a slot's end. */
  offsetOf(gpa: number, bytes: number): number {
    const slot = this.#slots.find((one) => gpa >= one.gpa && gpa - one.gpa <= one.bytes - bytes);
    if (slot && bytes > 0 && Number.isSafeInteger(gpa)) return slot.offset + (gpa - slot.gpa);
    throw new DriverError(`${bytes} bytes at guest address 0x${gpa.toString(16)} are not in its memory`);
  }
}

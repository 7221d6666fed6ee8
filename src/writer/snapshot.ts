// A snapshot of one of our guests: a file in which each page has its place. Any number of threads write pages; one writes the rest.
import type { PagesSent, PageWriter, SnapshotWriter } from "../control/channel.ts";
import type { DeviceState } from "../control/guest.ts";
import { Bitmap } from "../memory/bitmap.ts";
import { allocate, type PageArea, type PageFile } from "../native/file.ts";
import { HashTable } from "../native/hash.ts";
import { PAGE_BYTES, type Ram } from "../native/ram.ts";
import { ByteWriter } from "../stream/bytes.ts";
import {
  MACHINE_NAME,
  type MachineDescription,
  machine,
  machineToState,
  RAM_BLOCK_NAME,
} from "../stream/devices/machine.ts";
import { endOfBlock, layOutBlocks } from "../stream/mapped.ts";
import { layOutSeal } from "../stream/seal.ts";
import { QEMU_VM_EOF, RAM_SECTION_NAME, RAM_SECTION_VERSION } from "../stream/wire.ts";
import { DeviceSections, RAM_SECTION_ID } from "./devices.ts";
import { type MappedTarget, MappedWriter } from "./mapped.ts";

/**
 * A hole costs more than to write so many zero pages: each is a piece of its own for the file system and for the disk. Memory in
 * which every fourth page is zero is saved nine times faster without.
 */
const GAP_PAGES_MAX = 4;

/** One thread's pages, straight from guest memory to their places. Whoever shares the file writes other pages. */
export class SnapshotPages implements PageWriter {
  readonly #file: PageFile;
  readonly #ram: Ram;
  readonly #area: PageArea;
  readonly #present: Bitmap;
  readonly #hashes: HashTable;
  readonly #stale: Uint32Array;

  constructor(file: PageFile, ram: Ram, { block, present, hashes }: MappedTarget, batchPages: number) {
    this.#file = file;
    this.#ram = ram;
    this.#area = { pagesOffset: block.pagesOffset, pages: ram.pages };
    this.#present = new Bitmap(ram.pages, present);
    this.#hashes = new HashTable(ram.pages, hashes);
    this.#stale = new Uint32Array(batchPages);
  }

  /** A page's hash is final with its last write: whatever changes between the two is written again. */
  write(index: Uint32Array, count: number): PagesSent {
    const pages = this.#ram.splitZero(index, count, GAP_PAGES_MAX);
    const directBefore = this.#file.directBytes;
    this.#hashes.setFromRam(this.#ram, index, pages);
    this.#file.writeRam(this.#area, this.#ram, index, pages);
    for (let i = 0; i < pages; i++) this.#present.add(index[i]);
    this.#makeHoles(index, pages, count);
    const directBytes = this.#file.directBytes - directBefore;
    return { pages, zeroPages: count - pages, bytes: pages * PAGE_BYTES, directBytes };
  }

  /** Pages that have turned zero since they were written. */
  #makeHoles(index: Uint32Array, from: number, to: number): void {
    let stale = 0;
    for (let i = from; i < to; i++) {
      if (!this.#present.has(index[i])) continue;
      this.#present.remove(index[i]);
      this.#stale[stale++] = index[i];
    }
    if (stale === 0) return;
    this.#file.punch(this.#area, this.#stale, stale);
    this.#hashes.clear(this.#stale, 0, stale);
  }
}

/** A machine's description before its RAM, its devices behind it: more than 16 vCPUs have. */
const STATE_BYTES_MAX = 1 << 20;

/** What a snapshot that begins at `base` of its file can come to at most, however long the save takes. */
export function worstCaseBytes(ramBytes: number, base: number): number {
  const [block] = layOutBlocks([{ name: RAM_BLOCK_NAME, bytes: ramBytes }], base + STATE_BYTES_MAX);
  const { footer } = layOutSeal([block]);
  return endOfBlock(block) - base + STATE_BYTES_MAX + footer + PAGE_BYTES;
}

export class Snapshot implements SnapshotWriter {
  readonly #file: MappedWriter;
  readonly #fd: number;
  readonly #base: number;
  readonly #ramBytes: number;
  readonly #reserve: boolean;
  readonly #devices = new DeviceSections();

  /** The stream begins at `base` of the file; what was there from there on is gone. `reserve`: blocks for all that may come. */
  constructor(fd: number, base: number, ramBytes: number, reserve: boolean) {
    this.#file = new MappedWriter(fd, base);
    this.#fd = fd;
    this.#base = base;
    this.#ramBytes = ramBytes;
    this.#reserve = reserve;
  }

  /** Where the pages go; known from begin on. */
  get target(): MappedTarget {
    return this.#file.targets[0];
  }
  presentPages(): number {
    return new Bitmap(this.#ramBytes / PAGE_BYTES, this.target.present).count();
  }

  begin(description: MachineDescription): void {
    const early = new ByteWriter();
    this.#devices.full(early, { table: machine, instance: 0, state: machineToState(description) });
    const section = { id: RAM_SECTION_ID, name: RAM_SECTION_NAME, instance: 0, version: RAM_SECTION_VERSION };
    const blocks = [{ name: RAM_BLOCK_NAME, bytes: this.#ramBytes }];
    this.#file.begin({ machine: MACHINE_NAME, capabilities: [], uuid: null }, early.done(), section, blocks);
    if (this.#reserve) allocate(this.#fd, this.#base, worstCaseBytes(this.#ramBytes, this.#base));
  }

  finish(devices: readonly DeviceState[], runState: string): void {
    const tail = new ByteWriter(4096);
    this.#devices.all(tail, devices, runState);
    tail.u8(QEMU_VM_EOF);
    this.#devices.describe(tail);
    this.#file.finish(new Uint8Array(0), tail.done());
  }
}

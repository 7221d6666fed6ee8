// A disk in its machine: its file, its registers' place and its interrupt. vCPUs reach its registers; a thread of its own deals with
// its requests.
import { closeSync, constants, fstatSync, openSync, type Stats } from "node:fs";
import { resolve } from "node:path";
import { reasonOf, TramError } from "../errors.ts";
import { DiskFile } from "../native/disk.ts";
import { tryLock } from "../native/file.ts";
import { setIrqLine } from "../native/kvm.ts";
import type { Ram } from "../native/ram.ts";
import { BOARD_HELPERS_MAX, type Board, type MachineHandles } from "./board.ts";
import { attachRam, deviceMemory, deviceWords, withDevices } from "./machine.ts";
import { diskPlace } from "./places.ts";
import { Block, type Disk, type Request, SECTOR_BYTES } from "./virtio/block.ts";
import type { DeviceMemory } from "./virtio/memory.ts";
import { STATUS_REGISTER, VirtioMmio } from "./virtio/mmio.ts";
import type { Chain } from "./virtio/queue.ts";

export const DISK_MODES = ["rw", "ro"] as const;
export type DiskMode = (typeof DISK_MODES)[number];
export const DISKS_MAX = BOARD_HELPERS_MAX;

/** Requests that are dealt with at a time. */
const BATCH = 32;

/** An open disk, as plain data. */
export interface DiskHandle {
  fd: number;
  /** Of which the guest has whole sectors. */
  bytes: number;
  mode: DiskMode;
  path: string;
}

/** Opens a raw file and locks it: nobody else may write to what one writes to. */
export function openDisk(given: string, mode: DiskMode): DiskHandle {
  const path = resolve(given);
  let fd: number;
  let stats: Stats;
  try {
    fd = openSync(path, mode === "ro" ? constants.O_RDONLY : constants.O_RDWR);
    stats = fstatSync(fd);
  } catch (error) {
    throw new TramError("E_FILE", `cannot open the disk ${given}: ${reasonOf(error)}`, {
      ...(mode === "rw" && isForbidden(error) && { next: "mode=ro needs no right to write" }),
    });
  }
  const refuse = (error: TramError): never => {
    closeSync(fd);
    throw error;
  };
  if (!stats.isFile())
    refuse(
      new TramError("E_USAGE", `${given} is no disk`, { expected: "a regular file, its bytes those of the disk" }),
    );
  if (stats.size < SECTOR_BYTES)
    refuse(
      new TramError("E_USAGE", `${given} is too small for a disk`, {
        expected: `at least ${SECTOR_BYTES} bytes`,
        found: `${stats.size}`,
      }),
    );
  if (!tryLock(fd, mode === "ro" ? "shared" : "exclusive"))
    refuse(
      new TramError("E_REFUSED", `the disk ${given} is in use by another guest`, {
        next: "end that guest, or give this one a copy; several may have it with mode=ro",
      }),
    );
  return { fd, bytes: stats.size - (stats.size % SECTOR_BYTES), mode, path };
}

const isForbidden = (error: unknown): boolean =>
  ["EACCES", "EPERM", "EROFS"].includes((error as NodeJS.ErrnoException).code ?? "");

/** One thread's hand on a disk that all of them share. */
export class DiskDevice {
  readonly #words: ReturnType<typeof deviceWords>;
  /** For the vCPUs, under the devices' lock. */
  readonly registers: VirtioMmio;
  readonly #block: Block;

  constructor(board: Board, handles: MachineHandles, index: number) {
    const { vm, marks } = handles;
    if (!marks) throw new TramError("E_INTERNAL", "a disk in a machine that does not note what devices write");
    const words = deviceWords(board);
    const ram = attachRam(handles);
    const memory = deviceMemory(ram, marks);
    this.#words = words;
    const disk = rawDisk(handles.disks[index], index, memory, ram);
    this.#block = new Block(words.disks[index].block, disk, memory, () => board.giveWork(index));
    this.registers = new VirtioMmio(words.disks[index].registers, this.#block, memory, (on) =>
      setIrqLine(vm, diskPlace(index).line, on),
    );
  }

  /** While nothing runs: as it was before its driver came. */
  reset(): void {
    withDevices(this.#words, () => this.registers.write(STATUS_REGISTER, 4, 0));
  }

  // --- its own thread's side

  /** Deals with some requests; false: there are none. */
  work(onFailure: (error: unknown) => void): boolean {
    const taken = withDevices(this.#words, () => this.registers.withQueue(0, (queue) => {
      const chains: Chain[] = [];
      for (let chain = queue.take(); chain; chain = chains.length < BATCH ? queue.take() : null) chains.push(chain);
      return this.#block.begin(chains);
    })); // biome-ignore format: one story
    if (!taken || taken.length === 0) return false;
    let broken: unknown = null;
    try {
      this.#block.perform(taken, onFailure);
    } catch (error) {
      broken = error; // the driver's nonsense
    }
    withDevices(this.#words, () => {
      if (!broken) this.#giveBack(taken);
      else if (taken.every((request) => this.#block.isWanted(request))) this.registers.stop();
    });
    return true;
  }

  #giveBack(requests: readonly Request[]): void {
    this.registers.withQueue(0, (queue) => {
      for (const request of requests)
        if (this.#block.isWanted(request)) queue.giveBack(request.chain, request.writtenBytes);
    });
  }
}

function rawDisk({ fd, bytes, mode }: DiskHandle, index: number, memory: DeviceMemory, ram: Ram): Disk {
  const file = new DiskFile(fd);
  const parts = (segments: readonly { gpa: number; bytes: number }[]) =>
    segments.map(({ gpa, bytes: count }) => ({ offset: memory.offsetOf(gpa, count), bytes: count }));
  return {
    bytes,
    isReadOnly: mode === "ro",
    id: `tram-disk-${index}`,
    read(into, at) {
      try {
        file.read(ram, parts(into), at);
      } finally {
        for (const { gpa, bytes: count } of into) memory.written(gpa, count); // behind the bytes; some may have come before it failed
      }
    },
    write: (from, at) => file.write(ram, parts(from), at),
    flush: () => file.flush(),
    discard: (at, count) => void file.discard(at, count), // a file system that cannot keeps the bytes
    zero(at, count, mayDiscard) {
      if (!file.zero(at, count, mayDiscard)) throw new Error("this file system cannot zero a part of a file");
    },
  };
}

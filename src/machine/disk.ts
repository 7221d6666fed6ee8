// A disk in its machine: its file, its registers' place and its interrupt. vCPUs reach its registers; a thread of its own deals with
// its requests.
import { fsyncSync } from "node:fs";
import { reasonOf, TramError } from "../errors.ts";
import { DiskFile } from "../native/disk.ts";
import { setIrqLine } from "../native/kvm.ts";
import type { Ram } from "../native/ram.ts";
import type { State } from "../stream/vmstate.ts";
import type { Board, MachineHandles } from "./board.ts";
import { type DiskHandle, identityOf, UNKNOWN } from "./disk-file.ts";
import { attachRam, deviceMemory, deviceWords, withDevices } from "./machine.ts";
import { Overlay } from "./overlay.ts";
import { diskPlace } from "./places.ts";
import { BLOCK_FEATURE, Block, type Disk, type Request } from "./virtio/block.ts";
import type { DeviceMemory } from "./virtio/memory.ts";
import { VirtioMmio } from "./virtio/mmio.ts";
import type { Chain } from "./virtio/queue.ts";

/** Requests that are dealt with at a time. */
const BATCH = 32;
/** While the guest is moved, no more than this is written that is not on the disk: it must be, before the guest goes on elsewhere. */
const UNSYNCED_BYTES_MAX = 16 << 20;

/** One thread's hand on a disk that all of them share. */
export class DiskDevice {
  readonly #words: ReturnType<typeof deviceWords>;
  readonly #board: Board;
  readonly #handle: DiskHandle;
  /** For the vCPUs, under the devices' lock. */
  readonly registers: VirtioMmio;
  readonly #block: Block;
  #unsyncedBytes = 0;

  constructor(board: Board, handles: MachineHandles, index: number) {
    const { vm, marks } = handles;
    if (!marks) throw new TramError("E_INTERNAL", "a disk in a machine that does not note what devices write");
    const words = deviceWords(board);
    const ram = attachRam(handles);
    const memory = deviceMemory(ram, marks);
    this.#words = words;
    this.#board = board;
    this.#handle = handles.disks[index];
    const disk = this.#disk(index, memory, ram);
    this.#block = new Block(words.disks[index].block, disk, memory, () => board.giveWork(index));
    this.registers = new VirtioMmio(words.disks[index].registers, this.#block, memory, (on) =>
      setIrqLine(vm, diskPlace(index).line, on),
    );
  }

  /** While nothing runs, and all that was written is on the disk. */
  save(isRecorded: boolean): State {
    const { inode, bytes, changedNs } = isRecorded ? identityOf(this.#handle.fd) : UNKNOWN;
    const flushFailed = this.#block.flushFailed ? 1 : 0;
    return { virtio: this.registers.save(), inode: BigInt(inode), bytes: BigInt(bytes), changed_ns: BigInt(changedNs), flush_failed: flushFailed }; // biome-ignore format: one row
  }

  /** The mirror of save, before the guest runs here. */
  load(state: State): void {
    if (Number(state.flush_failed)) this.#block.flushFailed = true; // a reboot does not bring back what was lost
    this.registers.load(state.virtio as State);
  }

  /** While nothing runs. Throws if that cannot be. */
  sync(): void {
    const { mode, path } = this.#handle;
    if (mode !== "rw") return;
    try {
      this.#block.flush();
      fsyncSync(this.#handle.fd); // by the time of its last change it is known again
    } catch (error) {
      this.#block.flushFailed = true;
      throw new TramError("E_FILE", `what the guest has written cannot be brought to ${path}: ${reasonOf(error)}`, {
        next: "look at that disk: the guest stays here",
      });
    }
  }

  // --- its own thread's side

  /** Deals with some requests; false: there are none. `mustStop`: somebody waits for this thread. */
  work(mustStop: () => boolean, onFailure: (error: unknown) => void): boolean {
    const taken = withDevices(this.#words, () => this.registers.withQueue(0, (queue) => {
      const chains: Chain[] = [];
      for (let chain = queue.take(); chain; chain = chains.length < BATCH ? queue.take() : null) chains.push(chain);
      return this.#block.begin(chains);
    })); // biome-ignore format: one story
    if (!taken || taken.length === 0) return false;
    const writesThrough = (this.registers.features & BLOCK_FEATURE.flush) === 0n;
    let done = taken.length;
    let broken: unknown = null;
    try {
      done = this.#block.perform(taken, { writesThrough, mustStop, onFailure });
    } catch (error) {
      broken = error; // the driver's nonsense
    }
    withDevices(this.#words, () => {
      if (!broken) this.#giveBack(taken.slice(0, done), taken.slice(done));
      else if (taken.every((request) => this.#block.isWanted(request))) this.registers.stop();
    });
    if (this.#board.tracked) this.#keepUp(onFailure);
    return true;
  }

  #giveBack(done: readonly Request[], later: readonly Request[]): void {
    this.registers.withQueue(0, (queue) => {
      if (later.every((request) => this.#block.isWanted(request))) queue.untake(later.length);
      for (const request of done)
        if (this.#block.isWanted(request)) queue.giveBack(request.chain, request.writtenBytes);
    });
  }

  #keepUp(onFailure: (error: unknown) => void): void {
    if (this.#unsyncedBytes < UNSYNCED_BYTES_MAX || this.#block.flushFailed) return;
    try {
      this.#block.flush();
    } catch (error) {
      onFailure(error);
    }
  }

  #disk(index: number, memory: DeviceMemory, ram: Ram): Disk {
    const { fd, bytes, mode, overlayFd } = this.#handle;
    const disk = new DiskFile(fd);
    const file = overlayFd < 0 ? disk : new Overlay(disk, new DiskFile(overlayFd), bytes);
    return {
      bytes,
      isReadOnly: mode === "ro",
      id: `tram-disk-${index}`,
      read(into, at) {
        try {
          file.read(ram, memory.parts(into), at);
        } finally {
          for (const { gpa, bytes: count } of into) memory.written(gpa, count); // behind the bytes; some may have come before it failed
        }
      },
      write: (from, at) => {
        file.write(ram, memory.parts(from), at);
        this.#unsyncedBytes += from.reduce((sum, { bytes: count }) => sum + count, 0);
      },
      flush: () => {
        if (mode === "rw") disk.flush(); // a private copy is gone with its guest
        this.#unsyncedBytes = 0;
      },
      discard: (at, count) => void file.discard(at, count), // a file system that cannot keeps the bytes
      zero: (at, count, mayDiscard) => file.zero(at, count, mayDiscard),
    };
  }
}

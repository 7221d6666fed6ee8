// A disk: requests as its driver puts them into its only queue, and what becomes of them. A thread of its own takes some, deals with
// them while the guest goes on, and gives them back: see disk-worker.ts. Its words lie in shared memory.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, 5.2.
//
//   readable  le32 type, le32 reserved, le64 sector; data to write, or ranges
//   writable  data that was read; u8 status
import { type DeviceMemory, DriverError } from "./memory.ts";
import type { VirtioDevice } from "./mmio.ts";
import type { Chain, Segment } from "./queue.ts";

export const SECTOR_BYTES = 512;
export const BLOCK_FEATURE = {
  segMax: 1n << 2n,
  readOnly: 1n << 5n,
  blockSize: 1n << 6n,
  flush: 1n << 9n,
  discard: 1n << 13n,
  writeZeroes: 1n << 14n,
} as const;

export const REQUEST = { read: 0, write: 1, flush: 4, id: 8, discard: 11, writeZeroes: 13 } as const;
/** Behind which a disk without a flush of its own is flushed. */
const CHANGES: readonly number[] = [REQUEST.write, REQUEST.discard, REQUEST.writeZeroes];
export const STATUS = { ok: 0, failed: 1, unsupported: 2 } as const;

const QUEUE_SIZE = 256;
const HEADER_BYTES = 16;
const ID_BYTES = 20;
const RANGE_BYTES = 16;
const RANGE_MAY_DISCARD = 1;
const RANGES_MAX = 64;
/** A request that reads or writes more holds the disk's thread too long: drivers' are of some MiB. */
const REQUEST_BYTES_MAX = 64 << 20;
/** Of a range to be discarded or zeroed: 128 MiB. Some devices write the zeros, and who stops the guest waits for that. */
const RANGE_SECTORS_MAX = 1 << 18;

const CONFIG = {
  capacity: 0,
  segMax: 12,
  blockSize: 20,
  maxDiscardSectors: 36,
  maxDiscardRanges: 40,
  discardAlignment: 44,
  maxZeroSectors: 48,
  maxZeroRanges: 52,
  zeroMayDiscard: 56,
  bytes: 60,
} as const;

const WORD = {
  /** Requests that are being dealt with. */
  inFlight: 0,
  /** Counts on with each reset: what was taken before is given back to nobody. */
  epoch: 1,
  /** A flush has failed: what was written before it may be lost, and no later one can make up for that. */
  flushFailed: 2,
} as const;
export const BLOCK_WORDS = 3;

/** What is behind it. Each throws if the disk fails; then the guest is told so. */
export interface Disk {
  /** A multiple of SECTOR_BYTES. */
  readonly bytes: number;
  readonly isReadOnly: boolean;
  /** At most ID_BYTES characters. */
  readonly id: string;
  /** From its byte `at` on into guest memory, and the other way round. */
  read(into: readonly Segment[], at: number): void;
  write(from: readonly Segment[], at: number): void;
  /** What was written is there when this returns. */
  flush(): void;
  /** Nobody needs these bytes any more: what they are then is not said. */
  discard(at: number, bytes: number): void;
  /** False: it cannot. */
  zero(at: number, bytes: number, mayDiscard: boolean): boolean;
}

/** Taken out of the queue, to be given back with so many bytes written. */
export interface Request {
  chain: Chain;
  epoch: number;
  writtenBytes: number;
}

/** In what circumstances requests are dealt with. */
export interface Performing {
  writesThrough: boolean;
  /** Somebody waits for this thread. */
  mustStop(): boolean;
  onFailure(error: unknown): void;
}

/** To be discarded, or zeroed. */
interface Range {
  at: number;
  bytes: number;
  flags: number;
}

export class Block implements VirtioDevice {
  readonly id = 2;
  readonly queueSizes = [QUEUE_SIZE];
  readonly features: bigint;
  readonly #words: Int32Array;
  readonly #disk: Disk;
  readonly #memory: DeviceMemory;
  readonly #wake: () => void;
  readonly #config: DataView;

  /** `wake`: there may be requests; whoever deals with them is to look. */
  constructor(words: Int32Array, disk: Disk, memory: DeviceMemory, wake: () => void) {
    this.#words = words;
    this.#disk = disk;
    this.#memory = memory;
    this.#wake = wake;
    const { segMax, readOnly, blockSize, flush, discard, writeZeroes } = BLOCK_FEATURE;
    this.features = segMax | blockSize | flush | (disk.isReadOnly ? readOnly : discard | writeZeroes);
    this.#config = configOf(disk);
  }

  readConfig(at: number, bytes: number): number {
    if (at + bytes > CONFIG.bytes) return 0;
    if (bytes === 1) return this.#config.getUint8(at);
    return bytes === 2 ? this.#config.getUint16(at, true) : this.#config.getUint32(at, true);
  }

  writeConfig(): void {}

  /** Not here: a disk may take its time. */
  serve(): boolean {
    this.#wake();
    return false;
  }

  /** The driver may use its memory for something else when this returns. */
  reset(): void {
    Atomics.add(this.#words, WORD.epoch, 1);
    for (;;) {
      const inFlight = Atomics.load(this.#words, WORD.inFlight);
      if (inFlight === 0) return;
      Atomics.wait(this.#words, WORD.inFlight, inFlight, 100);
    }
  }

  stopQueue(): void {
    this.reset();
  }

  /** Under the devices' lock. */
  begin(chains: readonly Chain[]): Request[] {
    const epoch = Atomics.load(this.#words, WORD.epoch);
    Atomics.store(this.#words, WORD.inFlight, chains.length);
    return chains.map((chain) => ({ chain, epoch, writtenBytes: 0 }));
  }

  /**
   * Not under the lock: the disk may take its time. How many of them have been dealt with when it returns: the first one, and
   * those behind it until somebody waits. `writesThrough`: what is written is on the disk when the driver hears of it.
   */
  perform(requests: readonly Request[], { writesThrough, mustStop, onFailure }: Performing): number {
    let done = 0;
    try {
      for (const request of requests) {
        if (done > 0 && mustStop()) break;
        request.writtenBytes = this.#perform(request.chain, writesThrough, onFailure);
        done++;
      }
      return done;
    } finally {
      Atomics.store(this.#words, WORD.inFlight, 0);
      Atomics.notify(this.#words, WORD.inFlight);
    }
  }

  /** Makes sure that what was written is there: for whoever wants that, the driver or not. Throws once and for all. */
  flush(): void {
    if (this.flushFailed) throw new Error("what was written before could not be brought to the disk");
    try {
      this.#disk.flush();
    } catch (error) {
      this.flushFailed = true; // the kernel tells it only once
      throw error;
    }
  }

  get flushFailed(): boolean {
    return Atomics.load(this.#words, WORD.flushFailed) !== 0;
  }
  set flushFailed(failed: boolean) {
    Atomics.store(this.#words, WORD.flushFailed, failed ? 1 : 0);
  }

  /** Under the lock again: whether the driver still waits for it. */
  isWanted({ epoch }: Request): boolean {
    return epoch === Atomics.load(this.#words, WORD.epoch);
  }

  /** The bytes written, status included. Throws DriverError. */
  #perform({ readable, writable }: Chain, writesThrough: boolean, onFailure: Performing["onFailure"]): number {
    const readableBytes = sumOf(readable);
    const writableBytes = sumOf(writable);
    if (readableBytes < HEADER_BYTES || writableBytes < 1)
      throw new DriverError("a disk's request has no room for its header, or its status");
    const header = view(this.#gather(cut(readable, 0, HEADER_BYTES)));
    const out = cut(readable, HEADER_BYTES, readableBytes - HEADER_BYTES);
    const into = cut(writable, 0, writableBytes - 1);
    let status: number = STATUS.ok;
    let written = 0;
    try {
      const sector = Number(header.getBigUint64(8, true));
      const type = header.getUint32(0, true);
      const done = this.#act(type, sector, out, into);
      if (writesThrough && CHANGES.includes(type)) this.flush();
      if (done === null) status = STATUS.unsupported;
      else written = done;
    } catch (error) {
      if (error instanceof DriverError) throw error;
      if (!(error instanceof RangeError)) onFailure(error);
      status = STATUS.failed;
    }
    const [last] = cut(writable, writableBytes - 1, 1);
    this.#memory.write(last.gpa, Uint8Array.of(status));
    return written + 1;
  }

  /** The bytes written into guest memory; null: there is no such request. Throws RangeError where it makes no sense. */
  #act(type: number, sector: number, out: readonly Segment[], into: readonly Segment[]): number | null {
    const disk = this.#disk;
    switch (type) {
      case REQUEST.read: {
        const bytes = sumOf(into);
        refuseLong(bytes);
        if (bytes > 0) disk.read(into, this.#place(sector, bytes));
        return bytes;
      }
      case REQUEST.write: {
        const bytes = sumOf(out);
        this.#refuseReadOnly();
        refuseLong(bytes);
        if (bytes > 0) disk.write(out, this.#place(sector, bytes));
        return 0;
      }
      case REQUEST.flush:
        if (!disk.isReadOnly) this.flush();
        return 0;
      case REQUEST.id: {
        const id = new Uint8Array(ID_BYTES);
        new TextEncoder().encodeInto(disk.id, id);
        return this.#scatter(into, id);
      }
      case REQUEST.discard:
      case REQUEST.writeZeroes:
        this.#refuseReadOnly();
        return this.#clear(type === REQUEST.discard, this.#ranges(out)) ? 0 : null;
      default:
        return null;
    }
  }

  /** False: one of them has a flag that there is not, or this disk cannot. */
  #clear(isDiscard: boolean, ranges: readonly Range[]): boolean {
    const known = isDiscard ? 0 : RANGE_MAY_DISCARD;
    if (ranges.some(({ flags }) => (flags & ~known) !== 0)) return false;
    for (const { at, bytes, flags } of ranges.filter((range) => range.bytes > 0))
      if (isDiscard) this.#disk.discard(at, bytes);
      else if (!this.#disk.zero(at, bytes, (flags & RANGE_MAY_DISCARD) !== 0)) return false;
    return true;
  }

  #refuseReadOnly(): void {
    if (this.#disk.isReadOnly) throw new RangeError("the disk is read-only");
  }

  /** Where it is on the disk. */
  #place(sector: number, bytes: number): number {
    const at = sector * SECTOR_BYTES;
    if (bytes % SECTOR_BYTES || !Number.isSafeInteger(at) || at + bytes > this.#disk.bytes)
      throw new RangeError(`${bytes} bytes from sector ${sector} on are not on the disk`);
    return at;
  }

  #ranges(out: readonly Segment[]): Range[] {
    const bytes = sumOf(out);
    if (bytes === 0 || bytes % RANGE_BYTES || bytes > RANGES_MAX * RANGE_BYTES) throw new RangeError("no whole ranges");
    const rows = view(this.#gather(out));
    // All of them are looked at before anything is done.
    return Array.from({ length: bytes / RANGE_BYTES }, (_, i) => {
      const sectors = rows.getUint32(i * RANGE_BYTES + 8, true);
      if (sectors > RANGE_SECTORS_MAX) throw new RangeError("a range is too long");
      const length = sectors * SECTOR_BYTES;
      const at = this.#place(Number(rows.getBigUint64(i * RANGE_BYTES, true)), length);
      return { at, bytes: length, flags: rows.getUint32(i * RANGE_BYTES + 12, true) };
    });
  }

  #gather(segments: readonly Segment[]): Uint8Array {
    return new Uint8Array(Buffer.concat(segments.map(({ gpa, bytes }) => this.#memory.read(gpa, bytes))));
  }

  /** As much of it as there is room for; how much that is. */
  #scatter(segments: readonly Segment[], data: Uint8Array): number {
    let done = 0;
    for (const { gpa, bytes } of segments) {
      const part = data.subarray(done, done + bytes);
      if (part.length === 0) break;
      this.#memory.write(gpa, part);
      done += part.length;
    }
    return done;
  }
}

function configOf(disk: Disk): DataView {
  const config = new DataView(new ArrayBuffer(CONFIG.bytes));
  config.setBigUint64(CONFIG.capacity, BigInt(disk.bytes / SECTOR_BYTES), true);
  config.setUint32(CONFIG.segMax, QUEUE_SIZE - 2, true); // all but header and status
  config.setUint32(CONFIG.blockSize, SECTOR_BYTES, true);
  config.setUint32(CONFIG.maxDiscardSectors, RANGE_SECTORS_MAX, true);
  config.setUint32(CONFIG.maxDiscardRanges, RANGES_MAX, true);
  config.setUint32(CONFIG.discardAlignment, 8, true); // whole blocks of 4 KiB are what a file can give up
  config.setUint32(CONFIG.maxZeroSectors, RANGE_SECTORS_MAX, true);
  config.setUint32(CONFIG.maxZeroRanges, RANGES_MAX, true);
  config.setUint8(CONFIG.zeroMayDiscard, 1);
  return config;
}

function refuseLong(bytes: number): void {
  if (bytes > REQUEST_BYTES_MAX) throw new RangeError(`${bytes} bytes in one request`);
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const sumOf = (segments: readonly Segment[]): number => segments.reduce((sum, { bytes }) => sum + bytes, 0);

/** The part [from, from + bytes) of what the segments are together: a driver may cut its requests as it likes. */
export const cut = (segments: readonly Segment[], from: number, bytes: number): Segment[] =>
  cutBy(segments, from, bytes, ({ gpa }, skip, left) => ({ gpa: gpa + skip, bytes: left }));

/** The same of anything that has bytes. `take`: of one of them, behind so many bytes, so many. */
export function cutBy<T extends { bytes: number }>(
  all: readonly T[],
  from: number,
  bytes: number,
  take: (one: T, skip: number, bytes: number) => T,
): T[] {
  const parts: T[] = [];
  let at = 0;
  for (const one of all) {
    const first = Math.max(from, at);
    const end = Math.min(from + bytes, at + one.bytes);
    if (end > first) parts.push(take(one, first - at, end - first));
    at += one.bytes;
  }
  return parts;
}

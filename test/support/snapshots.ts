// Snapshots of tram's own guests, for tests: made, looked into by byte, spoilt.
import { closeSync, copyFileSync, openSync, readdirSync, readFileSync, readSync, statSync, writeSync } from "node:fs";
import type { SaveReport } from "../../src/cli/events.ts";
import type { RestoreJournal } from "../../src/control/restore.ts";
import { nextData } from "../../src/native/file.ts";
import { SnapshotFile } from "../../src/reader/snapshot.ts";
import { bitmapBytes } from "../../src/stream/mapped.ts";
import { SEAL_FOOTER_BYTES, tableBytes } from "../../src/stream/seal.ts";
import { FileTransport } from "../../src/transport/file.ts";
import type { Bed, Result, Running, Status } from "./bed.ts";

export const PAGE = 4096;
const MIB = 1 << 20;

/** The last line of --json. */
export const lastEvent = <T = SaveReport>(text: string): T => JSON.parse(text.trim().split("\n").at(-1) as string) as T;

/** Saves, which must succeed. */
export async function saved(bed: Bed, vm: string, file: string, ...options: string[]): Promise<SaveReport> {
  const { code, stdout, stderr } = await bed.tram("save", vm, file, "--json", ...options);
  if (code !== 0) throw new Error(`tram save ${vm} ${file} ${options.join(" ")}: exit ${code}: ${stderr}`);
  return lastEvent(stdout);
}

/** Saves, and again until the report is as it should be: on a busy host a guest may answer too late. */
export async function savedAs(
  bed: Bed,
  isMeant: (report: SaveReport) => boolean,
  vm: string,
  file: string,
  ...options: string[]
): Promise<SaveReport> {
  for (let n = 0; n < 20; n++) {
    const report = await saved(bed, vm, file, "--after", "resume", ...options);
    if (isMeant(report)) return report;
  }
  throw new Error(`tram save ${vm} ${file} ${options.join(" ")}: not once as it should be`);
}

/** The most that a snapshot may take on the disk: the guest's RAM, 2.25 MiB for each GiB of it, and what describes it. */
export const allocatedMax = (ramBytes: number): number =>
  ramBytes + Math.ceil((ramBytes / 2 ** 30) * 2.25 * MIB) + MIB + (64 << 10);

export const allocatedBytes = (path: string): number => statSync(path).blocks * 512;

/** The same for the same content. */
export const contentOf = (path: string): string => `${statSync(path).size} ${Bun.hash(readFileSync(path))}`;

/** Where everything is in a file with one block. Offsets are the file's. */
export interface Anatomy {
  pages: number;
  /** Whether the file has this page. */
  has(page: number): boolean;
  present: number[];
  /** Runs of pages that the file has. */
  runs: number;
  bitmap: { from: number; to: number };
  pagesOffset: number;
  /** The end of the RAM, the device state, what describes it. */
  tail: { from: number; to: number };
  sealHead: { from: number; to: number };
  table: { from: number; to: number };
  footer: { from: number; to: number };
  bytes: number;
}

export function anatomyOf(path: string, offset = 0): Anatomy {
  const file = FileTransport.open(path);
  try {
    const { block, seal } = new SnapshotFile(file, offset);
    if (!seal) throw new Error(`${path} has no seal`);
    const bytes = statSync(path).size;
    const pages = block.bytes / PAGE;
    const present = Array.from({ length: pages }, (_, page) => page).filter((page) => block.present.has(page));
    const footer = { from: bytes - SEAL_FOOTER_BYTES, to: bytes };
    const headBytes = Number(bytesAt(path, footer.from + 16, 8).readBigUInt64BE());
    const tableFrom = seal.headOffset + seal.head.blocks[0].tableOffset;
    return {
      pages,
      present,
      runs: present.filter((page, i) => i === 0 || present[i - 1] !== page - 1).length,
      has: (page) => block.present.has(page),
      bitmap: { from: block.bitmapOffset, to: block.bitmapOffset + bitmapBytes(block.bytes) },
      pagesOffset: block.pagesOffset,
      tail: { from: block.pagesOffset + block.bytes, to: seal.head.streamEnd },
      sealHead: { from: seal.headOffset, to: seal.headOffset + headBytes },
      table: { from: tableFrom, to: tableFrom + tableBytes(block) },
      footer,
      bytes,
    };
  } finally {
    file.close();
  }
}

/** The ranges of a file that are not holes, as its file system tells. */
export function dataOf(path: string): { from: number; to: number }[] {
  const fd = openSync(path, "r");
  try {
    const ranges: { from: number; to: number }[] = [];
    for (let data = nextData(fd, 0); data; data = nextData(fd, data.to)) ranges.push(data);
    return ranges;
  } finally {
    closeSync(fd);
  }
}

export function bytesAt(path: string, offset: number, count: number): Buffer {
  const fd = openSync(path, "r");
  try {
    const out = Buffer.alloc(count);
    readSync(fd, out, 0, count, offset);
    return out;
  } finally {
    closeSync(fd);
  }
}

export function writeBytes(path: string, offset: number, bytes: Uint8Array): void {
  const fd = openSync(path, "r+");
  try {
    writeSync(fd, bytes, 0, bytes.length, offset);
  } finally {
    closeSync(fd);
  }
}

/** A copy that has other bits in one byte. */
export function flipped(from: string, to: string, offset: number, bits: number): string {
  copyFileSync(from, to);
  writeBytes(to, offset, Buffer.of(bytesAt(from, offset, 1)[0] ^ bits));
  return to;
}

/** What a folder has, hidden files too. */
export const filesIn = (folder: string): string[] => readdirSync(folder).sort();

/** Returns when the kernel keeps no log of what the guest writes, in the state that it then is in. */
export async function untracked(bed: Bed, name: string): Promise<Status> {
  let status: Status | null = null;
  const isOff = async () => {
    status = await bed.status(name);
    return status?.tracking === false;
  };
  await bed.until(isOff, `${name} is not tracked`);
  return status as unknown as Status;
}

/** How far the memory of a guest out of a snapshot has come. */
export async function restoreOf(bed: Bed, name: string): Promise<RestoreJournal> {
  const journal = (await bed.status(name))?.restore;
  if (!journal) throw new Error(`${name} was not restored, or eagerly`);
  return journal;
}

/** Waits for the guest to stand still for good, and ends it: the exit code of its process, which answers until then. */
export async function ioError(bed: Bed, name: string, running: Running, limitMs = 10_000): Promise<number> {
  await bed.until(async () => (await bed.status(name))?.status === "io-error", `${name}: io-error`, running, limitMs);
  await bed.expectDone("quit", name);
  return running.code;
}

/** A result that says no, for a comparison that shows all of it when it fails. */
export const refusal = ({ code, stderr }: Result): { code: number; stderr: string } => ({ code, stderr });

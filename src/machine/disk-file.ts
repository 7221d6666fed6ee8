// A guest's disk on this host: opened, locked for as long as its guest may write to it, and known again where that counts.
//
//   boots here       opened and locked
//   arrives          opened; found as its source has left it, which no other file is; locked before the guest runs here
//   leaves           synced; unlocked just before the word that hands the guest over, and locked again if it stays after all
//   out of a file    opened and locked; nobody has written to it since the guest was saved
//
// Locks are flock's: of a file's description, so that all threads have them, and over a network where its file system has them.
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readSync, type Stats, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { reasonOf, TramError } from "../errors.ts";
import { diskBytes, forgetCached, tryClone } from "../native/disk.ts";
import { lockFile, openNameless, unlockFile } from "../native/file.ts";
import type { DiskDescription, DiskIdentity } from "../stream/devices/machine.ts";
import { SECTOR_BYTES } from "./virtio/block.ts";

/** cow: what the guest writes is seen by nobody else, and gone when it ends. */
export const DISK_MODES = ["rw", "ro", "cow"] as const;
export type DiskMode = (typeof DISK_MODES)[number];

/** A disk as a person names it. */
export interface DiskWish {
  path: string;
  /** Null: nothing was said of it. */
  mode: DiskMode | null;
  /** Its bytes are those of the disk, whatever they look like. */
  isRaw: boolean;
}

/** An open disk, as plain data. */
export interface DiskHandle {
  fd: number;
  /** Of which the guest has whole sectors. */
  bytes: number;
  mode: DiskMode;
  path: string;
  /** cow, where blocks cannot be shared: a file for what is written, in which each byte has the place that it has in the disk; else -1. */
  overlayFd: number;
  /** It arrives, and must be found as its source has left it. */
  mustMatch: boolean;
  /** Its file system has locks: nobody else writes to it. */
  hasLock: boolean;
  /** A person says that it is the guest's, or a copy of it: it is another file than the guest had, or nobody can tell. */
  isOnTrust: boolean;
}

/** How long a lock, or what another host has written, may take to be seen. */
const SETTLE_MS = 500;
const AGAIN_MS = 20;
const KEEPS_ITS_DISK = "a guest that arrives goes on with the disk it has";
/** Sectors of it are numbered with 31 bits. */
const OVERLAY_BYTES_MAX = 2 ** 40;
/** Where there is no room beside the disk for what its guest writes. */
const copyFolders = (): string[] => [process.env.TMPDIR, "/var/tmp", "/tmp"].flatMap((folder) => folder || []);

/** For a guest that boots here. */
export function openDisk({ path, mode, isRaw }: DiskWish): DiskHandle {
  const disk = open(path, mode ?? "rw");
  return closing(disk, () => {
    if (!isRaw) refuseImage(disk);
    own(disk);
    return disk.mode === "cow" ? copied(disk) : disk;
  });
}

/** For a guest that is still to come: what is wrong with them, whichever guest it will be, is said before it sets out. */
export function lookAtDisks(wished: readonly DiskWish[]): void {
  for (const { path, mode } of wished) {
    if (mode === "cow")
      throw new TramError("E_USAGE", `--disk: ${path} cannot have mode=cow: ${KEEPS_ITS_DISK}`, {
        expected: "rw or ro, or nothing: as it was at its source",
      });
    closeSync(open(path, mode ?? "ro").fd); // nothing of it is held: its source still has it
  }
}

/**
 * Of a guest that arrives, whose source still has them. `isShared`: a person says that they are the source's own; else each must be the
 * same file, found as its source has left it: see checkArrived. One that is only read may be a copy, if the target named it.
 */
export function openArriving(
  described: readonly DiskDescription[],
  wished: readonly DiskWish[] | null,
  isShared: boolean,
): DiskHandle[] {
  checkCount(described, wished);
  return described.map((wanted, i) => {
    const path = wished?.[i].path ?? wanted.path;
    const mode = wished?.[i].mode ?? wanted.mode;
    if (mode !== wanted.mode) throw otherMode(path, wanted, mode, KEEPS_ITS_DISK);
    const disk = open(path, mode);
    return closing(disk, () => {
      checkSize(disk, wanted);
      disk.mustMatch = !isShared && !(mode === "ro" && wished);
      disk.isOnTrust = !isOneFile(identityOf(disk.fd), wanted);
      if (disk.mustMatch && disk.isOnTrust) throw notShared(disk);
      if (mode === "ro") own(disk);
      // Where its source does not hold it, nobody else may take it from here on.
      else if (disk.mustMatch) lockFile(disk.fd, "exclusive");
      return disk;
    });
  });
}

/** Of a guest out of a file: nothing has happened to them since. Another file that is named instead is taken as it is. */
export function openRestored(
  described: readonly DiskDescription[],
  identities: readonly DiskIdentity[],
  wished: readonly DiskWish[] | null,
): DiskHandle[] {
  checkCount(described, wished);
  return described.map((wanted, i) => {
    const saved = identities[i];
    if (!wished && saved.inode === UNKNOWN.inode)
      throw new TramError("E_REFUSED", `how ${wanted.path} was when the guest was saved is not in the file`, {
        next: `--disk FILE names what it is to have instead of ${wanted.path}: a copy that was taken when it was saved`,
      });
    const path = wished?.[i].path ?? wanted.path;
    const mode = wished?.[i].mode ?? wanted.mode;
    if ((mode === "ro") !== (wanted.mode === "ro")) throw otherMode(path, wanted, mode, "the guest knows it as it was");
    const disk = open(path, mode);
    return closing(disk, () => {
      own(disk);
      checkSize(disk, wanted);
      const found = identityOf(disk.fd);
      disk.isOnTrust = !isOneFile(found, saved);
      if ((!wished || !disk.isOnTrust) && !isSame(found, saved)) throw changed(disk, saved, found);
      return disk.mode === "cow" ? copied(disk) : disk;
    });
  });
}

/** Of those that have arrived: as their source has left them. */
export function checkArrived(disks: readonly DiskHandle[], identities: readonly DiskIdentity[]): void {
  disks.forEach((disk, i) => {
    if (disk.mustMatch && !becomes(disk, identities[i])) throw notShared(disk);
  });
}

/** Another host's file system may learn a little later what was written: behind a new open, as network file systems have it. */
function becomes({ path }: DiskHandle, wanted: DiskIdentity): boolean {
  for (const endMs = performance.now() + SETTLE_MS; ; Bun.sleepSync(AGAIN_MS)) {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      if (isSame(identityOf(fd), wanted)) return true;
    } finally {
      closeSync(fd);
    }
    if (performance.now() > endMs) return false;
  }
}

/** They are somebody else's now: how each is left, for who may take it back. */
export function disownDisks(disks: readonly DiskHandle[]): DiskIdentity[] {
  return disks.map(({ fd, mode }) => {
    const left = identityOf(fd);
    if (mode === "rw") unlockFile(fd);
    return left;
  });
}

/** What lies of them in this host's cache grows old from here on. */
export function forgetDisks(disks: readonly DiskHandle[]): void {
  for (const { fd, mode } of disks) if (mode === "rw") forgetCached(fd);
}

/**
 * They are this guest's again (`left`: as it left them), or for the first time. Throws, with none of them locked, if one cannot be, or was
 * written to meanwhile.
 */
export function ownDisks(disks: readonly DiskHandle[], left: readonly DiskIdentity[] | null): void {
  const done: DiskHandle[] = [];
  try {
    disks.forEach((disk, i) => {
      if (disk.mode !== "rw") return;
      own(disk);
      done.push(disk);
      forgetCached(disk.fd);
      const known = left && left[i].inode !== UNKNOWN.inode;
      if (known && !isSame(identityOf(disk.fd), left[i])) throw writtenSince(disk);
    });
  } catch (error) {
    for (const { fd } of done) unlockFile(fd);
    throw error;
  }
}

export const describeDisk = ({ fd, path, bytes, mode }: DiskHandle): DiskDescription => ({
  path,
  bytes,
  mode: mode === "ro" ? "ro" : "rw",
  inode: identityOf(fd).inode,
});

/** Nobody can tell, or is to. */
export const UNKNOWN: DiskIdentity = { inode: "0", bytes: 0, changedNs: "0" };

/** How a disk is now. Of a block device nobody can tell whether it was written to. */
export function identityOf(fd: number): DiskIdentity {
  const stats = fstatSync(fd, { bigint: true });
  if (!stats.isFile()) return UNKNOWN;
  return { inode: `${stats.ino}`, bytes: Number(stats.size), changedNs: `${stats.mtimeNs}` };
}

const isOneFile = (a: Pick<DiskIdentity, "inode">, b: Pick<DiskIdentity, "inode">): boolean =>
  a.inode !== UNKNOWN.inode && a.inode === b.inode;

const isSame = (a: DiskIdentity, b: DiskIdentity): boolean =>
  isOneFile(a, b) && a.bytes === b.bytes && a.changedNs === b.changedNs;

function open(given: string, mode: DiskMode): DiskHandle {
  const path = resolve(given);
  let fd: number;
  let isDisk: boolean;
  const isDiskAt = (stats: Stats) => stats.isFile() || stats.isBlockDevice();
  try {
    // Looked at first: to open a FIFO would wait, and to open some devices does something. Not with O_NONBLOCK alone.
    isDisk = isDiskAt(statSync(path));
    const access = mode === "rw" ? constants.O_RDWR : constants.O_RDONLY;
    fd = isDisk ? openSync(path, access | constants.O_NONBLOCK | constants.O_NOCTTY) : -1;
    isDisk &&= isDiskAt(fstatSync(fd));
  } catch (error) {
    throw new TramError("E_FILE", `cannot open the disk ${given}: ${reasonOf(error)}`, {
      ...(mode === "rw" && isForbidden(error) && { next: "mode=ro needs no right to write" }),
    });
  }
  const disk = { fd, bytes: 0, mode, path, overlayFd: -1, mustMatch: false, hasLock: true, isOnTrust: false };
  return closing(disk, () => {
    if (!isDisk)
      throw new TramError("E_USAGE", `${given} is no disk`, {
        expected: "a regular file or a block device, its bytes those of the disk",
      });
    const bytes = diskBytes(fd);
    if (bytes < SECTOR_BYTES)
      throw new TramError("E_USAGE", `${given} is too small for a disk`, {
        expected: `at least ${SECTOR_BYTES} bytes`,
        found: `${bytes}`,
      });
    return { ...disk, bytes: bytes - (bytes % SECTOR_BYTES) };
  });
}

const isForbidden = (error: unknown): boolean =>
  ["EACCES", "EPERM", "EROFS"].includes((error as NodeJS.ErrnoException).code ?? "");

/** What `use` does; if that throws, the disk is closed. */
function closing<T>({ fd }: DiskHandle, use: () => T): T {
  try {
    return use();
  } catch (error) {
    if (fd >= 0) closeSync(fd);
    throw error;
  }
}

/** What images of other kinds begin with: a guest would see no disk there, and spoil the image. */
const IMAGES: readonly [kind: string, magic: string][] = [
  ["a qcow2 image", "QFI\xfb"],
  ["a QED image", "QED\0"],
  ["a VMDK image", "KDMV"],
  ["a VHDX image", "vhdxfile"],
  ["a VDI image", "<<< "],
  ["a guest's memory, as tram and QEMU keep it", "QEVM"],
];

function refuseImage({ fd, path }: DiskHandle): void {
  const head = Buffer.alloc(8);
  try {
    readSync(fd, head, 0, head.length, 0);
  } catch (error) {
    throw new TramError("E_FILE", `cannot read the disk ${path}: ${reasonOf(error)}`);
  }
  const image = IMAGES.find(([, magic]) => head.toString("latin1").startsWith(magic));
  if (!image) return;
  const [kind] = image;
  throw new TramError("E_USAGE", `${path} is no raw disk`, {
    expected: "a file or a block device whose bytes are those of the disk",
    found: kind,
    next: `${kind.endsWith("image") ? "qemu-img convert -O raw makes one of it; " : ""}format=raw says that it is the disk itself`,
  });
}

/** Who only looks at a disk holds it for a moment: the next guest's, or udev. */
function own(disk: DiskHandle): void {
  const { fd, mode, path } = disk;
  for (const endMs = performance.now() + SETTLE_MS; ; Bun.sleepSync(AGAIN_MS)) {
    const found = lockFile(fd, mode === "rw" ? "exclusive" : "shared");
    disk.hasLock = found === "locked";
    if (found !== "busy") return;
    if (performance.now() > endMs) break;
  }
  throw new TramError("E_REFUSED", `the disk ${path} is in use: another guest has it, or it was named twice`, {
    next:
      mode === "rw"
        ? "end that guest, which may be on another host that sees the file, or give this one a copy; several may have it with mode=ro, or mode=cow"
        : "end the guest that writes to it, or give this one a copy",
  });
}

/** A private copy of it: one that shares its blocks where its file system can do that, else one that grows with what is written. */
function copied(disk: DiskHandle): DiskHandle {
  const beside = placeIn(dirname(disk.path));
  if (beside >= 0 && tryClone(beside, disk.fd)) {
    closeSync(disk.fd); // nothing is read from it any more
    return { ...disk, fd: beside };
  }
  if (disk.bytes > OVERLAY_BYTES_MAX)
    throw new TramError("E_USAGE", `${disk.path} is too large for mode=cow, where blocks cannot be shared`, {
      expected: `at most ${OVERLAY_BYTES_MAX} bytes, or a file on XFS or btrfs`,
      found: `${disk.bytes} bytes`,
    });
  const folders = copyFolders();
  const overlayFd = folders.reduce((fd, folder) => (fd >= 0 ? fd : placeIn(folder)), beside);
  if (overlayFd < 0)
    throw new TramError("E_FILE", `there is no place for what the guest will write to ${disk.path}`, {
      expected: `a folder in which files without a name can be made: ${[dirname(disk.path), ...folders].join(", ")}`,
      next: "set TMPDIR to one",
    });
  ftruncateSync(overlayFd, disk.bytes);
  return { ...disk, overlayFd };
}

/** -1: not there, whatever the reason. */
function placeIn(folder: string): number {
  try {
    return openNameless(folder);
  } catch {
    return -1;
  }
}

function checkCount(described: readonly DiskDescription[], wished: readonly DiskWish[] | null): void {
  if (!wished || wished.length === described.length) return;
  throw new TramError("E_REFUSED", "--disk: the guest has another number of disks", {
    expected: described.length ? `one for each of ${described.map(({ path }) => path).join(", ")}` : "none",
    found: `${wished.length}`,
  });
}

function checkSize({ path, bytes }: DiskHandle, wanted: DiskDescription): void {
  if (bytes === wanted.bytes) return;
  throw new TramError("E_REFUSED", `${path} is not the guest's disk`, {
    expected: `${wanted.bytes} bytes, as ${wanted.path} had`,
    found: `${bytes} bytes`,
    next: "--disk FILE names it where it lies elsewhere",
  });
}

const otherMode = (path: string, wanted: DiskDescription, mode: DiskMode, why: string): TramError =>
  new TramError("E_REFUSED", `${path} cannot have mode=${mode}: ${why}`, { expected: `mode=${wanted.mode}` });

const notShared = ({ path }: DiskHandle): TramError =>
  new TramError("E_REFUSED", `${path} is not the disk that the guest has at its source`, {
    expected: "one file that both hosts see, as the guest left it there",
    found: "another file, one that was written to since, or a block device, of which nobody can tell",
    next: "--disk FILE names it where it lies elsewhere; --disk-shared takes your word that it is the same, and compares nothing but its size",
  });

const writtenSince = ({ path }: DiskHandle): TramError =>
  new TramError("E_REFUSED", `${path} was written to since the guest left it: it has run elsewhere`, {
    next: "look where with tram ps on the other host; here the guest's memory is older than its disk: tram quit it",
  });

const changed = ({ path }: DiskHandle, saved: DiskIdentity, found: DiskIdentity): TramError =>
  new TramError("E_REFUSED", `${path} is not as it was when the guest was saved`, {
    expected: `${saved.bytes} bytes, last written to at ${timeOf(saved)}`,
    found:
      found.inode === UNKNOWN.inode
        ? "a block device, of which nobody can tell"
        : found.inode !== saved.inode
          ? "another file"
          : `${found.bytes} bytes, last written to at ${timeOf(found)}`,
    next: "with it the guest's file system would break: --disk FILE names a copy that was taken when it was saved",
  });

const timeOf = ({ changedNs }: DiskIdentity): string => new Date(Number(BigInt(changedNs) / 1_000_000n)).toISOString();

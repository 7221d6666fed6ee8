// A guest's disk on this host: opened, locked for as long as its guest may write to it, and known again where that counts.
//
//   boots here       opened and locked
//   arrives          opened; that its source has it locked proves that both mean one disk; locked before the guest runs here
//   leaves           synced; unlocked just before the word that hands the guest over, and locked again if it stays after all
//   out of a file    opened and locked; nobody has written to it since the guest was saved
//
// Locks are flock's: of a file's description, so that all threads have them, and over a network where its file system has them.
import { closeSync, constants, fstatSync, ftruncateSync, openSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { reasonOf, TramError } from "../errors.ts";
import { diskBytes, forgetCached, tryClone } from "../native/disk.ts";
import { lockFile, unlockFile } from "../native/file.ts";
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
  /** It arrives, and nothing has proved yet that its source means this file: it must be found as the source has left it. */
  isUnproven: boolean;
}

/** Linux's O_TMPFILE, with the O_DIRECTORY that belongs to it. */
const O_TMPFILE = 0o20200000;
const PRIVATE = 0o600;
/** Where there is no room beside the disk for what its guest writes. */
const copyFolders = (): string[] => [process.env.TMPDIR, "/var/tmp", "/tmp"].flatMap((folder) => folder || []);

/** For a guest that boots here. */
export function openDisk({ path, mode }: DiskWish): DiskHandle {
  const disk = open(path, mode ?? "rw");
  return closing(disk, () => {
    own(disk);
    return disk.mode === "cow" ? copied(disk) : disk;
  });
}

/** Of a guest that arrives, whose source still has them. `isShared`: a person says that they are the source's own. */
export function openArriving(
  described: readonly DiskDescription[],
  wished: readonly DiskWish[] | null,
  isShared: boolean,
): DiskHandle[] {
  checkCount(described, wished);
  return described.map((wanted, i) => {
    const path = wished?.[i].path ?? wanted.path;
    const mode = wished?.[i].mode ?? wanted.mode;
    if (mode !== wanted.mode) throw otherMode(path, wanted, mode, "a guest that arrives goes on with the disk it has");
    const disk = open(path, mode);
    return closing(disk, () => {
      checkSize(disk, wanted);
      if (mode === "ro") own(disk);
      else if (!isShared && !isLockedByOthers(disk.fd)) {
        if (identityOf(disk.fd).inode !== wanted.inode || wanted.inode === UNKNOWN.inode) throw notShared(disk, wanted);
        disk.isUnproven = true;
      }
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
      if ((!wished || found.inode === saved.inode) && !isSame(found, saved)) throw changed(disk, saved, found);
      return disk.mode === "cow" ? copied(disk) : disk;
    });
  });
}

/** Of those that have arrived: as their source has left them. */
export function checkArrived(disks: readonly DiskHandle[], identities: readonly DiskIdentity[]): void {
  disks.forEach((disk, i) => {
    if (disk.isUnproven && !isSame(identityOf(disk.fd), identities[i])) throw notShared(disk, identities[i]);
  });
}

/** They are somebody else's now. */
export function disownDisks(disks: readonly DiskHandle[]): void {
  for (const { fd, mode } of disks) {
    if (mode !== "rw") continue;
    forgetCached(fd); // before it is another's: what lies in this host's cache then grows old
    unlockFile(fd);
  }
}

/** They are this guest's again, or for the first time. Throws, with none of them locked, if one cannot be. */
export function ownDisks(disks: readonly DiskHandle[]): void {
  const done: DiskHandle[] = [];
  try {
    for (const disk of disks) {
      if (disk.mode !== "rw") continue;
      own(disk);
      done.push(disk);
      forgetCached(disk.fd);
    }
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

const isSame = (a: DiskIdentity, b: DiskIdentity): boolean =>
  a.inode !== UNKNOWN.inode && a.inode === b.inode && a.bytes === b.bytes && a.changedNs === b.changedNs;

function open(given: string, mode: DiskMode): DiskHandle {
  const path = resolve(given);
  let fd: number;
  let isDisk: boolean;
  try {
    fd = openSync(path, mode === "rw" ? constants.O_RDWR : constants.O_RDONLY);
    const stats = fstatSync(fd);
    isDisk = stats.isFile() || stats.isBlockDevice();
  } catch (error) {
    throw new TramError("E_FILE", `cannot open the disk ${given}: ${reasonOf(error)}`, {
      ...(mode === "rw" && isForbidden(error) && { next: "mode=ro needs no right to write" }),
    });
  }
  const disk = { fd, bytes: 0, mode, path, overlayFd: -1, isUnproven: false };
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
    closeSync(fd);
    throw error;
  }
}

function own({ fd, mode, path }: DiskHandle): void {
  if (lockFile(fd, mode === "rw" ? "exclusive" : "shared") !== "busy") return;
  throw new TramError("E_REFUSED", `the disk ${path} is in use: another guest has it, or it was named twice`, {
    next:
      mode === "rw"
        ? "end that guest, or give this one a copy; several may have it with mode=ro, or mode=cow"
        : "end the guest that writes to it, or give this one a copy",
  });
}

/** Whoever holds it: this process does not. */
function isLockedByOthers(fd: number): boolean {
  const found = lockFile(fd, "exclusive");
  if (found === "locked") unlockFile(fd);
  return found === "busy";
}

/** A private copy of it: one that shares its blocks where its file system can do that, else one that grows with what is written. */
function copied(disk: DiskHandle): DiskHandle {
  const beside = openNameless(dirname(disk.path));
  if (beside >= 0 && tryClone(beside, disk.fd)) {
    closeSync(disk.fd); // nothing is read from it any more
    return { ...disk, fd: beside };
  }
  const folders = copyFolders();
  const overlayFd = folders.reduce((fd, folder) => (fd >= 0 ? fd : openNameless(folder)), beside);
  if (overlayFd < 0)
    throw new TramError("E_FILE", `there is no place for what the guest will write to ${disk.path}`, {
      expected: `a folder in which files without a name can be made: ${[dirname(disk.path), ...folders].join(", ")}`,
      next: "set TMPDIR to one",
    });
  ftruncateSync(overlayFd, disk.bytes);
  return { ...disk, overlayFd };
}

/** -1: not there. */
function openNameless(folder: string): number {
  try {
    return openSync(folder, O_TMPFILE | constants.O_RDWR, PRIVATE);
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

const notShared = ({ path }: DiskHandle, wanted: Pick<DiskDescription, "inode">): TramError =>
  new TramError("E_REFUSED", `${path} is not the disk that the guest writes to at its source`, {
    expected: "one file that both hosts see, and that is locked there",
    found: wanted.inode === UNKNOWN.inode ? "nobody has it locked" : "another file, or one that was written to since",
    next: "--disk FILE names it where it lies elsewhere; --disk-shared says that it is the same where locks do not reach across hosts",
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

// A file that is there whole or not at all: written without a name, synced, and only then given its name. Where that cannot be (an
// offset inside a file, a descriptor of the caller's) it is written in place, and what was there before is not protected.
import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { reasonOf, TramError } from "../errors.ts";
import { openNameless, PRIVATE, tryLock } from "../native/file.ts";
import { net } from "../native/net.ts";

/** Where a file is to be written. `offset`: what stands before it in the file stays. */
export type FileTarget = { path: string; offset?: number } | { fd: number };

export class OutputFile {
  readonly fd: number;
  /** Where in the file our first byte goes. */
  readonly offset: number;
  /** A regular file: what is in it can be read again. */
  readonly isPlain: boolean;
  readonly #path: string;
  /**
   * nameless: until it is whole it has no name, so that nothing is left of it whatever becomes of us. beside: it has another
   * name, where the file system wants one. in place: see above.
   */
  readonly #way: "nameless" | "beside" | "in place";
  readonly #temporary: string;
  #isNew = false;
  #isNamed = false;

  constructor(target: FileTarget) {
    try {
      if ("fd" in target) {
        this.#path = `fd:${target.fd}`;
        this.#temporary = "";
        this.#way = "in place";
        refuseUnfit(target.fd);
        this.fd = readable(target.fd);
        this.offset = positionOf(target.fd);
        this.isPlain = net.fdType(this.fd) === "file";
        this.#lockInPlace();
        return;
      }
      this.#path = behindLinks(resolve(target.path));
      this.#temporary = join(
        dirname(this.#path),
        `${temporaryPrefix(this.#path)}${process.pid}-${crypto.randomUUID()}`,
      );
      this.offset = target.offset ?? 0;
      const there = statSync(this.#path, { throwIfNoEntry: false });
      this.isPlain = there === undefined || there.isFile();
      if (!this.isPlain || target.offset !== undefined) {
        this.#way = "in place";
        this.#isNew = there === undefined;
        this.fd = openInPlace(this.#path, this.isPlain, this.#isNew);
        this.#lockInPlace();
        return;
      }
      if (there) refuseWritten(this.#path);
      removeLeftovers(this.#path);
      const nameless = openNameless(dirname(this.#path));
      this.#way = nameless < 0 ? "beside" : "nameless";
      this.fd = nameless < 0 ? openSync(this.#temporary, "wx+", PRIVATE) : nameless;
      tryLock(this.fd, "exclusive"); // as long as somebody has it open, it is nobody's leftover
      if (there) keepRights(this.fd, there);
    } catch (error) {
      if (error instanceof TramError) throw error;
      const name = "fd" in target ? `fd:${target.fd}` : target.path;
      throw new TramError("E_FILE", `cannot write ${name}: ${reasonOf(error)}`, {
        next: "check that the folder exists and may be written to",
      });
    }
  }

  /** Nobody reads or writes it meanwhile who would mind. */
  #lockInPlace(): void {
    if (!this.isPlain || tryLock(this.fd, "exclusive")) return;
    closeSync(this.fd);
    throw new TramError(
      "E_REFUSED",
      `${this.#path} is in use: another tram writes it, or a guest was restored from it`,
      {
        expected: "a file that nobody has open",
        next: "write to another name, or without offset=: then the file is replaced, and whoever has it open keeps the old one",
      },
    );
  }

  /** Others find it, whether or not its name outlasts a power cut: only a person can tell what became of it. */
  get isNamed(): boolean {
    return this.#isNamed;
  }

  #size = { fileBytes: 0, allocatedBytes: 0 };

  /** When it was committed. */
  get size(): { fileBytes: number; allocatedBytes: number } {
    return this.#size;
  }

  /** On disk, under its name. */
  commit(): void {
    try {
      if (this.isPlain) fsyncSync(this.fd);
      const { size, blocks } = fstatSync(this.fd);
      this.#size = { fileBytes: size, allocatedBytes: blocks * 512 };
      if (this.#way !== "in place") this.#giveName();
      closeSync(this.fd);
    } catch (error) {
      if (this.#way !== "in place") rmSync(this.#temporary, { force: true });
      if (error instanceof TramError) throw error;
      throw new TramError("E_FILE", `cannot make ${this.#path} durable: ${reasonOf(error)}`, {
        next: "is its disk full, or failing?",
      });
    }
  }

  /** Where nothing is to be replaced, the name is given at once: there is no moment with another one. */
  #giveName(): void {
    const isFree = this.#way === "nameless" && net.tryLink(this.fd, this.#path);
    if (!isFree) {
      if (existsSync(this.#path)) refuseWritten(this.#path); // a guest may have taken it for its disk meanwhile
      if (this.#way === "nameless") net.link(this.fd, this.#temporary);
      renameSync(this.#temporary, this.#path);
    }
    this.#isNamed = true;
    const folder = openSync(dirname(this.#path), "r");
    fsyncSync(folder);
    closeSync(folder);
  }

  /** As if it had never been begun. */
  discard(): void {
    closeSync(this.fd);
    if (this.#way !== "in place") rmSync(this.#temporary, { force: true });
    else if (this.#isNew) rmSync(this.#path, { force: true });
  }
}

/** O_ACCMODE. */
const ACCESS_MODES = 3;

/** Somebody writes to it, and would go on doing so without a name: a guest whose disk it is. Who only reads keeps the old one. */
function refuseWritten(path: string): void {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return; // one that may not be read may be replaced
  }
  try {
    if (tryLock(fd, "shared")) return;
  } finally {
    closeSync(fd);
  }
  throw new TramError("E_REFUSED", `${path} is in use: it is a guest's disk, or another tram writes it`, {
    expected: "a name that is free, or a file to which nobody writes",
    next: "write to another name",
  });
}

/** What is left of a tram that was killed before its file had its name: nobody holds the lock any more. */
function removeLeftovers(path: string): void {
  const folder = dirname(path);
  const prefix = temporaryPrefix(path);
  for (const name of readdirSync(folder).filter((one) => one.startsWith(prefix))) {
    const leftover = join(folder, name);
    try {
      const fd = openSync(leftover, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      if (net.fdType(fd) === "file" && tryLock(fd, "exclusive")) rmSync(leftover, { force: true });
      closeSync(fd);
    } catch {
      // It is somebody else's, or has just gone.
    }
  }
}

/** A device or a pipe is written as it is; a pipe that nobody reads is an error, and not waited for. */
function openInPlace(path: string, isPlain: boolean, isNew: boolean): number {
  if (isPlain) return openSync(path, isNew ? "wx+" : "r+", PRIVATE);
  return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
}

/** The file that a symbolic link stands for: the link stays. One that points to nothing is more likely a disk not mounted. */
function behindLinks(path: string): string {
  if (existsSync(path)) return realpathSync(path);
  if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink())
    throw new TramError("E_FILE", `${path} is a symbolic link to nothing`, {
      expected: "a file, or a name that is free",
      found: readlinkSync(path),
      next: "is its disk mounted? else remove the link",
    });
  return path;
}

/** What replaces a file is as open to others as that was. */
function keepRights(fd: number, { mode, uid, gid }: Stats): void {
  fchmodSync(fd, mode & 0o777);
  try {
    fchownSync(fd, uid, gid);
  } catch {
    fchmodSync(fd, PRIVATE); // it cannot be the same owner's: then it is ours alone
  }
}

/** What the names of files begin with that are on their way to be `path`; a process number and more follow. A name has 255 bytes. */
export const temporaryPrefix = (path: string): string => `.${[...basename(path)].slice(0, 50).join("")}.tram-`;

/**
 * One that appends: Linux writes behind the end of such a file, whatever place is asked for. One that only reads: it is opened
 * again, and whoever said < has not said that the file may be changed.
 */
function refuseUnfit(fd: number): void {
  const info = readFileSync(`/proc/self/fdinfo/${fd}`, "utf8");
  const flags = Number.parseInt(/^flags:\s*([0-7]+)$/m.exec(info)?.[1] ?? "0", 8);
  if ((flags & ACCESS_MODES) === constants.O_RDONLY)
    throw new TramError("E_USAGE", `descriptor ${fd} was opened for reading only`, {
      next: `use ${fd}<> instead of ${fd}<, or give the file's path`,
    });
  if (flags & constants.O_APPEND)
    throw new TramError(
      "E_USAGE",
      `descriptor ${fd} was opened for appending, and pages have their places in the file`,
      {
        next: "use > instead of >>, or file:PATH,offset=N to write behind what a file has",
      },
    );
}

/** Some pages are read again before they are written: a shell's > gives a descriptor that only writes. */
function readable(fd: number): number {
  try {
    return openSync(`/proc/self/fd/${fd}`, "r+");
  } catch {
    return net.duplicate(fd);
  }
}

/** Where the description of a descriptor stands: a shell's redirection may have written before us. */
function positionOf(fd: number): number {
  return Number(/^pos:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? 0);
}

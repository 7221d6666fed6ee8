// Files as commands are given them: PATH, file:PATH[,offset=N], fd:N, or - for standard output.
import { accessSync, constants, existsSync, type Stats, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { reasonOf, TramError } from "../errors.ts";
import { net } from "../native/net.ts";
import type { FileTarget } from "../writer/output-file.ts";
import { parseSize } from "./units.ts";

export const FILE_FORMS = "PATH, file:PATH[,offset=N], fd:N or -";

/** "0x1234", "4k", "4096": as QEMU writes an offset. */
function parseOffset(text: string): number {
  return /^0x[0-9a-f]+$/i.test(text) ? Number(text) : parseSize(text, "offset=");
}

export interface FileSpec {
  path: string | null;
  fd: number | null;
  offset: number | null;
}

export function parseFile(text: string, standard: 0 | 1): FileSpec {
  if (text === "-") return { path: null, fd: standard, offset: null };
  const numbered = /^fd:([0-9]{1,9})$/.exec(text);
  if (numbered) return { path: null, fd: Number(numbered[1]), offset: null };
  if (!text.startsWith("file:")) return { path: nonEmpty(text, text), fd: null, offset: null };
  const match = /^file:(.*?)(?:,offset=([^,]*))?$/.exec(text) as RegExpExecArray;
  if (match[1].includes(",offset=")) throw new TramError("E_USAGE", `${text}: two offsets`, { expected: FILE_FORMS });
  return { path: nonEmpty(match[1], text), fd: null, offset: match[2] === undefined ? null : parseOffset(match[2]) };
}

function nonEmpty(path: string, text: string): string {
  if (path !== "") return path;
  throw new TramError("E_USAGE", `'${text}' names no file`, { expected: FILE_FORMS });
}

/** null: there is none; also where what the path goes through is no folder. */
export const statOf = (path: string): Stats | null => (existsSync(path) ? statSync(path) : null);

/** Where a file with fixed offsets goes: what cannot be written at any place is refused before anything is read. */
export function fileTarget(text: string): FileTarget {
  const { path, fd, offset } = parseFile(text, 1);
  if (path !== null) {
    const there = statOf(path);
    if (there && !there.isFile())
      throw new TramError("E_USAGE", `${path}: pages have fixed places in this file, so it must be a regular one`, {
        expected: "a regular file, or none yet",
        found: there.isDirectory()
          ? "a folder"
          : there.isFIFO()
            ? "a pipe"
            : there.isSocket()
              ? "a socket"
              : "a device",
      });
    if (!there) checkFolder(path);
    return offset === null ? { path } : { path, offset };
  }
  const type = net.fdType(fd as number);
  if (type !== "file")
    throw new TramError("E_USAGE", `${text}: pages have fixed places in this file, so it must be a regular one`, {
      expected: "a path, or a regular file by redirection",
      found: `a ${type === "other" ? "device" : type}`,
      next: "give a path; to pass the stream on as it comes, a pipe needs no tram",
    });
  return { fd: fd as number };
}

/** Before a guest is told to send, and before anybody waits for one. */
function checkFolder(path: string): void {
  const folder = dirname(resolve(path));
  const next = "check that the folder exists and may be written to";
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new TramError("E_FILE", `cannot write ${path}: ${reasonOf(error)}`, { where: folder, next });
  }
  if (!statSync(folder).isDirectory())
    throw new TramError("E_FILE", `cannot write ${path}: ${folder} is no folder`, { next });
}

/** What is wrong at a byte of the stream is wrong at that byte of this file. */
export function locatedIn<T extends { where?: string }>(file: string, problem: T): T {
  const { where } = problem;
  return where?.endsWith(" of the stream") ? { ...problem, where: where.replace(/the stream$/, file) } : problem;
}

/** Reads of `file`: errors say so. */
export function inFile<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof TramError)) throw error;
    throw new TramError(error.code, error.message, locatedIn(file, error.details));
  }
}

/** What is read may not be what is written: it would be gone before it was read, or change its kind unasked. */
export function refuseSameFile(from: string, to: string): void {
  const [one, other] = [parseFile(from, 0), parseFile(to, 1)].map(({ path, fd }) =>
    statOf(path ?? `/proc/self/fd/${fd}`),
  );
  if (one?.isFile() && other && one.dev === other.dev && one.ino === other.ino)
    throw new TramError("E_USAGE", `${from} and ${to} are the same file`, {
      next: "write to another, and rename it when you have looked at it",
    });
}

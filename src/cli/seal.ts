// tram seal: hashes a file that has no seal, and adds one. What is in the file before is never written to.
import { closeSync, constants, existsSync, fstatSync, openSync } from "node:fs";
import { EXIT, formatError, TramError, toErrorData } from "../errors.ts";
import { examineToSeal, type HashedStream, hashToSeal } from "../inspect/sealing.ts";
import { setLength, tryLock } from "../native/file.ts";
import { net } from "../native/net.ts";
import type { MappedFile } from "../reader/mapped.ts";
import { besidePath, hex } from "../reader/seal.ts";
import { alignSeal, layOutSeal, SEAL_FOOTER_BYTES } from "../stream/seal.ts";
import { OutputFile } from "../writer/output-file.ts";
import { writeSeal } from "../writer/seal.ts";
import { command } from "./command.ts";
import { print, say } from "./console.ts";
import { locatedIn, parseFile } from "./file-target.ts";
import { CHANNELS_OPTION, HashCrew } from "./hashing.ts";
import { exitOf } from "./report.ts";
import { formatBytes, formatCount, formatMs, formatRate } from "./units.ts";

export const seal = command({
  name: "seal",
  summary: "adds hashes to a file with fixed offsets, by which tram verify finds accidents; it does not find forgers",
  args: {
    file: {
      type: "positional",
      description:
        "a file with fixed offsets, QEMU's or tram's: PATH or file:PATH,offset=N, and nothing behind the stream",
      required: true,
      names: "file",
    },
    sidecar: { type: "boolean", description: "leaves the file as it is: the seal goes into FILE.seal" },
    channels: CHANNELS_OPTION,
    force: { type: "boolean", description: "replaces the seal that there is, also one that is damaged or not whole" },
  },
  examples: [
    "tram seal vm.mapped && tram verify vm.mapped",
    "tram seal vm.mapped --sidecar",
    "tram seal vm.tram --force",
  ],
  async run(args) {
    const { path, offset } = parseFile(args.file, 0);
    if (path === null)
      throw new TramError("E_USAGE", "a file is sealed by its name", { expected: "PATH or file:PATH,offset=N", found: args.file }); // biome-ignore format: one line
    const beside = args.sidecar === true;
    const crew = new HashCrew(args.channels, "hashing", true);
    const fd = openLocked(path, beside);
    try {
      const [began, before] = [performance.now(), stateOf(fd)];
      const { file, problems, notes } = examineToSeal({ path, fd, offset }, { force: args.force === true, beside });
      for (const note of notes) say(`note: ${note}`);
      for (const problem of problems) say(formatError(locatedIn(args.file, problem)));
      if (!file || problems.length) return exitOf(problems);
      const sealed = await hashToSeal(file, beside ? (end) => end : alignSeal, crew.hash);
      if (stateOf(fd) !== before)
        throw new TramError("E_FILE", `${path} was written to while it was hashed: it is not sealed`, {
          next: "wait until whoever writes it has ended",
        });
      crew.checkInterrupted();
      const root = beside ? writeBeside(path, sealed) : append(fd, path, sealed);
      print(report(args.file, path, beside, file, sealed, root, performance.now() - began));
      return EXIT.done;
    } finally {
      crew.end();
      closeSync(fd);
    }
  },
});

/**
 * Nobody else writes it meanwhile, and nobody runs from it. That is asked before it is opened for writing, which a guest that was
 * restored from it would take for a change of its memory.
 */
function openLocked(path: string, beside: boolean): number {
  const fd = openNow(path, constants.O_RDONLY);
  if (net.fdType(fd) !== "file")
    throw new TramError("E_USAGE", `${path} cannot be sealed`, { expected: "a regular file" });
  lock(fd, path, beside);
  if (beside) return fd;
  closeSync(fd);
  const writable = openNow(path, constants.O_RDWR);
  lock(writable, path, beside);
  return writable;
}

/** Nothing is waited for. */
function openNow(path: string, access: number): number {
  try {
    return openSync(path, access | constants.O_NONBLOCK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const onlyRead = access !== constants.O_RDONLY && ["EACCES", "EPERM", "EROFS"].includes(code ?? "");
    throw new TramError("E_FILE", `cannot open ${path}: ${message}`, {
      next: onlyRead ? "the seal of a file that may only be read can be beside it: --sidecar" : undefined,
    });
  }
}

function lock(fd: number, path: string, beside: boolean): void {
  if (tryLock(fd, beside ? "shared" : "exclusive")) return;
  throw new TramError("E_REFUSED", `${path} is in use: another tram writes it, or a guest was restored from it`, {
    next: beside ? "wait until it is written" : "wait until it is free, or leave the file as it is: --sidecar",
  });
}

function stateOf(fd: number): string {
  const { size, mtimeNs } = fstatSync(fd, { bigint: true });
  return `${size} bytes, ${mtimeNs}`;
}

/** In the file, and on disk; or the file ends where its stream does. */
function append(fd: number, path: string, sealed: HashedStream): bigint {
  const { streamEnd } = sealed;
  try {
    if (fstatSync(fd).size > streamEnd) setLength(fd, streamEnd);
    const root = writeSeal(fd, alignSeal(streamEnd), sealed, () => net.sync(fd));
    net.sync(fd);
    return root;
  } catch (error) {
    const { message, next } = toErrorData(error);
    throw new TramError("E_FILE", `${path} is not sealed: ${message}`, { next: cutBack(fd, streamEnd) ?? next });
  }
}

/** What to do where that fails, too. */
function cutBack(fd: number, streamEnd: number): string | null {
  try {
    setLength(fd, streamEnd);
    return null;
  } catch {
    return `the seal that was begun cannot be removed either: tram seal --force when the disk is well again, or truncate -s ${streamEnd}`;
  }
}

function writeBeside(path: string, sealed: HashedStream): bigint {
  const output = new OutputFile({ path: besidePath(path) });
  try {
    const root = writeSeal(output.fd, output.offset, sealed);
    output.commit();
    return root;
  } catch (error) {
    output.discard();
    throw error;
  }
}

function report(
  name: string,
  path: string,
  beside: boolean,
  { blocks }: MappedFile,
  { streamEnd, staleCount }: HashedStream,
  root: bigint,
  elapsedMs: number,
): string {
  const all = blocks.reduce((sum, { bytes }) => sum + bytes, 0);
  const present = blocks.reduce((sum, block) => sum + block.present.count(), 0);
  const bytes = layOutSeal(blocks).footer + SEAL_FOOTER_BYTES;
  const rows = [
    [
      "seal",
      `root ${hex(root)}, ${formatBytes(bytes)} ${beside ? `in ${besidePath(path)}` : `from byte ${alignSeal(streamEnd)} on`}`,
    ],
    ["pages", `${formatCount(present)} with content, ${formatCount(all / 4096 - present)} zero${staleCount ? `, of which ${formatCount(staleCount)} have old bytes in the file, hashed as well` : ""}`], // biome-ignore format: one row
    ["bytes", `${formatBytes(all)} in ${formatMs(elapsedMs)}, ${formatRate((all * 1000) / Math.max(1, elapsedMs))}`],
  ];
  if (!beside && existsSync(besidePath(path)))
    rows.push(["note", `${besidePath(path)} is of no use any more: a seal in the file itself is looked at first`]);
  return `${name}: sealed, and on disk\n${rows.map(([row, text]) => `  ${row.padEnd(9)} ${text}`).join("\n")}`;
}

// A guest out of a snapshot, in this process: behind tram restore and tram run --incoming file:.
import { openSync } from "node:fs";
import { checkFit } from "../control/fit.ts";
import { beginRestore, type RestoreMode } from "../control/restore.ts";
import { reasonOf, TramError } from "../errors.ts";
import type { EmptyVm, HostParts } from "../machine/machine.ts";
import { restoredRam, restoreMachine } from "../machine/restore.ts";
import type { TrackingWish } from "../machine/tracking.ts";
import { BUFFERED, chooseDirect, DIRECT_MODES, type DirectMode, lease, tryLock } from "../native/file.ts";
import { net } from "../native/net.ts";
import { openUserfaultfd } from "../native/uffd.ts";
import { SnapshotFile } from "../reader/snapshot.ts";
import { SMALL_BUFFER_BYTES, TransportSource } from "../reader/source.ts";
import { type CpuidEntry, isTwin, MACHINE_NAME } from "../stream/devices/machine.ts";
import { HELLO_VERSION } from "../stream/return-path.ts";
import { decodeHeader } from "../stream/section.ts";
import { CAPABILITY_MAPPED_RAM } from "../stream/wire.ts";
import { FileTransport } from "../transport/file.ts";
import { say } from "./console.ts";
import { DIRECT_CHOICES, parseDirect } from "./direct.ts";
import { type FileSpec, statOf } from "./file-target.ts";
import type { GuestProcess } from "./guest-process.ts";
import { formatBytes, formatMany, formatMs, parseCount } from "./units.ts";

const VERIFY = ["lazy", "first", "off"] as const;

export const RESTORE_ARGS = {
  lazy: { type: "boolean", description: "snapshot: the file is the guest's memory, and read while it runs (default)" },
  eager: { type: "boolean", description: "read all of it before the guest runs" },
  verify: {
    type: "string",
    description:
      "compare pages with the file's hashes: lazy (while it runs), first (before it sees them) or off (default lazy)",
    valueHint: "WHEN",
    values: VERIFY,
  },
  noPrefetch: { type: "boolean", description: "do not read ahead: only what the guest touches" },
  channels: { type: "string", description: "eager: threads that read (default 2)", valueHint: "N" },
  directIo: {
    type: "string",
    description: `eager: past the page cache: ${DIRECT_CHOICES} (default auto)`,
    valueHint: "MODE",
    values: DIRECT_MODES,
  },
} as const;

export interface RestoreOptions {
  mode: RestoreMode;
  /** Compare with the hashes. */
  verify: boolean;
  /** The user said so: a file without hashes is refused. */
  verifyAsked: boolean;
  prefetch: boolean;
  channels: number;
  direct: DirectMode;
}

const CHANNELS_MAX = 64;

export function restoreOptions(args: {
  lazy?: boolean;
  eager?: boolean;
  verify?: string;
  noPrefetch?: boolean;
  channels?: string;
  directIo?: string;
}): RestoreOptions {
  const when = VERIFY.find((one) => one === (args.verify ?? "lazy"));
  if (!when) throw new TramError("E_USAGE", `--verify: '${args.verify}' is not known`, { expected: VERIFY.join(", ") });
  if (args.eager && args.lazy) throw new TramError("E_USAGE", "--lazy and --eager exclude each other");
  const eager = args.eager === true;
  if (eager && when === "first")
    throw new TramError("E_USAGE", "--eager checks everything before the guest runs", {
      next: "leave --verify first out",
    });
  const eagerOnly = args.channels !== undefined ? "--channels" : args.directIo !== undefined ? "--direct-io" : null;
  if (!eager && eagerOnly)
    throw new TramError(
      "E_USAGE",
      `${eagerOnly} is for --eager: else pages come as the guest, or one thread, reads them`,
    );
  if (eager && args.noPrefetch) throw new TramError("E_USAGE", "--eager reads everything: --no-prefetch is for --lazy");
  return {
    mode: eager ? "eager" : when === "first" ? "first" : "lazy",
    verify: when !== "off",
    verifyAsked: args.verify !== undefined && when !== "off",
    prefetch: !args.noPrefetch,
    channels: args.channels === undefined ? 2 : parseCount(args.channels, "--channels", 1, CHANNELS_MAX),
    direct: parseDirect(args.directIo),
  };
}

/** The file, for as long as this process lives: nobody writes to it in place who asks first. */
export function openSnapshot(spec: FileSpec): { file: FileTransport; offset: number } {
  const name = spec.path ?? (spec.fd === 0 ? "standard input" : `fd:${spec.fd}`);
  let fd: number;
  try {
    fd = openSync(spec.path ?? `/proc/self/fd/${spec.fd}`, "r");
  } catch (error) {
    throw new TramError("E_FILE", `cannot read ${name}: ${reasonOf(error)}`);
  }
  if (net.fdType(fd) !== "file")
    throw new TramError("E_USAGE", `${name}: a guest is restored from a regular file, where each page has its place`, {
      next: "tram run --incoming takes a stream from a pipe or socket",
    });
  if (!tryLock(fd, "shared"))
    throw new TramError("E_REFUSED", `${name} is in use: another tram writes it, or it is a guest's disk`, {
      expected: "a file to which nobody writes",
      next: "wait until that has ended",
    });
  return { file: new FileTransport(fd, name), offset: spec.offset ?? 0 };
}

/** By its header: a regular file with fixed offsets, of a machine of ours. */
export function isOurSnapshot(spec: FileSpec): boolean {
  const path = spec.path ?? `/proc/self/fd/${spec.fd}`;
  if (!statOf(path)?.isFile()) return false;
  const file = FileTransport.open(path);
  try {
    file.seek(spec.offset ?? 0);
    const { machine, capabilities } = decodeHeader(new TransportSource(file, spec.offset ?? 0, SMALL_BUFFER_BYTES));
    return machine === MACHINE_NAME && capabilities.includes(CAPABILITY_MAPPED_RAM);
  } catch (error) {
    if (error instanceof TramError) return false; // whoever reads it all says what is wrong
    throw error;
  } finally {
    file.close();
  }
}

/** Everything that can be refused, before anything of the guest is made. */
export function readSnapshot(
  file: FileTransport,
  offset: number,
  options: RestoreOptions,
  wanted: { memoryBytes: number | null; cpus: number | null; cpuid: CpuidEntry[] },
): SnapshotFile {
  const snapshot = new SnapshotFile(file, offset);
  checkFit(snapshot.description, { version: HELLO_VERSION, name: "", ...wanted });
  if (!snapshot.seal && options.verifyAsked)
    throw new TramError("E_REFUSED", `${file.name} has no hashes to compare its pages with`, {
      next: `tram seal ${file.name} adds them, if you trust it as it is; or --verify off`,
    });
  return snapshot;
}

/** Makes the guest and lets it run, or stay paused. Its vCPUs' threads are started, or are starting. */
export async function restoreGuest(
  guest: GuestProcess,
  snapshot: SnapshotFile,
  { within, ...parts }: { within: EmptyVm | TrackingWish } & HostParts,
  name: string,
  options: RestoreOptions,
  paused: boolean,
): Promise<void> {
  const { file, seal, runState, description } = snapshot;
  const verify = options.verify && seal !== null;
  // Without KVM only memory of its own can be tracked.
  const mode = isTwin(description) ? "eager" : options.mode === "first" && !verify ? "lazy" : options.mode;
  const leased = mode === "lazy" && lease.take(file.fd);
  const ram = restoredRam(snapshot, mode);
  const direct = mode === "eager" ? chooseDirect(file.fd, options.direct, false) : { ...BUFFERED, fallback: null };
  const load = {
    mode,
    verify,
    prefetch: options.prefetch,
    leased,
    snapshot,
    ram: ram.share(),
    direct,
    faultFd: mode === "first" ? openUserfaultfd() : -1,
    channels: mode === "eager" ? options.channels : 1,
  };
  // Whoever looks before a loader's first word must not take what has not come for memory that nobody has written to.
  if (mode !== "eager") {
    const what = { file: file.name, mode, verify, totalPages: snapshot.block.present.count(), held: leased };
    guest.board.writeRestore(beginRestore(what, options.prefetch));
  }
  if (mode !== "lazy") await guest.load(load); // eager: all is there; first: whoever touches a page gets it
  const handles = restoreMachine(snapshot, ram, name, guest.board, within, parts);
  const run = !paused && runState === "running";
  guest.start(handles, run);
  const inMs = formatMs(performance.now());
  if (mode === "lazy") await guest.load(load);
  const { cpus, memoryBytes } = description;
  const state = run ? "runs" : "is paused";
  say(
    `guest '${name}' ${state}: ${formatBytes(memoryBytes)}, ${formatMany(cpus, "CPU")}, from ${file.name} in ${inMs}`,
  );
  if (options.verify && !seal) say(`${file.name} has no hashes: its pages are not checked (tram seal adds them)`);
  if (direct.fallback) say(`pages came through the page cache: ${direct.fallback}`);
  if (mode === "lazy" && !leased)
    say(`${file.name} can be changed beneath the guest: its file system or another user of it allows no lease`);
}

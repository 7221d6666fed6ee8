// Where a stream that is looked at comes from, and what kind of thing it is by its first bytes.
import { closeSync, fstatSync, openSync } from "node:fs";
import { type ErrorData, reasonOf, TramError, toErrorData } from "../errors.ts";
import { net } from "../native/net.ts";
import { sealAtEnd } from "../reader/mapped.ts";
import type { Seal } from "../reader/seal.ts";
import { decodeLibvirtHeader, LIBVIRT_HEADER_BYTES, type LibvirtHeader } from "../stream/libvirt.ts";
import { MULTIFD_MAGIC } from "../stream/wire.ts";
import { FdTransport } from "../transport/fd.ts";
import { FileTransport } from "../transport/file.ts";
import type { Transport } from "../transport/transport.ts";

/** What is to be opened. With both, `fd` is open for `path` already, and is taken over. */
export interface InputSpec {
  path: string | null;
  fd: number | null;
  offset: number | null;
}

export interface StreamInput {
  name: string;
  /** A regular file can be read from anywhere. */
  file: FileTransport | null;
  transport: Transport;
  /** Where the stream begins. */
  offset: number;
  bytes: number | null;
  kind: "main" | "channel";
  libvirt: LibvirtHeader | null;
  /** The hashes at a file's end, and what is wrong with them. */
  seal: Seal | null;
  sealProblem: ErrorData | null;
}

/** Opens a path or a descriptor; a libvirt image's header is passed over. */
export function openInput(spec: InputSpec): StreamInput {
  const name = spec.path ?? (spec.fd === 0 ? "standard input" : `fd:${spec.fd}`);
  const fd = spec.path === null ? net.duplicate(spec.fd as number) : (spec.fd ?? openPath(spec.path));
  if (!fstatSync(fd).isFile()) return pipeInput(fd, name);
  const file = new FileTransport(fd, name, spec.offset ?? 0);
  const first = new Uint8Array(LIBVIRT_HEADER_BYTES);
  const count = readFirst(file, first, spec.offset ?? 0);
  const libvirt = decodeLibvirtHeader(first.subarray(0, count));
  const offset = (spec.offset ?? 0) + (libvirt?.streamOffset ?? 0);
  file.seek(offset);
  const isChannel = count >= 4 && new DataView(first.buffer).getUint32(0) === MULTIFD_MAGIC;
  const kind = isChannel ? "channel" : "main";
  return { name, file, transport: file, offset, bytes: file.bytes, kind, libvirt, ...sealOf(file) };
}

/** What the disk does not give is told of by whoever reads the stream; the rest of the file can be looked at. */
function readFirst(file: FileTransport, first: Uint8Array, offset: number): number {
  try {
    return file.readAt(first, offset);
  } catch {
    return 0;
  }
}

/** A damaged seal does not keep anybody from looking at the stream before it. */
function sealOf(file: FileTransport): Pick<StreamInput, "seal" | "sealProblem"> {
  try {
    return { seal: sealAtEnd(file), sealProblem: null };
  } catch (error) {
    if (!(error instanceof TramError)) throw error;
    return { seal: null, sealProblem: toErrorData(error) };
  }
}

function openPath(path: string): number {
  try {
    const fd = openSync(path, "r");
    if (!fstatSync(fd).isDirectory()) return fd;
    closeSync(fd);
  } catch (error) {
    throw new TramError("E_FILE", `cannot read ${path}: ${reasonOf(error)}`);
  }
  throw new TramError("E_FILE", `${path} is a folder`, { expected: "a file with a migration stream" });
}

/** A pipe gives its bytes once: what was looked at is put back in front. */
function pipeInput(fd: number, name: string): StreamInput {
  const inner = new FdTransport(fd, { name, stop: new Int32Array(new SharedArrayBuffer(4)), silenceMs: 0 });
  const first = new Uint8Array(LIBVIRT_HEADER_BYTES);
  let count = 0;
  while (count < first.length) {
    const got = inner.read(first.subarray(count), -1);
    if (got === 0) break;
    count += got;
  }
  const libvirt = decodeLibvirtHeader(first.subarray(0, count));
  let left = libvirt ? libvirt.streamOffset - count : 0;
  for (const piece = new Uint8Array(65536); left > 0; ) {
    const got = inner.read(piece.subarray(0, Math.min(left, piece.length)), -1);
    if (got === 0) break;
    left -= got;
  }
  let held = libvirt ? new Uint8Array(0) : first.subarray(0, count);
  const transport: Transport = {
    name,
    twoWay: false,
    write: () => undefined,
    drain: () => true,
    close: () => inner.close(),
    read(out) {
      if (held.length === 0) return inner.read(out, -1);
      const got = Math.min(held.length, out.length);
      out.set(held.subarray(0, got));
      held = held.subarray(got);
      return got;
    },
  };
  const isChannel = count >= 4 && new DataView(first.buffer).getUint32(0) === MULTIFD_MAGIC;
  return {
    name,
    file: null,
    transport,
    offset: libvirt?.streamOffset ?? 0,
    bytes: null,
    kind: isChannel ? "channel" : "main",
    libvirt,
    seal: null,
    sealProblem: null,
  };
}

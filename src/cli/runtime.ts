// The runtime folder: where a user's guests have their sockets, and how a guest is found by its name.
import { existsSync, mkdirSync, readdirSync, rmSync, type Stats, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { reasonOf, TramError } from "../errors.ts";
import { errnoName } from "../native/errno.ts";
import { net } from "../native/net.ts";
import { SOCKET_PATH_BYTES_MAX } from "../transport/address.ts";

const SUFFIX = ".qmp";
const LOG_SUFFIX = ".log";
const VSOCK_SUFFIX = ".vsock";
const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

const userId = (): number => process.getuid?.() ?? 0;

/** $XDG_RUNTIME_DIR/tram, else /run/user/UID/tram, else a folder of this user's under the temporary one. */
function runtimePath(): string {
  const given = process.env.XDG_RUNTIME_DIR;
  const own = `/run/user/${userId()}`;
  if (given && isAbsolute(given)) return join(given, "tram"); // the XDG specification: a relative one is ignored
  return isFolder(own) ? join(own, "tram") : join(tmpdir(), `tram-${userId()}`);
}

/** Makes the runtime folder if it is not there, and checks that it is this user's alone. */
export function runtimeFolder(): string {
  const uid = userId();
  const folder = runtimePath();
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const { uid: owner, mode } = statSync(folder);
    if (owner !== uid || (mode & 0o077) !== 0)
      throw new TramError("E_RUNTIME_FOLDER", `${folder} cannot be trusted`, {
        expected: `a folder of user ${uid} with mode 0700`,
        found: `owner ${owner}, mode 0${(mode & 0o777).toString(8)}`,
        next: "remove it, or set XDG_RUNTIME_DIR to a folder of yours",
      });
  } catch (error) {
    if (error instanceof TramError) throw error;
    throw new TramError("E_RUNTIME_FOLDER", `cannot make the runtime folder ${folder}: ${reasonOf(error)}`, {
      next: "set XDG_RUNTIME_DIR to a folder where you may write",
    });
  }
  return folder;
}

/** Null: there is nothing, or nothing that may be seen. */
export function statOrNull(path: string): Stats | null {
  try {
    return statSync(path);
  } catch {
    return null;
  }
}

const isFolder = (path: string): boolean => statOrNull(path)?.isDirectory() ?? false;

export const isName = (name: string): boolean => NAME_PATTERN.test(name);

export function checkName(name: string): string {
  if (!isName(name))
    throw new TramError("E_USAGE", `--name: '${name}' is no name for a guest`, {
      expected: "1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit",
    });
  return name;
}

export const socketPathOf = (name: string): string => join(runtimeFolder(), name + SUFFIX);

/** What a detached guest says: NAME.log beside NAME.qmp, and beside a socket of another folder PATH.log. */
export function logPathOf(socketPath: string): string {
  return besideOf(socketPath) + LOG_SUFFIX;
}

function besideOf(socketPath: string): string {
  const isOurs = dirname(socketPath) === runtimePath() && socketPath.endsWith(SUFFIX);
  return isOurs ? socketPath.slice(0, -SUFFIX.length) : socketPath;
}

/** Where a guest's sockets are reached: NAME.vsock beside NAME.qmp, and beside a socket of another folder PATH.vsock. */
export const vsockPathOf = (socketPath: string): string => besideOf(socketPath) + VSOCK_SUFFIX;

/** VM as users give it: a guest's name, or unix:PATH of a QMP socket. */
export function findSocket(vm: string): string {
  if (vm.startsWith("unix:")) return resolve(vm.slice(5));
  if (/[/:]/.test(vm))
    throw new TramError("E_USAGE", `'${vm}' is no guest`, {
      expected: "a guest's name, or unix:PATH of its QMP socket",
      next: vm.includes(":") ? "a monitor is reached by unix:PATH only" : `did you mean unix:${vm}?`,
    });
  const path = join(runtimePath(), checkName(vm) + SUFFIX);
  if (!existsSync(path) && statOrNull(vm)?.isSocket())
    throw new TramError("E_NO_SUCH_GUEST", `there is no guest '${vm}'`, {
      where: path,
      next: `did you mean unix:${vm}, the socket in this folder?`,
    });
  return path;
}

/** Nobody is behind this socket: it is not there, or is what a killed guest left. */
export function isGone(socketPath: string): boolean {
  const fd = net.tryConnectUnix(socketPath, 1000);
  if (fd >= 0) net.close(fd);
  return ["ENOENT", "ECONNREFUSED"].includes(errnoName(fd));
}

/** All of this user's guests that have a socket. */
export function guestNames(): string[] {
  if (!isFolder(runtimePath())) return [];
  return readdirSync(runtimeFolder())
    .filter((file) => file.endsWith(SUFFIX))
    .map((file) => file.slice(0, -SUFFIX.length))
    .sort();
}

/** The socket path for a new guest: refused while a live one has it, taken over from a dead one. */
export function claimSocket(path: string, name: string, given: boolean): number {
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_BYTES_MAX)
    throw new TramError("E_USAGE", `the QMP socket's path is too long: ${path}`, {
      expected: `at most ${SOCKET_PATH_BYTES_MAX} bytes`,
      found: `${bytes} bytes`,
      next: "use a shorter --name, --qmp or XDG_RUNTIME_DIR",
    });
  // Two that start at once: the folder's lock lets one look and bind at a time.
  let lock = -1;
  try {
    lock = net.lockFolder(dirname(path));
    const probe = net.tryConnectUnix(path, 1000);
    if (probe >= 0) {
      net.close(probe);
      if (given)
        throw new TramError("E_SOCKET_IN_USE", `the QMP socket ${path} is in use by a live guest`, {
          next: "choose another --qmp",
        });
      throw new TramError("E_NAME_IN_USE", `a guest named '${name}' runs already`, {
        next: `choose another --name, or end it: tram quit ${name}`,
      });
    }
    if (errnoName(probe) === "ECONNREFUSED") {
      if (!statSync(path).isSocket())
        throw new TramError("E_SOCKET_IN_USE", `${path} is there and is no socket`, { next: "choose another --qmp" });
      rmSync(path, { force: true });
    }
    return net.listenUnix(path);
  } finally {
    if (lock >= 0) net.close(lock);
  }
}

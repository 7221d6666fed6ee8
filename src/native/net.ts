// Sockets, pipes and descriptors: blocking calls that a stop word ends.
import { type ErrorDetails, peerSilent, TramError } from "../errors.ts";
import { check, cString, describeErrno, errnoName, u32 } from "./errno.ts";
import type { Ram } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** A word in shared memory; not zero: blocked calls end with E_CANCELLED. Whoever sets it also kicks the thread. */
export type StopWord = Int32Array;

const FD_TYPES = ["", "socket", "pipe", "file", "other"] as const;
export type FdType = "socket" | "pipe" | "file" | "other";

/** Throws the coded error for a failed call on a channel. */
export function channelFailed(result: number, what: string): never {
  const name = errnoName(result);
  if (name === "ECANCELED") throw new TramError("E_CANCELLED", "cancelled");
  if (name === "ETIMEDOUT") throw peerSilent(`${what}: the peer did not answer in time`);
  if (name === "EPIPE" || name === "ECONNRESET")
    throw new TramError("E_CHANNEL_CLOSED", `${what}: the other side has closed the connection`, {
      next: "its own output says why it ended",
    });
  throw new TramError("E_CHANNEL", `${what}: ${describeErrno(result)}`);
}

/** What became of looking a host's name up; null: it was found. */
function unresolved(name: string): (ErrorDetails & { why: string }) | null {
  if (name === "ENXIO")
    return {
      why: "no host of that name is known",
      next: "check the name: getent hosts NAME looks it up in the same way",
    };
  if (name === "EAGAIN")
    return { why: "the name could not be looked up just now", next: "give the address, or look at /etc/resolv.conf" };
  return null;
}

function connected(result: number, to: string): number {
  if (result >= 0) return result;
  const name = errnoName(result);
  const unknown = unresolved(name);
  if (unknown) throw new TramError("E_CONNECT", `cannot connect to ${to}: ${unknown.why}`, { next: unknown.next });
  if (name === "ECANCELED") throw new TramError("E_CANCELLED", "cancelled");
  const next =
    name === "ECONNREFUSED" || name === "ENOENT"
      ? "is a target waiting there? start it first: tram run --incoming URI, or QEMU with -incoming URI"
      : name === "ENAMETOOLONG"
        ? "a socket path has at most 107 bytes"
        : "check the address and that the host can be reached";
  throw new TramError("E_CONNECT", `cannot connect to ${to}: ${describeErrno(result)}`, { next });
}

export const net = {
  connectTcp(host: string, port: number, timeoutMs: number, stop: StopWord): number {
    const result = symbols.tram_connect_tcp(cString(host), cString(String(port)), timeoutMs, stop);
    return connected(result, `tcp:${host}:${port}`);
  },

  connectUnix(path: string, timeoutMs: number, stop: StopWord): number {
    return connected(symbols.tram_connect_unix(cString(path), timeoutMs, stop), `unix:${path}`);
  },

  /** Like connectUnix, with the plain result: a descriptor or -errno. */
  tryConnectUnix(path: string, timeoutMs: number): number {
    return symbols.tram_connect_unix(cString(path), timeoutMs, null);
  },

  listenTcp(host: string, port: number): number {
    const result = symbols.tram_listen_tcp(cString(host), cString(String(port)));
    const unknown = unresolved(errnoName(result));
    if (unknown)
      throw new TramError("E_LISTEN", `cannot listen on tcp:${host}:${port}: ${unknown.why}`, { next: unknown.next });
    return check(result, "E_LISTEN", `cannot listen on tcp:${host}:${port}`, {
      next: "choose another port or address",
    });
  },

  listenUnix(path: string): number {
    return check(symbols.tram_listen_unix(cString(path)), "E_LISTEN", `cannot listen on unix:${path}`, {
      next: "a socket path has at most 107 bytes, and its folder must exist and be writable",
    });
  },

  /** The local port of a TCP socket, or a negative number. */
  localPort: (fd: number): number => symbols.tram_port(fd),

  accept(fd: number, timeoutMs: number, stop: StopWord | null): number {
    const result = symbols.tram_accept(fd, timeoutMs, stop);
    return result >= 0 ? result : channelFailed(result, "waiting for a connection");
  },

  /** A waiting connection, or -errno: for a server that must outlive what happens at its door. */
  tryAccept: (fd: number): number => symbols.tram_accept(fd, 0, null),

  /** What every connected socket wants. */
  tune(fd: number): void {
    check(symbols.tram_tune(fd), "E_CHANNEL", "set socket options");
  },

  /** `timeoutMs`: of silence, in which the other side takes nothing; negative: as long as it likes. */
  write(
    fd: number,
    isSocket: boolean,
    data: Uint8Array,
    bytes: number,
    timeoutMs: number,
    stop: StopWord | null,
  ): void {
    const result = symbols.tram_write(fd, isSocket ? 1 : 0, data, bytes, timeoutMs, stop);
    if (result < 0) channelFailed(result, "sending");
  },

  /** See tram_write_pages in c/tram.h; returns the bytes written. */
  writePages(
    fd: number,
    isSocket: boolean,
    ram: Ram,
    head: Uint8Array,
    headBytes: number,
    words: Uint8Array,
    index: Uint32Array,
    count: number,
    iovMax: number,
    timeoutMs: number,
    stop: StopWord | null,
  ): number {
    const socket = isSocket ? 1 : 0;
    const result = symbols.tram_write_pages(
      fd,
      socket,
      ram.native,
      head,
      headBytes,
      words,
      index,
      count,
      iovMax,
      timeoutMs,
      stop,
    );
    return result >= 0 ? result : channelFailed(result, "sending pages");
  },

  /** What a socket has ready, not consumed: bytes, 0 at the end, or -errno. */
  peek: (fd: number, out: Uint8Array): number => symbols.tram_peek(fd, out, out.length),

  /** Reads at least one byte, or 0 at the end. */
  read(fd: number, out: Uint8Array, timeoutMs: number, stop: StopWord | null): number {
    const result = symbols.tram_read(fd, out, out.length, timeoutMs, stop);
    return result >= 0 ? result : channelFailed(result, "receiving");
  },

  /** One recvmsg that does not block: bytes (0 at the end, -errno) and passed descriptors. */
  receiveMessage(fd: number, out: Uint8Array): { bytes: number; fds: number[] } {
    const fds = new Int32Array(8);
    const count = new Uint32Array(1);
    const bytes = symbols.tram_receive_message(fd, out, out.length, fds, count);
    return { bytes, fds: [...fds.subarray(0, count[0])] };
  },

  /** One sendmsg that does not block: bytes or -errno. */
  sendMessage: (fd: number, data: Uint8Array, passFd = -1): number =>
    symbols.tram_send_message(fd, data, data.length, passFd),

  /** poll(2) over [fd, events] pairs; returns the revents, or null when interrupted or timed out. */
  poll(entries: readonly { fd: number; events: number }[], timeoutMs: number): number[] | null {
    const view = new DataView(new ArrayBuffer(entries.length * 8));
    entries.forEach((entry, i) => {
      view.setInt32(i * 8, entry.fd, true);
      view.setInt16(i * 8 + 4, entry.events, true);
    });
    const ready = symbols.tram_poll(new Uint8Array(view.buffer), entries.length, timeoutMs);
    return ready <= 0 ? null : entries.map((_, i) => view.getInt16(i * 8 + 6, true));
  },

  /** Bytes written to a socket that the other kernel has not yet acknowledged. */
  unsent: (fd: number): number => symbols.tram_unsent(fd),
  /** Which process has the other end of a unix socket, or listens there; null: it cannot be seen from here. */
  peerPid: (fd: number): number | null => {
    const pid = symbols.tram_peer_pid(fd);
    return pid > 0 ? pid : null;
  },
  shutdown: (fd: number, what: "writing" | "both" = "both"): number =>
    symbols.tram_shutdown(fd, what === "writing" ? 1 : 2),
  close: (fd: number): number => symbols.tram_close(fd),

  /** Two ends of one connection. */
  socketPair(): [number, number] {
    const fds = new Int32Array(2);
    check(symbols.tram_socket_pair(fds), "E_CHANNEL", "make a pair of sockets");
    return [fds[0], fds[1]];
  },

  pipe(): { read: number; write: number } {
    const fds = new Int32Array(2);
    check(symbols.tram_pipe(fds), "E_CHANNEL", "make a pipe");
    return { read: fds[0], write: fds[1] };
  },

  fdType(fd: number): FdType {
    const result = symbols.tram_fd_type(u32(fd, "descriptor"));
    if (result < 0)
      throw new TramError("E_ADDRESS", `descriptor ${fd} is not open: ${describeErrno(result)}`, {
        next: "open it in the shell, for example with 3<>FILE",
      });
    return FD_TYPES[result] as FdType;
  },

  duplicate: (fd: number): number => check(symbols.tram_duplicate(fd), "E_CHANNEL", `duplicate descriptor ${fd}`),
  lockFolder: (path: string): number => check(symbols.tram_lock_folder(cString(path)), "E_FILE", `lock ${path}`),
  /** Gives a file without a name one. */
  /** False: there is something of this name. */
  tryLink(fd: number, path: string): boolean {
    const result = symbols.tram_link(fd, cString(path));
    if (errnoName(result) !== "EEXIST") check(result, "E_FILE", `name the file ${path}`);
    return result >= 0;
  },

  link: (fd: number, path: string): number =>
    check(symbols.tram_link(fd, cString(path)), "E_FILE", `name the file ${path}`),
  sync: (fd: number): number => check(symbols.tram_sync(fd), "E_FILE", "sync the file to disk"),
};

export const POLL = { in: 1, out: 4, error: 8, hangup: 16, peerHangup: 0x2000 } as const;

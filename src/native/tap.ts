// A tap interface: a guest's network as a file of packets, which go between it and guest memory without a copy of ours.
import { readFileSync, writeSync } from "node:fs";
import { TramError } from "../errors.ts";
import type { RamPart } from "./disk.ts";
import { cString, describeErrno, errnoName, u32 } from "./errno.ts";
import type { Ram } from "./ram.ts";
import { symbols } from "./symbols.ts";

/** Before each packet: struct virtio_net_hdr with its count of buffers. */
export const PACKET_HEADER_BYTES = 12;

/** Of this process's network namespace, each before a colon; /sys may be another's. */
const INTERFACES = "/proc/self/net/dev";

const isThere = (name: string): boolean =>
  readFileSync(INTERFACES, "latin1")
    .split("\n")
    .some((line) => line.trim().startsWith(`${name}:`));

/** The descriptor. The kernel would make an interface that there is not, on which nobody listens. */
export function openTap(name: string): number {
  if (!isThere(name))
    throw new TramError("E_FILE", `there is no tap ${name}`, {
      next: `make one, and put it on a bridge: ip tuntap add ${name} mode tap user $USER; ip link set ${name} master BRIDGE up`,
    });
  const result = symbols.tram_tap_open(cString(name), PACKET_HEADER_BYTES);
  if (result >= 0) return result;
  const why = errnoName(result);
  const next =
    why === "EBUSY"
      ? "another guest has it: give this one a tap of its own"
      : why === "EPERM" || why === "EACCES"
        ? `make one that this user may open: ip tuntap add ${name} mode tap user $USER`
        : why === "EINVAL"
          ? "it is another kind of interface: a tap with one queue is wanted"
          : "is the tun module loaded?";
  throw new TramError("E_FILE", `cannot open the tap ${name}: ${describeErrno(result)}`, { next });
}

/** Of one packet, its header included: the bytes moved; null: there is none, or no room for it. */
function move(ram: Ram, fd: number, parts: readonly RamPart[], writing: number): number | null {
  const segments = Float64Array.from(parts.flatMap(({ offset, bytes }) => [offset, bytes]));
  const result = symbols.tram_packet_move(ram.native, fd, writing, segments, u32(parts.length, "count"));
  return result >= 0 ? result : null; // a network that is down loses packets
}

export const receivePacket = (ram: Ram, fd: number, into: readonly RamPart[]): number | null => move(ram, fd, into, 0);
export const sendPacket = (ram: Ram, fd: number, from: readonly RamPart[]): number | null => move(ram, fd, from, 1);

/** One that is not the guest's. */
export const sendFrame = (fd: number, frame: Uint8Array): void => {
  const packet = new Uint8Array(PACKET_HEADER_BYTES + frame.length);
  packet.set(frame, PACKET_HEADER_BYTES);
  try {
    writeSync(fd, packet);
  } catch {
    // The interface is down: nobody hears it, nor anything of the guest's.
  }
};

// What a stream tells of the machine it was: how its RAM lies, and the command line that would make another like it.
import type { DeviceSection } from "../stream/description.ts";

const GIB = 2 ** 30;

/** One run of guest-physical memory, and where it lies in the RAM block. */
export interface RamRange {
  gpa: number;
  offset: number;
  bytes: number;
}

export interface RamLayout {
  ranges: RamRange[];
  /** How the hole below 4 GiB was found: the stream does not say where RAM lies. */
  assumed: string;
}

/**
 * Where `bytes` of RAM lie in a machine's physical memory. QEMU's PCs keep room for devices below 4 GiB: with more RAM than
 * fits below, the rest begins at 4 GiB.
 */
export function ramLayout(machine: string, bytes: number): RamLayout {
  const [fitsBelow, keptBelow] = holeOf(machine);
  if (bytes <= fitsBelow)
    return {
      ranges: [{ gpa: 0, offset: 0, bytes }],
      assumed: `all ${bytes} bytes below 4 GiB, as ${machine} has them by default`,
    };
  return {
    ranges: [
      { gpa: 0, offset: 0, bytes: keptBelow },
      { gpa: 4 * GIB, offset: keptBelow, bytes: bytes - keptBelow },
    ],
    assumed: `${keptBelow / GIB} GiB below 4 GiB and the rest from 4 GiB on, as ${machine} has them by default`,
  };
}

/** The most that lies below 4 GiB in one piece, and how much does when there is more. */
function holeOf(machine: string): [number, number] {
  if (machine.includes("q35")) return [0xb0000000 - 1, 2 * GIB];
  if (machine.includes("i440fx") || machine.startsWith("pc")) return [0xe0000000 - 1, 3 * GIB];
  if (machine === "microvm" || machine === "tram") return [3 * GIB, 3 * GIB];
  return [Number.MAX_SAFE_INTEGER, 0];
}

/** The block that is the guest's main memory: the largest is, unless a device has more. */
export function mainBlock<T extends { name: string; bytes: number }>(blocks: readonly T[]): T | undefined {
  const known = blocks.find(({ name }) => ["pc.ram", "microvm.ram", "ram"].includes(name));
  return known ?? [...blocks].sort((a, b) => b.bytes - a.bytes)[0];
}

/** What is known of QEMU's arguments for a target of this guest. Devices are named as the stream names them. */
export function commandLine(
  machine: string,
  blocks: readonly { name: string; bytes: number }[],
  devices: readonly DeviceSection[],
): string[] {
  const ram = mainBlock(blocks);
  const cpus = devices.filter(({ name }) => name === "cpu").length;
  const names = blocks.length && ram && !["pc.ram", "microvm.ram", "ram"].includes(ram.name);
  const args = ["qemu-system-x86_64", `-M ${machine}`];
  if (names)
    args.push(`-object memory-backend-ram,id=${ram.name},size=${ram.bytes} -machine memory-backend=${ram.name}`);
  if (ram) args.push(`-m ${ram.bytes % 2 ** 20 ? `${ram.bytes / 1024}K` : `${ram.bytes / 2 ** 20}M`}`);
  if (cpus > 1) args.push(`-smp ${cpus}`);
  return args;
}

/** Devices on a bus, by their place: "0000:00:03.0/e1000". */
export const pluggedDevices = (devices: readonly DeviceSection[]): string[] =>
  [...new Set(devices.map(({ name }) => name).filter((name) => name.includes("/")))].sort();

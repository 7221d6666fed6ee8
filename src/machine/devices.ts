// The virtio devices of a machine, in the order of their sections: which there are, where the guest finds them, and what they are
// called in a stream.
import { balloon, console, disk, net, rng, vsock } from "../stream/devices/virtio.ts";
import type { State, Table } from "../stream/vmstate.ts";
import { BalloonDevice } from "./balloon.ts";
import type { Board, MachineHandles } from "./board.ts";
import { ConsoleDevice } from "./console.ts";
import { DiskDevice } from "./disk.ts";
import { NetDevice } from "./net.ts";
import { BALLOON_PLACE, CONSOLE_PLACE, diskPlace, NET_PLACE, type Place, RNG_PLACE, VSOCK_PLACE } from "./places.ts";
import { RngDevice } from "./rng.ts";
import type { VirtioMmio } from "./virtio/mmio.ts";
import { VsockDevice } from "./vsock.ts";

/** One thread's hand on a device. */
interface Device {
  readonly registers: VirtioMmio;
  /** While nothing runs. */
  save(recordsDisks: boolean): State;
  load(state: State): void;
}

export interface PlacedDevice {
  device: Device;
  place: Place;
  table: Table;
  instance: number;
  /** The vCPUs deal with its queues; else a thread of its own does. */
  isServed: boolean;
}

/** `put`: what the guest says on its console, for the vCPUs. */
export function devicesOf(board: Board, handles: MachineHandles, put?: (bytes: Uint8Array) => void): PlacedDevice[] {
  const rows: [Device | null, Place, Table, isServed: boolean][] = [
    [BalloonDevice.attach(board, handles), BALLOON_PLACE, balloon, true],
    [RngDevice.attach(board, handles), RNG_PLACE, rng, true],
    [VsockDevice.attach(board, handles), VSOCK_PLACE, vsock, false],
    [NetDevice.attach(board, handles), NET_PLACE, net, false],
    [ConsoleDevice.attach(board, handles, put), CONSOLE_PLACE, console, true],
  ];
  const disks = handles.disks.map((_, instance): PlacedDevice => {
    const device = new DiskDevice(board, handles, instance);
    return { device, place: diskPlace(instance), table: disk, instance, isServed: false };
  });
  const others = rows.flatMap(([device, place, table, isServed]) =>
    device ? [{ device, place, table, instance: 0, isServed }] : [],
  );
  return [...others, ...disks];
}

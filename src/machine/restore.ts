// A guest out of a snapshot: its machine and memory made, its devices loaded, nothing running yet.
import type { RestoreMode } from "../control/restore.ts";
import { TramError } from "../errors.ts";
import { planMapping } from "../memory/mapping.ts";
import { nextData } from "../native/file.ts";
import { PAGE_BYTES, Ram } from "../native/ram.ts";
import type { SnapshotFile } from "../reader/snapshot.ts";
import type { Board, MachineHandles } from "./board.ts";
import { MachineGuest } from "./guest.ts";
import { changeGeneration } from "./linux/generation.ts";
import { createMachine, createRam, type EmptyVm, type HostParts } from "./machine.ts";
import type { TrackingWish } from "./tracking.ts";

/** Memory for the guest. lazy: it is the file's, privately; else it is empty, and filled by others. */
export function restoredRam(snapshot: SnapshotFile, mode: RestoreMode): Ram {
  const { block, file } = snapshot;
  if (mode !== "lazy") return createRam(block.bytes, false);
  const ram = Ram.create(block.bytes); // most of it is the page cache's: MemAvailable is no measure
  for (const { first, pages } of planMapping(block.present))
    ram.mapFile(first * PAGE_BYTES, pages * PAGE_BYTES, file.fd, block.pagesOffset + first * PAGE_BYTES);
  if (!snapshot.seal?.head.holes) clearStale(snapshot, ram);
  return ram;
}

const STALE_PAGES = 1024;

/** A page that is clear in the bitmap is zero, whatever the file has there: a file that QEMU wrote may have old content. */
function clearStale({ block, file }: SnapshotFile, ram: Ram): void {
  const end = block.pagesOffset + block.bytes;
  const stale = new Uint32Array(STALE_PAGES);
  let count = 0;
  for (let data = nextData(file.fd, block.pagesOffset); data && data.from < end; data = nextData(file.fd, data.to)) {
    const first = Math.floor((data.from - block.pagesOffset) / PAGE_BYTES);
    const last = Math.ceil((Math.min(data.to, end) - block.pagesOffset) / PAGE_BYTES);
    for (let page = first; page < last; page++) {
      if (block.present.has(page)) continue;
      stale[count++] = page;
      if (count < STALE_PAGES) continue;
      ram.clear(stale, count);
      count = 0;
    }
  }
  if (count) ram.clear(stale, count);
}

/** The machine around that memory, with the state that was saved. Nobody else may know of it yet. */
export function restoreMachine(
  snapshot: SnapshotFile,
  ram: Ram,
  name: string,
  board: Board,
  vm: EmptyVm | TrackingWish,
  parts: HostParts,
): MachineHandles {
  const handles = createMachine({ ...snapshot.description, name }, ram, board, vm, parts);
  new MachineGuest(handles, board, neverTracked).loadDevices(snapshot.devices);
  if (handles.description.pc) changeGeneration(handles);
  return handles;
}

const neverTracked = (): never => {
  throw new TramError("E_INTERNAL", "a guest was tracked before it ran");
};

// A machine as control/ sees it: memory, dirty log, stop and go, device state. Any thread of the process may hold one.
import type { DeviceState, Guest } from "../control/guest.ts";
import type { FreePages } from "../control/hints.ts";
import { fromErrorData, TramError } from "../errors.ts";
import type { Bitmap } from "../memory/bitmap.ts";
import { Marks } from "../native/marks.ts";
import { net } from "../native/net.ts";
import { openPagemap, type Ram } from "../native/ram.ts";
import { badStream } from "../stream/bytes.ts";
import { type DiskIdentity, isTwin, type MachineDescription } from "../stream/devices/machine.ts";
import { serialMore, serial as serialTable, walker as walkerTable } from "../stream/devices/ports.ts";
import { vcpu as vcpuTable } from "../stream/devices/vcpu.ts";
import { disk as diskTable } from "../stream/devices/virtio.ts";
import {
  apic as apicTable,
  i8254,
  i8259 as i8259Table,
  ioapic as ioapicTable,
  kvmclock,
  power,
  wallClock,
} from "../stream/devices/x86.ts";
import type { State } from "../stream/vmstate.ts";
import { BalloonDevice } from "./balloon.ts";
import type { Board, MachineHandles, RunState } from "./board.ts";
import { Serial } from "./devices/serial.ts";
import { WalkerPorts } from "./devices/walker.ts";
import { devicesOf, type PlacedDevice } from "./devices.ts";
import { DiskDevice } from "./disk.ts";
import { checkArrived } from "./disk-file.ts";
import { GuestPages } from "./guest-pages.ts";
import {
  loadClock,
  loadIoapic,
  loadPic,
  loadPit,
  loadVcpu,
  noteStandstill,
  saveClock,
  saveIoapic,
  saveLapic,
  savePic,
  savePit,
  saveVcpu,
} from "./kvm-state.ts";
import { attachRam, deviceWords, RESET, withDevices } from "./machine.ts";
import { letGo, resumeCpus, takeOver } from "./resume.ts";
import { lostWrites, type StartFaultWatcher, startTracker, type WriteTracker } from "./tracking.ts";

function stateOf(devices: readonly DeviceState[], name: string, instance: number): State {
  const found = devices.find((one) => one.table.name === name && one.instance === instance);
  if (!found) throw badStream("the stream lacks a device", 0, `section '${name}' instance ${instance}`, "none");
  return found.state;
}

/** What the guest's disks were when its state was saved. */
export const diskIdentities = ({ disks }: MachineDescription, devices: readonly DeviceState[]): DiskIdentity[] =>
  disks.map((_, i) => {
    const { inode, bytes, changed_ns } = stateOf(devices, diskTable.name, i);
    return { inode: `${inode}`, bytes: Number(bytes), changedNs: `${changed_ns}` };
  });

export class MachineGuest implements Guest {
  readonly description: MachineDescription;
  readonly ram: Ram;
  readonly #handles: MachineHandles;
  readonly #board: Board;
  readonly #startWatcher: StartFaultWatcher;
  #tracker: WriteTracker | null = null;
  /** The board's generation, if it stood still when its writes began to be tracked. */
  #stillSince: number | null = null;
  #pagemapFd = -1;
  readonly #devices: readonly PlacedDevice[];
  /** Pages that devices have written to. */
  readonly #written: Marks | null;
  /** Null: it has none. */
  readonly balloon: BalloonDevice | null;

  constructor(handles: MachineHandles, board: Board, startWatcher: StartFaultWatcher) {
    this.#handles = handles;
    this.#board = board;
    this.description = handles.description;
    this.ram = attachRam(handles);
    this.#startWatcher = startWatcher;
    this.#devices = devicesOf(board, handles);
    const [balloon = null] = this.#devices
      .map(({ device }) => device)
      .filter((device) => device instanceof BalloonDevice);
    this.balloon = balloon;
    this.#written = handles.marks && Marks.attach(handles.marks.written);
  }

  #syncDisks(): void {
    for (const { device } of this.#devices) if (device instanceof DiskDevice) device.sync();
  }

  startTracking(): void {
    const { vm, tracking } = this.#handles;
    const { run, generation } = this.#board.command();
    this.#stillSince = run ? null : generation;
    this.#syncDisks(); // while the guest runs: its standstill then does not wait for it
    this.#board.wantLoaded(); // in large pieces, before this thread touches it page by page
    this.#tracker = startTracker(vm, this.ram, tracking, this.#startWatcher);
    this.#board.tracked = true;
    this.#pagemapFd = this.#openPagemap();
  }

  /** While it is tracked. A file's memory is not zero there, nor what is still to be brought from one. */
  get pagemapFd(): number {
    return this.#pagemapFd;
  }

  #openPagemap(): number {
    const restore = this.#board.readRestore();
    const isAnonymous = restore === null || restore.mode === "eager" || (restore.phase === "done" && !restore.mapped);
    return isAnonymous ? openPagemap() : -1;
  }

  /** For other threads that read the guest's memory. While it is tracked. */
  get tracker(): WriteTracker {
    if (!this.#tracker) throw new TramError("E_INTERNAL", "a guest's writes were asked for before they were tracked");
    return this.#tracker;
  }

  syncDirty(dirty: Bitmap): void {
    const isWhole = this.tracker.sync(dirty) || this.#board.command().generation === this.#stillSince;
    if (!isWhole) throw lostWrites("E_TRACKING");
    this.#written?.moveTo(dirty); // no kernel sees what devices write
  }

  get pages(): GuestPages {
    const { tracker } = this;
    const clear: GuestPages["clearDirty"] = (first, pages, except) => tracker.clear(first, pages, except);
    return new GuestPages(this.ram, this.#pagemapFd, this.#handles.marks, clear);
  }

  get freePages(): FreePages | null {
    const { balloon } = this;
    if (!balloon?.facts().hints || !this.#board.command().run) return null;
    return {
      ask: () => balloon.askForHints(),
      end: () => balloon.endHints(),
      get answer() {
        return balloon.answer;
      },
    };
  }

  stopTracking(): void {
    this.#board.throttleCpus(0);
    this.balloon?.endHints();
    // A vCPU that goes on writing meanwhile keeps the kernel from it: for up to a second, where a stop takes milliseconds.
    this.#board.whileStopped(() => this.#tracker?.stop());
    this.#tracker = null;
    this.#board.tracked = false;
    if (this.#pagemapFd >= 0) net.close(this.#pagemapFd);
    this.#pagemapFd = -1;
  }

  throttle(percent: number): void {
    this.#board.throttleCpus(percent);
  }

  settle(checkStop: () => void): boolean {
    const loaded = this.#board.awaitLoaded(checkStop);
    if (loaded !== "bad") return loaded === "later";
    const error = this.#board.readRestore()?.error;
    throw error ? fromErrorData(error) : new TramError("E_GUEST_RAM", "the guest's memory cannot be read");
  }

  pause(): string {
    return this.#board.locked(() => {
      const was = this.#board.pauseCpus("finish-migrate");
      const { runState } = this.#board;
      if (runState !== "finish-migrate")
        throw new TramError("E_GUEST", "the guest stopped by itself and cannot be moved", {
          found: `state '${runState}'`,
        });
      return was;
    });
  }

  unpause(was: string): void {
    this.#board.locked(() => {
      this.#board.runState = was === "running" ? "paused" : (was as RunState); // what it stays if it cannot go on
      takeOver(this.#board, this.#handles);
      if (was === "running") resumeCpus(this.#board, this.#handles);
    });
  }

  letGo(): void {
    letGo(this.#board, this.#handles);
  }

  /** `recordsDisks`: a guest that comes out of this again must find its disks as they are now. */
  saveDevices(recordsDisks = true): DeviceState[] {
    this.#syncDisks();
    const { vm, vcpus } = this.#handles;
    const words = deviceWords(this.#board);
    const ports: DeviceState[] = [
      { table: serialTable, instance: 0, state: Serial.save(words.serial) },
      ...(this.description.pc ? [{ table: serialMore, instance: 0, state: Serial.saveMore(words.serial) }] : []),
      ...(this.description.walker ? [{ table: walkerTable, instance: 0, state: WalkerPorts.save(words.walker) }] : []),
      ...this.#devices.map(({ device, table, instance }) => ({ table, instance, state: device.save(recordsDisks) })),
      ...(this.description.pc
        ? [{ table: power, instance: 0, state: { reset: words.reset[0] === RESET.none ? 0 : 1 } }]
        : []),
    ];
    if (isTwin(this.description)) return ports; // all else that it knows is in its memory
    const cpus = vcpus.map((fd) => saveVcpu(fd));
    const { clock, wall } = saveClock(vm);
    return [
      { table: kvmclock, instance: 0, state: clock },
      ...(this.description.pc ? [{ table: wallClock, instance: 0, state: wall }] : []),
      { table: i8259Table, instance: 0, state: savePic(vm, 0) },
      { table: i8259Table, instance: 1, state: savePic(vm, 1) },
      { table: ioapicTable, instance: 0, state: saveIoapic(vm) },
      ...(this.description.pc ? [{ table: i8254, instance: 0, state: savePit(vm) }] : []),
      ...cpus.map((state, cpu) => {
        const apicBase = (state.sregs as State).apic_base as bigint;
        return { table: apicTable, instance: cpu, state: saveLapic(vcpus[cpu], apicBase) };
      }),
      ...cpus.map((state, cpu) => ({ table: vcpuTable, instance: cpu, state })),
      ...ports,
    ];
  }

  loadDevices(loaded: readonly DeviceState[]): void {
    this.#board.settleCpus();
    checkArrived(this.#handles.disks, diskIdentities(this.description, loaded));
    this.setDevices(loaded);
  }

  /** While nothing runs: its virtio devices are as they were before their drivers came. */
  resetDevices(): void {
    withDevices(deviceWords(this.#board), () => {
      for (const { device } of this.#devices) device.registers.reset();
    });
  }

  /** While no vCPU runs. */
  setDevices(loaded: readonly DeviceState[]): void {
    const { vm, vcpus } = this.#handles;
    const words = deviceWords(this.#board);
    const find = (name: string, instance = 0): State => stateOf(loaded, name, instance);
    Serial.load(words.serial, find("serial"));
    if (this.description.pc) Serial.loadMore(words.serial, find("tram/serial"));
    if (this.description.walker) WalkerPorts.load(words.walker, find("tram/walker"));
    if (isTwin(this.description)) return;
    loadPic(vm, 0, find("i8259", 0));
    loadPic(vm, 1, find("i8259", 1));
    loadIoapic(vm, find("ioapic"));
    vcpus.forEach((fd, cpu) => {
      loadVcpu(fd, find("tram/vcpu", cpu), find("apic", cpu), this.description.cpuid);
    });
    if (this.description.pc) loadPit(vm, find("i8254")); // it ticks from here on, and there is somebody to hear it
    loadClock(vm, find("kvmclock"), this.description.pc ? find("tram/wall-clock") : null);
    noteStandstill(this.#handles);
    for (const { device, table, instance } of this.#devices) device.load(find(table.name, instance));
    if (this.description.pc) words.reset[0] = Number(find("tram/power").reset) ? RESET.wanted : RESET.none;
  }
}

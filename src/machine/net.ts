// The guest's network card in its machine: its registers' place and interrupt, and its tap interface. A thread of its own carries packets.
import { TramError } from "../errors.ts";
import { setIrqLine } from "../native/kvm.ts";
import type { Ram } from "../native/ram.ts";
import { receivePacket, sendFrame, sendPacket } from "../native/tap.ts";
import { parseMac } from "../stream/devices/mac.ts";
import type { State } from "../stream/vmstate.ts";
import { type Board, type MachineHandles, NET_HELPER } from "./board.ts";
import { attachRam, deviceMemory, deviceWords, withDevices } from "./machine.ts";
import { NET_PLACE } from "./places.ts";
import { type DeviceMemory, DriverError } from "./virtio/memory.ts";
import { VirtioMmio } from "./virtio/mmio.ts";
import { announcement, BUFFERS_AT, NET_QUEUE, Net } from "./virtio/net.ts";
import type { SplitQueue } from "./virtio/queue.ts";

/** Packets each way before this thread looks at its command again. */
const PACKETS_AT_A_TIME = 64;
/** Some are lost while switches find out that a port is up. */
const ANNOUNCEMENTS = 5;
const ANNOUNCE_AGAIN_MS = 150;

/** How often it is still to be said where the guest is. */
const ANNOUNCE_DUE = 0;

/** One thread's hand on it. */
export class NetDevice {
  readonly #words: ReturnType<typeof deviceWords>;
  readonly #memory: DeviceMemory;
  readonly #ram: Ram;
  /** -1: it hears and says nothing here. */
  readonly tapFd: number;
  readonly #mac: Uint8Array;
  #announceAtMs = 0;
  /** For the vCPUs, under the devices' lock. */
  readonly registers: VirtioMmio;

  private constructor(board: Board, handles: MachineHandles, mac: Uint8Array) {
    if (!handles.marks)
      throw new TramError("E_INTERNAL", "a network in a machine that does not note what devices write");
    this.#words = deviceWords(board);
    this.#ram = attachRam(handles);
    this.#memory = deviceMemory(this.#ram, handles.marks);
    this.tapFd = handles.tapFd;
    this.#mac = mac;
    const card = new Net(mac, this.tapFd >= 0, () => board.giveWork(NET_HELPER));
    this.registers = new VirtioMmio(this.#words.netRegisters, card, this.#memory, (on) =>
      setIrqLine(handles.vm, NET_PLACE.line, on),
    );
  }

  /** Null: the machine has none. */
  static attach(board: Board, handles: MachineHandles): NetDevice | null {
    const mac = handles.description.mac === null ? null : parseMac(handles.description.mac);
    return mac && new NetDevice(board, handles, mac);
  }

  save(): State {
    return { virtio: this.registers.save() };
  }

  /** Before the guest runs here: its packets come another way now. */
  load(state: State): void {
    this.registers.load(state.virtio as State);
    this.registers.configChanged(); // its cable may be in, or not, where it was not
    Atomics.store(this.#words.net, ANNOUNCE_DUE, ANNOUNCEMENTS);
  }

  // --- its own thread's side

  /** Says where the guest is, if that is due; in how many milliseconds again; -1: no more. */
  announce(nowMs: number): number {
    const left = Atomics.load(this.#words.net, ANNOUNCE_DUE);
    if (left === 0 || this.tapFd < 0) return -1;
    if (nowMs < this.#announceAtMs) return Math.ceil(this.#announceAtMs - nowMs);
    sendFrame(this.tapFd, announcement(this.#mac));
    Atomics.store(this.#words.net, ANNOUNCE_DUE, left - 1);
    this.#announceAtMs = nowMs + ANNOUNCE_AGAIN_MS;
    return left > 1 ? ANNOUNCE_AGAIN_MS : -1;
  }

  /** Carries some packets each way. busy: there may be more. full: the guest has no room, and says when it has. */
  work(): "busy" | "full" | "idle" {
    return withDevices(this.#words, () => {
      const sent = this.registers.withQueue(NET_QUEUE.fromGuest, (queue) => this.#send(queue)) ?? 0;
      const state = this.registers.withQueue(NET_QUEUE.toGuest, (queue) => this.#receive(queue)) ?? "full";
      return sent === PACKETS_AT_A_TIME ? "busy" : state;
    });
  }

  #send(queue: SplitQueue): number {
    for (let sent = 0; sent < PACKETS_AT_A_TIME; sent++) {
      const chain = queue.take();
      if (!chain) return sent;
      if (this.tapFd >= 0) sendPacket(this.#ram, this.tapFd, this.#memory.parts(chain.readable));
      queue.giveBack(chain, 0);
    }
    return PACKETS_AT_A_TIME;
  }

  #receive(queue: SplitQueue): "busy" | "full" | "idle" {
    for (let count = 0; count < PACKETS_AT_A_TIME; count++) {
      const chain = queue.take();
      if (!chain) return "full";
      const { writable } = chain;
      if (writable.length === 0) throw new DriverError("a buffer for packets has no room");
      const bytes = this.tapFd < 0 ? null : receivePacket(this.#ram, this.tapFd, this.#memory.parts(writable));
      if (bytes === null) {
        queue.untake(1);
        return "idle";
      }
      let left = bytes;
      for (const { gpa, bytes: room } of writable) {
        if (left > 0) this.#memory.written(gpa, Math.min(room, left));
        left -= room;
      }
      if (writable[0].bytes >= BUFFERS_AT + 2) this.#memory.write(writable[0].gpa + BUFFERS_AT, Uint8Array.of(1, 0));
      queue.giveBack(chain, bytes);
    }
    return "busy";
  }
}

/** The guest is here, for the first time or again: when it runs it is said where its packets are to go. */
export function announceNet(board: Board, { description }: MachineHandles): void {
  if (description.mac !== null) Atomics.store(deviceWords(board).net, ANNOUNCE_DUE, ANNOUNCEMENTS);
}

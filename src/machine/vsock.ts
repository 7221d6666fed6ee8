// The guest's sockets to its host in its machine: their registers' place and interrupt. A thread of its own deals with their queues.
import { TramError } from "../errors.ts";
import { setIrqLine } from "../native/kvm.ts";
import type { State } from "../stream/vmstate.ts";
import { type Board, type MachineHandles, VSOCK_HELPER } from "./board.ts";
import { attachRam, deviceMemory, deviceWords, withDevices } from "./machine.ts";
import { VSOCK_PLACE } from "./places.ts";
import type { DeviceMemory } from "./virtio/memory.ts";
import { VirtioMmio } from "./virtio/mmio.ts";
import type { Chain, Segment } from "./virtio/queue.ts";
import {
  type Connections,
  decodePacket,
  encodePacket,
  HOST_CID,
  PACKET_BYTES_MAX,
  PACKET_HEADER_BYTES,
  type Packet,
  TRANSPORT_RESET,
  VSOCK_QUEUE,
  VSOCK_WORD,
  Vsock,
} from "./virtio/vsock.ts";

/** Every guest's: who speaks to it knows it by its socket at the host. */
export const GUEST_CID = 3;
/** Packets each way before this thread looks at its command again. */
const PACKETS_AT_A_TIME = 32;

/** One thread's hand on it. */
export class VsockDevice {
  readonly #words: ReturnType<typeof deviceWords>;
  readonly #memory: DeviceMemory;
  /** For the vCPUs, under the devices' lock. */
  readonly registers: VirtioMmio;
  #epoch: number;

  private constructor(board: Board, handles: MachineHandles, marks: NonNullable<MachineHandles["marks"]>) {
    this.#words = deviceWords(board);
    this.#memory = deviceMemory(attachRam(handles), marks);
    const vsock = new Vsock(this.#words.vsock, GUEST_CID, () => board.giveWork(VSOCK_HELPER));
    this.registers = new VirtioMmio(this.#words.vsockRegisters, vsock, this.#memory, (on) =>
      setIrqLine(handles.vm, VSOCK_PLACE.line, on),
    );
    this.#epoch = this.#resets;
  }

  /** Null: the machine has none. */
  static attach(board: Board, handles: MachineHandles): VsockDevice | null {
    const { marks, description } = handles;
    if (!description.vsock) return null;
    if (!marks) throw new TramError("E_INTERNAL", "sockets in a machine that does not note what devices write");
    return new VsockDevice(board, handles, marks);
  }

  save(): State {
    return { virtio: this.registers.save() };
  }

  /** Before the guest runs here: what it was connected to is not here. */
  load(state: State): void {
    this.registers.load(state.virtio as State);
    Atomics.store(this.#words.vsock, VSOCK_WORD.resetDue, 1);
  }

  // --- its own thread's side

  get #resets(): number {
    return Atomics.load(this.#words.vsock, VSOCK_WORD.epoch);
  }

  /**
   * Carries some packets each way. busy: there may be more. full: the guest has no room for what would go to it, and says when it
   * has.
   */
  work(connections: Connections): "busy" | "full" | "idle" {
    const heard = withDevices(this.#words, () => {
      // Under the lock: what comes behind it is the next driver's.
      if (this.#epoch !== this.#resets) connections.clear();
      this.#epoch = this.#resets;
      this.#tellReset();
      // It is answered before it may say more.
      const room = Math.max(0, PACKETS_AT_A_TIME - connections.answers);
      return this.registers.withQueue(VSOCK_QUEUE.fromGuest, (queue) => {
        const taken: Packet[] = [];
        for (let seen = 0; seen < room; seen++) {
          const chain = queue.take();
          if (!chain) return { taken, isMore: false };
          const packet = this.#read(chain);
          if (packet) taken.push(packet);
          queue.giveBack(chain, 0);
        }
        return { taken, isMore: room > 0 };
      });
    });
    for (const packet of heard?.taken ?? []) connections.take(packet);
    connections.pass();
    const sent = withDevices(this.#words, () =>
      this.registers.withQueue(VSOCK_QUEUE.toGuest, (queue) => {
        for (let count = 0; count < PACKETS_AT_A_TIME; count++) {
          const chain = queue.take();
          if (!chain) return "full";
          const room = chain.writable.reduce((sum, { bytes }) => sum + bytes, 0) - PACKET_HEADER_BYTES;
          const packet = room > 0 ? connections.next(Math.min(room, PACKET_BYTES_MAX)) : null;
          if (!packet) {
            queue.untake(1);
            return room > 0 ? "idle" : "full";
          }
          queue.giveBack(chain, this.#write(chain.writable, encodePacket(packet, HOST_CID, GUEST_CID)));
        }
        return "busy";
      }),
    );
    return heard?.isMore || heard?.taken.length ? "busy" : (sent ?? "full");
  }

  /** Its connections were at another host, or before it was saved. */
  #tellReset(): void {
    const { vsock } = this.#words;
    if (!Atomics.load(vsock, VSOCK_WORD.resetDue)) return;
    this.registers.withQueue(VSOCK_QUEUE.events, (queue) => {
      const chain = queue.take();
      if (!chain) return;
      const event = new Uint8Array(4);
      new DataView(event.buffer).setUint32(0, TRANSPORT_RESET, true);
      queue.giveBack(chain, this.#write(chain.writable, event));
      Atomics.store(vsock, VSOCK_WORD.resetDue, 0);
    });
  }

  #read({ readable }: Chain): Packet | null {
    const parts: Uint8Array[] = [];
    let left = PACKET_HEADER_BYTES + PACKET_BYTES_MAX;
    for (const { gpa, bytes } of readable) {
      const count = Math.min(left, bytes);
      if (count > 0) parts.push(this.#memory.read(gpa, count));
      left -= count;
    }
    const found = decodePacket(new Uint8Array(Buffer.concat(parts)));
    return found && found.from === GUEST_CID && found.to === HOST_CID ? found.packet : null; // there is nobody else
  }

  /** As much of it as there is room for; how much that is. */
  #write(into: readonly Segment[], data: Uint8Array): number {
    let done = 0;
    for (const { gpa, bytes } of into) {
      const part = data.subarray(done, done + bytes);
      if (part.length === 0) break;
      this.#memory.write(gpa, part);
      done += part.length;
    }
    return done;
  }
}

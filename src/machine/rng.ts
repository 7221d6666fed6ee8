// The source of random bytes in its machine: its registers' place and its interrupt.
import { setIrqLine } from "../native/kvm.ts";
import type { State } from "../stream/vmstate.ts";
import type { Board, MachineHandles } from "./board.ts";
import { attachRam, deviceMemory, deviceWords } from "./machine.ts";
import { RNG_PLACE } from "./places.ts";
import { VirtioMmio } from "./virtio/mmio.ts";
import { Rng } from "./virtio/rng.ts";

/** One thread's hand on it. */
export class RngDevice {
  /** For the vCPUs, under the devices' lock. */
  readonly registers: VirtioMmio;

  private constructor(board: Board, handles: MachineHandles, marks: NonNullable<MachineHandles["marks"]>) {
    const memory = deviceMemory(attachRam(handles), marks);
    const random = (bytes: number) => crypto.getRandomValues(new Uint8Array(bytes));
    this.registers = new VirtioMmio(deviceWords(board).rng, new Rng(memory, random), memory, (on) =>
      setIrqLine(handles.vm, RNG_PLACE.line, on),
    );
  }

  /** Null: the machine has none. */
  static attach(board: Board, handles: MachineHandles): RngDevice | null {
    const { marks, description } = handles;
    return description.pc && marks ? new RngDevice(board, handles, marks) : null;
  }

  save(): State {
    return { virtio: this.registers.save() };
  }

  /** Before the guest runs here. */
  load(state: State): void {
    this.registers.load(state.virtio as State);
  }
}

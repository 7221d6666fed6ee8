// The console in its machine: its registers' place and its interrupt.
import { setIrqLine } from "../native/kvm.ts";
import type { State } from "../stream/vmstate.ts";
import type { Board, MachineHandles } from "./board.ts";
import { attachRam, deviceMemory, deviceWords, withDevices } from "./machine.ts";
import { CONSOLE_PLACE } from "./places.ts";
import { CONSOLE_QUEUE, Console } from "./virtio/console.ts";
import { VirtioMmio } from "./virtio/mmio.ts";

/** One thread's hand on it. */
export class ConsoleDevice {
  /** For the vCPUs, under the devices' lock. */
  readonly registers: VirtioMmio;
  readonly #console: Console;
  readonly #board: Board;

  private constructor(
    board: Board,
    handles: MachineHandles,
    marks: NonNullable<MachineHandles["marks"]>,
    put: (bytes: Uint8Array) => void,
  ) {
    const memory = deviceMemory(attachRam(handles), marks);
    const words = deviceWords(board);
    this.#board = board;
    this.#console = new Console(words.console, memory, put);
    this.registers = new VirtioMmio(words.consoleRegisters, this.#console, memory, (on) =>
      setIrqLine(handles.vm, CONSOLE_PLACE.line, on),
    );
  }

  /** Null: the machine has none. `put`: what the guest says, for the vCPUs. */
  static attach(
    board: Board,
    handles: MachineHandles,
    put: (bytes: Uint8Array) => void = () => {},
  ): ConsoleDevice | null {
    const { marks, description } = handles;
    return description.console && marks ? new ConsoleDevice(board, handles, marks, put) : null;
  }

  /** What was typed: how much of it there is room for. A vCPU carries it into the guest's memory. */
  receive(bytes: Uint8Array): number {
    const taken = withDevices(deviceWords(this.#board), () => {
      if (!this.registers.isDriven) return 0; // its driver resets it when it comes
      this.registers.lookAt(CONSOLE_QUEUE.toGuest);
      return this.#console.receive(bytes);
    });
    if (taken > 0) this.#board.wakeCpus();
    return taken;
  }

  save(): State {
    return { virtio: this.registers.save(), ...this.#console.save() };
  }

  /** Before the guest runs here. */
  load(state: State): void {
    this.registers.load(state.virtio as State);
    this.#console.load(state);
  }
}

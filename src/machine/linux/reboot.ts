// A guest that wants to start anew: its machine becomes what it was before the first instruction, and its kernel is put there again.
import type { DeviceState } from "../../control/guest.ts";
import { TramError } from "../../errors.ts";
import { Marks } from "../../native/marks.ts";
import { PAGE_BYTES } from "../../native/ram.ts";
import type { Board, MachineHandles, RunState } from "../board.ts";
import { MachineGuest } from "../guest.ts";
import { deviceWords, RESET } from "../machine.ts";
import { bootLinux, type LinuxPlan } from "./boot-linux.ts";

const LEAVING: readonly RunState[] = ["finish-migrate", "postmigrate"];

export class Reboot {
  readonly #handles: MachineHandles;
  readonly #board: Board;
  readonly #plan: LinuxPlan;
  readonly #guest: MachineGuest;
  readonly #first: readonly DeviceState[];

  /** Before anything runs. */
  constructor(handles: MachineHandles, board: Board, plan: LinuxPlan) {
    this.#handles = handles;
    this.#board = board;
    this.#plan = plan;
    this.#guest = new MachineGuest(handles, board, () => {
      throw new TramError("E_INTERNAL", "nobody tracks a guest's writes to start it anew");
    });
    this.#first = this.#guest.saveDevices();
  }

  now(): void {
    const { marks, ram } = this.#handles;
    this.#board.whileStopped(() => {
      // It is on its way already, and its wish with it; if it stays after all, it is asked again.
      if (LEAVING.includes(this.#board.runState)) {
        Atomics.store(deviceWords(this.#board).reset, 0, RESET.wanted);
        return;
      }
      const { balloon } = this.#guest;
      const wantedBytes = balloon?.facts().wantedBytes ?? 0;
      this.#guest.setDevices(this.#first);
      this.#guest.resetDevices();
      balloon?.resize(wantedBytes); // a person's wish, and not the guest's
      bootLinux(this.#handles, this.#plan);
      // No kernel sees what was written here: who moves the guest sends all of it again.
      if (marks) Marks.attach(marks.written).add(0, ram.bytes / PAGE_BYTES);
    });
  }
}

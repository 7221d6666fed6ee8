// The other end of the guest's serial line, or its console: what is typed at the terminal, or comes through a pipe, goes to the guest.
import type { Board, MachineHandles, RunState } from "../machine/board.ts";
import { ConsoleDevice } from "../machine/console.ts";
import { SERIAL_LINE, Serial } from "../machine/devices/serial.ts";
import { deviceWords, withDevices } from "../machine/machine.ts";
import { setIrqLine } from "../native/kvm.ts";
import { isForeground } from "./console.ts";

/** The guest takes 16 bytes at a time: then it has to read them. */
const AGAIN_MS = 2;
/** It does not read just now. */
const FULL_MS = 20;
const ARRIVAL_MS = 100;
const TAKES: readonly RunState[] = ["running", "paused"];
const HELD_BYTES_MAX = 64 << 10;

const PREFIX = 0x01; // Ctrl-A
const KEY = { quit: 0x78, help: 0x68, prefix: 0x61 } as const; // x h a
const HELP = "Ctrl-A x ends the guest; Ctrl-A a sends Ctrl-A; Ctrl-A h shows this";

/** What is left for the guest, and what was asked for. */
interface Typed {
  bytes: Uint8Array;
  asked: ("quit" | "help")[];
}

/** Takes Ctrl-A out of what is typed. */
export class Keys {
  #wasPrefix = false;

  take(typed: Uint8Array): Typed {
    const bytes: number[] = [];
    const asked: Typed["asked"] = [];
    for (const byte of typed) {
      if (this.#wasPrefix) {
        this.#wasPrefix = false;
        if (byte === KEY.quit) asked.push("quit");
        else if (byte === KEY.help) asked.push("help");
        else if (byte === KEY.prefix || byte === PREFIX) bytes.push(PREFIX);
      } else if (byte === PREFIX) this.#wasPrefix = true;
      else bytes.push(byte);
    }
    return { bytes: Uint8Array.from(bytes), asked };
  }
}

export class SerialInput {
  readonly #board: Board;
  readonly #say: (line: string) => void;
  readonly #quit: () => void;
  readonly #keys = new Keys();
  #held = Buffer.alloc(0);
  #timer: ReturnType<typeof setTimeout> | null = null;
  #isRaw = false;

  readonly #line: "serial" | "console";

  /** `line`: what it is typed into. `quit`: the person wants the guest to end. */
  constructor(board: Board, line: "serial" | "console", say: (line: string) => void, quit: () => void) {
    this.#board = board;
    this.#line = line;
    this.#say = say;
    this.#quit = quit;
  }

  /** As soon as there is a guest that listens. */
  start(): void {
    this.#timer = null;
    const machine = this.#board.machine();
    if (!machine) this.#timer = setTimeout(() => this.start(), ARRIVAL_MS);
    else if (machine.description.pc) this.#listen();
  }

  #listen(): void {
    const { stdin } = process;
    if (stdin.isTTY && !isForeground()) {
      this.#say("the terminal is another job's: nothing that is typed goes to the guest");
      return;
    }
    if (stdin.isTTY) {
      stdin.setRawMode(true); // Ctrl-C is the guest's now
      this.#isRaw = true;
      this.#say(HELP);
    }
    stdin.on("data", this.#onData).on("error", () => {});
  }

  stop(): void {
    if (this.#timer) clearTimeout(this.#timer);
    process.stdin.off("data", this.#onData).pause();
    if (this.#isRaw) process.stdin.setRawMode(false);
    this.#isRaw = false;
  }

  readonly #onData = (data: Buffer): void => {
    const { bytes, asked }: Typed = this.#isRaw ? this.#keys.take(data) : { bytes: data, asked: [] };
    if (asked.includes("help")) this.#say(HELP);
    if (asked.includes("quit")) this.#quit();
    this.#held = Buffer.concat([this.#held, bytes]);
    if (this.#held.length > HELD_BYTES_MAX) process.stdin.pause();
    if (!this.#timer) this.#feed();
  };

  #feed(): void {
    this.#timer = null;
    const machine = this.#board.machine();
    if (!machine) return;
    // Not while the guest is on its way: what it was given then would be lost, or an interrupt for it.
    const taken = this.#board.locked(() => (TAKES.includes(this.#board.runState) ? this.#give(machine) : 0));
    this.#held = this.#held.subarray(taken);
    if (this.#held.length === 0) process.stdin.resume();
    else this.#timer = setTimeout(() => this.#feed(), taken > 0 ? AGAIN_MS : FULL_MS);
  }

  /** How much of it the line takes. */
  #give(machine: MachineHandles): number {
    if (this.#line === "console")
      return ConsoleDevice.attach(this.#board, machine)?.receive(this.#held) ?? this.#held.length;
    const words = deviceWords(this.#board);
    const none = () => {};
    const serial = new Serial(words.serial, none, (on) => setIrqLine(machine.vm, SERIAL_LINE, on));
    return withDevices(words, () => serial.receive(this.#held));
  }
}

// The balloon in its machine: its registers' place and its interrupt, and what becomes of what a guest says of its memory.
//
// A hint is taken in the thread that runs the guest, before the guest has its buffer back: until then it does not use the pages. So
// whatever is written to them afterwards is in the log, in a ring, or among the faults, as any other write, and the next look finds it.
// The log that is taken back by hand may have a page in it from before (it begins with all of them, where the kernel can): those that are
// hinted at are taken out of it here, and by nobody else: whoever carries pages leaves them in it, because they may have been written to
// again.
import type { Answer } from "../control/hints.ts";
import type { MemoryFacts } from "../control/page-cache.ts";
import type { PageRange } from "../memory/bitmap.ts";
import { layOut } from "../memory/block.ts";
import { setIrqLine } from "../native/kvm.ts";
import { Marks } from "../native/marks.ts";
import { PAGE_BYTES, type Ram } from "../native/ram.ts";
import type { State } from "../stream/vmstate.ts";
import type { Board, MachineHandles } from "./board.ts";
import { clearPages } from "./dirty-log.ts";
import { attachRam, deviceMemory, deviceWords, withDevices } from "./machine.ts";
import { BALLOON_PLACE } from "./places.ts";
import { BALLOON_FEATURE, Balloon, type BalloonHost, type BalloonStats, HINTING } from "./virtio/balloon.ts";
import { VirtioMmio } from "./virtio/mmio.ts";

/** Shorter runs of a file's pages are let alone: each that is taken out of its mapping makes two more of it. */
const FILE_RUN_PAGES_MIN = 64;
const FILE_RUNS_MAX = 8192;

export interface BalloonFacts extends MemoryFacts {
  /** It answers a request for hints. */
  hints: boolean;
  stats: BalloonStats;
}

/** One thread's hand on the balloon that all of them share. */
export class BalloonDevice {
  readonly hinted: Marks;
  readonly ballooned: Marks;
  readonly reported: Marks;
  readonly written: Marks;
  readonly #board: Board;
  readonly #words: ReturnType<typeof deviceWords>;
  /** For the vCPUs, under the devices' lock. */
  readonly registers: VirtioMmio;
  readonly #balloon: Balloon;

  private constructor(board: Board, handles: MachineHandles, marks: NonNullable<MachineHandles["marks"]>) {
    const { vm, tracking } = handles;
    const words = deviceWords(board);
    const ram = attachRam(handles);
    const slots = layOut(ram.bytes);
    this.#board = board;
    this.#words = words;
    this.hinted = Marks.attach(marks.hinted);
    this.ballooned = Marks.attach(marks.ballooned);
    this.reported = Marks.attach(marks.reported);
    this.written = Marks.attach(marks.written);
    const { hinted, ballooned, reported, written } = this;
    const memory = deviceMemory(ram, marks);
    const discarder = new Discarder(ram, board, words.discards);
    /** A write like any other device's: whoever has just hashed a page, and sends what it reads now, has to do so again. */
    const discard = (ranges: readonly PageRange[]) => {
      discarder.discard(ranges);
      for (const { first, pages } of ranges) written.add(first, pages);
    };
    const takesBack = tracking.by === "log" && tracking.manualProtect;
    const host: BalloonHost = {
      pages: ram.pages,
      inflated(ranges) {
        discard(ranges);
        for (const { first, pages } of ranges) ballooned.add(first, pages);
      },
      deflated(ranges) {
        for (const { first, pages } of ranges) ballooned.remove(first, pages);
      },
      reported(ranges) {
        discard(ranges);
        for (const { first, pages } of ranges) reported.add(first, pages);
      },
      hinted(ranges) {
        for (const range of ranges) {
          if (takesBack) clearPages(vm, slots, range);
          hinted.add(range.first, range.pages);
        }
      },
    };
    this.#balloon = new Balloon(words.balloon, memory, host);
    this.registers = new VirtioMmio(words.balloonRegisters, this.#balloon, memory, (on) => {
      setIrqLine(vm, BALLOON_PLACE.line, on);
      if (on) board.wakeWaiting();
    });
  }

  /** Null: the machine has none. */
  static attach(board: Board, handles: MachineHandles): BalloonDevice | null {
    const { marks, description } = handles;
    return description.balloon && marks ? new BalloonDevice(board, handles, marks) : null;
  }

  // --- the host's side

  facts(): BalloonFacts {
    const { features, isDriven } = this.registers;
    const has = (feature: bigint) => isDriven && (features & feature) !== 0n;
    const { wantedPages, actualPages, statsTold, stats } = this.#balloon;
    return {
      isDriven,
      hints: has(BALLOON_FEATURE.freePageHint),
      deflatesOnOom: has(BALLOON_FEATURE.deflateOnOom),
      tellsStats: has(BALLOON_FEATURE.stats),
      wantedBytes: wantedPages * PAGE_BYTES,
      actualBytes: actualPages * PAGE_BYTES,
      statsTold,
      stats,
    };
  }

  /** The guest is to give up so much. */
  resize(bytes: number): void {
    this.#change(() => {
      this.#balloon.wantedPages = Math.floor(bytes / PAGE_BYTES);
    });
  }

  /** The guest is to tell of its memory again; statsTold counts on when it has. */
  wantStats(): void {
    withDevices(this.#words, () => {
      this.#balloon.wantStats();
      this.registers.want(Balloon.statsQueue);
    });
    this.#board.wakeCpus();
  }

  /** From here on hints count; what counted before does no more. */
  askForHints(): void {
    this.#change(() => {
      this.hinted.remove(0, this.#balloon.pages);
      this.#balloon.askForHints();
    });
  }

  /** From here on none does. */
  endHints(): void {
    if (this.#balloon.hinting === HINTING.none) return;
    this.#change(() => this.#balloon.endHints());
  }

  /** Of the last request. */
  get answer(): Answer {
    const { hinting, hintedPages: pages } = this.#balloon;
    return { hasBegun: hinting >= HINTING.answering, hasEnded: hinting === HINTING.ended, pages };
  }

  #change(action: () => void): void {
    withDevices(this.#words, () => {
      action();
      this.registers.configChanged();
    });
  }

  // --- its state

  save(): State {
    return { virtio: this.registers.save(), ...this.#balloon.save() };
  }

  /** Before the guest runs here. */
  load(state: State): void {
    this.#balloon.load(state);
    this.registers.load(state.virtio as State);
  }
}

/** Gives memory back to the host. */
class Discarder {
  readonly #ram: Ram;
  readonly #board: Board;
  /** Runs taken out of a file's mapping, by all threads. */
  readonly #fileRuns: Int32Array;

  constructor(ram: Ram, board: Board, fileRuns: Int32Array) {
    this.#ram = ram;
    this.#board = board;
    this.#fileRuns = fileRuns;
  }

  /** What is let alone keeps its content, which is as right. */
  discard(ranges: readonly PageRange[]): void {
    const restore = this.#board.readRestore();
    // What somebody still fills as it is touched would be filled again.
    if (restore?.mode === "first" && restore.phase !== "done") return;
    const isFile = restore?.mode === "lazy" && restore.mapped;
    for (const { first, pages } of ranges) {
      if (isFile && (pages < FILE_RUN_PAGES_MIN || this.#fileRuns[0] >= FILE_RUNS_MAX)) continue;
      if (isFile) this.#fileRuns[0]++;
      this.#ram.tryDiscard(first * PAGE_BYTES, pages * PAGE_BYTES, isFile);
    }
  }
}

// The board: the few words that the Workers of one guest's process share. Everybody may read; who writes stands beside it.
//
// Pause and resume are a generation counter. Whoever wants a change holds the lock, sets `desired`, raises `generation`,
// and kicks every vCPU until each has answered with that generation. A missed wake-up cannot hang: all of them are repeated.
import { LIMITS_BYTES, LiveLimits } from "../control/limits.ts";
import type { RestoreJournal } from "../control/restore.ts";
import { TramError } from "../errors.ts";
import { kick } from "../native/kvm.ts";
import { net } from "../native/net.ts";
import type { RamHandle } from "../native/ram.ts";
import { DISKS_MAX, type DiskIdentity, type MachineDescription } from "../stream/devices/machine.ts";
import type { DiskHandle } from "./disk-file.ts";
import type { Tracking } from "./tracking.ts";

export const RUN_STATES = [
  "prelaunch", // made, never run
  "running",
  "paused",
  "inmigrate", // waits for an incoming move, or takes one
  "finish-migrate", // stopped for the last round
  "postmigrate", // sent: a person resumes it, or the target's refusal
  "internal-error", // KVM cannot run it any further
  "io-error", // its memory comes from a file, and cannot be read or is not what was saved
  "shutdown", // the guest has shut down
] as const;
export type RunState = (typeof RUN_STATES)[number];
/** In these it never runs again. */
const BROKEN: readonly RunState[] = ["internal-error", "io-error", "shutdown"];

/** A guest's machine, as plain data: what any thread of the process needs to attach to it. */
export interface MachineHandles {
  vm: number;
  vcpus: number[];
  /** Addresses of the vCPUs' kvm_run, each runBytes long. */
  runs: number[];
  runBytes: number;
  ram: RamHandle;
  description: MachineDescription;
  tracking: Tracking;
  /** Sets of pages (native/marks.ts) for devices that write to its memory, or tell of it; null: there are none. */
  marks: DeviceMarks | null;
  /** Each with a thread of its own, which goes and stops with the vCPUs. */
  disks: DiskHandle[];
  /** Its network; -1: none. */
  tapFd: number;
}

export interface DeviceMarks {
  /** Pages that devices have written to. */
  written: number;
  /** Pages that were free when the guest was last asked, those in its balloon, and those that it has reported as free. */
  hinted: number;
  ballooned: number;
  reported: number;
}

/** Helpers answer commands as vCPUs do, under this number. */
export const memberOf = (helper: number): number => BOARD_CPUS_MAX + helper;

const DESIRE = { pause: 0, run: 1, exit: 2 } as const;
export const BOARD_CPUS_MAX = 16;
/** Threads beside the vCPUs that stop and go with them: one for each disk, and others. */
export const BOARD_HELPERS_MAX = DISKS_MAX + 2;
/** The helpers behind those of the disks: the guest's sockets to its host, and its network. */
export const VSOCK_HELPER = DISKS_MAX;
export const NET_HELPER = DISKS_MAX + 1;

const WORD = {
  runState: 0, // under the lock
  lock: 1,
  generation: 2, // under the lock
  desired: 3, // under the lock
  moverStop: 4, // canceller; cleared by the mover before a job
  moverThread: 5, // mover, once
  moving: 6, // main: 1 from a job's start to its end
  cpus: 7, // mover or main, once: vCPUs made
  journalVersion: 8, // mover: odd while it writes
  journalBytes: 9, // mover
  pastHandover: 10, // mover: 1 when a cancel comes too late
  machineBytes: 11, // whoever made the machine, once
  committed: 12, // QMP: 1 when the file that is saved to has its name; cleared before a job
  loadPhase: 13, // loader: LOAD_PHASES; 0 without one
  loadWanted: 14, // mover: 1 when the rest is to be read now
  restoreVersion: 15, // loader: odd while it writes
  restoreBytes: 16, // loader
  throttle: 17, // mover: the share of time that vCPUs rest, in percent
  tracked: 18, // whoever tracks: 1 while the guest's writes are tracked
  overdue: 19, // QMP: 1 when the job is cancelled because its time is over; cleared before a job
  noted: 20, // anybody: how many events were noted
  listener: 21, // QMP: a socket that a byte is written to for each; 0: nobody listens yet
  helpers: 22, // whoever made the machine, once: which there are, a bit for each
  isAway: 23, // under the lock, or while nothing runs: see isAway
  leftVersion: 24, // who releases them: odd while it writes
  leftBytes: 25,
  cpu: 26, // from here CPU_WORDS for each vCPU, and behind BOARD_CPUS_MAX of them for each helper
} as const;
const CPU_WORDS = 4;
/** The first two are written by the thread itself. */
const CPU_WORD = {
  thread: 0,
  answered: 1,
  /** Counts on when it is to look whether there is something to do. */
  work: 2,
  /** A socket that gets a byte then, too; 0: none. */
  waker: 3,
} as const;

const RUN_POINTERS_AT = 8 * Math.ceil((WORD.cpu + (BOARD_CPUS_MAX + BOARD_HELPERS_MAX) * CPU_WORDS) / 2);
const JOURNAL_AT = RUN_POINTERS_AT + 8 * BOARD_CPUS_MAX;
const JOURNAL_BYTES_MAX = 256 << 10;
const MACHINE_AT = JOURNAL_AT + JOURNAL_BYTES_MAX;
const MACHINE_BYTES_MAX = 64 << 10;
const RESTORE_AT = MACHINE_AT + MACHINE_BYTES_MAX;
const RESTORE_BYTES_MAX = 16 << 10;
const LEFT_AT = RESTORE_AT + RESTORE_BYTES_MAX;
const LEFT_BYTES_MAX = 4 << 10;
const DEVICES_AT = LEFT_AT + LEFT_BYTES_MAX;
const DEVICES_BYTES = 8192;
const LIMITS_AT = DEVICES_AT + DEVICES_BYTES;
const STARTED_AT = LIMITS_AT + LIMITS_BYTES;
const EVENTS_AT = STARTED_AT + 8;
/** Events that are kept for a listener that is slow; the oldest go first. */
const EVENTS = 256;
const EVENT_FIELDS = 4;
const EVENT_FIELD = { number: 0, kind: 1, value: 2, atMs: 3 } as const;
const EVENT_KINDS = ["state", "phase", "pass"] as const;
const KICK_AGAIN_MS = 5;
/** The mover finds out by itself that its time is over, and says more of it, unless it is blocked. */
const OVERDUE_MS = 20;
/** While its time does not count, nobody knows when it will. */
const NOT_TIMED_MS = 100;
const COMMIT_SLICE_MS = 5;
const LOAD_SLICE_MS = 50;
const LOAD_PHASES: readonly RestoreJournal["phase"][] = ["waiting", "loading", "done", "failed"];

/** Something that happened to the guest: a state's or a phase's place in its list, or a pass's number. */
export interface BoardEvent {
  kind: (typeof EVENT_KINDS)[number];
  value: number;
  /** By the wall clock. */
  atMs: number;
}

export class Board {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #runs: Float64Array;
  readonly #journal: Slot;
  readonly #restore: Slot;
  readonly #left: Slot;
  /** Since when the current move's time counts, by the clock that all threads have in common; 0: it does not. */
  readonly #startedMs: Float64Array;
  /** The mover's stop word, for the calls that take one. */
  readonly moverStop: Int32Array;
  /** Of the current move; set before it begins, changed by whoever steers it. */
  readonly limits: LiveLimits;

  readonly #events: Float64Array;

  constructor(shared = new SharedArrayBuffer(EVENTS_AT + 8 * EVENTS * EVENT_FIELDS)) {
    this.shared = shared;
    this.#words = new Int32Array(shared, 0, RUN_POINTERS_AT / 4);
    this.#runs = new Float64Array(shared, RUN_POINTERS_AT, BOARD_CPUS_MAX);
    const journal = new Uint8Array(shared, JOURNAL_AT, JOURNAL_BYTES_MAX);
    this.#journal = new Slot(this.#words, WORD.journalVersion, WORD.journalBytes, journal);
    const restore = new Uint8Array(shared, RESTORE_AT, RESTORE_BYTES_MAX);
    this.#restore = new Slot(this.#words, WORD.restoreVersion, WORD.restoreBytes, restore);
    const left = new Uint8Array(shared, LEFT_AT, LEFT_BYTES_MAX);
    this.#left = new Slot(this.#words, WORD.leftVersion, WORD.leftBytes, left);
    this.moverStop = this.#words.subarray(WORD.moverStop, WORD.moverStop + 1);
    this.limits = new LiveLimits({ shared, at: LIMITS_AT });
    this.#startedMs = new Float64Array(shared, STARTED_AT, 1);
    this.#events = new Float64Array(shared, EVENTS_AT, EVENTS * EVENT_FIELDS);
  }

  get runState(): RunState {
    return RUN_STATES[Atomics.load(this.#words, WORD.runState)];
  }
  /** Under the lock, or before there are others. */
  set runState(state: RunState) {
    const value = RUN_STATES.indexOf(state);
    if (Atomics.exchange(this.#words, WORD.runState, value) !== value) this.note("state", value);
  }

  /** For whoever listens to what happens to the guest. */
  note(kind: BoardEvent["kind"], value: number): void {
    const number = Atomics.add(this.#words, WORD.noted, 1) + 1;
    const at = ((number - 1) % EVENTS) * EVENT_FIELDS;
    this.#events[at + EVENT_FIELD.kind] = EVENT_KINDS.indexOf(kind);
    this.#events[at + EVENT_FIELD.value] = value;
    this.#events[at + EVENT_FIELD.atMs] = Date.now();
    this.#events[at + EVENT_FIELD.number] = number; // last: it is whole now
    const listener = Atomics.load(this.#words, WORD.listener);
    if (listener > 0) net.sendMessage(listener, Uint8Array.of(0)); // where it is full, the listener is awake already
  }

  /** From here on a byte comes out of the returned socket for each event; once. */
  listen(): number {
    const [ours, theirs] = net.socketPair();
    Atomics.store(this.#words, WORD.listener, theirs);
    return ours;
  }

  get noted(): number {
    return Atomics.load(this.#words, WORD.noted);
  }

  /** What was noted behind the first `seen`, in order, and how many have been seen then. What is not there any more is left out. */
  eventsSince(seen: number): { events: BoardEvent[]; seen: number } {
    const events: BoardEvent[] = [];
    let next = Math.max(seen, this.noted - EVENTS);
    for (; next < this.noted; next++) {
      const at = (next % EVENTS) * EVENT_FIELDS;
      const [number, kind, value, atMs] = this.#events.slice(at, at + EVENT_FIELDS);
      if (number < next + 1) break; // it is being written: its byte is still to come
      if (number === next + 1) events.push({ kind: EVENT_KINDS[kind], value, atMs });
    }
    return { events, seen: next };
  }

  get cpus(): number {
    return Atomics.load(this.#words, WORD.cpus);
  }

  /** The devices' registers, for whichever vCPU took the exit; machine.ts lays them out. */
  deviceWords(at: number, words: number): Int32Array {
    return new Int32Array(this.shared, DEVICES_AT + at, words);
  }

  /** Once, by whoever made the machine, when it is ready to be attached to. */
  publishMachine(handles: MachineHandles): void {
    handles.runs.forEach((address, cpu) => {
      this.#runs[cpu] = address;
    });
    const bytes = new TextEncoder().encode(JSON.stringify(handles));
    if (bytes.length > MACHINE_BYTES_MAX) throw new TramError("E_INTERNAL", "the machine does not fit the board");
    new Uint8Array(this.shared, MACHINE_AT).set(bytes);
    const { disks, description } = handles;
    const helpers =
      (1 << disks.length) -
      1 +
      (description.vsock ? 1 << VSOCK_HELPER : 0) +
      (description.mac === null ? 0 : 1 << NET_HELPER);
    Atomics.store(this.#words, WORD.helpers, helpers);
    Atomics.store(this.#words, WORD.cpus, handles.runs.length);
    Atomics.store(this.#words, WORD.machineBytes, bytes.length);
    Atomics.notify(this.#words, WORD.machineBytes);
  }

  /** Waits until there is a machine. */
  awaitMachine(): MachineHandles {
    Atomics.wait(this.#words, WORD.machineBytes, 0);
    return this.machine() as MachineHandles;
  }

  /** null: there is no machine yet. */
  machine(): MachineHandles | null {
    const bytes = Atomics.load(this.#words, WORD.machineBytes);
    if (bytes === 0) return null;
    return JSON.parse(new TextDecoder().decode(new Uint8Array(this.shared, MACHINE_AT, bytes).slice()));
  }

  locked<T>(action: () => T): T {
    while (Atomics.compareExchange(this.#words, WORD.lock, 0, 1) !== 0) Atomics.wait(this.#words, WORD.lock, 1, 50);
    try {
      return action();
    } finally {
      Atomics.store(this.#words, WORD.lock, 0);
      Atomics.notify(this.#words, WORD.lock, 1);
    }
  }

  #cpuWord(cpu: number, word: number): number {
    return WORD.cpu + cpu * CPU_WORDS + word;
  }

  #command(desire: number): void {
    Atomics.store(this.#words, WORD.desired, desire);
    const generation = Atomics.add(this.#words, WORD.generation, 1) + 1;
    Atomics.notify(this.#words, WORD.generation);
    for (let cpu = 0; cpu < this.cpus; cpu++) if (desire !== DESIRE.run) this.#kick(cpu);
    for (const helper of this.#helpers()) this.giveWork(helper);
    for (const cpu of this.#members()) {
      const word = this.#cpuWord(cpu, CPU_WORD.answered);
      for (;;) {
        const answered = Atomics.load(this.#words, word);
        if (answered === generation) break;
        if (Atomics.wait(this.#words, word, answered, KICK_AGAIN_MS) === "timed-out") this.#rouse(cpu);
      }
    }
  }

  /** The guest may be somebody else's, and its disks are not locked for it here: it has been handed over, or has not been yet. */
  get isAway(): boolean {
    return Atomics.load(this.#words, WORD.isAway) !== 0;
  }
  set isAway(away: boolean) {
    Atomics.store(this.#words, WORD.isAway, away ? 1 : 0);
  }

  /** How the guest left its disks; null: it was never here, or has not left. */
  readLeftDisks(): DiskIdentity[] | null {
    return this.#left.read();
  }

  writeLeftDisks(left: readonly DiskIdentity[]): void {
    this.#left.write(left);
  }

  #helpers(): number[] {
    const there = Atomics.load(this.#words, WORD.helpers);
    return [...Array(BOARD_HELPERS_MAX).keys()].filter((helper) => there & (1 << helper));
  }

  /** vCPUs and helpers, by their numbers here. */
  #members(): number[] {
    return [...Array(this.cpus).keys(), ...this.#helpers().map(memberOf)];
  }

  /** A helper is to look around. */
  giveWork(helper: number): void {
    const word = this.#cpuWord(memberOf(helper), CPU_WORD.work);
    Atomics.add(this.#words, word, 1);
    Atomics.notify(this.#words, word);
    const waker = Atomics.load(this.#words, this.#cpuWord(memberOf(helper), CPU_WORD.waker));
    if (waker > 0) net.sendMessage(waker, Uint8Array.of(0)); // where it is full, the helper is awake already
  }

  /** For a helper that waits for descriptors: this one gets a byte whenever there is something to do. Before it is started. */
  wakeBy(helper: number, fd: number): void {
    Atomics.store(this.#words, this.#cpuWord(memberOf(helper), CPU_WORD.waker), fd);
  }

  /** How often that was said. */
  workOf(helper: number): number {
    return Atomics.load(this.#words, this.#cpuWord(memberOf(helper), CPU_WORD.work));
  }

  /** Sleeps until it is said again. */
  waitForWork(helper: number, seen: number): void {
    Atomics.wait(this.#words, this.#cpuWord(memberOf(helper), CPU_WORD.work), seen);
  }

  /** Wherever it waits, or runs, it looks at its command again. */
  #rouse(member: number): void {
    Atomics.notify(this.#words, WORD.generation);
    if (member >= BOARD_CPUS_MAX) this.giveWork(member - BOARD_CPUS_MAX);
    this.#kick(member);
  }

  #kick(cpu: number): void {
    const thread = Atomics.load(this.#words, this.#cpuWord(cpu, CPU_WORD.thread));
    if (thread !== 0) kick(cpu < BOARD_CPUS_MAX ? this.#runs[cpu] : 0, thread);
  }

  /** Stops all vCPUs, each with its pending I/O completed, and says what the state was. Under the lock. */
  pauseCpus(to: RunState): RunState {
    const before = this.runState;
    if (Atomics.load(this.#words, WORD.desired) === DESIRE.run) this.#command(DESIRE.pause);
    // A vCPU may have died while it was being stopped; that is not forgotten.
    if (!BROKEN.includes(this.runState)) this.runState = to;
    return before;
  }

  /** Lets all vCPUs run. Under the lock. */
  runCpus(): void {
    if (BROKEN.includes(this.runState))
      throw new TramError("E_STATE", `the guest cannot run: it is in state '${this.runState}'`, {
        next: "tram quit it",
      });
    this.runState = "running";
    this.#command(DESIRE.run);
  }

  /** Does something while no vCPU runs; those that ran go on. */
  whileStopped<T>(action: () => T): T {
    return this.locked(() => {
      const runs = Atomics.load(this.#words, WORD.desired) === DESIRE.run;
      if (runs) this.#command(DESIRE.pause);
      try {
        return action();
      } finally {
        if (runs && !BROKEN.includes(this.runState)) this.#command(DESIRE.run);
      }
    });
  }

  /** Waits until every vCPU's Worker is up and idle, so that its state may be loaded. */
  settleCpus(): void {
    this.locked(() => this.#command(DESIRE.pause));
  }

  /** Ends the vCPUs' Workers. */
  exitCpus(): void {
    this.locked(() => this.#command(DESIRE.exit));
  }

  /** Has vCPUs that wait in a device look around. */
  wakeWaiting(): void {
    Atomics.notify(this.#words, WORD.generation);
  }

  /** Those that run, too. */
  wakeCpus(): void {
    this.wakeWaiting();
    for (let cpu = 0; cpu < this.cpus; cpu++) this.#kick(cpu);
  }

  /** Has all vCPUs rest for this share of time from now on; 0: they run at full speed. */
  throttleCpus(percent: number): void {
    if (Atomics.exchange(this.#words, WORD.throttle, percent) === percent) return;
    Atomics.notify(this.#words, WORD.generation); // whoever rests
    for (let cpu = 0; cpu < this.cpus; cpu++) this.#kick(cpu);
  }

  /** Whether its writes are tracked. */
  get tracked(): boolean {
    return Atomics.load(this.#words, WORD.tracked) !== 0;
  }
  set tracked(is: boolean) {
    Atomics.store(this.#words, WORD.tracked, is ? 1 : 0);
  }

  // --- the vCPU's side ---

  get throttlePercent(): number {
    return Atomics.load(this.#words, WORD.throttle);
  }

  /** Says which thread runs vCPU `cpu`, so that it can be kicked. */
  cpuStarted(cpu: number, thread: number): void {
    Atomics.store(this.#words, this.#cpuWord(cpu, CPU_WORD.thread), thread);
  }

  /** What to do now, and the generation that says so. */
  command(): { run: boolean; exit: boolean; generation: number } {
    const generation = Atomics.load(this.#words, WORD.generation);
    const desired = Atomics.load(this.#words, WORD.desired);
    return { run: desired === DESIRE.run, exit: desired === DESIRE.exit, generation };
  }

  /** 0: it has not started. */
  threadOf(cpu: number): number {
    return Atomics.load(this.#words, this.#cpuWord(cpu, CPU_WORD.thread));
  }

  answer(cpu: number, generation: number): void {
    Atomics.store(this.#words, this.#cpuWord(cpu, CPU_WORD.answered), generation);
    Atomics.notify(this.#words, this.#cpuWord(cpu, CPU_WORD.answered));
  }

  hasAnswered(cpu: number, generation: number): boolean {
    return Atomics.load(this.#words, this.#cpuWord(cpu, CPU_WORD.answered)) === generation;
  }

  /** Sleeps until the generation changes; true if it did. */
  waitForCommand(generation: number, timeoutMs = Number.POSITIVE_INFINITY): boolean {
    return Atomics.wait(this.#words, WORD.generation, generation, timeoutMs) !== "timed-out";
  }

  /** A vCPU that cannot go on. It answers commands still, but never runs again. */
  cpuFailed(state: "internal-error" | "io-error" | "shutdown"): void {
    if (this.runState !== "io-error") this.runState = state; // what follows from bad memory is not the reason
  }

  // --- moves ---

  moverStarted(thread: number): void {
    Atomics.store(this.#words, WORD.moverThread, thread);
  }

  /** False if a move is under way already. */
  beginMove(): boolean {
    if (Atomics.compareExchange(this.#words, WORD.moving, 0, 1) !== 0) return false;
    Atomics.store(this.#words, WORD.moverStop, 0);
    Atomics.store(this.#words, WORD.pastHandover, 0);
    Atomics.store(this.#words, WORD.committed, 0);
    Atomics.store(this.#words, WORD.overdue, 0);
    this.#startedMs[0] = 0;
    return true;
  }

  endMove(): void {
    Atomics.store(this.#words, WORD.moving, 0);
    Atomics.notify(this.#words, WORD.moving);
  }

  get moving(): boolean {
    return Atomics.load(this.#words, WORD.moving) !== 0;
  }

  /** From here on a cancel comes too late: the hand-over word is going out. False: a cancel came first. */
  passHandover(): boolean {
    return this.locked(() => {
      if (Atomics.load(this.#words, WORD.moverStop) !== 0) return false;
      Atomics.store(this.#words, WORD.pastHandover, 1);
      return true;
    });
  }

  /** Asks the mover to stop; false if there is nothing to cancel any more. Repeat kickMover until the move has ended. */
  cancelMove(): boolean {
    return this.locked(() => {
      if (!this.moving || Atomics.load(this.#words, WORD.pastHandover) !== 0) return false;
      Atomics.store(this.#words, WORD.moverStop, 1);
      Atomics.notify(this.#words, WORD.moverStop);
      this.kickMover();
      return true;
    });
  }

  /** Its time counts since then; null: not now. */
  timeMove(sinceMs: number | null): void {
    this.#startedMs[0] = sinceMs ?? 0;
  }

  /** Milliseconds until cancelOverdue is to be asked; negative: nothing has to end in time. */
  moveTimeLeft(nowMs: number): number {
    const { timeoutMs, onTimeout } = this.limits;
    const mayEnd = this.moving && !this.cancelling && Atomics.load(this.#words, WORD.pastHandover) === 0;
    if (!mayEnd || timeoutMs === 0 || onTimeout !== "cancel") return -1;
    const [startedMs] = this.#startedMs;
    return startedMs === 0 || this.limits.hold
      ? NOT_TIMED_MS
      : Math.max(0, Math.ceil(startedMs + timeoutMs + OVERDUE_MS - nowMs));
  }

  cancelOverdue(): void {
    Atomics.store(this.#words, WORD.overdue, 1);
    if (!this.cancelMove()) Atomics.store(this.#words, WORD.overdue, 0);
  }

  get isOverdue(): boolean {
    return Atomics.load(this.#words, WORD.overdue) !== 0;
  }

  /** Waits, at most `limitMs`, until no job is under way: its journal is final a little before its channel is closed. */
  awaitIdle(limitMs: number): void {
    const end = performance.now() + limitMs;
    while (this.moving && performance.now() < end) Atomics.wait(this.#words, WORD.moving, 1, 5);
  }

  /** The file that is saved to has its name. */
  commit(): void {
    Atomics.store(this.#words, WORD.committed, 1);
    Atomics.notify(this.#words, WORD.committed);
  }

  /** Waits for that; false: the save was cancelled before. */
  awaitCommit(): boolean {
    while (Atomics.wait(this.#words, WORD.committed, 0, COMMIT_SLICE_MS) === "timed-out")
      if (this.cancelling) return false;
    return true;
  }

  get cancelling(): boolean {
    return Atomics.load(this.#words, WORD.moverStop) !== 0;
  }

  /** Sleeps `ms`, or until the move is cancelled. */
  moverSleep(ms: number): void {
    Atomics.wait(this.#words, WORD.moverStop, 0, ms);
  }

  kickMover(): void {
    const thread = Atomics.load(this.#words, WORD.moverThread);
    if (thread !== 0) kick(0, thread);
  }

  // --- journals: the current move's (written by the mover) and the restore's (written by the loader), for any reader ---

  writeJournal(value: unknown): void {
    this.#journal.write(value);
  }

  readJournal<T>(): T | null {
    return this.#journal.read();
  }

  writeRestore(value: RestoreJournal): void {
    this.#restore.write(value);
    Atomics.store(this.#words, WORD.loadPhase, LOAD_PHASES.indexOf(value.phase) + 1);
    Atomics.notify(this.#words, WORD.loadPhase);
  }

  readRestore(): RestoreJournal | null {
    return this.#restore.read();
  }

  /** Has all memory read, where it comes from a file, and waits for that. */
  awaitLoaded(checkStop: () => void): "at once" | "later" | "bad" {
    for (let waited = false; ; waited = true) {
      const phase = Atomics.load(this.#words, WORD.loadPhase);
      const name = LOAD_PHASES[phase - 1];
      if (name === "failed") return "bad";
      if (phase === 0 || name === "done") return waited ? "later" : "at once";
      this.wantLoaded();
      checkStop();
      Atomics.wait(this.#words, WORD.loadPhase, phase, LOAD_SLICE_MS);
    }
  }

  /** All of the guest's memory is about to be read. */
  wantLoaded(): void {
    Atomics.store(this.#words, WORD.loadWanted, 1);
    Atomics.notify(this.#words, WORD.loadWanted);
  }

  get loadWanted(): boolean {
    return Atomics.load(this.#words, WORD.loadWanted) !== 0;
  }

  /** Sleeps `ms`, or until somebody wants all memory read. */
  awaitLoadWanted(ms: number): void {
    Atomics.wait(this.#words, WORD.loadWanted, 0, ms);
  }
}

/** JSON in shared memory: one writer, any reader. The version is odd while it is written. */
class Slot {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #version: number;
  readonly #length: number;

  constructor(words: Int32Array, version: number, length: number, bytes: Uint8Array) {
    this.#words = words;
    this.#version = version;
    this.#length = length;
    this.#bytes = bytes;
  }

  write(value: unknown): void {
    const bytes = new TextEncoder().encode(JSON.stringify(value));
    if (bytes.length > this.#bytes.length) throw new TramError("E_INTERNAL", "the journal does not fit");
    Atomics.add(this.#words, this.#version, 1);
    this.#bytes.set(bytes);
    Atomics.store(this.#words, this.#length, bytes.length);
    Atomics.add(this.#words, this.#version, 1);
  }

  read<T>(): T | null {
    for (;;) {
      const version = Atomics.load(this.#words, this.#version);
      if (version === 0) return null;
      const text = new TextDecoder().decode(this.#bytes.slice(0, Atomics.load(this.#words, this.#length)));
      if (version % 2 === 0 && Atomics.load(this.#words, this.#version) === version) return JSON.parse(text) as T;
    }
  }
}

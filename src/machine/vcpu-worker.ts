// One vCPU: enter the guest, handle the exit, look at the command word. A Worker's whole life.

import { writeSync } from "node:fs";
import { restMs, THROTTLE_RUN_MS } from "../control/throttle.ts";
import { type ErrorData, TramError, toErrorData } from "../errors.ts";
import { layOut } from "../memory/block.ts";
import { EXIT_REASON, KickTimer, RUN, runVcpu, setIrqLine, threadId, viewRun } from "../native/kvm.ts";
import { net, POLL } from "../native/net.ts";
import { Rings } from "../native/rings.ts";
import { runTwin } from "../native/twin.ts";
import { isTwin } from "../stream/devices/machine.ts";
import { balloon as balloonTable } from "../stream/devices/virtio.ts";
import { initOf, tell } from "../thread.ts";
import { Board } from "./board.ts";
import { SERIAL_LINE, SERIAL_PORT, SERIAL_PORTS, Serial } from "./devices/serial.ts";
import {
  WALKER_ATTENTION,
  WALKER_MMIO_PROBE,
  WALKER_PORT_GRANT,
  WALKER_PORT_PROBE,
  WalkerPorts,
} from "./devices/walker.ts";
import { devicesOf } from "./devices.ts";
import { RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_OFF_VALUE } from "./linux/acpi.ts";
import { deviceWords, RESET, withDevices } from "./machine.ts";
import type { VirtioMmio } from "./virtio/mmio.ts";

export interface VcpuInit {
  board: SharedArrayBuffer;
  cpu: number;
  /** Where the serial port's output goes; -1: nowhere. */
  serialFd: number;
  /** And the console's. */
  consoleFd: number;
}

export type VcpuMessage =
  | { event: "shutdown"; cpu: number }
  | { event: "reset"; cpu: number }
  | { event: "failed"; cpu: number; error: ErrorData };

/** What a pipe with room for anything has room for. */
const PIECE_BYTES = 4096;
const CONSOLE_WAIT_MS = 100;

const init = initOf<VcpuInit>();
const board = new Board(init.board);
const { cpu } = init;
const say = (message: VcpuMessage): void => tell(message);
/** The Worker may be up before the machine: starting it takes longer than making that. */
const handles = board.awaitMachine();
const run = viewRun(handles.runs[cpu], handles.runBytes);
const words = deviceWords(board);
const sayOnSerial = lineTo(init.serialFd, 0);
const serial = new Serial(
  words.serial,
  (byte) => sayOnSerial(Uint8Array.of(byte)),
  (on) => {
    if (handles.description.pc) setIrqLine(handles.vm, SERIAL_LINE, on);
  },
);
const rings = handles.tracking.by === "ring" ? Rings.attach(handles.tracking.rings) : null;
const walker = handles.description.walker ? new WalkerPorts(words.walker, cpu, handles.vcpus.length) : null;

const virtio = devicesOf(board, handles, lineTo(init.consoleFd, CONSOLE_WAIT_MS));
const balloon = virtio.find(({ table }) => table === balloonTable)?.device ?? null;
/** What is left in these queues is dealt with here, before the guest goes on. */
const served = virtio.filter(({ isServed }) => isServed).map(({ device }) => device.registers);

/** It runs here, and in no VM. */
const twin = isTwin(handles.description) ? walker : null;

/**
 * Writes there. A full pipe or a stopped terminal loses bytes, as a serial line without flow control does: a vCPU that blocked here, with
 * the devices' lock, could not be stopped. Who reads more slowly than the guest writes is waited for, a little; who does not read at all,
 * once.
 */
function lineTo(fd: number, patienceMs: number): (bytes: Uint8Array) => void {
  let isStuck = false;
  return (bytes) => {
    if (fd < 0) return;
    try {
      for (let at = 0; at < bytes.length; ) {
        isStuck = !net.poll([{ fd, events: POLL.out }], isStuck || !board.command().run ? 0 : patienceMs);
        if (isStuck) return;
        at += writeSync(fd, bytes.subarray(at, at + PIECE_BYTES));
      }
    } catch {
      // A reader that went away must not stop the guest; the port has no way to say that its line is down.
    }
  };
}

/** Waiting time that the next memory read takes over from a grant: a vCPU is stopped in the middle of both kinds of read. */
let owedMs = 0;
let waitsInMmio = false;

/** Waits until the walker may go on, or a command comes. Not under the device lock. */
function waitInRead(ports: WalkerPorts, where: "pio" | "mmio", waitMs: number): void {
  const { run: mayRun, generation } = board.command();
  if (!mayRun || waitMs <= 0 || wantsAttention()) return;
  board.waitForCommand(generation, waitMs);
  if (board.command().generation !== generation) ports.noteStopped(where);
}

/** The walker takes no interrupts: the first vCPU learns of a device's from its grants. */
const wantsAttention = (): boolean => cpu === 0 && balloon !== null && balloon.registers.isInterrupting;

function grantPages(ports: WalkerPorts): number {
  const { pages, waitMs } = ports.grant(performance.now());
  waitsInMmio = !waitsInMmio;
  if (waitsInMmio) owedMs = waitMs;
  else waitInRead(ports, "pio", waitMs);
  return wantsAttention() ? pages | WALKER_ATTENTION : pages;
}

function probeMmio(ports: WalkerPorts, index: number): number {
  waitInRead(ports, "mmio", owedMs);
  owedMs = 0;
  return withDevices(words, () => ports.probeMmio(index));
}

function readPort(port: number): number {
  if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS)
    return withDevices(words, () => serial.read(port - SERIAL_PORT));
  if (walker && port === WALKER_PORT_GRANT) return grantPages(walker);
  if (walker && port === WALKER_PORT_PROBE) return withDevices(words, () => walker.probePio());
  return 0xffffffff; // nothing answers on an ISA bus
}

function writePort(port: number, value: number): void {
  if (port >= SERIAL_PORT && port < SERIAL_PORT + SERIAL_PORTS)
    withDevices(words, () => serial.write(port - SERIAL_PORT, value & 0xff));
  else if (handles.description.pc) writePower(port, value & 0xff);
}

/** The guest switches its machine off: what comes behind that it does not get to. */
let isOff = false;

function writePower(port: number, value: number): void {
  if (port === SLEEP_CONTROL_PORT && value === SLEEP_OFF_VALUE) isOff = true;
  if (port === RESET_PORT && value === RESET_VALUE) Atomics.store(words.reset, 0, RESET.wanted);
}

/** No vCPU goes on before the machine was started anew: here, or where the guest is then. */
function awaitReset(): void {
  const { run: mayRun, generation } = board.command();
  if (Atomics.compareExchange(words.reset, 0, RESET.wanted, RESET.told) === RESET.wanted) say({ event: "reset", cpu });
  if (mayRun) board.waitForCommand(generation);
}

function handleIo(): void {
  const isOut = run.getUint8(RUN.io.direction) === 1;
  const size = run.getUint8(RUN.io.size);
  const port = run.getUint16(RUN.io.port, true);
  const count = run.getUint32(RUN.io.count, true);
  let at = Number(run.getBigUint64(RUN.io.dataOffset, true));
  for (let i = 0; i < count; i++, at += size) {
    if (isOut)
      writePort(port, size === 1 ? run.getUint8(at) : size === 2 ? run.getUint16(at, true) : run.getUint32(at, true));
    else {
      const value = readPort(port);
      if (size === 1) run.setUint8(at, value);
      else if (size === 2) run.setUint16(at, value, true);
      else run.setUint32(at, value, true);
    }
  }
}

const slots = layOut(handles.ram.bytes);

function handleMmio(): void {
  const address = Number(run.getBigUint64(RUN.mmio.address, true));
  // No device is there: it is memory that the kernel could not reach.
  if (slots.some(({ gpa, bytes }) => address >= gpa && address < gpa + bytes)) throw unreadable(address);
  const there = virtio.find(({ place }) => address >= place.address && address < place.address + place.bytes);
  if (there) {
    withDevices(words, () => reachRegister(there.device.registers, address - there.place.address));
    return;
  }
  if (run.getUint8(RUN.mmio.isWrite)) return; // nothing else takes writes
  const index = (address - WALKER_MMIO_PROBE) / 4;
  const answers = walker !== null && Number.isInteger(index) && index >= 0 && index < handles.vcpus.length;
  const value = answers ? probeMmio(walker, index) : 0xffffffff;
  run.setUint32(RUN.mmio.data, value, true);
  run.setUint32(RUN.mmio.data + 4, 0xffffffff, true);
}

/** Registers are of 32 bits at most. */
function reachRegister(device: VirtioMmio, at: number): void {
  const bytes = Math.min(4, run.getUint32(RUN.mmio.length, true));
  if (run.getUint8(RUN.mmio.isWrite)) {
    device.write(at, bytes, run.getUint32(RUN.mmio.data, true) & (2 ** (8 * bytes) - 1));
    return;
  }
  run.setBigUint64(RUN.mmio.data, BigInt(device.read(at, bytes) >>> 0), true);
}

function unreadable(address: number): TramError {
  return new TramError("E_GUEST_RAM", `vCPU ${cpu} cannot reach its memory`, {
    where: `guest address 0x${address.toString(16)}`,
    found: "the file that it comes from is cut short, was changed, or is on a disk that fails",
    next: "the kernel's messages (dmesg) may say why; restore the guest from another snapshot",
  });
}

function shutDown(): void {
  board.cpuFailed("shutdown");
  say({ event: "shutdown", cpu });
}

/** False: the guest cannot go on. */
function handleExit(): boolean {
  const reason = run.getUint32(RUN.exitReason, true);
  switch (reason) {
    case EXIT_REASON.IO:
      handleIo();
      if (isOff) shutDown();
      return !isOff;
    case EXIT_REASON.MMIO:
      handleMmio();
      return true;
    case EXIT_REASON.INTR:
    case EXIT_REASON.HLT:
      return true;
    case EXIT_REASON.DIRTY_RING_FULL:
      if (rings) rings.makeRoom(cpu);
      return true;
    case EXIT_REASON.SHUTDOWN:
      throw new TramError("E_GUEST", `vCPU ${cpu} of the guest has crashed`, {
        found: "a triple fault (KVM_EXIT_SHUTDOWN)",
      });
    case EXIT_REASON.SYSTEM_EVENT:
      shutDown();
      return false;
    default: {
      const detail =
        reason === EXIT_REASON.INTERNAL_ERROR
          ? `suberror ${run.getUint32(RUN.internal.suberror, true)}, data ${run.getBigUint64(RUN.internal.data, true).toString(16)}`
          : "";
      throw new TramError("E_GUEST", `vCPU ${cpu} stopped with exit reason ${reason} ${detail}`);
    }
  }
}

const marks = handles.tracking.by === "marks" ? handles.tracking.marks : 0;
/** What the walker's twin may still write before it asks again. */
let granted = 0;

function walkTwin(ports: WalkerPorts): void {
  if (granted === 0) {
    const { pages, waitMs } = ports.grant(performance.now());
    granted = pages;
    waitInRead(ports, "pio", waitMs);
  }
  granted -= runTwin(handles.ram.handle, handles.runs[cpu], cpu, granted, marks);
}

/** Goes on with the guest for a while; false: it cannot. */
function enter(): boolean {
  if (twin) {
    walkTwin(twin);
    return true;
  }
  return !runVcpu(handles.vcpus[cpu]) || handleExit();
}

function goOn(): boolean {
  if (Atomics.load(words.reset, 0) !== RESET.none) {
    awaitReset();
    return true;
  }
  for (const device of served) if (device.isPending) withDevices(words, () => device.serve());
  return enter();
}

/** With immediate_exit set, entering only finishes the I/O instruction the vCPU is in the middle of. */
function completePendingIo(): boolean {
  if (twin) return true;
  run.setUint8(RUN.immediateExit, 1);
  while (runVcpu(handles.vcpus[cpu])) if (!handleExit()) return false;
  return true;
}

/** True while the vCPU can go on; what ends it is told to everybody. */
function attempt(step: () => boolean): boolean {
  try {
    return step();
  } catch (error) {
    board.cpuFailed(error instanceof TramError && error.code === "E_GUEST_RAM" ? "io-error" : "internal-error");
    say({ event: "failed", cpu, error: toErrorData(error) });
    return false;
  }
}

/** Rests between whiles, if the guest is to be slowed down. A timer ends the vCPU's time in the guest. */
class Throttle {
  #timer: KickTimer | null = null;
  #ranSinceMs = 0;

  rest(generation: number): void {
    const percent = board.throttlePercent;
    if (percent === 0) {
      if (this.#timer) this.#stop();
      return;
    }
    const nowMs = performance.now();
    if (!this.#timer) {
      this.#timer = new KickTimer(THROTTLE_RUN_MS);
      this.#ranSinceMs = nowMs;
    }
    const ranMs = nowMs - this.#ranSinceMs;
    if (ranMs < THROTTLE_RUN_MS) return;
    board.waitForCommand(generation, restMs(percent, Math.min(ranMs, RAN_MS_MAX)));
    this.#ranSinceMs = performance.now();
  }

  #stop(): void {
    this.#timer?.close();
    this.#timer = null;
  }
}
/** What is longer than this was no running: the host had other things to do. */
const RAN_MS_MAX = 2 * THROTTLE_RUN_MS;
const throttle = new Throttle();

function live(): void {
  board.cpuStarted(cpu, threadId());
  let able = true;
  for (;;) {
    // Cleared before the command is read: a kick after that sets it again, so that the entry below returns at once.
    run.setUint8(RUN.immediateExit, 0);
    const { run: mayRun, exit, generation } = board.command();
    if (!mayRun || !able) {
      if (able && !board.hasAnswered(cpu, generation)) able = attempt(completePendingIo);
      board.answer(cpu, generation);
      if (exit) return;
      board.waitForCommand(generation);
      continue;
    }
    if (!board.hasAnswered(cpu, generation)) board.answer(cpu, generation);
    throttle.rest(generation);
    able = attempt(goOn);
  }
}

live();

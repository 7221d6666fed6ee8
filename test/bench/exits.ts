// What a port read costs when TypeScript answers it, exit after exit, while other Workers keep the garbage collector busy. The
// loop is the vCPU Worker's: enter, look at kvm_run, run the device under its lock, look at the command word.
import { Worker } from "node:worker_threads";
import { Board } from "../../src/machine/board.ts";
import { bootWalker } from "../../src/machine/boot.ts";
import { WALKER_PORT_PROBE, WalkerPorts } from "../../src/machine/devices/walker.ts";
import { createMachine, createRam, createVm, deviceWords } from "../../src/machine/machine.ts";
import { EXIT_REASON, RUN, runVcpu, viewRun } from "../../src/native/kvm.ts";
import { quantile } from "./stats.ts";

const MEMORY = 16 << 20;
const CODE_AT = 0x8000; // where the walker starts, whose place this takes
const WARM_UP = 50_000;

/** mov edx, 0x514; 1: in eax, dx; jmp 1b */
const CODE = Buffer.from("ba14050000edebfd", "hex");

const ALLOCATE = `
  for (;;) {
    const kept = [];
    for (let i = 0; i < 20000; i++) kept.push({ i, text: "x".repeat(i % 50), list: [i, i + 1] });
    postMessage(kept.length);
  }`;

export interface Exits {
  perSecond: number;
  p50Us: number;
  p999Us: number;
}

export async function measureExits(allocators: number, count: number): Promise<Exits> {
  const board = new Board();
  const vm = createVm();
  const ram = createRam(MEMORY, true);
  const description = {
    name: "exits",
    memoryBytes: MEMORY,
    cpus: 1,
    tscKhz: 0,
    walker: true,
    balloon: false,
    pc: false,
    vsock: false,
    console: false,
    mac: null,
    disks: [],
    cpuid: vm.cpuid,
  };
  const handles = createMachine(description, ram, board, vm);
  bootWalker(handles, board, {
    workingSetBytes: 4096,
    dirtyRate: 0,
    fill: "zero",
    seed: 1,
    freeBytes: 0,
    cacheBytes: 0,
    habit: "keep" as const,
  });
  ram.write(CODE_AT, CODE);
  const others = Array.from({ length: allocators }, () => new Worker(ALLOCATE, { eval: true }));
  await Bun.sleep(300); // they are at work

  const run = viewRun(handles.runs[0], handles.runBytes);
  const { lock, walker } = deviceWords(board);
  const ports = new WalkerPorts(walker, 0, 1);
  const took = new Float64Array(count);
  let last = Bun.nanoseconds();
  const startedNs = { value: last };
  for (let i = -WARM_UP; i < count; i++) {
    if (!board.command().run && !runVcpu(handles.vcpus[0])) continue;
    if (
      run.getUint32(RUN.exitReason, true) !== EXIT_REASON.IO ||
      run.getUint16(RUN.io.port, true) !== WALKER_PORT_PROBE
    )
      throw new Error(`unexpected exit ${run.getUint32(RUN.exitReason, true)}`);
    while (Atomics.compareExchange(lock, 0, 0, 1) !== 0);
    const value = ports.probePio();
    Atomics.store(lock, 0, 0);
    Atomics.notify(lock, 0, 1);
    run.setUint32(Number(run.getBigUint64(RUN.io.dataOffset, true)), value, true);
    const now = Bun.nanoseconds();
    if (i === 0) startedNs.value = last;
    if (i >= 0) took[i] = (now - last) / 1000;
    last = now;
  }
  const perSecond = (count * 1e9) / (last - startedNs.value);
  for (const other of others) await other.terminate();
  const us = Array.from(took);
  return { perSecond, p50Us: quantile(us, 0.5), p999Us: quantile(us, 0.999) };
}

if (import.meta.main) {
  const result = await measureExits(Number(process.argv[2] ?? 0), Number(process.argv[3] ?? 300_000));
  process.stdout.write(`${JSON.stringify(result)}\n`);
  process.exit(0);
}

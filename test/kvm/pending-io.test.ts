// Why a vCPU is re-entered once before its state is read: without that, a port or memory read in progress is lost.
import { describe, expect, test } from "bun:test";
import { Board } from "../../src/machine/board.ts";
import { bootWalker } from "../../src/machine/boot.ts";
import { saveVcpu } from "../../src/machine/kvm-state.ts";
import { createMachine, createVm } from "../../src/machine/machine.ts";
import { EXIT_REASON, RUN, runVcpu, viewRun } from "../../src/native/kvm.ts";
import { Ram } from "../../src/native/ram.ts";
import type { State } from "../../src/stream/vmstate.ts";
import { whyNoKvm } from "../support/bed.ts";

const reason = whyNoKvm();
const ANSWER = 0x1234567;
const CODE_AT = 0x8000;

/** The guest's code, the exit that it makes, and where the answer goes in kvm_run. */
const READS = {
  // mov edx, 0x514; in eax, dx; hlt
  port: { code: "ba14050000edf4", exit: EXIT_REASON.IO, length: 1, at: 5 },
  // mov ebx, 0xd0000000; mov eax, [rbx]; hlt
  memory: { code: "bb000000d08b03f4", exit: EXIT_REASON.MMIO, length: 2, at: 5 },
};

describe.skipIf(reason !== null)(
  `a vCPU stopped in the middle of a read${reason ? ` (skipped: ${reason})` : ""}`,
  () => {
    test.each(Object.entries(READS))(
      "of a %s has its answer only after it was entered once more",
      (_, { code, exit, length, at }) => {
        const vm = createVm();
        const board = new Board();
        const ram = Ram.create(16 << 20);
        const description = {
          name: "t",
          memoryBytes: 16 << 20,
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
        ram.write(CODE_AT, Buffer.from(code, "hex"));
        const [vcpu] = handles.vcpus;
        const run = viewRun(handles.runs[0], handles.runBytes);
        const registers = () => saveVcpu(vcpu).regs as State;

        expect(runVcpu(vcpu)).toBe(true);
        expect(run.getUint32(RUN.exitReason, true)).toBe(exit);
        const answerAt = exit === EXIT_REASON.IO ? Number(run.getBigUint64(RUN.io.dataOffset, true)) : RUN.mmio.data;
        run.setUint32(answerAt, ANSWER, true);

        // State read now, as a move would without the entry, has no answer.
        expect((registers().rax as bigint) & 0xffffffffn).not.toBe(BigInt(ANSWER));

        run.setUint8(RUN.immediateExit, 1);
        expect(runVcpu(vcpu)).toBe(false);
        const after = registers();
        expect((after.rax as bigint) & 0xffffffffn).toBe(BigInt(ANSWER));
        expect(after.rip).toBe(BigInt(CODE_AT + at + length));
      },
    );
  },
);

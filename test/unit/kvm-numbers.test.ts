import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  EXIT_REASON,
  KVM,
  KVM_API_VERSION,
  KVM_CAP,
  KVM_DIRTY_LOG_INITIALLY_SET,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MP_STATE_RUNNABLE,
  RUN,
} from "../../src/native/kvm.ts";
import { debugregs, regs, sregs, XSAVE_BYTES_MAX, xcrs } from "../../src/stream/devices/vcpu.ts";
import type { Field, Table } from "../../src/stream/vmstate.ts";

const prefixed = (prefix: string, table: Record<string, number>): [string, number][] =>
  Object.entries(table).map(([name, value]) => [prefix + name, value]);
const offset = (member: string): string => `offsetof(struct kvm_run, ${member})`;

const SCALAR_BYTES: Record<string, number> = { uint8: 1, uint16: 2, uint32: 4, uint64: 8 };
const fieldBytes = (field: Field): number =>
  (field.type === "struct" ? tableBytes(field.table) : SCALAR_BYTES[field.type]) *
  ("count" in field ? (field.count ?? 1) : 1);
const tableBytes = (table: Table): number => table.fields.reduce((sum, field) => sum + fieldBytes(field), 0);

/** Where a table puts its fields, under the names of the C structure. */
function members(struct: string, table: Table): [string, number][] {
  let at = 0;
  return table.fields.map((field) => {
    const row: [string, number] = [`offsetof(struct ${struct}, ${field.name})`, at];
    at += fieldBytes(field);
    return row;
  });
}

const inner = (table: Table, name: string): Table => {
  const field = table.fields.find((one) => one.name === name);
  if (field?.type !== "struct") throw new Error(`${name} is no struct`);
  return field.table;
};

/** A C expression, and what TypeScript says it is. */
const ROWS: [string, number][] = [
  ...prefixed("KVM_", KVM),
  ...prefixed("KVM_CAP_", KVM_CAP),
  ...prefixed("KVM_EXIT_", EXIT_REASON),
  ["KVM_API_VERSION", KVM_API_VERSION],
  ["KVM_MEM_LOG_DIRTY_PAGES", KVM_MEM_LOG_DIRTY_PAGES],
  ["KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE", KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE],
  ["KVM_DIRTY_LOG_INITIALLY_SET", KVM_DIRTY_LOG_INITIALLY_SET],
  ["KVM_MP_STATE_RUNNABLE", KVM_MP_STATE_RUNNABLE],
  ["sizeof(struct kvm_xsave)", XSAVE_BYTES_MAX],
  [offset("immediate_exit"), RUN.immediateExit],
  [offset("exit_reason"), RUN.exitReason],
  [offset("io.direction"), RUN.io.direction],
  [offset("io.size"), RUN.io.size],
  [offset("io.port"), RUN.io.port],
  [offset("io.count"), RUN.io.count],
  [offset("io.data_offset"), RUN.io.dataOffset],
  [offset("mmio.phys_addr"), RUN.mmio.address],
  [offset("mmio.data"), RUN.mmio.data],
  [offset("mmio.len"), RUN.mmio.length],
  [offset("mmio.is_write"), RUN.mmio.isWrite],
  [offset("internal.suberror"), RUN.internal.suberror],
  [offset("internal.ndata"), RUN.internal.count],
  [offset("internal.data"), RUN.internal.data],
  ...members("kvm_regs", regs),
  ["sizeof(struct kvm_regs)", tableBytes(regs)],
  ...members("kvm_sregs2", sregs),
  ["sizeof(struct kvm_sregs2)", tableBytes(sregs)],
  ...members("kvm_segment", inner(sregs, "cs")),
  ...members("kvm_dtable", inner(sregs, "gdt")),
  ...members("kvm_xcrs", xcrs),
  ...members("kvm_xcr", inner(xcrs, "xcrs")),
  ...members("kvm_debugregs", debugregs),
];

describe("KVM's numbers", () => {
  const folder = mkdtempSync(join(tmpdir(), "tram-kvm-"));
  let fromHeader: number[] = [];
  afterAll(() => rmSync(folder, { recursive: true }));

  beforeAll(() => {
    const lines = ROWS.map(([expression]) => `  printf("%llu\\n", (unsigned long long)(${expression}));`);
    const includes = ["stddef.h", "stdio.h", "sys/ioctl.h", "linux/kvm.h"].map((name) => `#include <${name}>`);
    const source = join(folder, "numbers.c");
    const program = join(folder, "numbers");
    writeFileSync(source, `${includes.join("\n")}\nint main(void) {\n${lines.join("\n")}\n}\n`);
    const compiled = Bun.spawnSync([process.env.CC ?? "cc", "-o", program, source]);
    if (compiled.exitCode !== 0) throw new Error(compiled.stderr.toString());
    fromHeader = Bun.spawnSync([program]).stdout.toString().trim().split("\n").map(Number);
  });

  test("were all printed", () => {
    expect(fromHeader).toHaveLength(ROWS.length);
  });

  test.each(ROWS.map(([expression, ours], row) => ({ expression, ours, row })))(
    "agree: $expression is $ours",
    ({ ours, row }) => {
      expect(fromHeader[row]).toBe(ours);
    },
  );
});

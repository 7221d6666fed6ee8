import { describe, expect, test } from "bun:test";
import { stateToStruct, structToState } from "../../src/machine/kvm-state.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { debugregs, regs, sregs, xcrs } from "../../src/stream/devices/vcpu.ts";
import { loadState, saveState } from "../../src/stream/vmstate.ts";

/** The size of KVM's structure, and how much of it the table covers; the rest is reserved. */
const ROWS = [
  { table: regs, structBytes: 144, covered: 144 },
  { table: sregs, structBytes: 320, covered: 320 },
  { table: xcrs, structBytes: 392, covered: 8 + 16 * 16 },
  { table: debugregs, structBytes: 128, covered: 7 * 8 },
];
const SEEDS = [1, 2, 3, 4, 5];

function randomBytes(count: number, seed: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: count }, (_, i) => Number(Bun.hash.wyhash(`${i}`, BigInt(seed)) & 0xffn));
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

describe.each(ROWS)("KVM's structure for $table.name", ({ table, structBytes, covered }) => {
  test.each(SEEDS)("comes back byte for byte as far as the table goes, seed %d", (seed) => {
    const bytes = randomBytes(structBytes, seed);
    const back = new Uint8Array(structBytes).fill(0xee);
    stateToStruct(table, structToState(table, viewOf(bytes)), viewOf(back));
    expect(back.subarray(0, covered)).toEqual(bytes.subarray(0, covered));
    expect(back.subarray(covered)).toEqual(new Uint8Array(structBytes - covered).fill(0xee));
  });

  test.each(SEEDS)("survives the stream, where integers are the other way round, seed %d", (seed) => {
    const bytes = randomBytes(structBytes, seed);
    const out = new ByteWriter();
    saveState(table, structToState(table, viewOf(bytes)), out);
    expect(out.length).toBe(covered);
    const back = new Uint8Array(structBytes);
    stateToStruct(table, loadState(table, new ByteReader(out.done())), viewOf(back));
    expect(back.subarray(0, covered)).toEqual(bytes.subarray(0, covered));
  });

  test("is read at an offset as at the start", () => {
    const bytes = randomBytes(structBytes, 9);
    const shifted = new Uint8Array(structBytes + 8);
    shifted.set(bytes, 8);
    expect(structToState(table, viewOf(shifted), 8)).toEqual(structToState(table, viewOf(bytes)));
  });

  test("must hold the table", () => {
    expect(() => structToState(table, viewOf(new Uint8Array(covered - 1)))).toThrow();
    expect(() => structToState(table, viewOf(new Uint8Array(covered)))).not.toThrow();
  });
});

describe("a register", () => {
  test("is found under its name", () => {
    const bytes = new Uint8Array(144);
    viewOf(bytes).setBigUint64(0, 0x1122334455667788n, true);
    viewOf(bytes).setBigUint64(128, 2n ** 64n - 1n, true);
    const state = structToState(regs, viewOf(bytes));
    expect(state).toMatchObject({ rax: 0x1122334455667788n, rbx: 0n, rip: 2n ** 64n - 1n, rflags: 0n });
  });
});

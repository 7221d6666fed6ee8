// What CPU a guest sees.
import { expect, test } from "bun:test";
import { missingFeatures } from "../../src/control/fit.ts";
import { cpuOf } from "../../src/machine/cpu-model.ts";
import type { CpuidEntry } from "../../src/stream/devices/machine.ts";

const ALL = 0xffffffff;
const row = (leaf: number, values: Partial<CpuidEntry> = {}, index = 0): CpuidEntry => ({ function: leaf, index, flags: 0, eax: ALL, ebx: ALL, ecx: ALL, edx: ALL, ...values }); // biome-ignore format: one line
/** Has everything that a bit can say. */
const GREAT = [
  ...[0, 1, 2, 4, 6, 7, 0xa, 0xb, 0xd, 0x14, 0x15, 0x1f, 0x24, 0x40000000, 0x40000001].map((leaf) => row(leaf)),
  row(7, {}, 1),
  ...[0, 1, 2, 3, 4, 5, 6, 7, 8, 0xa, 0x1e, 0x1f, 0x21].map((leaf) => row(0x80000000 + leaf)),
];
const find = (table: readonly CpuidEntry[], leaf: number) => table.find((entry) => entry.function === leaf);

test("the host's is the host's", () => expect(cpuOf("host", GREAT)).toEqual(GREAT));

test("the baseline is x86-64-v2, and nothing that only some have", () => {
  const guest = cpuOf("baseline", GREAT);
  expect(find(guest, 1)).toMatchObject({ eax: ALL, ecx: 0x81b82201, edx: 0x078bfbff });
  for (const leaf of [7, 0xa, 0xd, 0x14, 0x15, 0x1f, 0x24, 0x80000007, 0x8000000a, 0x8000001f, 0x80000021])
    expect(find(guest, leaf)).toBeUndefined();
  expect(find(guest, 0x80000001)).toMatchObject({ ecx: 1, edx: (1 << 29) | (1 << 20) | (1 << 11), eax: 0, ebx: 0 });
  expect([find(guest, 0)?.eax, find(guest, 0x80000000)?.eax]).toEqual([0xb, 0x80000008]);
  expect(find(guest, 0x80000008)).toMatchObject({ eax: 0x3028, ebx: 0 });
});

test("what one host shows as the baseline, another that is much older can run", () => {
  const guest = cpuOf("baseline", GREAT);
  // Nehalem, as KVM shows it.
  const old = [
    row(0, { eax: 0xb }),
    row(1, { ecx: (0x0098e3fd | (1 << 21) | (1 << 24) | (1 << 31)) >>> 0, edx: 0xbfebfbff }),
    row(0x40000001, { eax: 0x01007efb }),
    row(0x80000001, { ecx: 1, edx: 0x28100800 }),
  ];
  expect(missingFeatures(guest, old)).toEqual([]);
  expect(missingFeatures(cpuOf("host", GREAT), old)).not.toEqual([]);
});

test("a host that has not got it says so", () => {
  const older = GREAT.map((entry) => (entry.function === 1 ? { ...entry, ecx: 1 } : entry));
  expect(() => cpuOf("baseline", older)).toThrow("no x86-64-v2");
});

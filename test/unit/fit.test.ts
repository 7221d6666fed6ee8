import { describe, expect, test } from "bun:test";
import { checkFit, missingFeatures } from "../../src/control/fit.ts";
import { TramError } from "../../src/errors.ts";
import type { CpuidEntry, MachineDescription } from "../../src/stream/devices/machine.ts";
import { HELLO_VERSION, type Hello } from "../../src/stream/return-path.ts";

const leaf = (fn: number, index: number, registers: Partial<CpuidEntry> = {}): CpuidEntry => ({
  function: fn,
  index,
  flags: 0,
  eax: 0,
  ebx: 0,
  ecx: 0,
  edx: 0,
  ...registers,
});

describe("features that a host lacks", () => {
  const AVX = 1 << 28;
  const OSXSAVE = 1 << 27;
  test.each<{ why: string; guest: CpuidEntry[]; host: CpuidEntry[]; missing: string[] }>([
    { why: "none of none", guest: [], host: [], missing: [] },
    {
      why: "none where both are the same",
      guest: [leaf(1, 0, { ecx: AVX })],
      host: [leaf(1, 0, { ecx: AVX })],
      missing: [],
    },
    { why: "none where the host has more", guest: [leaf(1, 0)], host: [leaf(1, 0, { ecx: AVX })], missing: [] },
    { why: "the one bit", guest: [leaf(1, 0, { ecx: AVX })], host: [leaf(1, 0)], missing: ["leaf 0x1.0 ecx bit 28"] },
    {
      why: "bits of a leaf the host has not",
      guest: [leaf(7, 1, { eax: 0x11 })],
      host: [leaf(7, 0, { eax: -1 })],
      missing: ["leaf 0x7.1 eax bit 0", "leaf 0x7.1 eax bit 4"],
    },
    {
      why: "bit 31, which makes the number negative",
      guest: [leaf(0x80000001, 0, { edx: 0x80000000 })],
      host: [],
      missing: ["leaf 0x80000001.0 edx bit 31"],
    },
    { why: "not OSXSAVE, which mirrors CR4", guest: [leaf(1, 0, { ecx: OSXSAVE })], host: [leaf(1, 0)], missing: [] },
    {
      why: "bit 27 elsewhere",
      guest: [leaf(1, 0, { edx: OSXSAVE })],
      host: [leaf(1, 0)],
      missing: ["leaf 0x1.0 edx bit 27"],
    },
    {
      why: "not numbers that are no features",
      guest: [leaf(0, 0, { eax: 0x20 }), leaf(1, 0, { eax: 0xfff, ebx: 7 })],
      host: [],
      missing: [],
    },
    {
      why: "KVM's own",
      guest: [leaf(0x40000001, 0, { eax: 8 })],
      host: [leaf(0x40000001, 0)],
      missing: ["leaf 0x40000001.0 eax bit 3"],
    },
    {
      why: "each register of leaf 7",
      guest: [leaf(7, 0, { ebx: 1, ecx: 2, edx: 4 })],
      host: [leaf(7, 0)],
      missing: ["leaf 0x7.0 ebx bit 0", "leaf 0x7.0 ecx bit 1", "leaf 0x7.0 edx bit 2"],
    },
    {
      why: "XSAVE's, power's and the address sizes' leaves",
      guest: [leaf(0xd, 1, { eax: 2 }), leaf(0x80000007, 0, { edx: 256 }), leaf(0x80000008, 0, { ebx: 1 })],
      host: [],
      missing: ["leaf 0xd.1 eax bit 1", "leaf 0x80000007.0 edx bit 8", "leaf 0x80000008.0 ebx bit 0"],
    },
    {
      why: "what came later: the rest of leaf 7, what XSAVE keeps, AMD's",
      guest: [
        leaf(7, 1, { ebx: 1, ecx: 2, edx: 4 }),
        leaf(7, 2, { edx: 0x28 }),
        leaf(0xd, 0, { eax: 0x200, ebx: 0xa88, ecx: 0xa88, edx: 1 }),
        leaf(0x80000021, 0, { eax: 0x104 }),
      ],
      host: [leaf(7, 1), leaf(0xd, 0)],
      missing: [
        ...["leaf 0x7.1 ebx bit 0", "leaf 0x7.1 ecx bit 1", "leaf 0x7.1 edx bit 2", "leaf 0x7.2 edx bit 3"],
        ...["leaf 0xd.0 eax bit 9", "leaf 0xd.0 edx bit 0", "leaf 0x80000021.0 eax bit 8"],
      ],
    },
  ])("are $why", ({ guest, host, missing }) => {
    expect(missingFeatures(guest, host)).toEqual(missing);
  });
});

describe("whether a guest fits", () => {
  const guest: MachineDescription = {
    name: "g",
    memoryBytes: 1 << 28,
    cpus: 2,
    tscKhz: 1,
    walker: true,
    balloon: false,
    pc: false,
    vsock: false,
    console: false,
    mac: null,
    disks: [],
    cpuid: [leaf(1, 0, { edx: 3 })],
  };
  const hello: Hello = {
    version: HELLO_VERSION,
    name: "t",
    memoryBytes: null,
    cpus: null,
    cpuid: [leaf(1, 0, { edx: 3 })],
  };

  test.each<{ why: string; target: Partial<Hello> }>([
    { why: "says nothing of its own", target: {} },
    { why: "was given the same memory and CPUs", target: { memoryBytes: 1 << 28, cpus: 2 } },
    { why: "has more features", target: { cpuid: [leaf(1, 0, { edx: 7 })] } },
  ])("is yes for a target that $why", ({ target }) => {
    expect(() => checkFit(guest, { ...hello, ...target })).not.toThrow();
  });

  test.each<{ what: string; target: Partial<Hello>; expected: string; found: string }>([
    {
      what: "another version",
      target: { version: HELLO_VERSION + 1 },
      expected: `version ${HELLO_VERSION}`,
      found: `version ${HELLO_VERSION + 1}`,
    },
    { what: "--memory", target: { memoryBytes: 1 << 27 }, expected: "268435456 bytes", found: "134217728 bytes" },
    { what: "--cpus", target: { cpus: 1 }, expected: "2", found: "1" },
    {
      what: "CPU lacks features",
      target: { cpuid: [leaf(1, 0, { edx: 1 })] },
      expected: "leaf 0x1.0 edx bit 1",
      found: "not there",
    },
    {
      what: "CPU lacks features",
      target: { cpuid: [leaf(2, 0)] },
      expected: "leaf 0x1.0 edx bit 0, leaf 0x1.0 edx bit 1",
      found: "not there",
    },
    {
      what: "no KVM",
      target: { cpuid: [] },
      expected: "a guest that --accel none has booted",
      found: "one of KVM's",
    },
  ])("is no, with a reason, because of $what: $found", ({ what, target, expected, found }) => {
    let error: unknown;
    try {
      checkFit(guest, { ...hello, ...target });
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(TramError);
    expect(error).toMatchObject({
      code: "E_REFUSED",
      message: expect.stringContaining(what),
      details: { expected, found, next: expect.any(String) },
    });
  });

  test("is yes for a guest that has seen no CPU, wherever", () => {
    for (const cpuid of [[], hello.cpuid])
      expect(() => checkFit({ ...guest, cpuid: [] }, { ...hello, cpuid })).not.toThrow();
  });

  test("names eight missing features at most, and counts the others", () => {
    const many = { ...guest, cpuid: [leaf(1, 0, { edx: 0xfff })] };
    try {
      checkFit(many, { ...hello, cpuid: [leaf(2, 0)] });
      expect.unreachable();
    } catch (error) {
      const { expected } = (error as TramError).details;
      expect(expected?.match(/bit/g)).toHaveLength(8);
      expect(expected).toEndWith("and 4 more");
    }
  });
});

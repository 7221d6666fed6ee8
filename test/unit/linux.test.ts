// What a Linux kernel is handed when it begins: where it lies, what it is told of its machine, who its CPUs are.
import { describe, expect, test } from "bun:test";
import { Keys } from "../../src/cli/serial-input.ts";
import { TramError } from "../../src/errors.ts";
import { cpuidOf, withoutStaying } from "../../src/machine/cpuid.ts";
import { acpiTables } from "../../src/machine/linux/acpi.ts";
import * as aml from "../../src/machine/linux/aml.ts";
import { planLinux } from "../../src/machine/linux/boot-linux.ts";
import { BOOT_PARAMS_BYTES, bootParams, memoryMap } from "../../src/machine/linux/boot-params.ts";
import { HEADER, parseBzImage } from "../../src/machine/linux/bzimage.ts";
import { parsePvh, startInfo } from "../../src/machine/linux/pvh.ts";
import type { CpuidEntry } from "../../src/stream/devices/machine.ts";
import { bzImage, pvhKernelOf } from "../support/bzimage.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const errorOf = (action: () => unknown): TramError => {
  try {
    action();
  } catch (error) {
    if (error instanceof TramError) return error;
    throw error;
  }
  throw new Error("no error");
};

describe("a kernel's file", () => {
  test("is its header, and the kernel behind its set-up code", () => {
    const file = bzImage();
    const image = parseBzImage(file, "vmlinuz");
    expect(image.kernel.length).toBe(8 * MIB);
    expect(image.kernel[0]).toBe(0xee);
    expect(image).toMatchObject({
      preferredAt: 16 * MIB,
      initBytes: 40 * MIB,
      entry: 0x200,
      commandLineBytesMax: 2047,
    });
    // Up to where its jump goes over.
    expect(image.header).toEqual(file.slice(0x1f1, 0x202 + 0x6a));
  });

  test.each<[string, Uint8Array, string, string]>([
    ["nothing", new Uint8Array(0), "E_USAGE", "an empty file"],
    ["a few bytes", new Uint8Array(100), "E_USAGE", "100 bytes of something else"],
    ["what gzip made", Uint8Array.from([0x1f, 0x8b, ...new Uint8Array(2000)]), "E_USAGE", "a gzip file"],
    ["an initrd", new TextEncoder().encode(`070701${"0".repeat(2000)}`), "E_USAGE", "a cpio archive: an initrd?"],
    ["a boot sector alone", bzImage(16, (view) => view.setUint32(HEADER.magic, 0)), "E_USAGE", "something else"],
    ["a kernel of 2.6", bzImage(16, (view) => view.setUint16(HEADER.version, 0x20a, true)), "E_REFUSED", "boot protocol 2.10"],
    ["one of 32 bits", bzImage(16, (view) => view.setUint16(HEADER.extendedLoadFlags, 2, true)), "E_REFUSED", "protocol 2.15"],
    ["one that wants to be low", bzImage(16, (view) => view.setUint8(HEADER.loadFlags, 0)), "E_REFUSED", ""],
    ["one that is cut short", bzImage().subarray(0, 5 * MIB), "E_FILE", `${5 * MIB}`],
  ])("of %s is refused", (_, file, code, found) => {
    const error = errorOf(() => parseBzImage(file, "vmlinuz"));
    expect(error.code as string).toBe(code);
    expect(error.message).toContain("vmlinuz");
    expect(error.details.found ?? "").toContain(found);
  }); // biome-ignore format: a row each
});

describe("a kernel that is an ELF file", () => {
  const CODE = [1, 2, 3, 4];

  test("is its parts, the zeros behind them, and where it is entered", () => {
    const image = parsePvh(pvhKernelOf(CODE), "vmlinux");
    expect(image).toEqual({
      parts: [{ at: MIB, bytes: Uint8Array.from(CODE), zeros: 100 }],
      from: MIB,
      to: MIB + 104,
      entry: MIB,
    });
    expect(parsePvh(bzImage(16), "vmlinuz")).toBeNull();
    expect(parsePvh(new Uint8Array(3), "vmlinuz")).toBeNull();
  });

  test.each<[string, Uint8Array, string, string]>([
    ["that is cut short", pvhKernelOf(CODE).subarray(0, 514), "E_FILE", "514 bytes"],
    ["of which only the head is there", pvhKernelOf(CODE).subarray(0, 100), "E_FILE", "100 bytes"],
    ["of another CPU", pvhKernelOf(CODE, (view) => view.setUint16(18, 183, true)), "E_USAGE", "another kind"],
    ["of 32 bits", pvhKernelOf(CODE, (view) => view.setUint8(4, 1)), "E_USAGE", "another kind"],
    ["with headers of another size", pvhKernelOf(CODE, (view) => view.setUint16(54, 32, true)), "E_USAGE", "usual"],
    ["with headers without end", pvhKernelOf(CODE, (view) => view.setUint16(56, 0xffff, true)), "E_USAGE", "usual"],
    ["whose headers are nowhere", pvhKernelOf(CODE, (view) => view.setBigUint64(32, 2n ** 63n, true)), "E_FILE", "bytes"],
    ["that does not say how it is entered", pvhKernelOf(CODE, (view) => view.setUint32(256 + 28, 17, true)), "E_USAGE", "without the note"],
    ["whose notes go on beyond their end", pvhKernelOf(CODE, (view) => view.setUint32(256, 0xffffffff, true)), "E_USAGE", "without the note"],
    ["with nothing in it", pvhKernelOf(CODE, (view) => view.setUint32(64, 2, true)), "E_USAGE", "without the note"],
  ])("%s is refused", (_, file, code, found) => {
    const error = errorOf(() => parsePvh(file, "vmlinux"));
    expect(error.code as string).toBe(code);
    expect(error.message).toContain("vmlinux");
    expect(error.details.found ?? "").toContain(found);
  }); // biome-ignore format: a row each

  test("with a part beyond all memory does not fit, and nothing is made for it", () => {
    const huge = pvhKernelOf(CODE, (view) => view.setBigUint64(64 + 40, 2n ** 50n, true));
    const low = pvhKernelOf(CODE, (view) => view.setBigUint64(64 + 24, 0n, true));
    for (const bytes of [huge, low])
      expect(
        errorOf(() => planLinux({ kernel: { name: "vmlinux", bytes }, initrd: null, commandLine: "" }, GIB)).message,
      ).toContain("does not fit");
  });

  test("finds its command line, its initrd and the map of memory by one address", () => {
    const initrd = { address: 0x0f600000, bytes: 1234 };
    const boot = { memoryBytes: 256 * MIB, commandLineAt: 0x20000, rsdpAt: 0xe0000 };
    const bytes = startInfo({ ...boot, initrd }, 0x7000);
    const view = new DataView(bytes.buffer);
    const u64 = (at: number) => Number(view.getBigUint64(at, true));
    expect([view.getUint32(0, true), view.getUint32(4, true), view.getUint32(12, true)]).toEqual([0x336ec578, 1, 1]);
    expect([u64(24), u64(32)]).toEqual([0x20000, 0xe0000]);
    expect([u64(u64(16) - 0x7000), u64(u64(16) - 0x7000 + 8)]).toEqual([initrd.address, 1234]);
    const map = u64(40) - 0x7000;
    const rows = Array.from({ length: view.getUint32(48, true) }, (_, i) => ({
      address: u64(map + 24 * i),
      bytes: u64(map + 24 * i + 8),
      type: view.getUint32(map + 24 * i + 16, true),
    }));
    expect(rows).toEqual(memoryMap(256 * MIB));
    const bare = new DataView(startInfo({ ...boot, initrd: null }, 0x7000).buffer);
    expect([bare.getUint32(12, true), bare.getBigUint64(16, true)]).toEqual([0, 0n]);
  });
});

describe("its place", () => {
  const files = (kernel = bzImage(), initrdMib = 10, commandLine = "console=ttyS0") => ({
    kernel: { name: "vmlinuz", bytes: kernel },
    initrd: initrdMib ? { name: "initrd", bytes: new Uint8Array(initrdMib * MIB - 100) } : null,
    commandLine,
  });

  test("is where it likes to be; the initrd is as high as it may", () => {
    const plan = planLinux(files(), 256 * MIB);
    expect([plan.kernel.from, plan.kernel.to, plan.kernel.entry]).toEqual([16 * MIB, 56 * MIB, 16 * MIB + 0x200]);
    expect(plan.initrd?.at).toBe(246 * MIB);
    expect(new TextDecoder().decode(plan.commandLine)).toBe("console=ttyS0\0");
    // Not above what the kernel reaches, nor in the hole.
    expect(planLinux(files(), 8 * GIB).initrd?.at).toBe(2 * GIB - 10 * MIB);
    const far = bzImage(16, (view) => view.setUint32(HEADER.initrdMax, 0xffffffff, true));
    expect(planLinux(files(far), 8 * GIB).initrd?.at).toBe(3 * GIB - 10 * MIB);
  });

  test.each<[string, number, number, string, string]>([
    ["no room to come up", 55, 0, "vmlinuz does not fit", "--memory 56M or more"],
    ["no room for its initrd", 65, 10, "initrd does not fit", "--memory 66M or more: the kernel needs 56 MiB to come up, the initrd 10 MiB"],
  ])("that has %s is refused, with what it needs", (_, memoryMib, initrdMib, message, expected) => {
    const error = errorOf(() => planLinux(files(undefined, initrdMib), memoryMib * MIB));
    expect(error.message).toContain(message);
    expect(error.details).toMatchObject({ expected: expect.stringContaining(expected), found: `${memoryMib} MiB` });
    planLinux(files(undefined, initrdMib), (memoryMib + 1) * MIB); // and that is enough
  }); // biome-ignore format: a row each

  test("a command line that is too long for it is refused", () => {
    planLinux(files(undefined, 0, "x".repeat(2047)), 64 * MIB);
    expect(errorOf(() => planLinux(files(undefined, 0, "x".repeat(2048)), 64 * MIB)).details.expected).toContain(
      "2047",
    );
  });
});

describe("boot parameters", () => {
  test.each<[number, [number, number, number][]]>([
    [256 * MIB, [[0, 0x9fc00, 1], [0x9fc00, 0x60400, 2], [MIB, 255 * MIB, 1]]],
    [3 * GIB, [[0, 0x9fc00, 1], [0x9fc00, 0x60400, 2], [MIB, 3 * GIB - MIB, 1]]],
    [5 * GIB, [[0, 0x9fc00, 1], [0x9fc00, 0x60400, 2], [MIB, 3 * GIB - MIB, 1], [4 * GIB, 2 * GIB, 1]]],
  ])("tell where %p bytes of memory are", (bytes, expected) => {
    expect(memoryMap(bytes).map(({ address, bytes, type }) => [address, bytes, type])).toEqual(expected);
  }); // biome-ignore format: a row each

  test("have the kernel's header, and what it is handed, at their places", () => {
    const { header } = parseBzImage(bzImage(), "vmlinuz");
    const initrd = { address: 0x0f600000, bytes: 1234 };
    const bytes = bootParams({ header, memoryBytes: 256 * MIB, commandLineAt: 0x20000, initrd, rsdpAt: 0xe0000 });
    const view = new DataView(bytes.buffer);
    expect(bytes.length).toBe(BOOT_PARAMS_BYTES);
    expect(view.getUint32(0x202, true)).toBe(0x53726448);
    expect(view.getUint8(0x210)).toBe(0xff);
    expect(view.getUint32(0x218, true)).toBe(initrd.address);
    expect(view.getUint32(0x21c, true)).toBe(1234);
    expect(view.getUint32(0x228, true)).toBe(0x20000);
    expect(view.getBigUint64(0x070, true)).toBe(0xe0000n);
    expect(view.getUint8(0x1e8)).toBe(3);
    expect([view.getBigUint64(0x2d0 + 40, true), view.getBigUint64(0x2d0 + 48, true)]).toEqual([
      BigInt(MIB),
      BigInt(255 * MIB),
    ]);
  });
});

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

describe("ACPI's language", () => {
  test.each<[string, Uint8Array, string]>([
    ["zero", aml.integer(0), "00"],
    ["one", aml.integer(1), "01"],
    ["a byte", aml.integer(0xff), "0aff"],
    ["a word", aml.integer(0x100), "0b0001"],
    ["a double word", aml.integer(0x10000), "0c00000100"],
    ["a quad word", aml.integer(2 ** 40), "0e0000000000010000"],
    ["text", aml.string("ab"), "0d616200"],
    ["a plug-and-play name", aml.eisaId("PNP0501"), "0c41d00501"],
    ["a name of three letters", aml.name("_S5", aml.integer(5)), "085f53355f0a05"],
    ["a list", aml.list(aml.integer(5), aml.integer(0)), "1205020a0500"],
    [
      "a method",
      aml.method("_EVT", 1, aml.notify("\\_SB.VGEN", 0x80)),
      "14135f4556540986" + "5c2e5f53425f5647454e" + "0a80",
    ],
    ["ports", aml.ioPorts(0x3f8, 8), "4701f803f8030108"],
    ["memory", aml.memory(0xd1000000, 0x200), "86090001000000d100020000"],
    ["an edge's interrupt", aml.interrupt(4, "edge"), "890600030104000000"],
    ["a level's interrupt", aml.interrupt(5, "level"), "890600010105000000"],
  ])("has %s", (_, bytes, expected) => {
    expect(hex(bytes)).toBe(expected);
  });

  // A length counts itself: one byte up to 63, two up to 4095, three above.
  test.each([
    [58, "3f"], // 4 of the name, 1 of the length
    [59, "4104"],
    [4089, "4fff"],
    [4090, "810001"],
  ])("has the length of a scope with %p bytes in it", (bytes, length) => {
    const scope = aml.scope("\\AAAA".slice(1), new Uint8Array(bytes));
    expect(hex(scope).slice(2, 2 + length.length)).toBe(length);
    expect(scope.length).toBe(1 + length.length / 2 + 4 + bytes);
  });
});

describe("ACPI tables", () => {
  const AT = 0xe0000;
  const serial = { port: 0x3f8, ports: 8, line: 4 };
  const machine = { cpus: 2, serial, generation: null, virtio: [{ address: 0xd1000000, bytes: 0x200, line: 5 }] };
  const bytes = acpiTables(machine, AT);
  const view = new DataView(bytes.buffer);
  const sum = (from: number, count: number) =>
    bytes.subarray(from, from + count).reduce((all, byte) => (all + byte) & 0xff, 0);
  /** Of the table at a guest address. */
  const tableAt = (address: bigint) => {
    const at = Number(address) - AT;
    const length = view.getUint32(at + 4, true);
    return { at, length, name: new TextDecoder().decode(bytes.subarray(at, at + 4)) };
  };
  const xsdt = tableAt(view.getBigUint64(24, true));
  const [fadt, madt] = [36, 44].map((at) => tableAt(view.getBigUint64(xsdt.at + at, true)));
  const dsdt = tableAt(view.getBigUint64(fadt.at + 140, true));

  test("are found from the first of them, whole", () => {
    expect(new TextDecoder().decode(bytes.subarray(0, 8))).toBe("RSD PTR ");
    expect([sum(0, 20), sum(0, 36)]).toEqual([0, 0]);
    const all = [xsdt, fadt, madt, dsdt];
    expect(all.map(({ name, length }) => [name, length])).toEqual([["XSDT", 52], ["FACP", 276], ["APIC", 78], ["DSDT", dsdt.length]]); // biome-ignore format: one line
    for (const { at, length } of all) expect(sum(at, length)).toBe(0);
    expect(bytes.length).toBeLessThan(0x20000); // up to 1 MiB
  });

  test("say how it is switched off and started anew", () => {
    const register = (at: number) => [
      bytes[fadt.at + at],
      bytes[fadt.at + at + 1],
      view.getBigUint64(fadt.at + at + 4, true),
    ];
    expect(register(116)).toEqual([1, 8, 0x602n]);
    expect(register(244)).toEqual([1, 8, 0x600n]);
    expect(view.getUint32(fadt.at + 112, true) & (1 << 20)).not.toBe(0);
    expect(hex(bytes.subarray(dsdt.at, dsdt.at + dsdt.length))).toEndWith("085c5f53355f12070" + "40a05000000");
  });

  test("have each CPU, and the I/O APIC", () => {
    const entries = hex(bytes.subarray(madt.at + 44, madt.at + madt.length));
    expect(entries).toBe("0008000001000000" + "0008010101000000" + "010c00000000c0fe00000000" + "0406ff000001");
  });

  test("have each device", () => {
    const text = hex(bytes.subarray(dsdt.at, dsdt.at + dsdt.length));
    expect(text).toContain(hex(aml.name("_HID", aml.string("LNRO0005"))));
    expect(text).toContain(hex(aml.memory(0xd1000000, 0x200)) + hex(aml.interrupt(5, "level")));
    expect(text).toContain(hex(aml.eisaId("PNP0501")));
    const generation = { address: 0xef000, line: 6 };
    const aged = hex(acpiTables({ ...machine, generation }, AT));
    expect(aged).toContain(hex(aml.name("ADDR", aml.list(aml.integer(0xef000), aml.integer(0)))));
    expect(aged).toContain(hex(aml.interrupt(6, "edge")));
    const bare = acpiTables({ ...machine, serial: null, virtio: [] }, AT);
    expect(hex(bare)).not.toContain(hex(aml.eisaId("PNP0501")));
    expect(hex(bare)).not.toContain(Buffer.from("LNRO").toString("hex"));
  });
});

describe("a CPU's table", () => {
  const leaf = (of: number, more: Partial<CpuidEntry> = {}): CpuidEntry => ({ function: of, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...more }); // biome-ignore format: one line
  const host = [leaf(1, { ebx: 0x07020800, ecx: 0x80200000, edx: 0x0fabfbff }), leaf(0xb, { flags: 1 }), leaf(0xb, { flags: 1, index: 1, edx: 9 }), leaf(0x80000008, { eax: 0x3030, ecx: 0x4007 }), leaf(0x8000001e, { eax: 7, ebx: 0x103, ecx: 1 }), leaf(7, { ebx: 5 })]; // biome-ignore format: one line

  test.each([
    [0, 1],
    [0, 2],
    [1, 2],
    [2, 3],
    [15, 16],
  ])("says which it is: %p of %p", (cpu, cpus) => {
    const own = cpuidOf(host, cpu, cpus);
    const find = (of: number, index = 0) => own.find((one) => one.function === of && one.index === index) as CpuidEntry;
    expect(find(1).ebx).toBe((0x0800 | (cpus << 16) | (cpu << 24)) >>> 0);
    expect((find(1).edx & (1 << 28)) !== 0).toBe(cpus > 1);
    expect(find(1).ecx).toBe(0x80200000);
    const idBits = Math.ceil(Math.log2(cpus));
    // One thread a core, all cores in one package: a core's number is its APIC's.
    expect([find(0xb).eax, find(0xb).ebx, find(0xb).edx]).toEqual([0, 1, cpu]);
    expect([find(0xb, 1).eax, find(0xb, 1).ebx, find(0xb, 1).edx]).toEqual([idBits, cpus, cpu]);
    expect(own.filter((one) => one.function === 0xb)).toHaveLength(3);
    expect(find(0x80000008).ecx).toBe((idBits << 12) | (cpus - 1));
    expect([find(0x8000001e).eax, find(0x8000001e).ebx & 0xff]).toEqual([cpu, cpu]);
    expect(find(7)).toEqual(leaf(7, { ebx: 5 }));
  });

  test("has nothing that would not survive a move", () => {
    const all = (of: number, index = 0) => withoutStaying(leaf(of, { index, eax: 0xffffffff, ebx: 0xffffffff, ecx: 0xffffffff, edx: 0xffffffff })); // biome-ignore format: one line
    expect([all(1).ecx, all(1).edx]).toEqual([0xffffffdf, 0xffffffff]);
    expect([all(7).ecx, all(7).edx]).toEqual([0xffffff7f, 0xffefffff]);
    expect(all(7, 1).ecx).toBe(0xffffffff);
    expect(all(0x80000001).ecx).toBe(0xfffffffb);
    expect(all(0x80000007).edx).toBe(0xfffffeff);
  });

  test("has no levels where the host has none", () => {
    expect(cpuidOf([leaf(1)], 0, 2).map((one) => one.function)).toEqual([1]);
  });
});

describe("what is typed at a guest's terminal", () => {
  const bytes = (...values: (string | number)[]) => Uint8Array.from(values.flatMap((one) => (typeof one === "string" ? [...Buffer.from(one)] : one))); // biome-ignore format: one line
  test.each<[string, Uint8Array[], Uint8Array, string[]]>([
    ["goes to the guest", [bytes("ls\r", 3)], bytes("ls\r", 3), []],
    ["ends it by Ctrl-A x", [bytes("a", 1, "x")], bytes("a"), ["quit"]],
    ["also in two pieces", [bytes("a", 1), bytes("x", "b")], bytes("a", "b"), ["quit"]],
    ["asks for help by Ctrl-A h", [bytes(1, "h", "x")], bytes("x"), ["help"]],
    ["has Ctrl-A as Ctrl-A a, and as twice", [bytes(1, "a", 1, 1, "x")], bytes(1, 1, "x"), []],
    ["forgets what means nothing", [bytes(1, "z", "z")], bytes("z"), []],
  ])("%s", (_, typed, forGuest, asked) => {
    const keys = new Keys();
    const taken = typed.map((piece) => keys.take(piece));
    expect(Buffer.concat(taken.map(({ bytes: some }) => some))).toEqual(Buffer.from(forGuest));
    expect(taken.flatMap((one) => one.asked as string[])).toEqual(asked);
  });
});

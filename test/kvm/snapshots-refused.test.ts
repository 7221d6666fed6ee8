// What tram restore does not take for a guest, and what it says of it: expected, and found.
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { copyFileSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hashOf } from "../../src/native/hash.ts";
import { Bed, TRAM, whyNoKvm } from "../support/bed.ts";
import { golden, seeded } from "../support/golden.ts";
import {
  type Anatomy,
  anatomyOf,
  bytesAt,
  contentOf,
  PAGE,
  refusal,
  restoreOf,
  saved,
  writeBytes,
} from "../support/snapshots.ts";

const reason = whyNoKvm();
const WALKER = ["--memory", "32M", "--working-set", "8M", "--dirty-rate", "max"];

describe.skipIf(reason !== null)(`a snapshot that is refused${reason ? ` (skipped: ${reason})` : ""}`, () => {
  let bed: Bed;
  let folder: string;
  let good: string;
  let anatomy: Anatomy;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "tram-refused-"));
    good = join(folder, "good.tram");
    const maker = new Bed();
    try {
      await maker.walker("a", ...WALKER);
      await saved(maker, "a", good);
    } finally {
      await maker.dispose();
    }
    anatomy = anatomyOf(good);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  beforeEach(() => {
    bed = new Bed();
  });
  afterEach(() => bed.dispose());

  interface Refusal {
    code: number;
    says: string;
    expected?: string | RegExp;
    found?: string | RegExp;
  }
  /** No guest comes of it, and the file is as it was. */
  async function expectRefused(argv: string[], { code, says, expected, found }: Refusal): Promise<void> {
    const result = await bed.exec(["timeout", "20", TRAM, ...argv]);
    expect({ argv, ...refusal(result) }).toEqual({ argv, code, stderr: expect.stringContaining(says) });
    expect(result.stderr).not.toContain("defect");
    if (expected) expect(/^ {2}expected: (.*)$/m.exec(result.stderr)?.[1]).toMatch(expected);
    if (found) expect(/^ {2}found: (.*)$/m.exec(result.stderr)?.[1]).toMatch(found);
    expect(bed.leftovers()).toEqual([]);
  }

  test.each([
    [["--memory", "64M"], "--memory differs", /^33554432 bytes/, /^67108864 bytes/],
    [["--cpus", "2"], "--cpus differs", /^1/, /^2/],
  ])("because the target was told to have %j: exit 7", async (options, says, expected, found) => {
    const before = contentOf(good);
    for (const mode of [[], ["--eager"], ["--verify", "first"]])
      await expectRefused(["run", "--incoming", `file:${good}`, "--name", "x", ...options, ...mode], {
        code: 7,
        says,
        expected,
        found,
      });
    expect(contentOf(good)).toBe(before);
  });

  /** The same without its seal, and with other bytes. */
  function unsealed(...edits: [offset: number, bytes: Buffer][]): string {
    const path = bed.path("edited.tram");
    copyFileSync(good, path);
    truncateSync(path, anatomy.tail.to);
    for (const [offset, bytes] of edits) writeBytes(path, offset, bytes);
    return path;
  }
  const be32 = (value: number) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    return bytes;
  };
  const be64 = (value: number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(value));
    return bytes;
  };

  test("without a seal it is a guest, of which is said that nobody checks it, and which is refused to who wants that", async () => {
    const path = unsealed();
    const running = await bed.restored("x", path);
    expect(running.stderr).toContain("has no hashes: its pages are not checked");
    await bed.until(async () => (await restoreOf(bed, "x")).phase === "done", "it is here", running);
    expect(await restoreOf(bed, "x")).toMatchObject({ verify: false, verifiedPages: 0 });
    await bed.goesOn("x");
    await bed.expectDone("quit", "x");
    await running.code;
    for (const verify of ["first", "lazy"])
      await expectRefused(["restore", path, "--name", "x", "--verify", verify], { code: 7, says: "has no hashes" });
    await bed.restored("x", path, "--eager");
    await bed.goesOn("x");
  });

  /** Where things are in a file: the machine's section begins with its name, the RAM block with its own. */
  const places = () => {
    const head = bytesAt(good, 0, anatomy.bitmap.from);
    const machine = head.indexOf("tram/machine") + 12 + 8;
    const block = head.lastIndexOf("\x03ram", anatomy.bitmap.from);
    const mapped = block + 4 + 8;
    return {
      machineName: 13,
      memory: machine,
      cpus: machine + 8,
      cpuid: machine + 8 + 4 + 4 + 1,
      block,
      bytes: block + 4,
      mapped,
    };
  };
  type Places = ReturnType<typeof places>;

  const EDITS: [what: string, edit: (at: Places) => [number, Buffer][], Refusal][] = [
    ["another machine", (at) => [[at.machineName, Buffer.from("trum")]], { code: 3, says: "tram/machine" }],
    [
      "a machine with more memory than its RAM block",
      (at) => [[at.memory, be64(64 << 20)]],
      {
        code: 3,
        says: "RAM is not its machine's",
        expected: "'ram' of 67108864 bytes",
        found: "'ram' of 33554432 bytes",
      },
    ],
    ["a machine with no memory", (at) => [[at.memory, be64(0)]], { code: 3, says: "memory size", found: /^0/ }],
    [
      "a machine with a vCPU whose state is not there",
      (at) => [[at.cpus, be32(2)]],
      { code: 3, says: "lacks a device", expected: /instance 1/, found: /none/ },
    ],
    ["a machine with no vCPU", (at) => [[at.cpus, be32(0)]], { code: 3, says: "CPUs", found: /^0/ }],
    [
      "a RAM block of another name",
      (at) => [[at.block, Buffer.from("\x03rom")]],
      { code: 3, says: "RAM is not its machine's", expected: /'ram'/, found: /'rom'/ },
    ],
    ["a RAM block that is longer", (at) => [[at.bytes, be64(64 << 20)]], { code: 3, says: "" }],
    ["a RAM block that is shorter", (at) => [[at.bytes, be64(16 << 20)]], { code: 3, says: "" }],
    [
      "another layout",
      (at) => [[at.mapped, be32(2)]],
      { code: 3, says: "unknown layout", expected: "version 1", found: "2" },
    ],
    [
      "other pages",
      (at) => [[at.mapped + 4, be64(8192)]],
      { code: 3, says: "page size", expected: "4096", found: "8192" },
    ],
    [
      "a bitmap behind its end",
      (at) => [[at.mapped + 12, be64(2 ** 40)]],
      { code: 3, says: "cut short", expected: /^at least/, found: /bytes/ },
    ],
    [
      "pages at an odd place",
      (at) => [[at.mapped + 20, be64((1 << 20) + 1)]],
      { code: 3, says: "odd offset", found: "1048577" },
    ],
    ["pages one page further", (at) => [[at.mapped + 20, be64((1 << 20) + PAGE)]], { code: 3, says: "" }],
    [
      "pages behind its end",
      (at) => [[at.mapped + 20, be64(2 ** 40)]],
      { code: 3, says: "cut short", expected: /^at least/, found: /bytes/ },
    ],
    ["pages beyond all files", (at) => [[at.mapped + 20, Buffer.alloc(8, 0x7f)]], { code: 3, says: "" }],
  ];
  test.each(EDITS)("because it has %s", async (_, edit, refused) => {
    const path = unsealed(...edit(places()));
    for (const mode of [[], ["--eager"]]) await expectRefused(["restore", path, "--name", "x", ...mode], refused);
  });

  test("because its CPU has what this one lacks: exit 7, with the leaf and the bit", async () => {
    // Leaf 1's row, all of whose features are then there.
    const { cpuid } = places();
    const name = bytesAt(good, cpuid, 1)[0];
    const rows = cpuid + 1 + name + 4;
    const count = bytesAt(good, rows - 4, 4).readUInt32BE();
    const functions = Array.from({ length: count }, (_, i) => bytesAt(good, rows + i * 28, 4).readUInt32BE());
    const leaf = rows + functions.indexOf(1) * 28;
    const path = unsealed([leaf + 20, be32(0xffffffff)], [leaf + 24, be32(0xffffffff)]);
    for (const mode of [[], ["--eager"]])
      await expectRefused(["restore", path, "--name", "x", ...mode], {
        code: 7,
        says: "its CPU lacks features",
        expected: /leaf 0x1\.0 e[cd]x bit \d/,
        found: "not there",
      });
  });

  test("because its seal is of another version: exit 3, in every way of restoring it", async () => {
    const path = bed.path("edited.tram");
    copyFileSync(good, path);
    const { from, to } = anatomy.sealHead;
    writeBytes(path, from + 8, be32(2));
    const root = Buffer.alloc(8);
    root.writeBigUInt64BE(hashOf(bytesAt(path, from, to - from)));
    writeBytes(path, anatomy.footer.from + 24, root);
    for (const mode of [[], ["--eager"], ["--verify", "off"]])
      await expectRefused(["restore", path, "--name", "x", ...mode], {
        code: 3,
        says: "the seal is of another version",
        expected: "1",
        found: "2",
      });
  });

  test("because it ends too early, in forty places: exit 3", async () => {
    const { bitmap, pagesOffset, tail, sealHead, table, footer, bytes } = anatomy;
    const borders = [
      1,
      4,
      bitmap.from,
      bitmap.to - 1,
      pagesOffset,
      pagesOffset + 1,
      tail.from - PAGE,
      tail.from - 1,
      tail.from,
    ];
    const more = [
      tail.from + 1,
      tail.to - 1,
      sealHead.from + 8,
      sealHead.to,
      table.from,
      table.to,
      footer.from,
      footer.from + 39,
    ];
    const next = seeded(40);
    const cuts = [0, ...borders, ...more];
    while (cuts.length < 40) {
      const cut = next(bytes);
      if (cut < tail.to || cut > sealHead.from + 8) cuts.push(cut); // what lies between is a whole stream without a seal
    }
    const path = bed.path("cut.tram");
    copyFileSync(good, path);
    for (const cut of cuts.sort((a, b) => b - a)) {
      truncateSync(path, cut);
      for (const mode of [[], ["--eager"]]) {
        const result = await bed.tram("restore", path, "--name", "x", ...mode);
        expect({ cut, mode, ...refusal(result) }).toEqual({ cut, mode, code: 3, stderr: expect.any(String) });
        expect(result.stderr).not.toContain("defect");
      }
    }
    expect(bed.leftovers()).toEqual([]);
  });

  test("because another tram is writing it: exit 1, and that one goes on", async () => {
    await bed.walker("a", ...WALKER);
    const save = bed.start(["save", "a", "file:vm.tram,offset=4k", "--max-bandwidth", "20M", "--after", "resume"]);
    await bed.until(
      async () => Bun.file(bed.path("vm.tram")).size > 4096 + (32 << 20),
      "it is as long as it will be",
      save,
    );
    for (const argv of [
      ["restore", "file:vm.tram,offset=4k"],
      ["run", "--incoming", "file:vm.tram,offset=4k"],
    ]) {
      const result = await bed.tram(...argv, "--name", "x");
      expect(refusal(result)).toEqual({
        code: 7,
        stderr: expect.stringContaining("is in use: another tram writes it"),
      });
    }
    await bed.expectDone("pause", "a");
    expect(await save.code).toBe(0);
    await bed.restored("x", "file:vm.tram,offset=4k", "--verify", "first");
    await bed.verify("x");
    await bed.expectDone("resume", "x");
    await bed.goesOn("x");
  });

  test("because QEMU must run it: exit 7, and how that is done", async () => {
    writeFileSync(bed.path("qemu.tram"), golden("qemu-10.2-mapped.bin"));
    const { code, stdout } = await bed.tram("restore", "qemu.tram");
    expect({ code, stdout }).toEqual({ code: 7, stdout: expect.stringContaining("which QEMU must run") });
    expect(stdout).toContain("tram send qemu.tram");
    const run = await bed.tram("run", "--incoming", "file:qemu.tram", "--name", "x");
    expect(refusal(run)).toEqual({ code: expect.any(Number), stderr: expect.stringContaining("QEMU") });
    expect(run.code).not.toBe(0);
    expect(bed.leftovers()).toEqual([]);
  });

  test("because it is a stream, which has no places for pages: exit 7, and tram run takes it", async () => {
    await bed.walker("a", ...WALKER);
    await bed.expectDone("migrate", "a", "file:stream");
    await bed.expectDone("quit", "a");
    await bed.until(async () => bed.leftovers().length === 0, "it is gone");
    await expectRefused(["restore", "stream"], { code: 7, says: "is a stream, in which pages have no places" });
    const running = bed.start(["run", "--incoming", "file:stream", "--name", "x"]);
    await bed.appeared("x", running);
    await bed.goesOn("x");
    await bed.expectDone("convert", "stream", "vm.tram"); // which makes a snapshot of it
    await bed.restored("y", "vm.tram");
    await bed.goesOn("y");
  });

  test.each([
    ["there is none", "nowhere", 1, "cannot read nowhere"],
    ["it is a folder", ".", 1, "is a folder"],
    ["it is a device", "/dev/null", 3, "ends too early"],
    ["it is empty", "empty", 3, "ends too early"],
    ["it is something else", "else", 3, "not a migration stream"],
  ])("because %s", async (_, file, code, says) => {
    writeFileSync(bed.path("empty"), "");
    writeFileSync(bed.path("else"), "something else, and long enough for a header");
    await expectRefused(["restore", file, "--name", "x"], { code, says });
  });
});

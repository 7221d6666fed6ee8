// tram seal and tram verify as a person runs them: on QEMU's own files, on files that are damaged, cut short or being written, and
// on disks that are full or fail.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  closeSync,
  copyFileSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { lease, tryLock } from "../../src/native/file.ts";
import { host } from "../../src/native/host.ts";
import { MappedFile } from "../../src/reader/mapped.ts";
import { Seal } from "../../src/reader/seal.ts";
import { alignSeal, layOutSeal, tableBytes } from "../../src/stream/seal.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { Bed, type Result, TRAM } from "../support/bed.ts";
import { FaultFs, whyNoFaultFs } from "../support/faultfs.ts";
import { golden, seeded } from "../support/golden.ts";
import { powerCuts, readRecording } from "../support/power-cut.ts";
import { mixedKinds, sealHere, verifyHere, writeMapped } from "../support/sealed.ts";

const PAGE = 4096;
const MIB = 1 << 20;
const LIMIT_MS = 60_000;
const GOLDEN = ["qemu-10.2-mapped.bin", "qemu-10.2-mapped-multifd.bin"];

let bed: Bed;
beforeEach(() => {
  bed = new Bed();
});
afterEach(() => bed.dispose());

const tram = (...args: string[]): Promise<Result> => bed.exec(["timeout", "-k", "1", "20", TRAM, ...args]);
const shell = (script: string): Promise<Result> =>
  bed.exec(["timeout", "-k", "1", "20", "bash", "-o", "pipefail", "-c", script]);
const read = (name: string): Uint8Array => new Uint8Array(readFileSync(bed.path(name)));
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** With the binary's JSON, and its exit code. */
async function verified(...args: string[]) {
  const { code, stdout, stderr } = await tram("verify", ...args, "--json");
  expect({ args, stderr }).toEqual({ args, stderr: "" });
  return { code, ...JSON.parse(stdout) };
}

function put(path: string, at: number, ...bytes: number[]): void {
  const fd = openSync(path, "r+");
  writeSync(fd, Uint8Array.from(bytes), 0, bytes.length, at);
  closeSync(fd);
}
/** Another byte than it was. */
function flip(path: string, at: number): void {
  const fd = openSync(path, "r+");
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, at);
  writeSync(fd, Uint8Array.of(byte[0] ^ 0x20), 0, 1, at);
  closeSync(fd);
}

function sealIn(path: string): Seal {
  const file = FileTransport.open(path);
  const seal = Seal.find(file) as Seal;
  file.close();
  return seal;
}

describe("a file that QEMU wrote", () => {
  test.each(GOLDEN)("%s: is sealed where it is, and is what it was before, and whole", async (name) => {
    const before = golden(name);
    await Bun.write(bed.path("vm"), before);
    expect(await verified("vm")).toMatchObject({ code: 0, sealed: false, good: true, root: null, checkedBytes: 0, problems: [] }); // biome-ignore format: one row
    const { stdout } = await tram("seal", "vm");
    const after = read("vm");
    expect(same(after.subarray(0, before.length), before)).toBe(true);
    expect(after.length % PAGE).toBe(40);
    const { root } = sealIn(bed.path("vm"));
    expect(stdout).toContain(`root ${root.toString(16).padStart(16, "0")}`);
    expect(await verified("vm")).toEqual({
      code: 0,
      schema: "tram/1",
      file: "vm",
      sealed: true,
      good: true,
      root: root.toString(16).padStart(16, "0"),
      machine: "none",
      blocks: [{ name: "ram", bytes: MIB, pages: 256, present: 192 }],
      checkedBytes: after.length,
      elapsedMs: expect.any(Number),
      bad: [],
      badCount: 0,
      unreadableCount: 0,
      problems: [],
      notes: [],
    });
    expect((await tram("check", "vm")).stdout).toContain("sealed");
  });

  test.each(GOLDEN)("%s: is left as it is, with its seal beside it", async (name) => {
    const before = golden(name);
    await Bun.write(bed.path("vm"), before);
    await bed.expectDone("seal", "vm", "--sidecar");
    expect(same(read("vm"), before)).toBe(true);
    expect(await verified("vm")).toMatchObject({ code: 0, sealed: "beside", good: true });
    expect((await tram("check", "vm")).stdout).toContain("in a file beside it");
    await shell("mv vm.seal elsewhere");
    expect(await verified("vm")).toMatchObject({ code: 0, sealed: false });
    expect(await verified("vm", "--seal", "elsewhere")).toMatchObject({ code: 0, sealed: "beside", good: true });
    flip(bed.path("vm"), MIB + 5 * PAGE);
    expect(await verified("vm", "--seal", "elsewhere")).toMatchObject({ code: 3, badCount: 1 });
  });

  test("is sealed at an offset, what stands before it is not touched", async () => {
    const base = 0x1234;
    const { end } = writeMapped(bed.path("vm"), { base, blocks: [{ name: "ram", kinds: mixedKinds(100, 3) }] });
    const before = read("vm");
    await bed.expectDone("seal", `file:vm,offset=${base}`);
    expect(same(read("vm").subarray(0, end), before)).toBe(true);
    expect(await verified(`file:vm,offset=${base}`)).toMatchObject({
      code: 0,
      good: true,
      notes: [`bytes 0 to ${base - 1} are not the stream's, and have no hash`],
    });
    const { code, problems } = await verified("vm");
    expect(code).toBe(3);
    expect(problems).toContainEqual(expect.objectContaining({ code: "E_HASH", next: `tram verify file:vm,offset=${base}` })); // biome-ignore format: one row
  });

  test("has old bytes in its zero pages, and they are sealed, too", async () => {
    const bytes = golden(GOLDEN[0]);
    bytes.fill(0xee, MIB + 8 * PAGE, MIB + 9 * PAGE); // a zero page, as QEMU leaves it
    await Bun.write(bed.path("vm"), bytes);
    const { stdout } = await tram("seal", "vm");
    expect(stdout).toContain("1 have old bytes in the file");
    const { head } = sealIn(bed.path("vm"));
    expect(head.holes).toBe(false);
    expect(await verified("vm")).toMatchObject({ code: 0, good: true });
    flip(bed.path("vm"), MIB + 8 * PAGE + 77);
    expect(await verified("vm")).toMatchObject({ code: 3, bad: [{ block: "ram", page: 8, offset: MIB + 8 * PAGE, what: "other bytes than were sealed" }] }); // biome-ignore format: one row
    flip(bed.path("vm"), MIB + 8 * PAGE + 77);
    flip(bed.path("vm"), MIB + 12 * PAGE);
    expect(await verified("vm")).toMatchObject({ code: 3, bad: [{ page: 12, what: "bytes in a page of zeros" }] });
  });

  test("is sealed by any number of threads alike", async () => {
    writeMapped(bed.path("vm"), { blocks: [{ name: "ram", kinds: mixedKinds(9000, 3) }, { name: "rom", kinds: mixedKinds(1500, 4) }] }); // biome-ignore format: one row
    const roots = new Set<bigint>();
    for (const channels of ["1", "2", "7"]) {
      await bed.expectDone("seal", "vm", "--force", "--channels", channels);
      roots.add(sealIn(bed.path("vm")).root);
      expect(await verified("vm", "--channels", channels)).toMatchObject({ code: 0, good: true });
    }
    expect(roots.size).toBe(1);
  });
});

describe("a sealed file", () => {
  beforeEach(async () => {
    await Bun.write(bed.path("plain"), golden("qemu-10.2-stream.bin"));
    await bed.expectDone("convert", "plain", "vm");
  });

  test("is good as tram kept it, and says so in words and to programs", async () => {
    const { code, stdout, stderr } = await tram("verify", "vm");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" }); // and no progress in a pipe
    expect(stdout).toContain("every byte is as it was then");
    expect(await verified("vm")).toMatchObject({ sealed: true, good: true, checkedBytes: read("vm").length });
  });

  test("shows progress on a terminal only", async () => {
    if (!Bun.which("script")) return; // the other half is tested above
    writeMapped(bed.path("large"), { blocks: [{ name: "ram", kinds: mixedKinds(30_000, 3) }] });
    await bed.expectDone("seal", "large");
    const { stdout } = await shell(`script -qec "${TRAM} verify large --channels 1" /dev/null`);
    expect(stdout).toContain("every byte is as it was then");
    const { stdout: quiet } = await shell(`script -qec "${TRAM} verify large --json" /dev/null`);
    expect(quiet.trim().split("\n")).toHaveLength(1);
  });

  test("is looked into, and is used as any other", async () => {
    const inspected = JSON.parse(await bed.expectDone("inspect", "vm", "--json"));
    const { root, headOffset, bytes } = sealIn(bed.path("vm"));
    expect(inspected).toMatchObject({
      seal: { root: root.toString(16).padStart(16, "0"), offset: headOffset, bytes, holes: true },
      sealProblem: null,
      bytes: read("vm").length,
      bordersBy: "fields",
    });
    expect(await bed.expectDone("inspect", "vm")).toMatch(/seal +root [0-9a-f]{16}, 8,232 bytes from byte/);
    await bed.expectDone("diff", "vm", "plain"); // 0: they are the same
    await bed.expectDone("convert", "vm", "again");
    expect(same(read("again"), read("plain"))).toBe(true);
    await bed.expectDone("extract", "vm", "ram", "--ram");
    await bed.expectDone("extract", "plain", "ram2", "--ram");
    expect(same(read("ram"), read("ram2"))).toBe(true);
    expect((await shell(`${TRAM} send vm - | cmp - plain`)).code).toBe(1); // without the word that a waiting target may not know
    expect((await shell(`${TRAM} send vm - | ${TRAM} check -`)).code).toBe(0);
  });

  test("comes through a pipe with its device state whole", async () => {
    const devices = (text: string) => JSON.parse(text).devices.map(({ name }: { name: string }) => name);
    const { code, stdout } = await shell(`cat vm | ${TRAM} inspect - --json`);
    expect([code, devices(stdout)]).toEqual([0, ["timer", "globalstate"]]);
    expect((await shell(`cat vm | ${TRAM} inspect -`)).stdout).toContain("is read from a regular file only");
    const check = await shell(`cat vm | ${TRAM} check -`);
    expect([check.code, check.stdout]).toEqual([0, expect.stringContaining("sealed")]);
    const pipe = await shell(`cat vm | ${TRAM} verify -`);
    expect([pipe.code, pipe.stderr]).toEqual([2, expect.stringContaining("with a regular file only")]);
    expect((await shell(`${TRAM} verify - < vm`)).code).toBe(0);
    expect((await shell(`${TRAM} verify fd:3 3< vm`)).code).toBe(0);
  });

  test("is not sealed twice, unless that is meant", async () => {
    const before = read("vm");
    for (const options of [[], ["--sidecar"], ["--sidecar", "--force"]]) {
      const { code, stderr } = await tram("seal", "vm", ...options);
      expect([code, stderr]).toEqual([7, expect.stringContaining("has a seal at its own end")]);
    }
    await bed.expectDone("seal", "vm", "--force");
    expect(same(read("vm"), before)).toBe(true); // the same seal, too
    truncateSync(bed.path("vm"), sealIn(bed.path("vm")).head.streamEnd);
    await bed.expectDone("seal", "vm", "--sidecar");
    for (const options of [[], ["--sidecar"]])
      expect(await tram("seal", "vm", ...options)).toMatchObject({ code: 7, stderr: expect.stringContaining("has a seal beside it") }); // biome-ignore format: one row
    await bed.expectDone("seal", "vm", "--sidecar", "--force");
    expect(await bed.expectDone("seal", "vm", "--force")).toContain("vm.seal is of no use any more");
    expect(same(read("vm"), before)).toBe(true);
    expect(await tram("verify", "vm", "--seal", "vm.seal")).toMatchObject({ code: 2 });
  });
});

describe("what is not sealed", () => {
  test("is checked, and said to be unsealed", async () => {
    await Bun.write(bed.path("plain"), golden("qemu-7.2-stream.bin"));
    await Bun.write(bed.path("vm"), golden(GOLDEN[0]));
    for (const [name, next] of [
      ["plain", "tram convert plain FILE"],
      ["vm", "tram seal vm adds them"],
    ]) {
      // biome-ignore format: one row
      const { code, stdout, stderr } = await tram("verify", name);
      expect([code, stderr]).toEqual([0, ""]);
      expect(stdout).toContain("unsealed");
      expect(stdout).toContain(next);
      expect((await tram("check", name)).stdout).toContain("not sealed");
    }
    expect((await shell(`cat plain | ${TRAM} verify -`)).code).toBe(0);
  });

  test.each<[string, (path: string) => void, number, string]>([
    ["a file that is not there", (path) => rmSync(path), 1, "ENOENT"],
    ["other bytes", (path) => writeFileSync(path, "nothing"), 3, "not a migration stream"],
    ["nothing", (path) => writeFileSync(path, ""), 3, "ends too early"],
    ["a stream that ends early", (path) => truncateSync(path, MIB + 5), 3, "cut short"],
    [
      "one with bytes behind its end",
      (path) => put(path, statSync(path).size, 0x78),
      3,
      "bytes follow the stream's end",
    ],
    ["one with zeros behind its end", (path) => truncateSync(path, 3 * MIB), 3, "bytes follow the stream's end"],
  ])("nor good: %s", async (_, damage, expected, message) => {
    await Bun.write(bed.path("vm"), golden(GOLDEN[0]));
    damage(bed.path("vm"));
    for (const line of [
      ["verify", "vm"],
      ["seal", "vm"],
      ["seal", "vm", "--sidecar"],
    ]) {
      // biome-ignore format: one row
      const { code, stderr } = await tram(...line);
      expect({ line, code, stderr }).toEqual({ line, code: expected, stderr: expect.stringContaining(message) });
    }
    expect(readdirSync(bed.folder)).not.toContain("vm.seal");
  });

  test("and cannot be: a plain stream, a folder, a pipe, a channel's capture", async () => {
    await Bun.write(bed.path("plain"), golden("qemu-7.2-stream.bin"));
    await Bun.write(bed.path("channel"), golden("qemu-10.2-multifd.ch1"));
    await shell("mkdir folder && mkfifo pipe");
    const codes: Record<string, number> = { plain: 3, channel: 3, folder: 2, pipe: 2, "-": 2 };
    for (const [name, expected] of Object.entries(codes)) {
      const { code, stderr } = await tram("seal", name);
      expect({ name, code, stderr }).toEqual({ name, code: expected, stderr: expect.not.stringContaining("defect") });
    }
    expect((await tram("seal", "folder", "--sidecar")).code).toBe(2);
    expect((await tram("seal", "pipe", "--sidecar")).code).toBe(2);
  });

  test("and is not, while somebody writes or runs from it", async () => {
    await Bun.write(bed.path("vm"), golden(GOLDEN[0]));
    const before = read("vm");
    const fd = openSync(bed.path("vm"), "r");
    const leased = lease.take(fd); // as a guest has one that was restored from it
    for (const kind of ["shared", "exclusive"] as const) {
      expect(tryLock(fd, kind)).toBe(true);
      expect(await tram("seal", "vm")).toMatchObject({ code: 7, stderr: expect.stringContaining("is in use") });
      // Beside it, whoever only reads does not mind.
      expect((await tram("seal", "vm", "--sidecar", "--force")).code).toBe(kind === "shared" ? 0 : 7);
    }
    expect(lease.holds(fd)).toBe(leased);
    closeSync(fd);
    expect(same(read("vm"), before)).toBe(true);
  });
});

/** A file of two blocks, and what is where in it. */
async function twoBlocks(path: string, beside = false) {
  const content = Array.from({ length: 20 }, () => "content" as const);
  const kinds = [[...mixedKinds(100, 3), ...content, ...mixedKinds(480, 5)], mixedKinds(100, 4)];
  const { blocks, end } = writeMapped(path, { blocks: [{ name: "ram", kinds: kinds[0] }, { name: "rom", kinds: kinds[1] }] }); // biome-ignore format: one row
  await sealHere(path, { beside });
  const transport = FileTransport.open(path);
  const file = new MappedFile(transport);
  const seal = beside ? Seal.of(FileTransport.open(`${path}.seal`)) : (file.seal as Seal);
  const places = layOutSeal(seal.head.blocks);
  transport.close();
  return { blocks, end, file, seal, places };
}

describe("damage is told of by its place:", () => {
  const at = (offset: number) => expect.stringContaining(`byte ${offset}`);
  const within = (offset: number, bytes: number) => expect.stringContaining(`bytes ${offset} to ${offset + bytes - 1}`);

  test("pages, at most 20 of them in words, all of them in number, a thousand to programs", async () => {
    const { file } = await twoBlocks(bed.path("vm"));
    const [ram, rom] = file.blocks;
    const place = (page: number) => ram.pagesOffset + page * PAGE;
    const content = Array.from({ length: 600 }, (_, page) => page).filter((page) => ram.present.has(page));
    for (const page of content.slice(0, 25)) flip(bed.path("vm"), place(page) + 100);
    flip(bed.path("vm"), rom.pagesOffset + 99 * PAGE + PAGE - 1);
    const { code, stdout, stderr } = await tram("verify", "vm");
    expect([code, stdout]).toEqual([3, ""]);
    expect(stderr).toContain("26 pages are not as sealed");
    const lines = stderr
      .split("\n")
      .filter((line) => line.includes("other bytes than") || line.includes("bytes in a page of"));
    expect(lines).toHaveLength(20);
    expect(lines[0]).toContain(`page ${content[0]} of block 'ram', byte ${place(content[0])}: `);
    expect(stderr).toContain("and 6 pages more");
    const result = await verified("vm");
    expect(result).toMatchObject({ code: 3, good: false, badCount: 26, problems: [{ code: "E_HASH" }] });
    expect(result.bad).toHaveLength(26);
    expect(result.bad.at(-1)).toMatchObject({ block: "rom", page: 99, offset: rom.pagesOffset + 99 * PAGE });
  });

  test("headers, bitmaps and device state in words", async () => {
    const { blocks, end, seal } = await twoBlocks(bed.path("vm"));
    const places: [number, string][] = [
      [20, "the stream's header, the header and bitmap of block 'ram'"],
      [blocks[0].bitmapOffset, "the stream's header, the header and bitmap of block 'ram'"],
      [blocks[1].bitmapOffset - 30, "the header and bitmap of block 'rom'"],
      [blocks[1].pagesOffset - 1, "the header and bitmap of block 'rom'"],
      [end - 60, "the device state"],
      [end + 1, "the device state"],
    ];
    for (const [offset, what] of places) {
      flip(bed.path("vm"), offset);
      const { code, problems, badCount } = await verified("vm");
      const { offset: from, bytes } = seal.head.extents[places.indexOf(places.find((one) => one[1] === what) as [number, string]) < 2 ? 0 : what.includes("rom") ? 1 : 2]; // biome-ignore format: one row
      expect([code, badCount]).toEqual([3, 0]);
      expect(problems).toContainEqual(expect.objectContaining({ code: "E_HASH", message: `not as it was sealed: ${what}`, where: within(from, bytes) })); // biome-ignore format: one row
      flip(bed.path("vm"), offset);
    }
    expect((await verified("vm")).good).toBe(true);
  });

  test("a header that cannot be read any more does not keep the pages from being compared", async () => {
    const { file } = await twoBlocks(bed.path("vm"));
    const page = file.blocks[0].pagesOffset + 7 * PAGE;
    put(bed.path("vm"), 0, 0, 0, 0, 0);
    flip(bed.path("vm"), page + 3);
    expect(await verified("vm")).toMatchObject({
      code: 3,
      machine: null,
      blocks: [{ name: "ram", pages: 600, present: null }, { name: "rom" }],
      bad: [{ block: "ram", page: 7, offset: page }],
    });
  });

  test("the seal's own parts", async () => {
    const { seal, places } = await twoBlocks(bed.path("vm"));
    const [ram, rom] = seal.head.blocks;
    const inSeal = (offset: number) => seal.headOffset + offset;
    const parts: [number, string, unknown][] = [
      [0, "the seal itself is damaged", within(inSeal(0), places.headBytes)],
      [9, "the seal itself is damaged", expect.anything()],
      [places.headBytes - 1, "the seal itself is damaged", expect.anything()],
      [places.headBytes, "a byte between the parts of the seal is not zero", at(inSeal(places.headBytes))],
      [ram.tableOffset, "the hashes of block 'ram' are damaged", within(inSeal(ram.tableOffset), tableBytes(ram))],
      [rom.tableOffset + 5, "the hashes of block 'rom' are damaged", within(inSeal(rom.tableOffset), tableBytes(rom))],
      [places.footer - 1, "a byte between the parts of the seal is not zero", at(inSeal(places.footer - 1))],
      [places.footer, "the seal's last bytes are damaged", at(inSeal(places.footer))],
      [places.footer + 39, "the seal's last bytes are damaged", expect.anything()],
      [places.footer + 30, "the seal itself is damaged", expect.anything()],
    ];
    for (const [offset, message, where] of parts) {
      flip(bed.path("vm"), inSeal(offset));
      const { code, problems, sealed } = await verified("vm");
      expect({ offset, code, sealed }).toEqual({ offset, code: 3, sealed: message.startsWith("the seal itself") && offset === 0 ? sealed : true }); // biome-ignore format: one row
      if (offset > 0) expect(problems).toContainEqual(expect.objectContaining({ code: "E_HASH", message, where }));
      // Looked at, it is readable; sealed again, it is what it was.
      const inspected = await tram("inspect", "vm", "--json");
      expect(JSON.parse(inspected.stdout).machine).toBe("none");
      const isTold = message.startsWith("the seal");
      expect({ offset, code: inspected.code }).toEqual({ offset, code: isTold ? 3 : 0 });
      expect({ offset, code: (await tram("check", "vm")).code }).toEqual({ offset, code: isTold ? 3 : 0 });
      flip(bed.path("vm"), inSeal(offset));
    }
    expect((await verified("vm")).good).toBe(true);
  });

  test("one block's hashes gone: the other's pages are compared nevertheless", async () => {
    const { seal, file } = await twoBlocks(bed.path("vm"));
    flip(bed.path("vm"), seal.headOffset + seal.head.blocks[0].tableOffset + 8);
    flip(bed.path("vm"), file.blocks[0].pagesOffset);
    flip(bed.path("vm"), file.blocks[1].pagesOffset);
    expect(await verified("vm")).toMatchObject({ code: 3, bad: [{ block: "rom", page: 0 }], badCount: 1 });
  });

  test("a seal beside a file that has become longer, shorter, or is another one", async () => {
    const { end } = await twoBlocks(bed.path("vm"), true);
    const whole = read("vm");
    truncateSync(bed.path("vm"), end + 1);
    expect(await verified("vm")).toMatchObject({ code: 3, problems: expect.arrayContaining([expect.objectContaining({ code: "E_HASH", message: "the file has another length than was sealed", expected: `${end} bytes`, found: `${end + 1} bytes` })]) }); // biome-ignore format: one row
    truncateSync(bed.path("vm"), end - 1);
    expect(await verified("vm")).toMatchObject({ code: 3 });
    truncateSync(bed.path("vm"), 2 * MIB);
    expect(await verified("vm")).toMatchObject({ code: 3 });
    await Bun.write(bed.path("vm"), golden(GOLDEN[0]));
    expect(await verified("vm")).toMatchObject({ code: 3, problems: expect.arrayContaining([expect.objectContaining({ message: "the seal is about another stream than the file has" })]) }); // biome-ignore format: one row
    await Bun.write(bed.path("vm"), whole);
    expect(await verified("vm")).toMatchObject({ code: 0, good: true });
    await Bun.write(bed.path("vm.seal"), "something else");
    expect(await verified("vm")).toMatchObject({ code: 3, sealed: "beside", problems: [{ code: "E_HASH", message: "vm.seal is no seal" }] }); // biome-ignore format: one row
    expect(await verified("vm", "--seal", "gone")).toMatchObject({ code: 1, problems: [{ code: "E_FILE" }] });
    await bed.expectDone("seal", "vm", "--sidecar", "--force");
    expect(await verified("vm.seal")).toMatchObject({ code: 3, problems: expect.arrayContaining([expect.objectContaining({ message: "vm.seal is a seal, and not the file that it is about" })]) }); // biome-ignore format: one row
  });
});

describe("a sealed file that is cut short", () => {
  test(
    "anywhere but where its stream ends is bad; with --force the rest of its seal is replaced",
    async () => {
      const { end, seal } = await twoBlocks(bed.path("vm"));
      const whole = read("vm");
      const head = seal.headOffset;
      const random = seeded(5);
      const sealBytes = whole.length - head;
      const cuts = [
        0,
        1,
        3,
        100,
        end - 1,
        end,
        end + 1,
        head - 1,
        head,
        head + 1,
        head + 31,
        head + 32,
        whole.length - 40,
        whole.length - 1, // biome-ignore format: one row
        ...Array.from({ length: 16 }, () => random(end)),
        ...Array.from({ length: 20 }, () => head + 32 + random(sealBytes - 32)),
      ];
      expect(cuts).toHaveLength(50);
      for (const cut of cuts) {
        writeFileSync(bed.path("cut"), whole.subarray(0, cut));
        const { code, sealed } = await verified("cut");
        expect({ cut, code, sealed }).toEqual({ cut, code: cut === end ? 0 : 3, sealed: false });
        // What has all of its stream comes back.
        const { code: healed, stderr } = await tram("seal", "cut", "--force");
        const heals = cut >= end && !(cut > head && cut < head + 8);
        expect({ cut, healed, stderr }).toEqual({ cut, healed: heals ? 0 : 3, stderr: expect.any(String) });
        if (heals) expect({ cut, same: same(read("cut"), whole) }).toEqual({ cut, same: true });
      }
    },
    LIMIT_MS,
  );

  test("in its seal is told of, and of what to do", async () => {
    const { end, seal } = await twoBlocks(bed.path("vm"));
    truncateSync(bed.path("vm"), seal.headOffset + 5000);
    for (const command of ["verify", "check", "convert", "extract", "send"]) {
      const { code, stderr } = await tram(command, "vm", ...(command === "verify" || command === "check" ? [] : command === "send" ? ["-"] : ["out"]), ...(command === "extract" ? ["--ram"] : [])); // biome-ignore format: one row
      expect({ command, code }).toEqual({ command, code: 3 });
      expect(stderr).toContain("the seal at the file's end is not whole");
      expect(stderr).toContain(`the file's first ${end} bytes`);
    }
    const { code, stdout } = await tram("inspect", "vm");
    expect([code, stdout]).toEqual([3, expect.stringContaining("the seal at the file's end is not whole")]);
    expect(await tram("seal", "vm")).toMatchObject({ code: 3, stderr: expect.stringContaining("tram seal --force") });
    await shell(`head -c ${end} vm > stream`);
    expect(await verified("stream")).toMatchObject({ code: 0, sealed: false, good: true });
  });

  test("or has more behind its seal is not cut off unasked", async () => {
    await twoBlocks(bed.path("vm"));
    const whole = read("vm");
    await Bun.write(bed.path("vm"), Buffer.concat([whole, Buffer.alloc(10_000, 0x61)]));
    const before = read("vm");
    expect((await verified("vm")).code).toBe(3);
    const { code, stderr } = await tram("seal", "vm", "--force");
    expect([code, stderr]).toEqual([7, expect.stringContaining("more follows the stream than its seal")]);
    expect(same(read("vm"), before)).toBe(true);
  });
});

/** Their names. */
function threadsOf(pid: number): string[] {
  try {
    const threads = readdirSync(`/proc/${pid}/task`);
    return threads.map((thread) => readFileSync(`/proc/${pid}/task/${thread}/comm`, "utf8").trim());
  } catch {
    return []; // one has just ended
  }
}

describe("an interruption", () => {
  test.each(["SIGINT", "SIGTERM"] as const)(
    "of verify or seal by %s ends it with 130, and the file is as it was",
    async (signal) => {
      const pages = 60_000; // so much that it takes some time
      writeMapped(bed.path("vm"), { blocks: [{ name: "ram", kinds: Array.from({ length: pages }, () => "content") }] });
      await bed.expectDone("seal", "vm");
      const before = Bun.hash(read("vm"));
      for (const line of [
        ["verify", "vm"],
        ["seal", "vm", "--force"],
      ]) {
        // biome-ignore format: one row
        let interrupted = 0;
        for (let tries = 0; tries < 20 && interrupted < 2; tries++) {
          const running = bed.start([...line, "--channels", "1"]);
          while (!running.hasEnded && !threadsOf(running.pid).includes("hash/1")) await Bun.sleep(1);
          running.kill(signal);
          const code = await running.code; // 0: it was too fast for us
          if (code !== 0) {
            expect({ line, code, stderr: running.stderr }).toEqual({ line, code: 130, stderr: expect.stringContaining(`interrupted by ${signal}: the file is as it was`) }); // biome-ignore format: one row
            interrupted++;
          }
          expect(Bun.hash(read("vm"))).toBe(before);
        }
        expect({ line, interrupted }).toEqual({ line, interrupted: 2 });
      }
    },
    LIMIT_MS,
  );

  test(
    "of seal by SIGKILL leaves a file that is as it was, sealed, or healed by --force",
    async () => {
      const { end } = writeMapped(bed.path("original"), { blocks: [{ name: "ram", kinds: mixedKinds(20_000, 3) }] });
      const original = read("original");
      copyFileSync(bed.path("original"), bed.path("sealed"));
      await bed.expectDone("seal", "sealed");
      const sealed = read("sealed");
      const outcomes: Record<string, number> = {};
      for (let round = 0; round < 16; round++) {
        copyFileSync(bed.path("original"), bed.path("vm"));
        const running = bed.start(["seal", "vm"]);
        await Bun.sleep(20 + round * 6);
        running.kill("SIGKILL");
        await running.code;
        const left = read("vm");
        expect(same(left.subarray(0, end), original)).toBe(true);
        const outcome = left.length === end ? "as it was" : same(left, sealed) ? "sealed" : "begun";
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
        const { code } = await verified("vm");
        expect({ outcome, code }).toEqual({ outcome, code: outcome === "begun" ? 3 : 0 });
        await bed.expectDone("seal", "vm", "--force");
        expect(same(read("vm"), sealed)).toBe(true);
      }
      expect(outcomes["as it was"]).toBeGreaterThan(0);
    },
    LIMIT_MS,
  );
});

const reason = whyNoFaultFs();
describe.skipIf(reason !== null)(`on a disk with faults${reason ? ` (skipped: ${reason})` : ""}`, () => {
  let disk: FaultFs;
  beforeEach(async () => {
    disk = await FaultFs.mount();
  });
  afterEach(() => disk.stop());
  const onDisk = (...args: string[]) => bed.exec(["timeout", "-k", "1", "20", TRAM, ...args], { cwd: disk.folder });
  const bytesOf = (name: string) => new Uint8Array(readFileSync(disk.path(name)));

  test(
    "that is full, a seal is not there at all, and the file loads as before",
    async () => {
      const { end } = writeMapped(disk.path("vm"), { blocks: [{ name: "ram", kinds: mixedKinds(2000, 3) }, { name: "rom", kinds: mixedKinds(600, 4) }] }); // biome-ignore format: one row
      const before = bytesOf("vm");
      // What it writes when nothing is in its way.
      copyFileSync(disk.path("vm"), disk.path("probe"));
      await disk.record();
      expect((await onDisk("seal", "probe")).code).toBe(0);
      await disk.recordOff();
      const written = readRecording(disk.recording).reduce((sum, one) => sum + (one.op === "write" ? one.data.length : 0), 0); // biome-ignore format: one row
      expect(written).toBeGreaterThan(8 * 1500);
      for (const room of [0, 1, 100, 200, 4096, Math.floor(written / 2), written - 41, written - 40, written - 1])
        for (const options of [[], ["--sidecar"]]) {
          await disk.enospc(room);
          const { code, stderr, stdout } = await onDisk("seal", "vm", ...options);
          await disk.enospcOff();
          const what = { room, options, code, stdout };
          expect(what).toEqual({ room, options, code: 1, stdout: "" });
          expect(stderr).toMatch(/ENOSPC|[Nn]o space/);
          expect(statSync(disk.path("vm")).size).toBe(end);
          expect(same(bytesOf("vm"), before)).toBe(true);
          expect(readdirSync(disk.folder).sort()).toEqual(["probe", "vm"]);
          expect((await onDisk("verify", "vm")).code).toBe(0);
        }
      await disk.enospc(written);
      expect((await onDisk("seal", "vm")).code).toBe(0);
      await disk.enospcOff();
      // A seal that is replaced is gone when there is no room for the new one; the stream is not.
      await disk.enospc(500);
      expect((await onDisk("seal", "vm", "--force")).code).toBe(1);
      await disk.enospcOff();
      expect(same(bytesOf("vm"), before)).toBe(true);
    },
    LIMIT_MS,
  );

  test("that cannot be synced, no file is said to be sealed", async () => {
    writeMapped(disk.path("vm"), { blocks: [{ name: "ram", kinds: mixedKinds(200, 3) }] });
    const before = bytesOf("vm");
    await disk.fail("fsync");
    for (const options of [[], ["--sidecar"]]) {
      const { code, stdout, stderr } = await onDisk("seal", "vm", ...options);
      expect({ options, code, stdout, stderr }).toEqual({ options, code: 1, stdout: "", stderr: expect.stringContaining("EIO") }); // biome-ignore format: one row
      expect(same(bytesOf("vm"), before)).toBe(true);
      expect(readdirSync(disk.folder)).toEqual(["vm"]);
    }
  });

  test(
    "that loses power while it is sealed, a file is as it was, sealed, or healed by --force; and sealed when that was said",
    async () => {
      writeMapped(disk.path("vm"), { blocks: [{ name: "ram", kinds: mixedKinds(2000, 3) }, { name: "rom", kinds: mixedKinds(600, 4) }] }); // biome-ignore format: one row
      const before = bytesOf("vm");
      await disk.record();
      expect((await onDisk("seal", "vm")).code).toBe(0);
      await disk.recordOff();
      const sealed = bytesOf("vm");
      const operations = readRecording(disk.recording);
      const states: Uint8Array[] = [];
      const judge = (content: Uint8Array | null) => {
        if (!content || !same(content.subarray(0, before.length), before)) return "lost";
        if (content.length === before.length) return "as it was";
        if (same(content, sealed)) return "sealed";
        states.push(content.slice());
        return "begun";
      };
      const { verdicts } = powerCuts(operations, "vm", judge);
      expect(Object.keys(verdicts).sort()).toEqual(["as it was", "begun", "sealed"]);
      expect(Object.keys(powerCuts(operations, "vm", judge, { from: operations.length }).verdicts)).toEqual(["sealed"]);
      expect(states.length).toBeGreaterThan(3);
      for (const state of states) {
        await Bun.write(bed.path("vm"), state);
        expect((await verifyHere(bed.path("vm"))).problems).not.toEqual([]);
        await bed.expectDone("seal", "vm", "--force");
        expect(same(read("vm"), sealed)).toBe(true);
      }
    },
    LIMIT_MS,
  );

  /** Of what cannot be read, verify names the place, and reads the rest. */
  async function unreadable(from: number, to: number) {
    await disk.eio("vm", from, to);
    await disk.drop("vm");
    const { code, stdout, stderr } = await onDisk("verify", "vm", "--json");
    await disk.eioOff();
    expect(stderr).toBe("");
    return { code, ...JSON.parse(stdout) };
  }

  test(
    "that does not give some pages, these are named, and all others compared",
    async () => {
      const { file, end } = await twoBlocks(disk.path("vm"));
      const [ram, rom] = file.blocks;
      const place = ram.pagesOffset + 100 * PAGE;
      const bad = (page: number) => ({ block: "ram", page, offset: ram.pagesOffset + page * PAGE, what: expect.stringContaining("EIO") }); // biome-ignore format: one row
      expect(await unreadable(place, place + 1)).toMatchObject({
        code: 1,
        good: false,
        bad: [bad(100)],
        badCount: 0,
        unreadableCount: 1,
        problems: [
          { code: "E_FILE", message: "1 page is not readable", where: expect.stringContaining(`byte ${place}`) },
        ],
      });
      // Three pages and a half; and a page that is bad besides, which is worse.
      flip(disk.path("vm"), rom.pagesOffset + 50 * PAGE);
      expect(await unreadable(place + 10, place + 3 * PAGE + 10)).toMatchObject({
        code: 3,
        bad: [{ block: "rom", page: 50 }, bad(100), bad(101), bad(102), bad(103)],
        badCount: 1,
        unreadableCount: 4,
      });
      flip(disk.path("vm"), rom.pagesOffset + 50 * PAGE);
      // In words, too.
      await disk.eio("vm", place, place + PAGE);
      await disk.drop("vm");
      const { code, stderr } = await onDisk("verify", "vm");
      expect([code, stderr]).toEqual([1, expect.stringContaining(`page 100 of block 'ram', byte ${place}: cannot read pages from the file: EIO`)]); // biome-ignore format: one row
      await disk.eioOff();
      expect((await onDisk("verify", "vm")).code).toBe(0);
      // And none can be sealed.
      truncateSync(disk.path("vm"), end);
      await disk.eio("vm", place, place + PAGE);
      await disk.drop("vm");
      for (const options of [[], ["--sidecar"]])
        expect(await onDisk("seal", "vm", ...options)).toMatchObject({ code: 1, stderr: expect.stringContaining(`page 100 of block 'ram', byte ${place}`) }); // biome-ignore format: one row
      await disk.eioOff();
      expect(statSync(disk.path("vm")).size).toBe(end);
    },
    LIMIT_MS,
  );

  test(
    "that does not give headers, state or hashes, these are named, and all others compared",
    async () => {
      const { blocks, end, seal } = await twoBlocks(disk.path("vm"));
      const place = blocks[0].pagesOffset + 100 * PAGE;
      flip(disk.path("vm"), place);
      const table = seal.headOffset + seal.head.blocks[1].tableOffset;
      const parts: [from: number, to: number, message: string][] = [
        [blocks[0].bitmapOffset, blocks[0].bitmapOffset + 1, "the stream's header, the header and bitmap of block 'ram' cannot be read"], // biome-ignore format: one row
        [blocks[1].pagesOffset - PAGE, blocks[1].pagesOffset, "the header and bitmap of block 'rom' cannot be read"],
        [end - 10, end - 9, "the device state cannot be read"],
        [table, table + 1, "the hashes of block 'rom' cannot be read"],
      ];
      for (const [from, to, message] of parts) {
        const result = await unreadable(from, to);
        // A bad page is worse than one that cannot be read: 3.
        expect({ message, code: result.code, bad: result.bad }).toEqual({ message, code: 3, bad: [expect.objectContaining({ block: "ram", page: 100 })] }); // biome-ignore format: one row
        const { where } = result.problems.find((one: { message: string }) => one.message === message);
        const named = Number(/byte (\d+)$/.exec(where)?.[1]);
        expect(Math.floor(named / PAGE)).toBe(Math.floor(from / PAGE));
      }
      flip(disk.path("vm"), place);
      for (const [from, to] of parts) expect((await unreadable(from, to)).code).toBe(1);
      const { code, problems } = await unreadable(seal.headOffset, seal.headOffset + 1);
      expect([code, problems[0].code]).toEqual([1, "E_FILE"]);
    },
    LIMIT_MS,
  );
});

test("help says what a seal is for", async () => {
  expect((await tram("help", "seal")).stdout).toContain("does not find forgers");
  expect((await tram("help")).stdout).toMatch(/ {2}check .*\n {2}verify .*\n {2}seal /);
});

test("a seal keeps the holes of a file, and has its own", async () => {
  writeMapped(bed.path("vm"), { blocks: [{ name: "ram", kinds: ["content", ...mixedKinds(10, 1), ...Array.from({ length: 200_000 }, () => "clear hole" as const)] }] }); // biome-ignore format: one row
  const before = statSync(bed.path("vm")).blocks;
  await bed.expectDone("seal", "vm");
  const { size, blocks } = statSync(bed.path("vm"));
  expect(size - alignSeal(sealIn(bed.path("vm")).head.streamEnd)).toBeGreaterThan(1.5 * MIB);
  expect((blocks - before) * 512).toBeLessThan(64 << 10);
  const fd = openSync(bed.path("vm"), "r+");
  host.punchHole(fd, MIB, PAGE); // content
  closeSync(fd);
  const { code, bad } = await verified("vm");
  expect([code, bad.map(({ page }: { page: number }) => page)]).toEqual([3, [0]]);
});

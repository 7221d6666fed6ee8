// tram inspect --map and tram diff --map as a person runs them: the picture is there whole, or not at all.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync, truncateSync } from "node:fs";
import { decode } from "fast-png";
import { Bed, type Result, TRAM } from "../support/bed.ts";
import { golden } from "../support/golden.ts";

const PAGE = 4096;
const PAGES_AT = 1 << 20;
let bed: Bed;

/** As libvirt keeps a stream: a header, and a description of the domain. */
function libvirtImage(stream: Uint8Array): Uint8Array {
  const head = new Uint8Array(92 + 100).fill(0x20, 92);
  head.set(Buffer.from("LibvirtQemudSave"));
  new Uint32Array(head.buffer, 16, 4).set([2, 100, 1, 0]);
  return Buffer.concat([head, stream]);
}

beforeEach(async () => {
  bed = new Bed();
  await Bun.write(bed.path("plain"), golden("qemu-7.2-stream.bin"));
  await Bun.write(bed.path("fixed"), golden("qemu-10.2-mapped.bin"));
  await Bun.write(bed.path("image"), libvirtImage(golden("qemu-7.2-stream.bin")));
});
afterEach(() => bed.dispose());

const tram = (...args: string[]): Promise<Result> => bed.exec(["timeout", "-k", "1", "20", TRAM, ...args]);
const shell = (line: string): Promise<Result> => bed.exec(["timeout", "-k", "1", "20", "bash", "-c", line]);
const text = (name: string): string => readFileSync(bed.path(name), "utf8");
const pictures = (): string[] => readdirSync(bed.folder).filter((name) => /map|tram-/.test(name));

/** QEMU's guest has a quarter of each: see test/golden/README.md. */
const quarters = (zero: string) =>
  Object.fromEntries([zero, "data0", "data3", "data7"].map((key) => [key, { pages: 64, share: 0.25 }]));

describe("tram inspect --map", () => {
  test.each([
    ["a plain stream", "inspect plain", "zero"],
    ["a file with fixed offsets", "inspect fixed", "absent"],
    ["a libvirt image", "inspect image", "zero"],
    ["a plain stream that comes through a pipe", "inspect - < <(cat plain)", "zero"],
    ["a file with fixed offsets that comes through a pipe", "inspect - < <(cat fixed)", "absent"],
    ["a libvirt image that comes through a pipe", "inspect - < <(cat image)", "zero"],
  ])("draws %s, and tells the shares", async (_, line, zero) => {
    for (const out of ["map.svg", "map.png"]) {
      const { code, stdout, stderr } = await shell(`${TRAM} ${line.replace(" ", ` --json --map ${out} `)}`);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      const { map, blocks, devices } = JSON.parse(stdout);
      expect(map).toMatchObject({ out, pages: 256, pagesPerCell: 1, kinds: quarters(zero), changedPages: 0 });
      expect(map.blocks).toMatchObject([{ name: "ram", bytes: 1 << 20, pages: 256, kinds: quarters(zero) }]);
      expect([blocks.length, devices.length]).toEqual([1, 2]);
    }
    expect(text("map.svg")).toMatch(/^<svg [\s\S]*<\/svg>\n$/);
    expect(decode(readFileSync(bed.path("map.png"))).width).toBeGreaterThan(1000);
  });

  test("prints the legend, with colours, for who has the PNG alone", async () => {
    const { stdout } = await tram("inspect", "fixed", "--map", "map.png");
    expect(stdout).toContain("fixed: drawn in map.png");
    expect(stdout).toMatch(/not in the stream +#808080 +64 +25\.0%/);
    expect(stdout).toMatch(/data, 7 to 8 bits per byte +#fb9f24 +64 +25\.0%/);
    expect(stdout).toMatch(/ram +1 MiB +25\.0% +0\.0% +75\.0%/);
    expect(stdout).toContain("One cell is one page of 4 KiB");
  });

  test("replaces a picture, which nobody else may read where it is new", async () => {
    await tram("inspect", "plain", "--map", "map.svg");
    expect(statSync(bed.path("map.svg")).mode & 0o777).toBe(0o600);
    const first = text("map.svg");
    await tram("inspect", "fixed", "--map", "map.svg");
    expect(text("map.svg")).not.toBe(first);
    expect(pictures()).toEqual(["map.svg"]);
  });

  test.each([
    ["--map map.jpg", 2, ".svg or .png"],
    ["--map map", 2, "a name without an end"],
    ["--map -", 2, "no name"],
    ["--map fd:5", 2, "no name"],
    ["--map file:map.svg,offset=0", 2, ".svg or .png"],
    ["--map map.svg --at 5", 2, "one thing at a time"],
    ["--map map.svg --device timer", 2, "one thing at a time"],
    ["--map nowhere/map.svg", 1, "the folder exists"],
  ])("refuses %s", async (options, expected, said) => {
    const { code, stderr } = await shell(`${TRAM} inspect plain ${options}`);
    expect({ code, stderr }).toEqual({ code: expected, stderr: expect.stringContaining(said) });
    expect(pictures()).toEqual([]);
  });

  test("does not draw over what it reads, whatever it is called", async () => {
    await shell("mv fixed map.svg && ln -s map.svg map.png");
    const before = readFileSync(bed.path("map.svg"));
    for (const line of [
      "inspect map.svg --map map.png",
      "inspect - --map map.svg < map.svg",
      "diff plain map.svg --map map.png",
    ]) {
      const { code, stderr } = await shell(`${TRAM} ${line}`);
      expect({ line, code, stderr }).toEqual({ line, code: 2, stderr: expect.stringContaining("the same file") });
    }
    expect(readFileSync(bed.path("map.svg"))).toEqual(before);
  });

  test.each([
    ["a stream that was cut short", "inspect plain", () => truncateSync(bed.path("plain"), 500_000), 3],
    ["a file that was cut short", "inspect fixed", () => truncateSync(bed.path("fixed"), PAGES_AT + 100 * PAGE), 3],
    ["a pipe that ends early", "inspect - < <(head -c 600000 plain)", () => undefined, 3],
    [
      "the main channel of several",
      "inspect main",
      () => Bun.write(bed.path("main"), golden("qemu-7.2-multifd.ch0")),
      3,
    ],
    ["one channel of several", "inspect one", () => Bun.write(bed.path("one"), golden("qemu-7.2-multifd.ch1")), 3],
    ["no stream at all", "inspect none", () => Bun.write(bed.path("none"), "something else altogether"), 3],
    ["a file that is not there", "inspect nowhere", () => undefined, 1],
  ])("draws nothing of %s, and leaves the picture that was there", async (_, line, damage, expected) => {
    await damage();
    const { code, stderr } = await shell(`${TRAM} ${line.replace(" ", " --map map.svg ")}`);
    expect({ code, defect: stderr.includes("defect"), silent: stderr === "" }).toEqual({ code: expected, defect: false, silent: false }); // biome-ignore format: one line
    expect(pictures()).toEqual([]);
    await Bun.write(bed.path("map.svg"), "an older picture");
    expect((await shell(`${TRAM} ${line.replace(" ", " --map map.svg ")}`)).code).toBe(expected);
    expect(text("map.svg")).toBe("an older picture");
    expect(pictures()).toEqual(["map.svg"]);
  });
});

describe("tram diff --map", () => {
  test("draws what became of each page, and tells the shares", async () => {
    const other = golden("qemu-10.2-mapped.bin");
    const page = (n: number) => other.subarray(PAGES_AT + n * PAGE, PAGES_AT + (n + 1) * PAGE);
    page(1).fill(0); // one byte until now
    page(2)[17] ^= 1;
    page(3).fill(0x7a);
    await Bun.write(bed.path("other"), other);
    for (const [a, b, turned] of [
      ["plain", "other", "turnedZero"],
      ["other", "plain", "turnedData"],
    ]) {
      // biome-ignore format: one line
      const { code, stdout } = await tram("diff", a, b, "--map", "map.svg", "--json");
      expect(code).toBe(1);
      const { map, blocks } = JSON.parse(stdout);
      expect(blocks).toMatchObject([{ name: "ram", differingPages: 3, ranges: [[1, 4]] }]);
      expect(map).toMatchObject({ out: "map.svg", pages: 256, blocks: [{ name: "ram" }] });
      const found = Object.entries(map.kinds as Record<string, { pages: number }>).filter(([, { pages }]) => pages);
      const pages = Object.fromEntries(found.map(([key, { pages }]) => [key, pages]));
      expect(pages).toEqual({ sameZero: 64, same: 189, [turned]: 1, changed64: 1, changed4096: 1 });
    }
    const { stdout } = await tram("diff", "plain", "other", "--map", "map.png");
    expect(stdout).toContain("block ram: 3 of 256 pages differ: 1-3");
    expect(stdout).toMatch(/turned zero +#2f9e62 +1 +0\.4%/);
    expect(pictures()).toEqual(["map.png", "map.svg"]);
  });

  test("of the same guest twice is one colour for each kind, and exits 0", async () => {
    const { code, stdout } = await tram("diff", "plain", "plain", "--map", "map.png");
    expect({ code, first: stdout.split("\n")[0] }).toEqual({ code: 0, first: "the same" });
  });

  test("draws nothing where one of them cannot be read", async () => {
    truncateSync(bed.path("fixed"), PAGES_AT + 9);
    expect((await tram("diff", "plain", "fixed", "--map", "map.svg")).code).toBe(2);
    expect((await tram("diff", "plain", "nowhere", "--map", "map.svg")).code).toBe(2);
    expect(existsSync(bed.path("map.svg"))).toBe(false);
    expect(pictures()).toEqual([]);
  });
});

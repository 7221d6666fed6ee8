// Pictures: which cell shows what, where it lies, and that what is drawn is what there is.
import { describe, expect, test } from "bun:test";
import { decode } from "fast-png";
import { changePicture, contentPicture, figuresOf, legend } from "../../src/cli/map.ts";
import { CELLS_MAX, CURVE, cellsOf, forCells, gridFor, pagesPerCell, TILE_CELLS, TILE_SIDE } from "../../src/cli/picture/cells.ts"; // biome-ignore format: one line
import { type Layout, layOut } from "../../src/cli/picture/layout.ts";
import type { Picture, PictureBlock } from "../../src/cli/picture/picture.ts";
import { cellsAsPng, drawPng } from "../../src/cli/picture/png.ts";
import { drawSvg, escaped, percent } from "../../src/cli/picture/svg.ts";
import { CONTENT_KINDS } from "../../src/inspect/page-map.ts";
import { seeded } from "../support/golden.ts";

const GIB_PAGES = 262_144;
const KINDS = CONTENT_KINDS.length;

/** Runs of pages of one kind, of any length. */
function pages(count: number, seed: number): Uint8Array {
  const random = seeded(seed);
  const kinds = new Uint8Array(count);
  for (let at = 0; at < count; at += 1 + random(40)) kinds.fill(random(KINDS), at);
  return kinds;
}
const block = (name: string, count: number, seed = 1) => ({ name, bytes: count * 4096, kinds: pages(count, seed) });

describe("the curve", () => {
  test("goes through each cell of a tile once, from neighbour to neighbour", () => {
    expect(new Set(CURVE).size).toBe(TILE_CELLS);
    for (let n = 1; n < TILE_CELLS; n++) {
      const [a, b] = [CURVE[n - 1], CURVE[n]];
      expect(Math.abs((a % 32) - (b % 32)) + Math.abs((a >> 5) - (b >> 5))).toBe(1);
    }
  });

  test("fills squares from the corner on, and ends beside the next tile", () => {
    for (const side of [1, 2, 4, 8, 16, 32]) expect(gridFor(side * side, 4)).toEqual({ width: side, height: side });
    expect([CURVE[0], CURVE[TILE_CELLS - 1]]).toEqual([0, TILE_SIDE - 1]);
  });
});

describe("cells", () => {
  test.each([0, 1, 3, 64, 1000, 1024, 1025, 5000, 40_000])("%i of them have a place of their own each", (count) => {
    const grid = gridFor(count, 4);
    const places = new Set<number>();
    forCells(count, grid, (_, x, y) => {
      expect(x < grid.width && y < grid.height).toBe(true);
      places.add(y * grid.width + x);
    });
    expect(places.size).toBe(count);
  });

  test("are pages where there is one for each", () => {
    const kinds = pages(3000, 2);
    expect(cellsOf(kinds, 100, 2900, 1, KINDS)).toEqual(kinds.slice(100, 2900));
  });

  test.each([2, 8, 64])(
    "of %i pages show a kind that they have, and together the shares that the pages have",
    (perCell) => {
      const kinds = pages(100_003, perCell);
      const cells = cellsOf(kinds, 0, kinds.length, perCell, KINDS);
      const shown = new Array<number>(KINDS).fill(0);
      const there = new Array<number>(KINDS).fill(0);
      for (const [cell, kind] of cells.entries()) {
        const mine = kinds.subarray(cell * perCell, (cell + 1) * perCell);
        expect(mine.includes(kind)).toBe(true);
        shown[kind] += mine.length;
        for (const one of mine) there[one]++;
      }
      for (let kind = 0; kind < KINDS; kind++)
        expect(Math.abs(shown[kind] - there[kind])).toBeLessThan(KINDS * perCell * 4);
    },
  );

  test("show a lone page in the end, and no page where there is none", () => {
    const kinds = new Uint8Array(4096).fill(1);
    for (let page = 0; page < kinds.length; page += 64) kinds[page] = 9;
    const cells = cellsOf(kinds, 0, kinds.length, 16, KINDS);
    expect(cells.filter((kind) => kind === 9).length).toBe(4); // 64 pages are four cells' worth
  });

  test("are as many as a picture holds, whatever the memory", () => {
    for (const count of [0, 1, GIB_PAGES, 4 * GIB_PAGES, 5 * GIB_PAGES + 1, 1000 * GIB_PAGES]) {
      const perCell = pagesPerCell(count);
      expect(Math.log2(perCell) % 1).toBe(0);
      expect(count / perCell).toBeLessThanOrEqual(CELLS_MAX);
    }
    expect([pagesPerCell(4 * GIB_PAGES + 4096), pagesPerCell(5 * GIB_PAGES + 1)]).toEqual([1, 2]);
  });
});

const content = (
  machine: string,
  blocks: { name: string; bytes: number; kinds: Uint8Array }[],
  sections = 40,
): Picture =>
  contentPicture({
    title: 'a <guest> & "its" RAM',
    kind: "plain stream",
    machine,
    blocks,
    sections: Array.from({ length: sections }, (_, i) => ({ name: `device-${i}`, bytes: 10 + i * i })),
  });

/** Every cell of every area lies in the picture, and no two things lie on each other. */
function expectApart({ width, height, blocks, bar }: Layout): void {
  const boxes = [...blocks.flatMap(({ areas, holes }) => [...areas, ...holes]), ...bar];
  for (const [i, a] of boxes.entries()) {
    expect(a.x >= 0 && a.y >= 0 && a.x + a.width <= width + 1e-6 && a.y + a.height <= height).toBe(true);
    for (const b of boxes.slice(i + 1)) {
      const apart =
        a.x + a.width <= b.x + 1e-6 || b.x + b.width <= a.x + 1e-6 || a.y + a.height <= b.y || b.y + b.height <= a.y;
      expect({ a, b, apart }).toMatchObject({ apart: true });
    }
  }
}

const SHAPES: [string, string, ReturnType<typeof block>[]][] = [
  ["one page", "none", [block("ram", 1)]],
  ["less than a row", "none", [block("ram", 7)]],
  ["no page at all", "none", [block("ram", 0), block("empty", 0)]],
  ["no block", "none", []],
  ["two blocks", "pc", [block("pc.ram", 33_000), block("vga.vram", 4096, 2)]],
  [
    "many small ones",
    "pc",
    [block("pc.ram", 2048), ...Array.from({ length: 60 }, (_, i) => block(`rom-${i}`, 1 + i * 3, i))],
  ],
  ["more than fits below 4 GiB", "pc-q35-7.2", [block("pc.ram", 5 * GIB_PAGES), block("pc.bios", 64)]],
];

describe("a layout", () => {
  test.each(SHAPES)("of %s has room for everything, with words and without", (_, machine, blocks) => {
    for (const words of [true, false]) {
      const layout = layOut(content(machine, blocks), words);
      expectApart(layout);
      expect(layout.width).toBeLessThan(1200);
      expect(layout.height).toBeLessThan(words ? 2500 : 2000);
      for (const [i, { areas }] of layout.blocks.entries())
        expect(areas.reduce((sum, { cells }) => sum + cells.length, 0)).toBe(
          Math.ceil(blocks[i].kinds.length / layout.perCell),
        );
    }
  });

  test("marks the hole as wide as the picture, however little of the RAM lies below it", () => {
    const blocks = [block("other", 1), { name: "pc.ram", bytes: 200 * GIB_PAGES * 4096, kinds: new Uint8Array(200 * GIB_PAGES) }]; // biome-ignore format: one line
    const layout = layOut(content("pc", blocks), true);
    expectApart(layout);
    const [below, above] = layout.blocks[1].areas;
    expect([below.width, above.width, layout.blocks[1].holes[0].width]).toEqual([384, 1024, 1024]);
  });

  test("leaves a hole out where a machine's RAM has one, and says where it is", () => {
    const [placed] = layOut(content("pc-q35-7.2", [block("pc.ram", 5 * GIB_PAGES)]), true).blocks;
    expect(placed.areas.map(({ stretch }) => stretch.address)).toEqual([0, 2 ** 32]);
    expect(placed.holes).toMatchObject([{ from: 2 ** 31, end: 2 ** 32 }]);
    expect(layOut(content("none", [block("ram", 5 * GIB_PAGES)]), true).blocks[0].holes).toEqual([]);
  });
});

describe("as PNG", () => {
  const colourOf = (image: ReturnType<typeof decode>, x: number, y: number) =>
    image.palette![image.data[y * image.width + x]].slice(0, 3);

  test("each cell has the colour of its page's kind, in a picture of bounded size", () => {
    const picture = content("pc", [block("pc.ram", 9000), block("rom", 3, 4)]);
    const layout = layOut(picture, false);
    const image = decode(drawPng(picture, layout));
    expect([image.width, image.height]).toEqual([layout.width, layout.height]);
    for (const { areas, block } of layout.blocks)
      for (const { x, y, cells, grid, scale } of areas)
        forCells(cells.length, grid, (cell, column, row) => {
          const { colour } = picture.kinds[block.kinds[cell]];
          const [red, green, blue] = colourOf(image, x + column * scale + scale - 1, y + row * scale);
          if (colour.length === 7)
            expect(`#${[red, green, blue].map((one) => one.toString(16).padStart(2, "0")).join("")}`).toBe(colour); // biome-ignore format: one line
          else expect([red, green, blue]).toEqual([231, 231, 231]); // the ground shines through
        });
  });

  test("in an SVG a cell is a pixel, and what is no cell is clear", () => {
    const picture = content("none", [block("ram", 11)]);
    const [{ areas }] = layOut(picture, true).blocks;
    const image = decode(cellsAsPng(areas[0], picture.kinds));
    expect([image.width, image.height]).toEqual([areas[0].grid.width, areas[0].grid.height]);
    const clear = [...image.data].filter((number) => image.palette![number][3] === 0);
    expect(clear.length).toBe(image.width * image.height - 11);
  });

  test.each(SHAPES)("can be made of %s", (_, machine, blocks) => {
    const picture = content(machine, blocks, blocks.length % 2);
    expect(decode(drawPng(picture, layOut(picture, false))).width).toBeGreaterThan(1000);
  });
});

describe("as SVG", () => {
  test.each(SHAPES)("of %s is well-formed, with a title for whoever does not see it", (_, machine, blocks) => {
    const picture = content(machine, blocks, 3);
    const svg = drawSvg(picture, layOut(picture, true)).replace(/base64,[^"]*/g, "");
    expect(svg).toContain('role="img" aria-labelledby="title about"');
    expect(svg).toContain('<title id="title">a &lt;guest&gt; &amp; &quot;its&quot; RAM</title>');
    expect(svg).toContain("prefers-color-scheme: dark");
    expect(/NaN|undefined|Infinity/.exec(svg)?.[0]).toBeUndefined();
    // Every tag is closed, or closes itself; every & begins an entity; no < stands in text.
    const bare = svg.replace(/<style>[\s\S]*?<\/style>/, "").replace(/<[^<>]*>/g, "");
    expect(bare).not.toMatch(/[<>]/);
    expect(svg.replace(/&(lt|gt|amp|quot);/g, "")).not.toContain("&");
    const opened = [...svg.matchAll(/<([a-z]+)\b[^<>]*?(\/?)>/g)].filter(([, , self]) => !self).map(([, name]) => name);
    const closed = [...svg.matchAll(/<\/([a-z]+)>/g)].map(([, name]) => name);
    expect(opened.sort()).toEqual(closed.sort());
  });

  test("names blocks, sections, addresses and the hole", () => {
    const picture = content("pc-q35-7.2", [block("pc.ram", 5 * GIB_PAGES), block("pc.bios", 64)]);
    const svg = drawSvg(picture, layOut(picture, true)).replace(/<image[^>]*>|<rect class="tile".*<\/rect>/g, "");
    for (const text of ["pc.ram", "5 GiB", "pc.bios", "256 KiB", "0x00000000", "0x70000000", "0x100000000"])
      expect(svg).toContain(`>${text}`);
    expect(svg).toContain("0x80000000 to 0xffffffff: no RAM, 2 GiB kept for devices");
    expect(svg).toContain("device state: 20.4 KiB in 40 sections");
    expect(svg).toMatch(/<title>device-39: 1.50 KiB<\/title>/);
    expect(svg).toMatch(/and 24 others/);
    expect(svg).toContain("One cell is 2 pages, 8 KiB");
  });

  test("texts of a stream are only text", () => {
    expect(escaped('<b a="1">&\u0007')).toBe("&lt;b a=&quot;1&quot;&gt;&amp;?");
  });
});

describe("figures", () => {
  const picture = content("pc", [block("pc.ram", 5000), block("rom", 7, 3), block("empty", 0)]);
  const figures = figuresOf("x.svg", picture);

  test("are all pages, in all and in each block", () => {
    expect(figures.pages).toBe(5007);
    for (const one of [figures, ...figures.blocks]) {
      const shares = Object.values(one.kinds);
      expect(shares.reduce((sum, { pages }) => sum + pages, 0)).toBe(one.pages);
      expect(shares.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(one.pages ? 1 : 0);
    }
    expect(figures.blocks.map(({ name, pages }) => [name, pages])).toEqual([["pc.ram", 5000], ["rom", 7], ["empty", 0]]); // biome-ignore format: one line
    expect(Object.keys(figures.kinds)).toEqual(CONTENT_KINDS.map(({ key }) => key));
  });

  test("are what the legend prints, with the colours", () => {
    const text = legend(picture, figures);
    for (const { key, colour, name } of picture.kinds)
      expect(text).toMatch(
        new RegExp(`${name} +${colour.slice(0, 7)} +${figures.kinds[key].pages.toLocaleString("en-US")} `),
      );
    expect(text).toContain("drawn in x.svg");
  });

  test("round nothing away", () => {
    expect([percent(0, 10), percent(1, 1e6), percent(1, 2), percent(999_999, 1e6), percent(10, 10), percent(0, 0)]).toEqual(["0.0%", "<0.1%", "50.0%", ">99.9%", "100.0%", "0.0%"]); // biome-ignore format: one line
  });
});

test("a picture of changes says which sections differ", () => {
  const kinds = Uint8Array.from([0, 1, 2, 3, 4, 8]);
  const blocks: Omit<PictureBlock, "stretches">[] = [{ name: "ram", bytes: kinds.length * 4096, kinds }];
  const sections = [{ name: "timer", bytes: 5, differs: false }, { name: "cpu", bytes: 9, differs: true }]; // biome-ignore format: one line
  const picture = changePicture({ title: "a → b", machine: "none", blocks, sections });
  expect(picture.sections.map(({ name, note }) => name + note)).toEqual(["cpu, differs", "timer"]);
  expect(figuresOf("x", picture).kinds.turnedZero).toEqual({ pages: 1, share: 1 / 6 });
  expect(drawSvg(picture, layOut(picture, true))).toContain("cpu 9 B, differs");
});

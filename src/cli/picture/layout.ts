// Where everything lies in a picture, in pixels: the blocks' cells, what stands around them, and the bar of the device state.
import { cellsOf, type Grid, gridFor, pagesPerCell, TILE_CELLS, TILE_SIDE } from "./cells.ts";
import type { Picture, PictureBlock, Section, Stretch } from "./picture.ts";

/** Of the cells: as wide as the widest block. */
const WIDTH = 1024;
/** Pixels a side that a cell may have. */
const SCALES = [16, 8, 4, 2, 1];
/** A small block is drawn larger than its neighbours, up to so many pixels. */
const SMALL_PIXELS = 64 * 64;
/** Space between things. */
const GAP = 20;
const HOLE_HEIGHT = 22;
const BAR_HEIGHT = 22;

/** What words need of the space; a picture without them needs less. */
const WITH_WORDS = { left: 104, top: 192, head: 34, ruler: 16, name: 6.4, names: 18 };
const WITHOUT_WORDS = { left: GAP, top: 56, head: 0, ruler: 0, name: 0, names: 0 };

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** A stretch's cells. */
export interface Area extends Box {
  stretch: Stretch;
  cells: Uint8Array;
  grid: Grid;
  /** Pixels a side of a cell. */
  scale: number;
}

export interface PlacedBlock {
  block: PictureBlock;
  x: number;
  /** Of its first line of words. */
  y: number;
  areas: Area[];
  /** It stands alone, with its addresses beside it. */
  isLarge: boolean;
  /** Between areas: guest-physical addresses [from, end) that are no RAM. */
  holes: (Box & { from: number; end: number })[];
}

export interface PlacedSection extends Box {
  section: Section;
}

export interface Layout {
  width: number;
  height: number;
  left: number;
  perCell: number;
  blocks: PlacedBlock[];
  /** Where the device state begins. */
  barY: number;
  bar: PlacedSection[];
}

const NAMES_PER_ROW = 4;
export const NAMED_SECTIONS = 16;
/** Behind the named ones comes a line for the others. */
export const nameRows = (sections: number): number => Math.ceil(Math.min(sections, NAMED_SECTIONS + 1) / NAMES_PER_ROW);

export function layOut({ kinds, blocks, sections }: Picture, words: boolean): Layout {
  const space = words ? WITH_WORDS : WITHOUT_WORDS;
  const allPages = blocks.reduce((sum, block) => sum + block.kinds.length, 0);
  const perCell = pagesPerCell(allPages);
  const scale = scaleFor(allPages / perCell, WIDTH * WIDTH * 1.25);
  const placed: PlacedBlock[] = [];
  let [x, y, below] = [space.left, space.top, space.top];
  for (const block of blocks) {
    const one = placeBlock(block, { perCell, kindCount: kinds.length, scale, space });
    const width = Math.max(...one.areas.map((area) => area.width), block.name.length * space.name + GAP, GAP);
    if (x > space.left && (one.isLarge || x + width > space.left + WIDTH)) [x, y] = [space.left, below];
    move(one, x, y);
    placed.push(one);
    x += (one.isLarge ? WIDTH : width) + GAP;
    const last = one.areas.at(-1);
    below = Math.max(below, (last ? last.y + last.height : y + space.head) + GAP);
  }
  const bar = placeBar(sections, space.left, below + space.head / 2);
  const names = sections.length ? BAR_HEIGHT + space.names * (nameRows(sections.length) + 0.5) + GAP : 0;
  return {
    width: space.left + WIDTH + GAP,
    height: Math.ceil(below + (sections.length ? space.head / 2 : 0) + names),
    left: space.left,
    perCell,
    blocks: placed,
    barY: below,
    bar,
  };
}

const scaleFor = (cells: number, pixelsMax: number): number =>
  SCALES.find((scale) => cells * scale * scale <= pixelsMax) ?? 1;

/** At 0, 0. */
function placeBlock(
  block: PictureBlock,
  { perCell, kindCount, scale, space }: { perCell: number; kindCount: number; scale: number; space: typeof WITH_WORDS },
): PlacedBlock {
  const blockScale = Math.max(scale, scaleFor(block.kinds.length / perCell, SMALL_PIXELS));
  const tilesPerRow = WIDTH / (TILE_SIDE * blockScale);
  const isLarge = block.stretches.length > 1 || block.kinds.length / perCell > TILE_CELLS * Math.min(4, tilesPerRow);
  const one: PlacedBlock = { block, x: 0, y: 0, areas: [], isLarge, holes: [] };
  let y = space.head + (isLarge ? space.ruler : 0);
  let address: number | null = null;
  for (const stretch of block.stretches) {
    if (stretch.from === stretch.end) continue;
    if (address !== null && stretch.address !== null) {
      one.holes.push({ x: 0, y, width: WIDTH, height: HOLE_HEIGHT, from: address, end: stretch.address });
      y += HOLE_HEIGHT;
    }
    const cells = cellsOf(block.kinds, stretch.from, stretch.end, perCell, kindCount);
    const grid = gridFor(cells.length, tilesPerRow);
    const height = grid.height * blockScale;
    one.areas.push({ x: 0, y, width: grid.width * blockScale, height, stretch, cells, grid, scale: blockScale });
    y += height;
    address = stretch.address === null ? null : stretch.address + (stretch.end - stretch.from) * 4096;
  }
  return one;
}

function move(one: PlacedBlock, x: number, y: number): void {
  for (const box of [one, ...one.areas, ...one.holes]) {
    box.x += x;
    box.y += y;
  }
}

function placeBar(sections: readonly Section[], left: number, y: number): PlacedSection[] {
  const all = sections.reduce((sum, { bytes }) => sum + bytes, 0);
  let x = left;
  return sections.map((section) => {
    const width = all ? (section.bytes / all) * WIDTH : 0;
    x += width;
    return { section, x: x - width, y, width, height: BAR_HEIGHT };
  });
}

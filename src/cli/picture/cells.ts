// Pages as cells of a picture. Neighbours stay together in both directions: within each tile of 32 × 32 cells they follow a Hilbert
// curve, and tiles follow one another in rows, so that an address can still be read from where a cell lies.
import { countKinds } from "../../inspect/kinds.ts";

/** Cells a side, and in all. */
export const TILE_SIDE = 32;
export const TILE_CELLS = TILE_SIDE * TILE_SIDE;
/** Of a whole picture: 4 GiB of pages, and room for the smaller blocks beside them. */
export const CELLS_MAX = 1024 * 1280;

/** A power of two, so that tiles hold round sizes. */
export function pagesPerCell(pages: number): number {
  let perCell = 1;
  while (pages / perCell > CELLS_MAX) perCell *= 2;
  return perCell;
}

/**
 * The kind that each cell shows, of pages [from, end). Where several pages share a cell, it shows one of their kinds: the one that
 * the cells so far have shown least of, for the pages that there are. So the picture has as much of each kind as the memory has.
 */
export function cellsOf(kinds: Uint8Array, from: number, end: number, perCell: number, kindCount: number): Uint8Array {
  if (perCell === 1) return kinds.slice(from, end);
  const cells = new Uint8Array(Math.ceil((end - from) / perCell));
  const owed = new Array<number>(kindCount).fill(0);
  for (let cell = 0; cell < cells.length; cell++) {
    const first = from + cell * perCell;
    const last = Math.min(first + perCell, end);
    const met = countKinds(kinds, kindCount, first, last);
    let shown = -1;
    for (let kind = 0; kind < kindCount; kind++) {
      owed[kind] += met[kind];
      if (met[kind] && (shown < 0 || owed[kind] > owed[shown])) shown = kind;
    }
    owed[shown] -= last - first;
    cells[cell] = shown;
  }
  return cells;
}

/** Where in its tile the n-th cell lies: x + TILE_SIDE × y. Any first 4^k of them fill a square in the corner. */
export const CURVE: Uint16Array = Uint16Array.from({ length: TILE_CELLS }, (_, n) => {
  let [x, y] = [0, 0];
  for (let side = 1, rest = n; side < TILE_SIDE; side *= 2, rest >>= 2) {
    const [right, down] = [(rest >> 1) & 1, (rest ^ (rest >> 1)) & 1];
    if (!down) {
      if (right) [x, y] = [side - 1 - x, side - 1 - y];
      [x, y] = [y, x];
    }
    x += side * right;
    y += side * down;
  }
  return x + TILE_SIDE * y;
});

/** Cells a row and a column. */
export interface Grid {
  width: number;
  height: number;
}

/** What `cells` take with at most `tilesPerRow` tiles side by side. */
export function gridFor(cells: number, tilesPerRow: number): Grid {
  const tiles = Math.ceil(cells / TILE_CELLS);
  if (tiles > 1)
    return { width: Math.min(tiles, tilesPerRow) * TILE_SIDE, height: Math.ceil(tiles / tilesPerRow) * TILE_SIDE };
  let [width, height] = [0, 0];
  for (const place of CURVE.subarray(0, cells)) {
    width = Math.max(width, (place % TILE_SIDE) + 1);
    height = Math.max(height, Math.floor(place / TILE_SIDE) + 1);
  }
  return { width, height };
}

/** Calls `visit` with each cell's number and place. */
export function forCells(cells: number, { width }: Grid, visit: (cell: number, x: number, y: number) => void): void {
  const tilesPerRow = Math.max(1, Math.floor(width / TILE_SIDE));
  for (let cell = 0; cell < cells; cell++) {
    const tile = Math.floor(cell / TILE_CELLS);
    const place = CURVE[cell % TILE_CELLS];
    visit(
      cell,
      (tile % tilesPerRow) * TILE_SIDE + (place % TILE_SIDE),
      Math.floor(tile / tilesPerRow) * TILE_SIDE + Math.floor(place / TILE_SIDE),
    );
  }
}

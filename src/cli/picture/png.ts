// Pictures as PNG: the cells alone, as they stand in an SVG, or all that can be said without words.
import { forCells } from "./cells.ts";
import type { Area, Box, Layout } from "./layout.ts";
import type { ColouredKind, Picture } from "./picture.ts";

/** Loading it takes a command some milliseconds, and few draw. */
const png = (): typeof import("fast-png") => require("fast-png");

type Colour = [number, number, number, number];

const GROUND = "#ffffff";
const INK = "#5c6670";

/** #rrggbb or #rrggbbaa. */
function parts(colour: string): Colour {
  const value = (i: number) => Number.parseInt(colour.slice(1 + 2 * i, 3 + 2 * i), 16);
  return [value(0), value(1), value(2), colour.length > 7 ? value(3) : 255];
}

/** On the ground, where it shines through. */
function opaque(colour: string): Colour {
  const [ground, [red, green, blue, alpha]] = [parts(GROUND), parts(colour)];
  const mix = (value: number, i: number) => Math.round((value * alpha + ground[i] * (255 - alpha)) / 255);
  return [mix(red, 0), mix(green, 1), mix(blue, 2), 255];
}

/** A pixel for each cell. What is no cell shows the ground. */
export function cellsAsPng({ cells, grid }: Area, kinds: readonly ColouredKind[]): Uint8Array {
  const data = new Uint8Array(grid.width * grid.height);
  forCells(cells.length, grid, (cell, x, y) => {
    data[y * grid.width + x] = 1 + cells[cell];
  });
  const palette: Colour[] = [[0, 0, 0, 0], ...kinds.map(({ colour }) => parts(colour))];
  return png().encode({ ...grid, data, depth: 8, channels: 1, palette });
}

/** Pixels by the number of their colour. */
class Canvas {
  readonly width: number;
  readonly height: number;
  readonly palette: Colour[] = [];
  readonly #data: Uint8Array;
  readonly #numbers = new Map<string, number>();

  constructor(width: number, height: number) {
    this.width = width;
    this.height = height;
    this.#data = new Uint8Array(width * height).fill(this.number(GROUND));
  }

  number(colour: string): number {
    const known = this.#numbers.get(colour);
    if (known !== undefined) return known;
    this.#numbers.set(colour, this.palette.length);
    return this.palette.push(opaque(colour)) - 1;
  }

  fill({ x, y, width, height }: Box, number: number): void {
    const [left, right] = [Math.round(x), Math.round(x + width)];
    for (let row = Math.round(y); row < Math.round(y + height); row++)
      this.#data.fill(number, row * this.width + left, row * this.width + right);
  }

  encode(): Uint8Array {
    const { width, height, palette } = this;
    return png().encode({ width, height, data: this.#data, depth: 8, channels: 1, palette });
  }
}

/** `layout`: one without words. */
export function drawPng({ kinds }: Picture, layout: Layout): Uint8Array {
  const canvas = new Canvas(layout.width, layout.height);
  const ink = canvas.number(INK);
  drawKey(canvas, kinds, layout);
  for (const { areas, holes } of layout.blocks) {
    for (const area of areas) drawCells(canvas, area, kinds);
    for (const { x, y, width, height } of holes)
      for (let at = x; at < x + width; at += 8) canvas.fill({ x: at, y: y + height / 2 - 1, width: 4, height: 2 }, ink);
  }
  for (const { section, ...box } of layout.bar)
    canvas.fill({ ...box, width: Math.max(1, box.width - 1) }, canvas.number(section.colour));
  return canvas.encode();
}

function drawCells(canvas: Canvas, { x, y, cells, grid, scale }: Area, kinds: readonly ColouredKind[]): void {
  const colours = kinds.map(({ colour }) => canvas.number(colour));
  forCells(cells.length, grid, (cell, column, row) =>
    canvas.fill({ x: x + column * scale, y: y + row * scale, width: scale, height: scale }, colours[cells[cell]]),
  );
}

/** The kinds in their order: a box for each, those of the scale side by side. */
function drawKey(canvas: Canvas, kinds: readonly ColouredKind[], { left }: Layout): void {
  const [y, width, height] = [20, 32, 16];
  let x = left;
  for (const [i, { colour, inRamp }] of kinds.entries()) {
    if (i > 0 && !(inRamp && kinds[i - 1].inRamp)) x += 12;
    canvas.fill({ x, y, width, height }, canvas.number(colour));
    x += width;
  }
}

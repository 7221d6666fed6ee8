// Pictures as SVG: cells as images of a pixel each, everything else as text and shapes, for light and dark grounds alike. Whoever
// does not see it, and whoever points at a part of it, is told by titles.
import { countKinds } from "../../inspect/kinds.ts";
import { formatBytes, formatCount } from "../units.ts";
import { TILE_CELLS, TILE_SIDE } from "./cells.ts";
import { type Area, type Layout, NAMED_SECTIONS, nameRows, type PlacedBlock } from "./layout.ts";
import type { ColouredKind, Picture } from "./picture.ts";
import { cellsAsPng } from "./png.ts";

const STYLE = `
svg { --ground: #ffffff; --ink: #1c2128; --faint: #5c6670; --line: #c9d0d8; background: var(--ground) }
@media (prefers-color-scheme: dark) { svg { --ground: #14171c; --ink: #e6eaef; --faint: #98a2ad; --line: #3a424c } }
.ground { fill: var(--ground) }
text { fill: var(--ink); font: 12px ui-sans-serif, system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
.title { font-size: 18px; font-weight: 600 }
.name { font-weight: 600 }
.faint { fill: var(--faint) }
.address { fill: var(--faint); font: 11px ui-monospace, "DejaVu Sans Mono", monospace; text-anchor: end }
.middle { text-anchor: middle }
.end { text-anchor: end }
.frame { fill: none; stroke: var(--line) }
.tick { stroke: var(--line) }
.hole { fill: none; stroke: var(--faint); stroke-dasharray: 4 4 }
.tile { fill: transparent }
.tile:hover { stroke: var(--ink) }
image { image-rendering: pixelated }`;

export const escaped = (text: string): string =>
  text.replace(/[&<>"\p{Cc}]/gu, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[char] ?? "?");

/** What a scale is called where there is little room. */
export const shortName = (ramp: string): string => ramp.split(",")[0];

const round = (value: number): number => Math.round(value * 100) / 100;
const words = (x: number, y: number, text: string, kind = ""): string =>
  `<text x="${round(x)}" y="${round(y)}"${kind && ` class="${kind}"`}>${escaped(text)}</text>`;
const hex = (address: number): string => `0x${address.toString(16).padStart(8, "0")}`;

/** 0.04% is not nothing, and 99.96% not all. */
export function percent(part: number, all: number): string {
  const share = all ? (part * 100) / all : 0;
  if (part > 0 && share < 0.1) return "<0.1%";
  return part < all && share >= 99.95 ? ">99.9%" : `${share.toFixed(1)}%`;
}

/** Of each kind, and of a scale's steps together. */
function sharesInShort(counts: readonly number[], { kinds, ramp }: Pick<Picture, "kinds" | "ramp">): string {
  const all = counts.reduce((sum, count) => sum + count, 0);
  const inRamp = kinds.reduce((sum, kind, i) => sum + (kind.inRamp ? counts[i] : 0), 0);
  const rows = kinds.flatMap(({ name, inRamp }, i) => (inRamp ? [] : [{ name, count: counts[i] }]));
  return [...rows, { name: shortName(ramp), count: inRamp }]
    .map(({ name, count }) => `${percent(count, all)} ${name}`)
    .join(", ");
}

/** Each kind that there is, the largest share first. */
function sharesText(counts: readonly number[], kinds: readonly ColouredKind[]): string {
  const all = counts.reduce((sum, count) => sum + count, 0);
  const present = kinds.map(({ name }, i) => ({ name, count: counts[i] })).filter(({ count }) => count);
  return present
    .sort((a, b) => b.count - a.count)
    .map(({ name, count }) => `${percent(count, all)} ${name}`)
    .join("; ");
}

/** `layout`: one with words. */
export function drawSvg(picture: Picture, layout: Layout): string {
  const { kinds, blocks, notes, title } = picture;
  const counts = totals(picture);
  const names = blocks.map(({ name, bytes }) => `${name}, ${formatBytes(bytes)}`).join("; ");
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${layout.width} ${layout.height}" width="${layout.width}" height="${layout.height}" role="img" aria-labelledby="title about">`,
    `<title id="title">${escaped(title)}</title>`,
    `<desc id="about">${escaped(`RAM blocks: ${names}. Pages: ${sharesText(counts, kinds)}.`)}</desc>`,
    `<style>${STYLE}\n</style>`,
    `<rect class="ground" width="${layout.width}" height="${layout.height}"/>`,
    words(layout.left, 32, title, "title"),
    ...notes.map((note, i) => words(layout.left, 54 + 17 * i, note, "faint")),
    ...drawKey(picture, counts, layout.left),
    ...layout.blocks.flatMap((block) => drawBlock(block, picture, layout.perCell)),
    ...drawBar(picture, layout),
    "</svg>",
  ];
  return `${lines.join("\n")}\n`;
}

function totals({ kinds, blocks }: Picture): number[] {
  const each = blocks.map((block) => countKinds(block.kinds, kinds.length));
  return kinds.map((_, kind) => each.reduce((sum, counts) => sum + counts[kind], 0));
}

const KEY_Y = 138;
const STEP_WIDTH = 58;

/** Kinds of their own with their names; those of a scale side by side, under what they have in common. */
function drawKey({ kinds, ramp }: Picture, counts: readonly number[], left: number): string[] {
  const all = counts.reduce((sum, count) => sum + count, 0);
  const swatch = (x: number, width: number, i: number) =>
    `<rect x="${x}" y="${KEY_Y}" width="${width}" height="16" fill="${kinds[i].colour}"><title>${escaped(`${kinds[i].name}: ${formatCount(counts[i])} pages, ${percent(counts[i], all)}`)}</title></rect>`;
  const lines: string[] = [];
  let x = left;
  for (const [i, { name, inRamp }] of kinds.entries()) {
    if (inRamp) continue;
    lines.push(swatch(x, 16, i), `<rect class="frame" x="${x}" y="${KEY_Y}" width="16" height="16"/>`);
    lines.push(words(x + 22, KEY_Y + 13, name), words(x + 22, KEY_Y + 29, percent(counts[i], all), "faint"));
    x += 22 + Math.max(60, name.length * 6.6 + 18);
  }
  const steps = kinds.flatMap(({ inRamp }, i) => (inRamp ? [i] : []));
  for (const [n, i] of steps.entries()) {
    lines.push(swatch(x + n * STEP_WIDTH, STEP_WIDTH, i));
    lines.push(words(x + (n + 0.5) * STEP_WIDTH, KEY_Y + 29, percent(counts[i], all), "faint middle"));
  }
  lines.push(words(x, KEY_Y - 7, ramp));
  return lines;
}

function drawBlock({ block, x, y, areas, holes, isLarge }: PlacedBlock, picture: Picture, perCell: number): string[] {
  const { kinds } = picture;
  const { name, bytes } = block;
  const counts = countKinds(block.kinds, kinds.length);
  const shares = sharesText(counts, kinds);
  const short = isLarge ? `: ${sharesInShort(counts, picture)}` : "";
  const lines = [
    `<g role="group"><title>${escaped(`RAM block ${name}, ${formatBytes(bytes)}: ${shares || "no pages"}`)}</title>`,
    words(x, y + 13, name, "name"),
    words(x, y + 28, formatBytes(bytes) + short, "faint"),
  ];
  for (const area of areas) {
    lines.push(...drawArea(area, block.kinds, kinds, perCell));
    if (isLarge) lines.push(...drawAddresses(area, perCell));
  }
  const widest = Math.max(...areas.map(({ grid }) => grid.width));
  if (isLarge) lines.push(...drawRuler(areas[0], widest, perCell));
  for (const { x, y, width, height, from, end } of holes)
    lines.push(
      `<path class="hole" d="M${x} ${y + height / 2}h${width / 2 - 190}M${x + width / 2 + 190} ${y + height / 2}h${width / 2 - 190}"/>`,
      words(
        x + width / 2,
        y + height / 2 + 4,
        `${hex(from)} to ${hex(end - 1)}: no RAM, ${formatBytes(end - from)} kept for devices`,
        "faint middle",
      ),
    );
  lines.push("</g>");
  return lines;
}

/** Where a cell's page is: guest-physical, or in the block where nobody knows that. */
function addressOf({ stretch }: Area, cell: number, perCell: number): string {
  const bytes = cell * perCell * 4096;
  return stretch.address === null ? `+${hex(stretch.from * 4096 + bytes)}` : hex(stretch.address + bytes);
}

function drawArea(area: Area, pages: Uint8Array, kinds: readonly ColouredKind[], perCell: number): string[] {
  const { x, y, width, height, cells, grid, scale, stretch } = area;
  const png = Buffer.from(cellsAsPng(area, kinds)).toString("base64");
  const lines = [`<image x="${x}" y="${y}" width="${width}" height="${height}" href="data:image/png;base64,${png}"/>`];
  const tilesPerRow = Math.max(1, grid.width / TILE_SIDE);
  const side = TILE_SIDE * scale;
  const tilePages = TILE_CELLS * perCell;
  for (let tile = 0; tile * TILE_CELLS < cells.length; tile++) {
    const first = tile * tilePages;
    const count = Math.min(tilePages, stretch.end - stretch.from - first);
    const counts = countKinds(pages, kinds.length, stretch.from + first, stretch.from + first + count);
    const box = { x: x + (tile % tilesPerRow) * side, y: y + Math.floor(tile / tilesPerRow) * side };
    lines.push(
      `<rect class="tile" x="${box.x}" y="${box.y}" width="${Math.min(side, width)}" height="${Math.min(side, height)}"><title>${escaped(`${addressOf(area, tile * TILE_CELLS, perCell)}, ${formatBytes(count * 4096)}: ${sharesText(counts, kinds)}`)}</title></rect>`,
    );
  }
  lines.push(`<rect class="frame" x="${x - 0.5}" y="${y - 0.5}" width="${width + 1}" height="${height + 1}"/>`);
  return lines;
}

/** The first address of each row of tiles. */
function drawAddresses(area: Area, perCell: number): string[] {
  const { x, y, grid, scale } = area;
  const side = TILE_SIDE * scale;
  const rows = Math.ceil(grid.height / TILE_SIDE);
  return Array.from({ length: rows }, (_, row) => {
    const address = addressOf(area, row * grid.width * TILE_SIDE, perCell);
    const at = y + row * side;
    return `<path class="tick" d="M${x - 6} ${at}h6"/>${words(x - 9, at + (row === 0 ? 9 : 4), address, "address")}`;
  });
}

/** How far into its row of tiles a column of them begins; above the first area, for `width` cells. */
function drawRuler({ x, y, scale }: Area, width: number, perCell: number): string[] {
  const side = TILE_SIDE * scale;
  const every = Math.max(1, 128 / side);
  const lines: string[] = [];
  for (let tile = 0; tile * TILE_SIDE < width; tile += every) {
    const at = x + tile * side;
    const text = tile ? `+${formatBytes(tile * TILE_CELLS * perCell * 4096)}` : "+0";
    lines.push(`<path class="tick" d="M${at} ${y - 6}v6"/>`, words(at + 3, y - 5, text, "faint"));
  }
  return lines;
}

function drawBar({ sections }: Picture, { bar, barY, left }: Layout): string[] {
  if (bar.length === 0) return [];
  const all = sections.reduce((sum, { bytes }) => sum + bytes, 0);
  const lines = [
    `<g role="group"><title>${escaped(`device state, ${formatBytes(all)} in ${sections.length} sections`)}</title>`,
    words(left, barY + 5, `device state: ${formatBytes(all)} in ${sections.length} sections`, "name"),
  ];
  for (const { section, x, y, width, height } of bar)
    lines.push(
      `<rect x="${round(x)}" y="${y}" width="${round(Math.max(0.5, width - 1))}" height="${height}" fill="${section.colour}"><title>${escaped(`${section.name}: ${formatBytes(section.bytes)}${section.note}`)}</title></rect>`,
    );
  const named = bar.slice(0, bar.length > NAMED_SECTIONS + 1 ? NAMED_SECTIONS : bar.length);
  const rows = nameRows(bar.length);
  const place = (n: number) => ({
    x: left + Math.floor(n / rows) * 256,
    y: bar[0].y + bar[0].height + 18 * ((n % rows) + 1),
  });
  for (const [n, { section }] of named.entries()) {
    const { x, y } = place(n);
    lines.push(`<rect x="${x}" y="${y - 9}" width="10" height="10" fill="${section.colour}"/>`);
    lines.push(words(x + 15, y, `${shortened(section.name)} ${formatBytes(section.bytes)}${section.note}`));
  }
  if (named.length < bar.length) {
    const rest = bar.slice(named.length).reduce((sum, { section }) => sum + section.bytes, 0);
    const { x, y } = place(named.length);
    lines.push(words(x + 15, y, `and ${bar.length - named.length} others: ${formatBytes(rest)}`, "faint"));
  }
  lines.push("</g>");
  return lines;
}

const shortened = (name: string): string => (name.length > 24 ? `…${name.slice(-23)}` : name);

// --map of tram inspect and tram diff: what is drawn of RAM, into which file, and the same as words and figures.
import { extname } from "node:path";
import { TramError } from "../errors.ts";
import { CHANGE_KINDS } from "../inspect/change-map.ts";
import { countKinds, type Kind, type PagesByKind } from "../inspect/kinds.ts";
import { mainBlock, ramLayout } from "../inspect/machine.ts";
import { CONTENT_KINDS } from "../inspect/page-map.ts";
import { writeAt } from "../native/file.ts";
import { OutputFile } from "../writer/output-file.ts";
import { fileTarget, parseFile, refuseSameFile } from "./file-target.ts";
import { pagesPerCell, TILE_CELLS, TILE_SIDE } from "./picture/cells.ts";
import { layOut } from "./picture/layout.ts";
import type { ColouredKind, Picture, PictureBlock, Section } from "./picture/picture.ts";
import { drawPng } from "./picture/png.ts";
import { drawSvg, percent, shortName } from "./picture/svg.ts";
import { table } from "./table.ts";
import { formatBytes, formatCount } from "./units.ts";

const EXTENSIONS = [".svg", ".png"];

export const MAP_OPTION = {
  type: "string",
  description:
    "draws RAM into a file, by its name's end: .svg with names, addresses and a legend, or .png with the colours alone; the legend is printed, too",
  valueHint: "OUT.svg|OUT.png",
} as const;

const kindOf = (out: string): string => extname(out).toLowerCase();

/** Refuses what cannot be drawn into, before anything is read. */
export function checkMap(out: string, sources: readonly string[]): void {
  const { path, offset } = parseFile(out, 1);
  if (path === null || offset !== null || !EXTENSIONS.includes(kindOf(out)))
    throw new TramError("E_USAGE", `--map: '${out}' does not say what kind of picture it is to be`, {
      expected: `a file whose name ends in ${EXTENSIONS.join(" or ")}`,
      found: path === null ? "no name" : extname(out) || "a name without an end",
    });
  for (const source of sources) refuseSameFile(source, out);
  fileTarget(out);
}

/** Makes a picture and writes it: whole, or not at all. Returns what was made. */
export function writeMap<T extends { picture: Picture }>(out: string, make: () => T): T {
  const file = new OutputFile(fileTarget(out)); // a folder that cannot be written to is found out before all is read
  let made: T;
  try {
    made = make();
    writeAt(file.fd, draw(made.picture, kindOf(out)), 0);
  } catch (error) {
    file.discard();
    throw error;
  }
  file.commit();
  return made;
}

function draw(picture: Picture, extension: string): Uint8Array {
  if (extension === ".png") return drawPng(picture, layOut(picture, false));
  return new TextEncoder().encode(drawSvg(picture, layOut(picture, true)));
}

// --- what is drawn ------------------------------------------------------------------------------------------------------

const FAINT = "#80808030";
const GREY = "#8b909a";
/** From blue to orange: apart from each other on light and dark grounds, and for who sees no red or no green. */
const RAMP = ["#3d6be8", "#6a5be0", "#9150cf", "#b845b3", "#d6428f", "#ec4f68", "#f7723f", "#fb9f24"];
const CHANGED_RAMP = [RAMP[1], RAMP[3], RAMP[4], RAMP[6], RAMP[7]];
/** Of things that are only to be told apart. */
const APART = ["#2a9d8f", "#c0a03c", "#4f8fba", "#b07d5c", "#8d7fc0", "#7aa95c"];
const TURNED_ZERO = "#2f9e62";
const TURNED_DATA = "#1fb5d6";

function coloured(kinds: readonly Kind[], own: readonly string[], ramp: readonly string[]): ColouredKind[] {
  const first = kinds.findIndex(({ inRamp }) => inRamp);
  return kinds.map((kind, i) => ({ ...kind, colour: kind.inRamp ? ramp[i - first] : own[i] }));
}

/** The main memory lies at guest-physical addresses, in pieces around the hole; of the others nobody knows where they are. */
function placed(machine: string, blocks: readonly PagesByKind[]): { blocks: PictureBlock[]; addresses: string } {
  const main = mainBlock(blocks);
  const layout = main && ramLayout(machine, main.bytes);
  return {
    blocks: blocks.map((block) => ({
      ...block,
      stretches:
        block === main && layout
          ? layout.ranges.map(({ gpa, offset, bytes }) => ({
              from: offset / 4096,
              end: (offset + bytes) / 4096,
              address: gpa,
            }))
          : [{ from: 0, end: block.kinds.length, address: null }],
    })),
    addresses: `Addresses are guest-physical${layout && layout.ranges.length > 1 ? `: ${layout.assumed}` : `, from 0 on, as ${machine} has its RAM by default`}.`,
  };
}

/** Which pages a cell is, and where it lies. */
function cellNotes(blocks: readonly PagesByKind[]): string[] {
  const perCell = pagesPerCell(blocks.reduce((sum, { kinds }) => sum + kinds.length, 0));
  const tile = formatBytes(TILE_CELLS * perCell * 4096);
  return [
    perCell === 1
      ? "One cell is one page of 4 KiB."
      : `One cell is ${perCell} pages, ${formatBytes(perCell * 4096)}, and shows the kind of one of them, so that all cells together have the shares that all pages have.`,
    `${TILE_SIDE} × ${TILE_SIDE} cells, ${tile}, fill a square along a Hilbert curve; squares follow in rows.`,
  ];
}

const bySize = <T extends { bytes: number }>(sections: readonly T[]): T[] =>
  [...sections].sort((a, b) => b.bytes - a.bytes);

export function contentPicture(about: {
  title: string;
  kind: string;
  machine: string;
  blocks: readonly PagesByKind[];
  sections: readonly Omit<Section, "colour" | "note">[];
}): Picture {
  const { blocks, addresses } = placed(about.machine, about.blocks);
  return {
    title: about.title,
    notes: [`machine ${about.machine}; ${about.kind}`, ...cellNotes(blocks), addresses],
    kinds: coloured(CONTENT_KINDS, [FAINT, GREY], RAMP),
    ramp: "data, by entropy: from 0 bits per byte (repeats itself) to 8 (compressed, random)",
    blocks,
    sections: bySize(about.sections).map((section, i) => ({ ...section, colour: APART[i % APART.length], note: "" })),
  };
}

export function changePicture(about: {
  title: string;
  machine: string;
  blocks: readonly PagesByKind[];
  sections: readonly (Omit<Section, "colour" | "note"> & { differs: boolean })[];
}): Picture {
  const { blocks, addresses } = placed(about.machine, about.blocks);
  return {
    title: about.title,
    notes: [
      `machine ${about.machine}; what became of the first one's pages in the second`,
      ...cellNotes(blocks),
      addresses,
    ],
    kinds: coloured(CHANGE_KINDS, [FAINT, GREY, TURNED_ZERO, TURNED_DATA], CHANGED_RAMP),
    ramp: "changed, by bytes of the page: up to 64, 256, 1024, 2048, all",
    blocks,
    sections: bySize(about.sections).map(({ name, bytes, differs }) => ({
      name,
      bytes,
      colour: differs ? RAMP[7] : GREY,
      note: differs ? ", differs" : "",
    })),
  };
}

// --- as figures and words -----------------------------------------------------------------------------------------------

interface Share {
  pages: number;
  /** From 0 to 1. */
  share: number;
}

interface Shares {
  pages: number;
  /** By the kind's key. */
  kinds: Record<string, Share>;
}

export interface MapFigures extends Shares {
  out: string;
  pagesPerCell: number;
  colours: Record<string, string>;
  blocks: (Shares & { name: string; bytes: number })[];
}

function sharesOf(kinds: readonly Kind[], counts: readonly number[]): Shares {
  const pages = counts.reduce((sum, count) => sum + count, 0);
  const share = (count: number): Share => ({ pages: count, share: pages ? count / pages : 0 });
  return { pages, kinds: Object.fromEntries(kinds.map(({ key }, i) => [key, share(counts[i])])) };
}

export function figuresOf(out: string, { kinds, blocks }: Picture): MapFigures {
  const each = blocks.map((block) => countKinds(block.kinds, kinds.length));
  const all = kinds.map((_, kind) => each.reduce((sum, counts) => sum + counts[kind], 0));
  return {
    out,
    pagesPerCell: pagesPerCell(all.reduce((sum, count) => sum + count, 0)),
    colours: Object.fromEntries(kinds.map(({ key, colour }) => [key, colour])),
    ...sharesOf(kinds, all),
    blocks: blocks.map(({ name, bytes }, i) => ({ name, bytes, ...sharesOf(kinds, each[i]) })),
  };
}

/** The legend, with the share of each kind in all RAM and in each block. */
export function legend({ title, notes, kinds, ramp }: Picture, { out, pages, kinds: all, blocks }: MapFigures): string {
  const single = kinds.filter(({ inRamp }) => !inRamp);
  const steps = kinds.filter(({ inRamp }) => inRamp);
  const rows = kinds.map(({ key, name, colour }) => [
    name,
    colour.slice(0, 7),
    formatCount(all[key].pages),
    percent(all[key].pages, pages),
  ]);
  const inBlocks = blocks.map(({ name, bytes, pages: whole, kinds: shares }) => [
    name,
    formatBytes(bytes),
    ...single.map(({ key }) => percent(shares[key].pages, whole)),
    percent(
      steps.reduce((sum, { key }) => sum + shares[key].pages, 0),
      whole,
    ),
  ]);
  return [
    [`${title}: drawn in ${out}`, ...notes.map((note) => `  ${note}`)].join("\n"),
    table(["KIND", "COLOUR", "PAGES", "SHARE"], rows),
    table(
      ["RAM BLOCK", "SIZE", ...single.map(({ name }) => name.toUpperCase()), shortName(ramp).toUpperCase()],
      inBlocks,
    ),
  ].join("\n\n");
}

// tram top as text: a table that fits its place. Pure.
import type { MoveFacts } from "./guest-facts.ts";
import type { TopGuest } from "./top-facts.ts";
import { formatBytes, formatCount, formatMany, formatMs, formatRate } from "./units.ts";

interface Column {
  title: string;
  /** Numbers stand to the right. */
  right: boolean;
  text(guest: TopGuest): string;
}

/** A terminal, in characters. */
export interface Place {
  width: number;
  height: number;
  colour: boolean;
}

const NONE = "-";
const NAME_CHARS_MIN = 8;

const bytesOr = (bytes: number | null): string => (bytes === null ? NONE : formatBytes(bytes));

const COLUMNS: readonly Column[] = [
  { title: "NAME", right: false, text: ({ name }) => name },
  { title: "STATE", right: false, text: ({ status }) => status },
  { title: "CPUS", right: true, text: ({ cpus }) => (cpus ? String(cpus) : NONE) },
  { title: "RAM", right: true, text: ({ memoryBytes }) => (memoryBytes ? formatBytes(memoryBytes) : NONE) },
  { title: "RESIDENT", right: true, text: ({ residentBytes }) => bytesOr(residentBytes) },
  { title: "SHARED", right: true, text: ({ sharedBytes }) => bytesOr(sharedBytes) },
  { title: "UNVERIFIED", right: true, text: ({ unverifiedPages: left }) => (left === null ? NONE : formatCount(left)) },
  { title: "BALLOON", right: true, text: ({ balloonBytes }) => bytesOr(balloonBytes) },
];
/** Few guests move, and what is to be said of those is long: on a terminal it has a line of its own. */
const MOVE: Column = { title: "MOVE", right: false, text: (guest) => moveText(guest) || NONE };

/** What matters most comes first: the end may not fit. Empty: it does not move. */
export function moveText({ move, dirtyBytesPerSec }: MoveFacts): string {
  if (!move) return "";
  const { direction, peer, phase, round, percent, bytesPerSec, expectedDowntimeMs } = move;
  const parts = [percent === null ? phase : `${phase}, round ${round} at ${percent}%`];
  if (bytesPerSec > 0) parts.push(formatRate(bytesPerSec));
  if (dirtyBytesPerSec !== null) parts.push(`writes ${formatRate(dirtyBytesPerSec)}`);
  if (expectedDowntimeMs !== null) parts.push(`downtime ~${formatMs(expectedDowntimeMs)}`);
  return [...parts, `${direction === "outgoing" ? "to" : "from"} ${peer}`].join(", ");
}

interface Cells extends Column {
  texts: string[];
  chars: number;
}

const cellsOf = (columns: readonly Column[], guests: readonly TopGuest[]): Cells[] =>
  columns.map((column) => {
    const texts = guests.map(column.text);
    return { ...column, texts, chars: Math.max(column.title.length, ...texts.map((one) => one.length)) };
  });

/** The heading, and a line for each guest. */
function lay(columns: readonly Cells[], gap: string): string[] {
  const line = (textOf: (column: Cells) => string): string =>
    columns
      .map((one) => (one.right ? textOf(one).padStart(one.chars) : textOf(one).padEnd(one.chars)))
      .join(gap)
      .trimEnd();
  return [line(({ title }) => title), ...columns[0].texts.map((_, i) => line(({ texts }) => texts[i]))];
}

/** For a pipe, or a log: as wide as it comes. */
export const table = (guests: readonly TopGuest[]): string[] => lay(cellsOf([...COLUMNS, MOVE], guests), "  ");

/** For a terminal. Where it is narrow: columns without content are left out, then names are cut, then all at its end. */
function narrowed(guests: readonly TopGuest[], width: number): string[] {
  let columns = cellsOf(COLUMNS, guests);
  const charsOf = (gap: string) => columns.reduce((sum, { chars }) => sum + chars, (columns.length - 1) * gap.length);
  const gap = charsOf("  ") <= width ? "  " : " ";
  while (charsOf(gap) > width) {
    const empty = columns.findLast(({ texts }) => texts.length > 0 && texts.every((one) => one === NONE));
    if (!empty) break;
    columns = columns.filter((one) => one !== empty);
  }
  const [name] = columns;
  const tooMany = Math.max(0, charsOf(gap) - width);
  name.chars = Math.max(Math.min(NAME_CHARS_MIN, name.chars), name.chars - tooMany);
  name.texts = name.texts.map((text) => cut(text, name.chars));
  return lay(columns, gap).map((line) => cut(line, width));
}

/** All that stands on a terminal: each line fits its width, and there are no more of them than it has. */
export function screen(guests: readonly TopGuest[], place: Place): string[] {
  const { width, height } = place;
  const [heading, ...rows] = narrowed(guests, width);
  const blocks = guests.map((guest, i) => {
    const move = moveText(guest);
    const row = painted(rows[i], COLOURS[kindOf(guest)], place);
    return move ? [row, cut(`  ${move}`, width)] : [row];
  });
  const lines = [title(guests, width), painted(heading.padEnd(width), "\x1b[7m", place)];
  const left = () => height - lines.length;
  const shown = blocks.findIndex((block, i) => {
    const isLast = i === blocks.length - 1;
    if (block.length + (isLast ? 0 : 1) > left()) return true;
    lines.push(...block);
    return false;
  });
  if (shown >= 0) lines.push(cut(`and ${blocks.length - shown} more`, width));
  return lines.slice(0, height);
}

function title(guests: readonly TopGuest[], width: number): string {
  const running = guests.filter(({ status }) => status === "running").length;
  const moving = guests.filter(({ move }) => move !== null && move.phase !== "waiting").length;
  const parts = [`${formatMany(guests.length, "guest")}`, `${running} running`];
  if (moving) parts.push(`${moving} moving`);
  const end = "q ends";
  return cut(
    parts
      .join(", ")
      .padEnd(width - end.length - 1)
      .concat(" ", end),
    width,
  );
}

const COLOURS = { well: "", waits: "\x1b[33m", bad: "\x1b[31m" };

function kindOf({ status, move }: TopGuest): keyof typeof COLOURS {
  if (["internal-error", "io-error", "no answer"].includes(status)) return "bad";
  return status === "running" || move ? "well" : "waits";
}

const painted = (text: string, colour: string, place: Place): string =>
  place.colour && colour ? `${colour}${text}\x1b[0m` : text;

const cut = (text: string, chars: number): string => (text.length <= chars ? text : `${text.slice(0, chars - 1)}…`);

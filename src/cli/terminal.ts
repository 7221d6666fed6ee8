// What a terminal can show, and how a line is made to fit it. Pure: nothing here looks at the process or writes.

export interface Terminal {
  /** A line can be rewritten in place. */
  isLive: boolean;
  /** It shows more than ASCII. */
  isUnicode: boolean;
  hasColours: boolean;
  /** What no longer fits a window that was made narrower is wrapped, and not cut off. */
  reflows: boolean;
}

export type Environment = Readonly<Record<string, string | undefined>>;

export function terminalOf(isTerminal: boolean, env: Environment): Terminal {
  const { TERM, TMUX, STY, XTERM_VERSION, NO_COLOR } = env;
  const isLive = isTerminal && !!TERM && TERM !== "dumb";
  // The first of them that is set and not empty, as setlocale(3) has it.
  const locale = env.LC_ALL || env.LC_CTYPE || env.LANG || "C";
  return {
    isLive,
    isUnicode: /utf-?8/i.test(locale),
    hasColours: isLive && !NO_COLOR,
    reflows: isLive && (!!TMUX || !(STY || XTERM_VERSION || TERM === "linux")),
  };
}

/** Without what only some locales can show: for words of ours. */
export const plainly = (text: string): string => text.replaceAll("…", "...").replaceAll("—", "-");

/** What may be somebody else's, for one line: nothing that steers a terminal, and nothing that it cannot show. */
export function showable(text: string, isUnicode: boolean): string {
  const calm = text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "?");
  return isUnicode ? calm : plainly(calm).replace(/[^\x20-\x7e]/gu, "?");
}

/** Of what a line says; several make the line. */
export interface Part {
  text: string;
  /** The part with the highest one goes first where there is no room for all; 0 stays. */
  rank: number;
  /** A person should look at it. */
  warns?: boolean;
}

const GAP = "  ";
const YELLOW = ["\x1b[33m", "\x1b[39m"] as const;

export interface Line {
  /** With what colours it. */
  text: string;
  columns: number;
}

/** As much of it as fits: whole parts, and the last one that is left cut short. */
export function fit(parts: readonly Part[], columns: number, { isUnicode, hasColours }: Terminal): Line {
  let left = parts.map((part) => ({ ...part, text: showable(part.text, isUnicode) }));
  const plain = () => left.map(({ text }) => text).join(GAP);
  while (left.length > 1 && Bun.stringWidth(plain()) > columns) {
    const worst = left.reduce((one, other) => (other.rank >= one.rank ? other : one));
    if (worst.rank === 0) break;
    left = left.filter((part) => part !== worst);
  }
  const width = Bun.stringWidth(plain());
  if (width > columns) {
    const text = cut(plain(), columns, isUnicode ? "…" : "...");
    return { text, columns: Bun.stringWidth(text) };
  }
  const coloured = ({ text, warns }: Part) => (warns && hasColours ? `${YELLOW[0]}${text}${YELLOW[1]}` : text);
  return { text: left.map(coloured).join(GAP), columns: width };
}

/** By columns, and never in the middle of what a person takes for one character. */
export function cut(text: string, columns: number, ending: string): string {
  if (Bun.stringWidth(text) <= columns) return text;
  const room = columns - ending.length;
  if (room < 0) return "";
  let [kept, width] = ["", 0];
  for (const { segment } of new Intl.Segmenter().segment(text)) {
    width += Bun.stringWidth(segment);
    if (width > room) break;
    kept += segment;
  }
  return kept + ending;
}

/** Room behind the line for what the terminal itself writes there: "^C". */
const SPARE_COLUMNS = 3;

export const roomOf = (columns: number): number => Math.max(0, columns - SPARE_COLUMNS);

/** A line that is there on the terminal, and how wide the terminal was then. */
export interface Shown {
  line: Line;
  terminalColumns: number;
}

/** Off: what does not fit is cut off. A window that has become narrower says so only a moment later. */
const WRAP = { off: "\x1b[?7l", on: "\x1b[?7h" } as const;
const ERASE = { restOfLine: "\x1b[K", allBelow: "\x1b[J" } as const;

/** What puts a line in the place of the one that is there: rewritten first and erased behind it, so that nothing flickers. */
export function rewrite(shown: Shown | null, line: Line, columns: number, { reflows }: Terminal): string {
  const rows = shown && reflows ? wrappedRows(shown, columns) : 0;
  const text = line.text && `${WRAP.off}${line.text}${WRAP.on}`;
  return rows > 0 ? `\x1b[${rows}A\r${text}${ERASE.allBelow}` : `\r${text}${ERASE.restOfLine}`;
}

/** How many rows the window's becoming narrower has put above the one where the cursor is. */
const wrappedRows = ({ line, terminalColumns }: Shown, columns: number): number =>
  columns < terminalColumns ? Math.max(0, Math.ceil(line.columns / columns) - 1) : 0;

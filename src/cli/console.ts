// Where text goes: stdout is the command's product, stderr everything else, of which one line may be live.
import { writeSync } from "node:fs";
import { createConsola } from "consola/core";
import { EXIT } from "../errors.ts";
import { fit, type Part, plainly, rewrite, roomOf, type Shown, type Terminal, terminalOf } from "./terminal.ts";

/**
 * Writes all of it, even where the descriptor is a full non-blocking pipe. False if it cannot be written: a full disk, a
 * reader that went away. What was to be told is no longer told; what goes on must not change by it.
 */
export function writeAll(fd: number, text: string | Uint8Array): boolean {
  const bytes = typeof text === "string" ? Buffer.from(text) : text;
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "EAGAIN") return false;
      Bun.sleepSync(1);
    }
  }
  return true;
}

/** One line that is rewritten where it stands. Whatever else is written erases it first, and it comes again behind that. */
export class LiveLine {
  readonly terminal: Terminal;
  readonly #columns: () => number;
  readonly #write: (text: string) => void;
  #shown: Shown | null = null;

  constructor(terminal: Terminal, columns: () => number, write: (text: string) => void) {
    this.terminal = terminal;
    this.#columns = columns;
    this.#write = write;
  }

  show(parts: readonly Part[]): void {
    if (!this.terminal.isLive) return;
    const terminalColumns = this.#columns(); // as it is now: windows change
    const line = fit(parts, roomOf(terminalColumns), this.terminal);
    if (this.#shown?.line.text === line.text && this.#shown.terminalColumns === terminalColumns) return;
    this.#write(rewrite(this.#shown, line, terminalColumns, this.terminal));
    this.#shown = { line, terminalColumns };
  }

  clear(): void {
    if (!this.#shown) return;
    this.#write(rewrite(this.#shown, { text: "", columns: 0 }, this.#columns(), this.terminal));
    this.#shown = null;
  }
}

/** Of a terminal that does not say. */
const COLUMNS_DEFAULT = 80;

export const liveLine = new LiveLine(
  terminalOf(process.stderr.isTTY === true, process.env),
  () => process.stderr.columns || COLUMNS_DEFAULT,
  (text) => void writeAll(2, text),
);

/** The command's product, on stdout. */
export function print(text: string): void {
  liveLine.clear(); // both may be one terminal
  if (!writeAll(1, `${text}\n`)) process.exitCode = EXIT.failed; // for a shell that looks; there is nowhere to say it
}

/** Diagnostics, all of them on stderr: consola's own reporters would write some to stdout, and fold what comes again. */
const log = createConsola({
  throttle: 0,
  reporters: [{ log: ({ args }) => void writeAll(2, `tram: ${args.join(" ")}\n`) }],
});

/** Plain lines on stderr. */
export function say(line: string): void {
  liveLine.clear();
  log.log(liveLine.terminal.isUnicode ? line : plainly(line));
}

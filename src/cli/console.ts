// Where text goes: stdout is the command's product, stderr everything else, of which one line may be live.
import { readFileSync, writeSync } from "node:fs";
import { createConsola } from "consola/core";
import { EXIT } from "../errors.ts";
import { fit, type Part, plainly, rewrite, roomOf, type Shown, type Terminal, terminalOf } from "./terminal.ts";

/**
 * Writes all of it, even where the descriptor is a full non-blocking pipe. False if it cannot be written: a full disk, a
 * reader that went away. What was to be told is no longer told; what goes on must not change by it.
 */
export const writeAll = (fd: number, text: string | Uint8Array): boolean => tryWrite(fd, text) === null;

/** The same; null, or why it cannot be written. */
function tryWrite(fd: number, text: string | Uint8Array): string | null {
  const bytes = typeof text === "string" ? Buffer.from(text) : text;
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "EAGAIN") return code ?? String(error);
      Bun.sleepSync(1);
    }
  }
  return null;
}

/** One line that is rewritten where it stands. Whatever else is written erases it first, and it comes again behind that. */
export class LiveLine {
  readonly terminal: Terminal;
  readonly #columns: () => number;
  readonly #write: (text: string) => void;
  readonly #isOurs: () => boolean;
  #shown: Shown | null = null;

  /** `isOurs`: the terminal is not somebody else's just now. */
  constructor(
    terminal: Terminal,
    columns: () => number,
    write: (text: string) => void,
    isOurs: () => boolean = () => true,
  ) {
    this.terminal = terminal;
    this.#columns = columns;
    this.#write = write;
    this.#isOurs = isOurs;
  }

  show(parts: readonly Part[]): void {
    if (!this.terminal.isLive || !this.#isOurs()) return;
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
  isForeground,
);

/** A job in the background has its terminal in common with the shell, and whoever types there. */
export function isForeground(): boolean {
  try {
    // pid (name) state ppid pgrp session tty_nr tpgid: proc_pid_stat(5)
    const fields = readFileSync("/proc/self/stat", "latin1")
      .replace(/^.*\) /s, "")
      .split(" ");
    return fields[5] === fields[2] || fields[5] === "-1";
  } catch {
    return true;
  }
}

/** The command's product, on stdout. */
export function print(text: string): void {
  liveLine.clear(); // both may be one terminal
  const problem = tryWrite(1, `${text}\n`);
  if (problem === null) return;
  if (problem !== "EPIPE" && !process.exitCode) say(`standard output does not take it: ${problem}`); // head(1) has seen enough
  process.exitCode = EXIT.failed;
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

// Where text goes: stdout is the command's product, stderr everything else.
import { writeSync } from "node:fs";
import { createConsola } from "consola";

/** Diagnostics, on stderr. consola's own default would write some of it to stdout. */
export const log = createConsola({
  stdout: process.stderr,
  stderr: process.stderr,
  formatOptions: { date: false, colors: process.stderr.isTTY && !process.env.NO_COLOR },
});

/** Writes all of it, even where the descriptor is a full non-blocking pipe; a reader that went away is no error. */
export function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(fd, bytes, done);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") return;
      if (code !== "EAGAIN") throw error;
      Bun.sleepSync(1);
    }
  }
}

export const print = (text: string): void => writeAll(1, `${text}\n`);

/** One plain line on stderr. */
export const say = (line: string): void => writeAll(2, `tram: ${line}\n`);

// Where text goes: stdout is the command's product, stderr everything else.
import { writeSync } from "node:fs";
import { createConsola } from "consola/core";
import { EXIT } from "../errors.ts";

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

/** The command's product, on stdout. */
export function print(text: string): void {
  if (!writeAll(1, `${text}\n`)) process.exitCode = EXIT.failed; // for a shell that looks; there is nowhere to say it
}

/** Diagnostics, all of them on stderr: consola's own reporters would write some to stdout, and fold what comes again. */
const log = createConsola({
  throttle: 0,
  reporters: [{ log: ({ args }) => void writeAll(2, `tram: ${args.join(" ")}\n`) }],
});

/** One plain line on stderr. */
export const say = (line: string): void => log.log(line);

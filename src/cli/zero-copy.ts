// --zero-copy, for all commands that have it.
import { ZERO_COPY_MODES, type ZeroCopyMode } from "../control/copying.ts";
import { TramError } from "../errors.ts";
import type { Address } from "../transport/address.ts";

/** Refuses before anything has begun what the channel can never do. */
export function parseZeroCopy(text: string, { scheme }: Address): ZeroCopyMode {
  const mode = ZERO_COPY_MODES.find((one) => one === text);
  if (!mode)
    throw new TramError("E_USAGE", `--zero-copy: '${text}' is not known`, { expected: ZERO_COPY_MODES.join(", ") });
  if (mode === "on" && scheme !== "tcp")
    throw new TramError("E_REFUSED", "--zero-copy on: pages can be sent without a copy over TCP only", {
      expected: "tcp:HOST:PORT",
      found: `${scheme}:`,
      next: "use tcp:, or leave --zero-copy out",
    });
  return mode;
}

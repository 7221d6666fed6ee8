// --direct-io, wherever it is taken.
import { TramError } from "../errors.ts";
import { DIRECT_MODES, type DirectMode } from "../native/file.ts";

export const DIRECT_CHOICES = "auto (long runs), on (all pages) or off";

export function parseDirect(text: string | undefined): DirectMode {
  const mode = DIRECT_MODES.find((one) => one === (text ?? "auto"));
  if (mode) return mode;
  throw new TramError("E_USAGE", `--direct-io: '${text}' is not known`, { expected: DIRECT_MODES.join(", ") });
}

// --disk: a guest's disks as a person names them.

import { resolve } from "node:path";
import { TramError } from "../errors.ts";
import { DISK_MODES, type DiskWish } from "../machine/disk-file.ts";
import { DISKS_MAX } from "../stream/devices/machine.ts";

/** FILE or FILE,mode=MODE, a line for each; null: none was named. */
export function parseDisks(lines: string | undefined): DiskWish[] | null {
  if (lines === undefined) return null;
  const given = lines.split("\n");
  if (given.length > DISKS_MAX)
    throw new TramError("E_USAGE", "--disk: there are too many", {
      expected: `at most ${DISKS_MAX}`,
      found: `${given.length}`,
    });
  return given.map(parseDisk);
}

function parseDisk(text: string): DiskWish {
  const [, path, wanted] = /^(.*?)(?:,mode=([^,]*))?$/.exec(text) as RegExpExecArray;
  const mode = DISK_MODES.find((one) => one === wanted);
  if (path === "") throw new TramError("E_USAGE", `--disk: '${text}' names no file`);
  if (wanted !== undefined && !mode)
    throw new TramError("E_USAGE", `--disk: mode '${wanted}' is not known`, { expected: DISK_MODES.join(", ") });
  return { path: resolve(path), mode: mode ?? null }; // a detached process is in another folder
}

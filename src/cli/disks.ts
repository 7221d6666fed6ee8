// --disk: a guest's disks as a person names them.

import { resolve } from "node:path";
import { TramError } from "../errors.ts";
import { DISK_MODES, type DiskWish } from "../machine/disk-file.ts";
import { DISKS_MAX } from "../stream/devices/machine.ts";

/** FILE, FILE,mode=MODE or FILE,format=raw, a line for each; null: none was named. */
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
  const [, path, options] = /^(.*?)((?:,(?:mode|format)=[^,]*)*)$/.exec(text) as RegExpExecArray;
  const said = (name: string) => new RegExp(`,${name}=([^,]*)`).exec(options)?.[1];
  const [wanted, format] = [said("mode"), said("format")];
  const mode = DISK_MODES.find((one) => one === wanted);
  if (format !== undefined && format !== "raw")
    throw new TramError("E_USAGE", `--disk: format '${format}' is not known`, { expected: "raw, which it is anyway" });
  if (path === "") throw new TramError("E_USAGE", `--disk: '${text}' names no file`);
  if (wanted !== undefined && !mode)
    throw new TramError("E_USAGE", `--disk: mode '${wanted}' is not known`, { expected: DISK_MODES.join(", ") });
  return { path: resolve(path), mode: mode ?? null, isRaw: format === "raw" }; // a detached process is in another folder
}

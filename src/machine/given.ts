// What somebody says of a guest's lines to this host before it comes, against what it has. Pure.
import { TramError } from "../errors.ts";
import type { MachineDescription } from "../stream/devices/machine.ts";

export interface Given {
  /** A tap, or none: its cable is unplugged. Null: nothing was said. */
  net: "tap" | "none" | null;
  /** There is a place for what it says on its console. */
  console: boolean;
}

export function checkGiven({ mac, console }: MachineDescription, given: Given): void {
  if (mac !== null && given.net === null)
    throw new TramError("E_REFUSED", "the guest has a network card", {
      expected: "--net tap:NAME, the tap that it is to have here",
      found: "no --net",
      next: "name one; or --net none, and its cable is unplugged",
    });
  if (mac === null && given.net === "tap") throw hasNone("network card", "net");
  if (!console && given.console) throw hasNone("console", "console");
}

const hasNone = (what: string, option: string): TramError =>
  new TramError("E_REFUSED", `--${option}: the guest has no ${what}`, {
    next: `leave --${option} out: what a guest has it was booted with`,
  });

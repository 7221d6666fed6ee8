// The guest's generation: a number that is another one each time the guest comes out of a file, so that its kernel knows that it may
// not be the only one with its random state.
// Source: Microsoft, "Virtual Machine Generation ID"; ACPI specification 6.5, 5.6.9 (generic event device).
import { setIrqLine } from "../../native/kvm.ts";
import { Marks } from "../../native/marks.ts";
import { PAGE_BYTES } from "../../native/ram.ts";
import type { MachineHandles } from "../board.ts";
import { attachRam } from "../machine.ts";

/** In what firmware keeps; and the line by which the guest is told that it has changed. */
export const GENERATION_AT = 0xef000;
export const GENERATION_LINE = 6;
const GENERATION_BYTES = 16;

/** Before the guest runs for the first time. */
export function setGeneration(handles: MachineHandles): void {
  attachRam(handles).write(GENERATION_AT, crypto.getRandomValues(new Uint8Array(GENERATION_BYTES)));
}

/** Before it goes on out of a file. */
export function changeGeneration(handles: MachineHandles): void {
  setGeneration(handles);
  if (handles.marks) Marks.attach(handles.marks.written).add(GENERATION_AT / PAGE_BYTES, 1);
  setIrqLine(handles.vm, GENERATION_LINE, true);
  setIrqLine(handles.vm, GENERATION_LINE, false);
}

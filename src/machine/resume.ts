// A guest that stood still goes on: nobody else has its disks meanwhile, and it knows that time has passed.
import type { Board, MachineHandles } from "./board.ts";
import { disownDisks, ownDisks } from "./disk-file.ts";
import { noteStandstill } from "./kvm-state.ts";

/** Under the board's lock. Throws, and it stands still as before, if one of its disks is somebody else's now. */
export function resumeCpus(board: Board, handles: MachineHandles): void {
  takeDisks(board, handles);
  noteStandstill(handles);
  board.runCpus();
}

/** They are this guest's, whether or not it runs. */
export function takeDisks(board: Board, { disks }: MachineHandles): void {
  if (board.disksReleased) ownDisks(disks, board.readLeftDisks());
  board.disksReleased = false;
}

/** They may be another host's from here on. While nothing runs. */
export function leaveDisks(board: Board, { disks }: MachineHandles): void {
  if (disks.length === 0) return;
  board.disksReleased = true; // first: whoever lets it run again locks them again
  board.writeLeftDisks(disownDisks(disks));
}

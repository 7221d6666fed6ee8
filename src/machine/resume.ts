// A guest that stood still goes on: nobody else has its disks meanwhile, and it knows that time has passed.
import type { Board, MachineHandles } from "./board.ts";
import { disownDisks, ownDisks } from "./disk-file.ts";
import { noteStandstill } from "./kvm-state.ts";
import { announceNet } from "./net.ts";

/** Under the board's lock. Throws, and it stands still as before, if one of its disks is somebody else's now. */
export function resumeCpus(board: Board, handles: MachineHandles): void {
  takeOver(board, handles);
  noteStandstill(handles);
  board.runCpus();
}

/** The guest is this process's, for the first time or again, whether or not it runs. Throws, likewise. */
export function takeOver(board: Board, handles: MachineHandles): void {
  if (!board.isAway) return;
  ownDisks(handles.disks, board.readLeftDisks());
  announceNet(board, handles);
  board.isAway = false;
}

/** It may be another host's from here on. While nothing runs. */
export function letGo(board: Board, { disks }: MachineHandles): void {
  board.isAway = true; // first: whoever lets it run again locks its disks again
  board.writeLeftDisks(disownDisks(disks));
}

// One disk's requests. A Worker's whole life: it stops and goes with the vCPUs, and stands still only when all that it has taken is done.
import { reasonOf } from "../errors.ts";
import { threadId } from "../native/kvm.ts";
import { initOf, tell } from "../thread.ts";
import { Board, memberOf } from "./board.ts";
import { DiskDevice } from "./disk.ts";

export interface DiskInit {
  board: SharedArrayBuffer;
  disk: number;
}

/** The disk has failed; the guest was told. */
export interface DiskMessage {
  event: "failed";
  disk: number;
  reason: string;
}

const { board: shared, disk } = initOf<DiskInit>();
const board = new Board(shared);
const member = memberOf(disk);
const device = new DiskDevice(board, board.awaitMachine(), disk);
const onFailure = (error: unknown): void =>
  tell({ event: "failed", disk, reason: reasonOf(error) } satisfies DiskMessage);

board.cpuStarted(member, threadId());
for (;;) {
  const seen = board.workOf(disk); // before the command and the queue are looked at: what comes behind that counts on
  const { run, exit, generation } = board.command();
  if (!board.hasAnswered(member, generation)) board.answer(member, generation);
  if (exit) break;
  const mustStop = () => board.command().generation !== generation;
  if (!run || !device.work(mustStop, onFailure)) board.waitForWork(disk, seen);
}

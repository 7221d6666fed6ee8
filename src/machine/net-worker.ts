// The guest's packets. A Worker's whole life: it stops and goes with the vCPUs.
import { threadId } from "../native/kvm.ts";
import { net, POLL } from "../native/net.ts";
import { initOf } from "../thread.ts";
import { Board, memberOf, NET_HELPER } from "./board.ts";
import { NetDevice } from "./net.ts";

export interface NetInit {
  board: SharedArrayBuffer;
}

const board = new Board(initOf<NetInit>().board);
const member = memberOf(NET_HELPER);
const device = NetDevice.attach(board, board.awaitMachine());
/** The interface was taken away: there is nothing to wait for. */
let isTapGone = false;
const [wakeFd, wakerFd] = net.socketPair();
board.wakeBy(NET_HELPER, wakerFd);
board.cpuStarted(member, threadId());
for (;;) {
  const { run, exit, generation } = board.command();
  if (!board.hasAnswered(member, generation)) board.answer(member, generation);
  if (exit) break;
  const againMs = run && device ? device.announce(performance.now()) : -1;
  const state = run && device ? device.work() : "full";
  const entries = [
    { fd: wakeFd, events: POLL.in },
    { fd: state === "full" || isTapGone ? -1 : (device?.tapFd ?? -1), events: POLL.in },
  ];
  const ready = net.poll(entries, state === "busy" ? 0 : againMs);
  if (ready && ready[1] & POLL.error) isTapGone = true;
  if (ready?.[0]) net.receiveMessage(wakeFd, new Uint8Array(256));
}

// The guest's sockets to its host. A Worker's whole life: it stops and goes with the vCPUs. At the host they are unix sockets: who
// connects to PATH and says "CONNECT 1234" and a newline speaks with the guest's port 1234 from the answer "OK …" and a newline on;
// what the guest wants of its host's port 1234 goes to whoever listens on PATH_1234.
import { threadId } from "../native/kvm.ts";
import { net, POLL } from "../native/net.ts";
import { initOf } from "../thread.ts";
import { Board, memberOf, VSOCK_HELPER } from "./board.ts";
import { Connections, type HostStream } from "./virtio/vsock.ts";
import { VsockDevice } from "./vsock.ts";

export interface VsockInit {
  board: SharedArrayBuffer;
  /** Listens on PATH. */
  listenFd: number;
  path: string;
}

const AGAIN = -11; // EAGAIN
const READ_BYTES = 64 << 10;
/** Who does not take connections just now keeps nobody else waiting. */
const CONNECT_MS = 0;
const LINE_BYTES_MAX = 32;
const CALLERS_MAX = 256;
/** Out of descriptors, say: whoever knocks is heard again after this. */
const KNOCK_AGAIN_MS = 100;

/** A socket as a connection's end. */
class SocketStream implements HostStream {
  readonly fd: number;
  /** Nobody asks the kernel again of one that had nothing: poll says when it has. */
  mayHaveBytes = true;
  #isClosed = false;

  constructor(fd: number) {
    this.fd = fd;
  }

  write(bytes: Uint8Array): number | null {
    const sent = net.sendMessage(this.fd, bytes);
    return sent >= 0 ? sent : sent === AGAIN ? 0 : null;
  }

  read(bytesMax: number): Uint8Array | null {
    if (!this.mayHaveBytes) return null;
    const bytes = new Uint8Array(Math.min(bytesMax, READ_BYTES));
    const got = receive(this.fd, bytes);
    this.mayHaveBytes = got !== AGAIN;
    return got === AGAIN ? null : bytes.subarray(0, Math.max(0, got));
  }

  end(): void {
    net.shutdown(this.fd, "writing");
  }

  close(): void {
    if (!this.#isClosed) net.close(this.fd);
    this.#isClosed = true;
  }

  connected(hostPort: number): void {
    net.sendMessage(this.fd, new TextEncoder().encode(`OK ${hostPort}\n`));
  }
}

/** One recvmsg that does not block; nobody passes descriptors here. */
function receive(fd: number, into: Uint8Array): number {
  const { bytes, fds } = net.receiveMessage(fd, into);
  for (const passed of fds) net.close(passed);
  return bytes;
}

const { board: shared, listenFd, path } = initOf<VsockInit>();
const board = new Board(shared);
const member = memberOf(VSOCK_HELPER);
const device = VsockDevice.attach(board, board.awaitMachine());
const connections = new Connections((port) => {
  const fd = net.tryConnectUnix(`${path}_${port}`, CONNECT_MS);
  return fd < 0 ? null : new SocketStream(fd);
});

/** Who has connected, and not said yet to which port. */
const callers = new Map<number, string>();
let deafUntilMs = 0;

function welcome(): void {
  const fd = net.tryAccept(listenFd);
  if (fd >= 0) callers.set(fd, "");
  else deafUntilMs = performance.now() + KNOCK_AGAIN_MS;
}

/** A byte at a time: what comes behind the line is the guest's. */
function hear(fd: number): void {
  const byte = new Uint8Array(1);
  for (;;) {
    const got = receive(fd, byte);
    if (got === AGAIN) return;
    const said = callers.get(fd) ?? "";
    const isLine = got > 0 && byte[0] === 10;
    if (got > 0 && !isLine && said.length < LINE_BYTES_MAX) {
      callers.set(fd, said + String.fromCharCode(byte[0]));
      continue;
    }
    callers.delete(fd);
    const [, port] = /^CONNECT (\d{1,10})\r?$/.exec(said) ?? [];
    const isPort = isLine && device?.registers.isDriven && port !== undefined && Number(port) <= 0xffffffff;
    if (!isPort || !connections.open(Number(port), new SocketStream(fd))) net.close(fd);
    return;
  }
}

const [wakeFd, wakerFd] = net.socketPair();
board.wakeBy(VSOCK_HELPER, wakerFd);
board.cpuStarted(member, threadId());
for (;;) {
  const { run, exit, generation } = board.command();
  if (!board.hasAnswered(member, generation)) board.answer(member, generation);
  if (exit) break;
  const state = run && device ? device.work(connections) : "full";
  const isDeaf = callers.size >= CALLERS_MAX || performance.now() < deafUntilMs;
  const streams = run ? [...connections.streams()] : [];
  const entries = [
    { fd: wakeFd, events: POLL.in },
    { fd: isDeaf ? -1 : listenFd, events: POLL.in },
    ...streams.map(({ stream, wantsRead, wantsWrite, isAsked }) => {
      const events = (wantsRead && state !== "full" ? POLL.in : 0) | (wantsWrite ? POLL.out : 0);
      return { fd: events === 0 && !isAsked ? -1 : (stream as SocketStream).fd, events };
    }),
    ...[...callers.keys()].map((fd) => ({ fd, events: POLL.in })),
  ];
  const ready = net.poll(entries, state === "busy" ? 0 : isDeaf ? KNOCK_AGAIN_MS : -1);
  if (!ready) continue;
  streams.forEach(({ stream, isAsked }, i) => {
    if (ready[2 + i]) (stream as SocketStream).mayHaveBytes = true;
    if (isAsked && ready[2 + i] & (POLL.error | POLL.hangup)) connections.lose(stream);
  });
  if (ready[0]) receive(wakeFd, new Uint8Array(256));
  if (ready[1]) welcome();
  entries.slice(2 + streams.length).forEach(({ fd }, i) => {
    if (ready[2 + streams.length + i]) hear(fd);
  });
}

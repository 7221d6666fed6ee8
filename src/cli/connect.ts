// tram connect: standard input and output are a connection to a port of the guest's.
import { connect as open, type Socket } from "node:net";
import { EXIT, TramError } from "../errors.ts";
import { command } from "./command.ts";
import { VM_ARG } from "./guest.ts";
import { findSocket, isGone, statOrNull, vsockPathOf } from "./runtime.ts";
import { parseCount } from "./units.ts";

const PORT_MAX = 2 ** 32 - 2;

export const connect = command({
  name: "connect",
  summary: "connects standard input and output to a port of a guest's, without a network",
  args: {
    vm: VM_ARG,
    port: { type: "positional", description: "the vsock port on which a program in the guest listens", required: true },
  },
  examples: [
    "tram connect a 1024                      # what is typed goes to the guest's port 1024",
    "tar c folder | tram connect a 1024       # the guest: socat -u VSOCK-LISTEN:1024 - | tar x",
  ],
  async run(args) {
    const port = parseCount(args.port, "port", 0, PORT_MAX);
    const qmpPath = findSocket(args.vm);
    const path = vsockPathOf(qmpPath);
    if (isGone(qmpPath))
      throw new TramError("E_NO_SUCH_GUEST", `there is no guest '${args.vm}'`, {
        next: "tram ps lists the guests of this user",
      });
    if (!statOrNull(path))
      throw new TramError("E_STATE", `'${args.vm}' has no sockets to its host`, {
        expected: path,
        next: "start it with tram run --kernel ... --vsock; tram ps lists the guests of this user",
      });
    const socket = await connected(path);
    socket.write(`CONNECT ${port}\n`);
    const rest = await answered(socket, args.vm, port);
    process.stdout.write(rest);
    return new Promise<number>((resolve, reject) => {
      process.stdin.on("error", (error) =>
        reject(new TramError("E_FILE", `cannot read standard input: ${error.message}`)),
      );
      process.stdout.on("error", () => resolve(EXIT.failed)); // whoever reads it has heard enough
      process.stdin.pipe(socket);
      socket.pipe(process.stdout, { end: false });
      socket.on("error", (error) => reject(new TramError("E_CHANNEL", `the guest has gone: ${error.message}`)));
      // Its end is the end of what the guest says: what is still typed then nobody hears.
      socket.on("end", () => {
        if (socket.writableLength === 0) process.stdout.write("", () => resolve(EXIT.done));
        else reject(new TramError("E_CHANNEL_CLOSED", "the guest ended the connection before it had taken everything"));
      });
    }).finally(() => {
      process.stdin.unpipe(socket);
      process.stdin.destroy();
      socket.destroy();
    });
  },
});

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = open({ path, allowHalfOpen: true });
    socket.once("connect", () => resolve(socket));
    socket.once("error", (error) =>
      reject(new TramError("E_CONNECT", `cannot reach the guest's sockets at ${path}: ${error.message}`)),
    );
  });
}

/** Waits for "OK" and a number; what has come behind that. */
function answered(socket: Socket, vm: string, port: number): Promise<Buffer> {
  let said = Buffer.alloc(0);
  return new Promise((resolve, reject) => {
    const refuse = () =>
      reject(
        new TramError("E_CONNECT", `nobody listens on port ${port} in '${vm}'`, {
          next: "start the service in the guest: it listens on AF_VSOCK; and its kernel needs vmw_vsock_virtio_transport",
        }),
      );
    const hear = (piece: Buffer) => {
      said = Buffer.concat([said, piece]);
      const end = said.indexOf(10);
      if (end < 0) return;
      socket.off("data", hear);
      socket.off("close", refuse);
      socket.off("end", refuse);
      socket.pause();
      resolve(said.subarray(end + 1));
    };
    socket.on("data", hear);
    socket.once("end", refuse);
    socket.once("close", refuse);
  });
}

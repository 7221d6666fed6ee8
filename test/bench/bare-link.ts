// The bare limit of a link: one process sends so many bytes over TCP, another reads them and forgets them. As a program:
//   bun bare-link.ts receive ADDRESS PORT       says "ready", then what came, and in how long, from the first byte to the last
//   bun bare-link.ts send ADDRESS PORT BYTES
import { connect, createServer } from "node:net";
import { outputOf, watch } from "./measure.ts";

const CHUNK = 1 << 20;

function receive(address: string, port: number): void {
  const server = createServer((socket) => {
    let [bytes, startedMs, endedMs] = [0, 0, 0];
    socket.on("data", (piece) => {
      endedMs = performance.now();
      if (bytes === 0) startedMs = endedMs;
      bytes += piece.length;
    });
    socket.on("end", () => {
      process.stdout.write(`${JSON.stringify({ bytes, seconds: (endedMs - startedMs) / 1000 })}\n`);
      process.exit(0);
    });
  });
  server.listen(port, address, () => process.stdout.write("ready\n"));
}

function send(address: string, port: number, bytes: number): void {
  const chunk = crypto
    .getRandomValues(Buffer.alloc(65536))
    .toString("latin1")
    .repeat(CHUNK / 65536);
  const content = Buffer.from(chunk, "latin1");
  const socket = connect(port, address);
  let left = bytes;
  const more = () => {
    while (left > 0) {
      const piece = content.subarray(0, Math.min(left, CHUNK));
      left -= piece.length;
      if (!socket.write(piece)) return;
    }
    socket.end();
  };
  socket.on("connect", more);
  socket.on("drain", more);
}

export interface LinkSample {
  bytes: number;
  seconds: number;
}

/** From the near host of a network to its far one. */
export async function sendBare(
  near: { enter: string[] },
  far: { enter: string[]; address: string },
  port: number,
  bytes: number,
): Promise<LinkSample> {
  const program = [process.execPath, import.meta.path];
  const receiver = watch(
    Bun.spawn([...far.enter, ...program, "receive", far.address, `${port}`], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    }),
  );
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of receiver.stdout) {
    const isFirst = text === "";
    text += decoder.decode(piece);
    if (isFirst) await outputOf([...near.enter, ...program, "send", far.address, `${port}`, `${bytes}`]);
  }
  return JSON.parse(text.trim().split("\n").at(-1) as string);
}

if (import.meta.main) {
  const [role, address, port, bytes] = process.argv.slice(2);
  if (role === "receive") receive(address, Number(port));
  else send(address, Number(port), Number(bytes));
}

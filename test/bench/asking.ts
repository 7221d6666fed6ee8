// A part of make bench: how long a client waits for the answer to query-migrate while the guest moves and others misbehave. Prints each
// row, writes QMP.md. BENCH_QUICK=1: few questions, into build/bench/.
import { mkdirSync, writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { type Bed, inBed } from "../support/bed.ts";
import { Qmp } from "../support/qmp.ts";
import { environment } from "./contest.ts";
import { quantile, table, verdict } from "./stats.ts";

const QUICK = process.env.BENCH_QUICK === "1";
const QUESTIONS = QUICK ? 100 : 2000;
const RESULTS = QUICK ? resolve(import.meta.dir, "../../build/bench/QMP.quick.md") : join(import.meta.dir, "QMP.md");
const AIM_MS = 50;
const LINE_BYTES = 100_000_000;
const PIECE = Buffer.alloc(1 << 20, 0x61);

/** Others on the socket, until they are told to go. */
interface Others {
  what: string;
  come(path: string): () => void;
}

/** Writes on and on; comes again each time that it is thrown out. */
function again(path: string, write: (socket: Socket) => void): () => void {
  let over = false;
  let socket: Socket;
  const come = () => {
    if (over) return;
    socket = connect(path);
    socket.on("error", () => {});
    socket.on("connect", () => write(socket));
    socket.on("close", () => setTimeout(come, 5));
  };
  come();
  return () => {
    over = true;
    socket.destroy();
  };
}

/** Reads what it is told, and asks 100 things at a time. */
function flood(socket: Socket): void {
  const many = Buffer.from('{"execute":"query-migrate"}\n'.repeat(100));
  socket.write('{"execute":"qmp_capabilities"}\n');
  socket.on("data", () => {});
  const ask = () => {
    while (!socket.destroyed && socket.write(many));
  };
  socket.on("drain", ask);
  ask();
}

function longLine(socket: Socket): void {
  let bytes = 0;
  socket.write('{"execute":"');
  const pour = () => {
    for (; bytes < LINE_BYTES && !socket.destroyed; bytes += PIECE.length) if (!socket.write(PIECE)) return;
  };
  socket.on("drain", pour);
  pour();
}

const OTHERS: readonly Others[] = [
  { what: "nobody else", come: () => () => {} },
  { what: "60 who say nothing", come: (path) => ends(Array.from({ length: 60 }, () => again(path, () => {}))) },
  { what: "one who asks without end, 100 things at a time", come: (path) => again(path, flood) },
  { what: "one who sends garbage, again and again", come: (path) => again(path, (one) => void one.write("GET /\r\n")) },
  { what: "one whose line has 100 MB, again and again", come: (path) => again(path, longLine) },
  {
    what: "one who sends half a line and leaves, again and again",
    come: (path) => again(path, (one) => void one.end('{"execute":')),
  },
];

const ends = (all: (() => void)[]) => () => {
  for (const end of all) end();
};

async function ask(path: string): Promise<number[]> {
  const client = await Qmp.connect(path);
  const waitedMs: number[] = [];
  for (let i = 0; i < QUESTIONS; i++) {
    const askedMs = performance.now();
    const answer = await client.execute("query-migrate");
    if (!answer || !("return" in answer)) throw new Error(`no answer: ${JSON.stringify(answer)}`);
    waitedMs.push(performance.now() - askedMs);
    await Bun.sleep(1);
  }
  client.close();
  return waitedMs;
}

/** The move is held before its end, so that it lasts as long as anybody asks. */
async function row(bed: Bed, path: string, { what, come }: Others): Promise<string[]> {
  const go = come(path);
  await Bun.sleep(200);
  const waitedMs = await ask(path);
  go();
  await bed.until(async () => (await bed.status("a"))?.status === "running", "the guest goes on");
  const cells = [0.5, 0.99, 1].map((q) => quantile(waitedMs, q).toFixed(1));
  const cell = [what, ...cells, verdict(quantile(waitedMs, 1) < AIM_MS)];
  process.stdout.write(`${cell.join("  ")}\n`);
  return cell;
}

const rows: string[][] = [];
await inBed(async (bed) => {
  await bed.walker("a", "--memory", "256M", "--working-set", "64M", "--dirty-rate", "max", "--fill", "random");
  await bed.target("b", "unix:in.sock");
  const path = bed.path("tram/a.qmp");
  const mover = await Qmp.connect(path);
  await mover.execute("migrate", { uri: `unix:${bed.path("in.sock")}`, tram: { hold: true, maxDowntimeMs: 1 } });
  for (const others of OTHERS) rows.push(await row(bed, path, others));
  mover.close();
});

mkdirSync(resolve(import.meta.dir, "../../build/bench"), { recursive: true });
writeFileSync(
  RESULTS,
  `# How long a QMP client waits

Written by \`make bench-qmp\`.

${await environment(null)}

A guest of 256 MiB that writes as fast as it can is moved over a unix socket, in rounds without end. One client asks \`query-migrate\`, ${QUESTIONS}
times, each time behind the last answer; others are there at the same time. Milliseconds from the question to its answer, by that client.
Aim: less than ${AIM_MS} ms, each time.

${table(["beside it", "p50", "p99", "most", ""], rows)}
`,
);

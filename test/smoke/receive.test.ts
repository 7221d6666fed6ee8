// tram receive and tram send as a source and a target meet them: captures over real sockets, pipes and files, peers that behave
// and peers that do not.
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { MappedFile } from "../../src/reader/mapped.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { Bed, type Result, type Running, TRAM } from "../support/bed.ts";
import { type Capture, captures, golden, goldenRam, keepCapture } from "../support/golden.ts";

const PAGE = 4096;
const MIB = 1 << 20;

let bed: Bed;
let sockets: Socket[];
let servers: Server[];
let mounted: string[];
beforeEach(() => {
  bed = new Bed();
  sockets = [];
  servers = [];
  mounted = [];
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  for (const server of servers) server.close();
  for (const path of mounted) Bun.spawnSync(["umount", "-l", path]);
  await bed.dispose();
});

const capture = (name: string): Capture => captures().find((one) => one.name === name) as Capture;
const PLAIN = capture("qemu-10.2-stream");
const MULTIFD = capture("qemu-10.2-multifd");

/** A report's error and what else the tests look at. */
interface Report {
  event: string;
  outcome: string;
  owner: string;
  machine: string;
  channels: { pages: number; zeroPages: number }[];
  error: { code: string; message: string; where?: string } | null;
}

/** A tram receive that listens. */
class Receiver {
  readonly running: Running;
  readonly #json = bed.path("events.json");
  readonly socket = bed.path("in.sock");

  constructor(file: string, ...options: string[]) {
    this.running = bed.start(["receive", `unix:${this.socket}`, file, `--json=${this.#json}`, ...options]);
  }

  static async start(file: string, ...options: string[]): Promise<Receiver> {
    const receiver = new Receiver(file, ...options);
    await bed.until(async () => existsSync(receiver.socket), "the socket", receiver.running);
    return receiver;
  }

  /** A connection that has sent all of `bytes`, and stays. */
  async connect(bytes: Uint8Array = new Uint8Array(0)): Promise<Socket> {
    const socket = createConnection(this.socket);
    sockets.push(socket);
    // It may be turned away: what the receiver says of it counts.
    await new Promise<void>((done) => socket.on("connect", done).on("error", () => done()));
    socket.write(bytes);
    return socket;
  }

  async phase(name: string): Promise<void> {
    await bed.until(async () => this.#events().some((line) => line.includes(`"phase":"${name}"`)), name, this.running);
  }

  #events(): string[] {
    return existsSync(this.#json) ? readFileSync(this.#json, "utf8").trim().split("\n") : [];
  }

  /** How it ended, and the last line of its events. */
  async ended(limitMs = 15_000): Promise<{ code: number; report: Report; stderr: string }> {
    await bed.until(async () => this.running.hasEnded, "its end", undefined, limitMs);
    const code = await this.running.code;
    return { code, report: JSON.parse(this.#events().at(-1) ?? "{}") as Report, stderr: this.running.stderr };
  }
}

function ramIn(path: string, offset = 0): Uint8Array {
  const transport = FileTransport.open(path);
  try {
    const file = new MappedFile(transport, offset);
    const [{ pagesOffset, bytes, present }] = file.blocks;
    const ram = new Uint8Array(bytes);
    for (let page = 0; page < present.pages; page++)
      if (present.has(page)) transport.readAt(ram.subarray(page * PAGE, (page + 1) * PAGE), pagesOffset + page * PAGE);
    return ram;
  } finally {
    transport.close();
  }
}
const hasGuest = (path: string, offset = 0): boolean => Buffer.compare(ramIn(path, offset), goldenRam()) === 0;

/** What is in the bed's folder beside what the test itself put there. */
const leftIn = (folder: string, ...own: string[]): string[] =>
  readdirSync(folder).filter((name) => !["events.json", ...own].includes(name));

/** What does not end is killed: with `exec` in a script it is tram that is. */
const run = (...argv: string[]): Promise<Result> => bed.exec(["timeout", "-k", "1", "8", ...argv]);
const shell = (script: string): Promise<Result> => run("bash", "-o", "pipefail", "-c", script);

describe("a capture over a socket", () => {
  // Each with another order of connections; 0 is the main channel.
  const orders = [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1]]; // biome-ignore format: one line
  const cases = captures().map((one, i) => ({ ...one, order: one.channels.length ? orders[i % orders.length] : [0] }));

  test.each(cases)("$name is kept, its connections in the order $order", async ({ main, channels, order }) => {
    const receiver = await Receiver.start("vm.tram");
    for (const one of order) {
      await receiver.connect([main, ...channels][one]);
      await Bun.sleep(10); // so that the order is this one
    }
    const { code, report, stderr } = await receiver.ended();
    // Events that go to a file leave the text to a person.
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining(": kept, and on disk\n") });
    expect(report).toMatchObject({ event: "keep.finished", outcome: "completed", owner: "file", machine: "none", error: null }); // biome-ignore format: one line
    expect(report.channels).toHaveLength(channels.length);
    expect(hasGuest(bed.path("vm.tram"))).toBe(true);
    expect(leftIn(bed.folder)).toEqual(["vm.tram"]);
  });

  test("is kept when as many channels came as it was told", async () => {
    const receiver = await Receiver.start("vm.tram", "--channels", "2");
    for (const bytes of [MULTIFD.main, ...MULTIFD.channels]) await receiver.connect(bytes);
    expect((await receiver.ended()).code).toBe(0);
    expect(hasGuest(bed.path("vm.tram"))).toBe(true);
  });

  test("is kept while others connect and say nothing, or go away again", async () => {
    const receiver = await Receiver.start("vm.tram");
    await receiver.connect();
    (await receiver.connect()).destroy();
    await receiver.connect(MULTIFD.channels[1]);
    await receiver.connect(MULTIFD.main.subarray(0, 10));
    await receiver.connect();
    const [, , , main] = sockets;
    await Bun.sleep(50);
    main.write(MULTIFD.main.subarray(10));
    (await receiver.connect()).destroy();
    await receiver.connect(MULTIFD.channels[0]);
    expect((await receiver.ended()).code).toBe(0);
    expect(hasGuest(bed.path("vm.tram"))).toBe(true);
  });

  test("is kept when it comes slowly, a little at a time", async () => {
    const receiver = await Receiver.start("vm.tram");
    const socket = await receiver.connect();
    for (let at = 0; at < PLAIN.main.length; at += 100_001) {
      socket.write(PLAIN.main.subarray(at, at + 100_001));
      await Bun.sleep(20);
    }
    expect((await receiver.ended()).code).toBe(0);
    expect(hasGuest(bed.path("vm.tram"))).toBe(true);
  });

  test("replaces an older file when it is whole", async () => {
    writeFileSync(bed.path("vm.tram"), "old");
    const receiver = await Receiver.start("vm.tram");
    const socket = await receiver.connect(PLAIN.main.subarray(0, PLAIN.main.length - 1));
    await receiver.phase("device");
    expect(readFileSync(bed.path("vm.tram"), "utf8")).toBe("old");
    socket.write(PLAIN.main.subarray(-1));
    expect((await receiver.ended()).code).toBe(0);
    expect(hasGuest(bed.path("vm.tram"))).toBe(true);
  });
});

describe("a capture that does not come whole", () => {
  /** Ends with this code and leaves only what was there before. */
  async function expectNothing(receiver: Receiver, code: number, error: string): Promise<Report> {
    const ended = await receiver.ended();
    expect({ code: ended.code, error: ended.report.error?.code }).toEqual({ code, error });
    expect(ended.report.outcome).not.toBe("completed");
    expect(ended.report.owner).toBe("source");
    expect(leftIn(bed.folder)).toEqual(["vm.tram"]);
    expect(readFileSync(bed.path("vm.tram"), "utf8")).toBe("old");
    return ended.report;
  }
  beforeEach(() => writeFileSync(bed.path("vm.tram"), "old"));

  test.each([4, 30, 70, 5000, 400_000, PLAIN.main.length - 900, PLAIN.main.length - 1])(
    "because its source closes after %d bytes: exit 1, nothing kept",
    async (bytes) => {
      const receiver = await Receiver.start("vm.tram");
      (await receiver.connect(PLAIN.main.subarray(0, bytes))).end();
      const report = await expectNothing(receiver, 1, "E_CHANNEL_CLOSED");
      expect(report.error?.where).toBeString();
    },
  );

  test("because a channel closes in the middle: exit 1, and the channel is named", async () => {
    const receiver = await Receiver.start("vm.tram");
    await receiver.connect(MULTIFD.main);
    await receiver.connect(MULTIFD.channels[0]);
    (await receiver.connect(MULTIFD.channels[1].subarray(0, 100_000))).end();
    const report = await expectNothing(receiver, 1, "E_CHANNEL_CLOSED");
    expect(report.error?.where).toMatch(/^byte 100000 of channel [01]$/);
  });

  test("because a channel closes before its last SYNC: exit 1", async () => {
    const receiver = await Receiver.start("vm.tram");
    await receiver.connect(MULTIFD.main);
    await receiver.connect(MULTIFD.channels[0]);
    (await receiver.connect(MULTIFD.channels[1].subarray(0, 64 + 1344))).end();
    await expectNothing(receiver, 1, "E_CHANNEL_CLOSED");
  });

  test("because a channel says nonsense while the other waits: exit 3 at once, and says where", async () => {
    const receiver = await Receiver.start("vm.tram");
    // Channel 0 has come to its SYNC and is silent, as its source waits; channel 1's second packet has no magic.
    const [silent, damaged] = [0, 1].map(
      (id) => MULTIFD.channels.find((bytes) => bytes[24] === id)?.slice() as Uint8Array,
    );
    damaged[64 + 1344] = 0xff;
    await receiver.connect(MULTIFD.main);
    await receiver.connect(damaged);
    await receiver.connect(silent.subarray(0, 64 + 1344));
    const started = performance.now();
    const report = await expectNothing(receiver, 3, "E_STREAM");
    expect(report.error?.where).toBe("byte 1408 of channel 1");
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test("because one of its channels is missing: exit 3", async () => {
    const receiver = await Receiver.start("vm.tram", "--channels", "2", "--timeout", "1s");
    await receiver.connect(MULTIFD.main);
    await receiver.connect(MULTIFD.channels[0]);
    await expectNothing(receiver, 3, "E_STREAM");
  });

  test("because the first of its channels is missing, which the second one's number tells: exit 3", async () => {
    const receiver = await Receiver.start("vm.tram");
    await receiver.connect(MULTIFD.main);
    await receiver.connect(MULTIFD.channels.find((bytes) => bytes[24] === 1) as Uint8Array);
    await expectNothing(receiver, 3, "E_STREAM");
  });

  test("because all of its channels are missing, which its words tell: exit 3", async () => {
    const receiver = await Receiver.start("vm.tram");
    await receiver.connect(MULTIFD.main);
    await expectNothing(receiver, 3, "E_STREAM");
  });

  test("because one of its channels is there twice: exit 3", async () => {
    const receiver = await Receiver.start("vm.tram");
    for (const bytes of [MULTIFD.channels[0], MULTIFD.channels[0], MULTIFD.main]) await receiver.connect(bytes);
    await expectNothing(receiver, 3, "E_STREAM");
  });

  test.each<[string, Uint8Array]>([
    ["text", Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n")],
    ["zeros", new Uint8Array(10_000)],
    ["a capture with a damaged record", PLAIN.main.slice().fill(0xff, 300_000, 310_000)],
    ["a capture with a damaged table", PLAIN.main.slice().fill(0xff, 35, 40)],
  ])("because it is %s: exit 3, with the place", async (_, bytes) => {
    const receiver = await Receiver.start("vm.tram");
    await receiver.connect(bytes);
    const report = await expectNothing(receiver, 3, "E_STREAM");
    expect(report.error?.where).toMatch(/^byte \d+ of the stream$/);
  });

  test("because its source is silent: exit 6 after the time it is given", async () => {
    const receiver = await Receiver.start("vm.tram", "--timeout", "1s");
    await receiver.connect(PLAIN.main.subarray(0, 100_000));
    await expectNothing(receiver, 6, "E_PEER_SILENT");
  });

  test.each<["SIGINT" | "SIGTERM", string, (receiver: Receiver) => Promise<void>]>([
    ["SIGINT", "while it waits for a source", async () => undefined],
    ["SIGTERM", "while it waits for a source", async () => undefined],
    [
      "SIGINT",
      "in the middle of the RAM",
      async (receiver) => {
        await receiver.connect(PLAIN.main.subarray(0, 400_000));
        await receiver.phase("active");
      },
    ],
    [
      "SIGINT",
      "while a channel waits for the others",
      async (receiver) => {
        await receiver.connect(MULTIFD.main);
        await receiver.connect(MULTIFD.channels[0]);
        await receiver.connect(MULTIFD.channels[1].subarray(0, 50_000));
        await receiver.phase("active");
      },
    ],
    [
      "SIGINT",
      "in the middle of the device state",
      async (receiver) => {
        await receiver.connect(PLAIN.main.subarray(0, PLAIN.main.length - 10));
        await receiver.phase("device");
      },
    ],
  ])("because of %s %s: exit 130, at once", async (signal, _, prepare) => {
    const receiver = await Receiver.start("vm.tram");
    await prepare(receiver);
    await Bun.sleep(50);
    const started = performance.now();
    receiver.running.kill(signal);
    await expectNothing(receiver, 130, "E_INTERRUPTED");
    expect(performance.now() - started).toBeLessThan(3000);
  });

  const cannotMount = process.getuid?.() === 0 ? null : "only root can mount a small file system";
  const wholeDisk = `because the disk is full: exit 1${cannotMount ? ` (skipped: ${cannotMount})` : ""}`;
  test.skipIf(cannotMount !== null).each([PLAIN, MULTIFD])(`$name, ${wholeDisk}`, async ({ main, channels }) => {
    const disk = bed.path("disk");
    mkdirSync(disk);
    expect(Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=512k", "none", disk]).exitCode).toBe(0);
    mounted.push(disk);
    writeFileSync(join(disk, "vm.tram"), "old");
    const receiver = await Receiver.start(join(disk, "vm.tram"));
    for (const bytes of [main, ...channels]) await receiver.connect(bytes);
    const { code, report, stderr } = await receiver.ended();
    expect({ code, error: report.error?.code }).toEqual({ code: 1, error: "E_FILE" });
    expect(stderr).toContain("ENOSPC");
    expect(report.owner).toBe("source");
    expect(readdirSync(disk)).toEqual(["vm.tram"]);
    expect(readFileSync(join(disk, "vm.tram"), "utf8")).toBe("old");
  });
});

describe("where it comes from and where it goes", () => {
  const stream = () => bed.path("stream.bin");
  beforeEach(() => writeFileSync(stream(), PLAIN.main));

  test.each<[string, string]>([
    ["standard input", `${TRAM} receive - vm.tram < stream.bin`],
    ["a pipe", `cat stream.bin | ${TRAM} receive - vm.tram`],
    ["a descriptor", `${TRAM} receive fd:5 vm.tram 5< stream.bin`],
    ["a command", `${TRAM} receive 'exec:cat stream.bin' vm.tram`],
    ["a command that goes on after it", `${TRAM} receive 'exec:cat stream.bin; sleep 60' vm.tram`],
  ])("from %s", async (_, script) => {
    expect(await shell(script)).toMatchObject({ code: 0, stdout: "" });
    expect(hasGuest(bed.path("vm.tram"))).toBe(true);
    expect(leftIn(bed.folder, "stream.bin")).toEqual(["vm.tram"]);
  });

  test("from a pipe that ends early: exit 3", async () => {
    expect(await shell(`head -c 400000 stream.bin | ${TRAM} receive - vm.tram`)).toMatchObject({ code: 3 });
    expect(leftIn(bed.folder, "stream.bin")).toEqual([]);
  });

  test.each<[string, string, number]>([
    ["a path", "vm.tram", 0],
    ["file:PATH", "file:vm.tram", 0],
    ["file:PATH,offset=N", "file:vm.tram,offset=5000", 5000],
    ["an offset in hexadecimal", "file:vm.tram,offset=0x1234", 0x1234],
    ["a path in another folder", "./folder/../vm.tram", 0],
  ])("to %s", async (_, target, offset) => {
    mkdirSync(bed.path("folder"));
    expect(await shell(`${TRAM} receive - '${target}' < stream.bin`)).toMatchObject({ code: 0, stdout: "" });
    expect(hasGuest(bed.path("vm.tram"), offset)).toBe(true);
  });

  test("to an offset keeps what stands before it", async () => {
    writeFileSync(bed.path("vm.tram"), Buffer.alloc(6000, "x"));
    expect(await shell(`${TRAM} receive - file:vm.tram,offset=5000 < stream.bin`)).toMatchObject({ code: 0 });
    expect(readFileSync(bed.path("vm.tram")).subarray(0, 5004).toString()).toBe(`${"x".repeat(5000)}QEVM`);
    expect(hasGuest(bed.path("vm.tram"), 5000)).toBe(true);
  });

  test.each<[string, string]>([
    ["standard output", `${TRAM} receive - - < stream.bin > vm.tram`],
    ["a descriptor", `${TRAM} receive - fd:7 < stream.bin 7> vm.tram`],
    ["a descriptor for both", `${TRAM} receive - fd:7 < stream.bin 7<> vm.tram`],
  ])("to %s", async (_, script) => {
    expect(await shell(script)).toMatchObject({ code: 0, stdout: "" });
    expect(hasGuest(bed.path("vm.tram"))).toBe(true);
  });

  test("to >> keeps the guest behind what was there, or says that it cannot", async () => {
    writeFileSync(bed.path("vm.tram"), "HEADER");
    const { code } = await shell(`${TRAM} receive - - < stream.bin >> vm.tram`);
    if (code === 2) expect(readFileSync(bed.path("vm.tram"), "utf8")).toBe("HEADER");
    else expect({ code, kept: hasGuest(bed.path("vm.tram"), 6) }).toEqual({ code: 0, kept: true });
  });

  test.each<[string, string]>([
    ["a pipe", `${TRAM} receive - - < stream.bin | cat > vm.tram`],
    ["a device by redirection", `exec ${TRAM} receive - - < stream.bin > /dev/null`],
    ["a device by its name", `exec ${TRAM} receive - /dev/full < stream.bin`],
    ["a pipe by its name", `mkfifo pipe; exec ${TRAM} receive - pipe < stream.bin`],
    ["a folder", `mkdir folder; exec ${TRAM} receive - folder < stream.bin`],
  ])("to %s is refused before anything is read", async (_, script) => {
    const { code, stderr } = await shell(script);
    expect(stderr).toStartWith("tram: ");
    expect(stderr).not.toContain("defect of tram");
    expect([1, 2]).toContain(code); // and not timeout's 124
  });

  test("to a folder that is not there is an error, and no socket stays", async () => {
    const { code, stderr } = await run(TRAM, "receive", "unix:in.sock", "nowhere/vm.tram");
    expect({ code, says: stderr.includes("ENOENT") }).toEqual({ code: 1, says: true });
    expect(leftIn(bed.folder, "stream.bin")).toEqual([]);
  });

  test("gives its events as JSON, the last of which is the report", async () => {
    const { code, stdout } = await shell(`${TRAM} receive - vm.tram --json < stream.bin`);
    expect(code).toBe(0);
    const events = stdout.trim().split("\n").map((line) => JSON.parse(line)); // biome-ignore format: one line
    expect(events.slice(0, -1).every(({ event }) => event === "keep.phase")).toBe(true);
    expect(events.at(-1)).toMatchObject({
      schema: "tram/1",
      event: "keep.finished",
      outcome: "completed",
      owner: "file",
      file: "vm.tram",
      machine: "none",
      devices: 2,
      receivedPages: 192,
      zeroPages: 64,
      blocks: [{ name: "ram", bytes: MIB, present: 192, untold: 0 }],
      error: null,
    });
    expect(events.at(-1).fileBytes).toBe(statSync(bed.path("vm.tram")).size);
  });
});

describe("a kept guest that is sent", () => {
  beforeEach(() => void keepCapture(bed.path("vm.tram"), PLAIN));
  const target = () => bed.path("out.sock");
  const shut = (status: number) => Uint8Array.of(0, 1, 0, 4, 0, 0, 0, status);

  /** Who listens where the guest goes. `heard` is asked after each piece, with all that came so far. */
  async function listenFor(heard: (bytes: Buffer, socket: Socket) => void): Promise<void> {
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => undefined);
      let all = Buffer.alloc(0);
      socket.on("data", (piece) => {
        all = Buffer.concat([all, piece as Buffer]);
        heard(all, socket);
      });
    });
    servers.push(server);
    await new Promise<void>((done) => server.listen(target(), done));
  }
  /** What a target says to the PING behind the devices, and to the stream's end. */
  interface Behaviour {
    ready?: Uint8Array;
    end?: Uint8Array | "close";
  }
  const PING = Buffer.from([8, 0, 2, 0, 4]);
  /** A target that answers each PING once, the second as told, and the whole stream at the end. */
  function qemu({ ready, end = shut(0) }: Behaviour): Promise<void> {
    let answered = 0;
    let from = 0;
    let ended = false;
    return listenFor((bytes, socket) => {
      for (let at = bytes.indexOf(PING, from); at >= 0 && at + 9 <= bytes.length; at = bytes.indexOf(PING, from)) {
        from = at + 9;
        const pong = Buffer.concat([Uint8Array.of(0, 2, 0, 4), bytes.subarray(at + 5, at + 9)]);
        socket.write(++answered === 2 && ready ? ready : pong);
      }
      if (ended || bytes.at(-1) !== 0x7d || answered < 2) return;
      ended = true;
      if (end === "close") socket.destroy();
      else socket.write(end);
    });
  }
  async function send(...options: string[]): Promise<Result & { report: Report }> {
    const result = await run(TRAM, "send", "vm.tram", `unix:${target()}`, "--json", ...options);
    return { ...result, report: JSON.parse(result.stdout.trim().split("\n").at(-1) ?? "{}") as Report };
  }

  test("is the target's when that says so: exit 0", async () => {
    await qemu({});
    const { code, report } = await send();
    expect({ code, outcome: report.outcome, owner: report.owner }).toEqual({
      code: 0,
      outcome: "completed",
      owner: "target",
    });
  });

  test("stays in the file when the target closes after the header: exit 1", async () => {
    await listenFor((_, socket) => socket.destroy());
    const { code, report } = await send();
    expect({ code, error: report.error?.code, owner: report.owner }).toEqual({
      code: 1,
      error: "E_CHANNEL_CLOSED",
      owner: "file",
    });
  });

  test.each<[string, Behaviour]>([
    ["in place of its last answer", { ready: shut(1) }],
    ["after it has read everything", { end: shut(1) }],
  ])("stays in the file when the target says SHUT 1 %s: exit 7", async (_, behaviour) => {
    await qemu(behaviour);
    const { code, report } = await send();
    expect({ code, error: report.error?.code, owner: report.owner }).toEqual({ code: 7, error: "E_REFUSED", owner: "file" }); // biome-ignore format: one line
  });

  test("may be at the target when that closes without a word at the end: exit 4", async () => {
    await qemu({ end: "close" });
    const { code, report } = await send();
    expect({ code, error: report.error?.code, owner: report.owner }).toEqual({
      code: 4,
      error: "E_HANDOVER_UNKNOWN",
      owner: "unconfirmed",
    });
  });

  test("stays in the file when the target never answers: exit 6 after the time it is given", async () => {
    await qemu({ ready: new Uint8Array(0) });
    const { code, report } = await send("--timeout", "1s");
    expect({ code, error: report.error?.code, owner: report.owner }).toEqual({ code: 6, error: "E_PEER_SILENT", owner: "file" }); // biome-ignore format: one line
  });

  test("stays in the file when nobody listens: exit 1", async () => {
    const { code, report } = await send();
    expect({ code, error: report.error?.code, owner: report.owner }).toEqual({ code: 1, error: "E_CONNECT", owner: "file" }); // biome-ignore format: one line
  });

  test("through a pipe is the stream of its source, but for the word that an older QEMU refuses", async () => {
    expect(await shell(`${TRAM} send vm.tram - | cat > out.bin`)).toMatchObject({ code: 0 });
    expect(statSync(bed.path("out.bin")).size).toBe(PLAIN.main.length - 5);
  });

  test("is kept by a tram that receives it, as the same file", async () => {
    const receiver = await Receiver.start("again.tram", "--timeout", "3s");
    const sent = await run(TRAM, "send", "vm.tram", `unix:${receiver.socket}`, "--timeout", "5s");
    const { code, stderr } = await receiver.ended();
    expect({ sent: [sent.code, sent.stderr.includes("the guest is at")], code, stderr }).toEqual({
      sent: [0, true],
      code: 0,
      stderr: expect.stringContaining(": kept, and on disk\n"),
    });
    expect(hasGuest(bed.path("again.tram"))).toBe(true);
  });

  test("that is a plain stream, or no stream, is refused before anybody is called: exit 3", async () => {
    let called = 0;
    await listenFor(() => called++);
    for (const bytes of [
      PLAIN.main,
      Buffer.from("no stream"),
      golden("qemu-10.2-mapped.bin").subarray(0, MIB + 5000),
    ]) {
      writeFileSync(bed.path("vm.tram"), bytes);
      expect((await send()).code).toBe(3);
    }
    expect(called).toBe(0);
  });
});

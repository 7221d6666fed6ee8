// One suite for every transport: the same pages become the same bytes, whatever carries them and however many iovecs a
// call takes; a peer that goes away is an error, and never a short stream that looks whole.
import { describe, expect, test } from "bun:test";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TramError } from "../../src/errors.ts";
import { net } from "../../src/native/net.ts";
import { PAGE_BYTES, Ram } from "../../src/native/ram.ts";
import { FdTransport } from "../../src/transport/fd.ts";
import type { PageRecords, Transport } from "../../src/transport/transport.ts";
import { WriteOnly } from "../../src/transport/write-only.ts";
import { StreamWriter } from "../../src/writer/stream.ts";
import { freePort } from "../support/bed.ts";

const PAGES = 1500;
const stop = new Int32Array(new SharedArrayBuffer(4));

/** Two thirds have content, each different. */
function makeRam(): Ram {
  const ram = Ram.create(PAGES * PAGE_BYTES);
  for (let page = 0; page < PAGES; page++)
    if (page % 3 !== 0) ram.write(page * PAGE_BYTES, new Uint8Array(PAGE_BYTES).fill(1 + (page % 251)));
  return ram;
}

/** What a transport without any kernel in it is given. */
class Memory implements Transport {
  readonly name = "memory";
  readonly twoWay = false;
  readonly pieces: Uint8Array[] = [];
  write(data: Uint8Array, bytes = data.length): void {
    this.pieces.push(data.slice(0, bytes));
  }
  read(): number {
    return 0;
  }
  drain(): boolean {
    return true;
  }
  close(): void {}
}

/** A whole guest in three uneven batches, and a second round over some of it. */
function sendAll(transport: Transport, ram: Ram): void {
  const writer = new StreamWriter(transport, ram);
  const range = (from: number, to: number, step = 1) =>
    Uint32Array.from({ length: Math.ceil((to - from) / step) }, (_, i) => from + i * step);
  writer.startRam([{ name: "ram", bytes: ram.bytes }]);
  writer.beginRound(false);
  for (const batch of [range(0, 1), range(1, 1025), range(1025, PAGES)]) writer.write(batch, batch.length);
  writer.endRound();
  writer.beginRound(true);
  const again = range(0, PAGES, 7);
  writer.write(again, again.length);
  writer.endRound();
}

interface Opened {
  fd: number;
  /** Everything that arrived, once the sender has closed. */
  arrived: () => Promise<Uint8Array>;
}

const SOCAT = Bun.which("socat");

async function listening(folder: string, address: string, connect: () => number): Promise<Opened> {
  const out = join(folder, "out");
  const child = Bun.spawn([SOCAT as string, "-u", address, `CREATE:${out}`], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
  });
  for (let i = 0; ; i++) {
    try {
      const fd = connect();
      const arrived = async () => {
        await child.exited;
        return readFileSync(out);
      };
      return { fd, arrived };
    } catch (error) {
      if (i === 500) throw error;
      await Bun.sleep(10);
    }
  }
}

const TRANSPORTS: Record<string, (folder: string) => Promise<Opened> | Opened> = {
  pipe(folder) {
    const pipe = net.pipe();
    const out = openSync(join(folder, "out"), "w");
    const child = Bun.spawn(["cat"], { stdin: pipe.read, stdout: out, stderr: "ignore" });
    net.close(pipe.read);
    const arrived = async () => {
      await child.exited;
      closeSync(out);
      return readFileSync(join(folder, "out"));
    };
    return { fd: pipe.write, arrived };
  },
  file(folder) {
    const path = join(folder, "file");
    return { fd: openSync(path, "w"), arrived: async () => readFileSync(path) };
  },
  unix: (folder) =>
    listening(folder, `UNIX-LISTEN:${join(folder, "s")}`, () => net.connectUnix(join(folder, "s"), 1000, stop)),
  tcp(folder) {
    const port = freePort();
    return listening(folder, `TCP-LISTEN:${port},bind=127.0.0.1`, () => net.connectTcp("127.0.0.1", port, 1000, stop));
  },
};

const ram = makeRam();
const memory = new Memory();
sendAll(memory, ram);
const expected = Buffer.concat(memory.pieces);

for (const [name, make] of Object.entries(TRANSPORTS)) {
  const reason = (name === "unix" || name === "tcp") && !SOCAT ? "socat is not installed" : null;
  describe.skipIf(reason !== null)(`transport ${name}${reason ? ` (skipped: ${reason})` : ""}`, () => {
    async function through(wrap: (inner: FdTransport) => Transport, iovMax: number): Promise<Uint8Array> {
      const folder = mkdtempSync(join(tmpdir(), "tram-contract-"));
      try {
        const { fd, arrived } = await make(folder);
        const inner = new FdTransport(fd, { name, stop, silenceMs: 5000, iovMax });
        sendAll(wrap(inner), ram);
        inner.close();
        return await arrived();
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    }

    test.each([1, 2, 3, 16, 64, 128, 1023, 1024])("carries the same bytes, %d iovecs a call", async (iovMax) => {
      const arrived = await through((inner) => inner, iovMax);
      expect(Buffer.compare(arrived, expected)).toBe(0);
    });

    test("carries the same bytes when it has only write", async () => {
      let calls = 0;
      const arrived = await through((inner) => {
        inner.writePages = (_: PageRecords) => ++calls;
        return new WriteOnly(inner);
      }, 1024);
      expect(calls).toBe(0);
      expect(Buffer.compare(arrived, expected)).toBe(0);
    });

    test("used after it was closed is an error", async () => {
      const folder = mkdtempSync(join(tmpdir(), "tram-contract-"));
      const { fd, arrived } = await make(folder);
      const transport = new FdTransport(fd, { name, stop, silenceMs: 1000 });
      transport.close();
      transport.close();
      expect(() => transport.write(new Uint8Array(1))).toThrow(TramError);
      await arrived();
      rmSync(folder, { recursive: true });
      expect(existsSync(folder)).toBe(false);
    });
  });
}

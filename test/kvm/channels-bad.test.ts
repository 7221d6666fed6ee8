// What comes over a move's channels is not what it should be: the target says what it found where, and the guest goes on at the
// source.
import { describe, expect, test } from "bun:test";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { encodeInit, INIT_BYTES, PACKET_BYTES } from "../../src/stream/multifd.ts";
import { Bed, freePort, whyNoKvm } from "../support/bed.ts";

const reason = whyNoKvm();
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;
const MAGIC = 0x11223344;
const MIB = 64;
const WALKER = ["--memory", `${MIB}M`, "--working-set", "24M", "--dirty-rate", "max", "--fill", "random"];
/** Behind a channel's init comes the START's SYNC, then the first packet with pages. */
const [SYNC_AT, PAGES_AT] = [INIT_BYTES, INIT_BYTES + PACKET_BYTES];
const [FLAGS, ALLOCATED, NAME, OFFSETS] = [8, 12, 64, 320];

/** What is changed on its way: bytes of the channel that has this number. */
interface Spoiling {
  channel: number;
  at: number;
  bytes: number[];
}

/** Hands everything on, and spoils it; behind the main connection a stranger's, if there is one. */
async function spoilingLink(port: number, spoiling: Spoiling | null, stranger: Uint8Array | null) {
  const sockets: Socket[] = [];
  let spoiltBytes = 0;
  const open = () => {
    const far = connect(port, "127.0.0.1");
    far.on("error", () => {});
    sockets.push(far);
    return far;
  };
  const server = createServer((near) => {
    const far = open();
    sockets.push(near);
    near.on("error", () => {});
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
    far.pipe(near);
    let seen = 0;
    let channel = -1;
    near.on("data", (piece: Buffer) => {
      // The init message is one small write, and the first.
      if (seen === 0 && piece.readUInt32BE(0) === MAGIC) channel = piece[24];
      else if (seen === 0 && stranger) open().write(stranger);
      if (spoiling && channel === spoiling.channel)
        spoiling.bytes.forEach((byte, i) => {
          const at = spoiling.at + i - seen;
          if (at < 0 || at >= piece.length) return;
          if (piece[at] !== byte) spoiltBytes++;
          piece[at] = byte;
        });
      seen += piece.length;
      if (far.write(piece)) return;
      near.pause();
      far.once("drain", () => near.resume());
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    uri: `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`,
    spoiltBytes: () => spoiltBytes,
    close() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

const be32 = (value: number) => [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
const init = (channel: number) => encodeInit({ uuid: new Uint8Array(16), channel });

describe.skipIf(reason !== null)(title("a move over two channels that is spoilt on its way"), () => {
  /** The guest goes on where it was, and what the target said is returned. */
  async function refused(spoiling: Spoiling | null, stranger: Uint8Array | null = null): Promise<string> {
    const bed = new Bed();
    const port = freePort();
    const link = await spoilingLink(port, spoiling, stranger);
    try {
      await bed.walker("a", ...WALKER);
      // Less patient than the source, whose own silence would otherwise end the move at the same moment.
      const target = await bed.target("b", `tcp:127.0.0.1:${port}`, "--timeout", "2s");
      const { code } = await bed.tram("migrate", "a", link.uri, "--channels", "2");
      // The premise: it was not what the source had sent.
      if (spoiling) expect(link.spoiltBytes()).toBeGreaterThan(0);
      expect(code).not.toBe(0);
      expect(await target.code).not.toBe(0);
      expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
      await bed.goesOn("a");
      return target.stderr;
    } finally {
      link.close();
      await bed.dispose();
    }
  }

  test.each<[string, Spoiling, RegExp]>([
    ["a channel that is there twice", { channel: 1, at: 24, bytes: [0] }, /a second channel 0 of 2/],
    ["a channel that nobody has named", { channel: 1, at: 24, bytes: [9] }, /channel 9 of 2/],
    ["a channel with an impossible number", { channel: 0, at: 24, bytes: [255] }, /255/],
    ["no packet", { channel: 1, at: PAGES_AT, bytes: be32(0xdeadbeef) }, /no multifd packet[\s\S]*of channel 1/],
    [
      "a page beyond the guest's memory",
      { channel: 0, at: PAGES_AT + OFFSETS, bytes: [...be32(0), ...be32(MIB << 20)] },
      /a page outside of block[\s\S]*a page below 16384[\s\S]*page 16384/,
    ],
    [
      "a page far beyond it",
      { channel: 1, at: PAGES_AT + OFFSETS, bytes: [...be32(0x000fffff), ...be32(0xfffff000)] },
      /a page outside of block/,
    ],
    ["a page that begins inside of another", { channel: 0, at: PAGES_AT + OFFSETS + 7, bytes: [1] }, /odd offset/],
    ["pages of another block", { channel: 0, at: PAGES_AT + NAME, bytes: [0x78] }, /a page of an unknown block/],
    ["more pages than a packet has", { channel: 0, at: PAGES_AT + ALLOCATED + 4, bytes: be32(1000) }, /too many pages/],
    ["an unknown compression", { channel: 0, at: PAGES_AT + FLAGS, bytes: be32(0x08) }, /unknown way/],
    ["a lost SYNC", { channel: 1, at: SYNC_AT + FLAGS, bytes: be32(0) }, /nothing has come over any channel/],
  ])("%s", async (_, spoiling, message) => expect(await refused(spoiling)).toMatch(message), 60_000);

  test.each<[string, Uint8Array]>([
    ["as channel 0", init(0)],
    ["as channel 2", init(2)],
  ])(
    "a stranger comes in %s",
    async (_, bytes) => {
      expect(await refused(null, bytes)).toMatch(/channel/);
    },
    60_000,
  );
});

describe.skipIf(reason !== null)(title("a stranger beside a move over two channels"), () => {
  test.each<[string, Uint8Array]>([
    ["says what is nothing", new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n")],
    ["says nothing", new Uint8Array(0)],
    ["says less than it takes to know it", Uint8Array.of(0x11)],
  ])("that %s changes nothing", async (_, bytes) => {
    const bed = new Bed();
    const port = freePort();
    const link = await spoilingLink(port, null, bytes);
    try {
      await bed.walker("a", ...WALKER);
      await bed.target("b", `tcp:127.0.0.1:${port}`);
      expect(await bed.tram("migrate", "a", link.uri, "--channels", "2")).toMatchObject({ code: 0 });
      await bed.goesOn("b");
    } finally {
      link.close();
      await bed.dispose();
    }
  });
});

test.each([
  { argv: ["migrate", "vm", "tcp:127.0.0.1:1"] },
  { argv: ["save", "vm", "file.tram"] },
  { argv: ["run", "--incoming", "tcp:127.0.0.1:1"] },
  { argv: ["receive", "tcp:127.0.0.1:1", "file.tram"] },
  { argv: ["send", "file.tram", "tcp:127.0.0.1:1"] },
])("1000 channels are refused: tram $argv", async ({ argv }) => {
  const bed = new Bed();
  try {
    const { code, stderr } = await bed.tram(...argv, "--channels", "1000");
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("--channels") });
  } finally {
    await bed.dispose();
  }
});

// A Linux guest goes on, through every way a stream can take into a file and out of it again: what it counts and hashes in its
// own memory proves that nothing was lost, while it writes all the time.
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { Bed, type Result } from "../support/bed.ts";
import { type PeerOptions, QemuPeer, type QemuVersion, whyNoQemu } from "../support/qemu.ts";

const whyNot = whyNoQemu("7.2") ?? whyNoQemu("10.0");
const TICKS = 3;

/** One hop of a guest: out of its QEMU into a file, and into the next one. */
interface Hop {
  to: QemuVersion;
  /** How the stream comes: multifd channels and their compression, or what the main channel does. */
  channels?: number;
  compression?: "zlib" | "zstd";
  main?: "xbzrle" | "compress";
  /** save drives QEMU; receive waits for what QEMU is told. */
  by: "save" | "receive";
  /** How it goes into the next QEMU: a count of channels, or by QEMU itself from the file. */
  sendChannels?: number;
  load?: "mapped-ram" | "mapped-ram, multifd, direct-io";
}

class Journey {
  readonly bed = new Bed();
  readonly #options: PeerOptions;
  peer!: QemuPeer;
  #hops = 0;

  constructor(options: PeerOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    this.peer = await QemuPeer.start(this.bed, this.#options);
    await this.peer.goesOn(TICKS);
  }

  get #file(): string {
    return this.bed.path(`hop${this.#hops}.tram`);
  }

  async hop(hop: Hop): Promise<void> {
    this.#hops++;
    const before = this.peer.ticks();
    const report = await this.keep(this.peer, this.#file, hop);
    expect(report.owner).toBe("file");
    // The premise: pages came more than once, because the guest wrote to them meanwhile.
    if (hop.by === "receive" && !hop.main && !hop.channels)
      expect(report.receivedPages).toBeGreaterThan(report.blocks.reduce((sum, { present }) => sum + present, 0));
    if (hop.channels) expect(report.channels).toHaveLength(hop.channels);
    expect(await this.bed.tram("check", this.#file)).toMatchObject({ code: 0 });
    await this.peer.dispose();
    const next = await this.bringBack(this.#file, hop);
    await next.goesOn(TICKS);
    expect(next.ticks()).toBeGreaterThan(before);
    this.peer = next;
  }

  /** Takes the guest of `peer` into `file`, and leaves it paused. */
  async keep(peer: QemuPeer, file: string, hop: Omit<Hop, "to">): Promise<Report> {
    if (hop.by === "receive") return this.#receive(peer, file, hop);
    const channels = `${hop.channels ?? 0}`;
    const vm = `unix:${peer.qmpPath}`;
    return last(await this.bed.tram("save", vm, file, "--after", "pause", "--channels", channels, "--json"));
  }

  async #receive(peer: QemuPeer, file: string, { channels = 0, compression, main }: Omit<Hop, "to">): Promise<Report> {
    const socket = this.bed.path(`in${this.#hops}.sock`);
    await peer.setCapabilities({ "return-path": true, multifd: channels > 0, ...(main && { [main]: true }) });
    await peer.setParameters({
      "multifd-compression": compression ?? "none",
      // Slow enough for the guest to write again to what was sent, and for XBZRLE to have old copies to compare with.
      "max-bandwidth": main ? 40 << 20 : 200 << 20,
      "downtime-limit": main ? 30 : 100,
      ...(channels > 0 && { "multifd-channels": channels }),
    });
    const receiver = this.bed.start(["receive", `unix:${socket}`, file, `--json=${this.bed.path("events")}`]);
    await this.bed.until(async () => existsSync(socket), "tram receive listens", receiver);
    await peer.migrate(`unix:${socket}`);
    expect(await receiver.code).toBe(0);
    return last({ code: 0, stdout: await Bun.file(this.bed.path("events")).text(), stderr: "" });
  }

  async bringBack(file: string, { to, sendChannels = 0, load }: Hop): Promise<QemuPeer> {
    const next = await QemuPeer.start(this.bed, { ...this.#options, version: to, incoming: "defer" });
    if (load) {
      const multifd = load !== "mapped-ram";
      await next.setCapabilities({ "mapped-ram": true, multifd });
      if (multifd) await next.setParameters({ "multifd-channels": 2, "direct-io": true });
      await next.listen(`file:${file}`);
      expect((await next.migrationEnds()).status).toBe("completed");
      return next;
    }
    const socket = this.bed.path(`out${this.#hops}.sock`);
    await next.setCapabilities({ multifd: sendChannels > 0 });
    if (sendChannels) await next.setParameters({ "multifd-channels": sendChannels });
    await next.listen(`unix:${socket}`);
    expect(await this.bed.tram("check", file, "--against", `unix:${next.qmpPath}`)).toMatchObject({ code: 0 });
    expect(
      last(
        await this.bed.tram("send", file, `unix:${socket}`, "--channels", `${sendChannels}`, "--qemu", to, "--json"),
      ),
    ).toMatchObject({ outcome: "completed", owner: "target" });
    return next;
  }

  async end(): Promise<void> {
    await this.peer?.dispose();
    await this.bed.dispose();
  }
}

interface Report {
  outcome: string;
  owner: string;
  receivedPages: number;
  blocks: { present: number }[];
  channels: object[];
}

function last({ code, stdout, stderr }: Result): Report {
  if (code !== 0) throw new Error(`exit ${code}: ${stderr}${stdout}`);
  return JSON.parse(stdout.trim().split("\n").at(-1) as string) as Report;
}

const PLAIN: Omit<Hop, "to">[] = [
  { by: "save" },
  { by: "receive" },
  { by: "receive", channels: 1, sendChannels: 1 },
  { by: "receive", channels: 2, sendChannels: 4 },
  { by: "save", channels: 4, sendChannels: 2 },
  { by: "receive", channels: 2, compression: "zlib" },
  { by: "receive", channels: 4, compression: "zstd" },
  { by: "receive", main: "xbzrle" },
];

async function travel(options: PeerOptions, hops: readonly Hop[]): Promise<void> {
  const journey = new Journey(options);
  try {
    await journey.start();
    for (const hop of hops) await journey.hop(hop);
  } finally {
    await journey.end();
  }
}

describe.skipIf(whyNot !== null)(`a guest that goes on${whyNot ? ` (skipped: ${whyNot})` : ""}`, () => {
  describe.each(["pc", "q35", "microvm"])("%s", (machine) => {
    test("in QEMU 7.2, kept and played in every way", async () => {
      const hops: Hop[] = [...PLAIN, { by: "receive", main: "compress" } as const].map((hop) => ({
        ...hop,
        to: "7.2",
      }));
      await travel({ version: "7.2", machine }, hops);
    }, 120_000);

    test("in QEMU 10.0, which also loads the files itself", async () => {
      const hops: Hop[] = [
        ...PLAIN,
        { by: "receive", load: "mapped-ram" } as const,
        { by: "save", channels: 2, load: "mapped-ram, multifd, direct-io" } as const,
      ].map((hop) => ({ ...hop, to: "10.0" }));
      await travel({ version: "10.0", machine }, hops);
    }, 120_000);
  });

  test.each(["pc-i440fx-7.2", "pc-q35-7.2"])(
    "%s between QEMU 7.2 and 10.0, both ways",
    async (machine) => {
      const hops: Hop[] = [
        { by: "save", to: "10.0" },
        { by: "receive", channels: 2, sendChannels: 2, to: "7.2" },
        { by: "receive", load: "mapped-ram", to: "10.0" },
        { by: "save", to: "7.2" },
      ];
      await travel({ version: "7.2", machine }, hops);
    },
    120_000,
  );
});

/** Machine "none" has RAM and no CPU: what was loaded into it must come out again byte for byte. */
function pattern(bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  let x = 0x9e3779b9;
  for (let page = 0; page < bytes / 4096; page++) {
    if (page % 3 === 0) continue; // a third stays zero
    for (let at = page * 4096; at < (page + 1) * 4096; at++) {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      out[at] = page % 3 === 1 ? x : page | 1;
    }
  }
  return out;
}

describe.skipIf(whyNot !== null)("machine none", () => {
  const NONE: Omit<Hop, "to">[] = [
    { by: "save" },
    { by: "save", channels: 1, sendChannels: 1 },
    { by: "save", channels: 2, sendChannels: 4 },
    { by: "receive", channels: 4, compression: "zlib", sendChannels: 2 },
    { by: "receive", channels: 2, compression: "zstd" },
  ];
  test.each<[QemuVersion, Omit<Hop, "to">[]]>([
    ["7.2", NONE],
    ["10.0", [...NONE, { by: "save", load: "mapped-ram" }, { by: "save", load: "mapped-ram, multifd, direct-io" }]],
  ])(
    "of QEMU %s has the same RAM after each way",
    async (version, hops) => {
      const bed = new Bed();
      const content = pattern(16 << 20);
      await Bun.write(bed.path("ram.bin"), content);
      const source = await QemuPeer.start(bed, {
        version,
        machine: "none",
        extraArgs: ["-device", `loader,file=${bed.path("ram.bin")},addr=0,force-raw=on`],
      });
      try {
        // The premise: QEMU has loaded it.
        expect(Buffer.compare(await source.readRam(), content)).toBe(0);
        for (const [i, hop] of hops.entries()) {
          const journey = new Journey({ version, machine: "none" });
          const file = bed.path(`none${i}.tram`);
          try {
            const kept = await journey.keep(source, file, hop);
            await source.execute("cont"); // QEMU does not send a guest twice without
            expect(kept.blocks.reduce((sum, { present }) => sum + present, 0)).toBe(4096 - Math.ceil(4096 / 3));
            const next = await journey.bringBack(file, { ...hop, to: version });
            expect(Buffer.compare(await next.readRam(), content)).toBe(0);
            await next.dispose();
          } finally {
            await journey.bed.dispose();
          }
        }
      } finally {
        await source.dispose();
        await bed.dispose();
      }
    },
    60_000,
  );
});

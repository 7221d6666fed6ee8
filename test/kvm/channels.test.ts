// Moves over several connections: every transport and setting brings the same guest, and says what it did.
import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import type { ChannelReport } from "../../src/cli/events.ts";
import { type Bed, freePort, inBed, openFds, type Result, threads, whyNoKvm } from "../support/bed.ts";

const reason = whyNoKvm();
const kvm = describe.skipIf(reason !== null);
const title = (text: string) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

interface Report {
  outcome: string;
  owner: string;
  rounds: number;
  totalPages: number;
  zeroPages: number;
  untouchedPages: number;
  resentPages: number;
  bytes: number;
  downtimeMs: number;
  downtimePartsMs: Record<string, number>;
  channels: ChannelReport[];
  error: { code: string } | null;
}

const reportOf = (result: Result): Report => JSON.parse(result.stdout.trim().split("\n").at(-1) as string);

const WALKER = ["--memory", "64M", "--working-set", "24M", "--dirty-rate", "max", "--fill", "mixed"];
const tcp = () => `tcp:127.0.0.1:${freePort()}`;
const unix = () => "unix:b.sock";

/** Hands everything on, and the first bytes of connection `late` a while later. */
async function delayed(path: string, late: number, ms: number): Promise<{ uri: string; close(): void }> {
  let connections = 0;
  const sockets: Socket[] = [];
  const server = createServer(async (near) => {
    const mine = connections++;
    const far = connect(path);
    sockets.push(near, far);
    for (const socket of [near, far]) socket.on("error", () => {});
    far.pipe(near);
    if (mine === late) await Bun.sleep(ms);
    near.pipe(far);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  return { uri: `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}

kvm(title("a move over several connections"), () => {
  /** Premise, guest and leftovers. */
  async function moved(bed: Bed, to: string, ...options: string[]): Promise<Report> {
    const source = await bed.walker("a", ...WALKER);
    await bed.target("b", to);
    // Slow enough that the guest writes meanwhile, however busy the host is.
    const limit = options.includes("--max-bandwidth") ? [] : ["--max-bandwidth", "200M"];
    const report = reportOf(await bed.tram("migrate", "a", to, "--json", ...limit, ...options));
    expect(report).toMatchObject({ outcome: "completed", owner: "target", error: null });
    expect(report.resentPages).toBeGreaterThan(0);
    expect(report.rounds).toBeGreaterThan(1);
    const parts = Object.values(report.downtimePartsMs).reduce((sum, ms) => sum + ms, 0);
    expect(parts).toBe(report.downtimeMs);
    expect(await source.code).toBe(0);
    await bed.goesOn("b");
    expect(bed.leftovers()).toEqual(["b.qmp"]);
    expect(existsSync(bed.path("b.sock"))).toBe(false);
    return report;
  }

  const sum = (channels: ChannelReport[], of: keyof ChannelReport) => channels.reduce((all, one) => all + one[of], 0);

  test.each([
    [1, "tcp", tcp],
    [2, "tcp", tcp],
    [8, "tcp", tcp],
    [1, "unix", unix],
    [4, "unix", unix],
  ] as const)("%d of them, over %s, bring every page", (channels, _, uri) =>
    inBed(async (bed) => {
      const report = await moved(bed, uri(), "--channels", `${channels}`);
      expect(report.channels).toHaveLength(channels);
      for (const channel of report.channels) expect(channel.packets).toBeGreaterThan(report.rounds);
      expect(sum(report.channels, "zeroPages")).toBe(report.zeroPages);
      // The main connection has the rest: headers, device state, the description.
      expect(report.bytes - sum(report.channels, "bytes")).toBeLessThan(64 << 10);
    }),
  );

  test.each([
    ["zero-copy on", ["--zero-copy", "on", "--channels", "2"]],
    ["zero-copy off", ["--zero-copy", "off", "--channels", "2"]],
    ["one iovec a call", ["--channels", "2", "--iov-max", "1"]],
    ["zstd", ["--compress", "zstd", "--channels", "2"]],
    ["zstd at level 3", ["--compress", "zstd:3", "--channels", "2"]],
    ["hashes compared", ["--verify", "--channels", "2"]],
    ["a bandwidth limit", ["--max-bandwidth", "80M", "--max-downtime", "1s", "--channels", "2"]],
  ])("with %s", (what, options) =>
    inBed(async (bed) => {
      const { channels } = await moved(bed, tcp(), ...options);
      expect(channels).toHaveLength(2);
      const zeroCopied = sum(channels, "zeroCopyBytes");
      if (what === "zero-copy on") {
        // Over loopback the kernel copies all of it, and says so.
        expect(zeroCopied).toBeGreaterThan(30 << 20);
        expect(sum(channels, "copiedByKernelBytes")).toBe(zeroCopied);
      }
      if (what === "zero-copy off" || what.startsWith("zstd")) expect(zeroCopied).toBe(0);
      if (what.startsWith("zstd")) {
        expect(sum(channels, "compressMs")).toBeGreaterThan(0);
        expect(sum(channels, "bytes")).toBeLessThan(sum(channels, "pages") * 4096);
      }
    }),
  );

  test("whose rounds take longer than the target waits in silence", () =>
    inBed(async (bed) => {
      const to = unix();
      await bed.walker("a", "--memory", "64M", "--dirty-rate", "100", "--fill", "mixed");
      await bed.target("b", to, "--timeout", "1s");
      const report = reportOf(
        await bed.tram("migrate", "a", to, "--json", "--channels", "2", "--max-bandwidth", "16M"),
      );
      expect(report).toMatchObject({ outcome: "completed", owner: "target", error: null });
      await bed.goesOn("b");
    }));

  test("into a file, one of which speaks late, brings its pages too", () =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "64M", "--dirty-rate", "100", "--fill", "mixed");
      const keeper = bed.start(["receive", "unix:b.sock", "a.tram"]);
      await bed.until(async () => keeper.stderr.includes("waits on"), "it waits", keeper);
      const between = await delayed(bed.path("b.sock"), 2, 3000);
      const report = reportOf(await bed.tram("migrate", "a", between.uri, "--json", "--channels", "2"));
      between.close();
      expect(report).toMatchObject({ outcome: "completed", owner: "file", error: null });
      expect(await keeper.code).toBe(0);
      expect(keeper.stderr).toContain("over 2 channels");
    }));

  test("out of a file brings its zero pages, too, which the main one names", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...WALKER);
      expect((await bed.tram("save", "a", "a.tram")).code).toBe(0);
      await bed.target("b", unix());
      expect(await bed.tram("send", "a.tram", unix(), "--channels", "2")).toMatchObject({ code: 0 });
      await bed.goesOn("b");
    }));

  test("goes on to a third host, and back to one connection", () =>
    inBed(async (bed) => {
      await moved(bed, tcp(), "--channels", "3");
      await bed.target("c", "unix:c.sock");
      expect((await bed.tram("migrate", "b", "unix:c.sock", "--channels", "2")).code).toBe(0);
      await bed.target("d", "unix:d.sock");
      expect((await bed.tram("migrate", "c", "unix:d.sock")).code).toBe(0);
      await bed.goesOn("d");
    }));

  test("is cancelled by Ctrl-C: the guest goes on, nothing is left, and it moves afterwards", () =>
    inBed(async (bed) => {
      const source = await bed.walker("a", ...WALKER);
      const cancelled = async () => {
        const to = tcp();
        const target = await bed.target("b", to);
        const move = bed.start(["migrate", "a", to, "--channels", "4", "--max-bandwidth", "8M"]);
        await bed.until(async () => (await bed.status("a"))?.tracking === true, "it moves", move);
        await Bun.sleep(300);
        move.kill("SIGINT");
        expect(await move.code).toBe(130);
        await bed.until(async () => (await bed.status("a"))?.tracking === false, "it is not tracked");
        expect((await bed.status("a"))?.status).toBe("running");
        expect(await target.code).not.toBe(0);
        await bed.goesOn("a");
      };
      await cancelled(); // what a first move starts stays
      await Bun.sleep(200);
      const before = { fds: openFds(source.pid).join(), threads: threads(source.pid) };
      await cancelled();
      await bed.until(async () => openFds(source.pid).join() === before.fds, "descriptors as before");
      await bed.until(async () => threads(source.pid) <= before.threads, "threads as before");
      const again = tcp();
      await bed.target("c", again);
      expect((await bed.tram("migrate", "a", again, "--channels", "4")).code).toBe(0);
      await bed.goesOn("c");
    }));

  test("whose target is killed in the middle: the guest goes on at the source", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...WALKER);
      const to = tcp();
      const target = await bed.target("b", to);
      const move = bed.start(["migrate", "a", to, "--channels", "4", "--max-bandwidth", "8M", "--zero-copy", "on"]);
      await bed.until(async () => (await bed.status("a"))?.tracking === true, "it moves", move);
      await Bun.sleep(300);
      target.kill("SIGKILL");
      expect(await move.code).toBe(1);
      expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
      await bed.goesOn("a");
    }));

  test.each([
    ["--channels to a pipe", ["-", "--channels", "2"], 7],
    ["--channels to a file", ["file:x", "--channels", "2"], 7],
    ["--zero-copy on over a Unix socket", ["unix:b.sock", "--zero-copy", "on"], 7],
    ["--zero-copy on of what is compressed", ["tcp:127.0.0.1:1", "--zero-copy", "on", "--compress", "zstd"], 2],
    ["--zero-copy never", ["tcp:127.0.0.1:1", "--zero-copy", "never"], 2],
    ["--compress gzip", ["tcp:127.0.0.1:1", "--compress", "gzip"], 2],
    ["no channel at all", ["tcp:127.0.0.1:1", "--channels", "0"], 2],
  ])("is refused before it begins: %s", (_, args, code) =>
    inBed(async (bed) => {
      await bed.walker("a", "--memory", "16M");
      const result = await bed.tram("migrate", "a", ...args);
      expect({ code: result.code, stderr: result.stderr }).toEqual({ code, stderr: expect.stringContaining("--") });
      expect((await bed.status("a"))?.status).toBe("running");
    }),
  );

  test("is refused by a target that wants another number of them, and the guest goes on", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...WALKER);
      const to = tcp();
      await bed.target("b", to, "--channels", "3");
      const { code, stderr } = await bed.tram("migrate", "a", to, "--channels", "2");
      expect({ code, stderr }).toEqual({ code: 7, stderr: expect.stringContaining("another number of channels") });
      await bed.goesOn("a");
      const again = tcp();
      await bed.target("c", again, "--channels", "3");
      expect((await bed.tram("migrate", "a", again, "--channels", "3")).code).toBe(0);
      await bed.goesOn("c");
    }));

  test("does not send what nobody has written to, and does not touch it", () =>
    inBed(async (bed) => {
      const source = await bed.walker("a", "--memory", "1G", "--working-set", "8M", "--fill", "zero");
      const to = tcp();
      await bed.target("b", to);
      const report = reportOf(await bed.tram("migrate", "a", to, "--json", "--channels", "2"));
      expect(report).toMatchObject({ outcome: "completed", owner: "target" });
      expect(report.untouchedPages).toBeGreaterThan(report.totalPages * 0.9);
      expect(report.bytes).toBeLessThan(64 << 20);
      expect(await source.code).toBe(0);
      await bed.goesOn("b");
    }));
});

// Pages that leave without a copy, where the kernel really does not copy them, has no memory for them, or has to hold them long.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import type { ChannelReport } from "../../src/cli/events.ts";
import { type Bed, freePort, inBed, type Result, type Running, TRAM, whyNoKvm } from "../support/bed.ts";
import { asRootWhoMayNotLock, whyNotLimited } from "../support/limited.ts";
import { Network, whyNoNetwork, whyNoUncopied } from "../support/network.ts";
import { QmpClient } from "../support/qmp-client.ts";
import { StallingLink } from "../support/stalling-link.ts";

const noKvm = whyNoKvm();
const noUncopied = noKvm ?? (await whyNoUncopied());
const noNetwork = noKvm ?? (await whyNoNetwork());
const notLimited = noKvm ?? whyNotLimited();
const because = (text: string, reason: string | null) => `${text}${reason ? ` (skipped: ${reason})` : ""}`;

interface Report {
  outcome: string;
  owner: string;
  rounds: number;
  resentPages: number;
  channels: ChannelReport[];
  error: { code: string; message: string; expected?: string; next?: string } | null;
}

/** So that a slow move ends with its second round: what the walker writes meanwhile is its whole working set. */
const SOON = ["--max-downtime", "3s"];
const PAGE_BYTES = 4096;
const MIB = 1 << 20;
const WALKER = ["--memory", "64M", "--working-set", "24M", "--dirty-rate", "max", "--fill", "random"];
const COMPLETED = { outcome: "completed", owner: "target", error: null };

const reportOf = (result: Result): Report => JSON.parse(result.stdout.trim().split("\n").at(-1) as string);
const sum = (channels: ChannelReport[], of: keyof ChannelReport) => channels.reduce((all, one) => all + one[of], 0);

/** What was measured, for who reads the tests' output. */
const say = (text: string) => process.stdout.write(`${text}\n`);

/** A walker that is started behind other words of the command line. */
async function walkerBehind(bed: Bed, argv: string[], ...options: string[]): Promise<Running> {
  return bed.appeared("a", bed.spawn([...argv, TRAM, "run", "--guest", "walker", "--name", "a", ...options]));
}

async function targetBehind(bed: Bed, argv: string[], uri: string): Promise<Running> {
  const running = bed.spawn([...argv, TRAM, "run", "--incoming", uri, "--name", "b"]);
  await bed.until(async () => running.stderr.includes("waits on"), "the target", running);
  return running;
}

/** The last report of a move that goes on beside the test. */
function startMove(bed: Bed, to: string, ...options: string[]): { move: Running; report: () => Report } {
  const events = bed.path("events");
  const move = bed.start(["migrate", "a", to, `--json=${events}`, ...options]);
  return { move, report: () => reportOf({ code: 0, stdout: readFileSync(events, "utf8"), stderr: "" }) };
}

/** It runs at the source, as if nothing had been. */
async function isBack(bed: Bed): Promise<void> {
  await bed.until(async () => (await bed.status("a"))?.tracking === false, "it is not tracked");
  expect(await bed.status("a")).toMatchObject({ status: "running", tracking: false });
  await bed.goesOn("a");
}

async function monitored<T>(bed: Bed, action: (qmp: QmpClient) => Promise<T>): Promise<T> {
  const qmp = await QmpClient.connect(bed.path("tram/a.qmp"));
  try {
    return await action(qmp);
  } finally {
    qmp.close();
  }
}

/** Each of so many channels has carried pages, and it is not over. */
async function moves(bed: Bed, count = 2): Promise<boolean> {
  const { phase, bytes = 0, channels = [] } = await bed.moveOf("a");
  return phase === "active" && bytes > 0 && channels.length >= count && channels.every(({ pages }) => pages > 0);
}

describe.skipIf(noUncopied !== null)(because("between hosts whose kernel does not copy", noUncopied), () => {
  test.each(["on", "auto"])(
    "--zero-copy %s: no page is copied, to the end",
    (mode) =>
      inBed(async (bed) => {
        const network = await Network.create({ uncopied: true });
        try {
          const { near, far } = network;
          const source = await walkerBehind(bed, near.enter, ...WALKER);
          await targetBehind(bed, far.enter, `tcp:${far.address}:4444`);
          const options = ["--channels", "2", "--zero-copy", mode, "--json"];
          const result = await bed.exec([...near.enter, TRAM, "migrate", "a", `tcp:${far.address}:4444`, ...options]);
          const report = reportOf(result);
          expect(report).toMatchObject(COMPLETED);
          expect(report.resentPages).toBeGreaterThan(0);
          expect(report.channels).toHaveLength(2);
          for (const channel of report.channels) {
            expect(channel.zeroCopyBytes).toBe(channel.pages * PAGE_BYTES);
            expect(channel.fallbacks).toBe(0);
          }
          // Longer than auto tries before it decides.
          expect(sum(report.channels, "zeroCopyBytes")).toBeGreaterThan(60 * MIB);
          // The kernel may copy what a packet's end leaves over.
          expect(sum(report.channels, "copiedByKernelBytes")).toBeLessThan(
            sum(report.channels, "zeroCopyBytes") * 0.02,
          );
          expect(await source.code).toBe(0);
          await bed.goesOn("b");
        } finally {
          await network.dispose();
        }
      }),
    60_000,
  );
});

describe.skipIf(notLimited !== null)(because("root, who may lock little memory", notLimited), () => {
  const limitedTo = (bytes: number, action: (bed: Bed, argv: string[]) => Promise<void>) =>
    inBed((bed) => action(bed, asRootWhoMayNotLock(bytes)));

  /** The target stops reading for a while: what is sent piles up. */
  async function moved(bed: Bed, argv: string[], mode: string): Promise<Report> {
    const source = await walkerBehind(bed, argv, ...WALKER);
    const limits = readFileSync(`/proc/${source.pid}/limits`, "utf8");
    expect(limits).toMatch(new RegExp(`Max locked memory +${argv.join().match(/memlock=(\d+)/)?.[1]} `));
    expect(hasIpcLock(source.pid)).toBe(false);
    const to = `tcp:127.0.0.1:${freePort()}`;
    const target = await targetBehind(bed, argv, to);
    // The send buffers of two channels are as large as the larger of the limits.
    const options = ["--channels", "4", "--zero-copy", mode, "--max-bandwidth", "100M", ...SOON];
    const { move, report } = startMove(bed, to, ...options);
    await bed.until(() => moves(bed), "it moves", move);
    target.kill("SIGSTOP");
    await Bun.sleep(500); // less than what --zero-copy on waits for memory that the other channel has
    target.kill("SIGCONT");
    await move.code;
    const last = report();
    if (last.outcome === "completed") expect(await source.code).toBe(0);
    return last;
  }

  const hasIpcLock = (pid: number) => {
    const set = /^CapEff:\s+([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return ((BigInt(`0x${set}`) >> 14n) & 1n) === 1n;
  };

  test.each([
    ["8 MiB", 8 * MIB],
    ["64 KiB", 64 << 10],
  ])(
    "%s, auto: what the kernel cannot hold is copied",
    (_, bytes) =>
      limitedTo(bytes, async (bed, argv) => {
        const report = await moved(bed, argv, "auto");
        expect(report).toMatchObject(COMPLETED);
        expect(report.resentPages).toBeGreaterThan(0);
        expect(sum(report.channels, "fallbacks")).toBeGreaterThan(0);
        await bed.goesOn("b");
      }),
    60_000,
  );

  test(
    "8 MiB, on: waits until the kernel can hold more",
    () =>
      limitedTo(8 * MIB, async (bed, argv) => {
        const report = await moved(bed, argv, "on");
        expect(report).toMatchObject(COMPLETED);
        for (const channel of report.channels)
          expect(channel).toMatchObject({ fallbacks: 0, zeroCopyBytes: channel.pages * PAGE_BYTES });
        await bed.goesOn("b");
      }),
    60_000,
  );

  test(
    "64 KiB, on: ends the move, and says what to raise",
    () =>
      limitedTo(64 << 10, async (bed, argv) => {
        await walkerBehind(bed, argv, ...WALKER);
        const to = `tcp:127.0.0.1:${freePort()}`;
        await targetBehind(bed, argv, to);
        const options = ["--channels", "2", "--zero-copy", "on", "--json"];
        const result = await bed.exec([...argv, TRAM, "migrate", "a", to, ...options]);
        expect(result.code).toBe(1);
        const { error, ...report } = reportOf(result);
        expect(report).toMatchObject({ outcome: "failed", owner: "source" });
        expect(error).toMatchObject({ code: "E_NO_BUFFERS", next: expect.stringContaining("ulimit -l") });
        await isBack(bed);
      }),
    60_000,
  );
});

describe.skipIf(noNetwork !== null)(because("root, limited by net.core.optmem_max", noNetwork), () => {
  async function limitedTo(bytes: number, action: (bed: Bed, network: Network) => Promise<void>): Promise<void> {
    const network = await Network.create();
    try {
      network.near.limitOptionMemory(bytes);
      await inBed((bed) => action(bed, network));
    } finally {
      await network.dispose();
    }
  }

  /** The target stops reading for a while. */
  async function moved(bed: Bed, { near, far }: Network, mode: string): Promise<Report> {
    const source = await walkerBehind(bed, near.enter, ...WALKER);
    const to = `tcp:${far.address}:4444`;
    const target = await targetBehind(bed, far.enter, to);
    const options = ["--channels", "2", "--zero-copy", mode, "--max-bandwidth", "40M", ...SOON];
    const { move, report } = startMove(bed, to, ...options);
    await bed.until(() => moves(bed), "it moves", move);
    target.kill("SIGSTOP");
    await Bun.sleep(1000);
    target.kill("SIGCONT");
    await move.code;
    const last = report();
    expect(last).toMatchObject(COMPLETED);
    expect(last.resentPages).toBeGreaterThan(0);
    expect(await source.code).toBe(0);
    await bed.goesOn("b");
    return last;
  }

  test(
    "auto: what the kernel cannot hold is copied",
    () =>
      limitedTo(2048, async (bed, network) => {
        const { channels } = await moved(bed, network, "auto");
        expect(sum(channels, "fallbacks")).toBeGreaterThan(0);
        expect(sum(channels, "zeroCopyBytes")).toBeGreaterThan(0);
      }),
    60_000,
  );

  test(
    "on: waits until the kernel can hold more",
    () =>
      limitedTo(2048, async (bed, network) => {
        const { channels } = await moved(bed, network, "on");
        for (const channel of channels)
          expect(channel).toMatchObject({ fallbacks: 0, zeroCopyBytes: channel.pages * PAGE_BYTES });
      }),
    60_000,
  );

  test(
    "auto: where it can hold nothing at all, everything is copied",
    () =>
      limitedTo(256, async (bed, network) => {
        const { channels } = await moved(bed, network, "auto");
        expect(sum(channels, "zeroCopyBytes")).toBe(0);
        for (const { fallbacks } of channels) expect(fallbacks).toBeGreaterThan(0);
      }),
    60_000,
  );

  test(
    "on: where it can hold nothing at all, ends the move, and says what to raise",
    () =>
      limitedTo(256, async (bed, { near, far }) => {
        await walkerBehind(bed, near.enter, ...WALKER);
        const to = `tcp:${far.address}:4444`;
        await targetBehind(bed, far.enter, to);
        const { move, report } = startMove(bed, to, "--channels", "2", "--zero-copy", "on");
        expect(await move.code).toBe(1);
        const { error, ...last } = report();
        expect(last).toMatchObject({ outcome: "failed", owner: "source" });
        expect(error).toMatchObject({ code: "E_NO_BUFFERS", next: expect.stringContaining("net.core.optmem_max") });
        await isBack(bed);
      }),
    60_000,
  );
});

/** Where source and target are; closed by dispose. */
interface Place {
  near: string[];
  far: string[];
  to: string;
  dispose(): Promise<void>;
}

const oneHost = async (): Promise<Place> => ({
  near: [],
  far: [],
  to: `tcp:127.0.0.1:${freePort()}`,
  dispose: async () => {},
});

async function twoHosts(): Promise<Place> {
  const network = await Network.create({ uncopied: true });
  const { near, far } = network;
  return { near: near.enter, far: far.enter, to: `tcp:${far.address}:4444`, dispose: () => network.dispose() };
}

describe.each([
  ["on the same host", oneHost, noKvm],
  ["on another host, to which nothing is copied", twoHosts, noUncopied],
] as const)("a receiver %s", (_, placeOf, reason) => {
  /** A move whose pages wait in the kernel, because the target has stopped reading. */
  async function heldUp(
    action: (
      bed: Bed,
      move: { source: Running; target: Running; move: Running; report: () => Report },
    ) => Promise<void>,
    ...more: string[]
  ): Promise<void> {
    const place = await placeOf();
    try {
      await inBed(async (bed) => {
        const source = await walkerBehind(bed, place.near, ...WALKER);
        const target = await targetBehind(bed, place.far, place.to);
        const options = ["--channels", "2", "--zero-copy", "on", "--max-bandwidth", "60M", ...SOON, ...more];
        const { move, report } = startMove(bed, place.to, ...options);
        await bed.until(() => moves(bed), "it moves", move);
        target.kill("SIGSTOP");
        await Bun.sleep(1000);
        const before = await bed.moveOf("a");
        await Bun.sleep(2000);
        // The premise: it waits, because the buffers are full, and what is in them is the guest's own memory.
        expect(await bed.moveOf("a")).toMatchObject({ phase: "active", bytes: before.bytes });
        expect(move.hasEnded).toBe(false);
        expect(before.channels).toHaveLength(2);
        for (const { pages, zeroCopyBytes } of before.channels ?? []) {
          expect(zeroCopyBytes).toBeGreaterThan(0);
          expect(zeroCopyBytes).toBe(pages * PAGE_BYTES);
        }
        await action(bed, { source, target, move, report });
      });
    } finally {
      await place.dispose();
    }
  }

  test.skipIf(reason !== null)(
    because("that stops reading for three seconds, and goes on: every page arrives", reason),
    () =>
      heldUp(async (bed, { source, target, move, report }) => {
        target.kill("SIGCONT");
        expect(await move.code).toBe(0);
        const { channels, ...last } = report();
        expect(last).toMatchObject(COMPLETED);
        expect(last.resentPages).toBeGreaterThan(0);
        for (const channel of channels) expect(channel.zeroCopyBytes).toBe(channel.pages * PAGE_BYTES);
        expect(await source.code).toBe(0);
        await bed.goesOn("b");
      }),
    60_000,
  );

  test.skipIf(reason !== null)(
    because("that dies with pages in flight: the guest goes on at the source", reason),
    () =>
      heldUp(async (bed, { target, move, report }) => {
        target.kill("SIGKILL");
        expect(await move.code).toBe(1);
        expect(report()).toMatchObject({ outcome: "failed", owner: "source" });
        await isBack(bed);
      }),
    60_000,
  );

  test.skipIf(reason !== null)(
    because("that does not go on: Ctrl-C ends the move", reason),
    () =>
      heldUp(async (bed, { move, target }) => {
        move.kill("SIGINT");
        expect(await move.code).toBe(130);
        await isBack(bed);
        expect(target.hasEnded).toBe(false); // it had no part in this
      }),
    60_000,
  );

  test.skipIf(reason !== null)(
    because("that does not go on: --timeout ends the move", reason),
    () =>
      heldUp(
        async (bed, { move, target, report }) => {
          expect(await move.code).toBe(6);
          expect(report()).toMatchObject({ outcome: "failed", owner: "source" });
          await isBack(bed);
          expect(target.hasEnded).toBe(false);
        },
        "--timeout",
        "6s",
      ),
    60_000,
  );
});

describe.skipIf(noKvm !== null)(because("one channel that stands still", noKvm), () => {
  const WORKING_SET_PAGES = (24 * MIB) / PAGE_BYTES;

  /** Pages that the walker writes in a second, over so many milliseconds. */
  async function pace(bed: Bed, ms: number): Promise<number> {
    const written = async () => {
      const { pass, boundary } = (await bed.verify("a")).cpus[0] as { pass: number; boundary: number };
      return { pages: pass * WORKING_SET_PAGES + boundary, atMs: performance.now() };
    };
    const from = await written();
    await Bun.sleep(ms);
    const to = await written();
    return ((to.pages - from.pages) * 1000) / (to.atMs - from.atMs);
  }

  test.each(["on", "off"])(
    "for ten seconds, --zero-copy %s: the monitor answers, the guest keeps its pace, and then it moves",
    (mode) =>
      inBed(async (bed) => {
        const source = await bed.walker("a", ...WALKER);
        const port = freePort();
        const target = bed.start(["run", "--incoming", `tcp:127.0.0.1:${port}`, "--name", "b", "--timeout", "60s"]);
        await bed.until(async () => target.stderr.includes("waits on"), "the target", target);
        const link = await StallingLink.start(port);
        try {
          const before = await pace(bed, 2000);
          const options = [
            "--channels",
            "2",
            "--zero-copy",
            mode,
            "--timeout",
            "60s",
            "--max-bandwidth",
            "60M",
            ...SOON,
          ];
          const { move, report } = startMove(bed, `tcp:127.0.0.1:${link.port}`, ...options);
          await bed.until(async () => (link.bytes[2] ?? 0) > MIB, "the second channel carries pages", move);
          link.stall(2);
          const end = performance.now() + 10_000;
          await Bun.sleep(1000);
          const held = link.bytes[2];

          const answersMs = await monitored(bed, async (qmp) => {
            const times: number[] = [];
            for (let i = 0; i < 12; i++) {
              const askedMs = performance.now();
              expect(await qmp.execute("query-status")).toMatchObject({ status: "running" });
              times.push(performance.now() - askedMs);
              await Bun.sleep(250);
            }
            return times.sort((a, b) => a - b);
          });
          const during = await pace(bed, 2000);
          await Bun.sleep(Math.max(0, end - performance.now()));

          // The premise: it has waited for this channel, all the time.
          expect(link.bytes[2]).toBe(held as number);
          expect(move.hasEnded).toBe(false);
          const max = answersMs.at(-1) as number;
          say(
            `query-status: median ${answersMs[6]?.toFixed(2)} ms, max ${max.toFixed(2)} ms; walker: ${Math.round(before)} pages/s before, ${Math.round(during)} meanwhile`,
          );
          expect(max).toBeLessThan(50);
          expect(during).toBeGreaterThan(before / 2);

          link.goOn(2);
          expect(await move.code).toBe(0);
          expect(report()).toMatchObject(COMPLETED);
          expect(report().resentPages).toBeGreaterThan(0);
          expect(await source.code).toBe(0);
          await bed.goesOn("b");
        } finally {
          link.stop();
        }
      }),
    60_000,
  );
});

describe.skipIf(noKvm !== null)(because("at 1 MB/s", noKvm), () => {
  test.each([
    ["one connection", []],
    ["two channels", ["--channels", "2"]],
    ["two channels, uncopied", ["--channels", "2", "--zero-copy", "on"]],
  ])(
    "a target that is killed is noticed within a second: %s",
    (what, options) =>
      inBed(async (bed) => {
        await bed.walker("a", ...WALKER);
        const to = `tcp:127.0.0.1:${freePort()}`;
        const target = await bed.target("b", to);
        const { move, report } = startMove(bed, to, "--max-bandwidth", "1M", ...options);
        await bed.until(() => moves(bed, 0), "it moves", move);
        await Bun.sleep(1500);
        expect(move.hasEnded).toBe(false);
        const killedMs = performance.now();
        target.kill("SIGKILL");
        expect(await move.code).toBe(1);
        const tookMs = performance.now() - killedMs;
        say(`${what}: ended ${Math.round(tookMs)} ms after the target was killed`);
        expect(tookMs).toBeLessThan(1000);
        expect(report()).toMatchObject({ outcome: "failed", owner: "source" });
        await isBack(bed);
      }),
    60_000,
  );
});

describe.skipIf(noKvm !== null)(because("a hundred moves in a chain", noKvm), () => {
  test(
    "two channels, uncopied: every page, after each ten of them",
    () =>
      inBed(async (bed) => {
        const MOVES = 100;
        const started = performance.now();
        let running = await bed.walker("g0", "--memory", "24M", "--working-set", "16M", "--dirty-rate", "max");
        let fewest = Number.POSITIVE_INFINITY;
        for (let i = 1; i <= MOVES; i++) {
          const to = `tcp:127.0.0.1:${freePort()}`;
          const target = await bed.target(`g${i}`, to);
          const options = ["--channels", "2", "--zero-copy", "on", "--max-downtime", "10ms", "--json"];
          const report = reportOf(await bed.tram("migrate", `g${i - 1}`, to, ...options));
          expect(report).toMatchObject(COMPLETED);
          expect(report.resentPages).toBeGreaterThan(0);
          fewest = Math.min(fewest, report.resentPages);
          expect(await running.code).toBe(0);
          running = target;
          if (i % 10 === 0) await bed.goesOn(`g${i}`);
        }
        expect(bed.leftovers()).toEqual([`g${MOVES}.qmp`]);
        say(`${MOVES} moves in ${Math.round((performance.now() - started) / 1000)} s, at least ${fewest} pages resent in each`); // biome-ignore format: one line
      }),
    240_000,
  );
});

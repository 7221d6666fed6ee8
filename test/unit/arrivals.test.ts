import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { net } from "../../src/native/net.ts";
import { Arrivals } from "../../src/transport/arrivals.ts";
import { errorOf } from "../support/errors.ts";

const MAIN = 0x5145564d;
const CHANNEL = 0x11223344;
const never = new Int32Array(new SharedArrayBuffer(4));

let folder: string;
let listenFd: number;
let arrivals: Arrivals;
let open: number[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tram-arrivals-"));
  listenFd = net.listenUnix(join(folder, "s"));
  arrivals = new Arrivals(listenFd, never, (first) => (first === CHANNEL ? "channel" : "main"));
  open = [];
});
afterEach(() => {
  arrivals.close();
  for (const fd of [listenFd, ...open]) net.close(fd);
  rmSync(folder, { recursive: true });
});

/** Somebody who connects and says this. */
function connect(...words: number[]): number {
  const fd = net.connectUnix(join(folder, "s"), 1000, never);
  open.push(fd);
  const view = new DataView(new ArrayBuffer(4 * words.length));
  for (const [i, word] of words.entries()) view.setUint32(4 * i, word);
  if (words.length) net.write(fd, true, new Uint8Array(view.buffer), view.byteLength, -1, null);
  return fd;
}
const firstWord = (fd: number): number => {
  const bytes = new Uint8Array(4);
  expect(net.read(fd, bytes, 1000, null)).toBe(4);
  return new DataView(bytes.buffer).getUint32(0);
};
/** Its two channels say who they are with their second word. */
const secondWords = (fds: readonly number[]): number[] =>
  fds.map((fd) => {
    firstWord(fd);
    return firstWord(fd);
  });
/** By a reset: what it had said was not read. */
const isReset = (fd: number): boolean =>
  errorOf(() => net.read(fd, new Uint8Array(1), 1000, null)).code === "E_CHANNEL_CLOSED";

describe("those who come", () => {
  test.each([
    ["the main channel first", [MAIN, 1, 2]],
    ["it last", [1, 2, MAIN]],
    ["it in the middle", [2, MAIN, 1]],
  ])("are told apart, %s, and lose no byte by it", (_, order) => {
    for (const one of order) one === MAIN ? connect(MAIN, 9) : connect(CHANNEL, one);
    const main = arrivals.awaitMain();
    expect([firstWord(main), firstWord(main)]).toEqual([MAIN, 9]);
    expect(secondWords(arrivals.gather(0)).sort()).toEqual([1, 2]);
  });

  test("and say nothing are no hindrance", () => {
    connect();
    connect();
    connect(MAIN);
    connect();
    expect(firstWord(arrivals.awaitMain())).toBe(MAIN);
    connect(CHANNEL, 7);
    expect(arrivals.awaitChannels(1, 1000)).toBe(true);
    expect(secondWords(arrivals.channels())).toEqual([7]);
  });

  test("and go away again are no hindrance", () => {
    net.close(connect());
    open.pop();
    connect(MAIN);
    expect(firstWord(arrivals.awaitMain())).toBe(MAIN);
    expect(arrivals.channels()).toHaveLength(0);
  });

  test("say their first word in two pieces", async () => {
    const fd = connect();
    net.write(fd, true, Uint8Array.of(0x51, 0x45), 2, -1, null);
    arrivals.channels(); // a look at half a word
    arrivals.channels();
    net.write(fd, true, Uint8Array.of(0x56, 0x4d), 2, -1, null);
    expect(firstWord(arrivals.awaitMain())).toBe(MAIN);
  });

  test("as a second main channel are turned away", () => {
    connect(MAIN, 1);
    const second = connect(MAIN, 2);
    const main = arrivals.awaitMain();
    arrivals.gather(1000);
    expect([firstWord(main), firstWord(main)]).toEqual([MAIN, 1]);
    expect(isReset(second)).toBe(true);
  });

  test("are waited for, and not longer than that", () => {
    connect(MAIN);
    connect(CHANNEL, 1);
    arrivals.awaitMain();
    const started = performance.now();
    expect(arrivals.awaitChannels(2, 100)).toBe(false);
    expect(performance.now() - started).toBeGreaterThanOrEqual(95);
    expect(performance.now() - started).toBeLessThan(1000);
    connect(CHANNEL, 2);
    expect(arrivals.awaitChannels(2, 1000)).toBe(true);
  });

  test("are not waited for behind a main channel that was closed", () => {
    const main = connect(MAIN);
    connect(CHANNEL, 1);
    arrivals.awaitMain();
    expect(arrivals.awaitChannels(2, 100, { mainStays: true })).toBe(false);
    net.shutdown(main);
    const started = performance.now();
    expect(errorOf(() => arrivals.awaitChannels(2, 10_000, { mainStays: true })).code).toBe("E_CHANNEL_CLOSED");
    expect(performance.now() - started).toBeLessThan(1000);
  });

  test("and are about to speak are waited for, but silent ones only so long", () => {
    connect(MAIN);
    arrivals.awaitMain();
    connect();
    const started = performance.now();
    expect(arrivals.gather(100)).toHaveLength(0);
    expect(performance.now() - started).toBeLessThan(1000);
  });

  test("may be 600 who say nothing: the main channel is found behind them", () => {
    for (let i = 0; i < 600; i++) {
      connect();
      if (i % 100 === 99) arrivals.channels(); // takes them in: a backlog is shorter
    }
    connect(MAIN);
    expect(firstWord(arrivals.awaitMain())).toBe(MAIN);
  });

  test("are not waited for when the move is cancelled", () => {
    const stop = new Int32Array(new SharedArrayBuffer(4));
    stop[0] = 1;
    const stopped = new Arrivals(listenFd, stop, () => "main");
    expect(errorOf(() => stopped.awaitMain()).code).toBe("E_CANCELLED");
    expect(errorOf(() => stopped.awaitChannels(1, 1000)).code).toBe("E_CANCELLED");
  });
});

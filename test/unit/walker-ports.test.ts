import { describe, expect, test } from "bun:test";
import { WALKER_WORDS, WalkerPorts } from "../../src/machine/devices/walker.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import { walker as table, WALKER_CPUS_MAX } from "../../src/stream/devices/ports.ts";
import { loadState, saveState } from "../../src/stream/vmstate.ts";

function createWords(rate: number): Int32Array {
  const words = new Int32Array(new SharedArrayBuffer(WALKER_WORDS * 4));
  WalkerPorts.reset(words, rate);
  return words;
}

/** A vCPU that asks, waits as told, and writes its pages in no time but some. Pages granted, and when the last wait ended. */
class Walk {
  pages = 0;
  nowMs: number;
  readonly #ports: WalkerPorts;

  constructor(ports: WalkerPorts, startMs: number) {
    this.#ports = ports;
    this.nowMs = startMs;
  }

  until(endMs: number, usPerPage = 0): void {
    while (this.nowMs < endMs) {
      const { pages, waitMs } = this.#ports.grant(this.nowMs);
      expect(pages).toBeGreaterThanOrEqual(1);
      expect(waitMs).toBeGreaterThanOrEqual(0);
      this.nowMs += waitMs;
      if (this.nowMs > endMs) return; // it got these pages only after the end
      this.pages += pages;
      this.nowMs += (pages * usPerPage) / 1000;
    }
  }
}

describe("the walker's pace", () => {
  test.each([
    { rate: 100, cpus: 1 },
    { rate: 100, cpus: 16 },
    { rate: 1, cpus: 1 },
    { rate: 7, cpus: 3 },
    { rate: 5000, cpus: 2 },
    { rate: 49_999, cpus: 4 },
    { rate: 300_000, cpus: 1 },
  ])("is $rate pages/s over $cpus vCPUs in the long run", ({ rate, cpus }) => {
    const words = createWords(rate);
    const seconds = Math.max(60, (300 * cpus) / rate);
    let pages = 0;
    for (let cpu = 0; cpu < cpus; cpu++) {
      const walk = new Walk(new WalkerPorts(words, cpu, cpus), 10_000);
      walk.until(10_000 + seconds * 1000, 0.5);
      pages += walk.pages;
    }
    expect(Math.abs(pages / seconds / rate - 1)).toBeLessThan(0.01);
  });

  test("is even: what is granted at once is no more than a fiftieth of a second's pages, and no more than 1024", () => {
    for (const [rate, most] of [
      [5000, 100],
      [50, 1],
      [10, 1],
      [1_000_000, 1024],
    ])
      expect([rate, new WalkerPorts(createWords(rate), 0, 1).grant(1000).pages]).toEqual([rate, most]);
  });

  test("is none without a rate", () => {
    const ports = new WalkerPorts(createWords(0), 0, 4);
    for (const nowMs of [0, 0, 1, 1_000_000]) expect(ports.grant(nowMs)).toEqual({ pages: 1024, waitMs: 0 });
  });

  test("is the guest's own where that is slower", () => {
    const walk = new Walk(new WalkerPorts(createWords(10_000), 0, 1), 0);
    walk.until(10_000, 1000); // a thousand pages a second
    expect(Math.abs(walk.pages / 10_000 - 1)).toBeLessThan(0.05);
  });

  test.each([1000, 60_000, 86_400_000])("does not catch up after a pause of %d ms", (pauseMs) => {
    const walk = new Walk(new WalkerPorts(createWords(1000), 0, 1), 5000);
    walk.until(10_000);
    const before = walk.pages;
    const resumedMs = walk.nowMs + pauseMs;
    walk.nowMs = resumedMs;
    walk.until(resumedMs + 5000);
    expect(Math.abs((walk.pages - before) / 5000 - 1)).toBeLessThan(0.02);
  });

  test("does catch up after a hiccup, so that the rate holds", () => {
    const walk = new Walk(new WalkerPorts(createWords(1000), 0, 1), 5000);
    for (let step = 1; step <= 100; step++) {
      walk.until(5000 + step * 500);
      walk.nowMs += 100; // late by less than what is forgiven
    }
    expect(Math.abs(walk.pages / 50_000 - 1)).toBeLessThan(0.01);
  });

  test("is each vCPU's own: one that waits does not slow another down", () => {
    const words = createWords(200);
    const alone = new Walk(new WalkerPorts(words, 0, 2), 1000);
    alone.until(31_000);
    expect(Math.abs(alone.pages / 3000 - 1)).toBeLessThan(0.01);
  });
});

describe("the walker's probes", () => {
  test("count for each vCPU, ports and memory apart", () => {
    const words = createWords(0);
    const [first, last] = [new WalkerPorts(words, 0, 16), new WalkerPorts(words, 15, 16)];
    expect([first.probePio(), first.probePio(), last.probePio(), first.probePio()]).toEqual([0, 1, 0, 2]);
    expect([first.probeMmio(0), last.probeMmio(0), first.probeMmio(15), last.probeMmio(15)]).toEqual([0, 1, 0, 1]);
    expect(first.probePio()).toBe(3);
  });

  test("answer for a vCPU that cannot be with ones, and count nothing", () => {
    const words = createWords(5);
    const before = words.slice();
    expect(new WalkerPorts(words, 0, 1).probeMmio(WALKER_CPUS_MAX)).toBe(0xffffffff);
    expect(words).toEqual(before);
  });
});

describe("the walker's ports", () => {
  test("go on counting on the other side of a stream", () => {
    const source = createWords(4_000_000_000); // a rate that a signed word shows as negative
    const ports = new WalkerPorts(source, 3, 4);
    for (let i = 0; i < 5; i++) ports.probePio();
    for (let i = 0; i < 9; i++) ports.probeMmio(2);
    const out = new ByteWriter();
    saveState(table, WalkerPorts.save(source), out);
    const target = createWords(1);
    WalkerPorts.load(target, loadState(table, new ByteReader(out.done())));
    expect(target).toEqual(source);
    const there = new WalkerPorts(target, 3, 4);
    expect([there.probePio(), there.probeMmio(2), there.probeMmio(0)]).toEqual([5, 9, 0]);
    expect(WalkerPorts.save(target)).toMatchObject({ rate: 4_000_000_000 });
  });
});

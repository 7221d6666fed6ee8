import { afterEach, describe, expect, test } from "bun:test";
import { Worker } from "node:worker_threads";
import { Barrier } from "../../src/control/barrier.ts";
import { TramError } from "../../src/errors.ts";
import type { BarrierPeer } from "../support/barrier-peer.ts";
import { errorOf } from "../support/errors.ts";

const workers: Worker[] = [];
afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.terminate()));
});

/** A wait that should have ended is a failure, and not a hang. */
const notLong = () => {
  const end = performance.now() + 2000;
  return () => {
    if (performance.now() > end) throw new Error("still waiting after 2 s");
  };
};

function startPeers(barrier: Barrier, rounds: (channel: number) => number): Int32Array {
  const passed = new SharedArrayBuffer(4 * barrier.channels);
  for (let channel = 0; channel < barrier.channels; channel++) {
    const init: BarrierPeer = {
      shared: barrier.shared,
      channels: barrier.channels,
      channel,
      rounds: rounds(channel),
      passed,
    };
    workers.push(new Worker(new URL("../support/barrier-peer.ts", import.meta.url), { workerData: init }));
  }
  return new Int32Array(passed);
}

describe("the barrier", () => {
  test("of no channels is met at once", () => {
    const barrier = new Barrier(0);
    for (let count = 1; count < 4; count++) barrier.meet(count, notLong());
    expect(barrier.counts()).toEqual([]);
  });

  test("lets no channel pass before all have come and the main channel has, too", async () => {
    const barrier = new Barrier(3);
    const passed = startPeers(barrier, () => 50);
    for (let count = 1; count <= 50; count++) {
      if (count % 10 === 1) await Bun.sleep(5); // whoever could run ahead has the time to
      expect(Math.max(...passed)).toBeLessThan(count);
      barrier.meet(count, notLong());
    }
    barrier.awaitLeft(notLong());
    expect([...passed]).toEqual([50, 50, 50]);
    expect(barrier.counts()[2]).toMatchObject({ packets: 49, pages: 98, zeroPages: 0, bytes: 2 ** 40 + 49 });
  });

  test("that a channel leaves before is an error with its place", async () => {
    const barrier = new Barrier(2);
    startPeers(barrier, (channel) => 2 - channel);
    barrier.meet(1, notLong());
    const error = errorOf(() => barrier.meet(2, notLong()));
    expect(error).toMatchObject({ code: "E_CHANNEL_CLOSED", details: { expected: "its barrier 2" } });
    expect(error.message).toContain("channel 1");
    expect(error.details.where).toBeString();
    barrier.end();
  });

  test("is met when a channel leaves right behind it", () => {
    const barrier = new Barrier(1);
    startPeers(barrier, () => 1);
    barrier.meet(1, notLong());
    barrier.awaitLeft(notLong());
  });

  test("ends for those who wait when somebody ends it", async () => {
    const barrier = new Barrier(2);
    const passed = startPeers(barrier, () => 5);
    await Bun.sleep(50);
    barrier.end();
    barrier.awaitLeft(notLong());
    expect([...passed]).toEqual([0, 0]);
  });

  test("tells what went wrong on a channel", () => {
    const data = { code: "E_STREAM" as const, message: "bad ünïcödé", where: "byte 9 of channel 1", found: "x" };
    const barrier = new Barrier(1);
    barrier.leave(0, data);
    const error = errorOf(() => barrier.meet(1, notLong()));
    expect(error).toMatchObject({
      code: "E_STREAM",
      message: data.message,
      details: { where: data.where, found: "x" },
    });
  });

  test.each([0, 1, 2])("tells at once that channel %d failed, while the others are still under way", (failed) => {
    const barrier = new Barrier(3);
    barrier.leave(failed, { code: "E_FILE", message: "disk full" });
    expect(errorOf(() => barrier.meet(1, notLong()))).toMatchObject({ code: "E_FILE", message: "disk full" });
  });

  test("tells why a channel failed, and not that the others closed then", () => {
    const barrier = new Barrier(2);
    barrier.leave(1, { code: "E_FILE", message: "disk full" });
    barrier.leave(0, null);
    expect(errorOf(() => barrier.meet(1, notLong()))).toMatchObject({ code: "E_FILE", message: "disk full" });
  });

  test.each([3900, 4096, 100_000])("tells an error of %d bytes without its details, if it must", (bytes) => {
    const barrier = new Barrier(1);
    barrier.leave(0, { code: "E_FILE", message: "disk full", found: "é".repeat(bytes) });
    expect(errorOf(() => barrier.meet(1, notLong()))).toMatchObject({ code: "E_FILE", message: "disk full" });
    const other = new Barrier(1);
    other.leave(0, { code: "E_FILE", message: "é".repeat(bytes) });
    expect(errorOf(() => other.meet(1, notLong())).message).toStartWith("ééé");
  });

  test("is not waited for when the move is cancelled", async () => {
    const barrier = new Barrier(1); // whose channel never comes
    let asked = 0;
    const cancelled = () => {
      if (++asked === 3) throw new TramError("E_CANCELLED", "cancelled");
    };
    expect(errorOf(() => barrier.meet(1, cancelled)).code).toBe("E_CANCELLED");
  });
});

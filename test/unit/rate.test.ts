import { describe, expect, test } from "bun:test";
import { TokenBucket } from "../../src/control/rate.ts";

const MIB = 2 ** 20;
const BURST_MS = 100;

function seeded(seed: number): (below: number) => number {
  let n = 0;
  return (below) => Number(Bun.hash.wyhash(`${n++}`, BigInt(seed)) % BigInt(below));
}

describe("TokenBucket", () => {
  test.each([
    { rate: 1 * MIB, seed: 1 },
    { rate: 100 * MIB, seed: 2 },
    { rate: 1250_000_000, seed: 3 },
    { rate: 4096, seed: 4 },
  ])("keeps $rate bytes/s within one percent over a minute of batches of any size, seed $seed", ({ rate, seed }) => {
    const random = seeded(seed);
    let nowMs = 5000;
    const bucket = new TokenBucket({ maxBandwidthBytesPerSec: rate }, nowMs);
    let bytes = 0;
    while (nowMs < 65_000) {
      const batch = 1 + random(Math.floor(rate / 5));
      bytes += batch;
      nowMs += bucket.spend(batch, nowMs);
    }
    const found = (bytes * 1000) / (nowMs - 5000);
    expect(Math.abs(found / rate - 1)).toBeLessThan(0.01);
  });

  test("lets a channel that is slower than the limit be", () => {
    const bucket = new TokenBucket({ maxBandwidthBytesPerSec: 10 * MIB }, 0);
    for (let nowMs = BURST_MS; nowMs < 10_000; nowMs += 10) expect(bucket.spend(50_000, nowMs)).toBe(0);
  });

  test.each([1000, 60_000, 86_400_000])("gives no more than a burst of 100 ms after %d ms of silence", (quietMs) => {
    const rate = 10 * MIB;
    const bucket = new TokenBucket({ maxBandwidthBytesPerSec: rate }, 0);
    let free = 0;
    while (bucket.spend(1024, quietMs) === 0) free += 1024;
    expect(free).toBeLessThanOrEqual((rate * BURST_MS) / 1000);
    expect(free).toBeGreaterThan((rate * BURST_MS) / 1000 - 2048);
  });

  test("gives no burst at the start", () => {
    const bucket = new TokenBucket({ maxBandwidthBytesPerSec: 1000 }, 0);
    expect(bucket.spend(500, 0)).toBeCloseTo(500, 9);
  });

  test("asks for no wait when nothing is spent in time", () => {
    const bucket = new TokenBucket({ maxBandwidthBytesPerSec: 1000 }, 0);
    expect(bucket.spend(0, 0)).toBe(0);
    expect(bucket.spend(0, 1)).toBe(0);
    const waitMs = bucket.spend(1000, 2);
    expect(waitMs).toBeGreaterThan(0);
    expect(bucket.spend(0, 2 + waitMs)).toBe(0);
  });

  test("asks for the whole wait of one large batch, and for the rest of it when asked again early", () => {
    const bucket = new TokenBucket({ maxBandwidthBytesPerSec: 1_000_000 }, 0);
    expect(bucket.spend(5_000_000, 0)).toBeCloseTo(5000, 6);
    expect(bucket.spend(0, 1000)).toBeCloseTo(4000, 6);
    expect(bucket.spend(1_000_000, 2000)).toBeCloseTo(4000, 6);
  });

  test("without a limit asks for no wait, and owes nothing when there is one", () => {
    const rate = { maxBandwidthBytesPerSec: 0 };
    const bucket = new TokenBucket(rate, 0);
    expect(bucket.spend(1e12, 0)).toBe(0);
    rate.maxBandwidthBytesPerSec = 1000;
    expect(bucket.hasChanged).toBe(true);
    expect(bucket.spend(500, 1000)).toBeLessThanOrEqual(500);
    expect(bucket.hasChanged).toBe(false);
  });

  test("forgives what was owed at a lower rate", () => {
    const rate = { maxBandwidthBytesPerSec: 1000 };
    const bucket = new TokenBucket(rate, 0);
    expect(bucket.spend(60_000, 0)).toBeCloseTo(60_000, 6);
    rate.maxBandwidthBytesPerSec = 1_000_000;
    expect(bucket.spend(1000, 10)).toBeCloseTo(1, 6);
  });
});

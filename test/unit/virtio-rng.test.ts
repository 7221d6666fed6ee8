// A source of random bytes: it fills what it is given, and no more of it than it should at a time.
import { expect, test } from "bun:test";
import { RNG_BYTES_MAX, Rng } from "../../src/machine/virtio/rng.ts";
import { DESCRIPTORS, Driver, FLAG } from "../support/virtio-driver.ts";

function source() {
  const driver = new Driver(64);
  let next = 0;
  const device = new Rng(driver.memory, (bytes) => Uint8Array.from({ length: bytes }, () => ++next & 0xff));
  return { driver, device };
}

test("what the driver gives is filled, piece by piece, and told of", () => {
  const { driver, device } = source();
  driver.describe(DESCRIPTORS, [
    [0x8000, 3, FLAG.next | FLAG.write, 1],
    [0x9000, 5, FLAG.write],
  ]);
  driver.offer(0);
  expect(device.serve(driver.queue)).toBe(false);
  expect([...driver.bytes.slice(0x8000, 0x8004), ...driver.bytes.slice(0x9000, 0x9006)]).toEqual([1, 2, 3, 0, 4, 5, 6, 7, 8, 0]);
  expect(driver.used(0)).toEqual([0, 8]);
  expect(new Set(driver.marked)).toEqual(new Set([5, 8, 9])); // the used ring, and both pieces
}); // biome-ignore format: rows

test("of a large piece, and of one to be read, no more than it should", () => {
  const { driver, device } = source();
  driver.describe(DESCRIPTORS, [[0x10000, 0x20000, FLAG.write], [0x8000, 100]]); // biome-ignore format: one line
  driver.offer(0);
  driver.offer(1);
  device.serve(driver.queue);
  expect([driver.used(0), driver.used(1)]).toEqual([[0, RNG_BYTES_MAX], [1, 0]]); // biome-ignore format: one line
  expect(driver.bytes[0x10000 + RNG_BYTES_MAX]).toBe(0);
});

test("many requests are dealt with a part at a time", () => {
  const { driver, device } = source();
  driver.describe(DESCRIPTORS, Array.from({ length: 40 }, (_, i) => [0x8000 + i, 1, FLAG.write])); // biome-ignore format: one line
  for (let i = 0; i < 40; i++) driver.offer(i);
  const seen: number[] = [];
  for (let isMore = true; isMore; seen.push(driver.usedIndex)) isMore = device.serve(driver.queue);
  expect(seen.at(-1)).toBe(40);
  expect(seen.length).toBeGreaterThan(2);
});

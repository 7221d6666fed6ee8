// A network card's registers, and how it says where it is.
import { expect, test } from "bun:test";
import { announcement, Net, randomMac } from "../../src/machine/virtio/net.ts";
import { formatMac, parseMac } from "../../src/stream/devices/mac.ts";

const MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);

test("tells its address, and whether its cable is in", () => {
  const card = new Net(MAC, true, () => {});
  expect(Array.from({ length: 6 }, (_, i) => card.readConfig(i, 1))).toEqual([...MAC]);
  expect([card.readConfig(6, 2), new Net(MAC, false, () => {}).readConfig(6, 2)]).toEqual([1, 0]);
  expect([card.readConfig(7, 2), card.readConfig(0, 4), card.readConfig(100, 1)]).toEqual([0, 0, 0]);
  expect(card.features & (1n << 5n)).not.toBe(0n);
});

test("leaves its packets to another thread", () => {
  let woken = 0;
  const card = new Net(MAC, true, () => woken++);
  expect([card.serve(), woken]).toEqual([false, 1]);
});

test("says where it is, to everybody", () => {
  expect(Buffer.from(announcement(MAC)).toString("hex")).toBe(
    `ffffffffffff525400123456803500010800060400035254001234560000000052540012345600000000${"00".repeat(18)}`,
  );
});

test("an address as people write it", () => {
  expect(formatMac(parseMac("52:54:00:12:34:Ab") as Uint8Array)).toBe("52:54:00:12:34:ab");
  for (const text of ["", "52:54:00:12:34", "52-54-00-12-34-56", "52:54:00:12:34:5g", "52:54:00:12:34:56:78"])
    expect(parseMac(text)).toBeNull();
  for (let i = 0; i < 256; i++) expect(randomMac(new Uint8Array(6).fill(i))[0] & 3).toBe(2);
});

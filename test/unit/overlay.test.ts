// A disk that nobody changes, and what its guest writes: read from where each sector is.
import { afterAll, expect, test } from "bun:test";
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Overlay, stretches } from "../../src/machine/overlay.ts";
import { Bitmap } from "../../src/memory/bitmap.ts";
import { DiskFile } from "../../src/native/disk.ts";
import { Ram } from "../../src/native/ram.ts";

const folder = mkdtempSync(join(tmpdir(), "tram-overlay-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("stretches of sectors that are alike", () => {
  const written = new Bitmap(8);
  written.addRange({ first: 2, pages: 3 });
  expect(stretches(written, 0, 4096)).toEqual([
    { at: 0, bytes: 1024, isOwn: false },
    { at: 1024, bytes: 1536, isOwn: true },
    { at: 2560, bytes: 1536, isOwn: false },
  ]);
  expect(stretches(written, 1024, 512)).toEqual([{ at: 1024, bytes: 512, isOwn: true }]);
});

test("does to its guest what a disk of its own would, whatever is read, written, zeroed and discarded; what lies below stays", () => {
  const sectors = 256;
  const bytes = sectors * 512;
  const model = new Uint8Array(bytes).map((_, i) => (i * 31 + (i >>> 9)) & 0xff);
  const path = join(folder, "disk");
  writeFileSync(path, model);
  const own = openSync(join(folder, "own"), "w+");
  ftruncateSync(own, bytes);
  const below = openSync(path, "r");
  const overlay = new Overlay(new DiskFile(below), new DiskFile(own), bytes);
  const ram = Ram.create(1 << 20);
  let seed = 12345;
  const pick = (limit: number) => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return Math.floor((seed / 2 ** 32) * limit);
  };
  let compared = 0;
  for (let i = 0; i < 2000; i++) {
    const first = pick(sectors);
    const count = 1 + pick(Math.min(24, sectors - first));
    const [at, size] = [first * 512, count * 512];
    // In two pieces of memory that do not end where a sector does.
    const cut = 1 + pick(size - 1);
    const parts = [{ offset: 0x1000 + pick(100), bytes: cut }, { offset: 0x40000 + pick(100), bytes: size - cut }]; // biome-ignore format: one line
    const kind = pick(4);
    if (kind === 0) {
      const data = new Uint8Array(size).map((_, j) => (i + j) & 0xff);
      ram.write(parts[0].offset, data.slice(0, cut));
      ram.write(parts[1].offset, data.slice(cut));
      overlay.write(ram, parts, at);
      model.set(data, at);
    } else if (kind === 1 && i % 8 === 0) {
      expect(overlay.zero(at, size)).toBe(true);
      model.fill(0, at, at + size);
    } else {
      overlay.read(ram, parts, at);
      const found = Buffer.concat(parts.map(({ offset, bytes: piece }) => ram.read(offset, piece)));
      expect(found.equals(model.subarray(at, at + size))).toBe(true);
      compared++;
    }
  }
  expect(compared).toBeGreaterThan(500);
  expect(readFileSync(path).equals(new Uint8Array(bytes).map((_, i) => (i * 31 + (i >>> 9)) & 0xff))).toBe(true);
  for (const fd of [below, own]) closeSync(fd);
});

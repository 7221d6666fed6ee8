// What QEMU itself sent, kept: the guest in the file is the one that was captured.
import { afterAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { play } from "../../src/keep/play.ts";
import { symbols } from "../../src/native/symbols.ts";
import { MappedFile, type StoredBlock } from "../../src/reader/mapped.ts";
import { FdTransport } from "../../src/transport/fd.ts";
import { FileTransport } from "../../src/transport/file.ts";
import { Replies } from "../../src/writer/replies.ts";
import {
  captures,
  GOLDEN_PAGES,
  golden,
  goldenRam,
  keepCapture,
  leftBeside,
  Playback,
  quietLog,
} from "../support/golden.ts";

const PAGE = 4096;
const MIB = 1 << 20;
const folder = mkdtempSync(join(tmpdir(), "tram-golden-"));
afterAll(() => rmSync(folder, { recursive: true }));
const expectedRam = goldenRam();

/** The pages of a block as a reader gets them: by its bitmap. */
function ramOf(file: MappedFile, block: StoredBlock): Uint8Array {
  const ram = new Uint8Array(block.bytes);
  const index = new Uint32Array(block.present.pages);
  const { count } = block.present.find(0, block.present.pages, index);
  file.readPages(block, ram, index, index.map((page) => page * PAGE), count); // biome-ignore format: one call
  return ram;
}

function opened<T>(path: string, action: (file: MappedFile) => T): T {
  const transport = FileTransport.open(path);
  try {
    return action(new MappedFile(transport));
  } finally {
    transport.close();
  }
}

const pagesThat = (condition: (page: number) => boolean): number[] =>
  Array.from({ length: GOLDEN_PAGES }, (_, page) => page).filter(condition);

describe.each(captures())("$name, kept", ({ name, main, channels }) => {
  const path = join(folder, `${name}.tram`);
  const kept = keepCapture(path, { main, channels });

  test("is all there, and nothing beside it", () => {
    expect(kept.configuration).toEqual({ machine: "none", capabilities: [], uuid: null });
    expect(kept.tail.bordersBy).toBe("fields");
    expect(leftBeside(path)).toEqual([]);
  });

  test("has the guest's RAM, page by page", () => {
    opened(path, (file) => {
      expect(file.blocks.map(({ name, bytes }) => [name, bytes])).toEqual([["ram", MIB]]);
      const ram = ramOf(file, file.blocks[0]);
      const differs = (page: number) =>
        Buffer.compare(
          ram.subarray(page * PAGE, (page + 1) * PAGE),
          expectedRam.subarray(page * PAGE, (page + 1) * PAGE),
        );
      expect(pagesThat((page) => differs(page) !== 0)).toEqual([]);
      // What the page area holds, without the bitmap: the zero pages are zero there, too.
      const area = readFileSync(path).subarray(file.blocks[0].pagesOffset, file.blocks[0].pagesOffset + MIB);
      expect(Buffer.compare(area, expectedRam)).toBe(0);
    });
  });

  test("has its zero pages as holes, by the bitmap and by the file system", () => {
    opened(path, (file) => {
      const [{ present, pagesOffset }] = file.blocks;
      expect(pagesThat((page) => !present.has(page))).toEqual(pagesThat((page) => page % 4 === 0));
      const hole = (page: number) => symbols.tram_host_seek_hole(file.file.fd, pagesOffset + page * PAGE);
      expect(pagesThat((page) => hole(page) === pagesOffset + page * PAGE)).toEqual(
        pagesThat((page) => page % 4 === 0),
      );
    });
    const { blocks, size } = statSync(path);
    expect(blocks * 512).toBeLessThan(MIB); // of a file of more than 2 MiB
    expect(size).toBeGreaterThan(2 * MIB);
  });

  test("has the device state as it came, byte for byte", () => {
    const ramId = name.startsWith("qemu-7.2") ? 2 : 1;
    const tailAt = Buffer.from(main).lastIndexOf(Uint8Array.of(0x7e, 0, 0, 0, ramId, 4)) + 5;
    expect(tailAt).toBeGreaterThan(100);
    opened(path, (file) => {
      expect(Buffer.compare(file.tailBytes, main.subarray(tailAt))).toBe(0);
      expect(file.tail.devices.map((device) => device.name)).toEqual(["timer", "globalstate"]);
    });
  });

  test.each([1000, 17])("is the same file when it came in pieces of %d bytes", (pieceBytes) => {
    if (pieceBytes === 17 && name.includes("multifd")) return; // one small piece is enough of a plain stream
    const again = join(folder, `${name}-${pieceBytes}.tram`);
    keepCapture(again, { main, channels }, pieceBytes);
    expect(Buffer.compare(readFileSync(again), readFileSync(path))).toBe(0);
  });
});

describe("QEMU's own files with fixed offsets", () => {
  const names = ["qemu-10.2-mapped.bin", "qemu-10.2-mapped-multifd.bin"];
  for (const name of names) writeFileSync(join(folder, name), golden(name));

  test.each(names)("%s is opened: blocks, bitmap, pages, devices", (name) => {
    opened(join(folder, name), (file) => {
      expect(file.configuration).toEqual({ machine: "none", capabilities: ["mapped-ram"], uuid: null });
      const [block] = file.blocks;
      expect(block).toMatchObject({ name: "ram", bytes: MIB, pagesOffset: MIB });
      expect(block.present.count()).toBe(192);
      expect(Buffer.compare(ramOf(file, block), expectedRam)).toBe(0);
      expect(file.between.map(({ command }) => command)).toEqual([11]);
      expect(file.tail.bordersBy).toBe("fields");
      expect(file.tail.devices.map((device) => device.name)).toEqual(["timer", "globalstate"]);
    });
  });

  test.each(["qemu-10.2-stream", "qemu-10.2-multifd", "qemu-10.2-multifd-zlib", "qemu-10.2-multifd-zstd"])(
    "%s kept is the same bytes, through the last section of RAM",
    (name) => {
      const theirs = golden(names[0]);
      const ours = readFileSync(join(folder, `${name}.tram`));
      const tailAt = opened(join(folder, `${name}.tram`), (file) => file.tailOffset);
      expect(tailAt).toBeGreaterThan(2 * MIB);
      expect(opened(join(folder, names[0]), (file) => file.tailOffset)).toBe(tailAt);
      const differs = ours.subarray(0, tailAt).findIndex((byte, at) => byte !== theirs[at]);
      expect(differs).toBe(-1);
    },
  );
});

describe("a kept stream that is played", () => {
  const context = { checkCancelled: () => undefined, sleep: () => undefined, channels: null };
  const options = { maxBandwidthBytesPerSec: 0, replyMs: 1000, verbatim: true };

  function played(path: string, verbatim: boolean): Uint8Array {
    return opened(path, (file) => {
      const out = new Playback(new Uint8Array(0));
      play(file, out, new Replies(out), { ...options, verbatim }, context, quietLog("outgoing"));
      return Buffer.concat(out.written);
    });
  }

  test.each(["qemu-7.2-stream", "qemu-10.2-stream"])("%s is what QEMU sent, byte for byte", (name) => {
    const theirs = golden(`${name}.bin`);
    const ours = played(join(folder, `${name}.tram`), true);
    expect(ours.length).toBe(theirs.length);
    expect(ours.findIndex((byte, at) => byte !== theirs[at])).toBe(-1);
  });

  test("goes through a descriptor as well", () => {
    const path = join(folder, "played.bin");
    const transport = new FdTransport(openSync(path, "w"), {
      name: path,
      stop: new Int32Array(new SharedArrayBuffer(4)),
      silenceMs: 1000,
    });
    opened(join(folder, "qemu-10.2-stream.tram"), (file) =>
      play(file, transport, new Replies(transport), options, context, quietLog("outgoing")),
    );
    transport.close();
    expect(Buffer.compare(readFileSync(path), golden("qemu-10.2-stream.bin"))).toBe(0);
  });

  test("lacks, for a target that waits, only the command that an older one refuses", () => {
    const theirs = golden("qemu-10.2-stream.bin");
    const word = Uint8Array.of(8, 0, 11, 0, 0, 3, 0, 0, 0, 1); // in front of END
    const at = Buffer.from(theirs).lastIndexOf(word);
    expect(at).toBeGreaterThan(0);
    const without = Buffer.concat([theirs.subarray(0, at), theirs.subarray(at + 5)]);
    expect(Buffer.compare(played(join(folder, "qemu-10.2-stream.tram"), false), without)).toBe(0);
  });

  test("is kept again as the same file", () => {
    for (const name of ["qemu-7.2-stream", "qemu-10.2-multifd-zstd"]) {
      const first = join(folder, `${name}.tram`);
      const second = join(folder, `${name}-again.tram`);
      keepCapture(second, { main: played(first, true), channels: [] });
      expect(Buffer.compare(readFileSync(second), readFileSync(first))).toBe(0);
    }
  });

  test("of a file whose clear bits have stale pages has zeros there", () => {
    const path = join(folder, "stale.tram");
    writeFileSync(path, readFileSync(join(folder, "qemu-10.2-stream.tram")));
    const fd = openSync(path, "r+");
    writeSync(fd, new Uint8Array(PAGE).fill(0xee), 0, PAGE, MIB + 4 * PAGE); // page 4 is a zero page
    closeSync(fd);
    expect(Buffer.compare(played(path, true), golden("qemu-10.2-stream.bin"))).toBe(0);
  });
});

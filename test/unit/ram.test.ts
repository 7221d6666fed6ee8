import { describe, expect, test } from "bun:test";
import { TramError } from "../../src/errors.ts";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import {
  type BlockEntry,
  decodeBlockTable,
  decodePageWord,
  encodeBlockTable,
  encodeEndOfSection,
  encodeFirstPage,
  encodePageWords,
} from "../../src/stream/ram.ts";
import {
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
} from "../../src/stream/wire.ts";

/** What encodePageWords promises, word by word in 64-bit arithmetic. */
function naiveWords(
  stride: number,
  flag: number,
  index: Uint32Array,
  from: number,
  to: number,
  bytes: number,
): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(bytes));
  for (let i = from; i < to; i++)
    view.setBigUint64((i - from) * stride, BigInt(index[i]) * 4096n + BigInt(flag) + 0x20n);
  return new Uint8Array(view.buffer);
}

describe("encodePageWords", () => {
  test.each(Array.from({ length: 20 }, (_, i) => i + 1))(
    "writes the words of a 64-bit twin, pages beyond 4 GiB too, seed %d",
    (seed) => {
      let n = 0;
      const random = (below: number) => Number(Bun.hash.wyhash(`${n++}`, BigInt(seed)) % BigInt(below));
      const limits = [16, 1 << 20, 1 << 21, 2 ** 31, 2 ** 32];
      const index = Uint32Array.from({ length: 1 + random(300) }, () => random(limits[random(limits.length)]));
      index[random(index.length)] = 0xffffffff;
      const from = random(index.length);
      const to = from + random(index.length - from + 1);
      const stride = [8, 9, 4104][random(3)];
      const flag = [RAM_SAVE_FLAG_PAGE, RAM_SAVE_FLAG_ZERO][random(2)];
      const found = new Uint8Array(index.length * stride + 8);
      encodePageWords(new DataView(found.buffer), stride, flag, index, from, to);
      expect(found).toEqual(naiveWords(stride, flag, index, from, to, found.length));
    },
  );

  test.each([0, 1, 0xfffff, 0x100000, 0x100001, 0x7fffffff, 0x80000000, 0xffffffff])(
    "is read again: page %d",
    (page) => {
      const view = new DataView(new ArrayBuffer(8));
      encodePageWords(view, 8, RAM_SAVE_FLAG_PAGE, new Uint32Array([page]), 0, 1);
      expect(decodePageWord(view.getUint32(0), view.getUint32(4), 0)).toEqual({
        flag: RAM_SAVE_FLAG_PAGE,
        page,
        continues: true,
      });
    },
  );

  test("writes between its words nothing", () => {
    const bytes = new Uint8Array(27).fill(0xee);
    encodePageWords(new DataView(bytes.buffer), 9, RAM_SAVE_FLAG_ZERO, new Uint32Array([1, 2, 3]), 0, 3);
    expect([bytes[8], bytes[17], bytes[26]]).toEqual([0xee, 0xee, 0xee]);
  });
});

describe("the first record", () => {
  test.each([0, 5, 0x100000, 0xffffffff])("of page %d names its block", (page) => {
    const out = new ByteWriter();
    encodeFirstPage(out, RAM_SAVE_FLAG_ZERO, page, "pc.ram");
    const source = new ByteReader(out.done());
    expect(decodePageWord(source.u32(), source.u32(), 0)).toEqual({ flag: RAM_SAVE_FLAG_ZERO, page, continues: false });
    expect(source.pstr()).toBe("pc.ram");
    expect(source.left).toBe(0);
  });
});

describe("decodePageWord", () => {
  test.each([
    ["no flag", 0, 0],
    ["the dead FULL", 0, 0x001],
    ["a hook", 0, 0x080],
    ["a multifd flush that continues", 0, 0x220],
    ["a multifd flush with an offset", 0, 0x1200],
    ["two kinds", 0, RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_ZERO],
    ["CONTINUE alone", 0, 0x020],
    ["an offset of 2^52", 0x100000, RAM_SAVE_FLAG_PAGE],
    ["an offset of 2^63", 0x80000000, RAM_SAVE_FLAG_PAGE],
  ])("refuses %s and says where", (_, high, low) => {
    try {
      decodePageWord(high, low, 77);
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(TramError);
      expect(error).toMatchObject({ code: "E_STREAM", details: { where: "byte 77 of the stream" } });
    }
  });

  test("reads the last page below 2^52", () => {
    expect(decodePageWord(0xfffff, 0xfffff000 | RAM_SAVE_FLAG_PAGE, 0).page).toBe(2 ** 40 - 1);
  });

  test("knows the end of a section", () => {
    const out = new ByteWriter();
    encodeEndOfSection(out);
    const source = new ByteReader(out.done());
    expect(decodePageWord(source.u32(), source.u32(), 0)).toEqual({
      flag: RAM_SAVE_FLAG_EOS,
      page: 0,
      continues: false,
    });
    expect(source.left).toBe(0);
  });
});

describe("the block table", () => {
  const decode = (bytes: Uint8Array): BlockEntry[] => {
    const source = new ByteReader(bytes);
    const { flag, page } = decodePageWord(source.u32(), source.u32(), 0);
    expect(flag).toBe(RAM_SAVE_FLAG_MEM_SIZE);
    const blocks = decodeBlockTable(source, page * 4096);
    expect(source.left).toBe(0);
    return blocks;
  };

  test.each<[string, BlockEntry[]]>([
    ["one block", [{ name: "ram", bytes: 4096 }]],
    [
      "a PC's blocks",
      [
        { name: "pc.ram", bytes: 2 ** 27 },
        { name: "vga.vram", bytes: 2 ** 24 },
        { name: "pc.bios", bytes: 2 ** 18 },
      ],
    ],
    ["a terabyte", [{ name: "ram", bytes: 2 ** 40 }]],
    ["none", []],
  ])("comes back as it was written: %s", (_, blocks) => {
    const out = new ByteWriter();
    encodeBlockTable(out, blocks);
    expect(decode(out.done())).toEqual(blocks);
  });

  test.each([
    ["no bytes", 0],
    ["half a page", 2048],
    ["more than all blocks together", 3 * 4096],
    ["2^52 bytes", 2 ** 52],
  ])("with a block of %s is refused by name", (_, bytes) => {
    const out = new ByteWriter().pstr("odd").size(bytes);
    expect(() => decodeBlockTable(new ByteReader(out.done()), 2 * 4096)).toThrow(
      "RAM block 'odd' has an impossible size",
    );
  });

  test("that is short of its total is the stream's end", () => {
    const out = new ByteWriter().pstr("ram").size(4096);
    expect(() => decodeBlockTable(new ByteReader(out.done()), 2 * 4096)).toThrow("ends too early");
  });
});

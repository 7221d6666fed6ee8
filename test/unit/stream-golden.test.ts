import { describe, expect, test } from "bun:test";
import { ByteReader, ByteWriter } from "../../src/stream/bytes.ts";
import {
  type BlockEntry,
  decodeBlockTable,
  decodePageWord,
  encodeBlockTable,
  encodeEndOfSection,
  encodeFirstPage,
  encodePageWords,
  type PageWord,
} from "../../src/stream/ram.ts";
import {
  decodeCommand,
  decodeFooter,
  decodeHeader,
  decodeSectionPart,
  decodeSectionStart,
  encodeFooter,
  encodeHeader,
  encodeSectionPart,
  encodeSectionStart,
  type SectionHeader,
} from "../../src/stream/section.ts";
import {
  MIG_CMD_SWITCHOVER_START,
  QEMU_VM_COMMAND,
  QEMU_VM_SECTION_END,
  QEMU_VM_SECTION_PART,
  QEMU_VM_SECTION_START,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_MEM_SIZE,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_ZERO,
  TARGET_PAGE_BYTES,
} from "../../src/stream/wire.ts";
import { GOLDEN_PAGES, golden, goldenRam } from "../support/golden.ts";

interface Captured {
  machine: string;
  section: SectionHeader;
  blocks: BlockEntry[];
  /** One for each PART and the END, and QEMU 10's word before the END, in the order of the stream. */
  parts: (RamPart | { type: typeof QEMU_VM_COMMAND; command: number })[];
  /** Where END's footer ends. */
  end: number;
}

interface RamPart {
  type: typeof QEMU_VM_SECTION_PART | typeof QEMU_VM_SECTION_END;
  records: PageRecord[];
}

interface PageRecord extends PageWord {
  /** Only where the record does not continue a block. */
  block: string | null;
  content: Uint8Array;
}

function decode(bytes: Uint8Array): Captured {
  const source = new ByteReader(bytes);
  const { machine } = decodeHeader(source);
  expect(source.u8()).toBe(QEMU_VM_SECTION_START);
  const section = decodeSectionStart(source);
  const first = word(source);
  expect(first.flag).toBe(RAM_SAVE_FLAG_MEM_SIZE);
  const blocks = decodeBlockTable(source, first.page * TARGET_PAGE_BYTES);
  expect(word(source).flag).toBe(RAM_SAVE_FLAG_EOS);
  decodeFooter(source, section.id, section.name);
  const parts: Captured["parts"] = [];
  for (;;) {
    const type = source.u8();
    if (type === QEMU_VM_COMMAND) {
      parts.push({ type, command: decodeCommand(source).command });
      continue;
    }
    if (type !== QEMU_VM_SECTION_PART && type !== QEMU_VM_SECTION_END) throw new Error(`record ${type} before END`);
    expect(decodeSectionPart(source)).toBe(section.id);
    parts.push({ type, records: decodeRecords(source) });
    decodeFooter(source, section.id, section.name);
    if (type === QEMU_VM_SECTION_END) return { machine, section, blocks, parts, end: source.offset };
  }
}

const word = (source: ByteReader): PageWord => decodePageWord(source.u32(), source.u32(), source.offset - 8);

function decodeRecords(source: ByteReader): PageRecord[] {
  const records: PageRecord[] = [];
  for (;;) {
    const head = word(source);
    if (head.flag === RAM_SAVE_FLAG_EOS) return records;
    const block = head.continues ? null : source.pstr();
    records.push({ ...head, block, content: source.bytes(head.flag === RAM_SAVE_FLAG_PAGE ? TARGET_PAGE_BYTES : 1) });
  }
}

function encode({ machine, section, blocks, parts }: Captured): Uint8Array {
  const out = new ByteWriter();
  encodeHeader(out, { machine, capabilities: [], uuid: null });
  encodeSectionStart(out, QEMU_VM_SECTION_START, section);
  encodeBlockTable(out, blocks);
  encodeEndOfSection(out);
  encodeFooter(out, section.id);
  for (const part of parts) {
    if (part.type === QEMU_VM_COMMAND) {
      out.u8(QEMU_VM_COMMAND).u16(part.command).u16(0);
      continue;
    }
    encodeSectionPart(out, part.type, section.id);
    for (const { flag, page, block, content } of part.records) {
      if (block === null) {
        const bytes = new Uint8Array(8);
        encodePageWords(new DataView(bytes.buffer), 8, flag, new Uint32Array([page]), 0, 1);
        out.bytes(bytes);
      } else {
        encodeFirstPage(out, flag, page, block);
      }
      out.bytes(content);
    }
    encodeEndOfSection(out);
    encodeFooter(out, section.id);
  }
  return out.done();
}

const PAGES = GOLDEN_PAGES;

describe.each([
  { file: "qemu-7.2-stream.bin.zst", sectionId: 2, commands: [] as number[] },
  { file: "qemu-10.2-stream.bin.zst", sectionId: 1, commands: [MIG_CMD_SWITCHOVER_START as number] },
])("QEMU's own stream $file", ({ file, sectionId, commands }) => {
  const bytes = golden(file);
  const captured = decode(bytes);
  const records = captured.parts.flatMap((part) => ("records" in part ? part.records : []));

  test("is read from its first byte to the end of section 'ram'", () => {
    expect(captured.machine).toBe("none");
    expect(captured.section).toEqual({ id: sectionId, name: "ram", instance: 0, version: 4 });
    expect(captured.blocks).toEqual([{ name: "ram", bytes: PAGES * TARGET_PAGE_BYTES }]);
    expect(captured.parts.flatMap((part) => ("command" in part ? [part.command] : []))).toEqual([...commands]);
  });

  test("has every page once: a quarter zero, the rest with content, the first naming the block", () => {
    expect(records.map(({ page }) => page).sort((a, b) => a - b)).toEqual(Array.from({ length: PAGES }, (_, i) => i));
    expect(records.filter(({ flag }) => flag === RAM_SAVE_FLAG_ZERO).map(({ page }) => page % 4)).toEqual(
      Array(64).fill(0),
    );
    expect(records.filter(({ flag }) => flag === RAM_SAVE_FLAG_PAGE)).toHaveLength(192);
    expect(records.map(({ block }) => block).filter((block) => block !== null)).toEqual(["ram"]);
  });

  test("has the pages that the guest had", () => {
    const expected = goldenRam();
    const pageOf = (page: number) => expected.subarray(page * TARGET_PAGE_BYTES, (page + 1) * TARGET_PAGE_BYTES);
    const wrong = records.filter(({ page, flag, content }) => {
      const found = flag === RAM_SAVE_FLAG_ZERO ? new Uint8Array(TARGET_PAGE_BYTES).fill(content[0]) : content;
      return Buffer.compare(found, pageOf(page)) !== 0;
    });
    expect(wrong.map(({ page }) => page)).toEqual([]);
  });

  test("is what our encoders write, byte for byte, up to the end of section 'ram'", () => {
    const ours = encode(captured);
    expect(ours.length).toBe(captured.end);
    const differs = ours.findIndex((byte, at) => byte !== bytes[at]);
    expect(differs).toBe(-1);
  });

  test("goes on behind section 'ram' with a record, and ends with its description", () => {
    expect([0, 4, 8]).toContain(bytes[captured.end]); // the end, a device or a command
    const text = new TextDecoder().decode(bytes.subarray(Buffer.from(bytes).indexOf('{"', captured.end)));
    expect(JSON.parse(text)).toMatchObject({ page_size: TARGET_PAGE_BYTES });
  });
});

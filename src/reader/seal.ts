// Reads a seal, and compares a file with it: all that is small at once, the pages' tables when they are wanted.
import { TramError } from "../errors.ts";
import { HashTable, hashOf, RunningHash } from "../native/hash.ts";
import type { MappedBlock, PlacedBlock } from "../stream/mapped.ts";
import {
  alignSeal,
  decodeSealFooter,
  decodeSealHead,
  extentsOf,
  layOutSeal,
  SEAL_FOOTER_BYTES,
  type SealBlock,
  type SealExtent,
  type SealHead,
  tableBytes,
} from "../stream/seal.ts";
import type { FileTransport } from "../transport/file.ts";

const PIECE_BYTES = 64 << 10;

/** Where the seal of a file is that has none at its own end. */
export const besidePath = (path: string): string => `${path}.seal`;

export class Seal {
  readonly head: SealHead;
  readonly root: bigint;
  /** What it stands in, up to its own last byte: the end of the file that it is about, or one of its own. */
  readonly file: FileTransport;
  readonly headOffset: number;
  readonly #places: ReturnType<typeof layOutSeal>;

  private constructor(file: FileTransport, headOffset: number, head: SealHead, root: bigint) {
    this.file = file;
    this.headOffset = headOffset;
    this.head = head;
    this.root = root;
    this.#places = layOutSeal(head.blocks);
  }

  /** The seal at a file's end, wherever the file was told to end; null: it has none. A damaged one is an error. */
  static find(about: FileTransport): Seal | null {
    const file = about.whole();
    const at = file.bytes - SEAL_FOOTER_BYTES;
    if (at < 0) return null;
    const footer = decodeSealFooter(readExactly(file, at, SEAL_FOOTER_BYTES), at);
    if (!footer) return null;
    const bytes = readExactly(file, footer.headOffset, footer.headBytes);
    const found = hashOf(bytes);
    if (found !== footer.root)
      throw damaged("the seal itself is damaged", `${file.name}, ${span(footer.headOffset, footer.headBytes)}`, {
        expected: `hash ${hex(footer.root)}, as its footer says`,
        found: hex(found),
      });
    const seal = new Seal(file, footer.headOffset, decodeSealHead(bytes, footer.headOffset), footer.root);
    seal.#checkPlaces(at);
    return seal;
  }

  /** The one that a file of its own is. */
  static of(file: FileTransport): Seal {
    const seal = Seal.find(file);
    if (seal?.isBeside) return seal;
    throw new TramError("E_HASH", `${file.name} is no seal`, {
      expected: "a file that tram seal --sidecar wrote",
      found: seal ? "a file that has a seal at its own end" : "other bytes",
    });
  }

  get isBeside(): boolean {
    return this.headOffset === 0; // behind a stream it cannot stand there
  }

  /** In the file, all of it. */
  get bytes(): number {
    return this.#places.footer + SEAL_FOOTER_BYTES;
  }

  /** Up to where the file that it is about is hashed: the zeros before a seal in the same file count. */
  get hashedEnd(): number {
    return this.isBeside ? this.head.streamEnd : this.headOffset;
  }

  /** Its parts, and the ranges that it has hashes of, are where its own blocks want them: nothing is left out. */
  #checkPlaces(footerAt: number): void {
    const { head, headOffset } = this;
    const { tables, footer } = this.#places;
    const ranges = (list: readonly { offset: number; bytes: number }[]) => list.map(range).join(", ");
    const told = `tables at ${head.blocks.map(({ tableOffset }) => tableOffset).join(", ")}, end at ${footerAt - headOffset}, ranges ${ranges(head.extents)}`;
    const wanted = `tables at ${tables.join(", ")}, end at ${footer}, ranges ${ranges(extentsOf(head.streamOffset, head.blocks, this.hashedEnd))}`;
    if (told === wanted && (this.isBeside || alignSeal(head.streamEnd) === headOffset)) return;
    throw damaged(
      "the seal is not laid out as its own blocks want it",
      `${this.file.name}, from byte ${headOffset} on`,
      {
        expected: wanted,
        found: told,
      },
    );
  }

  /** Whether it is about this very stream; what differs otherwise. */
  checkLayout(streamOffset: number, blocks: readonly MappedBlock[]): void {
    const { head } = this;
    const told = head.blocks.map(describe).join(", ");
    const found = blocks.map(describe).join(", ");
    if (head.streamOffset === streamOffset && told === found) return;
    throw new TramError("E_HASH", "the seal is about another stream than the file has", {
      expected: `a stream at byte ${head.streamOffset} with ${told}`,
      found: `one at byte ${streamOffset} with ${found}`,
      where: this.file.name,
      next: "seal the file again when you know that it is right: tram seal --force",
    });
  }

  /** The ranges beside the pages that are not as they were: headers, bitmaps, device state. */
  wrongExtents(file: FileTransport): SealExtent[] {
    return this.head.extents.filter(({ offset, bytes, hash }) => hashRange(file, offset, bytes) !== hash);
  }

  /** What the i-th extent is, for a person. */
  extentName(i: number): string {
    const { blocks, extents } = this.head;
    const next = [...blocks].sort((a, b) => a.pagesOffset - b.pagesOffset)[i];
    if (i === extents.length - 1) return "the device state";
    return `${i === 0 ? "the stream's header, " : ""}the header and bitmap of block '${next.name}'`;
  }

  /** The first byte between its parts that is not zero, as all of them are; -1: there is none. */
  strayByte(): number {
    const { headOffset } = this;
    const { headBytes, tables, footer } = this.#places;
    const parts = [
      { from: 0, to: headBytes },
      ...this.head.blocks.map((block, i) => ({ from: tables[i], to: tables[i] + tableBytes(block) })),
      { from: footer, to: footer },
    ];
    for (let i = 1; i < parts.length; i++) {
      const gap = parts[i - 1].to;
      const bytes = readExactly(this.file, headOffset + gap, parts[i].from - gap);
      const stray = bytes.findIndex((byte) => byte !== 0);
      if (stray >= 0) return headOffset + gap + stray;
    }
    return -1;
  }

  blockOf(name: string): SealBlock {
    return this.head.blocks.find((block) => block.name === name) as SealBlock;
  }

  /** The hashes of a block's pages. */
  table(block: SealBlock): HashTable {
    const table = new HashTable(block.bytes / 4096);
    const at = this.headOffset + block.tableOffset;
    for (let done = 0; done < table.bytes.length; ) {
      const count = this.file.readAt(table.bytes.subarray(done), at + done);
      if (count === 0) throw cutShort(this.file.name, at + done);
      done += count;
    }
    const found = hashOf(table.bytes);
    if (found !== block.tableHash)
      throw new TramError("E_HASH", `the hashes of block '${block.name}' are damaged`, {
        where: `${this.file.name}, ${span(at, tableBytes(block))}`,
        expected: hex(block.tableHash),
        found: hex(found),
        next: "its pages may be whole, and nobody can tell: tram inspect reads the file without the seal",
      });
    return table;
  }
}

export const hex = (hash: bigint): string => hash.toString(16).padStart(16, "0");
export const span = (offset: number, bytes: number): string => `bytes ${offset} to ${offset + bytes - 1}`;
const describe = ({ name, bytes, pagesOffset }: PlacedBlock): string => `'${name}' of ${bytes} bytes at ${pagesOffset}`;
const range = ({ offset, bytes }: { offset: number; bytes: number }): string => `${offset}+${bytes}`;

const damaged = (what: string, where: string, details: { expected: string; found: string }): TramError =>
  new TramError("E_HASH", what, {
    where,
    ...details,
    next: "the guest in the file may be whole: tram inspect reads it without the seal, tram seal --force makes a new one",
  });

const cutShort = (name: string, at: number): TramError =>
  new TramError("E_STREAM_TRUNCATED", "the file ends before its seal does", { where: `${name}, byte ${at}` });

function readExactly(file: FileTransport, offset: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  if (file.readAt(out, offset) !== bytes) throw cutShort(file.name, offset);
  return out;
}

/** The hash of a range of a file, and of so many zeros behind it; what lies behind the file's end counts as nothing. */
export function hashRange(file: FileTransport, offset: number, bytes: number, zeros = 0): bigint {
  const hash = new RunningHash();
  const piece = new Uint8Array(Math.min(PIECE_BYTES, bytes));
  for (let done = 0; done < bytes; ) {
    const count = file.readAt(piece.subarray(0, Math.min(piece.length, bytes - done)), offset + done);
    if (count === 0) break;
    hash.add(piece.subarray(0, count));
    done += count;
  }
  hash.add(new Uint8Array(zeros));
  return hash.finish();
}

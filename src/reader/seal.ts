// Reads a seal, and compares a file with it: all that is small at once, the pages' tables when they are wanted.
import { TramError } from "../errors.ts";
import { HashTable, hashOf, RunningHash } from "../native/hash.ts";
import type { MappedBlock } from "../stream/mapped.ts";
import {
  decodeSealFooter,
  decodeSealHead,
  extentsOf,
  SEAL_FOOTER_BYTES,
  type SealBlock,
  type SealExtent,
  type SealHead,
  tableBytes,
} from "../stream/seal.ts";
import type { FileTransport } from "../transport/file.ts";

const PIECE_BYTES = 1 << 20;

export class Seal {
  readonly head: SealHead;
  readonly root: bigint;
  /** Where it stands; a file of its own, or the end of the one that it is about. */
  readonly file: FileTransport;
  readonly headOffset: number;

  private constructor(file: FileTransport, headOffset: number, head: SealHead, root: bigint) {
    this.file = file;
    this.headOffset = headOffset;
    this.head = head;
    this.root = root;
  }

  /** The seal at a file's end; null: it has none. A damaged one is an error. */
  static find(file: FileTransport): Seal | null {
    const at = file.bytes - SEAL_FOOTER_BYTES;
    if (at < 0) return null;
    const footer = decodeSealFooter(readExactly(file, at, SEAL_FOOTER_BYTES), at);
    if (!footer) return null;
    const bytes = readExactly(file, footer.headOffset, footer.headBytes);
    if (hashOf(bytes) !== footer.root)
      throw new TramError("E_HASH", "the seal itself is damaged", {
        where: `${file.name}, bytes ${footer.headOffset} to ${footer.headOffset + footer.headBytes - 1}`,
        expected: `hash ${hex(footer.root)}, as its footer says`,
        found: hex(hashOf(bytes)),
        next: "the guest in the file may be whole: tram inspect reads it without the seal",
      });
    return new Seal(file, footer.headOffset, decodeSealHead(bytes, footer.headOffset), footer.root);
  }

  /** Whether it is about this very stream; what differs otherwise. */
  checkLayout(streamOffset: number, blocks: readonly MappedBlock[], inFile: boolean): void {
    const { head } = this;
    const told = head.blocks.map(describe).join(", ");
    const found = blocks.map(describe).join(", ");
    const end = inFile ? this.headOffset : head.streamEnd;
    const extents = extentsOf(streamOffset, blocks, end).map(range).join(", ");
    if (head.streamOffset === streamOffset && told === found && head.extents.map(range).join(", ") === extents) return;
    throw new TramError("E_HASH", "the seal is about another stream than the file has", {
      expected: `a stream at byte ${head.streamOffset} with ${told}`,
      found: `one at byte ${streamOffset} with ${found}`,
      where: this.file.name,
      next: "seal the file again when you know that it is right: tram seal",
    });
  }

  /** The ranges beside the pages that are not as they were: headers, bitmaps, device state. */
  wrongExtents(file: FileTransport): SealExtent[] {
    return this.head.extents.filter(({ offset, bytes, hash }) => hashRange(file, offset, bytes) !== hash);
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
        where: `${this.file.name}, bytes ${at} to ${at + tableBytes(block) - 1}`,
        expected: hex(block.tableHash),
        found: hex(found),
        next: "its pages may be whole, and nobody can tell: tram inspect reads the file without the seal",
      });
    return table;
  }
}

export const hex = (hash: bigint): string => hash.toString(16).padStart(16, "0");
const describe = ({ name, bytes, pagesOffset }: MappedBlock | SealBlock): string =>
  `'${name}' of ${bytes} bytes at ${pagesOffset}`;
const range = ({ offset, bytes }: { offset: number; bytes: number }): string => `${offset}+${bytes}`;

const cutShort = (name: string, at: number): TramError =>
  new TramError("E_STREAM_TRUNCATED", "the file ends before its seal does", { where: `${name}, byte ${at}` });

function readExactly(file: FileTransport, offset: number, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  if (file.readAt(out, offset) !== bytes) throw cutShort(file.name, offset);
  return out;
}

/** The hash of a range of a file; what lies behind its end counts as nothing. */
export function hashRange(file: FileTransport, offset: number, bytes: number): bigint {
  const hash = new RunningHash();
  const piece = new Uint8Array(Math.min(PIECE_BYTES, bytes));
  for (let done = 0; done < bytes; ) {
    const count = file.readAt(piece.subarray(0, Math.min(piece.length, bytes - done)), offset + done);
    if (count === 0) break;
    hash.add(piece.subarray(0, count));
    done += count;
  }
  return hash.finish();
}

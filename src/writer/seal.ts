// Writes a seal: the hashes of a file whose pages were hashed already.

import { setLength, writeAt } from "../native/file.ts";
import type { HashTable } from "../native/hash.ts";
import { hashOf } from "../native/hash.ts";
import { ByteWriter } from "../stream/bytes.ts";
import type { PlacedBlock } from "../stream/mapped.ts";
import { encodeSealFooter, encodeSealHead, layOutSeal, SEAL_FOOTER_BYTES, type SealExtent } from "../stream/seal.ts";

export interface SealedStream {
  streamOffset: number;
  streamEnd: number;
  /** Every page that is clear in the bitmap reads as zeros. */
  holes: boolean;
  /** Everything of the stream but its pages; see extentsOf. */
  extents: SealExtent[];
  blocks: readonly PlacedBlock[];
  tables: readonly HashTable[];
}

const PIECE_BYTES = 4096;

/**
 * The seal at `offset` of the file, a multiple of 4096; the file ends with it. Returns its root. `settle` is called between its
 * parts: where each is on disk before the next is written, a seal that is not whole is known by its head, whatever happens.
 */
export function writeSeal(fd: number, offset: number, sealed: SealedStream, settle = () => {}): bigint {
  const { streamOffset, streamEnd, holes, extents, blocks, tables } = sealed;
  const places = layOutSeal(blocks);
  const head = new ByteWriter();
  encodeSealHead(head, {
    streamOffset,
    streamEnd,
    holes,
    extents,
    blocks: blocks.map(({ name, bytes, pagesOffset }, i) => ({
      name,
      bytes,
      pagesOffset,
      tableOffset: places.tables[i],
      tableHash: hashOf(tables[i].bytes),
    })),
  });
  const root = hashOf(head.done());
  const footer = new ByteWriter();
  encodeSealFooter(footer, { headOffset: offset, headBytes: head.length, root });
  writeAt(fd, head.done(), offset);
  settle();
  setLength(fd, offset + places.footer + SEAL_FOOTER_BYTES);
  tables.forEach((table, i) => {
    writeSparse(fd, table.bytes, offset + places.tables[i]);
  });
  settle();
  writeAt(fd, footer.done(), offset + places.footer);
  return root;
}

/** What is zero stays a hole: a guest that has used little of its memory has a short table. */
function writeSparse(fd: number, bytes: Uint8Array, offset: number): void {
  const words = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.length / 8);
  const isZero = (from: number) => {
    const end = Math.min(bytes.length, from + PIECE_BYTES) / 8;
    for (let i = from / 8; i < end; i++) if (words[i] !== 0) return false;
    return true;
  };
  let from = 0;
  while (from < bytes.length) {
    if (isZero(from)) {
      from += PIECE_BYTES;
      continue;
    }
    let end = from;
    while (end < bytes.length && !isZero(end)) end += PIECE_BYTES;
    writeAt(fd, bytes.subarray(from, Math.min(end, bytes.length)), offset + from);
    from = end;
  }
}

// Section "dirty-bitmap", version 1: block devices' dirty bitmaps, which tram keeps as they are. A body is a run of chunks:
//
//   flags (1 byte; a second if it has bit 7; two more if that has bit 7, too)  [pstr node]  [pstr bitmap]  then, by the flags,
//   START  be32 granularity  u8      BITS  be64 first  be32 count  [be64 n  n bytes]      COMPLETE, EOS  nothing
import { type ByteSource, badStream, hex } from "./bytes.ts";

export const DIRTY_BITMAP_SECTION = "dirty-bitmap";

const EOS = 0x01;
const ZEROES = 0x02;
const BITMAP_NAME = 0x04;
const DEVICE_NAME = 0x08;
const START = 0x10;
const COMPLETE = 0x20;
const BITS = 0x40;
const EXTRA = 0x80;
const CHUNK_BYTES_MAX = 1 << 30;

/** Consumes one section's body. */
export function skipDirtyBitmaps(source: ByteSource): void {
  for (;;) {
    const at = source.offset;
    let flags = source.u8();
    if (flags & EXTRA) flags = (flags << 8) | source.u8();
    if (flags > 0xff && flags & EXTRA) flags = source.u16(); // the low half has all that matters here
    const kind = flags & (EOS | START | COMPLETE | BITS);
    if (flags & DEVICE_NAME) source.pstr();
    if (flags & BITMAP_NAME) source.pstr();
    if (kind === EOS) return;
    if (kind === START) source.bytes(4 + 1);
    else if (kind === BITS) skipBits(source, (flags & ZEROES) === 0);
    else if (kind !== COMPLETE)
      throw badStream("unknown chunk in section 'dirty-bitmap'", at, "START, BITS, COMPLETE or EOS", hex(flags));
  }
}

function skipBits(source: ByteSource, hasBytes: boolean): void {
  source.bytes(8 + 4);
  if (!hasBytes) return;
  const at = source.offset;
  const count = source.size();
  if (count > CHUNK_BYTES_MAX)
    throw badStream("a dirty bitmap is too large", at, `at most ${CHUNK_BYTES_MAX}`, `${count}`);
  for (let left = count; left > 0; left -= 65536) source.bytes(Math.min(left, 65536));
}

// XBZRLE: what changed in a page since its last copy.  { uleb128 unchanged  uleb128 changed  bytes[changed] }*
//
// uleb128 here is one byte below 0x80, or two: low seven bits first. Bytes are overwritten, not combined.
import { badStream } from "./bytes.ts";

/** Applies `delta` to `page`. `offset` is where the delta lies in the stream. */
export function applyXbzrle(page: Uint8Array, delta: Uint8Array, offset: number): void {
  let at = 0;
  let to = 0;
  const wrong = (expected: string, found: string) =>
    badStream("a changed page cannot be read", offset + at, expected, found);
  const number = (): number => {
    const low = delta[at++];
    if (low === undefined) throw wrong("a length", "the delta's end");
    if (low < 0x80) return low;
    const high = delta[at++];
    if (high === undefined || high >= 0x80) throw wrong("a length of at most two bytes", `${high}`);
    return (low & 0x7f) | (high << 7);
  };
  while (at < delta.length) {
    const unchanged = number();
    if (unchanged === 0 && to > 0) throw wrong("at least one unchanged byte", "none");
    const changed = number();
    to += unchanged;
    if (changed === 0 || to + changed > page.length || at + changed > delta.length)
      throw wrong(`1 to ${Math.min(page.length - to, delta.length - at)} changed bytes`, `${changed}`);
    page.set(delta.subarray(at, at + changed), to);
    at += changed;
    to += changed;
  }
}

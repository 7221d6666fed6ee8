// The story of a seal that is made for a file as it is: is the stream whole, where does it end, what are the hashes of all of it.
import { TramError, toErrorData } from "../errors.ts";
import { HashTable } from "../native/hash.ts";
import type { MappedFile } from "../reader/mapped.ts";
import { hashRange } from "../reader/seal.ts";
import { describedEnd } from "../stream/description.ts";
import { alignSeal, extentsOf, layOutSeal, SEAL_FOOTER_BYTES, SEAL_MAGIC, type SealExtent } from "../stream/seal.ts";
import { type Examined, examine, examineInput } from "./examine.ts";
import { newJob } from "./hashing.ts";
import type { InputSpec } from "./source.ts";
import { type DoHash, namedPage, placeOf } from "./verify.ts";

export interface SealWish {
  /** A seal that is there is replaced, whole or not. */
  force: boolean;
  /** The seal goes into a file of its own. */
  beside: boolean;
}

/** What is to be sealed, and everything that speaks against it. */
export function examineToSeal(spec: InputSpec, wish: SealWish): Examined {
  const seen = examine(spec);
  const { input, found } = seen;
  const end = wish.force && !wish.beside ? endBeforeSeal(seen) : null;
  if (end === null || !input?.file || !found) return refusing(seen, wish);
  const { bytes } = input.file.whole();
  const most = alignSeal(end) + layOutSeal(found.blocks).footer + SEAL_FOOTER_BYTES;
  input.file.endAt(end);
  const again = refusing(examineInput({ ...input, seal: null, sealProblem: null }), wish);
  if (bytes > most)
    again.problems.push(
      toErrorData(
        new TramError("E_REFUSED", "more follows the stream than its seal, and would be cut off", {
          where: `${input.name}, from byte ${end} on`,
          expected: `at most ${most - end} bytes`,
          found: `${bytes - end} bytes`,
          next: `truncate -s ${end} cuts them off, if they are of no use`,
        }),
      ),
    );
  return again;
}

/** Where the stream ends that a seal follows, whole or in pieces; null: none does, or nobody can say. */
function endBeforeSeal({ input, found }: Examined): number | null {
  if (input?.seal) return input.seal.head.streamEnd;
  if (found?.seal) return found.seal.streamEnd;
  const described = found ? describedEnd(found.tailBytes) : -1;
  if (!found || described < 0) return null;
  const end = found.tailOffset + described;
  const behind = found.tailBytes.subarray(described);
  return input?.sealProblem?.code === "E_HASH" || isLeftOfSeal(behind, alignSeal(end) - end) ? end : null;
}

/** A disk that lost power may have kept a seal's length and none of its bytes, or the first of them. */
function isLeftOfSeal(behind: Uint8Array, gap: number): boolean {
  const isZero = (bytes: Uint8Array) => bytes.every((byte) => byte === 0);
  const head = behind.subarray(gap);
  return isZero(behind.subarray(0, gap)) && (isZero(head) || SEAL_MAGIC.equals(head.subarray(0, SEAL_MAGIC.length)));
}

/** Adds what only sealing minds. */
function refusing(seen: Examined, { force, beside }: SealWish): Examined {
  const { input, file, sealed, problems } = seen;
  const problem = (...error: ConstructorParameters<typeof TramError>) =>
    problems.push(toErrorData(new TramError(...error)));
  if (sealed === "beside" && !force)
    problem("E_REFUSED", "the file has a seal beside it", { next: "tram verify compares it; --force makes a new one" });
  if (sealed === true && !input?.sealProblem)
    problem("E_REFUSED", "the file has a seal at its own end", {
      next: `tram verify compares it; --force ${beside ? "without --sidecar " : ""}makes a new one`,
    });
  if (!file && !problems.length)
    problem("E_STREAM", "a plain stream has no seal", {
      where: input?.name,
      expected: "a file with fixed offsets",
      next: `tram convert ${input?.name} FILE makes one, and seals it`,
    });
  return seen;
}

export interface HashedStream {
  streamOffset: number;
  streamEnd: number;
  holes: boolean;
  extents: SealExtent[];
  blocks: MappedFile["blocks"];
  tables: HashTable[];
  /** Pages that are zero to the guest, and have other bytes in the file. */
  staleCount: number;
}

/** `endOf`: up to where the seal will tell of the file; behind the stream there will be zeros. */
export async function hashToSeal(
  { file, blocks, offset, tailOffset, tailBytes }: MappedFile,
  endOf: (streamEnd: number) => number,
  hash: DoHash,
): Promise<HashedStream> {
  const streamEnd = tailOffset + tailBytes.length;
  const tables = blocks.map(({ present }) => new HashTable(present.pages));
  const job = newJob(
    file.fd,
    blocks.map(({ pagesOffset, present }, i) => ({
      pagesOffset,
      pages: present.pages,
      table: tables[i].shared,
      present: sharedCopy(present.words),
    })),
  );
  const { unreadable, unreadableCount, staleCount } = await hash(job);
  if (unreadableCount)
    throw new TramError("E_FILE", "the file cannot be read, and so not be sealed", {
      where: placeOf(namedPage(unreadable[0], blocks)),
      found: unreadable[0].what,
    });
  const extents = extentsOf(offset, blocks, endOf(streamEnd)).map((range) => {
    const zeros = Math.max(0, range.offset + range.bytes - streamEnd);
    return { ...range, hash: hashRange(file, range.offset, range.bytes - zeros, zeros) };
  });
  return { streamOffset: offset, streamEnd, holes: staleCount === 0, extents, blocks, tables, staleCount };
}

function sharedCopy(words: Uint32Array): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(words.byteLength);
  new Uint32Array(shared).set(words);
  return shared;
}

// The story of a verification: everything that tram check looks at, and then every byte of the file against its seal. The seal's
// own layout leads, not the stream's: a header that is damaged keeps no page from being compared.
import { TramError, toErrorData } from "../errors.ts";
import type { HashTable } from "../native/hash.ts";
import { PAGE_BYTES } from "../native/ram.ts";
import type { MappedFile } from "../reader/mapped.ts";
import { besidePath, hashRange, hex, Seal, span } from "../reader/seal.ts";
import { type SealBlock, tableBytes } from "../stream/seal.ts";
import { FileTransport } from "../transport/file.ts";
import { attempt, type Examined, examine } from "./examine.ts";
import { type BadPage, type HashJob, type HashResult, newJob } from "./hashing.ts";
import type { InputSpec, StreamInput } from "./source.ts";

/** A page that is not as it was sealed, or cannot be read. */
export interface NamedPage {
  block: string;
  page: number;
  /** In the file. */
  offset: number;
  what: string;
}

export interface Verification extends Pick<Examined, "found" | "sealed" | "problems" | "notes"> {
  /** null: there is none, or it is damaged itself. */
  seal: Seal | null;
  checkedBytes: number;
  /** The first ones of them. */
  bad: NamedPage[];
  badCount: number;
  unreadableCount: number;
}

/** Does a job, in threads or not. */
export type DoHash = (job: HashJob) => Promise<HashResult>;

/** `sealPath`: where the seal is, if neither at the file's end nor beside it. */
export async function verify(spec: InputSpec, sealPath: string | null, hash: DoHash): Promise<Verification> {
  const seen = examine(spec);
  const { found, sealed, problems, notes } = seen;
  const nothing = { seal: null, checkedBytes: 0, bad: [], badCount: 0, unreadableCount: 0 };
  const result: Verification = { found, sealed: sealPath === null ? sealed : "beside", problems, notes, ...nothing };
  const { input } = seen;
  if (!input) return result;
  try {
    if (result.sealed) await compare(input, seen.file, sealPath, result, hash);
    return result;
  } finally {
    input.transport.close();
    if (result.seal?.isBeside) result.seal.file.close();
  }
}

async function compare(
  input: StreamInput,
  mapped: MappedFile | null,
  sealPath: string | null,
  result: Verification,
  hash: DoHash,
): Promise<void> {
  const { file, seal: own, sealProblem } = input;
  const { problems } = result;
  if (!file)
    throw new TramError("E_USAGE", `${input.name}: a seal is compared with a regular file only`, {
      expected: "a path, or a regular file by redirection",
      found: "a pipe",
    });
  if (sealPath !== null && (own || sealProblem))
    throw new TramError("E_USAGE", "the file has a seal of its own, at its end", { next: "leave out --seal" });
  if (sealProblem) return; // it was told of
  const seal = own ?? attempt(problems, () => Seal.of(FileTransport.open(sealPath ?? besidePath(input.name))));
  if (!seal) return;
  result.seal = seal;
  if (mapped && seal.isBeside) attempt(problems, () => seal.checkLayout(input.offset, mapped.blocks));
  const comparison = new Comparison(seal, file.whole(), result);
  comparison.place(input);
  comparison.extents();
  comparison.gaps();
  await comparison.pages(hash);
}

/** One file and its seal. */
class Comparison {
  readonly #seal: Seal;
  /** All of it, the seal at its end included. */
  readonly #file: FileTransport;
  readonly #result: Verification;

  constructor(seal: Seal, file: FileTransport, result: Verification) {
    this.#seal = seal;
    this.#file = file;
    this.#result = result;
  }

  #problem(...error: ConstructorParameters<typeof TramError>): void {
    this.#result.problems.push(toErrorData(new TramError(...error)));
  }

  /** The result; where the disk does not give the bytes, a problem that names them. */
  #read<T>(what: string, file: FileTransport, offset: number, bytes: number, action: () => T): T | null {
    return attempt(this.#result.problems, () => {
      try {
        return action();
      } catch (error) {
        if (!(error instanceof TramError) || error.code !== "E_FILE") throw error;
        throw new TramError("E_FILE", `${what} cannot be read`, {
          where: `${file.name}, byte ${firstUnreadable(file, offset, bytes)}`,
          found: error.message,
        });
      }
    });
  }

  /** The stream is where it was, and as long. */
  place(input: StreamInput): void {
    const { streamOffset, streamEnd } = this.#seal.head;
    const { name, bytes } = this.#file;
    if (input.offset !== streamOffset)
      this.#problem("E_HASH", "the seal is about a stream that begins elsewhere in the file", {
        expected: `a stream at byte ${streamOffset}`,
        found: `one is looked for at byte ${input.offset}`,
        next: `tram verify file:${name},offset=${streamOffset}`,
      });
    if (this.#seal.isBeside && bytes !== streamEnd)
      this.#problem("E_HASH", "the file has another length than was sealed", {
        where: name,
        expected: `${streamEnd} bytes`,
        found: `${bytes} bytes`,
      });
    if (streamOffset) this.#result.notes.push(`${span(0, streamOffset)} are not the stream's, and have no hash`);
  }

  /** Everything but the pages: headers, bitmaps, device state. */
  extents(): void {
    for (const [i, { offset, bytes, hash }] of this.#seal.head.extents.entries()) {
      const what = this.#seal.extentName(i);
      const found = this.#read(what, this.#file, offset, bytes, () => hashRange(this.#file, offset, bytes));
      this.#result.checkedBytes += bytes;
      if (found !== null && found !== hash)
        this.#problem("E_HASH", `not as it was sealed: ${what}`, {
          where: `${this.#file.name}, ${span(offset, bytes)}`,
          expected: `hash ${hex(hash)}`,
          found: hex(found),
        });
    }
  }

  /** The seal's other bytes are told of by its root and by its tables' hashes. */
  gaps(): void {
    const { file, headOffset, bytes } = this.#seal;
    const stray = this.#read("the seal", file, headOffset, bytes, () => this.#seal.strayByte());
    this.#result.checkedBytes += bytes;
    if (stray !== null && stray >= 0)
      this.#problem("E_HASH", "a byte between the parts of the seal is not zero", {
        where: `${file.name}, byte ${stray}`,
      });
  }

  async pages(hash: DoHash): Promise<void> {
    const tables = this.#tables();
    const blocks = tables.map(({ block }) => block);
    const job = newJob(
      this.#file.fd,
      tables.map(({ block: { pagesOffset, bytes }, table }) => ({
        pagesOffset,
        pages: bytes / PAGE_BYTES,
        table: table.shared,
        present: null,
      })),
    );
    const { bad, badCount, unreadable, unreadableCount } = await hash(job);
    const named = (list: readonly BadPage[]) => list.map((one) => namedPage(one, blocks));
    this.#result.checkedBytes += blocks.reduce((sum, { bytes }) => sum + bytes, 0);
    this.#result.badCount = badCount;
    this.#result.unreadableCount = unreadableCount;
    this.#result.bad = [...named(bad), ...named(unreadable)];
    if (badCount)
      this.#problem("E_HASH", `${pagesAre(badCount)} not as sealed`, { where: `from ${placeOf(named(bad)[0])} on` });
    if (unreadableCount)
      this.#problem("E_FILE", `${pagesAre(unreadableCount)} not readable`, {
        where: `from ${placeOf(named(unreadable)[0])} on`,
        found: unreadable[0].what,
      });
  }

  /** Those that are whole: without its table nobody can tell of a block. */
  #tables(): { block: SealBlock; table: HashTable }[] {
    const { file, headOffset, head } = this.#seal;
    return head.blocks.flatMap((block) => {
      const [at, bytes] = [headOffset + block.tableOffset, tableBytes(block)];
      const what = `the hashes of block '${block.name}'`;
      const table = this.#read(what, file, at, bytes, () => this.#seal.table(block));
      return table ? [{ block, table }] : [];
    });
  }
}

const pagesAre = (count: number): string => (count === 1 ? "1 page is" : `${count.toLocaleString("en-US")} pages are`);

export const placeOf = ({ block, page, offset }: NamedPage): string =>
  `page ${page} of block '${block}', byte ${offset}`;

/** Of a block that has its number in a job. */
export function namedPage(
  { block, page, what }: BadPage,
  blocks: readonly { name: string; pagesOffset: number }[],
): NamedPage {
  const { name, pagesOffset } = blocks[block];
  return { block: name, page, offset: pagesOffset + page * PAGE_BYTES, what };
}

/** To the page. */
function firstUnreadable(file: FileTransport, offset: number, bytes: number): number {
  const piece = new Uint8Array(PAGE_BYTES);
  for (let at = offset; at < offset + bytes; at += PAGE_BYTES - (at % PAGE_BYTES)) {
    try {
      file.readAt(piece.subarray(0, PAGE_BYTES - (at % PAGE_BYTES)), at);
    } catch {
      return at;
    }
  }
  return offset;
}

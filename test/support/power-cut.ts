// What a disk may hold after the power went away: a recording of faultfs, cut off after each of its operations, and the worst
// that POSIX allows of what was not synced.
//
// A file's bytes and its size are on the disk when it was synced after they were written; before that, each change may be there or
// not, a later one without an earlier one, a new size without the bytes, the bytes without the new size. Names are on the disk
// when the folder was synced; before that, the first so many changes of names are there and the others are not. One says
// nothing about the other: a name may be on the disk long before the bytes of its file, and a file that was synced may have no
// name.
import { readFileSync } from "node:fs";

export type Operation =
  | { op: "exists"; name: string; file: number; data: Uint8Array }
  | { op: "create"; name: string; file: number }
  | { op: "tmpfile"; file: number }
  | { op: "write"; file: number; offset: number; data: Uint8Array }
  | { op: "truncate"; file: number; size: number }
  | { op: "allocate"; file: number; mode: number; offset: number; length: number }
  | { op: "fsync" | "fdatasync"; file: number }
  | { op: "link"; file: number; name: string }
  | { op: "rename"; from: string; to: string }
  | { op: "unlink"; name: string }
  | { op: "fsyncdir" };

/** What test/support/faultfs.c wrote. */
export function readRecording(path: string): Operation[] {
  const all = readFileSync(path);
  const operations: Operation[] = [];
  for (let at = 0; at < all.length; ) {
    const end = all.indexOf(10, at);
    const { bytes, ...operation } = JSON.parse(all.toString("utf8", at, end));
    at = end + 1;
    if (bytes !== undefined) {
      operation.data = all.subarray(at, at + bytes);
      at += bytes + 1;
    }
    operations.push(operation);
  }
  return operations;
}

export interface PowerCuts {
  /** States of the disk that were looked at, and how many different contents of the file they come to. */
  states: number;
  contents: number;
  /** For each verdict that there was, where it was first. */
  verdicts: Record<string, string>;
}

/**
 * Cuts the power before the first operation, after it, and so on; or, with `from`, only when at least so many were done. `judge`
 * gets what is then in the file of that name, null where there is none, and says what that is; once for each content.
 */
export function powerCuts(
  operations: readonly Operation[],
  name: string,
  judge: (content: Uint8Array | null) => string,
  { from = 0 } = {},
): PowerCuts {
  const result: PowerCuts = { states: 0, contents: 0, verdicts: {} };
  const judged = new Map<string, string>();
  const look = (image: Image | null, where: () => string): void => {
    result.states++;
    const key = image?.key() ?? "none";
    let verdict = judged.get(key);
    if (verdict === undefined) {
      verdict = judge(image?.bytes() ?? null);
      judged.set(key, verdict);
      result.contents++;
    }
    result.verdicts[verdict] ??= where();
  };

  const disk = new Disk(name);
  for (let done = 0; done <= operations.length; done++) {
    if (done > 0) disk.do(operations[done - 1], done);
    if (done < from || operations[done]?.op === "exists") continue;
    for (const number of disk.filesUnderName()) {
      const file = number === null ? null : disk.file(number);
      for (const variant of file?.unsynced.length ? VARIANTS : [ONLY_VARIANT])
        look(file && left(file, variant, done), () => {
          const last = done ? describe(operations[done - 1]) : "nothing";
          return `after ${done} of ${operations.length} operations, the last ${last}: file ${number}, ${variant.name}`;
        });
    }
  }
  return result;
}

function describe(operation: Operation): string {
  const { data, ...rest } = { data: undefined, ...operation };
  return JSON.stringify(data ? { ...rest, bytes: data.length } : rest);
}

// --- what of the unsynced changes is kept ---------------------------------------------------------------------------

/** Of change `i` of `count`: whether its bytes in this page are kept, and whether what it does to the size is. */
interface Variant {
  name: string;
  bytes(i: number, count: number, page: number, cut: number): boolean;
  size(i: number, count: number, cut: number): boolean;
}

const both = (name: string, keeps: (i: number, count: number) => boolean): Variant => ({
  name,
  bytes: keeps,
  size: keeps,
});

const VARIANTS: readonly Variant[] = [
  both("nothing unsynced is kept", () => false),
  both("everything unsynced is kept", () => true),
  both("the first half of what is unsynced is kept", (i, count) => i < count / 2),
  both("the last half of what is unsynced is kept", (i, count) => i >= count / 2),
  { name: "of what is unsynced only the size is kept", bytes: () => false, size: () => true },
  {
    name: "of what is unsynced some pages are kept",
    bytes: (i, _, page, cut) => coin(cut, i, page),
    size: (i, _, cut) => coin(cut, i, -1),
  },
];
const ONLY_VARIANT = both("all is synced", () => true);

/** The same on every run. */
function coin(a: number, b: number, c: number): boolean {
  let x = (Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b) ^ Math.imul(c, 0xc2b2ae35)) | 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return ((x ^ (x >>> 16)) & 1) === 1;
}

function left({ synced, unsynced }: File, variant: Variant, cut: number): Image {
  const image = synced.copy();
  for (const [i, change] of unsynced.entries()) {
    image.change(change, (page) => variant.bytes(i, unsynced.length, page, cut));
    if (variant.size(i, unsynced.length, cut)) image.resize(change);
  }
  return image;
}

// --- the disk ---------------------------------------------------------------------------------------------------------

/** A change of a file: these bytes, or zeros where there are none, from `offset` to before `end`; and of its size. */
interface Change {
  offset: number;
  end: number;
  data?: Uint8Array;
  sizeAfter(before: number): number;
  /** The operation's. */
  id: number;
  /** The pages that it writes whole, by their place in the file: made when they are first wanted. */
  whole: number[];
}

interface File {
  synced: Image;
  unsynced: Change[];
}

class Disk {
  readonly #name: string;
  readonly #pages = new Pages();
  readonly #files = new Map<number, File>();
  /** As they are now; and what the name has meant after each change of names that is not synced, the first being what is. */
  readonly #names = new Map<string, number>();
  #meanings: (number | null)[] = [null];

  constructor(name: string) {
    this.#name = name;
  }

  file(number: number): File {
    const file = this.#files.get(number);
    if (!file) throw new Error(`the recording has no beginning of file ${number}`);
    return file;
  }

  /** Each file that the name may mean. */
  filesUnderName(): Set<number | null> {
    return new Set(this.#meanings);
  }

  do(operation: Operation, id: number): void {
    switch (operation.op) {
      case "exists":
        this.#begin(operation.file).synced.replace(operation.data, id);
        this.#names.set(operation.name, operation.file);
        this.#meanings = [this.#meaning()];
        break;
      case "tmpfile":
        this.#begin(operation.file);
        break;
      case "create":
        this.#begin(operation.file);
        this.#names.set(operation.name, operation.file);
        this.#meanings.push(this.#meaning());
        break;
      case "link":
        this.#names.set(operation.name, operation.file);
        this.#meanings.push(this.#meaning());
        break;
      case "rename":
        this.#names.set(operation.to, this.#named(operation.from));
        this.#names.delete(operation.from);
        this.#meanings.push(this.#meaning());
        break;
      case "unlink":
        this.#names.delete(operation.name);
        this.#meanings.push(this.#meaning());
        break;
      case "fsyncdir":
        this.#meanings = [this.#meaning()];
        break;
      case "fsync":
      case "fdatasync": {
        const file = this.file(operation.file);
        file.synced = left(file, ONLY_VARIANT, 0);
        file.unsynced = [];
        break;
      }
      default:
        this.file(operation.file).unsynced.push(changeOf(operation, id));
    }
  }

  #begin(number: number): File {
    const file = { synced: new Image(this.#pages), unsynced: [] };
    this.#files.set(number, file);
    return file;
  }

  #meaning(): number | null {
    return this.#names.get(this.#name) ?? null;
  }

  #named(name: string): number {
    const file = this.#names.get(name);
    if (file === undefined) throw new Error(`the recording has no file ${name}`);
    return file;
  }
}

/** Flags of fallocate. */
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;

function changeOf(operation: Extract<Operation, { op: "write" | "truncate" | "allocate" }>, id: number): Change {
  if (operation.op === "truncate") {
    const { size } = operation;
    return { offset: size, end: Number.POSITIVE_INFINITY, sizeAfter: () => size, id, whole: [] };
  }
  if (operation.op === "write") {
    const { offset, data } = operation;
    const end = offset + data.length;
    return { offset, end, data, sizeAfter: (before) => Math.max(before, end), id, whole: [] };
  }
  const { mode, offset, length } = operation;
  const end = offset + length;
  return {
    offset,
    end: mode & (PUNCH_HOLE | ZERO_RANGE) ? end : offset,
    sizeAfter: (before) => (mode & KEEP_SIZE ? before : Math.max(before, end)),
    id,
    whole: [],
  };
}

// --- contents -----------------------------------------------------------------------------------------------------------

const PAGE = 4096;

/** Every page that there has been, once. Page 0 is zeros. */
class Pages {
  readonly #contents = [new Uint8Array(PAGE)];
  readonly #byHash = new Map<bigint | number, number[]>([[Bun.hash(new Uint8Array(PAGE)), [0]]]);
  readonly #made = new Map<string, number>();

  content(number: number): Uint8Array {
    return this.#contents[number];
  }

  number(content: Uint8Array): number {
    const hash = Bun.hash(content);
    const same = this.#byHash.get(hash) ?? [];
    for (const one of same) if (Buffer.compare(this.#contents[one], content) === 0) return one;
    this.#byHash.set(hash, same);
    same.push(this.#contents.length);
    return this.#contents.push(new Uint8Array(content)) - 1;
  }

  /** The page that `make` makes of this one, which is the same for the same key. */
  made(key: string, number: number, make: (content: Uint8Array) => void): number {
    let result = this.#made.get(key);
    if (result === undefined) {
      const content = this.#contents[number].slice();
      make(content);
      result = this.number(content);
      this.#made.set(key, result);
    }
    return result;
  }
}

/** A file's content. What lies behind its size is not seen, and may be seen when it grows. */
class Image {
  readonly #all: Pages;
  #pages: number[] = [];
  #size = 0;

  constructor(all: Pages) {
    this.#all = all;
  }

  copy(): Image {
    const copy = new Image(this.#all);
    copy.#pages = this.#pages.slice();
    copy.#size = this.#size;
    return copy;
  }

  replace(data: Uint8Array, id: number): void {
    const change = { offset: 0, end: data.length, data, sizeAfter: () => data.length, id, whole: [] };
    this.change(change, () => true);
    this.resize(change);
  }

  resize(change: Change): void {
    this.#size = change.sizeAfter(this.#size);
  }

  /** Its bytes, in the pages where they are kept. */
  change({ offset, end, data, id, whole }: Change, keeps: (page: number) => boolean): void {
    const first = Math.floor(offset / PAGE);
    // Zeros where nothing is change nothing.
    const last = data ? end : Math.min(end, this.#pages.length * PAGE);
    for (let page = first; page * PAGE < last; page++) {
      if (!keeps(page)) continue;
      const at = page * PAGE;
      const from = Math.max(offset - at, 0);
      const to = Math.min(end - at, PAGE);
      if (to - from === PAGE) {
        whole[page - first] ??= data ? this.#all.number(data.subarray(at - offset, at - offset + PAGE)) : 0;
        this.#set(page, whole[page - first]);
        continue;
      }
      const before = this.#page(page);
      const make = (content: Uint8Array) => {
        if (data) content.set(data.subarray(at + from - offset, at + to - offset), from);
        else content.fill(0, from, to);
      };
      this.#set(page, this.#all.made(`${id} ${page} ${before}`, before, make));
    }
  }

  /** The same for the same content. */
  key(): string {
    return `${this.#size} ${Bun.hash(new Uint32Array(this.#seen()))}`;
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(Math.ceil(this.#size / PAGE) * PAGE);
    for (const [i, page] of this.#seen().entries()) if (page) bytes.set(this.#all.content(page), i * PAGE);
    return bytes.subarray(0, this.#size);
  }

  #page(i: number): number {
    return this.#pages[i] ?? 0;
  }

  #set(i: number, page: number): void {
    while (this.#pages.length < i) this.#pages.push(0);
    this.#pages[i] = page;
  }

  /** The pages up to the size; what lies behind it in the last one is zeros. */
  #seen(): number[] {
    const count = Math.ceil(this.#size / PAGE);
    const pages = this.#pages.slice(0, count);
    while (pages.length < count) pages.push(0);
    const tail = this.#size % PAGE;
    if (tail) {
      const last = pages[count - 1];
      pages[count - 1] = this.#all.made(`${last} to ${tail}`, last, (content) => content.fill(0, tail));
    }
    return pages;
  }
}

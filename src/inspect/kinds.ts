// Pages by kind: what a map of memory is drawn and counted from.

/** One kind of page. `key`: its name for programs. */
export interface Kind {
  key: string;
  name: string;
  /** One step of a scale, which neighbours in the list go on. */
  inRamp: boolean;
}

/** One RAM block: the number of each page's kind. */
export interface PagesByKind {
  name: string;
  bytes: number;
  kinds: Uint8Array;
}

/** How many of pages [from, end) there are of each of `count` kinds. */
export function countKinds(kinds: Uint8Array, count: number, from = 0, end = kinds.length): number[] {
  const counts = new Array<number>(count).fill(0);
  for (let page = from; page < end; page++) counts[kinds[page]]++;
  return counts;
}

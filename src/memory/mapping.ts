// Which pages of a guest's memory are a file's, and which are nobody's: pure policy for mapping a snapshot as RAM.
import type { Bitmap } from "./bitmap.ts";

export interface PageRun {
  first: number;
  pages: number;
}

/** A clear range this long is better off without the file: one huge page of the guest's own instead of 512 of the page cache. */
const APART_PAGES_MIN = 512;
/** Each range apart makes two more mappings; the kernel has room for 65,530 (vm.max_map_count). */
const APART_MAX = 8192;

/** The runs that are to be mapped from the file: all pages that it has, with the short clear ranges between them. */
export function planMapping(present: Bitmap): PageRun[] {
  const gaps = clearRuns(present).filter(({ pages }) => pages >= APART_PAGES_MIN);
  const apart = gaps.length <= APART_MAX ? gaps : longest(gaps, APART_MAX);
  const runs: PageRun[] = [];
  let at = 0;
  for (const { first, pages } of [...apart, { first: present.pages, pages: 0 }]) {
    if (first > at) runs.push({ first: at, pages: first - at });
    at = first + pages;
  }
  return runs;
}

function longest(runs: readonly PageRun[], count: number): PageRun[] {
  const kept = [...runs].sort((a, b) => b.pages - a.pages).slice(0, count);
  return kept.sort((a, b) => a.first - b.first);
}

/** The runs of pages that are not in the set, of at least a word's length or so: shorter ones are not looked for. */
export function clearRuns(present: Bitmap): PageRun[] {
  const { words, pages } = present;
  const runs: PageRun[] = [];
  let first = -1;
  for (let i = 0; i <= words.length; i++) {
    const clear = i < words.length && words[i] === 0;
    if (clear && first < 0) first = i * 32;
    if (clear || first < 0) continue;
    const end = Math.min(i * 32, pages);
    if (end > first) runs.push({ first, pages: end - first });
    first = -1;
  }
  return runs;
}

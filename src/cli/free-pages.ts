// What migrate and save do with pages that a guest has free, and how they tell of it.
import type { Hints } from "../control/hints.ts";
import type { Journal } from "../control/journal.ts";
import { type CacheDrop, PAGE_CACHE, type PageCache } from "../control/page-cache.ts";
import { TramError } from "../errors.ts";
import { formatBytes, formatCount, formatMs } from "./units.ts";

export const FREE_ARGS = {
  skipFree: {
    type: "boolean",
    description: "leave out pages that the guest has free: the default, where its balloon's driver tells",
  },
  noSkipFree: { type: "boolean", description: "do not ask the guest which pages it has free" },
  pageCache: {
    type: "string",
    description: `${PAGE_CACHE.join(" or ")} (default keep). drop: the guest gives up clean cache first, by its balloon`,
    valueHint: "WHAT",
    values: PAGE_CACHE,
  },
} as const;

export interface FreeArgs {
  skipFree?: boolean;
  noSkipFree?: boolean;
  pageCache?: string;
}

export function freeOptions({ skipFree, noSkipFree, pageCache }: FreeArgs): {
  skipFree: boolean;
  pageCache: PageCache;
} {
  if (skipFree && noSkipFree) throw new TramError("E_USAGE", "--skip-free and --no-skip-free exclude each other");
  const found = PAGE_CACHE.find((one) => one === (pageCache ?? "keep"));
  if (!found)
    throw new TramError("E_USAGE", `--page-cache: '${pageCache}' is not known`, { expected: PAGE_CACHE.join(" or ") });
  return { skipFree: !noSkipFree, pageCache: found };
}

/** The option that was given, for where none can be. */
export const nonDefaultFree = ({ skipFree, noSkipFree, pageCache }: FreeArgs): string | null =>
  skipFree ? "--skip-free" : noSkipFree ? "--no-skip-free" : pageCache !== undefined ? "--page-cache" : null;

/** Pages that were not carried, each counted once, and what made them so. */
export interface FreeReport {
  /** Nobody has ever written to them. */
  untouchedPages: number;
  /** Free, as the guest said when it was asked; in its balloon; reported as free by the guest itself. */
  hintedPages: number;
  balloonedPages: number;
  reportedPages: number;
  hints?: Hints;
  cacheDrop?: CacheDrop;
}

export const freeReport = (journal: Journal): FreeReport => ({
  untouchedPages: journal.untouchedPages,
  hintedPages: journal.hintedPages,
  balloonedPages: journal.balloonedPages,
  reportedPages: journal.reportedPages,
  ...(journal.hints && { hints: journal.hints }),
  ...(journal.cacheDrop && { cacheDrop: journal.cacheDrop }),
});

/** For a person. */
export function freeRows(report: FreeReport): [string, string][] {
  const counts: [number, string][] = [
    [report.untouchedPages, "never touched"],
    [report.hintedPages, "free"],
    [report.balloonedPages, "in the balloon"],
    [report.reportedPages, "reported as free"],
  ];
  const parts = counts.filter(([pages]) => pages > 0).map(([pages, what]) => `${formatCount(pages)} ${what}`);
  const rows: [string, string][] = [["left out", `${parts.join(", ") || "no pages"}${hintsText(report.hints)}`]];
  const { cacheDrop } = report;
  if (cacheDrop) {
    const { freeBeforeBytes, freeAfterBytes, elapsedMs } = cacheDrop;
    const change = `${formatBytes(freeBeforeBytes)} free before, ${formatBytes(freeAfterBytes)} behind it`;
    rows.push(["cache", `given up in ${formatMs(elapsedMs)}: ${change}`]);
  }
  return rows;
}

function hintsText(hints: Hints | undefined): string {
  if (!hints) return "";
  const { hasBegun, hasEnded, pages, waitedMs } = hints;
  if (!hasBegun) return `; the guest was asked for its free pages, and did not answer (waited ${formatMs(waitedMs)})`;
  return `; the guest named ${formatCount(pages)} free pages${hasEnded ? "" : " and had not come to an end"} (waited ${formatMs(waitedMs)})`;
}

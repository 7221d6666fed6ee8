// The two sums of a report: where each page of RAM went in the bulk pass, and what the downtime was made of.
import type { Journal } from "../../control/journal.ts";
import type { SeenRound } from "../recording.ts";

export interface Part {
  /** As --json and the style sheet's colours have it. */
  key: string;
  name: string;
  /** Pages, or milliseconds. */
  amount: number;
}

export interface Ledger {
  parts: Part[];
  /** The parts' sum. */
  total: number;
}

/** Each page of RAM once, as the bulk pass dealt with it. Null: it was not begun. */
export function bulkLedger(journal: Journal, rounds: readonly SeenRound[]): Ledger | null {
  const { totalPages, untouchedPages, hintedPages, balloonedPages, reportedPages } = journal;
  if (totalPages === 0) return null;
  const bulk = rounds.find(({ round }) => round === 1);
  // While it is the first round, all that was sent is of it.
  const { pages, zeroPages } = bulk ?? { pages: journal.sentPages, zeroPages: journal.zeroPages };
  const known: Part[] = [
    { key: "sent", name: "sent with content", amount: pages },
    { key: "zero", name: "sent as zero", amount: zeroPages },
    { key: "untouched", name: "never touched", amount: untouchedPages },
    { key: "hinted", name: "free, as the guest said", amount: hintedPages },
    { key: "ballooned", name: "in the balloon", amount: balloonedPages },
    { key: "reported", name: "reported as free", amount: reportedPages },
  ];
  const left = totalPages - sumOf(known);
  const parts = left > 0 ? [...known, { key: "left", name: "not reached", amount: left }] : known;
  return { parts, total: sumOf(parts) };
}

/** All rounds' pages, each time that they were sent. */
export function sentLedger({ sentPages, zeroPages }: Journal): Ledger {
  const parts = [
    { key: "sent", name: "with content", amount: sentPages },
    { key: "zero", name: "as zero", amount: zeroPages },
  ];
  return { parts, total: sumOf(parts) };
}

/** Of these, pages that the bulk pass had left out, and that the guest has written to since. */
export function sentLate(journal: Journal, rounds: readonly SeenRound[]): number {
  const bulk = rounds.find(({ round }) => round === 1);
  if (!bulk) return 0;
  const behindIt = sentLedger(journal).total - bulk.pages - bulk.zeroPages;
  return Math.max(0, behindIt - journal.resentPages);
}

/** In the order in which they come. */
const DOWNTIME: Record<string, string> = {
  stopCpus: "the CPUs stop",
  overdueRounds: "the rest, its time being over",
  deviceState: "the devices' state is read",
  lastBitmap: "the last look at what was written",
  lastPages: "the last pages",
  verify: "what has arrived is compared",
  targetReady: "the target loads its devices",
  handOver: "the hand-over and its confirmation",
  firstInstruction: "the target starts its CPUs",
  durable: "the file is made durable",
};

/** Null: the guest was not stopped, or nobody knows for how long. */
export function downtimeLedger({ downtimeMs, downtimePartsMs }: Journal): Ledger | null {
  if (downtimeMs === null) return null;
  const parts = Object.entries(downtimePartsMs).map(([key, amount]) => ({ key, name: DOWNTIME[key] ?? key, amount }));
  return parts.length ? { parts, total: sumOf(parts) } : null;
}

const sumOf = (parts: readonly Part[]): number => parts.reduce((sum, { amount }) => sum + amount, 0);

// Where pages and time went: tables that add up, and a bar for each.

import { type ChannelCounts, sumCounts } from "../../control/barrier.ts";
import type { Journal } from "../../control/journal.ts";
import { TARGET_PAGE_BYTES } from "../../stream/wire.ts";
import { formatBytes, formatCount, formatMs } from "../units.ts";
import { ledgerBar, swatch } from "./charts.ts";
import { html, type Markup, type Part, section, table } from "./html.ts";
import { bulkLedger, downtimeLedger, type Ledger, sentLate, sentLedger } from "./ledgers.ts";
import type { Story } from "./story.ts";

const share = (part: number, whole: number): string => `${((part * 100) / Math.max(1, whole)).toFixed(1)}%`;

/** `heads`: of what names a part, and of each figure that `format` makes of its amount. */
function ledgerTable(
  caption: string,
  heads: readonly string[],
  { parts, total }: Ledger,
  format: (amount: number) => string[],
): Markup {
  const columns = [...heads, "share"].map((head, i) => ({ head, isNumber: i > 0 }));
  const row = (title: Part, value: number): Part[] => [title, ...format(value), share(value, total)];
  const rows = parts.map((part) => row(html`${swatch(part.key)} ${part.name}`, part.amount));
  return table(caption, columns, rows, row("all", total));
}

const inPages = (pages: number): string[] => [formatCount(pages), formatBytes(pages * TARGET_PAGE_BYTES)];

const describe = ({ parts, total }: Ledger, format: (amount: number) => string): string =>
  `Of ${format(total)}: ${parts
    .filter(({ amount }) => amount > 0)
    .map(({ name, amount }) => `${name} ${format(amount)}`)
    .join(", ")}.`;

export function pagesSection(journal: Journal, { recording: { rounds } }: Story): Markup | null {
  const bulk = bulkLedger(journal, rounds);
  if (!bulk) return null;
  const late = sentLate(journal, rounds);
  const wrong = journal.differingPages ?? 0;
  const again = [
    `${pagesText(journal.resentPages)} were sent again, because the guest wrote to them`,
    ...(late ? [`${pagesText(late)} had been left out, and the guest wrote to them since`] : []),
    ...(wrong ? [`${pagesText(wrong)} had arrived wrong, and were sent again`] : []),
  ];
  return section(
    "pages",
    "Pages",
    ledgerBar("All of RAM in the bulk pass", describe(bulk, pagesText), bulk),
    ledgerTable("The bulk pass: each page of RAM once", ["what became of it", "pages", "memory"], bulk, inPages),
    ledgerTable(
      "All rounds: pages, each time that they were sent",
      ["sent", "pages", "memory"],
      sentLedger(journal),
      inPages,
    ),
    html`<p class="note">Of these ${again.join("; ")}.</p>\n`,
    freeNotes(journal),
  );
}

const pagesText = (pages: number): string => `${formatCount(pages)} pages`;

/** What came of asking the guest. */
function freeNotes({ hints, cacheDrop }: Journal): Markup[] {
  const notes: Markup[] = [];
  if (hints && !hints.hasBegun)
    notes.push(html`The guest was asked for its free pages, and did not answer within ${formatMs(hints.waitedMs)}.`);
  else if (hints)
    notes.push(
      html`The guest named ${formatCount(hints.pages)} free pages${hints.hasEnded ? "" : " and had not come to an end"}; it was waited for ${formatMs(hints.waitedMs)}.`,
    );
  if (cacheDrop) {
    const { elapsedMs, inflatedBytes, freeBeforeBytes, freeAfterBytes } = cacheDrop;
    notes.push(
      html`It gave up its page cache in ${formatMs(elapsedMs)}: its balloon took up to ${formatBytes(inflatedBytes)} more; ${formatBytes(freeBeforeBytes)} were free before, and ${formatBytes(freeAfterBytes)} behind it.`,
    );
  }
  return notes.map((note) => html`<p class="note">${note}</p>\n`);
}

/** Of a QEMU guest: its pages as they came. */
export const cameSection = (journal: Journal): Markup =>
  section(
    "pages",
    "Pages",
    ledgerTable("Pages, each time that they came", ["came", "pages", "memory"], sentLedger(journal), inPages),
  );

export function downtimeSection(journal: Journal, { kind, isQemu, downtimeMs }: Story): Markup {
  const ledger = downtimeLedger(journal);
  if (ledger)
    return section(
      "downtime",
      "Downtime",
      ledgerBar("The downtime's parts", describe(ledger, formatMs), ledger),
      ledgerTable("While the guest stood still", ["", "time"], ledger, (ms) => [formatMs(ms)]),
    );
  const why =
    kind === "rehearse"
      ? "A rehearsal does not stop the guest: what is said above is reckoned from what was left."
      : isQemu && downtimeMs !== undefined && downtimeMs !== null
        ? `QEMU says ${formatMs(downtimeMs)}, and not what they were made of.`
        : "It did not come to an end: there is none to be told of.";
  return section("downtime", "Downtime", html`<p>${why}</p>\n`);
}

interface ChannelColumn {
  head: string;
  of(counts: ChannelCounts): string;
}

const count = (head: string, name: keyof ChannelCounts): ChannelColumn => ({
  head,
  of: (counts) => formatCount(counts[name]),
});
const size = (head: string, name: keyof ChannelCounts): ChannelColumn => ({
  head,
  of: (counts) => formatBytes(counts[name]),
});
const time = (head: string, name: keyof ChannelCounts): ChannelColumn => ({
  head,
  of: (counts) => formatMs(counts[name]),
});

const CHANNEL = [size("bytes", "bytes"), count("pages", "pages"), count("zero pages", "zeroPages")];
const CONNECTION = [
  ...CHANNEL,
  count("packets", "packets"),
  count("system calls", "systemCalls"),
  size("zero-copy", "zeroCopyBytes"),
  size("kernel copied of it", "copiedBytes"),
  count("fell back", "fallbacks"),
  time("flush wait", "flushWaitMs"),
  {
    head: "compressed",
    of: ({ compressMs, pages, bytes }: ChannelCounts) =>
      compressMs > 0
        ? `${((pages * TARGET_PAGE_BYTES) / Math.max(1, bytes)).toFixed(1)}:1 in ${formatMs(compressMs)}`
        : "no",
  },
];

export function channelsSection(
  { multifd, ...journal }: Journal,
  { kind, isQemu, channels = journal.channels }: Story,
): Markup | null {
  if (channels.length === 0) return null;
  const columns = multifd
    ? CONNECTION
    : kind === "save"
      ? [...CHANNEL, size("past the page cache", "directBytes")]
      : CHANNEL;
  const name = (i: number) =>
    kind === "save" && !isQemu ? `thread ${i}` : multifd || isQemu ? `channel ${i}` : "the connection";
  return section(
    "channels",
    kind === "save" && !isQemu ? "Threads" : "Channels",
    table(
      "What each has carried",
      [{ head: "" }, ...columns.map(({ head }) => ({ head, isNumber: true }))],
      channels.map((counts, i) => [name(i), ...columns.map((one) => one.of(counts))]),
      channels.length > 1 ? ["all", ...columns.map((one) => one.of(sumCounts(channels)))] : undefined,
    ),
  );
}

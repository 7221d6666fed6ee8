// The page of a report, top to bottom: what came of it, how it went over time, where pages and time went, and under what conditions.
// One file that needs nothing else: no script, no font, no network.

import type { Journal } from "../../control/journal.ts";
import type { ErrorData } from "../../errors.ts";
import { TARGET_PAGE_BYTES } from "../../stream/wire.ts";
import { remedyText } from "../report.ts";
import { formatBytes, formatCount, formatMs, formatRate } from "../units.ts";
import {
  conditionsSection,
  fileSection,
  forecastSection,
  formatDate,
  limitsSection,
  phasesSection,
  roundsSection,
} from "./conditions.ts";
import { html, Markup, other } from "./html.ts";
import { timelineSection } from "./over-time.ts";
import css from "./page.css" with { type: "text" };
import { figuresOf, type Story } from "./story.ts";
import { cameSection, channelsSection, downtimeSection, pagesSection } from "./sums.ts";

/** A whole HTML document. */
export function page(story: Story): string {
  const { journal } = story.recording;
  const title = headline(story);
  const body = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>${title.plain}</title>
<style>
${new Markup(css)}</style>
</head>
<body>
<header>
<p class="kicker">tram ${story.kind}, ${formatDate(story.environment.date)}</p>
<h1>${title.marked}</h1>
<p><strong class="outcome ${story.outcome}">${story.outcome}</strong> The guest's owner: ${story.owner}.</p>
${story.error && errorBlock(story.error)}${journal && stallBlock(story.vm, journal)}${tiles(story)}</header>
<main>
${journal && told(story, journal)}${fileSection(story)}${conditionsSection(story)}</main>
</body>
</html>
`;
  return body.text;
}

const told = (story: Story, journal: Journal): (Markup | null)[] => [
  timelineSection(story),
  story.isQemu ? cameSection(journal) : pagesSection(journal, story),
  downtimeSection(journal, story),
  channelsSection(journal, story),
  limitsSection(story),
  roundsSection(story),
  forecastSection(journal, story),
  phasesSection(journal, story),
];

function headline({ kind, vm, where, outcome }: Story): { plain: string; marked: Markup } {
  const what = kind === "save" ? "save" : "move";
  const to = kind === "rehearse" ? "" : kind === "save" ? " into " : " to ";
  const verb = kind === "save" ? " was saved" : " moved";
  const ended = outcome === "cancelled" ? " was cancelled" : " failed";
  const [before, between, behind] =
    kind === "rehearse"
      ? outcome === "completed"
        ? ["A move of ", "", " was rehearsed"]
        : ["The rehearsal of a move of ", "", ended]
      : outcome === "completed"
        ? ["", `${verb}${to}`, ""]
        : [`The ${what} of `, to, ended]; // which does not say where the guest is: its owner does
  const place = to ? where : "";
  return {
    plain: `${before}${vm}${between}${place}${behind}`,
    marked: html`${before}${other(vm)}${between}${place && other(place)}${behind}`,
  };
}

function errorBlock({ code, message, where, expected, found, next }: ErrorData): Markup {
  const details = Object.entries({ where, expected, found }).filter(([, text]) => text);
  return html`<div class="error">
<p><strong>${other(message)}</strong> <code>${code}</code></p>
${details.length > 0 && html`<dl>${details.map(([name, text]) => html`<div><dt>${name}</dt><dd>${other(text ?? "")}</dd></div>`)}</dl>\n`}${
  next && html`<p><strong>Next:</strong> ${other(next)}</p>\n`
}</div>
`;
}

function stallBlock(vm: string, { stall }: Journal): Markup | null {
  if (!stall) return null;
  const { leftBytes, dirtyBytesPerSec, bandwidthBytesPerSec, sinceRound, remedy } = stall;
  return html`<div class="error">
<p><strong>It does not converge.</strong> Since round ${sinceRound} each leaves ${formatBytes(leftBytes)}: the guest writes at least ${formatRate(dirtyBytesPerSec)}, and ${formatRate(bandwidthBytesPerSec)} are carried.</p>
<p><strong>Next:</strong> ${other(remedyText(vm, remedy))}</p>
</div>
`;
}

function tiles(story: Story): Markup {
  const { journal } = story.recording;
  if (!journal) return html`<p>It failed before it had begun.</p>\n`;
  const { totalPages } = journal;
  const { rounds, elapsedMs, bytes, downtimeMs } = figuresOf(story, journal);
  const sent = { migrate: "sent", save: "written", rehearse: "as if sent" }[story.kind];
  const shown: [string, string | null][] = [
    ["total time", formatMs(elapsedMs)],
    [sent, formatBytes(bytes)],
    ["on average", formatRate((bytes * 1000) / Math.max(1, elapsedMs))],
    ["downtime", downtimeMs === null ? null : formatMs(downtimeMs)],
    ["rounds", story.isQemu ? null : formatCount(rounds)],
    ["RAM", totalPages > 0 ? formatBytes(totalPages * TARGET_PAGE_BYTES) : null],
  ];
  return html`<dl class="tiles">
${shown.map(([name, value]) => value !== null && html`<div><dt>${name}</dt><dd>${value}</dd></div>\n`)}</dl>
`;
}

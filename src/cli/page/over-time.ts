// How it went over time: what was carried, what the guest wrote meanwhile, what was left, and how far the guest was slowed down.
import { formatBytes, formatMs, formatRate } from "../units.ts";
import { type Point, timeChart } from "./charts.ts";
import { html, type Markup, section } from "./html.ts";
import type { Story } from "./story.ts";
import { type Timeline, timelineOf } from "./timeline.ts";

/** The greatest of them decides about the unit; values in it, and its name. */
function scaled(lines: readonly (readonly Point[])[], suffix = ""): { lines: Point[][]; unit: string; top: number } {
  const top = Math.max(1, ...lines.flatMap((points) => points.map(([, value]) => value ?? 0)));
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(top) / 10));
  const by = 1024 ** power;
  const convert = ([atMs, value]: Point): Point => [atMs, value === null ? null : value / by];
  return { lines: lines.map((points) => points.map(convert)), unit: `${units[power]}${suffix}`, top: top / by };
}

/** A limit far above what was reached would press all else to the ground. */
const LIMIT_SHOWN = 1.5;

export function timelineSection({ recording, isQemu }: Story): Markup | null {
  const timeline = timelineOf(recording);
  if (!timeline) return null;
  const { endMs, rounds, stopped, throttle } = timeline;
  const time = { endMs, rounds, stopped };
  const over = `over ${formatMs(endMs)}`;
  const figures: Markup[] = [rateFigure(timeline, over)];
  if (!isQemu) {
    const remaining = scaled([timeline.remaining]);
    const most = Math.max(...timeline.remaining.map(([, value]) => value ?? 0));
    const title = `Still to send, ${remaining.unit}`;
    const description = `From ${formatBytes(most)} to ${formatBytes(timeline.remaining.at(-1)?.[1] ?? 0)} ${over}.`;
    const lines = [{ colour: "rate", points: remaining.lines[0], isFilled: true }];
    figures.push(figure(title, [], timeChart({ ...time, title, description, lines })));
  }
  const slowest = Math.max(...throttle.map(([, value]) => value ?? 0));
  if (slowest > 0) {
    const title = "The guest is slowed down, %";
    const description = `Its CPUs rest up to ${slowest}% of the time.`;
    const lines = [{ colour: "throttle", points: throttle, isStep: true, isFilled: true }];
    figures.push(figure(title, [], timeChart({ ...time, title, description, lines, isPercent: true })));
  }
  const notes = [
    ...(rounds.length ? [html`Every second round is shaded; the numbers are the rounds'.`] : []),
    ...(stopped ? [html`${legendMark("stopped-mark")} The guest stands still.`] : []),
    ...(isQemu ? ["QEMU sends its pages itself: of its rounds, and of what is left, the stream says nothing."] : []),
    ...(isQemu || slowest > 0 ? [] : ["The guest was not slowed down."]),
  ];
  return section("timeline", "Over time", figures, html`<p class="note">${notes.map((one) => html`${one} `)}</p>\n`);
}

function rateFigure({ endMs, rounds, stopped, rate, dirty, maxBandwidth }: Timeline, over: string): Markup {
  const most = (points: readonly Point[]) => Math.max(0, ...points.map(([, value]) => value ?? 0));
  const top = Math.max(most(rate), most(dirty));
  const limit = most(maxBandwidth) <= top * LIMIT_SHOWN ? maxBandwidth : [];
  const { lines: points, unit } = scaled([rate, dirty, limit], "/s");
  const kinds = [
    { colour: "rate", name: "carried", isStep: true },
    { colour: "dirty", name: "written by the guest, each page once a round", isStep: true },
    { colour: "limit", name: "max-bandwidth", isStep: true, isDashed: true },
  ];
  const lines = kinds.map((kind, i) => ({ ...kind, points: points[i] })).filter((line) => line.points.length > 0);
  const title = `Rate, ${unit}`;
  const wrote = dirty.length ? `, and the guest wrote up to ${formatRate(most(dirty))}` : "";
  const description = `Up to ${formatRate(most(rate))} were carried${wrote}, ${over}.`;
  return figure(title, lines, timeChart({ endMs, rounds, stopped, title, description, lines }));
}

const figure = (title: string, lines: readonly { colour: string; name: string }[], charts: readonly Markup[]) =>
  html`<figure>
<figcaption>${title}${lines.map(({ colour, name }) => html` <span class="key">${legendMark(colour)} ${name}</span>`)}</figcaption>
${charts}
</figure>
`;

const legendMark = (colour: string): Markup =>
  html`<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect y="3" width="10" height="4" fill="${`var(--${colour})`}"/></svg>`;

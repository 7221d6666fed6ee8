// Charts as SVG, drawn when the page is written: it needs no script to be read. Colours are the style sheet's, so that they follow
// the reader's scheme.
import { BarChart, LineChart } from "echarts/charts";
import { GridComponent, MarkAreaComponent, MarkLineComponent } from "echarts/components";
import { type EChartsCoreOption, init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import { escapeText, html, Markup } from "./html.ts";
import type { Ledger } from "./ledgers.ts";

use([BarChart, LineChart, GridComponent, MarkAreaComponent, MarkLineComponent, SVGRenderer]);

/** A value at a time; null: nothing is known from here on. */
export type Point = [atMs: number, value: number | null];

export interface Line {
  /** A variable of the style sheet. */
  colour: string;
  points: readonly Point[];
  /** Each value holds until the next one. */
  isStep?: boolean;
  isFilled?: boolean;
  isDashed?: boolean;
}

export interface Span {
  fromMs: number;
  toMs: number;
}

export interface TimeChart {
  title: string;
  /** For who does not see it. */
  description: string;
  endMs: number;
  /** Shares of a whole, from 0 to 100. */
  isPercent?: boolean;
  lines: readonly Line[];
  rounds: readonly (Span & { round: number })[];
  /** The guest stood still. */
  stopped: Span | null;
}

/** Text does not shrink with a chart: a phone has its own, of which the style sheet shows one. */
const SIZES = [
  { name: "wide", width: 900, height: 190, fontPx: 13, ticks: 10 },
  { name: "narrow", width: 360, height: 170, fontPx: 12, ticks: 4 },
] as const;
/** A round's number stands where its share of the chart has room for it. */
const NUMBER_PX = 18;
const STOPPED = { color: "var(--stopped-mark)", width: 1.5, type: "solid" };
const LEFT_PX = 58;
const RIGHT_PX = 14;

/** The library writes colours as they are: only letters, digits and dashes of a name get there. */
const variable = (name: string): string => `var(--${name.replace(/[^\w-]/g, "")})`;

/** The same chart for wide and for narrow windows. */
export const timeChart = (chart: TimeChart): Markup[] => SIZES.map((size) => drawTime(chart, size));

function drawTime(chart: TimeChart, size: (typeof SIZES)[number]): Markup {
  const { endMs, lines, rounds, stopped, isPercent } = chart;
  const inSeconds = endMs >= 1000;
  const unitMs = inSeconds ? 1000 : 1;
  const pxPerMs = (size.width - LEFT_PX - RIGHT_PX) / Math.max(1, endMs);
  const text = { color: variable("muted"), fontSize: size.fontPx, fontFamily: "system-ui, sans-serif" };
  const shaded = rounds.filter(({ round, fromMs, toMs }) => round % 2 === 0 && (toMs - fromMs) * pxPerMs >= 1);
  const numbered = rounds.filter(({ fromMs, toMs }) => (toMs - fromMs) * pxPerMs >= NUMBER_PX);
  const option: EChartsCoreOption = {
    animation: false,
    color: [variable("rate")],
    grid: { left: LEFT_PX, right: RIGHT_PX, top: 24, bottom: 28 },
    xAxis: {
      type: "value",
      min: 0,
      max: endMs / unitMs,
      splitNumber: size.ticks,
      axisLabel: { ...text, hideOverlap: true, showMaxLabel: false, formatter: `{value} ${inSeconds ? "s" : "ms"}` },
      axisLine: { lineStyle: { color: variable("line") } },
      axisTick: { lineStyle: { color: variable("line") } },
      splitLine: { show: false },
    },
    yAxis: {
      type: "value",
      min: 0,
      ...(isPercent ? { max: 100, interval: 25 } : { splitNumber: 4 }),
      axisLabel: { ...text, formatter: (value: number) => value.toLocaleString("en-US") },
      axisLine: { show: false },
      axisTick: { show: false },
      splitLine: { lineStyle: { color: variable("line") } },
    },
    series: [
      {
        type: "line",
        data: [],
        silent: true,
        markArea: {
          silent: true,
          data: [
            ...shaded.map((span) => area(span, "round", unitMs)),
            ...(stopped ? [area(stopped, "stopped", unitMs)] : []),
          ],
        },
        markLine: {
          silent: true,
          symbol: "none",
          lineStyle: { width: 0 },
          label: { ...text, position: "end", distance: 4, formatter: "{b}" },
          data: [
            ...numbered.map(({ round, fromMs, toMs }) => ({ name: `${round}`, xAxis: (fromMs + toMs) / 2 / unitMs })),
            // However short it was, it is to be seen.
            ...(stopped ? [{ xAxis: stopped.fromMs / unitMs, lineStyle: STOPPED, label: { show: false } }] : []),
          ],
        },
      },
      ...lines.map(({ colour, points, isStep, isFilled, isDashed }) => ({
        type: "line",
        silent: true,
        showSymbol: points.length === 1,
        symbol: "circle",
        step: isStep ? "end" : false,
        sampling: isStep ? undefined : "minmax",
        data: points.map(([atMs, value]) => [atMs / unitMs, value]),
        itemStyle: { color: variable(colour) },
        lineStyle: { color: variable(colour), width: isDashed ? 1.5 : 2, type: isDashed ? "dashed" : "solid" },
        ...(isFilled && { areaStyle: { color: variable(colour), opacity: 0.15 } }),
      })),
    ],
  };
  return draw(option, size.width, size.height, size.name, chart.title, chart.description);
}

const area = ({ fromMs, toMs }: Span, colour: string, unitMs: number) => [
  { xAxis: fromMs / unitMs, itemStyle: { color: variable(colour), opacity: 1 } },
  { xAxis: toMs / unitMs },
];

const BAR_WIDTH = 1000;
const BAR_HEIGHT = 28;

/** One bar for the whole. It has no text, and is as wide as there is room. */
export function ledgerBar(title: string, description: string, { parts, total }: Ledger): Markup {
  const option: EChartsCoreOption = {
    animation: false,
    grid: { left: 0, right: 0, top: 0, bottom: 0 },
    xAxis: { type: "value", show: false, min: 0, max: Math.max(1, total) },
    yAxis: { type: "category", show: false, data: [""] },
    series: parts
      .filter(({ amount }) => amount > 0)
      .map(({ key, amount }) => ({
        type: "bar",
        stack: "all",
        silent: true,
        barWidth: BAR_HEIGHT,
        data: [amount],
        itemStyle: { color: variable(`part-${key}`) },
      })),
  };
  return draw(option, BAR_WIDTH, BAR_HEIGHT, "bar", title, description);
}

/** The same colour beside the words. */
export const swatch = (key: string): Markup =>
  html`<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true"><rect width="10" height="10" fill="${variable(`part-${key}`)}"/></svg>`;

/** What the library leaves for a page that goes on drawing. */
const FOR_SCRIPTS = /<style[\s\S]*?<\/style>\n?| (?:class|pointer-events|ecmeta_\w+)="[^"]*"/g;

let drawn = 0;

function draw(
  option: EChartsCoreOption,
  width: number,
  height: number,
  kind: string,
  title: string,
  description: string,
): Markup {
  const chart = init(null, null, { renderer: "svg", ssr: true, width, height });
  try {
    chart.setOption(option);
    const svg = chart.renderToSVGString({ useViewBox: true });
    const inside = svg.slice(svg.indexOf(">") + 1).replace(FOR_SCRIPTS, "");
    const id = `chart-${++drawn}`;
    const names = `<title id="${id}-title">${escapeText(title)}</title><desc id="${id}-text">${escapeText(description)}</desc>`;
    const shape = kind === "bar" ? ' preserveAspectRatio="none"' : "";
    const head = `<svg class="chart ${kind}" role="img" aria-labelledby="${id}-title ${id}-text" viewBox="0 0 ${width} ${height}"${shape}>`;
    return new Markup(`${head}${names}${inside}`);
  } finally {
    chart.dispose();
  }
}

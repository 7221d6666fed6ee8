// Median, spread, and how they are written.

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const low = sorted[Math.floor(at)];
  return low + (sorted[Math.ceil(at)] - low) * (at % 1);
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** "2.31 (2.10..2.45)" */
export function spread(values: readonly number[], digits = 2): string {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return `${median(values).toFixed(digits)} (${low.toFixed(digits)}..${high.toFixed(digits)})`;
}

/** Of the same pair each: what disturbs one disturbs its neighbour. */
export const ratios = (of: readonly number[], to: readonly number[]): number[] => of.map((value, i) => value / to[i]);

export const verdict = (met: boolean): string => (met ? "PASS" : "MISS");

export function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map((_, i) => (i === 0 ? "---" : "---:"))), ...rows.map(line)].join("\n");
}

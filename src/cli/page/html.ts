// HTML from templates in which every value is text and is escaped, unless it was made here.

/** Markup, not text. */
export class Markup {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** Null and false: nothing. */
export type Part = Markup | string | number | null | false | undefined | readonly Part[];

export function html(strings: TemplateStringsArray, ...parts: Part[]): Markup {
  return new Markup(strings.reduce((text, string, i) => text + markupOf(parts[i - 1]) + string));
}

function markupOf(part: Part): string {
  if (part === null || part === undefined || part === false) return "";
  if (part instanceof Markup) return part.text;
  if (Array.isArray(part)) return part.map(markupOf).join("");
  return escapeText(String(part));
}

/** For elements and quoted attributes. Control characters have no place in a page. */
export const escapeText = (text: string): string => Bun.escapeHTML(text.replace(/[^\P{Cc}\n\t]/gu, "?"));

/** Other people's text: whatever direction it is written in, it does not turn around what follows. */
export const other = (text: string): Markup => html`<bdi>${text}</bdi>`;

export interface Column {
  head: string;
  /** Of figures, which stand to the right. */
  isNumber?: boolean;
}

/** The first cell of each row names it. `total`: the row that the others add up to. */
export function table(caption: string, columns: readonly Column[], rows: readonly Part[][], total?: Part[]): Markup {
  const kind = (i: number) => columns[i].isNumber && html` class="number"`;
  const row = (cells: readonly Part[]) =>
    html`<tr>${cells.map((cell, i) => (i === 0 ? html`<th scope="row">${cell}</th>` : html`<td${kind(i)}>${cell}</td>`))}</tr>\n`;
  const heads = columns.map(({ head }, i) => html`<th scope="col"${kind(i)}>${head}</th>`);
  // What is wider than a phone, or longer than a screen, is scrolled by keys, too.
  return html`<div class="scroll" role="region" aria-label="${caption}" tabindex="0"><table>
<caption>${caption}</caption>
<thead><tr>${heads}</tr></thead>
<tbody>
${rows.map(row)}</tbody>
${total && html`<tfoot>${row(total)}</tfoot>\n`}</table></div>
`;
}

export const section = (id: string, title: string, ...parts: Part[]): Markup =>
  html`<section aria-labelledby="${id}"><h2 id="${id}">${title}</h2>
${parts}</section>
`;

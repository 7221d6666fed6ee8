// A report's page as its reader has it: tables, pictures, and whatever a browser would run or fetch.

export interface ParsedTable {
  caption: string;
  heads: string[];
  rows: string[][];
  /** The row that the others add up to; empty: there is none. */
  total: string[];
}

export interface ParsedPage {
  title: string;
  heading: string;
  text: string;
  ids: string[];
  tables: ParsedTable[];
  /** Those that tell of something: the words for who does not see them. */
  pictures: { title: string; description: string; labelledBy: string[] }[];
  /** Tags that can run or fetch, and attributes that could. */
  active: string[];
}

const ENTITIES: Record<string, string> = { lt: "<", gt: ">", amp: "&", quot: '"', "#x27": "'", "#39": "'" };
const decode = (text: string): string => text.replace(/&(#?\w+);/g, (all, name: string) => ENTITIES[name] ?? all);

export function parsePage(html: string): ParsedPage {
  const page: ParsedPage = { title: "", heading: "", text: "", ids: [], tables: [], pictures: [], active: [] };
  /** Text comes in pieces. */
  const into = (add: (text: string) => void) => ({ text: (piece: { text: string }) => add(decode(piece.text)) });
  const table = () => page.tables.at(-1) as ParsedTable;
  const picture = () => page.pictures.at(-1) as ParsedPage["pictures"][0];
  /** Each piece belongs to the cell that was opened last. */
  const cells = (rowOf: () => string[]) => ({
    element: () => void rowOf().push(""),
    text: ({ text }: { text: string }) => {
      const row = rowOf();
      row[row.length - 1] += decode(text);
    },
  });
  const lastRow = () => table().rows.at(-1) as string[];
  new HTMLRewriter()
    .on("*", {
      element({ tagName, attributes }) {
        if (["script", "iframe", "object", "embed", "img", "image", "use", "form", "a", "base"].includes(tagName))
          page.active.push(`<${tagName}>`);
        for (const [name, value] of attributes) {
          if (name === "id") page.ids.push(value);
          if (/^on/i.test(name) || (/^(src|href|xlink:href|srcset|action)$/i.test(name) && value !== "data:,"))
            page.active.push(`${name}=${value}`);
        }
      },
    })
    .on(
      "head > title",
      into((text) => {
        page.title += text;
      }),
    )
    .on(
      "h1",
      into((text) => {
        page.heading += text;
      }),
    )
    .on(
      "header, main",
      into((text) => {
        page.text += text;
      }),
    )
    .on("table", { element: () => void page.tables.push({ caption: "", heads: [], rows: [], total: [] }) })
    .on(
      "caption",
      into((text) => {
        table().caption += text;
      }),
    )
    .on(
      "thead th",
      cells(() => table().heads),
    )
    .on("tbody tr", { element: () => void table().rows.push([]) })
    .on("tbody th, tbody td", cells(lastRow))
    .on(
      "tfoot th, tfoot td",
      cells(() => table().total),
    )
    .on("svg[role=img]", {
      element(svg) {
        const labelledBy = (svg.getAttribute("aria-labelledby") ?? "").split(" ");
        page.pictures.push({ title: "", description: "", labelledBy });
      },
    })
    .on(
      "svg[role=img] > title",
      into((text) => {
        picture().title += text;
      }),
    )
    .on(
      "svg[role=img] > desc",
      into((text) => {
        picture().description += text;
      }),
    )
    .transform(html);
  return page;
}

/** "1,234" and "56 ms" as numbers. */
export const figure = (text: string): number => Number(text.replaceAll(",", "").replace(/[^0-9.].*$/, ""));

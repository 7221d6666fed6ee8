// --report with real guests: a page of a move, of a save, of a rehearsal, and of what went wrong.
import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { freePort, inBed, whyNoKvm } from "../support/bed.ts";
import { figure, type ParsedPage, parsePage } from "../support/parsed-page.ts";

const noKvm = whyNoKvm();

const MEMORY = ["--memory", "64M", "--working-set", "16M", "--dirty-rate", "1000"];
const sumOf = (page: ParsedPage, caption: string): { parts: number; total: number } => {
  const found = page.tables.find((one) => one.caption.startsWith(caption));
  const parts = (found?.rows ?? []).reduce((sum, row) => sum + figure(row[1]), 0);
  return { parts, total: figure(found?.total[1] ?? "") };
};

describe.skipIf(noKvm !== null)(`tram --report${noKvm ? ` (skipped: ${noKvm})` : ""}`, () => {
  test("tells of a rehearsal, a move and a save, and their sums are whole", () =>
    inBed(async (bed) => {
      const read = (name: string) => parsePage(readFileSync(bed.path(name), "utf8"));
      await bed.walker("a", ...MEMORY, "--free", "16M");
      const to = `tcp:127.0.0.1:${freePort()}`;
      await bed.target("b", to);
      await bed.expectDone("forecast", "a", "--bandwidth", "200MiB/s", "--for", "100ms");
      await bed.expectDone("rehearse", "a", "--bandwidth", "200MiB/s", "--report", "rehearsal.html");
      await bed.expectDone(
        "migrate",
        "a",
        to,
        "--channels",
        "2",
        "--max-bandwidth",
        "100MiB/s",
        "--report",
        "move.html",
      );
      await bed.expectDone("save", "b", "b.tram", "--after", "resume", "--report", "save.html");

      const pages = { rehearsal: read("rehearsal.html"), move: read("move.html"), save: read("save.html") };
      expect(pages.rehearsal.heading).toBe("A move of a was rehearsed");
      expect(pages.move.heading).toBe(`a moved to ${to}`);
      expect(pages.save.heading).toBe("b was saved into b.tram");
      for (const page of Object.values(pages)) {
        expect(sumOf(page, "The bulk pass")).toEqual({ parts: 16_384, total: 16_384 });
        expect(page.pictures.filter(({ title }) => title.startsWith("Still to send"))).toHaveLength(2);
        expect(page.active).toEqual([]);
        expect(page.text).toContain("completed");
      }
      for (const page of [pages.move, pages.save]) {
        const { parts, total } = sumOf(page, "While the guest stood still");
        expect(parts).toBe(total);
      }
      const captions = pages.move.tables.map(({ caption }) => caption).join("; ");
      for (const words of ["Limits", "Each round", "What was foretold", "What each has carried"])
        expect(captions).toContain(words);
      expect(pages.move.tables.at(-1)?.rows).toContainEqual(["--channels", "2"]);
    }));

  test("tells of a move that failed, and of one that was interrupted", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...MEMORY);
      const failed = await bed.tram("migrate", "a", "tcp:127.0.0.1:1", "--report", "failed.html");
      expect(failed.code).toBe(1);
      const { heading, text } = parsePage(readFileSync(bed.path("failed.html"), "utf8"));
      expect(heading).toBe("The move of a to tcp:127.0.0.1:1 failed");
      expect(text).toContain("E_CONNECT");

      const slow = bed.start([
        "migrate",
        "a",
        "exec:cat >/dev/null",
        "--max-bandwidth",
        "8MiB/s",
        "--report",
        "i.html",
      ]);
      await bed.until(async () => (await bed.moveOf("a")).phase === "active", "it moves", slow);
      expect(existsSync(bed.path("i.html"))).toBe(false);
      slow.kill("SIGINT");
      expect(await slow.code).toBe(130);
      const cancelled = parsePage(readFileSync(bed.path("i.html"), "utf8"));
      expect(cancelled.heading).toBe("The move of a to exec:… was cancelled");
      expect(sumOf(cancelled, "The bulk pass")).toEqual({ parts: 16_384, total: 16_384 });
      await bed.goesOn("a");
    }));

  test("that cannot be written changes nothing: it is refused before, or warned of behind", () =>
    inBed(async (bed) => {
      await bed.walker("a", ...MEMORY);
      const refused = await bed.tram("save", "a", "a.tram", "--report", "no/r.html");
      expect(refused.code).toBe(1);
      expect(refused.stderr).toContain("--report: cannot write no/r.html");
      expect((await bed.tram("save", "a", "a.tram", "--report", "a.tram")).code).toBe(2);
      expect(existsSync(bed.path("a.tram"))).toBe(false);
      await bed.expectDone("quit", "a");
    }));
});

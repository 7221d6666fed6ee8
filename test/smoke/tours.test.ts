// The tours of TOUR.md, as they stand there: a newcomer's path, in an empty folder, one command after the other.
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { inBed, TRAM, whyNoKvm } from "../support/bed.ts";

const text = readFileSync(resolve(import.meta.dir, "../../TOUR.md"), "utf8");
const TOURS = [...text.matchAll(/^## ([^\n]*)\n[^#]*?```sh\n(.*?)```/gms)].map(([, title, body]) => ({ title, body }));
const LIMIT_MS = 300_000;

const noKvm = whyNoKvm();
const noQemu = Bun.which("qemu-system-x86_64") ? null : "qemu-system-x86_64 is not installed";
const whyNot = (body: string): string | null => (body.includes("qemu-system") ? noQemu : noKvm);

describe("a tour", () => {
  test("is there for each of whom the file speaks", () => {
    expect(TOURS).toHaveLength(4);
    expect(text.match(/^## /gm)).toHaveLength(TOURS.length);
  });

  for (const { title, body } of TOURS) {
    const reason = whyNot(body);
    test.skipIf(reason !== null)(
      `${title}${reason ? ` (skipped: ${reason})` : ""}`,
      () =>
        inBed(async (bed) => {
          const env = { ...bed.env, PATH: `${dirname(TRAM)}:${process.env.PATH}` };
          // What it leaves running in the background must not outlive a tour that fails.
          const line = `trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n${body}`;
          const result = await bed.exec(["bash", "-euo", "pipefail", "-c", line], { env });
          expect({ code: result.code, end: result.code ? result.stderr.slice(-2000) : "" }).toEqual({
            code: 0,
            end: "",
          });
          expect(await bed.expectDone("ps", "--json")).toBe("[]\n");
        }),
      LIMIT_MS,
    );
  }
});

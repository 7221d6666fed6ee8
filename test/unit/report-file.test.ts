// --report's file: whole or not there, never in the way of anything else, and without what a command's text may hide.
import { describe, expect, spyOn, test } from "bun:test";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as consoles from "../../src/cli/console.ts";
import { fdPath, openReport, ReportFile } from "../../src/cli/report-file.ts";
import { TramError } from "../../src/errors.ts";
import { errorOf } from "../support/errors.ts";
import { parsePage } from "../support/parsed-page.ts";

const known = { kind: "migrate", vm: "a", where: "tcp:b:1", args: {} } as const;
const done = { outcome: "completed", owner: "target", error: null } as const;

async function inFolder(action: (at: (name: string) => string, folder: string) => Promise<void> | void): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "tram-report-"));
  try {
    await action((name) => join(folder, name), folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

describe("the file of a report", () => {
  test("has no name before it is whole, and is as others' files are then", () =>
    inFolder(async (at, folder) => {
      const file = new ReportFile(at("r.html"), known);
      expect(existsSync(at("r.html"))).toBe(false);
      await file.write(done);
      expect(readdirSync(folder)).toEqual(["r.html"]);
      expect(statSync(at("r.html")).mode & 0o777).toBe(0o666 & ~process.umask());
      expect(parsePage(readFileSync(at("r.html"), "utf8")).heading).toBe("a moved to tcp:b:1");
    }));

  test("leaves the one that was there until then, and its mode behind that", () =>
    inFolder(async (at) => {
      writeFileSync(at("r.html"), "old");
      chmodSync(at("r.html"), 0o640);
      const file = new ReportFile(at("r.html"), known);
      expect(readFileSync(at("r.html"), "utf8")).toBe("old");
      await file.write(done);
      expect(readFileSync(at("r.html"), "utf8")).toStartWith("<!doctype html>");
      expect(statSync(at("r.html")).mode & 0o777).toBe(0o640);
    }));

  test("that cannot be written is a warning with its reason", () =>
    inFolder(async (at, folder) => {
      mkdirSync(at("gone"));
      const file = new ReportFile(at("gone/r.html"), known);
      renameSync(at("gone"), at("moved"));
      const said = spyOn(consoles, "say").mockImplementation(() => undefined);
      try {
        await file.write(done);
        expect(said.mock.calls).toEqual([[expect.stringMatching(/^--report: .*r\.html was not written: .*ENOENT/)]]);
      } finally {
        said.mockRestore();
      }
      expect(readdirSync(join(folder, "moved"))).toEqual([]);
    }));

  test("is refused before anything begins where it cannot be", () =>
    inFolder((at) => {
      symlinkSync("r.html", at("link"));
      writeFileSync(at("r.html"), "");
      const fd = openSync(at("r.html"), "r+");
      const refused = (path: string, more: object) => errorOf(() => openReport(path, { ...known, ...more }));
      expect(refused("-", {})).toMatchObject({ code: "E_USAGE" });
      expect(refused(at("."), {})).toMatchObject({ code: "E_USAGE", details: { found: "a folder" } });
      expect(refused("/dev/null", {})).toMatchObject({ code: "E_USAGE", details: { found: "a device" } });
      expect(refused(at("no/r.html"), {})).toMatchObject({ code: "E_FILE" });
      for (const product of [at("r.html"), at("link"), at("./r.html"), fdPath(fd)])
        expect(refused(at("r.html"), { product }).message).toContain("where the guest goes");
      expect(refused(at("r.html"), { args: { trace: at("link") } }).message).toContain("where --trace goes");
      expect(openReport(undefined, known)).toBeNull();
      closeSync(fd);
    }));

  test("tells of a failure that has no report of its own", () =>
    inFolder(async (at) => {
      const file = new ReportFile(at("r.html"), known);
      await file.fail(new TramError("E_HANDOVER_UNKNOWN", "lost sight of it", { next: "look there" }));
      const { text } = parsePage(readFileSync(at("r.html"), "utf8"));
      for (const words of ["failed", "owner: unconfirmed", "lost sight of it", "look there"])
        expect(text).toContain(words);
    }));

  test("has the options as they were given, and nothing of what a command's text says", () =>
    inFolder(async (at) => {
      const where = "exec:curl -H 'Token: hunter2' https://b";
      const args = {
        _: ["a"],
        vm: "a",
        uri: where,
        json: "/x",
        report: "/y",
        "max-downtime": "5ms",
        maxDowntime: "5ms",
        hold: true,
      };
      const file = new ReportFile(at("r.html"), { ...known, where, args });
      const error = { code: "E_CONSUMER", message: `'${where}' ended`, where, found: where.slice(5) } as const;
      await file.write({ outcome: "failed", owner: "source", error });
      const text = readFileSync(at("r.html"), "utf8");
      expect(text).not.toContain("hunter2");
      const parsed = parsePage(text);
      expect(parsed.heading).toBe("The move of a to exec:… failed");
      expect(parsed.tables.at(-1)?.rows.filter(([name]) => name.startsWith("-"))).toEqual([
        ["--max-downtime", "5ms"],
        ["--hold", "given"],
      ]);
    }));
});

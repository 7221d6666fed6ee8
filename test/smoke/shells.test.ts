// What tram prints for others to read: completions in real shells at a real terminal, and the manual page.
import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { Bed, inBed, whyNoKvm } from "../support/bed.ts";
import { completed, type Shell, whyNoShell } from "../support/shell.ts";

/** What is typed, and what stands there when the tabulator was pressed; "|" is its end. */
const LINES: [typed: string, becomes: string | Partial<Record<Shell, string>>][] = [
  ["tram migr", "tram migrate |"],
  ["tram help resto", "tram help restore |"],
  ["tram completion z", "tram completion zsh |"],
  ["tram run --det", "tram run --detach |"],
  ["tram run --fi", { bash: "tram run --fill |", zsh: "tram run --fill=|", fish: "tram run --fill |" }],
  ["tram run --fill te", "tram run --fill text |"],
  ["tram run --fill=te", "tram run --fill=text |"],
  ["tram save --after pa", "tram save --after pause |"],
  ["tram wait a --for=arr", "tram wait a --for=arrived |"],
  ["tram wait --for arrived a --ti", { bash: "tram wait --for arrived a --timeout |", zsh: "tram wait --for arrived a --timeout=|", fish: "tram wait --for arrived a --timeout |" }],
  ["tram migrate a --compress zst", "tram migrate a --compress zstd|"], // or zstd:
  ["tram set a hold=o", { bash: "tram set a hold=o|", zsh: "tram set a hold=o|", fish: "tram set a hold=o|" }],
  ["tram set a on-timeout=thr", "tram set a on-timeout=throttle |"],
  ["tram set a timeout=1s max-b", "tram set a timeout=1s max-bandwidth=|"],
  ["tram migrate a un", "tram migrate a unix:|"],
  ["tram migrate a unix:some", "tram migrate a unix:some\\ file |"],
  ["tram save a some", "tram save a some\\ file |"],
  ["tram restore file:some", "tram restore file:some\\ file |"],
  ["tram run --serial file:some", "tram run --serial file:some\\ file |"],
  ["tram doctor fol", "tram doctor folder/|"],
  ["tram nothing x", { bash: "tram nothing x|", zsh: "tram nothing x|", fish: "tram nothing x|" }],
]; // biome-ignore format: a table

const GUESTS: [typed: string, becomes: string][] = [
  ["tram status wal", "tram status walker-1 |"],
  ["tram migrate wal", "tram migrate walker-1 |"],
  ["tram check some --against wal", "tram check some --against walker-1 |"],
];

describe.each(["bash", "zsh", "fish"] as const)("completion in %s", (shell) => {
  const noShell = whyNoShell(shell);
  const noGuest = noShell ?? whyNoKvm();

  test.skipIf(noShell !== null)(
    `of commands, options, values and files${noShell ? ` (skipped: ${noShell})` : ""}`,
    () =>
      inBed(async (bed) => {
        writeFileSync(bed.path("some file"), "");
        mkdirSync(bed.path("folder"));
        const typed = LINES.map(([text]) => text);
        const expected = LINES.map(([, becomes]) => (typeof becomes === "string" ? becomes : becomes[shell]));
        expect(await completed(bed, shell, typed)).toEqual(expected as string[]);
      }),
  );

  test.skipIf(noGuest !== null)(`of guests${noGuest ? ` (skipped: ${noGuest})` : ""}`, () =>
    inBed(async (bed) => {
      await bed.walker("walker-1", "--memory", "16M");
      const typed = GUESTS.map(([text]) => text);
      expect(await completed(bed, shell, typed)).toEqual(GUESTS.map(([, becomes]) => becomes));
    }),
  );
});

test("completion for another shell, or none, is refused with those that there are", () =>
  inBed(async (bed) => {
    for (const args of [["tcsh"], []]) {
      const { code, stdout, stderr } = await bed.tram("completion", ...args);
      expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
      expect(stderr).toContain("bash, zsh, fish");
    }
  }));

describe("the manual page", () => {
  test.each([
    ["mandoc", ["-Tlint", "-Wstyle"]],
    ["man", ["--warnings", "-l"]],
  ])("has nothing in it that %s complains of", async (program, options) => {
    if (!Bun.which(program)) return; // nobody is there to read it
    await inBed(async (bed) => {
      writeFileSync(bed.path("tram.1"), await bed.expectDone("help", "--man"));
      const { code, stdout, stderr } = await bed.exec([program, ...options, bed.path("tram.1")]);
      const complaints = program === "mandoc" ? stdout + stderr : stderr;
      expect({ code, complaints }).toEqual({ code: 0, complaints: "" });
    });
  });

  test("is the same for the same date", async () => {
    const bed = new Bed({ SOURCE_DATE_EPOCH: "1700000000" });
    try {
      expect(await bed.expectDone("help", "--man")).toStartWith(".TH TRAM 1 2023-11-14 ");
    } finally {
      await bed.dispose();
    }
  });
});

import { describe, expect, test } from "bun:test";
import { command, optionsOf, positionalsOf } from "../../src/cli/command.ts";
import { COMMANDS } from "../../src/cli/commands.ts";
import { EXITS, manual } from "../../src/cli/man.ts";
import { EXIT } from "../../src/errors.ts";

const move = command({
  name: "move",
  summary: "moves things",
  args: {
    vm: { type: "positional", description: '.a guest\'s "name"', required: true },
    maxTime: { type: "string", description: "it's \\ long, and so long that it does not fit one line of the page's source", valueHint: "TIME", alias: "t" }, // biome-ignore format: one line
  },
  examples: ["tram move a   # 'once'"],
  run: () => 0,
});

test("one command's part of the page", () => {
  const page = manual([move], "2026-01-02");
  expect(page).toStartWith('.TH TRAM 1 2026-01-02 "tram dev" "User Commands"\n.SH NAME\ntram \\- ');
  const from = page.indexOf(".SH COMMANDS");
  expect(page.slice(from, page.indexOf(".SH", from + 1))).toBe(`.SH COMMANDS
.SS "tram move VM [OPTIONS]"
Moves things.
.TP
.I "VM"
\\&.a guest\\(aqs "name"
.TP
.B "\\-\\-max\\-time, \\-t TIME"
it\\(aqs \\e long, and so long that it does not fit one line of the page\\(aqs
source
.PP
Example:
.PP
.EX
  tram move a   # \\(aqonce\\(aq
.EE
`);
});

test("is in ASCII: what else is in a table wants a place in ESCAPES", () => {
  expect(manual(COMMANDS)).toMatch(/^[\n -~]*$/);
});

test("has each exit code that a command can end with", () => {
  expect(EXITS.map(([code]) => code)).toEqual(Object.values(EXIT));
  const page = manual([]);
  for (const [code] of EXITS) expect(page).toContain(`.TP\n.B "${code}"\n`);
});

describe.each(COMMANDS.map((one) => [one.name, one] as const))("%s", (name, one) => {
  const page = manual(COMMANDS);
  const from = page.indexOf(
    `.SS "tram ${name.replaceAll("-", "\\-")}${positionalsOf(one.args).length || optionsOf(one.args).length ? " " : '"'}`,
  );
  const part = page.slice(from, page.slice(from + 1).search(/^\.S[SH]/m) + from + 1);

  test("is there, with its arguments, options and an example", () => {
    expect(from).toBeGreaterThan(0);
    for (const { name: hint } of positionalsOf(one.args)) expect(part).toContain(`\n.I "${hint}"\n`);
    for (const { long } of optionsOf(one.args)) expect(part).toContain(`\n.B "${long.replaceAll("-", "\\-")}`);
    expect(one.examples.length).toBeGreaterThan(0);
    expect(part.split("\n.EX\n")[1].trim().split("\n")).toHaveLength(one.examples.length + 1);
  });
});

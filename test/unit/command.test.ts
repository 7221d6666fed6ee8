import { describe, expect, test } from "bun:test";
import { checkArguments, command, nearest, optionsOf, usage } from "../../src/cli/command.ts";
import { TramError } from "../../src/errors.ts";

const move = command({
  name: "move",
  summary: "moves things",
  args: {
    vm: { type: "positional", description: "whose", required: true },
    uri: { type: "positional", description: "whereto", required: false },
    maxDowntime: { type: "string", description: "how long it may stand still", valueHint: "TIME" },
    json: { type: "string", description: "events", valueHint: "PATH|fd:N" },
    paused: { type: "boolean", description: "stay stopped" },
    quick: { type: "boolean", description: "make haste", alias: "q" },
  },
  examples: ["tram move a tcp:b:1"],
  run: () => 0,
});
const bare = command({ name: "bare", summary: "takes nothing", args: {}, examples: ["tram bare"], run: () => 0 });

function refusal(check: () => unknown): TramError {
  try {
    check();
  } catch (error) {
    expect(error).toBeInstanceOf(TramError);
    return error as TramError;
  }
  throw new Error("was not refused");
}

describe("checkArguments", () => {
  test.each<[string[], string[]]>([
    [["a"], ["a"]],
    [
      ["a", "b"],
      ["a", "b"],
    ],
    [
      ["a", "-"],
      ["a", "-"],
    ],
    [
      ["a", "--paused"],
      ["a", "--paused"],
    ],
    [
      ["--max-downtime", "3s", "a"],
      ["--max-downtime=3s", "a"],
    ],
    [
      ["a", "--max-downtime=3s"],
      ["a", "--max-downtime=3s"],
    ],
    [
      ["a", "--max-downtime="],
      ["a", "--max-downtime="],
    ],
    [
      ["a", "--max-downtime=a=b"],
      ["a", "--max-downtime=a=b"],
    ],
    [
      ["a", "--max-downtime", "-"],
      ["a", "--max-downtime=-"],
    ],
    [
      ["a", "--json"],
      ["a", "--json=-"],
    ],
    [
      ["--json", "a"],
      ["--json=-", "a"],
    ],
    [
      ["a", "--json=out"],
      ["a", "--json=out"],
    ],
    [
      ["-q", "a"],
      ["--quick", "a"],
    ],
  ])("makes %j for citty %j", (raw, checked) => {
    expect(checkArguments(raw, move)).toEqual(checked);
  });

  test.each<[string[], string, string]>([
    [["a", "--max-downtme", "3s"], "tram move has no option --max-downtme", "did you mean --max-downtime?"],
    [["a", "--max"], "has no option --max", "did you mean --max-downtime?"],
    [["a", "--pause=yes"], "has no option --pause", "did you mean --paused?"],
    [["a", "--zebra"], "has no option --zebra", "see tram help move"],
    [["a", "-p"], "has no option -p", "see tram help move"],
    [["a", "-paused"], "has no option -paused", "did you mean --paused?"],
    [["a", "--maxDowntime", "3s"], "has no option --maxDowntime", "did you mean --max-downtime?"],
    [["a", "--no-paused"], "has no option --no-paused", "--paused"],
    [["a", "--vm=b"], "has no option --vm", "see tram help move"],
    [["a", "--"], "has no option --", "see tram help move"],
    [["a", "--paused=yes"], "--paused takes no value", "--paused=yes"],
    [["a", "-q=yes"], "--quick takes no value", "-q=yes"],
    [["a", "-qq"], "has no option -qq", "see tram help move"],
    [["a", "--q"], "has no option --q", "see tram help move"],
    [["a", "--max-downtime"], "--max-downtime needs a value", "how long it may stand still"],
    [["a", "b", "c"], "tram move takes 2 arguments, and was given 3", "see tram help move"],
    [[], "tram move needs VM", "see tram help move"],
    [["--paused"], "tram move needs VM", "whose"],
  ])("refuses %j: %s", (raw, message, hint) => {
    const error = refusal(() => checkArguments(raw, move));
    expect(error.code).toBe("E_USAGE");
    expect(error.message).toContain(message);
    expect(Object.values(error.details).join("\n")).toContain(hint);
  });

  test("says of a command without arguments that it takes none", () => {
    expect(checkArguments([], bare)).toEqual([]);
    expect(refusal(() => checkArguments(["x"], bare)).message).toBe("tram bare takes no arguments, and was given 1");
  });
});

describe("nearest", () => {
  const NAMES = ["migrate", "status", "pause", "ps", "resume", "max-downtime"];
  test.each<[string, string | null]>([
    ["migrate", "migrate"],
    ["migrat", "migrate"],
    ["migarte", "migrate"],
    ["stauts", "status"],
    ["mig", "migrate"],
    ["st", "status"],
    ["pauze", "pause"],
    ["s", "ps"],
    ["max", "max-downtime"],
    ["zebra", null],
    ["xx", null],
    ["downtime", null],
  ])("of %p is %p", (text, name) => {
    expect(nearest(text, NAMES)).toBe(name);
  });

  test("of nothing is nothing", () => {
    expect(nearest("x", [])).toBeNull();
  });
});

describe("usage", () => {
  test("has every option in kebab case, with its description, and the examples", () => {
    expect(optionsOf(move.args).map(({ long }) => long)).toEqual(["--max-downtime", "--json", "--paused", "--quick"]);
    const text = usage(move);
    expect(text).toStartWith("tram move: moves things\n\nUsage: tram move VM [URI] [OPTIONS]\n");
    expect(text).toMatch(/^ {2}--max-downtime TIME +how long it may stand still$/m);
    expect(text).toMatch(/^ {2}--json\[=PATH\|fd:N\] +events$/m);
    expect(text).toMatch(/^ {2}--paused +stay stopped$/m);
    expect(text).toMatch(/^ {2}--quick, -q +make haste$/m);
    expect(text).toEndWith("Examples:\n  tram move a tcp:b:1\n");
  });

  test("of a command without arguments has no empty lists", () => {
    expect(usage(bare)).not.toMatch(/Options|Arguments/);
  });
});

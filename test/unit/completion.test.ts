import { describe, expect, test } from "bun:test";
import { command, optionsOf, positionalsOf } from "../../src/cli/command.ts";
import { COMMANDS } from "../../src/cli/commands.ts";
import { bashCompletion } from "../../src/cli/completion-bash.ts";
import { fishCompletion } from "../../src/cli/completion-fish.ts";
import { placesOf } from "../../src/cli/completion-places.ts";
import { zshCompletion } from "../../src/cli/completion-zsh.ts";

const move = command({
  name: "move",
  summary: "moves things: all of them",
  args: {
    vm: { type: "positional", description: "whose", required: true, names: "guest" },
    uri: { type: "positional", description: "whereto", required: true, names: "uri" },
    how: { type: "string", description: "it's [slow] or fast", values: ["slow", "fast"] },
    log: { type: "string", description: "into", valueHint: "PATH", names: "file", alias: "l" },
    json: { type: "string", description: "events", valueHint: "PATH|fd:N", names: "file" },
    now: { type: "boolean", description: "at once", alias: "n" },
  },
  examples: ["tram move a tcp:b:1"],
  run: () => 0,
});

const ADDRESSES = ["tcp:", "unix:", "file:", "exec:", "fd:", "-"];

/** The lines of a script that are of this command's. */
const linesWith = (script: string, pattern: RegExp): string[] =>
  script
    .split("\n")
    .filter((line) => pattern.test(line))
    .map((line) => line.trim());

test("places are what the tables know", () => {
  const [places, help] = placesOf([move]);
  expect(places.positionals).toEqual([
    { hint: "VM", choice: { names: "guest", words: ["unix:"] }, isMany: false },
    { hint: "URI", choice: { names: "uri", words: ADDRESSES }, isMany: false },
  ]);
  expect(places.options.map(({ spellings, value, hasOptionalValue }) => [spellings, value?.hint, hasOptionalValue])).toEqual([
    [["--how"], "slow|fast", false],
    [["--log", "-l"], "PATH", false],
    [["--json"], "PATH|fd:N", true],
    [["--now", "-n"], undefined, false],
  ]); // biome-ignore format: a table
  expect(help).toMatchObject({ name: "help", positionals: [{ choice: { words: ["move"] } }] });
});

test("bash: one command's arms", () => {
  expect(linesWith(bashCompletion([move]), /^ +("?move)/)).toEqual([
    "move) echo '--how --log -l --json --now -n' ;;",
    "move) options='--how --log -l' ;;",
    `"move --how") _tram_choose words 'slow fast' ;;`,
    `"move --log" | "move -l") _tram_choose file '' ;;`,
    `"move --json") _tram_choose file '' ;;`,
    `"move "0) _tram_choose guest 'unix:' ;;`,
    `"move "1) _tram_choose uri 'tcp: unix: file: exec: fd: -' ;;`,
  ]);
});

test("zsh: one command's specifications", () => {
  const script = zshCompletion([move]);
  expect(linesWith(script, /'move:/)).toEqual(["'move:moves things\\: all of them'"]);
  const from = script.indexOf("        move)");
  expect(script.slice(from, script.indexOf(";;", from))).toBe(`        move)
          _arguments '1:VM: _tram_value guest unix\\:' \\
            '2:URI: _tram_value uri tcp\\: unix\\: file\\: exec\\: fd\\: -' \\
            '--how=[it'\\''s \\[slow\\] or fast]:slow|fast: _tram_value words slow fast' \\
            '(--log -l)'{'--log=','-l'}'[into]:PATH: _tram_value file' \\
            '--json=-[events]::PATH|fd\\:N: _tram_value file' \\
            '(--now -n)'{'--now','-n'}'[at once]' \\
            '(- *)--help[shows all of these]' `);
});

test("fish: one command's lines", () => {
  expect(linesWith(fishCompletion([move]), /move/)).toEqual([
    "case move",
    `complete -c tram -n "test (count (commandline -opc)) -eq 1" -a move -d 'moves things: all of them'`,
    `complete -c tram -n "__tram_at move 0 0" -a 'unix: (__tram_guests) (__tram_paths)'`,
    `complete -c tram -n "__tram_at move 1 1" -a 'tcp: unix: file: exec: fd: - (__tram_paths)'`,
    `complete -c tram -n "__tram_in move" -l how -d 'it\\'s [slow] or fast' -x -a 'slow fast'`,
    `complete -c tram -n "__tram_in move" -l log -s l -d 'into' -r -F -a '(__tram_paths)'`,
    `complete -c tram -n "__tram_in move" -l json -d 'events'`,
    `complete -c tram -n "__tram_in move" -l now -s n -d 'at once'`,
    `complete -c tram -n "__tram_in move" -l help -d "shows all of these"`,
    `complete -c tram -n "__tram_at help 0 0" -a 'move'`,
  ]);
});

describe.each(COMMANDS.map((one) => [one.name, one] as const))("%s", (name, { args }) => {
  const scripts = { bash: bashCompletion(COMMANDS), zsh: zshCompletion(COMMANDS), fish: fishCompletion(COMMANDS) };

  test("is in each script, with all of its options", () => {
    expect(scripts.bash).toMatch(new RegExp(`_tram_choose words '[^']*\\b${name} `));
    for (const { long } of optionsOf(args)) {
      expect(scripts.bash).toMatch(new RegExp(`^ +${name}\\) echo '([^']* )?${long}[ ']`, "m"));
      expect(scripts.fish).toContain(`__tram_in ${name}" -l ${long.slice(2)} `);
      const from = scripts.zsh.indexOf(`        ${name})\n`);
      expect(scripts.zsh.slice(from, scripts.zsh.indexOf(";;", from))).toContain(`'${long}`);
    }
  });

  test("has a kind of word, or values, for each argument that is one of a known few", () => {
    for (const one of positionalsOf(args).filter(({ name: hint }) => /^(VM|URI|FILE|IN|OUT|A|B|SOURCE)$/.test(hint)))
      expect(one.arg.names).toBeDefined();
    for (const { hint, arg } of optionsOf(args)) if (hint === "PATH" || hint === "VM") expect(arg.names).toBeDefined();
  });

  test("has values and short forms that can be typed", () => {
    for (const { arg, short } of optionsOf(args)) {
      for (const word of [...(arg.values ?? []), ...(arg.suggestions ?? [])])
        expect(word).toMatch(/^[a-z-]+[:=]?[a-z]*$/);
      if (short) expect(short).toMatch(/^-[a-z]$/);
    }
    const shorts = optionsOf(args).flatMap(({ short }) => short ?? []);
    expect(new Set(shorts).size).toBe(shorts.length);
  });
});

// tram completion fish: one line for each option and argument, on condition that the command line has come to its place.
import type { TramCommand } from "./command.ts";
import { type Choice, type CommandPlaces, type OptionPlace, placesOf } from "./completion-places.ts";

export function fishCompletion(commands: readonly TramCommand[]): string {
  const places = placesOf(commands);
  const taking = places.flatMap(({ name, options }) => {
    const words = options.filter(takesNext).flatMap(({ spellings }) => spellings);
    return words.length ? [`        case ${name}\n            set taking ${words.join(" ")}`] : [];
  });
  return `# Completes tram's command lines in fish: tram completion fish > ~/.config/fish/completions/tram.fish

# COMMAND FIRST LAST: whether the word to come is that argument of the command, or one of those.
function __tram_at
    set -l tokens (commandline -opc)
    test (count $tokens) -ge 2; and test "$tokens[2]" = $argv[1]; or return 1
    set -e tokens[1..2]
    set -l taking
    switch $argv[1]
${taking.join("\n")}
    end
    set -l given 0
    set -l isValue false
    for token in $tokens
        if test $isValue = true
            set isValue false
        else if contains -- $token $taking
            set isValue true
        else if not string match -q -- '-?*' $token
            set given (math $given + 1)
        end
    end
    test $isValue = false; and test $given -ge $argv[2]; and test $given -le $argv[3]
end

# COMMAND: whether the words to come are the command's.
function __tram_in
    set -l tokens (commandline -opc)
    test (count $tokens) -ge 2; and test "$tokens[2]" = $argv[1]
end

function __tram_guests
    set -l tokens (commandline -opc)
    $tokens[1] ps 2>/dev/null | tail -n +2 | string replace -r ' .*' ''
end

# Files behind file: and unix:.
function __tram_paths
    set -l word (commandline -ct | string replace -r '^--?[^=]*=' '')
    set -l scheme (string match -r '^(?:file|unix):' -- $word); or return
    printf "$scheme%s\\n" (__fish_complete_path (string replace -r '^(?:file|unix):' '' -- $word))
end

complete -c tram -e
complete -c tram -f
${["help", "version"].map((long) => `complete -c tram -n "test (count (commandline -opc)) -eq 1" -l ${long}`).join("\n")}
${places.flatMap(commandLines).join("\n")}
`;
}

const takesNext = ({ value, hasOptionalValue }: OptionPlace): boolean => value !== null && !hasOptionalValue;

function commandLines({ name, summary, options, positionals }: CommandPlaces): string[] {
  const inside = `complete -c tram -n "__tram_in ${name}"`;
  return [
    `complete -c tram -n "test (count (commandline -opc)) -eq 1" -a ${name} -d ${quoted(summary)}`,
    ...positionals.flatMap(({ choice, isMany }, i) =>
      choose(choice).map((given) => `complete -c tram -n "__tram_at ${name} ${i} ${isMany ? 99 : i}" ${given}`),
    ),
    ...options.flatMap(({ spellings, description, value, hasOptionalValue }) => {
      const [long, short] = spellings;
      const spelt = `-l ${long.slice(2)}${short ? ` -s ${short.slice(1)}` : ""} -d ${quoted(description)}`;
      if (value === null || hasOptionalValue) return [`${inside} ${spelt}`];
      const given = choose(value.choice);
      const exclusive = value.choice.names === "file" || value.choice.names === "folder" ? "-r" : "-x";
      return [`${inside} ${spelt} ${[exclusive, ...given].join(" ")}`];
    }),
    `${inside} -l help -d "shows all of these"`,
  ];
}

/** Options of complete: none where nothing is known. */
function choose({ names, words }: Choice): string[] {
  const lists = [...words];
  if (names === "guest") lists.push("(__tram_guests)");
  if (names === "folder") lists.push("(__fish_complete_directories)");
  if (names === "file" || words.some((word) => word === "file:" || word === "unix:")) lists.push("(__tram_paths)");
  const files = names === "file" ? "-F" : null;
  const list = lists.length ? `-a ${quoted(lists.join(" "))}` : null;
  const given = [files, list].filter((one) => one !== null);
  return given.length ? [given.join(" ")] : [];
}

const quoted = (text: string): string => `'${text.replace(/[\\']/g, "\\$&")}'`;

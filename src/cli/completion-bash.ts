// tram completion bash: a function that looks at the line as it was typed, because bash cuts words at ":" and "=".
import type { TramCommand } from "./command.ts";
import { type CommandPlaces, type OptionPlace, type Place, placesOf, quoted } from "./completion-places.ts";

/** Its arms are tables; all else is the same for any command. */
export function bashCompletion(commands: readonly TramCommand[]): string {
  const places = placesOf(commands);
  const names = places.map(({ name }) => name).join(" ");
  return `# Completes tram's command lines in bash 4.2 and later: source <(tram completion bash)

# KIND WORDS: what $cur may become.
_tram_choose() {
  local path=$cur scheme=
  case $cur in file:* | unix:*) scheme=\${cur%%:*}: path=\${cur#*:} ;; esac
  if [[ $scheme || $1 == file ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -P "$scheme" -f -- "$path")
    return
  fi
  case $1 in
    folder)
      compopt -o filenames
      mapfile -t COMPREPLY < <(compgen -d -- "$cur")
      return ;;
    guest) set -- guest "$2 $("\${words[0]/#\\~/$HOME}" ps 2>/dev/null | { read -r _; while read -r name _; do echo "$name"; done; })" ;;
  esac
  mapfile -t COMPREPLY < <(compgen -W "$2" -- "$cur")
  [[ \${#COMPREPLY[@]} == 1 && \${COMPREPLY[0]} == *[:=] ]] && compopt -o nospace
}

# COMMAND: its options.
_tram_options() {
  case $1 in
${arms(places, ({ options }) => options.flatMap(({ spellings }) => spellings))}
  esac
}

# COMMAND OPTION: whether the next word is its value.
_tram_takes() {
  local options=
  case $1 in
${arms(places, ({ options }) => options.filter(takesNext).flatMap(({ spellings }) => spellings), "options=")}
  esac
  [[ " $options " == *" $2 "* ]]
}

# COMMAND OPTION: completes the option's value.
_tram_value() {
  case "$1 $2" in
${places.flatMap(({ name, options }) => options.flatMap((option) => valueArm(name, option))).join("\n")}
  esac
}

# COMMAND PLACE: completes the argument at that place.
_tram_argument() {
  case "$1 $2" in
${places.flatMap(argumentArms).join("\n")}
  esac
}

_tram() {
  local line=\${COMP_LINE:0:COMP_POINT} last=\${COMP_WORDS[COMP_CWORD]} command option= given=0 i cword full cur before
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  cword=$((\${#words[@]} - 1)) full=\${words[cword]} cur=\${words[cword]} command=\${words[1]}
  COMPREPLY=()
  for ((i = 2; i < cword; i++)); do
    if _tram_takes "$command" "\${words[i]}"; then
      ((++i == cword)) && option=\${words[i - 1]}
    elif [[ \${words[i]} != -?* ]]; then
      ((++given))
    fi
  done
  if ((cword == 1)); then
    _tram_choose words ${quoted(`${names} --help --version`)}
  elif [[ $option ]]; then
    _tram_value "$command" "$option"
  elif [[ $cur == --*=* ]]; then
    cur=\${full#*=}
    _tram_value "$command" "\${full%%=*}"
  elif [[ $cur == -* ]]; then
    _tram_choose words "- --help $(_tram_options "$command")"
  else
    _tram_argument "$command" "$given"
  fi
  # Bash replaces what it takes for the last word only.
  [[ $last == [:=] || $full != *"$last" ]] && last=
  before=\${full%"$last"}
  for i in "\${!COMPREPLY[@]}"; do
    COMPREPLY[i]=\${full%"$cur"}\${COMPREPLY[i]}
    COMPREPLY[i]=\${COMPREPLY[i]#"$before"}
  done
}

complete -F _tram tram
`;
}

const takesNext = ({ value, hasOptionalValue }: OptionPlace): boolean => value !== null && !hasOptionalValue;

/** One for each command that has such words. */
function arms(places: readonly CommandPlaces[], wordsOf: (one: CommandPlaces) => string[], does = "echo "): string {
  const having = places.filter((one) => wordsOf(one).length > 0);
  return having.map((one) => `    ${one.name}) ${does}${quoted(wordsOf(one).join(" "))} ;;`).join("\n");
}

function choose({ choice }: Place): string | null {
  const { names, words } = choice;
  return names || words.length ? `_tram_choose ${names ?? "words"} ${quoted(words.join(" "))}` : null;
}

function valueArm(command: string, { spellings, value }: OptionPlace): string[] {
  const chosen = value && choose(value);
  return chosen ? [`    ${spellings.map((one) => `"${command} ${one}"`).join(" | ")}) ${chosen} ;;`] : [];
}

function argumentArms({ name, positionals }: CommandPlaces): string[] {
  return positionals.flatMap((place, i) => {
    const chosen = choose(place);
    return chosen ? [`    "${name} "${place.isMany ? `[${i}-9]` : i}) ${chosen} ;;`] : [];
  });
}

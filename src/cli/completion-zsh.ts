// tram completion zsh: specifications for zsh's own _arguments.
import type { TramCommand } from "./command.ts";
import { type CommandPlaces, type OptionPlace, type Place, placesOf, quoted } from "./completion-places.ts";

export function zshCompletion(commands: readonly TramCommand[]): string {
  const places = placesOf(commands);
  return `#compdef tram
# Completes tram's command lines in zsh: source <(tram completion zsh), behind compinit; or as a file _tram in $fpath.

# KIND WORD...: what a value may be.
_tram_value() {
  local kind=$1 word ret=1
  shift
  if compset -P '(file|unix):'; then
    _files
    return
  fi
  case $kind in
    file) _files && ret=0 ;;
    folder) _files -/ && ret=0 ;;
    guest) compadd -- \${\${\${(f)"$($tram ps 2>/dev/null)"}[2,-1]}%% *} && ret=0 ;;
  esac
  for word; do
    if [[ $word == *[:=] ]]; then
      compadd -S '' -- $word && ret=0
    else
      compadd -- $word && ret=0
    fi
  done
  return ret
}

_tram() {
  local curcontext=$curcontext state line tram=\${~words[1]}
  typeset -A opt_args
  local -a commands=(
${places.map(({ name, summary }) => `    ${quoted(`${name}:${summary.replaceAll(":", "\\:")}`)}`).join("\n")}
  )
  _arguments -C ${quoted("(- *)--help[shows all commands]")} ${quoted("(- *)--version[shows the version]")} ${quoted("1:command:->command")} ${quoted("*::argument:->rest")} && return
  case $state in
    command) _describe command commands ;;
    rest)
      case $words[1] in
${places.map(arm).join("\n")}
      esac ;;
  esac
}

if [[ $funcstack[1] == _tram ]]; then
  _tram "$@"
else
  compdef _tram tram
fi
`;
}

function arm({ name, options, positionals }: CommandPlaces): string {
  const specs = [
    ...positionals.map((place, i) => quoted(`${place.isMany ? "*" : i + 1}${valueSpec(place)}`)),
    ...options.map(optionSpec),
    quoted("(- *)--help[shows all of these]"),
  ];
  return `        ${name})\n          _arguments ${specs.join(" \\\n            ")} ;;`;
}

function optionSpec({ spellings, description, value, hasOptionalValue }: OptionPlace): string {
  const assign = value === null ? "" : hasOptionalValue ? "=-" : "=";
  const [long, short] = spellings;
  const rest = `[${escaped(description)}]${value ? `${hasOptionalValue ? ":" : ""}${valueSpec(value)}` : ""}`;
  // A short form's value is the next word.
  return short
    ? `${quoted(`(${spellings.join(" ")})`)}{${quoted(long + assign)},${quoted(short)}}${quoted(rest)}`
    : quoted(long + assign + rest);
}

/** ":VM: _tram_value guest unix\\:". The space: no further arguments are put before ours. */
function valueSpec({ hint, choice }: Place): string {
  const { names, words } = choice;
  const action = names || words.length ? ` _tram_value ${[names ?? "words", ...words].map(escaped).join(" ")}` : " ";
  return `:${escaped(hint)}:${action}`;
}

const escaped = (text: string): string => text.replace(/[\\:[\]]/g, "\\$&");

// A shell at a terminal of its own, in which somebody types and presses the tabulator.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { type Bed, TRAM } from "./bed.ts";

export type Shell = "bash" | "zsh" | "fish";

const TAB = "\t";
/** Writes the line down as it is. */
const SHOW = "\x14";
const CLEAR = "\x15";
const PROMPT = "ready>";

/** What each reads when it starts, and how it is started. `seen`: a file. */
const START: Record<Shell, (bed: Bed, seen: string) => { argv: string; rc: [path: string, text: string] }> = {
  bash: (bed, seen) => ({
    argv: `bash --noprofile --rcfile ${bed.path("bashrc")} -i`,
    rc: [
      "bashrc",
      `PS1='${PROMPT}'
source <(tram completion bash)
show() { printf '%s|\\n' "$READLINE_LINE" >> ${seen}; }
bind 'set bell-style none'
bind -x '"\\C-t": show'`,
    ],
  }),
  zsh: (bed, seen) => ({
    argv: `env ZDOTDIR=${bed.folder} zsh -d -i`,
    rc: [
      ".zshrc",
      `PS1='${PROMPT}'
autoload -Uz compinit && compinit -u -d ${bed.path("zcompdump")}
source <(tram completion zsh)
show() { print -r -- "$BUFFER|" >> ${seen}; }
zle -N show && bindkey '^T' show && bindkey '^U' kill-whole-line`,
    ],
  }),
  fish: (bed, seen) => ({
    argv: `env XDG_CONFIG_HOME=${bed.path("config")} XDG_DATA_HOME=${bed.path("data")} fish -i`,
    rc: [
      "config/fish/config.fish",
      `function fish_prompt; echo -n '${PROMPT}'; end
set fish_greeting
tram completion fish | source
bind \\ct 'echo (commandline)"|" >> ${seen}'
bind \\cu kill-whole-line`,
    ],
  }),
};

/** What becomes of each of these lines when the tabulator is pressed behind it; "|" stands at the end. */
export async function completed(bed: Bed, shell: Shell, typed: readonly string[]): Promise<string[]> {
  const seen = bed.path(`seen-${shell}`);
  const { argv, rc } = START[shell](bed, seen);
  mkdirSync(dirname(bed.path(rc[0])), { recursive: true });
  writeFileSync(bed.path(rc[0]), rc[1]);
  const lines = () => (existsSync(seen) ? readFileSync(seen, "utf8").split("\n").slice(0, -1) : []);
  const child = Bun.spawn(["script", "-qfec", argv, "/dev/null"], {
    env: { ...bed.env, TERM: "xterm", PATH: `${dirname(TRAM)}:${bed.env.PATH}`, LC_ALL: "C.UTF-8" },
    cwd: bed.folder,
    stdin: "pipe",
    stdout: "pipe",
    stderr: "ignore",
  });
  let screen = "";
  void (async () => {
    for await (const piece of child.stdout) screen += new TextDecoder().decode(piece);
  })();
  try {
    await bed.until(async () => screen.includes(PROMPT), `${shell}'s prompt`);
    for (const [i, text] of typed.entries()) {
      child.stdin.write(`${text}${TAB}${SHOW}${CLEAR}`);
      child.stdin.flush();
      await bed.until(
        async () => lines().length > i,
        `${shell} completes '${text}': ${JSON.stringify(screen.slice(-500))}`,
      );
    }
    return lines();
  } finally {
    child.kill("SIGKILL");
    await child.exited;
  }
}

/** Why a shell's completion cannot be tried here; null if it can. */
export function whyNoShell(shell: Shell): string | null {
  const missing = [shell, "script"].find((program) => !Bun.which(program));
  return missing ? `${missing} is not installed` : null;
}

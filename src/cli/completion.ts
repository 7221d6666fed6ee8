// tram completion: what a shell needs to complete tram's commands, options and their values.
import { EXIT, TramError } from "../errors.ts";
import { command, type TramCommand } from "./command.ts";
import { bashCompletion } from "./completion-bash.ts";
import { fishCompletion } from "./completion-fish.ts";
import { zshCompletion } from "./completion-zsh.ts";
import { print } from "./console.ts";

const SHELLS = ["bash", "zsh", "fish"] as const;
type Shell = (typeof SHELLS)[number];

const SCRIPTS: Record<Shell, (commands: readonly TramCommand[]) => string> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

/** `commands`: all of them, this one too. */
export const completionCommand = (commands: () => readonly TramCommand[]): TramCommand =>
  command({
    name: "completion",
    summary: "prints a script that completes tram's command lines in a shell",
    args: { shell: { type: "positional", description: SHELLS.join(", "), required: true, values: SHELLS } },
    examples: [
      "tram completion bash > ~/.local/share/bash-completion/completions/tram",
      "source <(tram completion bash)          # or so, in ~/.bashrc",
      "source <(tram completion zsh)           # in ~/.zshrc, behind compinit",
      "tram completion fish > ~/.config/fish/completions/tram.fish",
    ],
    run({ shell }) {
      const found = SHELLS.find((one) => one === shell);
      if (!found)
        throw new TramError("E_USAGE", `there is no completion for '${shell}'`, { expected: SHELLS.join(", ") });
      print(SCRIPTS[found](commands()).trimEnd());
      return EXIT.done;
    },
  });

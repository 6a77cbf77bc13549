/** `milkrun completion SHELL`. */
import { Argument, Command } from 'commander';
import { completionScript, SHELLS, type Shell } from '../completion.ts';
import type { Io } from '../io.ts';
import { contextOf, show } from './shared.ts';

export function completionCommand(io: Io): Command {
  return new Command('completion')
    .addArgument(new Argument('<shell>', 'which').choices(SHELLS))
    .description('print what completes commands and options in a shell')
    .addHelpText(
      'after',
      `
Examples:
  source <(milkrun completion bash)      # in ~/.bashrc, to have it in every shell
  source <(milkrun completion zsh)       # in ~/.zshrc, after compinit
  milkrun completion fish | source       # or into ~/.config/fish/completions/milkrun.fish
`,
    )
    .action((shell: Shell, _, command: Command) => {
      const context = contextOf(io, command);
      const script = completionScript(command.parent ?? command, shell);
      if (context.json) show(context, { shell, script });
      else io.out(script);
    });
}

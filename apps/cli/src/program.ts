/** The command line of `milkrun`. */
import { ConfigError } from '@milkrun/config';
import { nearest } from '@milkrun/core';
import { Command, CommanderError } from 'commander';
import { activitiesCommand, runsCommand, tasksCommand, webhooksCommand } from './commands/activities.ts';
import { completionCommand } from './commands/completion.ts';
import { connectionsCommand } from './commands/connections.ts';
import { connectorCommand } from './commands/connector.ts';
import {
  batchesCommand,
  deadLettersCommand,
  doctorCommand,
  haltsCommand,
  holdsCommand,
  shardsCommand,
} from './commands/engine.ts';
import { eventsCommand } from './commands/events.ts';
import { importCommand } from './commands/import.ts';
import { migrateCommand } from './commands/migrate.ts';
import { configCommand, devCommand, devServersCommand, partCommand } from './commands/processes.ts';
import { triggersCommand } from './commands/triggers.ts';
import { CommandFailed, EXIT, EXIT_HELP, type ExitCode } from './exit-codes.ts';
import type { Io } from './io.ts';

const EXAMPLES = `
Examples:
  milkrun dev                                 everything on this machine
  milkrun triggers list --state halted        what is off, and why
  milkrun triggers explain ID                 what happened to one trigger
  milkrun doctor                              is every trigger on its way?
  milkrun events list --trigger ID --json
`;

export function createProgram(io: Io): Command {
  const program = new Command('milkrun')
    .description("Polls other people's APIs in batches, finds what is new, delivers each new thing once per id.")
    .option('--json', 'print JSON for programs')
    .option('--config <file>', 'YAML file with settings; the environment wins over it')
    .addHelpText('after', EXAMPLES + EXIT_HELP);
  program.addCommand(devCommand(io));
  for (const name of ['worker', 'api', 'orchestrator', 'poll-function'] as const)
    program.addCommand(partCommand(io, name));
  program.addCommand(triggersCommand(io));
  program.addCommand(connectionsCommand(io));
  program.addCommand(eventsCommand(io));
  program.addCommand(activitiesCommand(io));
  program.addCommand(runsCommand(io));
  program.addCommand(tasksCommand(io));
  program.addCommand(webhooksCommand(io));
  program.addCommand(shardsCommand(io));
  program.addCommand(batchesCommand(io));
  program.addCommand(holdsCommand(io));
  program.addCommand(haltsCommand(io));
  program.addCommand(deadLettersCommand(io));
  program.addCommand(migrateCommand(io));
  program.addCommand(importCommand(io));
  program.addCommand(connectorCommand(io));
  program.addCommand(doctorCommand(io));
  program.addCommand(configCommand(io));
  program.addCommand(completionCommand(io));
  program.addCommand(devServersCommand(io), { hidden: true });
  configure(program, io, program);
  return program;
}

/** Settings of the whole tree: output through `io`, no exit of its own, `--json` and `--config` after the command too. */
function configure(command: Command, io: Io, program: Command): void {
  command
    .exitOverride()
    .configureOutput({
      writeOut: io.out,
      writeErr: io.err,
      outputError: (text, write) => write(text + hintOf(command, text)),
    })
    .showHelpAfterError('(--help shows what there is)');
  if (command !== program) {
    command.option('--json', 'print JSON for programs').option('--config <file>', 'YAML file with settings');
  }
  for (const sub of command.commands) configure(sub, io, program);
}

/** The nearest word where Commander names none: verbs of a group that is a command itself, and closed lists of values. */
function hintOf(command: Command, text: string): string {
  const [, verb] = /too many arguments .* but got \d+: ([^,\n]+?)[,.]/.exec(text) ?? [];
  const [, value, choices = ''] = /'([^']*)' is invalid.* Allowed choices are (.+)\.$/m.exec(text) ?? [];
  const verbs = command.commands.map((one) => one.name());
  const meant = verb === undefined ? nearest(value ?? '', choices.split(', ')) : nearest(verb, verbs);
  return meant === undefined ? '' : `(Did you mean ${meant}?)\n`;
}

/** Runs one command line, without `node` and the script; never throws for what a user can cause. */
export async function runCli(args: readonly string[], io: Io): Promise<ExitCode> {
  try {
    await createProgram(io).parseAsync([...args], { from: 'user' });
    return EXIT.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    if (error instanceof ConfigError) {
      io.err(`milkrun: ${error.message}\n`);
      return EXIT.refusedConfiguration;
    }
    if (error instanceof CommandFailed) {
      io.err(`milkrun: ${error.message}\n`);
      return error.exitCode;
    }
    io.err(`milkrun: ${(error as Error).message}\n`);
    if (io.env.LOG_LEVEL === 'debug') io.err(`${(error as Error).stack}\n`);
    return EXIT.failure;
  }
}

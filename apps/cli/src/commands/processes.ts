/** `milkrun worker | api | orchestrator | poll-function | dev`, and `config list`. */
import { PROCESSES, shownConfig } from '@milkrun/config';
import { Command, Option } from 'commander';
import { dev } from '../dev/dev.ts';
import { serveServers } from '../dev/servers.ts';
import { CommandFailed } from '../exit-codes.ts';
import type { Io } from '../io.ts';
import { startPart } from '../parts.ts';
import { type PartName, servePart } from '../serve.ts';
import { contextOf, numberFrom, showList } from './shared.ts';

const ABOUT: Readonly<Record<PartName, string>> = {
  worker: 'the engine: claims, polls, delivers; serves the operations API',
  api: 'the control plane and the console',
  orchestrator: 'activities: their schedules, runs and tasks',
  'poll-function': "the local poll function: AWS Lambda's Invoke API over the built-in connectors",
};

export function partCommand(io: Io, name: PartName): Command {
  const part = new Command(name)
    .description(ABOUT[name])
    .option('--no-migrate', 'refuse to start when the database has to be migrated, instead of migrating it');
  if (name === 'worker') {
    const which = 'pipelines this worker runs, instead of PIPELINES; legacy and both need REGISTRYDB_URL';
    part.addOption(new Option('--pipelines <which>', which).choices(['v2', 'legacy', 'both']));
  }
  return part.action(async ({ migrate, pipelines }: { migrate: boolean; pipelines?: string }, command: Command) => {
    const env = pipelines === undefined ? io.env : { ...io.env, PIPELINES: pipelines };
    const context = contextOf({ ...io, env }, command);
    await servePart(context, name, (input) => startPart(name, { ...input, env, migrate }));
  });
}

export function devCommand(io: Io): Command {
  return new Command('dev')
    .description('everything in one terminal, state under MILKRUN_HOME; Ctrl-C drains')
    .option('--fleet <n>', 'synthetic triggers polled every 60 s', numberFrom(0, 1_000_000), 0)
    .option('--once', 'poll everything a single time, print a summary and exit')
    .addHelpText(
      'after',
      `
Examples:
  milkrun dev                    watch releases of a dozen packages
  milkrun dev --fleet 10000      and a synthetic fleet
  milkrun dev --once --json      the last line is the summary; exit code 0 only if nothing is left leased or undelivered
`,
    )
    .action(async ({ fleet, once }: { fleet: number; once?: true }, command: Command) => {
      const code = await dev(contextOf(io, command), { fleet, once: once ?? false });
      if (code !== 0) throw new CommandFailed('not everything was polled and delivered; see the summary', code);
    });
}

/** Used by `dev` alone. */
export function devServersCommand(io: Io): Command {
  return new Command('dev-servers')
    .description('PostgreSQL and Temporal of `milkrun dev`')
    .action(async (_, command: Command) => {
      await serveServers(contextOf(io, command));
    });
}

export function configCommand(io: Io): Command {
  const group = new Command('config').description('settings');
  group
    .command('list')
    .description('settings in force, where each comes from, secrets masked')
    .addOption(new Option('--process <name>', 'as this process reads them').choices([...PROCESSES]).default('dev'))
    .action(async ({ process }: { process: (typeof PROCESSES)[number] }, command: Command) => {
      const context = contextOf(io, command);
      const rows = shownConfig(context.config(process)).map((setting) => ({ ...setting }));
      showList(context, rows, ['name', 'value', 'source']);
    });
  return group;
}

/** `milkrun connections …` */
import { Command, Option } from 'commander';
import { asRecord } from '../http-client.ts';
import type { Io } from '../io.ts';
import { contextOf, forEachId, idPath, jsonOf, limitOption, show, showList } from './shared.ts';

export function connectionsCommand(io: Io): Command {
  const group = new Command('connections').description("users' accounts at providers");

  group
    .command('list')
    .description('connections and whether they work; never their credentials')
    .option('--toolkit <name>', 'only of this toolkit')
    .addOption(limitOption())
    .action(async ({ toolkit, limit }, command: Command) => {
      const context = contextOf(io, command);
      const rows = await context.api().list('/connections', { toolkit, limit });
      showList(context, rows, ['id', 'name', 'toolkit', 'kind', 'status', 'statusReason']);
    });

  group
    .command('get')
    .alias('show')
    .argument('<id>', 'connection id')
    .description('one connection')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().get(idPath('/connections', id)));
    });

  group
    .command('create')
    .description('create a connection; credentials are read from standard input, never from the command line')
    .requiredOption('--toolkit <name>', 'provider')
    .requiredOption('--name <text>', 'name for people')
    .addOption(
      new Option('--kind <kind>', 'kind of credentials')
        .choices(['none', 'api_key', 'basic', 'bearer'])
        .default('none'),
    )
    .addHelpText(
      'after',
      `
Example:
  echo '{"apiKey":"..."}' | milkrun connections create --toolkit acme --name "Acme, sales" --kind api_key
`,
    )
    .action(async (given: { toolkit: string; name: string; kind: string }, command: Command) => {
      const context = contextOf(io, command);
      const { toolkit, name, kind: type } = given;
      const rest = type === 'none' ? {} : asRecord(await jsonOf(io, 'standard input', '-'));
      show(
        context,
        await context.api().send('POST', '/connections', { toolkit, name, credentials: { ...rest, type } }),
      );
    });

  group
    .command('delete')
    .argument('<ids...>', 'connection ids')
    .description('delete connections and their credentials')
    .action(async (ids: string[], _, command: Command) => {
      const context = contextOf(io, command);
      await forEachId(context, ids, 'deleted', (id) => context.api().send('DELETE', idPath('/connections', id)));
    });

  return group;
}

/** `milkrun events …` */
import { Command } from 'commander';
import type { Io } from '../io.ts';
import { contextOf, idPath, limitOption, show, showList } from './shared.ts';

export function eventsCommand(io: Io): Command {
  const group = new Command('events').description('what was found');

  group
    .command('list')
    .description('stored events')
    .option('--trigger <id>', 'only of this trigger')
    .addOption(limitOption())
    .action(async ({ trigger, limit }, command: Command) => {
      const context = contextOf(io, command);
      const rows = await context.api().list('/events', { triggerId: trigger, limit });
      showList(context, rows, ['id', 'triggerId', 'event.time', 'event.type', 'event.data']);
    });

  group
    .command('get')
    .alias('show')
    .argument('<id>', 'event id, evt_…')
    .description('one event, as a CloudEvent')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().get(idPath('/events', id)));
    });

  return group;
}

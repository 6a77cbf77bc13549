/** `milkrun shards | batches | doctor`: what the engine says of itself. */
import { Command } from 'commander';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import { asRecord } from '../http-client.ts';
import type { Io } from '../io.ts';
import type { Row } from '../output.ts';
import { contextOf, limitOption, showList } from './shared.ts';

const itemsOf = (answer: unknown): Row[] => {
  if (Array.isArray(answer)) return answer as Row[];
  const { items } = asRecord(answer);
  if (!Array.isArray(items)) throw new CommandFailed('the engine answered without a list of items');
  return items as Row[];
};

export function shardsCommand(io: Io): Command {
  return new Command('shards')
    .description('timer shards: what they serve, when they wake, what is due')
    .action(async (_, command: Command) => {
      const context = contextOf(io, command);
      showList(context, itemsOf(await context.engine().get('/shards')), [
        'timerShard',
        'storageShards',
        'wakeAt',
        'due',
        'backoffUntil',
      ]);
    });
}

export function batchesCommand(io: Io): Command {
  return new Command('batches')
    .description('open batches, and with --ended the last ones')
    .option('--ended', 'ended ones too')
    .addOption(limitOption())
    .action(async ({ ended, limit }, command: Command) => {
      const context = contextOf(io, command);
      const rows = itemsOf(await context.engine().get('/batches', { ended, limit }));
      showList(context, rows, ['batchId', 'step', 'hop', 'entries', 'open', 'startedAt', 'expiresAt', 'endedAt']);
    });
}

export function doctorCommand(io: Io): Command {
  return new Command('doctor')
    .description('checks that every polled trigger is on its way; exit code 4 when one is not')
    .action(async (_, command: Command) => {
      const context = contextOf(io, command);
      const report = asRecord(await context.engine().get('/doctor'));
      const violations = itemsOf(report.violations ?? []);
      const [held, open] = [
        violations.filter(({ held }) => held === true),
        violations.filter(({ held }) => held !== true),
      ];
      if (context.json) showList(context, [report], []);
      else {
        io.out(
          `${report.checked ?? 0} rows checked, ${report.polled ?? 0} triggers polled, ${open.length} violations, ${held.length} on hold\n`,
        );
        if (violations.length > 0) showList(context, violations, ['kind', 'triggerId', 'timerShard', 'held', 'detail']);
      }
      if (open.length > 0) throw new CommandFailed(`doctor found ${open.length} violations`, EXIT.violations);
    });
}

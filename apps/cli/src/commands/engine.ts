/** `milkrun shards | batches | doctor | holds | halts | dead-letters`: what the engine says of itself, and its verbs. */
import { parseDuration } from '@milkrun/config';
import { Command, InvalidArgumentError, Option } from 'commander';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import { asRecord } from '../http-client.ts';
import type { Io } from '../io.ts';
import type { Row } from '../output.ts';
import { contextOf, idPath, limitOption, numberFrom, show, showList } from './shared.ts';

const itemsOf = (answer: unknown): Row[] => {
  if (Array.isArray(answer)) return answer as Row[];
  const { items } = asRecord(answer);
  if (!Array.isArray(items)) throw new CommandFailed('the engine answered without a list of items');
  return items as Row[];
};

export function shardsCommand(io: Io): Command {
  const group = new Command('shards').description('timer shards: what they serve, when they wake, what is due');
  group.action(async (_, command: Command) => {
    const context = contextOf(io, command);
    showList(context, itemsOf(await context.engine().get('/shards')), [
      'timerShard',
      'storageShards',
      'wakeAt',
      'due',
      'backoffUntil',
    ]);
  });
  group
    .command('set')
    .argument('<count>', 'how many from now on, 1 to 64', numberFrom(1, 64))
    .description('divide the triggers among so many timer shards, while they run; no poll is missed or made twice')
    .action(async (count: number, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.engine().send('POST', '/shards', { count }));
    });
  return group;
}

export function batchesCommand(io: Io): Command {
  const group = new Command('batches')
    .description('open batches, and with --ended the last ones')
    .option('--ended', 'ended ones too')
    .addOption(limitOption())
    .action(async ({ ended, limit }, command: Command) => {
      const context = contextOf(io, command);
      const rows = itemsOf(await context.engine().get('/batches', { ended, limit }));
      showList(context, rows, ['batchId', 'step', 'hop', 'entries', 'open', 'startedAt', 'expiresAt', 'endedAt']);
    });
  group
    .command('end')
    .argument('<id>', 'batch id')
    .description('end a batch: what it has not committed is due again')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.engine().send('POST', idPath('/batches', id, 'end'), {}));
    });
  return group;
}

const NAMED = ['kind', 'triggerId', 'timerShard', 'held', 'detail', 'done'];

export function doctorCommand(io: Io): Command {
  return new Command('doctor')
    .description('checks that every polled trigger is on its way; exit code 4 when one is not')
    .option('--repair', 'mend what can be mended now, instead of at the next check')
    .addHelpText(
      'after',
      `
Without --repair it only looks; the workers check and repair every LIVENESS_EVERY by themselves.
Triggers without a good poll for three intervals (stale) and without an event for long (silent) are listed, and are no violations.
`,
    )
    .action(async ({ repair }: { repair?: true }, command: Command) => {
      const context = contextOf(io, command);
      const engine = context.engine();
      const report = asRecord(repair === true ? await engine.send('POST', '/doctor', {}) : await engine.get('/doctor'));
      const violations = itemsOf(report.violations ?? []);
      const held = violations.filter((one) => one.held === true).length;
      const open = violations.length - held;
      if (context.json) showList(context, [report], []);
      else {
        io.out(
          `${report.checked ?? 0} rows checked, ${report.polled ?? 0} triggers polled, ${open} violations, ${held} on hold, ` +
            `${report.stale ?? 0} stale, ${report.silent ?? 0} silent\n`,
        );
        const listed = [violations, itemsOf(report.staleTriggers ?? []), itemsOf(report.silentTriggers ?? [])].flat();
        if (listed.length > 0) showList(context, listed, NAMED);
      }
      if (open > 0) throw new CommandFailed(`doctor found ${open} violations`, EXIT.violations);
    });
}

interface Target {
  toolkit?: string;
  tenant?: string;
  all?: true;
}

const toolkitOption = (): Option => new Option('--toolkit <name>', 'of this toolkit');
const tenantOption = (): Option => new Option('--tenant <id>', 'of this tenant');

function targetOf({ toolkit, tenant, all }: Target): Record<string, unknown> {
  const given = { toolkit, tenantId: tenant, all };
  const named = Object.entries(given).filter(([, value]) => value !== undefined);
  if (named.length !== 1) throw new CommandFailed('name one of --toolkit, --tenant and --all', EXIT.usage);
  return Object.fromEntries(named);
}

function secondsOf(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined || ms < 1000) throw new InvalidArgumentError('It must be a duration such as 30m or 2h.');
  return Math.ceil(ms / 1000);
}

export function holdsCommand(io: Io): Command {
  const group = new Command('holds').description(
    'what is not polled at present, for all workers: maintenance, limits, sources that are down',
  );
  group
    .command('list')
    .description('holds in force')
    .action(async (_, command: Command) => {
      const context = contextOf(io, command);
      const columns = ['reason', 'toolkit', 'tenantId', 'connectionId', 'perMinute', 'since', 'until'];
      showList(context, itemsOf(await context.engine().get('/holds')), columns);
    });
  group
    .command('set')
    .description('maintenance: poll nothing of it for a while, or no more than so many a minute')
    .addOption(toolkitOption())
    .addOption(tenantOption())
    .option('--all', 'everything')
    .requiredOption(
      '--for <duration>',
      'such as 30m or 2h; a limit by --per-minute lasts until it is cleared',
      secondsOf,
    )
    .addOption(new Option('--per-minute <n>', 'let so many polls a minute go on').argParser(numberFrom(1, 1_000_000)))
    .action(async ({ for: seconds, perMinute, ...target }, command: Command) => {
      const context = contextOf(io, command);
      const body = { ...targetOf(target), seconds, ...(perMinute === undefined ? {} : { perMinute }) };
      show(context, await context.engine().send('POST', '/holds', body));
    });
  group
    .command('clear')
    .description('end a hold before its time; its triggers are due at once')
    .addOption(toolkitOption())
    .addOption(tenantOption())
    .option('--all', 'the one on everything')
    .action(async (target: Target, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.engine().send('POST', '/holds/clear', targetOf(target)));
    });
  return group;
}

export function haltsCommand(io: Io): Command {
  const group = new Command('halts').description('triggers the engine has stopped');
  group
    .command('list')
    .description('how many are halted, by code')
    .action(async (_, command: Command) => {
      const context = contextOf(io, command);
      const { halted } = asRecord(await context.engine().get('/fleet'));
      const rows = Object.entries(asRecord(halted ?? {})).map(([code, triggers]) => ({ code, triggers }) as Row);
      showList(context, rows, ['code', 'triggers']);
    });
  group
    .command('clear')
    .argument('<code>', 'such as receiver_gone')
    .description('lift every halt of a code; they are polled again within five minutes')
    .addOption(toolkitOption())
    .addOption(tenantOption())
    .action(async (code: string, { toolkit, tenant }: Target, command: Command) => {
      const context = contextOf(io, command);
      const scope = {
        ...(toolkit === undefined ? {} : { toolkit }),
        ...(tenant === undefined ? {} : { tenantId: tenant }),
      };
      show(context, await context.engine().send('POST', '/halts/clear', { code, ...scope }));
    });
  return group;
}

export function deadLettersCommand(io: Io): Command {
  const group = new Command('dead-letters').description('what nobody could use, and why');
  group
    .command('list')
    .description('the last ones')
    .addOption(limitOption())
    .action(async ({ limit }: { limit: number }, command: Command) => {
      const context = contextOf(io, command);
      const rows = itemsOf(await context.engine().get('/dead-letters')).slice(0, limit);
      showList(context, rows, ['id', 'at', 'triggerId', 'stage', 'code', 'reason']);
    });
  group
    .command('get')
    .alias('show')
    .argument('<id>', 'its number')
    .description('one with its bytes, as they came')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      const { raw, ...letter } = asRecord(await context.engine().get(idPath('/dead-letters', id)));
      show(
        context,
        context.json ? { ...letter, raw } : { ...letter, raw: Buffer.from(String(raw), 'base64').toString('utf8') },
      );
    });
  return group;
}

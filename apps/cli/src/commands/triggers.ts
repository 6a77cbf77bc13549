/** `milkrun triggers …` */

import { parseDuration } from '@milkrun/config';
import { ConfigInvalid, type Connector } from '@milkrun/connectors';
import { Command, Option } from 'commander';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import { asRecord } from '../http-client.ts';
import type { Io } from '../io.ts';
import type { Row } from '../output.ts';
import { knownConnectors } from './own-connectors.ts';
import { contextOf, forEachId, idPath, jsonOf, limitOption, numberFrom, show, showList, timeOf } from './shared.ts';

const COLUMNS = ['id', 'name', 'slug', 'intervalSeconds', 'status.state', 'status.code', 'lastEventAt'];

interface PollNow {
  all?: true;
  toolkit?: string;
  tenant?: string;
}

interface Create {
  toolkit: string;
  slug: string;
  connection: string;
  interval?: number;
  settings: string;
  name?: string;
  since?: string;
  key?: string;
  disabled?: true;
}

export function triggersCommand(io: Io): Command {
  const group = new Command('triggers').description('what is polled, for whom, and why not');

  group
    .command('list')
    .description('triggers, newest state of each')
    .option('--toolkit <name>', 'only of this toolkit')
    .option('--connection <id>', 'only of this connection')
    .addOption(new Option('--state <state>', 'only in this state').choices(['active', 'disabled', 'halted']))
    .addOption(limitOption())
    .action(async ({ toolkit, connection, state, limit }, command: Command) => {
      const context = contextOf(io, command);
      const query = { toolkit, connectionId: connection, state, limit };
      showList(context, await context.api().list('/triggers', query), COLUMNS);
    });

  group
    .command('get')
    .alias('show')
    .argument('<id>', 'trigger id')
    .description('one trigger; when it is off, why, who turned it off, and what ends that')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      const answer = asRecord(await context.api().get(idPath('/triggers', id)));
      if (context.json) return show(context, answer);
      const { moves, ...trigger } = answer;
      show(context, trigger);
      for (const { to, at, by, migration } of (moves ?? []) as Row[]) {
        show(context, { moved: `to ${to} at ${at}, by ${by}, ${migration ?? 'not by a migration'}` });
      }
    });

  group
    .command('create')
    .description('create a trigger, or with --key update the one of that deduplication key')
    .requiredOption('--toolkit <name>', 'provider, such as npm')
    .requiredOption('--slug <name>', 'connector, such as npm-package')
    .requiredOption('--connection <id>', 'connection to poll with')
    .option('--settings <json>', "the connector's configuration, or - for standard input", '{}')
    .option(
      '--interval <seconds>',
      "seconds between polls, or a duration such as 5m; default: the connector's",
      intervalOf,
    )
    .option('--name <text>', 'name for people')
    .option('--since <time>', 'also find what the provider dates from here on', timeOf)
    .option('--key <text>', 'deduplication key')
    .option('--disabled', 'do not poll yet')
    .addHelpText(
      'after',
      `
Example:
  milkrun triggers create --toolkit npm --slug npm-package --connection ID \\
    --settings '{"package":"vite"}' --interval 5m --since 2026-11-01
`,
    )
    .action(async (given: Create, command: Command) => {
      const context = contextOf(io, command);
      const config = await jsonOf(io, '--settings', given.settings);
      const connectors = await knownConnectors(context);
      const connector = connectors.find(({ toolkit, slug }) => toolkit === given.toolkit && slug === given.slug);
      const interval = given.interval ?? connector?.defaultIntervalSeconds;
      if (interval === undefined)
        throw new CommandFailed(
          '--interval is needed: the connector is neither a built-in one nor in CONNECTORS',
          EXIT.usage,
        );
      const body = {
        toolkit: given.toolkit,
        slug: given.slug,
        connectionId: given.connection,
        config,
        intervalSeconds: interval,
        ...(connector === undefined ? {} : { version: connector.version, poll: policyOf(connector, config) }),
        ...(given.name === undefined ? {} : { name: given.name }),
        ...(given.since === undefined ? {} : { since: given.since }),
        ...(given.key === undefined ? {} : { deduplicationKey: given.key }),
        ...(given.disabled === undefined ? {} : { enabled: false }),
      };
      show(context, await context.api().send('POST', '/triggers', body));
    });

  group
    .command('enable')
    .argument('<ids...>', 'trigger ids')
    .description('poll again, from where it stopped; also lifts a halt')
    .option('--from-now', 'forget the time in between: prime again')
    .action(async (ids: string[], { fromNow }: { fromNow?: true }, command: Command) => {
      const context = contextOf(io, command);
      const body = fromNow === true ? { resume: 'now' } : {};
      await forEachId(context, ids, 'enabled', (id) =>
        context.api().send('POST', idPath('/triggers', id, 'enable'), body),
      );
    });

  group
    .command('disable')
    .argument('<ids...>', 'trigger ids')
    .description('stop polling')
    .option('--reason <text>', 'shown to whoever asks why it is off')
    .action(async (ids: string[], { reason }: { reason?: string }, command: Command) => {
      const context = contextOf(io, command);
      const body = reason === undefined ? {} : { reason };
      await forEachId(context, ids, 'disabled', (id) =>
        context.api().send('POST', idPath('/triggers', id, 'disable'), body),
      );
    });

  group
    .command('delete')
    .argument('<ids...>', 'trigger ids')
    .description('delete triggers; their stored events stay')
    .action(async (ids: string[], _, command: Command) => {
      const context = contextOf(io, command);
      await forEachId(context, ids, 'deleted', (id) => context.api().send('DELETE', idPath('/triggers', id)));
    });

  group
    .command('poll-now')
    .argument('[ids...]', 'trigger ids')
    .description('poll at once instead of at the next slot')
    .option('--all', 'every polled trigger')
    .option('--toolkit <name>', 'with --all: of this toolkit')
    .option('--tenant <id>', 'with --all: of this tenant')
    .action(async (ids: string[], { all, toolkit, tenant }: PollNow, command: Command) => {
      const context = contextOf(io, command);
      if ((all === true) === ids.length > 0) {
        throw new CommandFailed('triggers poll-now takes trigger ids, or --all', EXIT.usage);
      }
      const scope = {
        ...(toolkit === undefined ? {} : { toolkit }),
        ...(tenant === undefined ? {} : { tenantId: tenant }),
      };
      if (all !== true && Object.keys(scope).length > 0)
        throw new CommandFailed('--toolkit and --tenant go with --all', EXIT.usage);
      if (all === true) show(context, await context.engine().send('POST', '/poll-all', scope));
      else
        await forEachId(context, ids, 'due now', (id) =>
          context.api().send('POST', idPath('/triggers', id, 'poll-now'), {}),
        );
    });

  group
    .command('rewind')
    .argument('<id>', 'trigger id')
    .description('poll again from an earlier point: finds events never stored (replay sends stored ones again)')
    .addOption(new Option('--since <time>', 'prime again from this time').argParser(timeOf).conflicts('cursor'))
    .option('--cursor <json>', 'go on from this cursor, or - for standard input')
    .action(async (id: string, given: { since?: string; cursor?: string }, command: Command) => {
      const context = contextOf(io, command);
      if (given.since === undefined && given.cursor === undefined) {
        throw new CommandFailed('triggers rewind takes --since or --cursor', EXIT.usage);
      }
      const body =
        given.since === undefined
          ? { cursor: await jsonOf(io, '--cursor', given.cursor as string) }
          : { since: given.since };
      show(context, await context.api().send('POST', idPath('/triggers', id, 'rewind'), body));
    });

  group
    .command('explain')
    .argument('<id>', 'trigger id')
    .description('what happened to a trigger, poll by poll, and what happens next')
    .addOption(new Option('--since <time>', 'from here on; default: a day before --until').argParser(timeOf))
    .addOption(new Option('--until <time>', 'up to here; default: now').argParser(timeOf))
    .addOption(new Option('--limit <n>', 'lines at the most').argParser(numberFrom(1, 500)).default(100))
    .action(async (id: string, { since, until, limit }: Explain, command: Command) => {
      const context = contextOf(io, command);
      const answer = asRecord(await context.api().get(idPath('/triggers', id, 'explain'), { since, until, limit }));
      if (context.json || !Array.isArray(answer.timeline)) return show(context, answer);
      const { timeline, trigger: _, waits: __, ...rest } = answer;
      show(context, rest);
      io.out('\n');
      showList(context, (timeline as Row[]).map(lineOf), ['at', 'what', 'code', 'dueAt', 'detail', 'nextAt']);
    });

  return group;
}

interface Explain {
  since?: string;
  until?: string;
  limit: number;
}

/** A line of the timeline for people. */
function lineOf(line: Row): Row {
  if (line.what === 'quiet')
    return { ...line, at: line.from, detail: `${line.polls} empty polls from ${line.from} to ${line.to}` };
  const skipped = (Array.isArray(line.skipped) ? (line.skipped as Row[]) : []).map(
    ({ reason, since, until }) => `skipped: ${reason} from ${since} to ${until ?? 'now'}`,
  );
  const parts = [
    `found ${line.found}, deduplicated ${line.deduplicated}, delivered ${line.delivered}`,
    ...(line.claimedBy == null ? [] : [`claimed by ${line.claimedBy} at ${line.claimedAt}`]),
    ...skipped,
    ...(line.reason ? [String(line.reason)] : []),
  ];
  return { ...line, detail: parts.join('; ') };
}

/** How the connector's items are told apart, which the engine has to know. */
function policyOf(connector: Connector, config: unknown): unknown {
  try {
    return connector.policyOf(config);
  } catch (error) {
    if (!(error instanceof ConfigInvalid)) throw error;
    throw new CommandFailed(`--settings: ${error.message}`, EXIT.usage, { cause: error });
  }
}

function intervalOf(text: string): number {
  const ms = parseDuration(text);
  return ms === undefined ? numberFrom(1, 31_536_000)(text) : numberFrom(1, 31_536_000)(String(ms / 1000));
}

/** `milkrun activities …`, `milkrun runs …` and `milkrun tasks …` */
import { readdirSync, readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { Command, Option } from 'commander';
import { parse } from 'yaml';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import { asRecord } from '../http-client.ts';
import type { Io } from '../io.ts';
import type { Row } from '../output.ts';
import { contextOf, forEachId, idPath, jsonOf, limitOption, numberFrom, show, showList, timeOf } from './shared.ts';

const BASE = '/activity-definitions';

export function activitiesCommand(io: Io): Command {
  const group = new Command('activities').description('activities: schedules and events that become tasks');
  group
    .command('list')
    .description('list activities')
    .addOption(limitOption())
    .action(async ({ limit }: { limit: number }, command: Command) => {
      const context = contextOf(io, command);
      const rows = await context.api().list(BASE, { limit });
      showList(context, rows, ['id', 'slug', 'trigger_type', 'enabled', 'status', 'version']);
    });
  group
    .command('show')
    .alias('get')
    .argument('<name>', 'id or slug')
    .description('one activity with its definition')
    .action(async (name: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().get(idPath(BASE, name)));
    });
  group
    .command('apply')
    .argument('<folder>', 'folder of .yaml, .json and .md files (front matter), or one file')
    .description('bring the definitions of a folder into step, by slug')
    .option('--prune', 'delete activities that came from files and are not among these')
    .option('--dry-run', 'say what would be done')
    .addHelpText('after', '\nExample:\n  milkrun activities apply examples/activities --dry-run\n')
    .action(async (folder: string, given: { prune?: true; dryRun?: true }, command: Command) => {
      const context = contextOf(io, command);
      const definitions = definitionsIn(folder);
      const body = { definitions, prune: given.prune ?? false, dry_run: given.dryRun ?? false };
      const { results } = asRecord(await context.api().send('POST', `${BASE}/apply`, body)) as { results: Row[] };
      const rows = results.map(({ errors, ...row }) => ({
        ...row,
        why: (errors as { path: string; message: string }[])
          .map(({ path, message }) => `${path}: ${message}`)
          .join('; '),
      }));
      showList(context, context.json ? results : rows, ['result', 'slug', 'path', 'why']);
      const refused = results.filter(({ result }) => result === 'refused').length;
      if (refused > 0) throw new CommandFailed(`${refused} of ${results.length} were refused`, EXIT.failure);
    });
  for (const verb of ['enable', 'disable', 'reset'] as const) {
    const command = group
      .command(verb)
      .argument('<names...>', 'ids or slugs')
      .description(verb === 'reset' ? 'lift a trip' : `${verb} activities`)
      .option('--reason <text>', 'for the audit trail');
    if (verb === 'enable') command.option('--recover', 'make up for the time it was disabled');
    command.action(async (names: string[], { reason, recover }: { reason?: string; recover?: true }, at: Command) => {
      const context = contextOf(io, at);
      const body = { ...(reason === undefined ? {} : { reason }), ...(recover === undefined ? {} : { recover }) };
      await forEachId(context, names, verb === 'reset' ? 'reset' : `${verb}d`, (name) =>
        context.api().send('POST', idPath(BASE, name, verb), body),
      );
    });
  }
  group
    .command('delete')
    .argument('<names...>', 'ids or slugs')
    .description('delete activities; their runs stay')
    .action(async (names: string[], _, command: Command) => {
      const context = contextOf(io, command);
      await forEachId(context, names, 'deleted', (name) => context.api().send('DELETE', idPath(BASE, name)));
    });
  group
    .command('trigger')
    .argument('<name>', 'id or slug')
    .description('start one run now')
    .option('--data <json>', 'data of the event, or - for standard input', '{}')
    .option('--key <text>', 'the same key starts the same run')
    .option('--force', 'also while it is disabled')
    .option('--dry-run', 'plan every task and send none')
    .action(
      async (name: string, given: { data: string; key?: string; force?: true; dryRun?: true }, command: Command) => {
        const context = contextOf(io, command);
        const body = {
          data: asRecord(await jsonOf(io, '--data', given.data)),
          ...(given.key === undefined ? {} : { key: given.key }),
          force: given.force ?? false,
          dry_run: given.dryRun ?? false,
        };
        show(context, await context.api().send('POST', idPath(BASE, name, 'trigger'), body));
      },
    );
  group
    .command('ticks')
    .argument('<name>', 'id or slug')
    .description('the next ticks, with clock changes')
    .option('--count <n>', 'how many', numberFrom(1, 100), 20)
    .action(async (name: string, { count }: { count: number }, command: Command) => {
      const context = contextOf(io, command);
      const { items } = asRecord(await context.api().get(`${idPath(BASE, name, 'ticks')}?count=${count}`)) as {
        items: Row[];
      };
      showList(context, items, ['at', 'local', 'flag', 'runs']);
    });
  group
    .command('backfill')
    .argument('<name>', 'id or slug')
    .description('run ticks of the past that have no run')
    .requiredOption('--from <time>', 'first instant', timeOf)
    .requiredOption('--to <time>', 'last instant', timeOf)
    .option('--max <n>', 'how many at most', numberFrom(1, 1_000), 100)
    .option('--dry-run', 'say which')
    .action(async (name: string, given: { from: string; to: string; max: number; dryRun?: true }, command: Command) => {
      const context = contextOf(io, command);
      const { from, to, max } = given;
      show(
        context,
        await context
          .api()
          .send('POST', idPath(BASE, name, 'backfill'), { from, to, max, dry_run: given.dryRun ?? false }),
      );
    });
  group
    .command('publish')
    .argument('<json>', 'a CloudEvents record, or - for standard input')
    .description('publish an event')
    .action(async (text: string, _, command: Command) => {
      const context = contextOf(io, command);
      const event = asRecord(await jsonOf(io, 'the event', text));
      show(context, await context.api().send('POST', '/activity-events', { events: [event] }));
    });
  group
    .command('events')
    .description('stored events, newest first')
    .addOption(limitOption())
    .option('--type <type>', 'of one type')
    .action(async ({ limit, type }: { limit: number; type?: string }, command: Command) => {
      const context = contextOf(io, command);
      const rows = await context.api().list('/activity-events', { limit, ...(type === undefined ? {} : { type }) });
      showList(context, rows, ['key', 'id', 'type', 'origin', 'received_at']);
    });
  group
    .command('event')
    .argument('<key>', 'key of an event')
    .description('one event with what each activity made of it, and its runs')
    .action(async (key: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().get(idPath('/activity-events', key)));
    });
  group
    .command('replay')
    .argument('<name>', 'id or slug')
    .description('run stored events again; shows them, unless --yes is given')
    .requiredOption('--from <time>', 'first instant, by time of receipt', timeOf)
    .option('--to <time>', 'before this instant', timeOf)
    .option('--type <types...>', 'of these types')
    .option('--key <keys...>', 'these events alone')
    .option('--where <cel>', 'a condition over event')
    .option('--again', 'also events that have a run')
    .option('--max <n>', 'how many at most', numberFrom(1, 1_000), 100)
    .option('--yes', 'do it')
    .action(async (name: string, given: ReplayOptions, command: Command) => {
      const context = contextOf(io, command);
      const { from, to, type, key, where, again, max, yes } = given;
      const body = {
        from,
        max,
        only_missing: again === undefined,
        dry_run: yes === undefined,
        ...(to === undefined ? {} : { to }),
        ...(type === undefined ? {} : { types: type }),
        ...(key === undefined ? {} : { keys: key }),
        ...(where === undefined ? {} : { where }),
      };
      show(context, await context.api().send('POST', idPath(BASE, name, 'replay'), body));
    });
  for (const verb of ['retry', 'discard'] as const) {
    group
      .command(`${verb}-all`)
      .description(`${verb} dead letters by stage and time; shows them, unless --yes is given`)
      .option('--stage <stage>', 'such as schema')
      .option('--from <time>', 'by when they came last', timeOf)
      .option('--to <time>', 'before this instant', timeOf)
      .option('--max <n>', 'how many at most', numberFrom(1, 1_000), 100)
      .option('--yes', 'do it')
      .action(async ({ yes, ...filter }: { yes?: true; max: number }, command: Command) => {
        const context = contextOf(io, command);
        const body = { ...filter, dry_run: yes === undefined };
        show(context, await context.api().send('POST', `/activity-dead-letters/${verb}`, body));
      });
  }
  group.addCommand(eventTypesCommand(io));
  group
    .command('dead-letters')
    .description('events that could not be delivered')
    .addOption(limitOption())
    .action(async ({ limit }: { limit: number }, command: Command) => {
      const context = contextOf(io, command);
      const rows = await context.api().list('/activity-dead-letters', { limit });
      showList(context, rows, ['id', 'stage', 'tries', 'at', 'error']);
    });
  for (const [verb, done] of [
    ['retry', 'delivered again'],
    ['discard', 'discarded'],
  ] as const) {
    group
      .command(verb)
      .argument('<ids...>', 'ids of dead letters')
      .description(verb === 'retry' ? 'deliver dead letters again' : 'give dead letters up')
      .action(async (ids: string[], _, command: Command) => {
        const context = contextOf(io, command);
        await forEachId(context, ids, done, (id) =>
          context.api().send('POST', idPath('/activity-dead-letters', id, verb), {}),
        );
      });
  }
  group
    .command('sync')
    .description('bring the schedules in Temporal into step; needs REGISTRYDB_URL and TEMPORAL_ADDRESS')
    .option('--dry-run', 'say what would be done')
    .action(async ({ dryRun }: { dryRun?: true }, command: Command) => {
      const context = contextOf(io, command);
      const { syncSchedulesOnce } = await import('@milkrun/orchestrator');
      const { steps, errors } = await syncSchedulesOnce(context.config('orchestrator'), dryRun ?? false);
      const rows: Row[] = [
        ...steps.map(({ verb, scheduleId, slug, why }) => ({ verb, schedule: scheduleId, slug, why })),
        ...errors.map(({ scheduleId, message }) => ({
          verb: 'failed',
          schedule: scheduleId,
          slug: null,
          why: message,
        })),
      ];
      showList(context, rows, ['verb', 'schedule', 'slug', 'why']);
      if (errors.length > 0)
        throw new CommandFailed(`${errors.length} schedules could not be brought into step`, EXIT.failure);
    });
  return group;
}

interface ReplayOptions {
  readonly from: string;
  readonly to?: string;
  readonly type?: string[];
  readonly key?: string[];
  readonly where?: string;
  readonly again?: true;
  readonly max: number;
  readonly yes?: true;
}

function eventTypesCommand(io: Io): Command {
  const TYPES = '/activity-event-types';
  const group = new Command('types').description('event types: their schemas, and whether they are approved');
  group
    .command('list')
    .description('list event types')
    .addOption(limitOption())
    .action(async ({ limit }: { limit: number }, command: Command) => {
      const context = contextOf(io, command);
      showList(context, await context.api().list(TYPES, { limit }), ['type', 'state', 'owner', 'version']);
    });
  group
    .command('show')
    .argument('<type>', 'name of a type')
    .description('one event type with its schema')
    .action(async (type: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().get(idPath(TYPES, type)));
    });
  group
    .command('put')
    .argument('<type>', 'name of a type')
    .argument('<json>', 'state, schema, example, owner, description; or - for standard input')
    .description('register an event type, or change it')
    .action(async (type: string, text: string, _, command: Command) => {
      const context = contextOf(io, command);
      const body = asRecord(await jsonOf(io, 'the event type', text));
      show(context, await context.api().send('PUT', idPath(TYPES, type), body));
    });
  group
    .command('delete')
    .argument('<types...>', 'names of types')
    .description('forget event types; their events stay')
    .action(async (types: string[], _, command: Command) => {
      const context = contextOf(io, command);
      await forEachId(context, types, 'deleted', (type) => context.api().send('DELETE', idPath(TYPES, type)));
    });
  return group;
}

export function webhooksCommand(io: Io): Command {
  const group = new Command('webhooks').description('addresses at which providers deliver signed events');
  group
    .command('list')
    .description('list webhooks')
    .addOption(limitOption())
    .action(async ({ limit }: { limit: number }, command: Command) => {
      const context = contextOf(io, command);
      showList(context, await context.api().list('/webhooks', { limit }), [
        'id',
        'slug',
        'type',
        'scheme',
        'enabled',
        'path',
      ]);
    });
  group
    .command('create')
    .argument('<slug>', 'name of the webhook')
    .requiredOption('--type <type>', 'type of its events')
    .addOption(
      new Option('--scheme <scheme>', 'how deliveries are signed').choices(['standard', 'github']).default('standard'),
    )
    .description('make a webhook; its secret is shown this once')
    .action(async (slug: string, { type, scheme }: { type: string; scheme: string }, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().send('POST', '/webhooks', { slug, type, scheme }));
    });
  group
    .command('rotate')
    .argument('<id>', 'webhook id')
    .description('a new secret; the old one is accepted for a day more')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().send('POST', idPath('/webhooks', id, 'rotate'), {}));
    });
  group
    .command('delete')
    .argument('<ids...>', 'webhook ids')
    .description('delete webhooks')
    .action(async (ids: string[], _, command: Command) => {
      const context = contextOf(io, command);
      await forEachId(context, ids, 'deleted', (id) => context.api().send('DELETE', idPath('/webhooks', id)));
    });
  return group;
}

export function runsCommand(io: Io): Command {
  const group = new Command('runs').description('runs of activities');
  group
    .command('list')
    .description('list runs, newest first')
    .addOption(limitOption())
    .option('--activity <id>', 'of one activity')
    .option('--status <status>', 'such as failed')
    .action(
      async ({ limit, activity, status }: { limit: number; activity?: string; status?: string }, command: Command) => {
        const context = contextOf(io, command);
        const filter = {
          ...(activity === undefined ? {} : { activity_id: activity }),
          ...(status === undefined ? {} : { status }),
        };
        const rows = await context.api().list('/activity-runs', { ...filter, limit });
        showList(context, rows, [
          'run_id',
          'slug',
          'status',
          'origin',
          'scheduled_for',
          'fired_at',
          'tasks_spawned',
          'tasks_failed',
        ]);
      },
    );
  group
    .command('show')
    .alias('get')
    .argument('<id>', 'run id')
    .description('one run with its event, context and error')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().get(idPath('/activity-runs', id)));
    });
  group
    .command('cancel')
    .argument('<ids...>', 'run ids')
    .description('cancel open runs and their tasks')
    .action(async (ids: string[], _, command: Command) => {
      const context = contextOf(io, command);
      await forEachId(context, ids, 'cancel requested', (id) =>
        context.api().send('POST', idPath('/activity-runs', id, 'cancel'), {}),
      );
    });
  return group;
}

export function tasksCommand(io: Io): Command {
  const group = new Command('tasks').description('tasks of runs, those for people among them');
  group
    .command('list')
    .description('list tasks')
    .addOption(limitOption())
    .option('--run <id>', 'of one run')
    .option('--status <status>', 'such as waiting')
    .addOption(new Option('--mode <mode>', 'for whom').choices(['auto', 'human']))
    .action(
      async (
        { limit, run, ...rest }: { limit: number; run?: string; status?: string; mode?: string },
        command: Command,
      ) => {
        const context = contextOf(io, command);
        const rows = await context
          .api()
          .list('/activity-tasks', { ...rest, ...(run === undefined ? {} : { run_id: run }), limit });
        showList(context, rows, ['task_id', 'type', 'title', 'status', 'assignee', 'due_at']);
      },
    );
  group
    .command('show')
    .alias('get')
    .argument('<id>', 'task id')
    .description('one task')
    .action(async (id: string, _, command: Command) => {
      const context = contextOf(io, command);
      show(context, await context.api().get(idPath('/activity-tasks', id)));
    });
  for (const verb of ['complete', 'fail'] as const) {
    group
      .command(verb)
      .argument('<id>', 'task id')
      .description(verb === 'complete' ? 'a person has done it' : 'a person says it can not be done')
      .option('--result <json>', 'kept with the task', 'null')
      .option('--reason <text>', 'for the audit trail')
      .action(async (id: string, given: { result: string; reason?: string }, command: Command) => {
        const context = contextOf(io, command);
        const result = await jsonOf(io, '--result', given.result);
        const body = { result, ...(given.reason === undefined ? {} : { reason: given.reason }) };
        show(context, await context.api().send('POST', idPath('/activity-tasks', id, verb), body));
      });
  }
  return group;
}

/** Definitions of a folder, in order of their names; prose after the front matter becomes the description. */
function definitionsIn(folder: string): { path: string; definition: unknown }[] {
  const isFile = extname(folder) !== '';
  const names = isFile
    ? [folder]
    : readdirSync(folder)
        .filter((name) => /\.(ya?ml|json|md)$/.test(name))
        .sort();
  if (names.length === 0) throw new CommandFailed(`there is no .yaml, .json or .md file in ${folder}`, EXIT.usage);
  return names.flatMap((name) => {
    const path = isFile ? name : join(folder, name);
    const text = readFileSync(path, 'utf8');
    if (extname(path) !== '.md') return [{ path, definition: parsed(path, text) }];
    const [, head, prose = ''] = /^---\r?\n([\s\S]*?)\r?\n---\r?\n?([\s\S]*)$/.exec(text) ?? [];
    if (head === undefined) return [];
    const definition = asRecord(parsed(path, head));
    const description = prose.trim();
    return [{ path, definition: { ...(description === '' ? {} : { description }), ...definition } }];
  });
}

function parsed(path: string, text: string): unknown {
  try {
    return parse(text, { maxAliasCount: 0 });
  } catch (error) {
    throw new CommandFailed(`${path}: ${(error as Error).message}`, EXIT.usage, { cause: error });
  }
}

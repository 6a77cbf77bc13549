/** `milkrun migrate`: moves triggers between the legacy pipeline and v2, and says how far it is. */
import { setTimeout as delay } from 'node:timers/promises';
import { Command } from 'commander';
import type { Context } from '../context.ts';
import { CommandFailed, EXIT } from '../exit-codes.ts';
import { asRecord } from '../http-client.ts';
import type { Io } from '../io.ts';
import type { Row } from '../output.ts';
import { createProgress } from '../progress.ts';
import { contextOf, numberFrom, show, showList } from './shared.ts';

const LOOK_MS = 500;
const COLUMNS = ['id', 'direction', 'state', 'total', 'begun', 'moved', 'gone', 'refused', 'startedAt', 'endedAt'];

interface MoveOptions {
  readonly tenant?: string;
  readonly toolkit?: string;
  readonly all?: true;
  readonly perSecond?: number;
  readonly wait: boolean;
}

export function migrateCommand(io: Io): Command {
  const group = new Command('migrate').description('moves triggers between the legacy pipeline and v2').addHelpText(
    'after',
    `
Examples:
  milkrun migrate to-v2 ID ID                  two triggers
  milkrun migrate to-v2 --toolkit npm          all of a toolkit
  milkrun migrate to-v2 --all --per-second 20  everything, slowly
  milkrun migrate to-legacy --tenant default   and back
  milkrun migrate status                       who owns what, and how far each migration is
  milkrun migrate pause MIGRATION
`,
  );
  group.addCommand(moveCommand(io, 'to-v2', 'to_v2', 'from the legacy pipeline to v2'));
  group.addCommand(moveCommand(io, 'to-legacy', 'to_legacy', 'from v2 back to the legacy pipeline'));
  group
    .command('status [migration]')
    .description('how many triggers each pipeline owns, and migrations with their progress')
    .action(async (id: string | undefined, _, command: Command) => {
      const context = contextOf(io, command);
      if (id !== undefined) return show(context, await context.engine().get(pathOf(id)));
      const answer = asRecord(await context.engine().get('/migrations'));
      if (context.json) return show(context, answer);
      const { owners, items } = answer as { owners: Record<string, number>; items: Row[] };
      io.out(
        `${Object.entries(owners)
          .map(([owner, n]) => `${owner.replace('_', ' ')} ${n}`)
          .join(', ')}\n`,
      );
      showList(context, items, COLUMNS);
    });
  for (const [verb, about] of [
    ['pause', 'begins no further hand-offs; those under way end'],
    ['resume', 'goes on where it was paused'],
  ] as const) {
    group
      .command(`${verb} <migration>`)
      .description(about)
      .action(async (id: string, _, command: Command) => {
        const context = contextOf(io, command);
        const status = asRecord(await context.engine().send('POST', `${pathOf(id)}/${verb}`));
        if (context.json) show(context, status);
        else io.out(`${lineOf(status)}\n`);
      });
  }
  return group;
}

function moveCommand(io: Io, name: string, direction: string, about: string): Command {
  return new Command(name)
    .description(about)
    .argument('[ids...]', 'triggers')
    .option('--tenant <id>', 'all triggers of a tenant')
    .option('--toolkit <name>', 'all triggers of a toolkit')
    .option('--all', 'every trigger')
    .option('--per-second <n>', 'triggers begun a second at the most; 50 unless said', numberFrom(1, 1_000))
    .option('--no-wait', 'print the migration’s id and return')
    .action(async (ids: string[], options: MoveOptions, command: Command) => {
      const context = contextOf(io, command);
      const { tenant, toolkit, all, perSecond } = options;
      const scoped = tenant !== undefined || toolkit !== undefined;
      if ([ids.length > 0, scoped, all === true].filter(Boolean).length !== 1) {
        throw new CommandFailed('say what to move: ids, or --tenant and/or --toolkit, or --all', EXIT.usage);
      }
      const body = {
        direction,
        ...(ids.length > 0 ? { triggerIds: ids } : {}),
        ...(tenant === undefined ? {} : { tenantId: tenant }),
        ...(toolkit === undefined ? {} : { toolkit }),
        ...(all === true ? { all } : {}),
        ...(perSecond === undefined ? {} : { perSecond }),
        actor: 'milkrun migrate',
      };
      const { id } = asRecord(await context.engine().send('POST', '/migrations', body));
      if (!options.wait) {
        if (context.json) show(context, { id });
        else io.out(`${String(id)}\n`);
        return;
      }
      await follow(context, String(id));
    });
}

/** Until it is done or paused. What was refused makes the command fail: it is not where it was wanted. */
async function follow(context: Context, id: string): Promise<void> {
  const { io } = context;
  const progress = createProgress(context);
  let line = '';
  for (;;) {
    const status = asRecord(await context.engine().get(pathOf(id)));
    const next = lineOf(status);
    if (io.isTty) progress.show(settledOf(status), Number(status.total), next);
    else if (next !== line && !context.json) io.err(`${next}\n`);
    line = next;
    if (status.state === 'running') {
      await delay(LOOK_MS);
      continue;
    }
    progress.clear();
    if (io.isTty && !context.json) io.err(`${next}\n`);
    if (context.json) show(context, status);
    const refused = Object.entries(asRecord(status.refused)).map(([code, n]) => `${n} ${code}`);
    if (!context.json) showList(context, (status.examples as Row[]).slice(0, 20), ['triggerId', 'code']);
    if (status.state === 'paused')
      throw new CommandFailed(`it is paused (${status.pausedBecause}); milkrun migrate resume ${id} goes on`);
    if (refused.length > 0)
      throw new CommandFailed(`not moved: ${refused.join(', ')}; ${hintOf(asRecord(status.refused))}`);
    return;
  }
}

function hintOf(refused: Record<string, unknown>): string {
  if ('no_codec' in refused) return 'MIGRATION_CODECS says how a toolkit’s cursors are carried over';
  if ('not_in_engine' in refused) return 'is the engine reading the feed? See milkrun doctor';
  if ('moving' in refused) return 'another migration moves them: see milkrun migrate status';
  if ('still_running' in refused) return 'the pipeline that has them did not let go; try again later';
  return 'see milkrun migrate status';
}

const leftOf = (status: Record<string, unknown>): number =>
  Object.values((status.refused ?? {}) as Record<string, number>).reduce((sum, n) => sum + n, 0);

/** Triggers with which it is done, one way or another. */
const settledOf = (status: Record<string, unknown>): number =>
  Number(status.moved) + Number(status.gone) + leftOf(status);

const lineOf = (status: Record<string, unknown>): string => {
  const { id, state, moved, gone, total, pausedBecause } = status as Record<string, string | number | object | null>;
  const left = leftOf(status);
  const more = [Number(gone) > 0 ? `${gone} deleted meanwhile` : '', left > 0 ? `${left} refused` : ''].filter(
    (text) => text !== '',
  );
  const why = state === 'paused' ? ` (${pausedBecause})` : '';
  return `${id}: ${state}${why}, ${[`${moved} of ${total} moved`, ...more].join(', ')}`;
};

const pathOf = (id: string): string => `/migrations/${encodeURIComponent(id)}`;

/** Ticks of a schedule: those to come, and those of the past that have no run. */
import {
  cronEntryOf,
  dueTicks,
  nextTicks,
  parseDefinition,
  startOf,
  tickRuleOf,
} from '@milkrun/activity-core/definitions';
import type { Clock } from '@milkrun/core';
import type { ActivityView, Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf } from '../../access.ts';
import { Problem } from '../../problems.ts';
import type { App } from '../../server.ts';
import { instant, named, nameParams, READ, WRITE } from './common.ts';

export function tickRoutes(app: App, registry: Registry, clock: Clock): void {
  const { activityOperations } = registry;

  app.get(
    '/activity-definitions/:id/ticks',
    {
      config: READ,
      schema: {
        summary: 'The next ticks, with clock changes',
        params: nameParams,
        querystring: z.strictObject({
          count: z.coerce.number().int().min(1).max(100).default(20),
          after: instant.optional(),
        }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const rule = ruleOf(await named(registry, request, request.params.id));
      const after = request.query.after === undefined ? clock.now() : Date.parse(request.query.after);
      const items = nextTicks(rule, after, request.query.count).map(({ at, local, flag, runs }) => ({
        at: at === null ? null : new Date(at).toISOString(),
        local,
        flag,
        runs,
      }));
      return { items, next: null };
    },
  );
  app.post(
    '/activity-definitions/:id/backfill',
    {
      config: WRITE,
      schema: {
        summary: 'Run ticks of the past that have no run',
        params: nameParams,
        body: z.strictObject({
          from: instant,
          to: instant,
          only_missing: z
            .boolean()
            .default(true)
            .describe('False: ticks that ran run again as duplicates, which do nothing.'),
          max: z.int().min(1).max(1_000).default(100),
          dry_run: z.boolean().default(false),
        }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const view = await named(registry, request, request.params.id);
      const { from, to, only_missing, max, dry_run } = request.body;
      const [afterMs, untilMs] = [Date.parse(from) - 1, Math.min(Date.parse(to), clock.now())];
      const { ticks } = dueTicks(ruleOf(view), afterMs, untilMs, 100_000);
      const ran = only_missing ? await activityOperations.effectiveTicks(view.id, afterMs, untilMs) : new Set<number>();
      const wanted = ticks.filter((at) => !ran.has(at));
      const chosen = wanted.slice(0, max);
      if (!dry_run && chosen.length > 0) {
        await activityOperations.backfill(
          actorOf(request),
          view.id,
          chosen.map((at) => startOf(view.id, at, true)),
        );
      }
      return { ticks: chosen.map((at) => new Date(at).toISOString()), left: wanted.length - chosen.length, dry_run };
    },
  );
}

function ruleOf(view: ActivityView) {
  const entry = cronEntryOf(parseDefinition(JSON.parse(view.spec)));
  if (entry === undefined) throw new Problem(409, `${view.slug} has no cron entry`);
  return tickRuleOf(entry);
}

/** Starts by hand, and what a sample event would do. */
import {
  compileMatcher,
  eventKeyOf,
  eventOf,
  PlanFailed,
  parseDefinition,
  planTasks,
  recordOf,
  runWorkflowIdOf,
} from '@milkrun/activity-core/definitions';
import type { Clock, NewEvent } from '@milkrun/core';
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf } from '../../access.ts';
import { humanText } from '../../http-conventions.ts';
import { Problem } from '../../problems.ts';
import type { App } from '../../server.ts';
import { anyObject, named, nameParams, READ, refusing, WRITE } from './common.ts';

export function startRoutes(app: App, registry: Registry, clock: Clock): void {
  const { activityOperations } = registry;

  app.post(
    '/activity-definitions/:id/trigger',
    {
      config: WRITE,
      schema: {
        summary: 'Start one run now; the same key starts the same run',
        params: nameParams,
        body: z
          .strictObject({
            data: anyObject.default({}),
            key: humanText(128).min(1).optional(),
            force: z.boolean().default(false).describe('Also while it is disabled.'),
            dry_run: z.boolean().default(false),
          })
          .prefault({}),
        response: { 202: z.object({ workflow_id: z.string(), key: z.string() }) },
      },
    },
    async (request, reply) => {
      const { id, enabled, slug } = await named(registry, request, request.params.id);
      const { data, force, dry_run } = request.body;
      if (!enabled && !force) throw new Problem(409, `${slug} is disabled; say force: true to run it all the same`);
      const given = request.headers['idempotency-key'];
      const key = request.body.key ?? (typeof given === 'string' ? given.slice(0, 128) : request.id);
      const event = handEvent(id, key, data, clock);
      const workflowId = runWorkflowIdOf(id, event);
      const start = { activityId: id, workflowId, origin: 'manual' as const, eventKey: event.key, version: null };
      const command = { ...start, dryRun: dry_run, scheduledFor: null, forced: force };
      await activityOperations.trigger(actorOf(request), command, event);
      return reply.code(202).send({ workflow_id: workflowId, key });
    },
  );
  app.post(
    '/activity-definitions/:id/test',
    {
      config: READ,
      schema: {
        summary: 'What a sample event would do: match, then plan over a given context; nothing is started',
        params: nameParams,
        body: z.strictObject({ event: anyObject, context: anyObject.default({}) }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const view = await named(registry, request, request.params.id);
      const definition = parseDefinition(JSON.parse(view.spec));
      const event = refusing(() => eventOf(request.body.event));
      const match = compileMatcher(definition)(event);
      const now = new Date(clock.now()).toISOString();
      const run = { id: 'test', now, scheduledFor: null, dryRun: true };
      const activity = { id: view.id, slug: view.slug, version: view.version, name: view.name };
      try {
        return {
          match,
          plan: planTasks(definition, { event: recordOf(event), context: request.body.context, run, activity }),
        };
      } catch (error) {
        if (!(error instanceof PlanFailed)) throw error;
        return { match, error: { code: `plan.${error.code}`, message: error.message } };
      }
    },
  );
}

/** A start by hand is an event like any other. */
function handEvent(activityId: string, id: string, data: unknown, clock: Clock): NewEvent {
  const source = `/activities/${activityId}/manual`;
  const type = 'dev.milkrun.manual';
  const time = new Date(clock.now()).toISOString();
  const event = eventOf({ specversion: '1.0', id, source, type, time, data });
  return { key: eventKeyOf(event), source, id, type, time, origin: 'manual', record: JSON.stringify(recordOf(event)) };
}

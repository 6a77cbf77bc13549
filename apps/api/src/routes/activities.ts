/**
 * Routes of activities, their runs and their tasks. Names of fields are those of the definitions, in snake_case. Nothing here
 * speaks to Temporal: what has to happen there is written as a command in the transaction that causes it.
 */
import {
  atEntryOf,
  compileMatcher,
  cronEntryOf,
  type DefinitionProblem,
  dueTicks,
  eventKeyOf,
  eventOf,
  JSON_SCHEMAS,
  nextTicks,
  PlanFailed,
  parseDefinition,
  planTasks,
  Refused,
  recordOf,
  runWorkflowIdOf,
  startOf,
  storedDefinitionOf,
  tickRuleOf,
} from '@milkrun/activity-core/definitions';
import type { Clock, NewEvent } from '@milkrun/core';
import type { ActivityView, Registry } from '@milkrun/registrydb';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { actorOf, callerOf } from '../access.ts';
import {
  humanText,
  ifVersionOf,
  pageOf,
  pagingShape,
  positionOf,
  reasonShape,
  setVersion,
  toPage,
  UUID,
  uuidParams,
} from '../http-conventions.ts';
import { type FieldError, Problem } from '../problems.ts';
import type { App } from '../server.ts';

const SLUG_OR_ID = /^[a-z0-9][a-z0-9-]{0,62}$/;
const nameParams = z.strictObject({ id: z.string().regex(SLUG_OR_ID).describe('Id or slug.') });
const anyObject = z.record(z.string(), z.unknown());
const reasonBody = z.strictObject(reasonShape).prefault({});
const instant = z.iso.datetime({ offset: true });

const activitySchema = z.object({
  id: z.string(),
  slug: z.string(),
  name: z.string(),
  enabled: z.boolean(),
  trigger_type: z.enum(['cron', 'at', 'event', 'manual']),
  version: z.int(),
  status: z.enum(['active', 'done', 'tripped']),
  status_reason: z.string().nullable(),
  failures_in_row: z.int(),
  origin: z.enum(['api', 'file']),
  covered_at: z.string().nullable().describe('The latest tick dealt with.'),
  disabled_at: z.string().nullable(),
  schedule_synced_at: z.string().nullable(),
  created_at: z.string(),
  updated_at: z.string(),
  definition: z.unknown(),
});

const bodyOf = (view: ActivityView): z.infer<typeof activitySchema> => ({
  id: view.id,
  slug: view.slug,
  name: view.name,
  enabled: view.enabled,
  trigger_type: view.triggerType,
  version: view.version,
  status: view.status,
  status_reason: view.statusReason,
  failures_in_row: view.failuresInRow,
  origin: view.origin,
  covered_at: view.coveredAt,
  disabled_at: view.disabledAt,
  schedule_synced_at: view.scheduleSyncedAt,
  created_at: view.createdAt,
  updated_at: view.updatedAt,
  definition: { ...(JSON.parse(view.spec) as object), enabled: view.enabled },
});

const applyBody = z.strictObject({
  definitions: z.array(z.strictObject({ path: z.string().max(500), definition: anyObject })).max(1_000),
  prune: z.boolean().default(false).describe('Delete definitions that came from files and are not among these.'),
  dry_run: z.boolean().default(false),
});
const applied = z.object({
  results: z.array(
    z.object({ path: z.string(), slug: z.string().nullable(), result: z.string(), errors: z.array(z.unknown()) }),
  ),
});

export function activityRoutes(app: App, { activities, activityOperations, eventDesk }: Registry, clock: Clock): void {
  const read = { policy: 'activities:read' } as const;
  const write = { policy: 'activities:write' } as const;
  const one = { 200: activitySchema };
  const answer = (reply: FastifyReply, view: ActivityView) => {
    setVersion(reply, view.version);
    return bodyOf(view);
  };
  const optionsOf = (request: FastifyRequest, reason?: string | undefined) => ({
    ifVersion: ifVersionOf(request),
    reason,
  });
  const named = (request: FastifyRequest, id: string): Promise<ActivityView> =>
    activities.get(callerOf(request).tenantId, id);

  /** A checked definition. Throws a Problem that names every wrong field. */
  function checked(body: unknown) {
    const definition = refusing(() => parseDefinition(body));
    const at = atEntryOf(definition);
    const n = definition.on.findIndex((entry) => 'at' in entry);
    if (at !== undefined && Date.parse(at.at) <= clock.now()) {
      throw refusal([{ path: `on[${n}].at`, message: `${at.at} is in the past; nearest accepted: a time after now` }]);
    }
    return definition;
  }

  app.get(
    '/activity-definitions',
    {
      config: read,
      schema: {
        summary: 'List activities',
        querystring: z.strictObject({
          ...pagingShape,
          trigger_type: z.enum(['cron', 'at', 'event', 'manual']).optional(),
        }),
        response: { 200: pageOf(activitySchema) },
      },
    },
    async (request) => {
      const { limit, cursor, trigger_type } = request.query;
      const after = positionOf(cursor, UUID);
      const found = await activities.list(callerOf(request).tenantId, {
        limit: limit + 1,
        after,
        triggerType: trigger_type,
      });
      return toPage(found, limit, ({ id }) => id, bodyOf);
    },
  );
  app.post(
    '/activity-definitions',
    { config: write, schema: { summary: 'Create an activity', body: anyObject, response: { 201: activitySchema } } },
    async (request, reply) => {
      const view = await activities.create(actorOf(request), storedDefinitionOf(checked(request.body)));
      reply.code(201).header('location', `/activity-definitions/${view.id}`);
      return answer(reply, view);
    },
  );
  app.get(
    '/activity-definitions/:id',
    { config: read, schema: { summary: 'One activity', params: nameParams, response: one } },
    async (request, reply) => answer(reply, await named(request, request.params.id)),
  );
  app.put(
    '/activity-definitions/:id',
    { config: write, schema: { summary: 'Publish a new version', params: nameParams, body: anyObject, response: one } },
    async (request, reply) => {
      const { id } = await named(request, request.params.id);
      const stored = storedDefinitionOf(checked(request.body));
      return answer(reply, await activities.update(actorOf(request), id, stored, optionsOf(request)));
    },
  );
  app.delete(
    '/activity-definitions/:id',
    {
      config: write,
      schema: { summary: 'Delete an activity; its runs stay', params: nameParams, response: { 204: z.null() } },
    },
    async (request, reply) => {
      const { id } = await named(request, request.params.id);
      await activities.remove(actorOf(request), id, optionsOf(request));
      return reply.code(204).send(null);
    },
  );
  app.post(
    '/activity-definitions/:id/enable',
    {
      config: write,
      schema: {
        summary: 'Enable; recover: make up for the time it was disabled',
        params: nameParams,
        body: z.strictObject({ recover: z.boolean().default(false), ...reasonShape }).prefault({}),
        response: one,
      },
    },
    async (request, reply) => {
      const { id } = await named(request, request.params.id);
      const { recover, reason } = request.body;
      return answer(
        reply,
        await activities.setEnabled(actorOf(request), id, true, { ...optionsOf(request, reason), recover }),
      );
    },
  );
  for (const verb of ['disable', 'reset'] as const) {
    app.post(
      `/activity-definitions/:id/${verb}`,
      {
        config: write,
        schema: {
          summary: verb === 'disable' ? 'Disable; open runs finish' : 'Lift a trip',
          params: nameParams,
          body: reasonBody,
          response: one,
        },
      },
      async (request, reply) => {
        const { id } = await named(request, request.params.id);
        const options = optionsOf(request, request.body.reason);
        const actor = actorOf(request);
        return answer(
          reply,
          verb === 'disable'
            ? await activities.setEnabled(actor, id, false, options)
            : await activities.reset(actor, id, options),
        );
      },
    );
  }
  app.get(
    '/activity-definitions/:id/versions',
    {
      config: read,
      schema: { summary: 'All versions, newest first', params: nameParams, response: { 200: z.unknown() } },
    },
    async (request) => {
      const { id, tenantId } = await named(request, request.params.id);
      const versions = await activities.versions(tenantId, id);
      return {
        items: versions.map(({ version, createdBy, reason, createdAt, spec }) => ({
          version,
          created_by: createdBy,
          reason,
          created_at: createdAt,
          definition: JSON.parse(spec) as unknown,
        })),
        next: null,
      };
    },
  );
  app.post(
    '/activity-definitions/:id/versions/:version/publish',
    {
      config: write,
      schema: {
        summary: 'Publish an earlier version again, as a new one',
        params: z.strictObject({ id: z.string().regex(SLUG_OR_ID), version: z.coerce.number().int().min(1) }),
        body: reasonBody,
        response: one,
      },
    },
    async (request, reply) => {
      const { id, tenantId, enabled } = await named(request, request.params.id);
      const { spec } = await activities.version(tenantId, id, request.params.version);
      const stored = storedDefinitionOf({ ...refusing(() => parseDefinition(JSON.parse(spec))), enabled });
      return answer(
        reply,
        await activities.update(actorOf(request), id, stored, optionsOf(request, request.body.reason)),
      );
    },
  );
  app.get(
    '/activity-definitions/:id/ticks',
    {
      config: read,
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
      const rule = ruleOf(await named(request, request.params.id));
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
      config: write,
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
      const view = await named(request, request.params.id);
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
  app.post(
    '/activity-definitions/:id/trigger',
    {
      config: write,
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
      const { id, enabled, slug } = await named(request, request.params.id);
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
      config: read,
      schema: {
        summary: 'What a sample event would do: match, then plan over a given context; nothing is started',
        params: nameParams,
        body: z.strictObject({ event: anyObject, context: anyObject.default({}) }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const view = await named(request, request.params.id);
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
  app.post(
    '/activity-definitions/apply',
    {
      config: write,
      bodyLimit: 16 * 1024 * 1024,
      schema: {
        summary: 'Bring definitions from files into step, by slug',
        body: applyBody,
        response: { 200: applied },
      },
    },
    async (request) => {
      const actor = actorOf(request);
      const { definitions, prune, dry_run } = request.body;
      const results: z.infer<typeof applied>['results'] = [];
      const slugs = new Set<string>();
      const bySlug = new Map((await everyActivity(actor.tenantId)).map((view) => [view.slug, view]));
      for (const { path, definition } of definitions) {
        let slug: string | null = null;
        try {
          const stored = storedDefinitionOf(checked(definition));
          slug = stored.slug;
          if (slugs.has(slug)) throw refusal([{ path: 'slug', message: `"${slug}" is given by two files` }]);
          slugs.add(slug);
          const before = bySlug.get(slug);
          if (before?.origin === 'api')
            throw refusal([{ path: 'slug', message: `"${slug}" was not made from a file and is left alone` }]);
          if (dry_run) {
            const same = before !== undefined && isSame(before, stored);
            results.push({
              path,
              slug,
              result: before === undefined ? 'created' : same ? 'unchanged' : 'updated',
              errors: [],
            });
          } else if (before === undefined) {
            await activities.create(actor, stored, 'file');
            results.push({ path, slug, result: 'created', errors: [] });
          } else {
            // A person's disable is not undone by a file that says nothing else.
            const after = await activities.update(
              actor,
              before.id,
              { ...stored, enabled: before.enabled },
              { reason: path },
            );
            results.push({
              path,
              slug,
              result: after.version === before.version ? 'unchanged' : 'updated',
              errors: [],
            });
          }
        } catch (error) {
          if (!(error instanceof Problem)) throw error;
          results.push({ path, slug, result: 'refused', errors: [...error.errors] });
        }
      }
      for (const view of prune ? bySlug.values() : []) {
        if (view.origin !== 'file' || slugs.has(view.slug)) continue;
        if (!dry_run) await activities.remove(actor, view.id, { reason: 'its file is gone' });
        results.push({ path: '', slug: view.slug, result: 'removed', errors: [] });
      }
      return { results };
    },
  );

  async function everyActivity(tenantId: string): Promise<ActivityView[]> {
    const all: ActivityView[] = [];
    for (;;) {
      const page = await activities.list(tenantId, { limit: 500, after: all.at(-1)?.id });
      all.push(...page);
      if (page.length < 500) return all;
    }
  }

  app.get(
    '/activity-runs',
    {
      config: read,
      schema: {
        summary: 'Runs, newest first',
        querystring: z.strictObject({
          ...pagingShape,
          activity_id: z.guid().toLowerCase().optional(),
          status: z
            .enum([
              'queued',
              'running',
              'succeeded',
              'partial',
              'failed',
              'missed',
              'coalesced',
              'duplicate',
              'skipped',
              'cancelled',
            ])
            .optional(),
        }),
        response: { 200: pageOf(z.unknown()) },
      },
    },
    async (request) => {
      const { limit, cursor, activity_id, status } = request.query;
      const before = positionOf(cursor, UUID);
      const found = await activityOperations.runs(callerOf(request).tenantId, {
        limit: limit + 1,
        activityId: activity_id,
        status,
        before,
      });
      return toPage(
        found,
        limit,
        (row) => String(row.run_id),
        (row) => row,
      );
    },
  );
  app.get(
    '/activity-runs/:id',
    {
      config: read,
      schema: { summary: 'One run, with its event and context', params: uuidParams, response: { 200: z.unknown() } },
    },
    async (request) => activityOperations.run(callerOf(request).tenantId, request.params.id),
  );
  app.post(
    '/activity-runs/:id/cancel',
    {
      config: write,
      schema: {
        summary: 'Cancel an open run and its tasks',
        params: uuidParams,
        body: reasonBody,
        response: { 202: z.null() },
      },
    },
    async (request, reply) => {
      await activityOperations.cancelRun(actorOf(request), request.params.id, request.body.reason);
      return reply.code(202).send(null);
    },
  );
  app.get(
    '/activity-tasks',
    {
      config: read,
      schema: {
        summary: 'Tasks, by id',
        querystring: z.strictObject({
          ...pagingShape,
          run_id: z.guid().toLowerCase().optional(),
          status: z.enum(['planned', 'running', 'waiting', 'done', 'failed', 'suppressed', 'cancelled']).optional(),
          mode: z.enum(['auto', 'human']).optional(),
        }),
        response: { 200: pageOf(z.unknown()) },
      },
    },
    async (request) => {
      const { limit, cursor, run_id, status, mode } = request.query;
      const after = positionOf(cursor, TASK_ID);
      const found = await activityOperations.tasks(callerOf(request).tenantId, {
        limit: limit + 1,
        runId: run_id,
        status,
        mode,
        after,
      });
      return toPage(
        found,
        limit,
        (row) => String(row.task_id),
        (row) => row,
      );
    },
  );
  app.get(
    '/activity-tasks/:id',
    { config: read, schema: { summary: 'One task', params: taskParams, response: { 200: z.unknown() } } },
    async (request) => activityOperations.task(callerOf(request).tenantId, request.params.id),
  );
  for (const [verb, status] of [
    ['complete', 'done'],
    ['fail', 'failed'],
  ] as const) {
    app.post(
      `/activity-tasks/:id/${verb}`,
      {
        config: write,
        schema: {
          summary: verb === 'complete' ? 'A person has done it' : 'A person says it can not be done',
          params: taskParams,
          body: z.strictObject({ result: z.unknown().optional(), ...reasonShape }).prefault({}),
          response: { 200: z.unknown() },
        },
      },
      async (request) => {
        const { result, reason } = request.body;
        return activityOperations.completeTask(actorOf(request), request.params.id, { status, result, reason });
      },
    );
  }
  app.post(
    '/activity-events',
    {
      config: write,
      schema: {
        summary: 'Publish events: CloudEvents records, or the older envelopes; all or none',
        body: z.strictObject({ events: z.array(anyObject).min(1).max(100) }),
        response: {
          202: z.object({ events: z.array(z.object({ id: z.string(), source: z.string(), key: z.string() })) }),
        },
      },
    },
    async (request, reply) => {
      const events = request.body.events.map((given, n) => refusing(() => eventOf(given), `events[${n}]`));
      const keyed = events.map((event) => ({ event, key: eventKeyOf(event) }));
      const rows = keyed.map(({ event, key }) => ({ key, record: JSON.stringify(recordOf(event)) }));
      await eventDesk.publish(callerOf(request).tenantId, rows);
      return reply.code(202).send({ events: keyed.map(({ event: { id, source }, key }) => ({ id, source, key })) });
    },
  );
  app.get(
    '/activity-dead-letters',
    {
      config: read,
      schema: {
        summary: 'Events that could not be delivered, newest first',
        querystring: z.strictObject({ ...pagingShape, open: z.stringbool().default(true) }),
        response: { 200: pageOf(z.unknown()) },
      },
    },
    async (request) => {
      const { limit, cursor, open } = request.query;
      const before = positionOf(cursor, UUID);
      const found = await eventDesk.list(callerOf(request).tenantId, { limit: limit + 1, open, before });
      return toPage(
        found,
        limit,
        ({ id }) => id,
        ({ eventKey, ...letter }) => ({ ...letter, event_key: eventKey }),
      );
    },
  );
  app.post(
    '/activity-dead-letters/:id/retry',
    {
      config: write,
      schema: {
        summary: 'Deliver it again, as it is or with a mended event',
        params: uuidParams,
        body: z.strictObject({ event: anyObject.optional() }).prefault({}),
        response: { 202: z.null() },
      },
    },
    async (request, reply) => {
      const { event: given } = request.body;
      const event = given === undefined ? undefined : refusing(() => eventOf(given), 'event');
      const edited =
        event === undefined ? undefined : { key: eventKeyOf(event), record: JSON.stringify(recordOf(event)) };
      await eventDesk.retry(actorOf(request), request.params.id, edited);
      return reply.code(202).send(null);
    },
  );
  app.post(
    '/activity-dead-letters/:id/discard',
    {
      config: write,
      schema: { summary: 'Give it up', params: uuidParams, body: reasonBody, response: { 204: z.null() } },
    },
    async (request, reply) => {
      await eventDesk.discard(actorOf(request), request.params.id, request.body.reason);
      return reply.code(204).send(null);
    },
  );
  app.get(
    '/schemas/:name',
    {
      config: { policy: 'public' },
      schema: {
        summary: 'JSON Schemas',
        params: z.strictObject({ name: z.enum(Object.keys(JSON_SCHEMAS)) }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => JSON_SCHEMAS[request.params.name],
  );
}

const TASK_ID = /^task-[0-9a-f-]{36}:[\x21-\x7e]{1,200}$/;
const taskParams = z.strictObject({ id: z.string().regex(TASK_ID) });

const refusal = (problems: readonly DefinitionProblem[]): Problem => {
  const errors: FieldError[] = problems.map(({ path, message }) => ({ path, message }));
  const [first] = errors;
  return new Problem(
    400,
    first === undefined ? 'It is not valid.' : `${first.path || 'body'}: ${first.message}`,
    errors,
  );
};

/** `under`: the field of the request that is read. */
function refusing<T>(work: () => T, under?: string): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof Refused) {
      const at = (path: string): string => [under, path].filter(Boolean).join('.');
      throw refusal(error.problems.map(({ path, message }) => ({ path: at(path), message })));
    }
    throw error;
  }
}

function isSame({ spec }: ActivityView, stored: ReturnType<typeof storedDefinitionOf>): boolean {
  return storedDefinitionOf(parseDefinition(JSON.parse(spec))).fingerprint === stored.fingerprint;
}

function ruleOf(view: ActivityView) {
  const entry = cronEntryOf(parseDefinition(JSON.parse(view.spec)));
  if (entry === undefined) throw new Problem(409, `${view.slug} has no cron entry`);
  return tickRuleOf(entry);
}

/** A start by hand is an event like any other. */
function handEvent(activityId: string, id: string, data: unknown, clock: Clock): NewEvent {
  const source = `/activities/${activityId}/manual`;
  const type = 'dev.milkrun.manual';
  const time = new Date(clock.now()).toISOString();
  const event = eventOf({ specversion: '1.0', id, source, type, time, data });
  return { key: eventKeyOf(event), source, id, type, time, origin: 'manual', record: JSON.stringify(recordOf(event)) };
}

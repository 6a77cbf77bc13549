/** Events that activities see: published, looked up, and replayed to one activity. */
import {
  celRoots,
  compileCondition,
  compileMatcher,
  eventEntriesOf,
  eventKeyOf,
  eventOf,
  eventType,
  parseDefinition,
  recordOf,
  runWorkflowIdOf,
} from '@milkrun/activity-core/definitions';
import type { Clock, NewEvent, StartCommand } from '@milkrun/core';
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import { humanText, pageOf, pagingShape, positionOf, toPage } from '../../http-conventions.ts';
import type { App } from '../../server.ts';
import { anyObject, instant, named, nameParams, READ, refusal, refusing, WRITE } from './common.ts';
import type { Publisher } from './publishing.ts';

const KEY = /^[0-9a-f]{32}$/;
const POSITION = /^[0-9T:.+Z-]{10,40} [0-9a-f]{32}$/;
/** Events looked at by one replay. */
const LOOKED_AT_MAX = 10_000;

export function activityEventRoutes(app: App, registry: Registry, publisher: Publisher, clock: Clock): void {
  const { eventLog } = registry;
  app.post(
    '/activity-events',
    {
      config: WRITE,
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
      const keys = await publisher.publish(callerOf(request).tenantId, events, (n) => `events[${n}]`);
      const answers = events.map(({ id, source }, n) => ({ id, source, key: keys[n] ?? '' }));
      return reply.code(202).send({ events: answers });
    },
  );
  app.get(
    '/activity-events',
    {
      config: READ,
      schema: {
        summary: 'Stored events, newest first, with what each activity made of them',
        querystring: z.strictObject({ ...pagingShape, type: eventType.optional() }),
        response: { 200: pageOf(z.unknown()) },
      },
    },
    async (request) => {
      const { limit, cursor, type } = request.query;
      const [receivedAt, key] = positionOf(cursor, POSITION)?.split(' ') ?? [];
      const before = receivedAt === undefined || key === undefined ? undefined : { receivedAt, key };
      const found = await eventLog.list(callerOf(request).tenantId, { limit: limit + 1, type, before });
      return toPage(
        found,
        limit,
        (row) => `${String(row.received_at)} ${String(row.key)}`,
        (row) => row,
      );
    },
  );
  app.get(
    '/activity-events/:key',
    {
      config: READ,
      schema: {
        summary: 'One event with its data, its matches and its runs',
        params: z.strictObject({ key: z.string().regex(KEY) }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => eventLog.get(callerOf(request).tenantId, request.params.key),
  );
  app.post(
    '/activity-definitions/:id/replay',
    {
      config: WRITE,
      schema: {
        summary: 'Run stored events again for one activity: first as a dry run, which shows them',
        params: nameParams,
        body: z.strictObject({
          from: instant.describe('By time of receipt, included.'),
          to: instant.optional().describe('Excluded; now when absent.'),
          types: z.array(eventType).min(1).max(50).optional().describe('Those the activity waits for when absent.'),
          keys: z.array(z.string().regex(KEY)).min(1).max(1_000).optional().describe('These events alone.'),
          where: humanText(4_096).min(1).optional().describe('CEL over `event`, beside the filters of the activity.'),
          only_missing: z.boolean().default(true).describe('False: events that have a run run again.'),
          max: z.int().min(1).max(1_000).default(100),
          dry_run: z.boolean().default(true),
        }),
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const view = await named(registry, request, request.params.id);
      const { from, to, types, keys, where, only_missing, max, dry_run } = request.body;
      const definition = parseDefinition(JSON.parse(view.spec));
      const holds = conditionOf(where);
      const range = {
        types: types ?? [...new Set(eventEntriesOf(definition).map(({ event }) => event.type))],
        from,
        to: to ?? new Date(clock.now()).toISOString(),
        keys,
        limit: LOOKED_AT_MAX + 1,
      };
      const found = await eventLog.inRange(view.tenantId, view.id, range);
      if (found.length > LOOKED_AT_MAX) {
        throw refusal([{ path: 'to', message: `more than ${LOOKED_AT_MAX} events; give a shorter range` }]);
      }
      const matches = compileMatcher(definition);
      const fitting = found.filter(({ record }) => {
        const event = eventOf(JSON.parse(record));
        return matches(event).matched && holds(record);
      });
      const wanted = only_missing ? fitting.filter(({ ran }) => !ran) : fitting;
      const chosen = wanted.slice(0, max);
      const runs = chosen.map(({ record }) => replayOf(view.id, view.version, record, request.id));
      if (!dry_run && runs.length > 0) await eventLog.replay(actorOf(request), view.id, request.id, runs);
      return {
        events: chosen.map(({ key, ran }, n) => ({ key, id: idIn(chosen[n]?.record), ran })),
        left: wanted.length - chosen.length,
        unmatched: found.length - fitting.length,
        dry_run,
        replay_id: dry_run ? null : request.id,
      };
    },
  );
}

const idIn = (record: string | undefined): unknown => (JSON.parse(record ?? '{}') as { id?: unknown }).id;

function conditionOf(where: string | undefined): (record: string) => boolean {
  if (where === undefined) return () => true;
  let condition: ReturnType<typeof compileCondition>;
  try {
    condition = compileCondition(where, ['event']);
  } catch (error) {
    throw refusal([{ path: 'where', message: (error as Error).message }]);
  }
  return (record) => {
    try {
      return condition.holds(celRoots({ event: JSON.parse(record) as unknown }));
    } catch {
      // As in an entry's own `where`: an error is no match.
      return false;
    }
  };
}

/** A replay is an event of its own, with an id nobody else makes: it is a duplicate of nothing, on purpose. */
function replayOf(
  activityId: string,
  version: number,
  record: string,
  replayId: string,
): { readonly event: NewEvent; readonly start: StartCommand } {
  const before = eventOf(JSON.parse(record));
  const id = `${before.id.slice(0, 400)}~replay:${replayId}`;
  const { hops: _, ...kept } = before.extensions;
  const event = eventOf(
    recordOf({ ...before, id, extensions: { ...kept, causationid: before.id.slice(0, 512), replayid: replayId } }),
  );
  const key = eventKeyOf(event);
  const { source, type, time } = event;
  return {
    event: { key, source, id, type, time, origin: 'replay', record: JSON.stringify(recordOf(event)) },
    start: {
      activityId,
      workflowId: runWorkflowIdOf(activityId, event),
      origin: 'event',
      eventKey: key,
      version,
      dryRun: false,
      scheduledFor: null,
      forced: false,
    },
  };
}

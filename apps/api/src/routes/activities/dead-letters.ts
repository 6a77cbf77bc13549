/** Events that could not be delivered. */
import {
  type ActivityEvent,
  compileMatcher,
  eventKeyOf,
  eventOf,
  parseDefinition,
  Refused,
  recordOf,
  storedDefinitionOf,
} from '@milkrun/activity-core/definitions';
import { type Registry, RegistryProblem } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import { pageOf, pagingShape, positionOf, reasonShape, toPage, UUID, uuidParams } from '../../http-conventions.ts';
import type { App } from '../../server.ts';
import { anyObject, instant, READ, reasonBody, refusing, WRITE } from './common.ts';
import { everyActivity } from './every-activity.ts';

const dryRetry = z.object({
  readable: z.boolean().describe('False: it would become a dead letter again.'),
  problem: z.string().nullable(),
  activities: z.array(z.object({ slug: z.string(), starts: z.boolean(), reason: z.string().nullable() })),
});

export function deadLetterRoutes(app: App, { activities, eventDesk }: Registry): void {
  app.get(
    '/activity-dead-letters',
    {
      config: READ,
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
  for (const verb of ['retry', 'discard'] as const) {
    app.post(
      `/activity-dead-letters/${verb}`,
      {
        config: WRITE,
        schema: {
          summary: `${verb === 'retry' ? 'Deliver many again' : 'Give many up'}: first as a dry run, which shows them`,
          body: z.strictObject({
            stage: z.enum(['decode', 'schema', 'conflict', 'loop', 'start']).optional(),
            from: instant.optional().describe('By when they came last, included.'),
            to: instant.optional().describe('Excluded.'),
            max: z.int().min(1).max(1_000).default(100),
            dry_run: z.boolean().default(true),
            ...reasonShape,
          }),
          response: { 200: z.object({ ids: z.array(z.string()), dry_run: z.boolean() }) },
        },
      },
      async (request) => {
        const actor = actorOf(request);
        const { max, dry_run, reason, ...filter } = request.body;
        const ids = await eventDesk.select(actor.tenantId, { ...filter, limit: max });
        const done: string[] = [];
        for (const id of dry_run ? [] : ids) {
          if (await isThere(verb === 'retry' ? eventDesk.retry(actor, id) : eventDesk.discard(actor, id, reason)))
            done.push(id);
        }
        return { ids: dry_run ? [...ids] : done, dry_run };
      },
    );
  }
  app.post(
    '/activity-dead-letters/:id/retry',
    {
      config: WRITE,
      schema: {
        summary: 'Deliver it again, as it is or with a mended event',
        params: uuidParams,
        body: z
          .strictObject({
            event: anyObject.optional(),
            dry_run: z.boolean().default(false).describe('Only say what it would start.'),
          })
          .prefault({}),
        response: { 200: dryRetry, 202: z.null() },
      },
    },
    async (request, reply) => {
      const { event: given, dry_run } = request.body;
      const event = given === undefined ? undefined : refusing(() => eventOf(given), 'event');
      if (dry_run) {
        const { raw } = await eventDesk.get(callerOf(request).tenantId, request.params.id);
        return reply.code(200).send(await retryWouldDo(callerOf(request).tenantId, event ?? raw));
      }
      const edited =
        event === undefined ? undefined : { key: eventKeyOf(event), record: JSON.stringify(recordOf(event)) };
      await eventDesk.retry(actorOf(request), request.params.id, edited);
      return reply.code(202).send(null);
    },
  );
  app.post(
    '/activity-dead-letters/:id/discard',
    {
      config: WRITE,
      schema: { summary: 'Give it up', params: uuidParams, body: reasonBody, response: { 204: z.null() } },
    },
    async (request, reply) => {
      await eventDesk.discard(actorOf(request), request.params.id, request.body.reason);
      return reply.code(204).send(null);
    },
  );

  /** What becomes of an event, or of a message as it came, when it is delivered now. */
  async function retryWouldDo(tenantId: string, given: ActivityEvent | string): Promise<z.infer<typeof dryRetry>> {
    let event: ActivityEvent;
    try {
      event = typeof given === 'string' ? eventOf(JSON.parse(given)) : given;
    } catch (error) {
      const problem = error instanceof Refused ? error.message : 'it is not valid JSON';
      return { readable: false, problem, activities: [] };
    }
    const reached = (await everyActivity(activities, tenantId)).flatMap((view) => {
      const definition = parseDefinition(JSON.parse(view.spec));
      if (!storedDefinitionOf(definition).eventTypes.includes(event.type)) return [];
      const match = compileMatcher(definition)(event);
      if (!match.matched) return [{ slug: view.slug, starts: false, reason: match.reason }];
      const off = view.enabled ? (view.status === 'active' ? null : `it is ${view.status}`) : 'it is disabled';
      return [{ slug: view.slug, starts: off === null, reason: off }];
    });
    return { readable: true, problem: null, activities: reached };
  }
}

/** False: somebody else has seen to it meanwhile. */
async function isThere(work: Promise<void>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (error) {
    if (error instanceof RegistryProblem && error.kind === 'not_found') return false;
    throw error;
  }
}

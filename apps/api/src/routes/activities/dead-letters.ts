/** Events that could not be delivered. */
import { eventKeyOf, eventOf, recordOf } from '@milkrun/activity-core/definitions';
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import { pageOf, pagingShape, positionOf, toPage, UUID, uuidParams } from '../../http-conventions.ts';
import type { App } from '../../server.ts';
import { anyObject, READ, reasonBody, refusing, WRITE } from './common.ts';

export function deadLetterRoutes(app: App, { eventDesk }: Registry): void {
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
  app.post(
    '/activity-dead-letters/:id/retry',
    {
      config: WRITE,
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
      config: WRITE,
      schema: { summary: 'Give it up', params: uuidParams, body: reasonBody, response: { 204: z.null() } },
    },
    async (request, reply) => {
      await eventDesk.discard(actorOf(request), request.params.id, request.body.reason);
      return reply.code(204).send(null);
    },
  );
}

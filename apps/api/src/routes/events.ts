/** Routes of stored events. */
import type { Registry } from '@milkrun/registrydb';
import { callerOf } from '../access.ts';
import { idParams, pageOf, positionOf, toPage } from '../http-conventions.ts';
import { eventBody, eventSchema, listEventsQuery } from '../schemas.ts';
import type { App } from '../server.ts';

export function eventRoutes(app: App, { events }: Registry): void {
  const config = { policy: 'events:read' } as const;
  app.get(
    '/events',
    {
      config,
      schema: {
        summary: 'List events, newest first',
        querystring: listEventsQuery,
        response: { 200: pageOf(eventSchema) },
      },
    },
    async (request) => {
      const { limit, cursor, triggerId } = request.query;
      const position = positionOf(cursor, /^\d{1,15}$/);
      const before = position === undefined ? undefined : Number(position);
      const found = await events.list(callerOf(request).tenantId, { limit: limit + 1, triggerId, before });
      return toPage(found, limit, ({ seq }) => String(seq), eventBody);
    },
  );
  app.get(
    '/events/:id',
    { config, schema: { summary: 'One event', params: idParams, response: { 200: eventSchema } } },
    async (request) => eventBody(await events.get(callerOf(request).tenantId, request.params.id)),
  );
}

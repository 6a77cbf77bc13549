/** Events that activities see. */
import { eventKeyOf, eventOf, recordOf } from '@milkrun/activity-core/definitions';
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { callerOf } from '../../access.ts';
import type { App } from '../../server.ts';
import { anyObject, refusing, WRITE } from './common.ts';

export function activityEventRoutes(app: App, { eventDesk }: Registry): void {
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
      const keyed = events.map((event) => ({ event, key: eventKeyOf(event) }));
      const rows = keyed.map(({ event, key }) => ({ key, record: JSON.stringify(recordOf(event)) }));
      await eventDesk.publish(callerOf(request).tenantId, rows);
      return reply.code(202).send({ events: keyed.map(({ event: { id, source }, key }) => ({ id, source, key })) });
    },
  );
}

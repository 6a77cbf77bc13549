/** Types of events: what their data holds, and whether they are approved. */
import { compileEventSchema, eventType } from '@milkrun/activity-core/definitions';
import type { EventTypeView, Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import { humanText, ifVersionOf, pageOf, pagingShape, positionOf, setVersion, toPage } from '../../http-conventions.ts';
import type { App } from '../../server.ts';
import { anyObject, READ, refusal, refusing, WRITE } from './common.ts';

const typeParams = z.strictObject({ type: eventType });
const body = z.strictObject({
  state: z.enum(['draft', 'approved']).default('draft'),
  schema: anyObject.nullable().default(null).describe('JSON Schema 2020-12 of data; enforced once it is approved.'),
  example: z.unknown().optional().describe('Data that fits the schema.'),
  owner: humanText(200).nullable().default(null),
  description: humanText(4_000).nullable().default(null),
});
const shown = z.object({
  type: z.string(),
  state: z.enum(['draft', 'approved']),
  schema: z.unknown(),
  example: z.unknown(),
  owner: z.string().nullable(),
  description: z.string().nullable(),
  version: z.int(),
  created_at: z.string(),
  updated_at: z.string(),
});

const bodyOf = ({ schema, example, createdAt, updatedAt, ...view }: EventTypeView): z.infer<typeof shown> => ({
  ...view,
  schema: schema === null ? null : (JSON.parse(schema) as unknown),
  example: example === null ? null : (JSON.parse(example) as unknown),
  created_at: createdAt,
  updated_at: updatedAt,
});

export function eventTypeRoutes(app: App, { eventTypes }: Registry): void {
  app.get(
    '/activity-event-types',
    {
      config: READ,
      schema: {
        summary: 'Event types, by name',
        querystring: z.strictObject({ ...pagingShape, state: z.enum(['draft', 'approved']).optional() }),
        response: { 200: pageOf(shown) },
      },
    },
    async (request) => {
      const { limit, cursor, state } = request.query;
      const after = positionOf(cursor, /^[a-z0-9.-]{1,200}$/);
      const found = await eventTypes.list(callerOf(request).tenantId, { limit: limit + 1, after, state });
      return toPage(found, limit, ({ type }) => type, bodyOf);
    },
  );
  app.get(
    '/activity-event-types/:type',
    { config: READ, schema: { summary: 'One event type', params: typeParams, response: { 200: shown } } },
    async (request, reply) => {
      const view = await eventTypes.get(callerOf(request).tenantId, request.params.type);
      setVersion(reply, view.version);
      return bodyOf(view);
    },
  );
  app.put(
    '/activity-event-types/:type',
    {
      config: WRITE,
      schema: { summary: 'Register an event type, or change it', params: typeParams, body, response: { 200: shown } },
    },
    async (request, reply) => {
      const { schema, example, ...rest } = request.body;
      if (schema !== null) {
        const wrong = refusing(() => compileEventSchema(schema))(example);
        if (example !== undefined && wrong !== undefined)
          throw refusal([{ path: 'example', message: `does not fit the schema: ${wrong}` }]);
      }
      const write = { ...rest, schema: textOf(schema ?? undefined), example: textOf(example) };
      const view = await eventTypes.put(actorOf(request), request.params.type, write, ifVersionOf(request));
      setVersion(reply, view.version);
      return bodyOf(view);
    },
  );
  app.delete(
    '/activity-event-types/:type',
    {
      config: WRITE,
      schema: { summary: 'Forget an event type; its events stay', params: typeParams, response: { 204: z.null() } },
    },
    async (request, reply) => {
      await eventTypes.remove(actorOf(request), request.params.type, ifVersionOf(request));
      return reply.code(204).send(null);
    },
  );
}

const textOf = (value: unknown): string | null => (value === undefined ? null : JSON.stringify(value));

/**
 * What the engine says of itself, for people with a key of the API: figures, batches, shards, workers, holds, migrations, and
 * the dead letters of the caller's own triggers. Ids of another tenant's triggers and connections are left out.
 */
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { callerOf } from '../access.ts';
import type { EngineClient } from '../engine-client.ts';
import { pageOf, pagingShape, positionOf, toPage } from '../http-conventions.ts';
import { Problem } from '../problems.ts';
import type { App } from '../server.ts';

const items = z.object({ items: z.array(z.looseObject({})) });
const answer = { 200: items };
const LETTER_ID = /^\d{1,18}$/;
const letterSchema = z.object({
  id: z.string(),
  triggerId: z.string().nullable(),
  at: z.string(),
  stage: z.string(),
  code: z.string(),
  reason: z.string(),
  eventId: z.string().nullable(),
});

type Row = Readonly<Record<string, unknown>>;

export function fleetRoutes(app: App, registry: Registry, engine: EngineClient): void {
  const read = { policy: 'fleet:read' } as const;
  const own = { policy: 'events:read' } as const;
  const itemsFrom = async (path: string): Promise<Row[]> => {
    const parsed = items.safeParse(await engine.get(path));
    if (parsed.success) return parsed.data.items;
    throw new Problem(502, 'The engine answered with something else.');
  };

  app.get(
    '/fleet',
    {
      config: read,
      schema: {
        summary: 'Figures of the fleet; engine is null when it does not answer',
        response: { 200: z.unknown() },
      },
    },
    async (request) => {
      const figures = await registry.figures(callerOf(request).tenantId);
      try {
        return { ...figures, engine: await engine.get('/fleet'), engineProblem: null };
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        return { ...figures, engine: null, engineProblem: error.message };
      }
    },
  );
  app.get(
    '/fleet/batches',
    {
      config: read,
      schema: {
        summary: 'Open batches, and with ended=true the last ones that are over',
        querystring: z.strictObject({
          ended: z.stringbool().default(false),
          limit: z.coerce.number().int().min(1).max(500).default(50),
        }),
        response: answer,
      },
    },
    async ({ query: { ended, limit } }) => ({ items: await itemsFrom(`/batches?ended=${ended}&limit=${limit}`) }),
  );
  for (const [name, summary] of [
    ['shards', 'Timer shards: what they serve, when they wake, what is due'],
    ['workers', 'Workers of the last hour'],
  ] as const) {
    app.get(`/fleet/${name}`, { config: read, schema: { summary, response: answer } }, async () => ({
      items: await itemsFrom(`/${name}`),
    }));
  }
  app.get(
    '/fleet/holds',
    { config: read, schema: { summary: 'What is not polled at present, for all workers', response: answer } },
    async (request) => {
      const { tenantId } = callerOf(request);
      const holds = await itemsFrom('/holds');
      const isOwn = (hold: Row): boolean => hold.tenantId === null || hold.tenantId === tenantId;
      return { items: holds.filter((hold) => isOwn(hold) && hold.connectionId === null) };
    },
  );
  app.get(
    '/fleet/migrations',
    {
      config: read,
      schema: {
        summary: 'How many triggers each pipeline owns, and migrations with their progress',
        response: { 200: z.object({ owners: z.record(z.string(), z.int()), ...items.shape }) },
      },
    },
    async () => {
      const { owners, items: migrations } = (await engine.get('/migrations')) as {
        owners: Record<string, number>;
        items: Row[];
      };
      return { owners, items: migrations.map(({ examples: _, ...migration }) => migration) };
    },
  );
  app.get(
    '/dead-letters',
    {
      config: own,
      schema: {
        summary: 'Items and events nobody could use, newest first',
        querystring: z.strictObject(pagingShape),
        response: { 200: pageOf(letterSchema) },
      },
    },
    async (request) => {
      const { limit, cursor } = request.query;
      const before = positionOf(cursor, LETTER_ID);
      const { tenantId } = callerOf(request);
      const asked = new URLSearchParams({ tenantId, limit: String(Math.min(limit + 1, 500)) });
      if (before !== undefined) asked.set('before', before);
      const found = z.array(letterSchema).parse(await itemsFrom(`/dead-letters?${asked}`));
      return toPage(
        found,
        Math.min(limit, 499),
        ({ id }) => id,
        (letter) => letter,
      );
    },
  );
  app.get(
    '/dead-letters/:id',
    {
      config: own,
      schema: {
        summary: 'One with its bytes, in base64',
        params: z.strictObject({ id: z.string().regex(LETTER_ID) }),
        response: { 200: letterSchema.extend({ raw: z.string() }) },
      },
    },
    async (request) => {
      const { id } = request.params;
      const letter = letterSchema.extend({ raw: z.string() }).parse(await engine.get(`/dead-letters/${id}`));
      // Throws not_found for another tenant's trigger, as for one that never was.
      if (letter.triggerId === null) throw new Problem(404, `no dead letter ${id}`);
      await registry.triggers.get(callerOf(request).tenantId, letter.triggerId);
      return letter;
    },
  );
}

/** Routes that move triggers between pipelines; part of the engine's operations API. */
import { isUuid } from '@milkrun/core';
import { MigrationRefused, type Migrations } from '@milkrun/migration';
import type { WorkerDb } from '@milkrun/workerdb';
import type { FastifyInstance } from 'fastify';
import { z } from 'zod';

const LIST_MAX = 50;
const IDS_MAX = 1_000;

const startSchema = z
  .strictObject({
    direction: z.enum(['to_v2', 'to_legacy']),
    triggerIds: z
      .array(z.string().refine(isUuid, { error: 'a trigger id is a UUID in lower case' }))
      .min(1)
      .max(IDS_MAX)
      .optional(),
    tenantId: z.string().min(1).max(128).optional(),
    toolkit: z.string().min(1).max(128).optional(),
    all: z.literal(true).optional(),
    perSecond: z.number().min(0.1).max(1_000).optional(),
    actor: z.string().min(1).max(128).default('engine-api'),
  })
  .refine(({ triggerIds, tenantId, toolkit, all }) => {
    const scoped = tenantId !== undefined || toolkit !== undefined;
    return [triggerIds !== undefined, scoped, all === true].filter(Boolean).length === 1;
  }, 'say what to move: triggerIds, or tenantId and/or toolkit, or all: true');

export function migrationRoutes(
  app: FastifyInstance,
  deps: { readonly migrations: Migrations; readonly db: Pick<WorkerDb, 'handOffs'> },
): void {
  const { migrations, db } = deps;
  const answering = async <T>(work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      if (error instanceof MigrationRefused)
        throw Object.assign(new Error(error.message), { statusCode: error.status });
      throw error;
    }
  };
  const idOf = (params: unknown): string => (params as { id: string }).id;

  app.post('/migrations', async (request, reply) => {
    const { direction, triggerIds, tenantId, toolkit, perSecond, actor } = startSchema.parse(request.body ?? {});
    const id = await answering(() =>
      migrations.start({
        direction,
        scope: { ...(tenantId === undefined ? {} : { tenantId }), ...(toolkit === undefined ? {} : { toolkit }) },
        ...(triggerIds === undefined ? {} : { triggerIds }),
        ...(perSecond === undefined ? {} : { perSecond }),
        actor,
      }),
    );
    return reply.code(202).send({ id });
  });
  app.get('/migrations', async () => ({
    owners: await db.handOffs.owners(),
    items: await answering(() => migrations.list(LIST_MAX)),
  }));
  app.get('/migrations/:id', (request) => answering(() => migrations.get(idOf(request.params))));
  app.post('/migrations/:id/pause', async (request) => {
    await answering(() => migrations.pause(idOf(request.params)));
    return await answering(() => migrations.get(idOf(request.params)));
  });
  app.post('/migrations/:id/resume', async (request) => {
    await answering(() => migrations.resume(idOf(request.params)));
    return await answering(() => migrations.get(idOf(request.params)));
  });
}

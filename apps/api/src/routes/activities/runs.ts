/** Runs of activities. */
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import { pageOf, pagingShape, positionOf, toPage, UUID, uuidParams } from '../../http-conventions.ts';
import type { App } from '../../server.ts';
import { READ, reasonBody, WRITE } from './common.ts';

export function runRoutes(app: App, { activityOperations }: Registry): void {
  app.get(
    '/activity-runs',
    {
      config: READ,
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
      config: READ,
      schema: { summary: 'One run, with its event and context', params: uuidParams, response: { 200: z.unknown() } },
    },
    async (request) => activityOperations.run(callerOf(request).tenantId, request.params.id),
  );
  app.post(
    '/activity-runs/:id/cancel',
    {
      config: WRITE,
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
}

/** Tasks of runs, those for people among them. */
import type { Registry } from '@milkrun/registrydb';
import { z } from 'zod';
import { actorOf, callerOf } from '../../access.ts';
import { pageOf, pagingShape, positionOf, reasonShape, toPage } from '../../http-conventions.ts';
import type { App } from '../../server.ts';
import { READ, WRITE } from './common.ts';

const TASK_ID = /^task-[0-9a-f-]{36}:[\x21-\x7e]{1,200}$/;
const taskParams = z.strictObject({ id: z.string().regex(TASK_ID) });

export function taskRoutes(app: App, { activityOperations }: Registry): void {
  app.get(
    '/activity-tasks',
    {
      config: READ,
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
    { config: READ, schema: { summary: 'One task', params: taskParams, response: { 200: z.unknown() } } },
    async (request) => activityOperations.task(callerOf(request).tenantId, request.params.id),
  );
  for (const [verb, status] of [
    ['complete', 'done'],
    ['fail', 'failed'],
  ] as const) {
    app.post(
      `/activity-tasks/:id/${verb}`,
      {
        config: WRITE,
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
}

/**
 * A55 and A86. A worker that is killed has either not carried out a step, or carried it out and never said so. Here every step
 * is carried out and its first answer lost, so all of them are repeated in one run; and several of each that may be there
 * several times share what there is to do. Processes that are killed are the drills' (`router`, `fan-out`).
 */
import { noLog, noMetrics } from '@milkrun/core';
import { PATIENCE } from '@milkrun/testkit';
import { afterAll, beforeAll, expect, inject, it, vi } from 'vitest';
import { createRouter, drainCommands, startOf } from '../src/index.ts';
import { minimal } from './definitions.ts';
import { openServer } from './run-scene.ts';

let server: Awaited<ReturnType<typeof openServer>>;
const lost = new Set<string>();
/** What a step is given, its place in the workflow's own order aside. */
const callOf = (name: string, given: unknown[]): string => JSON.stringify([name, ...given]);
beforeAll(async () => {
  server = await openServer(inject('temporalAddress'), {
    wrap: (steps) =>
      Object.fromEntries(
        Object.entries(steps).map(([name, step]) => [
          name,
          async (...given: never[]) => {
            const answer = await step(...given);
            const call = callOf(name, given);
            if (lost.has(call)) return answer;
            lost.add(call);
            throw new Error(`the answer of ${name} is lost`);
          },
        ]),
      ),
  });
});
afterAll(async () => {
  await server.close();
});

it('A55: with the first answer of every step lost no task is there twice and none is missing', async () => {
  const scene = await server.scene();
  const { id } = await scene.define(
    minimal({
      context: { names: { static: ['x', 'y', 'z'] } },
      concurrency: { limit: 1 },
      rules: [
        {
          id: 'each',
          for_each: 'context.names',
          task: { type: 'http', title: '${item}', params: { url: `${scene.origin}/jobs`, json: { name: '${item}' } } },
        },
        {
          id: 'child',
          task: { type: 'workflow', params: { workflow: 'Double', queue: scene.queues.runs, args: [21] } },
        },
      ],
    }),
  );
  expect(await (await scene.start(id)).result()).toMatchObject({ status: 'succeeded' });
  const tasks = await scene.tasks();
  expect(tasks.map(({ title, status }) => [title, status])).toMatchObject([
    ['x', 'done'],
    ['y', 'done'],
    ['z', 'done'],
    [expect.any(String), 'done'],
  ]);
  expect(tasks[3]?.result).toBe(42);
  expect(await scene.runs()).toMatchObject([{ status: 'succeeded', tasks_planned: 4, tasks_done: 4, tasks_failed: 0 }]);
  // Whoever is asked twice is asked with the same key.
  const keys = new Set(scene.asked.map(({ key }) => key));
  expect([...keys].sort()).toEqual(
    tasks
      .slice(0, 3)
      .map(({ task_id }) => task_id)
      .sort(),
  );
  const repeated = new Set([...lost].map((call) => (JSON.parse(call) as [string])[0]));
  for (const step of [
    'openRun',
    'admitRun',
    'resolveContext',
    'planRun',
    'openTasks',
    'closeRun',
    'performTask',
    'workflowTask',
  ]) {
    expect(repeated).toContain(step);
  }
  await scene.close();
});

it('A86: several routers, outbox readers, command readers and writers at once make every run and version once', async () => {
  const scene = await server.scene();
  const definition = minimal({ on: [{ event: { type: 'a.b' } }] });
  const { id } = await scene.define(definition);
  const shared = { store: scene.registry.activityRouter, client: scene.client, log: noLog, metrics: noMetrics };
  const routers = [1, 2, 3].map(() => createRouter({ ...shared, taskQueue: scene.queues.runs }));
  const events = Array.from({ length: 20 }, (_, n) => ({
    specversion: '1.0',
    id: `e${n}`,
    source: '/t',
    type: 'a.b',
    data: { n },
  }));
  const deliveries = events.flatMap((event) =>
    routers.map((router) =>
      router.route({
        tenantId: scene.actor.tenantId,
        origin: 'bus',
        raw: Buffer.from(JSON.stringify(event)),
        headers: {},
        streamSeq: null,
        tries: 1,
      }),
    ),
  );
  const edits = [1, 2, 3].map((n) => scene.update(id, { ...definition, description: `edit ${n}` }));
  const { registry, actor, queues, client } = scene;
  // What the API asks for, and what is on the outbox, for as many readers as there are orchestrators.
  const rows = Array.from({ length: 5 }, (_, n) => {
    const event = { specversion: '1.0', id: `o${n}`, source: '/t', type: 'a.b', data: { n } };
    return { key: `o${n}`, record: JSON.stringify(event) };
  });
  await registry.eventDesk.publish(actor.tenantId, rows);
  const ticks = Array.from({ length: 5 }, (_, n) => startOf(id, Date.UTC(2026, 0, 1, n), true));
  await registry.activityOperations.backfill(actor, id, ticks);
  const drains = routers.flatMap((router) => [
    registry.activityRouter.drainOutbox(async ({ tenantId, record }) => {
      const raw = Buffer.from(record);
      await router.route({ tenantId, origin: 'api', raw, headers: {}, streamSeq: null, tries: 1 });
    }, 100),
    drainCommands({ store: registry.activitySchedules, client, log: noLog, taskQueue: queues.runs }),
  ]);
  await Promise.all([...deliveries, ...edits]);
  const drained = await Promise.all(drains);
  expect(drained.reduce((sum, count) => sum + count, 0)).toBe(10);
  await vi.waitFor(async () => {
    const runs = await scene.runs();
    // The ticks are of an activity without a schedule: each says so, once.
    const statuses = runs.map(({ status }) => status as string);
    expect(statuses.filter((status) => status === 'succeeded')).toHaveLength(25);
    expect(statuses.filter((status) => status === 'coalesced')).toHaveLength(5);
    expect(statuses).toHaveLength(30);
  }, PATIENCE);
  expect(await scene.tasks()).toHaveLength(25);
  const versions = await scene.registry.activities.versions(scene.actor.tenantId, id);
  expect(versions.map(({ version }) => version)).toEqual([4, 3, 2, 1]);
  await scene.close();
});

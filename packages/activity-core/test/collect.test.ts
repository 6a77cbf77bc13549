/** When what was collected is handed on, and what the run sees; then on a real Temporal server and registrydb. */
import { noLog, noMetrics } from '@milkrun/core';
import { PATIENCE } from '@milkrun/testkit';
import { afterAll, afterEach, beforeAll, expect, inject, it, vi } from 'vitest';
import { collectedEvent, decideCollect } from '../src/collect.ts';
import { createRouter, type DefinitionInput, parseDefinition, Refused } from '../src/index.ts';
import { minimal } from './definitions.ts';
import { openServer } from './run-scene.ts';

const specOf = (event: object): string =>
  JSON.stringify(parseDefinition(minimal({ on: [{ event: { type: 'a.b', ...event } }] })));
const facts = (event: object, over: object = {}) => ({
  spec: specOf(event),
  entry: 0,
  count: 1,
  firstMs: 1_000,
  lastMs: 4_000,
  nowMs: 5_000,
  ...over,
});

it.each([
  ['a pause that is not over', { debounce: { period: '10s' } }, {}, { waitMs: 9_000 }],
  ['a pause that is over', { debounce: { period: '1s' } }, {}, { take: Number.MAX_SAFE_INTEGER }],
  [
    'never longer than max_wait',
    { debounce: { period: '10s', max_wait: '12s' } },
    { lastMs: 12_000, nowMs: 12_500 },
    { waitMs: 500 },
  ],
  ['a batch that is not full', { batch: { size: 3, max_wait: '1m' } }, { count: 2 }, { waitMs: 56_000 }],
  ['a batch that is full', { batch: { size: 3, max_wait: '1m' } }, { count: 5 }, { take: 3 }],
  ['a batch that has waited', { batch: { size: 3, max_wait: '4s' } }, { count: 2 }, { take: 3 }],
  ['an entry that collects no more', {}, {}, { take: 1_000 }],
])('decides %s', (_, event, over, decision) => {
  expect(decideCollect(facts(event, over))).toEqual(decision);
});

it('shows a thousand events and a mebibyte, with the exact count, and hands the most hops on', () => {
  const records = Array.from({ length: 1_000 }, (_, n) =>
    JSON.stringify({ id: `e${n}`, hops: n % 7, data: 'x'.repeat(2_000) }),
  );
  const made = collectedEvent('a', 'k', 'b', { records, count: 1_234, firstMs: 0, lastMs: 1 });
  const { data, hops } = JSON.parse(made.record);
  expect([data.count, hops]).toEqual([1_234, 6]);
  expect(data.events.length).toBeGreaterThan(400);
  expect(made.record.length).toBeLessThan(1_100_000);
  expect(collectedEvent('a', 'k', 'b', { records, count: 1_234, firstMs: 0, lastMs: 1 }).key).toBe(made.key);
});

it.each([
  [{ debounce: { period: '1s' }, batch: { size: 2 } }, 'on[0].event', 'has debounce and batch; accepted: one of them'],
  [{ deliver: 'signal' }, 'on[0].event.key', 'is for deliver: signal, and needed there'],
  [{ key: 'event.id' }, 'on[0].event.key', 'is for deliver: signal, and needed there'],
  [{ debounce: { period: '2h' } }, 'on[0].event.debounce.max_wait', '1h is less than 2h; nearest accepted: 2h'],
  [{ batch: { size: 2, key: 'item.x' } }, 'on[0].event.batch.key', '"item" is not known here; accepted: event'],
])('refuses %j when it is saved', (event, path, message) => {
  expect(() => specOf(event)).toThrow(Refused);
  try {
    specOf(event);
  } catch (error) {
    expect((error as Refused).problems).toEqual([{ path, message }]);
  }
});

type Scene = Awaited<ReturnType<Awaited<ReturnType<typeof openServer>>['scene']>>;
let server: Awaited<ReturnType<typeof openServer>>;
const scenes: Scene[] = [];
beforeAll(async () => {
  server = await openServer(inject('temporalAddress'));
});
afterEach(async () => {
  await Promise.all(scenes.splice(0).map((scene) => scene.close()));
});
afterAll(async () => {
  await server.close();
});

async function open(event: object, more: object = {}) {
  const scene = await server.scene();
  scenes.push(scene);
  const definition = {
    ...minimal({ on: [{ event: { type: 'a.b', ...event } }] }),
    slug: 'a',
    ...more,
  } as DefinitionInput;
  const { id: activityId } = await scene.define(definition);
  const { registry, client, queues, actor } = scene;
  const router = createRouter({
    store: registry.activityRouter,
    client,
    log: noLog,
    metrics: noMetrics,
    taskQueue: queues.runs,
  });
  const deliver = (id: string, data: unknown = {}) =>
    router.route({
      tenantId: actor.tenantId,
      origin: 'bus',
      raw: Buffer.from(JSON.stringify({ specversion: '1.0', id, source: '/t', type: 'a.b', data })),
      headers: {},
      streamSeq: null,
      tries: 1,
    });
  const statuses = async () => (await scene.runs()).map(({ status }) => status as string);
  return { ...scene, activityId, deliver, statuses };
}

it('a batch is one run over its events in order of arrival, and an event that is delivered again is in it once', async () => {
  const scene = await open({ batch: { key: 'event.data.k', size: 3, max_wait: '1h' } });
  expect(await scene.deliver('e1', { k: 'x' })).toMatchObject({ started: 1, already: 0 });
  await scene.deliver('e1', { k: 'x' });
  await scene.deliver('other', { k: 'y' });
  await scene.deliver('e2', { k: 'x' });
  await scene.deliver('e3', { k: 'x' });
  await vi.waitFor(async () => expect(await scene.statuses()).toEqual(['succeeded']), PATIENCE);
  const [run] = await scene.runs();
  expect(run?.event.data).toMatchObject({
    key: 'collect x',
    count: 3,
    events: [{ id: 'e1' }, { id: 'e2' }, { id: 'e3' }],
  });
  expect(await scene.deliver('e2', { k: 'x' })).toMatchObject({ started: 0, already: 1 });
});

it('debounce is one run once a pause has come', async () => {
  const scene = await open({ debounce: { period: '300ms' } });
  for (const n of [1, 2, 3, 4]) await scene.deliver(`e${n}`);
  await vi.waitFor(async () => {
    const runs = await scene.runs();
    expect(runs.reduce((sum, { event }) => sum + Number(event.data.count), 0)).toBe(4);
    expect(new Set(runs.map(({ status }) => status))).toEqual(new Set(['succeeded']));
  }, PATIENCE);
});

it('A44: an event goes to the run of its key that is open, which plans its tasks too; where none is, it starts one', async () => {
  const rules = [{ id: 'r', task: { type: 'human', title: 'Look at ${event.data.n}' } }];
  const scene = await open({ deliver: 'signal', key: 'event.data.order' }, { rules });
  const titles = async () => (await scene.tasks()).map(({ title, status }) => `${title} ${status}`);
  const complete = async (title: string) => {
    const task = (await scene.tasks()).find((one) => one.title === title);
    await scene.registry.activityOperations.completeTask(scene.actor, task?.task_id, {
      status: 'done',
      result: null,
      reason: undefined,
    });
    await scene.client.workflow.getHandle(task?.task_id).signal('taskDone');
  };
  await scene.deliver('e1', { order: 7, n: 1 });
  await vi.waitFor(async () => expect(await titles()).toEqual(['Look at 1 waiting']), PATIENCE);
  await scene.deliver('e2', { order: 7, n: 2 });
  await scene.deliver('e2', { order: 7, n: 2 });
  await vi.waitFor(async () => expect(await titles()).toEqual(['Look at 1 waiting', 'Look at 2 waiting']), PATIENCE);
  await scene.deliver('e3', { order: 8, n: 3 });
  await vi.waitFor(async () => expect(await scene.statuses()).toEqual(['running', 'running']), PATIENCE);
  await complete('Look at 1');
  await complete('Look at 2');
  await vi.waitFor(async () => expect((await scene.statuses()).sort()).toEqual(['running', 'succeeded']), PATIENCE);
  const closed = (await scene.runs()).find(({ status }) => status === 'succeeded');
  expect(closed).toMatchObject({ tasks_planned: 2, tasks_done: 2 });
  // After its end: what it had is known, what is new opens the next run of the key.
  expect(await scene.deliver('e2', { order: 7, n: 2 })).toMatchObject({ started: 0, already: 1 });
  await scene.deliver('e4', { order: 7, n: 4 });
  await vi.waitFor(async () => expect(await titles()).toContain('Look at 4 waiting'), PATIENCE);
  expect(await scene.runs()).toHaveLength(3);
});

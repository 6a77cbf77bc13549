/** The router on a real Temporal server and registrydb: every event starts what waits for it, once, whoever delivers it how often. */

import { noLog, noMetrics } from '@milkrun/core';
import type {} from '@milkrun/testkit';
import { PATIENCE } from '@milkrun/testkit';
import { afterAll, afterEach, beforeAll, expect, inject, it, vi } from 'vitest';
import { createRouter, type DefinitionInput, natsHeadersOf } from '../src/index.ts';
import { minimal } from './definitions.ts';
import { openServer } from './run-scene.ts';

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

const waitsFor = (slug: string, event: object, more: object = {}): DefinitionInput =>
  ({ ...minimal({ on: [{ event: { type: 'a.b', ...event } }] }), slug, ...more }) as DefinitionInput;
const eventOf = (id: string, data: unknown = {}, more: object = {}) => ({
  specversion: '1.0',
  id,
  source: '/test',
  type: 'a.b',
  data,
  ...more,
});

async function open() {
  const scene = await server.scene();
  scenes.push(scene);
  const { registry, client, queues, actor } = scene;
  let seq = 0;
  const routerWith = (broken?: { starts: number }) =>
    createRouter({
      store: registry.activityRouter,
      client:
        broken === undefined
          ? client
          : ({
              workflow: {
                start: (...given: Parameters<typeof client.workflow.start>) => {
                  broken.starts -= 1;
                  return broken.starts >= 0
                    ? client.workflow.start(...given)
                    : Promise.reject(Object.assign(new Error('down'), { code: 14 }));
                },
              },
            } as typeof client),
      log: noLog,
      metrics: noMetrics,
      taskQueue: queues.runs,
    });
  const raw = (value: unknown): Uint8Array => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
  return {
    ...scene,
    routerWith,
    deliver: (value: unknown, router = routerWith(), headers: Record<string, string> = {}) => {
      seq += 1;
      return router.route({
        tenantId: actor.tenantId,
        origin: 'bus',
        raw: raw(value),
        headers,
        streamSeq: seq,
        tries: 1,
      });
    },
    statuses: async () => (await scene.runs()).map(({ status }) => status as string),
    letters: () => registry.eventDesk.list(actor.tenantId, { limit: 10, open: true }),
    matchesOf: async (id: string) => {
      const [row] =
        await scene.sql`select matches from activity_events where tenant_id = ${actor.tenantId} and id = ${id}`;
      return row?.matches;
    },
  };
}

it('A33: all enabled activities that match start, disabled ones do not, and each reason is kept', async () => {
  const scene = await open();
  const [a, b, c, d] = [
    await scene.define(waitsFor('a', {})),
    await scene.define(waitsFor('b', { filters: { n: 1 } })),
    await scene.define(waitsFor('c', { filters: { n: 2 } })),
    await scene.define(waitsFor('d', {}, { enabled: false })),
  ];
  await scene.define(waitsFor('other', { type: 'x.y' }));
  expect(await scene.deliver(eventOf('e1', { n: 1 }))).toEqual({ result: 'routed', started: 2, already: 0 });
  await vi.waitFor(async () => expect(await scene.statuses()).toEqual(['succeeded', 'succeeded']), PATIENCE);
  expect((await scene.runs()).map(({ activity_id }) => activity_id).sort()).toEqual([a.id, b.id].sort());
  expect(await scene.matchesOf('e1')).toEqual([
    { activityId: a.id, version: 1, result: 'matched', reason: null },
    { activityId: b.id, version: 1, result: 'matched', reason: null },
    { activityId: c.id, version: 1, result: 'unmatched', reason: 'filters.n: is 1, wanted 2' },
    { activityId: d.id, version: 1, result: 'disabled', reason: null },
  ]);
});

it('A34 A35: a second delivery starts nothing and is success', async () => {
  const scene = await open();
  await scene.define(waitsFor('a', {}));
  expect(await scene.deliver(eventOf('e1'))).toMatchObject({ started: 1, already: 0 });
  expect(await scene.deliver(eventOf('e1'))).toMatchObject({ started: 0, already: 1 });
  await vi.waitFor(async () => expect(await scene.statuses()).toEqual(['succeeded']), PATIENCE);
});

it('A36 A37: a start that fails is no success; the next delivery starts what is missing, and only that', async () => {
  const scene = await open();
  await scene.define(waitsFor('a', {}));
  await scene.define(waitsFor('b', {}));
  await expect(scene.deliver(eventOf('e1'), scene.routerWith({ starts: 1 }))).rejects.toThrow('down');
  expect(await scene.deliver(eventOf('e1'))).toMatchObject({ started: 1, already: 1 });
  await vi.waitFor(async () => expect(await scene.statuses()).toEqual(['succeeded', 'succeeded']), PATIENCE);
});

it('A31: what is no event goes to dead letters with its bytes, and the next one is routed', async () => {
  const scene = await open();
  await scene.define(waitsFor('a', {}));
  expect(await scene.deliver('{"not":')).toMatchObject({ result: 'dead', stage: 'decode' });
  expect(await scene.deliver({ id: 'x' })).toMatchObject({ result: 'dead', stage: 'decode' });
  expect(await scene.deliver(eventOf('e1'))).toMatchObject({ result: 'routed', started: 1 });
  expect((await scene.letters()).map(({ stage, raw }) => [stage, raw])).toEqual([
    ['decode', '{"id":"x"}'],
    ['decode', '{"not":'],
  ]);
});

it('c.3: an event with a known id and another body is a conflict; the 17th hop is a loop', async () => {
  const scene = await open();
  await scene.define(waitsFor('a', {}));
  await scene.deliver(eventOf('e1', { n: 1 }));
  expect(await scene.deliver(eventOf('e1', { n: 2 }))).toMatchObject({ result: 'dead', stage: 'conflict' });
  expect(await scene.deliver(eventOf('e2', {}, { hops: 17 }))).toMatchObject({ result: 'dead', stage: 'loop' });
  await vi.waitFor(async () => expect(await scene.statuses()).toEqual(['succeeded']), PATIENCE);
});

it('A40: a new or changed definition takes effect with the next event', async () => {
  const scene = await open();
  const router = scene.routerWith();
  expect(await scene.deliver(eventOf('e1'), router)).toMatchObject({ started: 0 });
  const { id } = await scene.define(waitsFor('a', { filters: { n: 1 } }));
  expect(await scene.deliver(eventOf('e2', { n: 1 }), router)).toMatchObject({ started: 1 });
  await scene.update(id, waitsFor('a', { filters: { n: 2 } }));
  expect(await scene.deliver(eventOf('e3', { n: 1 }), router)).toMatchObject({ started: 0 });
  expect(await scene.deliver(eventOf('e4', { n: 2 }), router)).toMatchObject({ started: 1 });
  // Two workflows side by side: either may open its run first.
  await vi.waitFor(
    async () => expect((await scene.runs()).map(({ version_used }) => version_used).toSorted()).toEqual([1, 2]),
    PATIENCE,
  );
});

it('A39: two routers at once start each run once', async () => {
  const scene = await open();
  await scene.define(waitsFor('a', {}));
  const routers = [scene.routerWith(), scene.routerWith()] as const;
  const results = await Promise.all(routers.map((router) => scene.deliver(eventOf('e1'), router)));
  expect(results.map((one) => (one.result === 'routed' ? one.started : -1)).sort()).toEqual([0, 1]);
});

it('A30: binary and structured messages are the same event, non-ASCII included', async () => {
  const scene = await open();
  await scene.define(waitsFor('a', { where: 'event.subject == "größe 100%" && event.hops == 3' }));
  const record = { ...eventOf('e1', { n: 1 }), subject: 'größe 100%', hops: 3, datacontenttype: 'application/json' };
  const { headers, data } = natsHeadersOf(record);
  expect(headers['ce-subject']).toBe('gr%C3%B6%C3%9Fe%20100%25');
  expect(await scene.deliver(data, undefined, headers as Record<string, string>)).toMatchObject({ started: 1 });
  expect(await scene.deliver(record, undefined, { 'content-type': 'application/cloudevents+json' })).toMatchObject({
    started: 0,
    already: 1,
  });
});

it('events of tasks and retried dead letters leave the outbox once they were routed', async () => {
  const scene = await open();
  const emit = { type: 'event', params: { type: 'a.b', data: { from: 'task' } } };
  const maker = await scene.define({ ...minimal({ rules: [{ id: 'r', task: emit }] }), slug: 'maker' });
  await scene.define(waitsFor('a', {}));
  await (await scene.start(maker.id)).result();
  await scene.deliver('{"broken');
  const [letter] = await scene.letters();
  const mended = JSON.stringify(eventOf('mended'));
  await scene.registry.eventDesk.retry(scene.actor, letter?.id as string, { key: 'mended', record: mended });
  const router = scene.routerWith();
  await scene.registry.activityRouter.drainOutbox(async ({ tenantId, record }) => {
    if (tenantId !== scene.actor.tenantId) return;
    await router.route({ tenantId, origin: 'task', raw: Buffer.from(record), headers: {}, streamSeq: null, tries: 1 });
  }, 100);
  await vi.waitFor(
    async () => expect(await scene.statuses()).toEqual(['succeeded', 'succeeded', 'succeeded']),
    PATIENCE,
  );
  expect(await scene.outbox()).toEqual([]);
  expect(await scene.letters()).toEqual([]);
});

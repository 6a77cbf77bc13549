/** Hostile and broken input: refused as the sender's fault, alone, and never with a 500. */
import { eventIdOf } from '@milkrun/core';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { startTestApi } from './api.ts';

it.each([
  ['NUL in a name', { name: 'a\u0000b' }],
  ['a lone surrogate in a name', { name: '\ud800' }],
  ['NUL in the configuration', { config: { a: '\u0000' } }],
  ['a configuration that is a list', { config: [] }],
  ['a configuration over 64 KiB', { config: { a: 'x'.repeat(70_000) } }],
  ['a configuration 200 levels deep', { config: JSON.parse(`${'{"a":'.repeat(200)}1${'}'.repeat(200)}`) }],
  ['an interval beyond all years', { intervalSeconds: 1e18 }],
  ['a number as text', { intervalSeconds: '60' }],
  ['a date that does not exist', { since: '2026-02-30T00:00:00Z' }],
  ['the year 0', { since: '0000-01-01T00:00:00Z' }],
  ['an id with a line end', { slug: 'a\nb' }],
  ['51 tags', { tags: Array.from({ length: 51 }, (_, n) => `t${n}`) }],
])('refuses %s with 400', async (_name, own) => {
  await using test = await startTestApi();
  const reply = await test.call('POST', '/triggers', test.triggerBody(own));
  expect(reply.status).toBe(400);
  expect(reply.body.errors[0].path).toBe(Object.keys(own)[0]);
});

it('answers whatever JSON comes with a status below 500, on every route that takes a body', async () => {
  await using test = await startTestApi();
  const { id } = await test.createTrigger();
  const paths = ['/triggers', `/triggers/${id}/rewind`, '/connections', '/api-keys'];
  const own = fc.record(
    {
      toolkit: fc.anything(),
      config: fc.anything(),
      credentials: fc.anything(),
      cursor: fc.anything(),
      name: fc.anything(),
    },
    { requiredKeys: [] },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...paths),
      fc.oneof(
        fc.json(),
        own.map((value) => safeText(value)),
      ),
      async (path, body) => {
        expect((await test.call('POST', path, body)).status).toBeLessThan(500);
      },
    ),
    { numRuns: 150 },
  );
  await fc.assert(
    fc.asyncProperty(fc.constantFrom('/state', '/conn/batch'), fc.json(), async (path, body) => {
      expect((await test.engine('POST', path, body)).status).toBeLessThan(500);
    }),
    { numRuns: 100 },
  );
});

function safeText(value: unknown): string {
  try {
    return JSON.stringify(value) ?? 'null';
  } catch {
    return 'null';
  }
}

it('refuses what is no JSON, too large, or of another type', async () => {
  await using test = await startTestApi();
  expect((await test.call('POST', '/triggers', '{"a":')).status).toBe(400);
  expect((await test.call('POST', '/triggers', `{"a":"${'x'.repeat(300_000)}"}`)).status).toBe(413);
  expect((await test.engine('POST', '/state', `{"a":"${'x'.repeat(5_000_000)}"}`)).status).toBe(413);
  const form = { headers: { 'content-type': 'application/x-www-form-urlencoded' } };
  expect((await test.call('POST', '/triggers', 'a=1', form)).status).toBe(415);
  expect((await test.call('GET', '/triggers/not-a-uuid')).status).toBe(400);
  expect((await test.call('GET', '/nowhere')).body).toMatchObject({ status: 404, title: 'Not found' });
});

it('is not polluted by __proto__', async () => {
  await using test = await startTestApi();
  const body = JSON.stringify(test.triggerBody()).replace('{', '{"__proto__":{"enabled":false},');
  expect((await test.call('POST', '/triggers', body)).body.enabled).toBe(true);
  expect(({} as { enabled?: unknown }).enabled).toBeUndefined();
});

it('refuses one bad event alone and leaves nothing of its trigger half stored', async () => {
  await using test = await startTestApi();
  const [a, b] = [(await test.createTrigger()).id, (await test.createTrigger()).id];
  const event = (triggerId: string, key: string, more: object = {}) => ({
    specversion: '1.0',
    id: eventIdOf(triggerId, key),
    source: `/triggers/${triggerId}`,
    type: 'dev.milkrun.item',
    triggerid: triggerId,
    ...more,
  });
  const send = async (events: unknown[]) => {
    const result = (triggerId: string, own: unknown[]) => ({
      triggerId,
      leaseEpoch: 1,
      triggerVersion: '1',
      events: own,
      last: true,
    });
    const results = [result(a, events), result(b, [event(b, 'good')])];
    return (await test.engine('POST', '/state', { batchId: 'b', results, lifecycle: [] })).body.results;
  };
  for (const bad of [
    event(a, 'x', { data: '\u0000' }),
    event(a, 'x', { data: '\ud800' }),
    event(a, 'x', { triggerid: b }),
    event(a, 'x', { type: '' }),
    event(a, 'x', { time: 'yesterday' }),
  ]) {
    expect(await send([event(a, 'first'), bad])).toEqual([
      { triggerId: b, status: 'accepted' },
      { triggerId: a, status: 'rejected', eventId: eventIdOf(a, 'x'), reason: expect.any(String) },
    ]);
  }
  expect(await send([17])).toContainEqual({ triggerId: a, status: 'rejected', reason: expect.any(String) });
  const { items } = (await test.call('GET', '/events')).body;
  expect(items.map(({ id }: { id: string }) => id)).toEqual([eventIdOf(b, 'good')]);
});

it('stores an event once over simultaneous duplicates of a call', async () => {
  await using test = await startTestApi();
  const { id } = await test.createTrigger();
  const events = Array.from({ length: 40 }, (_, n) => ({
    specversion: '1.0',
    id: eventIdOf(id, `k${n}`),
    source: `/triggers/${id}`,
    type: 'dev.milkrun.item',
    triggerid: id,
  }));
  const results = [{ triggerId: id, leaseEpoch: 1, triggerVersion: '1', events, last: true }];
  const replies = await Promise.all(
    Array.from({ length: 10 }, () => test.engine('POST', '/state', { batchId: 'b', results, lifecycle: [] })),
  );
  expect(replies.map(({ body }) => body.results)).toEqual(replies.map(() => [{ triggerId: id, status: 'accepted' }]));
  expect((await test.call('GET', '/events?limit=500')).body.items).toHaveLength(40);
  const stored = test.metrics
    .snapshot()
    .series.find(({ name, tags }) => name === 'api.events_stored' && tags.outcome === 'stored');
  expect(stored).toMatchObject({ value: 40 });
});

it('lets a waiting reader go when the process ends, and is not ready then', async () => {
  const test = await startTestApi();
  const { next } = (await test.engine('GET', '/triggers/changes')).body;
  const waiting = test.engine('GET', `/triggers/changes?after=${next}&wait=20`).catch(() => undefined);
  expect((await test.call('GET', '/readyz')).status).toBe(200);
  await test.api.close();
  expect((await waiting)?.status ?? 200).toBe(200);
});

it('tells health, readiness and metrics without a key', async () => {
  await using test = await startTestApi();
  expect((await test.call('GET', '/healthz', undefined, { key: '' })).body).toEqual({ status: 'ok' });
  expect((await test.call('GET', '/readyz', undefined, { key: '' })).body).toEqual({ status: 'ready' });
  expect((await test.call('GET', '/metrics', undefined, { key: '' })).text).toContain('api_requests_total');
});

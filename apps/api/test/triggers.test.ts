/** People's API of triggers, connections and events, over HTTP on a real database. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { decodePollState, eventIdOf, Secret } from '@milkrun/core';
import { expect, it } from 'vitest';
import { startTestApi } from './api.ts';

it('creates a trigger once per deduplicationKey, and changes it by the same request', async () => {
  await using test = await startTestApi();
  const body = test.triggerBody({ deduplicationKey: 'zod', name: 'zod releases', tags: ['a'] });
  const first = await test.call('POST', '/triggers', body);
  expect(first.status).toBe(201);
  expect(first.headers.etag).toBe('"1"');
  expect(first.body).toMatchObject({
    name: 'zod releases',
    enabled: true,
    primed: false,
    version: '1',
    status: { state: 'active' },
  });
  const second = await test.call('POST', '/triggers', { ...body, intervalSeconds: 60 });
  expect(second.status).toBe(200);
  expect(second.body).toMatchObject({ id: first.body.id, intervalSeconds: 60, configVersion: 2 });
});

it('takes what another poller remembers with a new trigger, and shows who polls it', async () => {
  await using test = await startTestApi();
  const state = { cursor: { page: 3 }, seenKeys: ['a'] };
  const made = await test.call('POST', '/triggers', test.triggerBody({ state }));
  expect([made.status, made.body.primed]).toEqual([201, true]);
  expect((await test.call('GET', `/triggers/${made.body.id}`)).body).toMatchObject({
    pipeline: { name: 'v2', movingTo: null, migration: null, since: null },
    moves: [],
  });
  const [change] = (await test.engine('GET', '/triggers/changes')).body.changes;
  expect(decodePollState(change.pollState)).toMatchObject({ cursor: '{"page":3}' });
  for (const refused of [
    { state, poll: { dedupe: 'hash' } },
    { state: { cursor: null, seenKeys: [''] } },
    { state: { seenKeys: ['a'] } },
    { state: { cursor: null, seenKeys: Array.from({ length: 5_001 }, (_, n) => `k${n}`) } },
  ]) {
    expect((await test.call('POST', '/triggers', test.triggerBody(refused))).status).toBe(400);
  }
});

it('creates and changes many at once, all or none, beside single requests with the same keys', async () => {
  await using test = await startTestApi();
  const body = (n: number, own: object = {}) => test.triggerBody({ deduplicationKey: `key-${n}`, ...own });
  const numbers = Array.from({ length: 1000 }, (_, n) => n);
  const bulk = (triggers: object[]) => test.call('POST', '/triggers/bulk', { triggers });
  const [first, again, single] = await Promise.all([
    bulk(numbers.map((n) => body(n))),
    bulk(numbers.toReversed().map((n) => body(n))),
    test.call('POST', '/triggers', body(7)),
  ]);
  expect([first.status, again.status, single.status]).toEqual([200, 200, expect.any(Number)]);
  const ids = first.body.triggers.map(({ id }: { id: string }) => id);
  expect(again.body.triggers.map(({ id }: { id: string }) => id)).toEqual(ids.toReversed());
  expect(ids[7]).toBe(single.body.id);
  const made = [...first.body.triggers, ...again.body.triggers].filter(({ created }) => created).length;
  expect(made + (single.status === 201 ? 1 : 0)).toBe(1000);

  const mixed = await bulk([body(3, { intervalSeconds: 60 }), body(1000), test.triggerBody()]);
  expect(mixed.body.triggers.map(({ created }: { created: boolean }) => created)).toEqual([false, true, true]);
  expect((await test.call('GET', `/triggers/${ids[3]}`)).body).toMatchObject({ intervalSeconds: 60, configVersion: 2 });

  const elsewhere = await bulk([body(2000), body(2001, { connectionId: 'conn_none' })]);
  expect([elsewhere.status, elsewhere.body.errors[0].path]).toEqual([422, 'triggers[1].connectionId']);
  expect((await test.call('GET', '/triggers?deduplicationKey=key-2000')).body.items).toEqual([]);
  const twice = await bulk([body(1), body(1)]);
  expect([twice.status, twice.body.errors[0].path]).toEqual([400, 'triggers[1].deduplicationKey']);
  expect((await bulk(Array.from({ length: 1001 }, () => test.triggerBody()))).status).toBe(400);

  const told = new Set<string>();
  for (let after = ''; ; ) {
    const page = (await test.engine('GET', `/triggers/changes?limit=1000${after}`)).body;
    for (const change of page.changes) told.add(change.triggerId);
    if (!page.more) break;
    after = `&after=${encodeURIComponent(page.next)}`;
  }
  expect([told.size, ids.every((id: string) => told.has(id))]).toEqual([1002, true]);
});

it('keeps the digits of numbers in a configuration', async () => {
  await using test = await startTestApi();
  const body = JSON.stringify(test.triggerBody()).replace('{"package":"zod"}', '{"id":12345678901234567890}');
  const made = await test.call('POST', '/triggers', body);
  expect((await test.call('GET', `/triggers/${made.body.id}`)).text).toContain('"config":{"id":12345678901234567890}');
  expect((await test.engine('GET', '/triggers/changes')).text).toContain('"config":{"id":12345678901234567890}');
});

it('pages through triggers and filters them', async () => {
  await using test = await startTestApi();
  for (let n = 0; n < 7; n += 1) await test.createTrigger({ tags: [n % 2 === 0 ? 'even' : 'odd'] });
  const ids: string[] = [];
  let cursor = '';
  do {
    const page = (await test.call('GET', `/triggers?limit=3${cursor}`)).body;
    ids.push(...page.items.map(({ id }: { id: string }) => id));
    cursor = page.next === null ? '' : `&cursor=${page.next}`;
  } while (cursor !== '');
  expect(new Set(ids).size).toBe(7);
  expect((await test.call('GET', '/triggers?tag=odd')).body.items).toHaveLength(3);
  expect((await test.call('GET', '/triggers?state=disabled')).body.items).toHaveLength(0);
  expect((await test.call('GET', '/triggers?cursor=bm9wZQ')).status).toBe(400);
});

it('says who turned a trigger off, why and since when, and what turns it on', async () => {
  await using test = await startTestApi();
  const { id } = await test.createTrigger();
  const off = await test.call('POST', `/triggers/${id}/disable`, { reason: 'holiday' });
  expect(off.body.status).toMatchObject({
    state: 'disabled',
    by: expect.stringContaining('first key'),
    reason: 'holiday',
    ends: ['enable the trigger'],
  });
  await test.call('POST', `/triggers/${id}/enable`);
  const at = '2026-01-01T00:00:00.000Z';
  const lifecycle = [{ triggerId: id, configVersion: 3, state: 'halted', code: 'auth.revoked', at }];
  const sent = await test.engine('POST', '/state', { batchId: 'b', results: [], lifecycle });
  expect(sent.body.lifecycle).toEqual([{ triggerId: id, at }]);
  const { status } = (await test.call('GET', `/triggers/${id}`)).body;
  expect(status).toMatchObject({ state: 'halted', code: 'auth.revoked', since: at, by: 'engine' });
  expect(status.meaning).toContain('revoked');
  expect(status.ends[0]).toBe('renew the connection’s credentials');
  expect((await test.call('POST', `/triggers/${id}/resume`, { from: 'now' })).body.status.state).toBe('active');
  const { items } = (await test.call('GET', `/triggers/${id}/audit`)).body;
  expect(items.map(({ action }: { action: string }) => action)).toEqual(['resumed', 'enabled', 'disabled', 'created']);
});

it('sends verbs to the engine by the feed', async () => {
  await using test = await startTestApi();
  const { id } = await test.createTrigger();
  const next = async (after?: string) =>
    (await test.engine('GET', `/triggers/changes${after ? `?after=${after}` : ''}`)).body;
  let cursor = (await next()).next;
  const told = async () => {
    const page = await next(cursor);
    cursor = page.next;
    return page.changes;
  };
  await test.call('POST', `/triggers/${id}/poll-now`);
  expect(await told()).toMatchObject([{ triggerId: id, pollNow: true, configVersion: 2 }]);
  await test.call('POST', `/triggers/${id}/rewind`, { cursor: { page: 4 } });
  expect(await told()).toMatchObject([{ cursor: { page: 4 }, configVersion: 3 }]);
  await test.call('POST', `/triggers/${id}/rewind`, { since: '2026-01-01T00:00:00Z' });
  expect(await told()).toMatchObject([{ cursor: null, resume: 'now', since: '2026-01-01T00:00:00.000Z' }]);
  await test.call('POST', `/triggers/${id}/disable`);
  expect(await told()).toMatchObject([{ enabled: false }]);
  await test.call('POST', `/triggers/${id}/enable`, { resume: 'now' });
  expect(await told()).toMatchObject([{ enabled: true, resume: 'now' }]);
  await test.call('DELETE', `/triggers/${id}`);
  expect(await told()).toEqual([{ op: 'delete', triggerId: id, configVersion: 7 }]);
  expect((await test.call('GET', `/triggers/${id}`)).status).toBe(404);
  expect((await test.call('POST', `/triggers/${id}/rewind`, {})).status).toBe(400);
});

it('refuses an update of what was changed in between', async () => {
  await using test = await startTestApi();
  const { id } = await test.createTrigger();
  const patch = (etag: string, name: string) =>
    test.call('PATCH', `/triggers/${id}`, { name }, { headers: { 'if-match': etag } });
  expect((await patch('"1"', 'one')).headers.etag).toBe('"2"');
  expect((await patch('"1"', 'two')).status).toBe(412);
  expect((await patch('1', 'two')).status).toBe(400);
  expect((await test.call('DELETE', `/triggers/${id}`, undefined, { headers: { 'if-match': '"9"' } })).status).toBe(
    412,
  );
});

it('runs a request with an Idempotency-Key once, also when it is sent twice at once', async () => {
  await using test = await startTestApi();
  const send = (body: object) => test.call('POST', '/triggers', body, { headers: { 'idempotency-key': 'k1' } });
  const both = await Promise.all([send(test.triggerBody()), send(test.triggerBody())]);
  const again = await send(test.triggerBody());
  const made = both.find(({ status }) => status === 201);
  expect(again.headers['idempotent-replayed']).toBe('true');
  expect([again.status, again.body.id, again.headers.etag]).toEqual([201, made?.body.id, '"1"']);
  expect(both.every(({ status }) => status === 201 || status === 409)).toBe(true);
  expect((await test.call('GET', '/triggers')).body.items).toHaveLength(1);
  expect((await send(test.triggerBody({ slug: 'other' }))).status).toBe(422);
  const bad = { headers: { 'idempotency-key': 'k2' } };
  expect((await test.call('POST', '/triggers', {}, bad)).status).toBe(400);
  expect((await test.call('POST', '/triggers', test.triggerBody(), bad)).status).toBe(201);
});

it('names the wrong field, what is accepted, and the nearest name of a misspelt one', async () => {
  await using test = await startTestApi();
  const misspelt = await test.call('POST', '/triggers', {
    ...test.triggerBody(),
    intervalSecond: 5,
    poll: { dedup: 'hash' },
  });
  expect(misspelt.headers['content-type']).toContain('application/problem+json');
  expect(misspelt.body).toMatchObject({ status: 400, title: 'The request is not valid' });
  expect(misspelt.body.errors).toEqual([
    { path: 'poll.dedup', message: 'unknown field; did you mean dedupe?' },
    { path: 'intervalSecond', message: 'unknown field; did you mean intervalSeconds?' },
  ]);
  const wrong = await test.call(
    'POST',
    '/triggers',
    test.triggerBody({ poll: { dedupe: 'magic' }, intervalSeconds: 0 }),
  );
  expect(wrong.body.errors.map(({ path }: { path: string }) => path).sort()).toEqual([
    'intervalSeconds',
    'poll.dedupe',
  ]);
  expect(JSON.stringify(wrong.body.errors)).toContain('watermark');
  const unknown = await test.call('POST', '/triggers', test.triggerBody({ connectionId: 'conn_x' }));
  expect(unknown.body).toMatchObject({ status: 422, errors: [{ path: 'connectionId' }] });
});

it('takes credentials and never shows them', async () => {
  await using test = await startTestApi();
  for (const credentials of [
    { type: 'none' },
    { type: 'api_key', apiKey: 'canary-1', header: 'x-key' },
    { type: 'basic', username: 'u', password: 'canary-2' },
    { type: 'bearer', token: 'canary-3' },
  ]) {
    const made = await test.call('POST', '/connections', { toolkit: 'npm', name: 'n', credentials });
    expect(made.status).toBe(201);
    expect(made.text).not.toContain('canary');
    const ask = [{ connectionId: made.body.id, tenantId: 'default', toolkit: 'npm', triggerIds: [] }];
    const { connections } = (await test.engine('POST', '/conn/batch', { connections: ask })).body;
    expect(connections).toMatchObject([{ connectionId: made.body.id, status: 'active', auth: credentials }]);
  }
  expect((await test.call('GET', '/connections')).text).not.toContain('canary');
  expect((await test.call('POST', '/connections', { toolkit: 'n', credentials: { type: 'magic' } })).status).toBe(400);
});

it('keeps a connection that triggers use, and answers one that is gone as not found', async () => {
  await using test = await startTestApi();
  const { id } = await test.createTrigger();
  expect((await test.call('DELETE', `/connections/${test.connectionId}`)).status).toBe(409);
  await test.call('DELETE', `/triggers/${id}`);
  expect((await test.call('DELETE', `/connections/${test.connectionId}`)).status).toBe(204);
  const ask = [{ connectionId: test.connectionId, tenantId: 'default', toolkit: 'npm', triggerIds: [] }];
  expect((await test.engine('POST', '/conn/batch', { connections: ask })).body.connections).toMatchObject([
    { status: 'not_found' },
  ]);
});

it('lists events newest first, by page and by trigger, as they came', async () => {
  await using test = await startTestApi();
  const [a, b] = [(await test.createTrigger()).id, (await test.createTrigger()).id];
  const event = (id: string, n: number) => ({
    specversion: '1.0',
    id: eventIdOf(id, `k${n}`),
    source: `/triggers/${id}`,
    type: 'dev.milkrun.item',
    triggerid: id,
    data: { n },
  });
  const result = (id: string, count: number) => ({
    triggerId: id,
    leaseEpoch: 1,
    triggerVersion: '1',
    events: Array.from({ length: count }, (_, n) => event(id, n)),
    last: true,
  });
  await test.engine('POST', '/state', { batchId: 'b', results: [result(a, 5), result(b, 1)], lifecycle: [] });
  const first = (await test.call('GET', `/events?triggerId=${a}&limit=3`)).body;
  const second = (await test.call('GET', `/events?triggerId=${a}&limit=3&cursor=${first.next}`)).body;
  expect([first.items.length, second.items.length, second.next]).toEqual([3, 2, null]);
  const { id } = event(b, 0);
  expect((await test.call('GET', `/events/${id}`)).body).toMatchObject({ id, triggerId: b, event: event(b, 0) });
  expect((await test.call('GET', '/events/evt_none')).status).toBe(404);
});

it('asks the engine to explain, and says so when there is none', async () => {
  const server = createServer((request, response) => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ url: request.url, key: request.headers.authorization }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    const engineUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    await using test = await startTestApi({ engineUrl, engineKey: new Secret('the-engine-key-itself') });
    const { id } = await test.createTrigger();
    expect((await test.call('GET', `/triggers/${id}/explain`)).body).toEqual({
      url: `/triggers/${id}/explain`,
      key: 'Bearer the-engine-key-itself',
    });
    expect((await test.call('GET', '/fleet')).body).toMatchObject({
      triggers: 1,
      enabled: 1,
      engine: { url: '/fleet' },
    });
  } finally {
    server.close();
  }
  await using alone = await startTestApi();
  const { id } = await alone.createTrigger();
  expect((await alone.call('GET', `/triggers/${id}/explain`)).body).toMatchObject({
    status: 503,
    detail: expect.stringContaining('ENGINE_URL'),
  });
  expect((await alone.call('GET', '/fleet')).body).toMatchObject({ engine: null, triggers: 1 });
});

/** Events over HTTP: their types, signed webhooks, replay, and many dead letters at once. */
import { createHmac } from 'node:crypto';
import postgres from 'postgres';
import { expect, it } from 'vitest';
import { startTestApi } from './api.ts';

const event = (id: string, data: unknown = {}, type = 'a.b') => ({ specversion: '1.0', id, source: '/t', type, data });
const TYPES = '/activity-event-types';
const schema = { type: 'object', properties: { n: { type: 'integer', minimum: 1 } }, required: ['n'] };

it('A43: an approved type’s schema is enforced, a draft’s is not; the switch refuses what was not approved', async () => {
  await using test = await startTestApi();
  const publish = (...events: object[]) => test.call('POST', '/activity-events', { events });
  expect((await test.call('PUT', `${TYPES}/a.b`, { schema, example: { n: 1 } })).body).toMatchObject({
    type: 'a.b',
    state: 'draft',
    schema,
    version: 1,
  });
  expect((await publish(event('1', { n: 0 }))).status).toBe(202);
  const approved = await test.call(
    'PUT',
    `${TYPES}/a.b`,
    { schema, state: 'approved' },
    { headers: { 'if-match': '"1"' } },
  );
  expect(approved).toMatchObject({ status: 200, headers: { etag: '"2"' }, body: { state: 'approved' } });
  expect(await publish(event('2', { n: 1 }), event('3', { n: 0 }))).toMatchObject({
    status: 400,
    body: { errors: [{ path: 'events[1].data.n', message: 'must be >= 1' }] },
  });
  expect((await publish(event('2', { n: 1 }), event('4', {}, 'c.d'))).status).toBe(202);
  const other = await test.otherTenant();
  expect((await test.call('GET', `${TYPES}/a.b`, undefined, { key: other })).status).toBe(404);
  expect((await test.call('GET', `${TYPES}?state=approved`)).body.items).toHaveLength(1);
  expect((await test.call('DELETE', `${TYPES}/a.b`)).status).toBe(204);
  expect((await publish(event('5', { n: 0 }))).status).toBe(202);

  await using strict = await startTestApi({ eventTypes: 'approved' });
  expect((await strict.call('POST', '/activity-events', { events: [event('1')] })).body.errors).toEqual([
    { path: 'events[0].type', message: 'a.b is not an approved event type' },
  ]);
});

it.each([
  [{ type: 'objekt' }, 'schema', /must be equal to one of the allowed values/],
  [{ propertees: {} }, 'schema', /unknown keyword: "propertees"; did you mean properties\?/],
  [{ properties: { a: { pattern: '(a+)+$' } } }, 'schema.properties.a.pattern', /may take for ever/],
  [{ items: { uniqueItems: true } }, 'schema.items.uniqueItems', /compares all items with all/],
  [{ $ref: 'https://elsewhere.example/s' }, 'schema.$ref', /within the schema/],
  [{ $defs: { a: { items: { $ref: '#/$defs/a' } } }, $ref: '#/$defs/a' }, 'schema.$ref', /refers to itself/],
  [doubling(20), 'schema', /unfold to more than 2000 nodes/],
])('A43: the schema %j is refused when it is saved', async (given, path, message) => {
  await using test = await startTestApi();
  const { status, body } = await test.call('PUT', `${TYPES}/a.b`, { schema: given });
  expect([status, body.errors[0].path]).toEqual([400, path]);
  expect(body.errors[0].message).toMatch(message);
});

/** Each definition refers to the next twice: small to read, 2^n to check. */
function doubling(levels: number): object {
  const $defs: Record<string, object> = { [`d${levels}`]: { type: 'string' } };
  for (let n = 0; n < levels; n += 1) {
    const $ref = `#/$defs/d${n + 1}`;
    $defs[`d${n}`] = { anyOf: [{ $ref }, { $ref }] };
  }
  return { $defs, $ref: '#/$defs/d0' };
}

const now = (): number => Math.floor(Date.now() / 1000);
const keyOf = (secret: string) => Buffer.from(secret.replace('whsec_', ''), 'base64');
function signed(secret: string, text: string, { id = 'msg_1', at = now() } = {}): Record<string, string> {
  const signature = createHmac('sha256', keyOf(secret)).update(`${id}.${at}.${text}`).digest('base64');
  return { 'webhook-id': id, 'webhook-timestamp': String(at), 'webhook-signature': `v1,AAAA v1,${signature}` };
}

async function openWebhook(own: object = {}) {
  const test = await startTestApi();
  const made = await test.call('POST', '/webhooks', { slug: 'shop', type: 'shop.order.paid', ...own });
  expect(made.status).toBe(201);
  const { id, path, secret } = made.body as { id: string; path: string; secret: string };
  const deliver = (text: string, headers: Record<string, string>) =>
    test.call('POST', path, text, { key: '', headers });
  const sql = postgres(test.url, { max: 1, onnotice: () => {} });
  const outbox = async () =>
    (await sql`select record from activity_outbox order by seq`).map(({ record }) => JSON.parse(record));
  return { test, id, path, secret, deliver, outbox, close: () => sql.end() };
}

it('A41 A42: a signed delivery is an event once, however often it comes; the signature is over the bytes', async () => {
  const { test, id, secret, deliver, outbox, close, path } = await openWebhook();
  const text = '{ "order" : 7,  "name":"größe" }';
  const at = now();
  const answer = await deliver(text, signed(secret, text, { at }));
  expect(answer).toMatchObject({ status: 202, body: { id: 'msg_1', id_from: 'webhook-id' } });
  expect((await deliver(text, signed(secret, text, { at }))).body).toEqual(answer.body);
  expect(await outbox()).toEqual([
    expect.objectContaining({ id: 'msg_1', source: path, type: 'shop.order.paid', data: { order: 7, name: 'größe' } }),
  ]);
  // The same JSON in other bytes, another id, another time, another secret, none.
  const good = signed(secret, text);
  const bad = [
    await deliver(JSON.stringify(JSON.parse(text)), good),
    await deliver(text, { ...good, 'webhook-id': 'msg_2' }),
    await deliver(text, { ...good, 'webhook-timestamp': String(now() + 1) }),
    await deliver(text, signed(`whsec_${Buffer.alloc(24, 1).toString('base64')}`, text)),
    await deliver(text, { ...good, 'webhook-signature': '' }),
    await deliver(text, {}),
    await test.call('POST', `/webhooks/${id.replace(/.{12}$/, '000000000000')}`, text, { key: '', headers: good }),
  ];
  expect(bad.map(({ status }) => status)).toEqual(bad.map(() => 401));
  expect(new Set(bad.map(({ body }) => body.detail)).size).toBe(1);
  const old = await deliver(text, signed(secret, text, { at: now() - 400 }));
  expect([old.status, old.body.detail]).toEqual([401, expect.stringContaining('too old')]);
  expect((await deliver(text, signed(secret, text, { at: now() - 200, id: 'late' }))).status).toBe(202);
  // Not even looked at as JSON before it is verified.
  expect((await deliver('{"', good)).status).toBe(401);
  expect((await deliver('{"', signed(secret, '{"'))).status).toBe(400);
  expect((await deliver('x'.repeat(300_000), good)).status).toBe(413);
  expect(await outbox()).toHaveLength(2);
  await close();
  await test[Symbol.asyncDispose]();
});

it('A42: a rotated secret is accepted as long as it was given, a disabled webhook takes nothing, secrets are never shown', async () => {
  const { test, id, secret, deliver, close } = await openWebhook();
  const rotated = await test.call('POST', `/webhooks/${id}/rotate`, { overlap_seconds: 60 });
  expect(rotated.body.secret).not.toBe(secret);
  expect((await deliver('{}', signed(secret, '{}'))).status).toBe(202);
  expect((await deliver('{}', signed(rotated.body.secret, '{}', { id: 'b' }))).status).toBe(202);
  await test.call('POST', `/webhooks/${id}/rotate`, { overlap_seconds: 0 });
  expect((await deliver('{}', signed(rotated.body.secret, '{}'))).status).toBe(401);
  const shown = await test.call('GET', `/webhooks/${id}`);
  expect(shown.body).toMatchObject({ slug: 'shop', type: 'shop.order.paid', scheme: 'standard', version: 3 });
  expect(shown.text + (await test.call('GET', '/webhooks')).text).not.toContain('whsec_');
  await test.call('PUT', `/webhooks/${id}`, { slug: 'shop', type: 'shop.order.paid', enabled: false });
  expect((await deliver('{}', signed(secret, '{}'))).status).toBe(401);
  expect((await test.call('DELETE', `/webhooks/${id}`)).status).toBe(204);
  await close();
  await test[Symbol.asyncDispose]();
});

it('A42: the scheme of GitHub signs the body alone, so the same body is the same event', async () => {
  const secret = 'a-secret-of-the-test';
  const { test, deliver, outbox, close } = await openWebhook({ scheme: 'github', secret });
  const hex = createHmac('sha256', secret).update('{"a":1}').digest('hex');
  const headers = { 'x-hub-signature-256': `sha256=${hex}`, 'x-github-delivery': 'one' };
  expect((await deliver('{"a":1}', headers)).body.id_from).toBe('body');
  expect((await deliver('{"a":1}', { ...headers, 'x-github-delivery': 'two' })).status).toBe(202);
  expect((await deliver('{"a":2}', headers)).status).toBe(401);
  expect(await outbox()).toHaveLength(1);
  await close();
  await test[Symbol.asyncDispose]();
});

it('replay shows first, then runs again what has no run, by range, type, key and condition', async () => {
  await using test = await startTestApi();
  const rules = [{ id: 'r', task: { type: 'noop' } }];
  const on = [{ event: { type: 'a.b', filters: { kind: 'x' } } }];
  const { id } = (await test.call('POST', '/activity-definitions', { slug: 'a', rules, on })).body;
  const sql = postgres(test.url, { max: 1, onnotice: () => {} });
  const keys: string[] = [];
  for (const n of [1, 2, 3, 4]) {
    const key = String(n).padStart(32, '0');
    const record = JSON.stringify(event(`e${n}`, { kind: n === 4 ? 'y' : 'x', n }));
    await sql`insert into activity_events (tenant_id, key, source, id, type, origin, record)
      values ('default', ${key}, '/t', ${`e${n}`}, 'a.b', 'bus', ${record})`;
    keys.push(key);
  }
  await sql`insert into activity_runs (run_id, activity_id, tenant_id, version_used, dedupe_key, origin, event_key, status, event,
      workflow_id, temporal_run_id, finished_at)
    values (gen_random_uuid(), ${id}, 'default', 1, 'k', 'event', ${keys[0] as string}, 'succeeded', '{}', 'w', 'r', now())`;
  const from = '2026-01-01T00:00:00Z';
  const replay = async (more: object) => {
    const { body } = await test.call('POST', '/activity-definitions/a/replay', { from, ...more });
    return { ...body, events: body.events?.map((one: { id: string }) => one.id) };
  };
  expect(await replay({})).toEqual({ events: ['e2', 'e3'], left: 0, unmatched: 1, dry_run: true, replay_id: null });
  expect((await replay({ only_missing: false })).events).toEqual(['e1', 'e2', 'e3']);
  expect((await replay({ where: 'event.data.n > 2' })).events).toEqual(['e3']);
  expect((await replay({ keys: [keys[1]] })).events).toEqual(['e2']);
  expect(await replay({ max: 1 })).toMatchObject({ events: ['e2'], left: 1 });
  expect((await replay({ to: from })).events).toEqual([]);
  expect((await replay({ types: ['c.d'] })).events).toEqual([]);
  expect((await replay({ where: 'evnt.data' })).errors[0].path).toBe('where');
  expect(await sql`select 1 from activity_commands`).toHaveLength(0);
  const { replay_id } = await replay({ dry_run: false });
  const commands = await sql`select payload from activity_commands order by seq`;
  expect(commands.map(({ payload }) => payload.workflowId.replace(/@.*/, ''))).toEqual(
    ['e2', 'e3'].map((one) => `activity-${id}:${one}~replay:${replay_id}`),
  );
  const list = await test.call('GET', '/activity-events?type=a.b&limit=3');
  expect(list.body.items.map(({ origin }: { origin: string }) => origin).sort()).toEqual(['bus', 'replay', 'replay']);
  const rest = await test.call('GET', `/activity-events?limit=5&cursor=${list.body.next}`);
  expect(rest.body.items).toHaveLength(3);
  const one = await test.call('GET', `/activity-events/${keys[0]}`);
  expect(one.body).toMatchObject({
    id: 'e1',
    event: { data: { n: 1 } },
    runs: [{ activity_id: id, status: 'succeeded' }],
  });
  await sql.end();
});

it('many dead letters are shown, then delivered again or given up, by stage and time', async () => {
  await using test = await startTestApi();
  const sql = postgres(test.url, { max: 1, onnotice: () => {} });
  for (const stage of ['decode', 'schema', 'schema']) {
    await sql`insert into dead_letters (id, tenant_id, stage, raw, error, tries)
      values (gen_random_uuid(), 'default', ${stage}, '{}', 'wrong', 1)`;
  }
  const all = async (verb: string, body: object) =>
    (await test.call('POST', `/activity-dead-letters/${verb}`, body)).body.ids.length as number;
  expect(await all('retry', { stage: 'schema' })).toBe(2);
  expect(await all('retry', { to: '2020-01-01T00:00:00Z' })).toBe(0);
  expect(await all('retry', { stage: 'schema', dry_run: false })).toBe(2);
  expect(await sql`select 1 from activity_outbox`).toHaveLength(2);
  expect(await all('discard', { dry_run: false, reason: 'old' })).toBe(1);
  expect(await all('discard', {})).toBe(0);
  await sql.end();
});

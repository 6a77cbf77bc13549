/** Who is let in: every route, every kind of key, both tenants. */
import { SCOPES, type Scope } from '@milkrun/registrydb';
import { fastify } from 'fastify';
import { expect, it } from 'vitest';
import { installAccess } from '../src/access.ts';
import { ENGINE_KEY, startTestApi } from './api.ts';

const NONE = '0190b5b0-0000-7000-8000-000000000001';

/** Every route with what it wants (`signed`: a signature instead of a key); the last check below holds this table against the routes that exist. */
const ROUTES: readonly (readonly [method: string, path: string, policy: Scope | 'engine' | 'public' | 'signed'])[] = [
  ['POST', '/triggers', 'triggers:write'],
  ['POST', '/triggers/bulk', 'triggers:write'],
  ['GET', '/triggers', 'triggers:read'],
  ['GET', `/triggers/${NONE}`, 'triggers:read'],
  ['PATCH', `/triggers/${NONE}`, 'triggers:write'],
  ['DELETE', `/triggers/${NONE}`, 'triggers:write'],
  ...['enable', 'disable', 'resume', 'poll-now', 'rewind'].map(
    (verb) => ['POST', `/triggers/${NONE}/${verb}`, 'triggers:write'] as const,
  ),
  ['GET', `/triggers/${NONE}/explain`, 'triggers:read'],
  ['GET', `/triggers/${NONE}/audit`, 'triggers:read'],
  ['POST', '/connections', 'connections:write'],
  ['GET', '/connections', 'connections:read'],
  ['GET', '/connections/conn_x', 'connections:read'],
  ['PATCH', '/connections/conn_x', 'connections:write'],
  ['DELETE', '/connections/conn_x', 'connections:write'],
  ['GET', '/events', 'events:read'],
  ['GET', '/events/evt_x', 'events:read'],
  ['GET', '/activity-definitions', 'activities:read'],
  ['POST', '/activity-definitions', 'activities:write'],
  ['POST', '/activity-definitions/apply', 'activities:write'],
  ['GET', `/activity-definitions/${NONE}`, 'activities:read'],
  ['PUT', `/activity-definitions/${NONE}`, 'activities:write'],
  ['DELETE', `/activity-definitions/${NONE}`, 'activities:write'],
  ...['enable', 'disable', 'reset', 'trigger', 'backfill', 'replay'].map(
    (verb) => ['POST', `/activity-definitions/${NONE}/${verb}`, 'activities:write'] as const,
  ),
  ['POST', `/activity-definitions/${NONE}/test`, 'activities:read'],
  ['GET', `/activity-definitions/${NONE}/ticks`, 'activities:read'],
  ['GET', `/activity-definitions/${NONE}/versions`, 'activities:read'],
  ['POST', `/activity-definitions/${NONE}/versions/1/publish`, 'activities:write'],
  ['GET', '/activity-runs', 'activities:read'],
  ['GET', `/activity-runs/${NONE}`, 'activities:read'],
  ['POST', `/activity-runs/${NONE}/cancel`, 'activities:write'],
  ['GET', '/activity-tasks', 'activities:read'],
  ['GET', '/activity-tasks/x', 'activities:read'],
  ['POST', '/activity-tasks/x/complete', 'activities:write'],
  ['POST', '/activity-tasks/x/fail', 'activities:write'],
  ['POST', '/activity-events', 'activities:write'],
  ['GET', '/activity-events', 'activities:read'],
  ['GET', `/activity-events/${'0'.repeat(32)}`, 'activities:read'],
  ['GET', '/activity-event-types', 'activities:read'],
  ['GET', '/activity-event-types/x', 'activities:read'],
  ['PUT', '/activity-event-types/x', 'activities:write'],
  ['DELETE', '/activity-event-types/x', 'activities:write'],
  ['GET', '/webhooks', 'activities:read'],
  ['POST', '/webhooks', 'activities:write'],
  ['GET', `/webhooks/${NONE}`, 'activities:read'],
  ['PUT', `/webhooks/${NONE}`, 'activities:write'],
  ['DELETE', `/webhooks/${NONE}`, 'activities:write'],
  ['POST', `/webhooks/${NONE}`, 'signed'],
  ['POST', `/webhooks/${NONE}/rotate`, 'activities:write'],
  ['POST', '/activity-dead-letters/retry', 'activities:write'],
  ['POST', '/activity-dead-letters/discard', 'activities:write'],
  ['GET', '/activity-dead-letters', 'activities:read'],
  ['POST', `/activity-dead-letters/${NONE}/retry`, 'activities:write'],
  ['POST', `/activity-dead-letters/${NONE}/discard`, 'activities:write'],
  ['GET', '/schemas/activity-definition', 'public'],
  ['POST', '/api-keys', 'keys:write'],
  ['GET', '/api-keys', 'keys:write'],
  ['DELETE', '/api-keys/x', 'keys:write'],
  ['GET', '/fleet', 'fleet:read'],
  ...['batches', 'shards', 'workers', 'holds', 'migrations'].map(
    (name) => ['GET', `/fleet/${name}`, 'fleet:read'] as const,
  ),
  ['GET', '/dead-letters', 'events:read'],
  ['GET', '/dead-letters/1', 'events:read'],
  ['GET', '/triggers/changes', 'engine'],
  ['POST', '/conn/batch', 'engine'],
  ['POST', '/state', 'engine'],
  ['GET', '/', 'public'],
  ['GET', '/assets/x.js', 'public'],
  ['GET', '/healthz', 'public'],
  ['GET', '/readyz', 'public'],
  ['GET', '/metrics', 'public'],
  ['GET', '/openapi.json', 'public'],
];

it('lets each key do what its scope says and nothing else, on every route', async () => {
  await using test = await startTestApi();
  const keyWith = async (scopes: readonly Scope[]): Promise<string> =>
    (await test.call('POST', '/api-keys', { name: 'k', scopes })).body.secret;
  const isRefused = (status: number): boolean => status === 401 || status === 403;
  for (const [method, path, policy] of ROUTES) {
    const statusFor = async (key: string): Promise<number> =>
      (await test.call(method, path, method === 'GET' || method === 'DELETE' ? undefined : {}, { key })).status;
    const own = SCOPES.filter((scope) => scope === policy);
    const others = SCOPES.filter((scope) => scope !== policy);
    const statuses = {
      nobody: isRefused(await statusFor('')),
      wrong: isRefused(await statusFor('mrk_0000000000000000_00_00')),
      engine: isRefused(await statusFor(ENGINE_KEY)),
      allowed: own.length > 0 && isRefused(await statusFor(await keyWith(own))),
      others: isRefused(await statusFor(await keyWith(others))),
    };
    const shut = policy !== 'public';
    expect([method, path, statuses]).toEqual([
      method,
      path,
      { nobody: shut, wrong: shut, engine: shut && policy !== 'engine', allowed: false, others: shut },
    ]);
  }
});

it('shows a tenant nothing of another and lets it change nothing', async () => {
  await using test = await startTestApi();
  const key = await test.otherTenant();
  const { id } = await test.createTrigger({ deduplicationKey: 'k' });
  for (const [method, path, body] of [
    ['GET', `/triggers/${id}`],
    ['PATCH', `/triggers/${id}`, { name: 'stolen' }],
    ['DELETE', `/triggers/${id}`],
    ['POST', `/triggers/${id}/disable`, {}],
    ['POST', `/triggers/${id}/enable`, {}],
    ['POST', `/triggers/${id}/resume`, {}],
    ['POST', `/triggers/${id}/poll-now`, {}],
    ['POST', `/triggers/${id}/rewind`, { cursor: 1 }],
    ['GET', `/triggers/${id}/explain`],
    ['GET', `/triggers/${id}/audit`],
    ['GET', `/connections/${test.connectionId}`],
    ['PATCH', `/connections/${test.connectionId}`, { status: 'revoked' }],
    ['DELETE', `/connections/${test.connectionId}`],
  ] as const) {
    expect([method, path, (await test.call(method, path, body, { key })).status]).toEqual([method, path, 404]);
  }
  for (const path of ['/triggers', '/connections', '/events']) {
    expect((await test.call('GET', path, undefined, { key })).body.items).toEqual([]);
  }
  expect((await test.call('POST', '/triggers', test.triggerBody(), { key })).status).toBe(422);
  const connectionId = await test.connect(key);
  const own = await test.createTrigger({ deduplicationKey: 'k', connectionId }, key);
  expect(own.id).not.toBe(id);
  expect((await test.call('GET', `/triggers/${id}`)).body.configVersion).toBe(1);
});

it('gives nobody a key with more than their own scopes, and a revoked key stops at once', async () => {
  await using test = await startTestApi();
  const made = await test.call('POST', '/api-keys', { name: 'keys only', scopes: ['keys:write'] });
  const { secret, key } = made.body;
  const more = await test.call('POST', '/api-keys', { name: 'more', scopes: ['triggers:write'] }, { key: secret });
  expect(more.status).toBe(403);
  expect((await test.call('GET', '/api-keys')).text).not.toContain(secret);
  expect((await test.call('DELETE', `/api-keys/${key.id}`)).status).toBe(204);
  expect((await test.call('GET', '/api-keys', undefined, { key: secret })).status).toBe(401);
});

it('cannot register a route without a policy', async () => {
  await using test = await startTestApi();
  const app = fastify();
  installAccess(app as never, test.api.registry, ENGINE_KEY);
  expect(() => app.get('/forgotten', async () => 'x')).toThrow('route GET /forgotten has no policy');
  await app.close();
});

it('describes every route in its OpenAPI document', async () => {
  await using test = await startTestApi();
  const { openapi, paths } = (await test.call('GET', '/openapi.json')).body;
  expect(openapi).toBe('3.1.0');
  const described = Object.entries(paths as Record<string, object>).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  const hidden = ['/', '/assets/x.js', '/metrics', '/openapi.json'];
  const expected = ROUTES.filter(([, path]) => !hidden.includes(path)).map(
    ([method, path]) =>
      `${method} ${path
        .replace(NONE, '{id}')
        .replace(/conn_x|evt_x/, '{id}')
        .replace('/activity-event-types/x', '/activity-event-types/{type}')
        .replace('0'.repeat(32), '{key}')
        .replace(/\/x(?=\/|$)/, '/{id}')
        .replace('/dead-letters/1', '/dead-letters/{id}')
        .replace('/versions/1/', '/versions/{version}/')
        .replace('/schemas/activity-definition', '/schemas/{name}')}`,
  );
  expect(described.sort()).toEqual(expected.sort());
});

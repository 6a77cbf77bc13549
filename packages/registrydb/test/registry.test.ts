/** Keys, credentials, state and history on a real database. */
import { systemClock } from '@milkrun/core';
import { registryMigrator } from '@milkrun/registrydb';
import { expect, it } from 'vitest';
import { incoming, openTestRegistry } from './registry.ts';

it('migrates down to nothing and up again', async () => {
  await using test = await openTestRegistry();
  await registryMigrator.migrate(test.sql, { to: 0 });
  const [left] =
    await test.sql`select count(*)::int as n from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'S') and relname not like 'registry_migrations%'`;
  expect(left?.n).toBe(0);
  expect(await registryMigrator.migrate(test.sql)).toMatchObject({ from: 0 });
});

it('stores an event once, over simultaneous calls with the same rows in other orders', async () => {
  await using test = await openTestRegistry();
  const [a, b] = [(await test.create()).id, (await test.create()).id];
  const events = [a, b].flatMap((id) => Array.from({ length: 50 }, (_, n) => incoming(id, `k${n}`)));
  const triggers = [a, b].map((triggerId) => ({ triggerId, pollState: 's' }));
  const calls = Array.from({ length: 12 }, (_, n) =>
    test.registry.storeState({
      triggers: n % 2 === 0 ? triggers : [...triggers].reverse(),
      events: n % 2 === 0 ? events : [...events].reverse(),
      lifecycle: [],
    }),
  );
  const results = await Promise.all(calls);
  expect(results.reduce((sum, { stored }) => sum + stored, 0)).toBe(100);
  expect(await test.registry.events.list('t1', { limit: 500 })).toHaveLength(100);
});

it('shows a halt until it is resumed or lifted, and takes no notice of older records', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  const report = (state: string, at: string, configVersion = 1) =>
    test.registry.storeState({
      triggers: [],
      events: [],
      lifecycle: [{ triggerId: id, at, state, code: 'auth.expired', configVersion }],
    });
  const status = async () => (await test.registry.triggers.get('t1', id)).status;
  await report('halted', '2026-01-01T00:00:01Z');
  expect(await status()).toMatchObject({
    state: 'halted',
    code: 'auth.expired',
    since: '2026-01-01T00:00:01.000Z',
    by: 'engine',
  });
  await test.registry.triggers.patch(test.actor, id, { name: 'renamed' });
  expect((await status()).state).toBe('halted');
  await test.registry.triggers.resume(test.actor, id, 'cursor');
  expect((await status()).state).toBe('active');
  await report('halted', '2026-01-01T00:00:02Z', 2);
  expect((await status()).state).toBe('active');
  await report('halted', '2026-01-01T00:00:03Z', 3);
  expect((await status()).state).toBe('halted');
  await report('resumed', '2026-01-01T00:00:04Z', 3);
  await report('halted', '2026-01-01T00:00:03Z', 3);
  expect((await status()).state).toBe('active');
});

it('keeps credentials sealed: no column and no dump holds them, and a copied row does not open', async () => {
  await using test = await openTestRegistry();
  const other = await test.connect();
  const rows = await test.sql`select c::text as line, encode(sealed, 'escape') as raw from connections c`;
  expect(JSON.stringify(rows)).not.toContain('hush-hush');
  const asks = [{ connectionId: test.connection.id, tenantId: 't1' }];
  expect(await test.registry.connections.authFor(asks)).toMatchObject([
    { status: 'active', auth: { token: 'hush-hush' } },
  ]);
  await test.sql`update connections set sealed = (select sealed from connections where id = ${other.id}) where id = ${test.connection.id}`;
  expect(await test.registry.connections.authFor(asks)).toMatchObject([{ status: 'refresh_failed' }]);
});

it('answers a connection to its own tenant only, and what has expired as expired', async () => {
  let now = Date.parse('2026-01-01T00:00:00Z');
  await using test = await openTestRegistry({ ...systemClock, now: () => now });
  const { id } = test.connection;
  await test.registry.connections.patch(test.actor, id, { expiresAt: '2026-01-01T01:00:00Z' });
  const statusFor = async (tenantId: string) =>
    (await test.registry.connections.authFor([{ connectionId: id, tenantId }]))[0]?.status;
  expect([await statusFor('t1'), await statusFor('t2')]).toEqual(['active', 'not_found']);
  now += 3_600_000;
  expect(await statusFor('t1')).toBe('expired');
});

it('knows an API key by its whole text, until it expires or is revoked', async () => {
  let now = Date.parse('2026-01-01T00:00:00Z');
  await using test = await openTestRegistry({ ...systemClock, now: () => now });
  const { keys } = test.registry;
  const made = (expiresAt?: string) =>
    keys.create({ actor: test.actor, tenantId: 't1', name: 'laptop', scopes: ['events:read'], expiresAt });
  const { secret, key } = await made('2026-02-01T00:00:00Z');
  expect(await keys.verify(secret)).toEqual({ id: key.id, name: 'laptop', tenantId: 't1', scopes: ['events:read'] });
  const flipped = secret.replace(
    /_(.)(.{63})_/,
    (_all, first: string, rest: string) => `_${first === '0' ? '1' : '0'}${rest}_`,
  );
  expect(await keys.verify(flipped)).toBeUndefined();
  expect(await keys.verify('mrk_x')).toBeUndefined();
  expect(JSON.stringify(await test.sql`select k::text from api_keys k`)).not.toContain(secret.split('_')[2]);
  now = Date.parse('2026-02-01T00:00:00Z');
  expect(await keys.verify(secret)).toBeUndefined();
  const second = await made();
  await keys.revoke(test.actor, second.key.id);
  expect(await keys.verify(second.secret)).toBeUndefined();
});

it('takes a first key that was chosen elsewhere, as often as it is given', async () => {
  await using test = await openTestRegistry();
  const { keys } = test.registry;
  const first = { secret: 'mk_chosen-elsewhere-123', tenantId: 't1', name: 'first' };
  await keys.ensure({ ...first, scopes: ['events:read'] });
  await keys.ensure({ ...first, scopes: ['keys:write'] });
  expect(await keys.verify(first.secret)).toMatchObject({ tenantId: 't1', scopes: ['keys:write'] });
  expect(await keys.verify(`${first.secret}x`)).toBeUndefined();
  await expect(keys.ensure({ ...first, secret: 'short', scopes: [] })).rejects.toThrow('16 characters');
});

it('upserts by deduplication key: one trigger, however many ask at once, and no change without a difference', async () => {
  await using test = await openTestRegistry();
  const upsert = (more = {}) =>
    test.registry.triggers.upsert(test.actor, test.inputOf({ deduplicationKey: 'k', ...more }));
  const all = await Promise.all(Array.from({ length: 10 }, () => upsert()));
  expect(new Set(all.map(({ trigger }) => trigger.id)).size).toBe(1);
  expect(all.filter(({ created }) => created)).toHaveLength(1);
  expect((await upsert()).trigger.configVersion).toBe(1);
  expect((await upsert({ config: '{"package":"undici"}' })).trigger.configVersion).toBe(2);
  await expect(upsert({ slug: 'other' })).rejects.toMatchObject({ kind: 'conflict' });
});

it('writes an audit entry for each change and refuses to change the trail', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  await test.registry.triggers.disable(test.actor, id, { reason: 'holiday' });
  const entries = await test.registry.audit('t1', { objectKind: 'trigger', objectId: id, limit: 10 });
  expect(entries.map(({ action, reason, actor }) => [action, reason, actor])).toEqual([
    ['disabled', 'holiday', 'test'],
    ['created', null, 'test'],
  ]);
  await expect(test.sql`update audit set reason = ''`).rejects.toThrow('append-only');
  await expect(test.sql`delete from audit`).rejects.toThrow('append-only');
});

it('removes what is past its time, and only that', async () => {
  await using test = await openTestRegistry();
  const { id } = await test.create();
  await test.registry.storeState({
    triggers: [{ triggerId: id, pollState: null }],
    events: [incoming(id, 'old'), incoming(id, 'new')],
    lifecycle: [],
  });
  await test.sql`update events set stored_at = stored_at - interval '91 days' where event_id = ${incoming(id, 'old').eventId}`;
  expect(await test.registry.purge()).toMatchObject({ events: 1 });
  const left = await test.registry.events.list('t1', { limit: 10 });
  expect(left.map((event) => event.id)).toEqual([incoming(id, 'new').eventId]);
});

/** Definitions and versions of activities: what is written, what stays, and what moves the mark of covered ticks. */

import { hash } from 'node:crypto';
import type { StoredDefinition } from '@milkrun/core';
import { expect, it } from 'vitest';
import { incoming, openTestRegistry } from './registry.ts';

const write = (over: Partial<StoredDefinition> = {}): StoredDefinition => {
  const spec = over.spec ?? '{"slug":"a","rules":[],"big":12345678901234567890}';
  return {
    slug: 'a',
    name: 'A',
    enabled: true,
    triggerType: 'cron',
    triggerConfig: '{"cron":"* * * * *"}',
    contextSources: '{}',
    taskTemplates: '[]',
    dedupeKeyStrategy: 'scheduled',
    spec,
    fingerprint: spec,
    timeKey: 'cron UTC * * * * *',
    eventTypes: [],
    ...over,
  };
};

it('A03: every change is a new version, earlier ones stay byte for byte', async () => {
  await using test = await openTestRegistry();
  const { activities } = test.registry;
  const { id } = await activities.create(test.actor, write());
  const next = '{"slug":"a","rules":[1]}';
  const updated = await activities.update(test.actor, id, write({ spec: next, fingerprint: next }), {
    reason: 'why not',
  });
  expect(updated).toMatchObject({ version: 2, spec: next });
  expect(await activities.update(test.actor, id, write({ spec: next, fingerprint: next }))).toMatchObject({
    version: 2,
  });
  const versions = await activities.versions('t1', id);
  expect(versions.map(({ version, spec, reason }) => [version, spec, reason])).toEqual([
    [2, next, 'why not'],
    [1, write().spec, null],
  ]);
  await expect(test.sql`update activity_versions set spec = '{}' where activity_id = ${id}`).rejects.toThrow(
    'append-only',
  );
  await expect(test.sql`delete from activity_versions`).rejects.toThrow('append-only');
});

it('A03: two edits at once: the second is told, by its version', async () => {
  await using test = await openTestRegistry();
  const { activities } = test.registry;
  const { id } = await activities.create(test.actor, write());
  const edit = (text: string) =>
    activities.update(test.actor, id, write({ spec: text, fingerprint: text }), { ifVersion: 1 });
  const results = await Promise.allSettled([edit('{"slug":"a","n":1}'), edit('{"slug":"a","n":2}')]);
  expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  expect(await activities.versions('t1', id)).toHaveLength(2);
});

it('A01: the row says for SQL what the definition says, and a slug is free again once its activity is deleted', async () => {
  await using test = await openTestRegistry();
  const { activities } = test.registry;
  const { id } = await activities.create(test.actor, write());
  const [row] = await test.sql`select * from activity_definitions where id = ${id}`;
  expect(row).toMatchObject({
    name: 'A',
    enabled: true,
    trigger_type: 'cron',
    trigger_config: { cron: '* * * * *' },
    version: 1,
  });
  await expect(activities.create(test.actor, write())).rejects.toMatchObject({ kind: 'conflict', field: 'slug' });
  await expect(activities.get('t2', id)).rejects.toMatchObject({ kind: 'not_found' });
  await activities.remove(test.actor, id);
  await expect(activities.get('t1', 'a')).rejects.toMatchObject({ kind: 'not_found' });
  expect((await activities.create(test.actor, write())).id).not.toBe(id);
  expect(await activities.versions('t1', id)).toHaveLength(1);
});

it('the mark of covered ticks moves to now with a new expression, and only with it', async () => {
  await using test = await openTestRegistry();
  const { activities } = test.registry;
  const { id } = await activities.create(test.actor, write());
  const past = '2026-01-01T00:00:00.000Z';
  await test.sql`update activity_definitions set covered_at = ${past}`;
  await activities.update(test.actor, id, write({ spec: '{"slug":"a","n":1}', fingerprint: '1' }));
  expect((await activities.get('t1', id)).coveredAt).toBe(past);
  await activities.update(test.actor, id, write({ fingerprint: '2', timeKey: 'cron Europe/Berlin * * * * *' }));
  expect((await activities.get('t1', id)).coveredAt).not.toBe(past);
  await activities.update(test.actor, id, write({ fingerprint: '3', timeKey: null, triggerType: 'manual' }));
  expect((await activities.get('t1', id)).coveredAt).toBeNull();
});

it('enabling again makes up for the time between only where that is asked for', async () => {
  await using test = await openTestRegistry();
  const { activities } = test.registry;
  const { id } = await activities.create(test.actor, write());
  const past = '2026-01-01T00:00:00.000Z';
  for (const recover of [true, false]) {
    await activities.setEnabled(test.actor, id, false, { reason: 'holiday' });
    await test.sql`update activity_definitions set covered_at = ${past}`;
    const view = await activities.setEnabled(test.actor, id, true, { recover });
    expect([view.enabled, view.coveredAt === past]).toEqual([true, recover]);
  }
});

it('A85: every write leaves who, what and why', async () => {
  await using test = await openTestRegistry();
  const { activities } = test.registry;
  const { id } = await activities.create(test.actor, write());
  await activities.setEnabled(test.actor, id, false, { reason: 'too loud' });
  await activities.update(
    test.actor,
    id,
    write({ spec: '{"slug":"a","rules":[2]}', fingerprint: 'x', enabled: false }),
  );
  await activities.remove(test.actor, id);
  const entries = await test.registry.audit('t1', { objectKind: 'activity', objectId: id, limit: 10 });
  expect(entries.map(({ action, actor, reason }) => [action, actor, reason])).toEqual([
    ['deleted', 'test', null],
    ['published', 'test', null],
    ['disabled', 'test', 'too loud'],
    ['created', 'test', null],
  ]);
  const [published] = await test.sql`select detail from audit where action = 'published' and object_id = ${id}`;
  expect(JSON.parse(published?.detail)).toMatchObject({ version: 2, changed: ['big', 'rules'] });
});

it('events of poll triggers go to the outbox, once, where an activity of their tenant waits for their type', async () => {
  await using test = await openTestRegistry();
  const { id: triggerId } = await test.create();
  const store = (key: string) =>
    test.registry.storeState({
      triggers: [{ triggerId, pollState: null }],
      events: [incoming(triggerId, key)],
      lifecycle: [],
    });
  await store('a');
  expect(await test.sql`select 1 from activity_outbox`).toHaveLength(0);
  await test.registry.activities.create(test.actor, write({ eventTypes: ['dev.milkrun.test'] }));
  await store('b');
  await store('b');
  const { eventId, record } = incoming(triggerId, 'b');
  const source = `/triggers/${triggerId}`;
  const key = hash('sha256', `${source.length}:${source}${eventId}`, 'hex').slice(0, 32);
  expect(await test.sql`select tenant_id, key, record from activity_outbox`).toEqual([
    { tenant_id: 't1', key, record },
  ]);
});

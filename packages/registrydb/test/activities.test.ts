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
  const refused = results.find((result) => result.status === 'rejected');
  expect(refused?.reason).toMatchObject({ kind: 'precondition_failed', message: 'it is at version 2, not 1' });
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

it('own events are published once, in what they tell of, where an activity of the tenant waits for them', async () => {
  await using test = await openTestRegistry();
  const { activities, activityRuns, storeState } = test.registry;
  const { id } = await activities.create(test.actor, write());
  const open = (runId: string, tick: string) =>
    activityRuns.openRun(
      {
        activityId: id,
        runId,
        workflowId: `w-${runId}`,
        temporalRunId: 'r',
        origin: 'cron',
        scheduledFor: tick,
        eventKey: null,
        version: null,
        inboxKey: null,
      },
      () => ({
        status: tick < '2026-06' ? 'missed' : 'running',
        reason: 'late',
        dedupeKey: tick,
        coveredMs: null,
        window: null,
        event: '{"hops":3}',
        newEvent: null,
        concurrencyKey: null,
        dryRun: false,
        isDone: false,
      }),
    );
  const run = '0190b5b0-0000-7000-8000-000000000001';
  const close = () => activityRuns.closeRun({ runId: run, ended: null, failuresMax: 1, decide: () => 'failed' });
  const outbox = async () =>
    (await test.sql`select record from activity_outbox order by seq`).map(({ record }) => JSON.parse(record));
  await open('0190b5b0-0000-7000-8000-000000000009', '2026-01-01T00:00:00Z');
  expect(await outbox()).toEqual([]);
  const eventTypes = ['run.finished', 'tick.missed', 'activity.tripped', 'trigger.halted'].map(
    (name) => `dev.milkrun.${name}`,
  );
  await activities.create(test.actor, write({ slug: 'b', timeKey: null, triggerType: 'event', eventTypes }));
  await open('0190b5b0-0000-7000-8000-000000000002', '2026-01-02T00:00:00Z');
  await open(run, '2026-07-01T00:00:00Z');
  await close();
  await close();
  const trigger = await test.create();
  const lifecycle = { triggerId: trigger.id, at: '2026-07-01T00:00:00Z', code: 'auth.expired', configVersion: 1 };
  const state = { triggers: [], events: [], lifecycle: [{ ...lifecycle, state: 'halted' }] };
  await storeState({ ...state, triggers: [{ triggerId: trigger.id, pollState: null }] });
  await storeState({ ...state, triggers: [{ triggerId: trigger.id, pollState: null }] });
  expect(await outbox()).toMatchObject([
    { type: 'dev.milkrun.tick.missed', data: { scheduledFor: '2026-01-02T00:00:00Z', slug: 'a', reason: 'late' } },
    { type: 'dev.milkrun.run.finished', source: `/activities/${id}`, hops: 4, data: { runId: run, status: 'failed' } },
    { type: 'dev.milkrun.activity.tripped', hops: 4 },
    { type: 'dev.milkrun.trigger.halted', subject: trigger.id, data: { code: 'auth.expired', toolkit: 'npm' } },
  ]);
});

it('what is past its time goes; what still waits, is open or holds a key stays', async () => {
  await using test = await openTestRegistry();
  const { sql, registry } = test;
  const { id } = await registry.activities.create(test.actor, write());
  const runs = ['old', 'open task', 'held key', 'young'].map(
    (name, n) => [name, `0190b5b0-0000-7000-8000-00000000000${n}`] as const,
  );
  for (const [name, runId] of runs) {
    const finished = name === 'young' ? '179 days' : '181 days';
    await sql`insert into activity_runs (run_id, activity_id, tenant_id, version_used, dedupe_key, origin, status, event, workflow_id,
        temporal_run_id, finished_at)
      values (${runId}, ${id}, 't1', 1, ${name}, 'manual', 'succeeded', '{}', ${name}, 'r', now() - ${finished}::interval)`;
    const ended = name === 'open task' ? null : new Date();
    const until = name === 'held key' ? new Date(Date.now() + 3_600_000) : null;
    await sql`insert into activity_tasks (task_id, run_id, activity_id, tenant_id, version_used, rule_id, item_key, position, type, mode,
        title, params, labels, status, timeout_ms, attempts_max, finished_at, unique_until)
      values (${`task-${runId}`}, ${runId}, ${id}, 't1', 1, 'r', '0', 0, 'noop', 'auto', 'T', '{}', '{}',
        ${ended === null ? 'running' : 'done'}, 1000, 1, ${ended}, ${until})`;
  }
  for (const [n, age] of [31, 31, 31, 29].entries()) {
    const key = String(n).repeat(32);
    await sql`insert into activity_events (tenant_id, key, source, id, type, origin, record, received_at)
      values ('t1', ${key}, '/t', ${key}, 'a.b', 'bus', '{}', now() - make_interval(days => ${age}))`;
    if (n < 2)
      await sql`insert into activity_inbox (activity_id, event_key, tenant_id, collect_key, entry, version, taken_by)
        values (${id}, ${key}, 't1', 'k', 0, 1, ${n === 0 ? null : 'batch'})`;
    await sql`insert into dead_letters (id, tenant_id, stage, raw, error, tries, last_at)
      values (gen_random_uuid(), 't1', 'decode', '{}', 'wrong', 1, now() - make_interval(days => ${age * 3}))`;
  }
  expect(await registry.purge()).toMatchObject({ activityRuns: 1, activityEvents: 2, deadLetters: 3 });
  expect((await sql`select dedupe_key from activity_runs order by run_id`).map(({ dedupe_key }) => dedupe_key)).toEqual(
    ['open task', 'held key', 'young'],
  );
  expect((await sql`select key from activity_events order by key`).map(({ key }) => key[0])).toEqual(['0', '3']);
  expect(await sql`select 1 from activity_inbox`).toHaveLength(1);
  expect(await registry.purge()).toMatchObject({ activityRuns: 0, activityEvents: 0, deadLetters: 0 });
  expect(await registry.purge({ activityRuns: 1 })).toMatchObject({ activityRuns: 1 });
});

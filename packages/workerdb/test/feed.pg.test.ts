/** The change feed: what a page makes of rows, what it takes away from batches, and what it leaves alone. */
import { Buffer } from 'node:buffer';
import { type FeedChange, storageShardOf, type TriggerChange } from '@milkrun/core';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { change, claimAll, commit, emptied, freshDb, push, row, runRow, tick } from './support.ts';

let db: WorkerDb;
beforeAll(async () => {
  db = await freshDb(4);
});
beforeEach(async () => {
  await emptied(db);
});
afterAll(async () => {
  await db.close();
});

type Upsert = TriggerChange & { readonly op: 'upsert' };
const next = (of: FeedChange, over: Partial<Omit<TriggerChange, 'op'>> = {}): Upsert => ({
  ...(of as Upsert),
  configVersion: of.configVersion + 1,
  ...over,
});
const remove = (of: FeedChange): FeedChange => ({
  op: 'delete',
  triggerId: of.triggerId,
  configVersion: of.configVersion + 1,
});
const pull = (after: string | null, to: string, changes: readonly FeedChange[]) =>
  db.applyFeedPage({ after, next: to, changes, source: 'pull' });

async function definition(triggerId: string): Promise<Record<string, unknown>> {
  const [found] = await db.sql`select * from polling_triggers where trigger_id = ${triggerId}`;
  return found ?? {};
}
async function memory(triggerId: string): Promise<Record<string, unknown>> {
  const [found] =
    await db.sql`select cursor, encode(seen, 'hex') as seen from polling_trigger_states where trigger_id = ${triggerId}`;
  return found ?? {};
}
/** Seconds from the database's now to the row's next poll; null when there is none. */
async function dueIn(triggerId: string): Promise<number | null> {
  const [found] =
    await db.sql`select extract(epoch from next_poll_at - statement_timestamp())::float8 as s from polling_trigger_runs where trigger_id = ${triggerId}`;
  return found?.s as number | null;
}

const SEEN = '0011223344556677';
const pollState = (cursor: unknown, seen = SEEN, version = '7') =>
  Buffer.from(JSON.stringify({ v: 1, cursor, seen: Buffer.from(seen, 'hex').toString('base64'), version })).toString(
    'base64',
  );

/** A trigger that was polled once: primed, with a cursor and a seen key, due in an interval. */
async function polled(over: Partial<TriggerChange> = {}): Promise<FeedChange> {
  const created = change(over);
  await push(db, [created]);
  const { batchId, triggers } = await claimAll(db);
  const rows = triggers.map((one) =>
    row(one, { cursor: '{"at":1}', seen: Buffer.from(SEEN, 'hex'), primed: true, versionUsed: '1' }),
  );
  await commit(db, batchId, rows);
  return created;
}

describe('pages', () => {
  test('a page is applied once: of two readers with the same cursor one wins, and the other changes nothing', async () => {
    const one = change();
    const results = await Promise.all([pull(null, 'a', [one]), pull(null, 'a', [one])]);
    expect(results.map((result) => result.applied).sort()).toEqual([false, true]);
    expect(results.reduce((sum, result) => sum + result.upserted, 0)).toBe(1);
    expect(await db.feedCursor()).toBe('a');
    expect(await pull('elsewhere', 'b', [next(one, { slug: 'other' })])).toMatchObject({ applied: false });
    expect(await definition(one.triggerId)).toMatchObject({ slug: 'synthetic' });
    expect(await db.feedCursor()).toBe('a');
  });

  test('reading a page twice is harmless, and an older version is ignored', async () => {
    const one = change({ configVersion: 5 });
    await pull(null, 'a', [one]);
    expect(await pull('a', 'a', [one])).toMatchObject({ applied: true, upserted: 0, stale: 1 });
    expect(await pull('a', 'b', [{ ...one, configVersion: 4, slug: 'old' } as Upsert])).toMatchObject({ stale: 1 });
    expect(await definition(one.triggerId)).toMatchObject({ slug: 'synthetic' });
  });

  test('an id that stands several times in a page is applied in the order of its versions', async () => {
    const one = change({ intervalSeconds: 100 });
    const result = await pull(null, 'a', [
      next(one, { configVersion: 4, slug: 'last' }),
      next(one, { configVersion: 3, cursor: '{"rewound":true}' }),
      one,
    ]);
    expect(result).toMatchObject({ upserted: 3, stale: 0 });
    expect(await definition(one.triggerId)).toMatchObject({ slug: 'last', config_version: '4' });
    expect(await memory(one.triggerId)).toMatchObject({ cursor: { rewound: true } });
  });

  test('a push applies the same records and leaves the cursor of the feed alone', async () => {
    await pull(null, 'a', []);
    const one = change();
    expect(await push(db, [one])).toMatchObject({ applied: true, upserted: 1 });
    expect(await db.feedCursor()).toBe('a');
    expect(await pull('a', 'b', [one])).toMatchObject({ upserted: 0, stale: 1 });
  });

  test('a page that creates more than a hundred triggers spreads their first polls, a smaller one polls at once', async () => {
    await push(
      db,
      Array.from({ length: 100 }, () => change({ intervalSeconds: 600 })),
    );
    expect((await tick(db, { dispatch: false })).due).toBe(100);
    await emptied(db);
    await push(
      db,
      Array.from({ length: 400 }, () => change({ intervalSeconds: 600 })),
    );
    const [spread] = await db.sql`
      select count(distinct floor(extract(epoch from next_poll_at) % 600 / 60))::int as minutes,
        max(next_poll_at) <= statement_timestamp() + interval '600 s' as within from polling_trigger_runs`;
    expect(spread).toEqual({ minutes: 10, within: true });
  });

  test('a large page of edits does not count as a herd', async () => {
    const many = Array.from({ length: 120 }, () => change({ intervalSeconds: 600 }));
    await push(db, many);
    const added = change();
    await push(db, [...many.map((one) => next(one, { slug: 'renamed' })), added]);
    expect(await dueIn(added.triggerId)).toBeLessThanOrEqual(0);
  });

  test('names the timer shards whose recorded wake lies behind what was written', async () => {
    const one = await polled({ intervalSeconds: 3600 });
    await tick(db);
    expect((await push(db, [next(one, { slug: 'renamed' })])).arm).toEqual([]);
    expect((await push(db, [next(one, { configVersion: 3, pollNow: true })])).arm).toEqual([0]);
  });
});

describe('fence', () => {
  test.each([
    ['config', { config: '{"rate":2}' }],
    ['connection', { connectionId: 'connection-2' }],
    ['version', { version: '2' }],
    ['cursor', { cursor: '{"at":0}' }],
    ['resume', { resume: 'cursor' }],
  ] as const)('a change of %s takes a leased row away from its batch and makes it due now', async (_, over) => {
    const one = change();
    await push(db, [one]);
    const { batchId, triggers } = await claimAll(db);
    expect(await push(db, [next(one, over)])).toMatchObject({ upserted: 1, fenced: 1 });
    expect(await runRow(db, one.triggerId)).toMatchObject({ lease_epoch: 2, lease_owner: null });
    expect(await dueIn(one.triggerId)).toBeLessThanOrEqual(0);
    expect(await db.check(batchId)).toMatchObject({
      live: true,
      fenced: [{ shard: storageShardOf(one.triggerId), triggerId: one.triggerId, deleted: false }],
    });
    const stale = await commit(
      db,
      batchId,
      triggers.map((key) => row(key, { cursor: '{"stale":1}' })),
    );
    expect([stale.committed, stale.exceptions.map((each) => each.status)]).toEqual([0, ['fenced']]);
    expect((await claimAll(db)).triggers).toMatchObject([{ triggerId: one.triggerId, leaseEpoch: 3 }]);
  });

  test('a disable ends the schedule at once, and the enable after it goes on from the old cursor', async () => {
    const one = await polled();
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp()`;
    const { batchId } = await claimAll(db);
    await push(db, [next(one, { enabled: false })]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ enabled: false, next_poll_at: null, lease_owner: null });
    expect((await db.check(batchId)).fenced).toHaveLength(1);
    await db.end(batchId);
    expect(await tick(db)).toMatchObject({ due: 0, planned: [] });
    await push(db, [next(one, { configVersion: 3, enabled: true })]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ enabled: true, primed: true });
    expect(await memory(one.triggerId)).toEqual({ cursor: { at: 1 }, seen: SEEN });
    expect((await tick(db)).due).toBe(1);
  });

  test('a change of the name neither fences nor costs a poll', async () => {
    const one = await polled({ intervalSeconds: 3600 });
    const before = await runRow(db, one.triggerId);
    expect(await push(db, [next(one, { slug: 'renamed' })])).toMatchObject({ upserted: 1, fenced: 0 });
    expect(await runRow(db, one.triggerId)).toEqual(before);
    expect(await definition(one.triggerId)).toMatchObject({ slug: 'renamed' });
  });

  test('a row leased while it is renamed, asked for or given another interval keeps its lease', async () => {
    const one = change();
    await push(db, [one]);
    const { batchId, triggers } = await claimAll(db);
    await push(db, [next(one, { slug: 'renamed', intervalSeconds: 600, pollNow: true })]);
    expect((await db.check(batchId)).fenced).toEqual([]);
    const done = await commit(
      db,
      batchId,
      triggers.map((key) => row(key)),
    );
    expect(done.committed).toBe(1);
    // Asked for after the claim: what was asked for is a poll that begins later.
    expect(await dueIn(one.triggerId)).toBeLessThanOrEqual(0);
  });

  test('a shorter interval brings the next poll forward, a longer one never puts it off', async () => {
    const one = await polled({ intervalSeconds: 36_000 });
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() + interval '9 h'`;
    await push(db, [next(one, { intervalSeconds: 60 })]);
    expect(await dueIn(one.triggerId)).toBeLessThanOrEqual(60);
    const soon = await dueIn(one.triggerId);
    await push(db, [next(one, { configVersion: 3, intervalSeconds: 36_000 })]);
    expect(await dueIn(one.triggerId)).toBeLessThanOrEqual(soon ?? 0);
  });

  test('pollNow makes a row due without a fence', async () => {
    const one = await polled({ intervalSeconds: 3600 });
    expect(await push(db, [next(one, { pollNow: true })])).toMatchObject({ fenced: 0 });
    expect(await dueIn(one.triggerId)).toBeLessThanOrEqual(0);
    expect(await runRow(db, one.triggerId)).toMatchObject({ lease_epoch: 1 });
  });
});

describe('halts', () => {
  async function halted(code: 'auth.revoked' | 'receiver_gone'): Promise<FeedChange> {
    const one = change();
    await push(db, [one]);
    const { batchId, triggers } = await claimAll(db);
    await commit(
      db,
      batchId,
      triggers.map((key) => row(key, { outcome: 'halt', code: 'auth.revoked', haltCode: code })),
    );
    await db.sql`delete from lifecycle_outbox`;
    return one;
  }

  test.each([
    ['resume', { resume: 'cursor' }],
    ['a new connection', { connectionId: 'connection-2' }],
    ['a new config', { config: '{"rate":2}' }],
    ['a rewind', { cursor: '{"at":0}' }],
    ['a change and its undoing between two reads', { liftedVersion: 2 }],
  ] as const)('%s lifts a halt, makes the row due and tells the control plane', async (_, over) => {
    const one = await halted('auth.revoked');
    await push(db, [next(one, over)]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ halted_code: null, halted_at: null, halted_probe: false });
    expect(await dueIn(one.triggerId)).toBeLessThanOrEqual(0);
    expect(await db.pendingLifecycle(10)).toMatchObject([{ state: 'resumed', configVersion: 2 }]);
  });

  test('disabled and enabled again lifts a halt', async () => {
    const one = await halted('receiver_gone');
    await push(db, [next(one, { enabled: false })]);
    expect((await runRow(db, one.triggerId)).halted_code).not.toBeNull();
    await push(db, [next(one, { configVersion: 3 })]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ halted_code: null, halted_at: null });
    expect(await dueIn(one.triggerId)).toBeLessThanOrEqual(0);
  });

  test('a halted row stays halted through an edit of its name, interval or pollNow, and keeps the time of its probe', async () => {
    const one = await halted('auth.revoked');
    const before = await runRow(db, one.triggerId);
    // What lifted an earlier halt says nothing of this one.
    await push(db, [next(one, { slug: 'renamed', pollNow: true, liftedVersion: 1 })]);
    expect(await runRow(db, one.triggerId)).toMatchObject({
      halted_code: before.halted_code,
      next_poll_at: before.next_poll_at,
    });
    const gone = await halted('receiver_gone');
    await push(db, [next(gone, { pollNow: true, intervalSeconds: 30 })]);
    expect(await dueIn(gone.triggerId)).toBeNull();
  });
});

describe('where a trigger goes on', () => {
  test("resume 'cursor' goes on, resume 'now' primes again from this moment", async () => {
    const one = await polled();
    await push(db, [next(one, { resume: 'cursor' })]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ primed: true });
    expect(await memory(one.triggerId)).toEqual({ cursor: { at: 1 }, seen: SEEN });
    await push(db, [next(one, { configVersion: 3, resume: 'now', since: '2026-02-01T00:00:00.000Z' })]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ primed: false });
    expect(await memory(one.triggerId)).toEqual({ cursor: null, seen: '' });
    const [start] = await db.sql`
      select since, created_at > statement_timestamp() - interval '1 min' as now from polling_triggers`;
    expect(start).toEqual({ since: null, now: true });
    // Edited before that prime is done: the record still has the old start.
    await push(db, [next(one, { configVersion: 4, slug: 'renamed', since: '2026-02-01T00:00:00.000Z' })]);
    const [later] = await db.sql`
      select slug, since, created_at > statement_timestamp() - interval '1 min' as now from polling_triggers`;
    expect(later).toEqual({ slug: 'renamed', since: null, now: true });
  });

  test('an edit before a rewind by since is done keeps the start it asked for', async () => {
    const one = await polled({ createdAt: '2025-01-01T00:00:00.000Z' });
    const since = '2026-03-01T00:00:00.000Z';
    await push(db, [next(one, { cursor: 'null', since })]);
    await push(db, [next(one, { configVersion: 3, slug: 'renamed', since })]);
    expect(await definition(one.triggerId)).toMatchObject({ slug: 'renamed', since: new Date(since) });
  });

  test('a rewind by cursor clears the seen keys, keeps primed and finds its way into the next claim', async () => {
    const one = await polled();
    await push(db, [next(one, { cursor: '{"at":0}' })]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ primed: true });
    expect(await memory(one.triggerId)).toEqual({ cursor: { at: 0 }, seen: '' });
    const { triggers } = await claimAll(db);
    expect(JSON.parse((await db.readStates(triggers))[0]?.cursor ?? '')).toEqual({ at: 0 });
  });

  test('a rewind by since primes again from there and tells nothing older', async () => {
    const one = await polled({ createdAt: '2025-01-01T00:00:00.000Z' });
    await push(db, [next(one, { cursor: 'null', since: '2026-03-01T00:00:00.000Z' })]);
    expect(await memory(one.triggerId)).toEqual({ cursor: null, seen: '' });
    const { triggers } = await claimAll(db);
    expect(triggers).toMatchObject([
      { primed: false, since: '2026-03-01T00:00:00.000Z', createdAt: '2026-03-01T00:00:00.000Z' },
    ]);
  });

  test('a new row that was primed elsewhere goes on from its poll state', async () => {
    const one = change({ primed: true, pollState: pollState({ page: 3 }) });
    await push(db, [one]);
    expect(await runRow(db, one.triggerId)).toMatchObject({ primed: true, version_used: '7', halted_code: null });
    expect(await memory(one.triggerId)).toEqual({ cursor: { page: 3 }, seen: SEEN });
    expect((await tick(db)).due).toBe(1);
  });

  test.each([
    ['no poll state', undefined],
    ['a poll state that is none', 'bm90IGpzb24='],
    ['keys of a broken length', pollState(1, '0011')],
    ['NUL in its cursor', pollState('a\u0000b')],
    ['NUL in its version', pollState(1, SEEN, '7\u0000')],
    ['a lone surrogate in its cursor', pollState('a\ud800b')],
  ])(
    'a new row that was primed elsewhere with %s is halted as cursor_lost, never primed in silence',
    async (_, state) => {
      const one = change({ primed: true, ...(state === undefined ? {} : { pollState: state }) });
      await push(db, [one]);
      expect(await runRow(db, one.triggerId)).toMatchObject({ halted_code: 2, next_poll_at: null });
      expect((await tick(db)).due).toBe(0);
      expect(await db.pendingLifecycle(10)).toMatchObject([
        { triggerId: one.triggerId, state: 'halted', code: 'cursor_lost', configVersion: 1 },
      ]);
      // A cursor from history is a place to go on from.
      await push(db, [next(one, { cursor: '{"at":9}' })]);
      expect(await runRow(db, one.triggerId)).toMatchObject({ halted_code: null, primed: true });
      expect((await tick(db)).due).toBe(1);
    },
  );

  test('poll state of a row that is here is ignored: workerdb knows better', async () => {
    const one = await polled();
    await push(db, [next(one, { primed: true, pollState: pollState({ page: 3 }) })]);
    expect(await memory(one.triggerId)).toEqual({ cursor: { at: 1 }, seen: SEEN });
  });
});

describe('delete', () => {
  test('takes the rows away, tells the batch, and its tombstone keeps an older record out', async () => {
    const one = change({ configVersion: 5 });
    await push(db, [one]);
    const { batchId, triggers } = await claimAll(db);
    expect(await push(db, [remove(one)])).toMatchObject({ deleted: 1, fenced: 1 });
    expect((await db.check(batchId)).fenced).toMatchObject([{ triggerId: one.triggerId, deleted: true }]);
    const late = await commit(
      db,
      batchId,
      triggers.map((key) => row(key, { held: [{ eventId: 'evt_1', json: '{}' }] })),
    );
    expect(late.exceptions.map((each) => each.status)).toEqual(['fenced']);
    const [left] = await db.sql`
      select (select count(*)::int from polling_triggers) as d, (select count(*)::int from polling_trigger_runs) as r,
        (select count(*)::int from polling_trigger_states) as s, (select count(*)::int from held_events) as h`;
    expect(left).toEqual({ d: 0, r: 0, s: 0, h: 0 });
    expect(await push(db, [one])).toMatchObject({ upserted: 0, stale: 1 });
    expect(await push(db, [remove(one)])).toMatchObject({ deleted: 0, stale: 1 });
    expect(await push(db, [next(one, { configVersion: 7 })])).toMatchObject({ upserted: 1 });
    expect(await runRow(db, one.triggerId)).toMatchObject({ primed: false, lease_epoch: 0 });
  });

  test('of a trigger nobody knows leaves a tombstone and nothing else', async () => {
    const never = change({ configVersion: 3 });
    expect(await push(db, [remove(never)])).toMatchObject({ deleted: 0 });
    expect(await push(db, [never])).toMatchObject({ stale: 1 });
    expect(await db.trigger(never.triggerId)).toBeUndefined();
  });
});

/** The liveness invariant: every breach is found and named, what is held is listed only, and a healthy table is quiet. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { change, claimAll, commit, emptied, expire, freshDb, push, row, tick } from './support.ts';

let db: WorkerDb;
beforeAll(async () => {
  db = await freshDb(4);
});
beforeEach(async () => {
  await emptied(db);
  await tick(db);
});
afterAll(async () => {
  await db.close();
});

const many = (count: number, over: Parameters<typeof change>[0] = {}) =>
  Array.from({ length: count }, () => change(over));
const OVERDUE = `next_poll_at = statement_timestamp() - interval '5 min'`;

/** Three sound triggers beside the one that is broken by hand. */
async function oneOfFour(broken: string): Promise<string> {
  const all = many(4);
  await push(db, all);
  const id = all[0]?.triggerId ?? '';
  await db.sql.unsafe(`update polling_trigger_runs set ${broken} where trigger_id = '${id}'`);
  return id;
}

describe('breaches', () => {
  test.each([
    ['no_next_poll', 'next_poll_at = null'],
    ['too_far_ahead', `next_poll_at = statement_timestamp() + interval '2 days'`],
    ['overdue', OVERDUE],
    ['overdue', `${OVERDUE}, lease_owner = 123456`],
    ['stuck_handoff', `owner = 'i', ownership_since = statement_timestamp() - interval '11 min'`],
    ['stuck_handoff', `owner = 'o', ownership_since = statement_timestamp() - interval '11 min'`],
  ])('%s is found (%s)', async (kind, broken) => {
    const triggerId = await oneOfFour(broken);
    const { violations, checked } = await db.liveness();
    expect(checked).toBe(4);
    expect(violations).toMatchObject([{ kind, triggerId, timerShard: 0, held: false }]);
  });

  test.each([
    ['next_poll_at = null', 4],
    [`next_poll_at = statement_timestamp() + interval '2 days'`, 3],
  ])('looking repairs nothing; repairing gives a row with %s a next poll', async (broken, due) => {
    await oneOfFour(broken);
    await db.liveness();
    const report = await db.liveness();
    expect(report.violations).toHaveLength(1);
    await db.repairLiveness(report);
    expect((await db.liveness()).violations).toEqual([]);
    expect((await tick(db)).due).toBe(due);
  });

  test('a row whose batch is no longer live is overdue', async () => {
    await push(db, many(2));
    const { batchId } = await claimAll(db);
    await db.sql.unsafe(`update polling_trigger_runs set ${OVERDUE}`);
    expect((await db.liveness()).violations).toEqual([]);
    await expire(db, batchId);
    expect((await db.liveness()).violations.map((found) => found.kind)).toEqual(['overdue', 'overdue']);
  });

  test('of very many at most a thousand are named', async () => {
    for (let n = 0; n < 3; n += 1) await push(db, many(400));
    await db.sql.unsafe(`update polling_trigger_runs set ${OVERDUE}`);
    const { violations, checked, open } = await db.liveness();
    expect([violations.length, checked, open]).toEqual([1000, 1200, { overdue: 1200 }]);
  });
});

describe('holds', () => {
  test.each([
    ['a toolkit', `hash32('synthetic'), 0`],
    ['a connection', `hash32('synthetic'), hash64('tenant-1', 'connection-1')`],
    ['everything', '0, 0'],
  ])('overdue rows under a hold on %s are listed as held', async (_, key) => {
    const triggerId = await oneOfFour(OVERDUE);
    await db.sql.unsafe(`insert into source_limits (toolkit_h, connection_h, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (${key}, statement_timestamp() + interval '1 h', statement_timestamp(), 'maintenance', '', '', '')`);
    const { violations, oldestDueSeconds } = await db.liveness();
    expect(violations).toMatchObject([{ kind: 'overdue', triggerId, held: true }]);
    expect(oldestDueSeconds).toBe(0);
  });

  test('so are those of a toolkit that gets one probe a minute, and of a timer shard that backs off', async () => {
    await oneOfFour(OVERDUE);
    await db.sql`insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (hash32('synthetic'), 0, 1, statement_timestamp() - interval '1 s', statement_timestamp(), 'source_down', '', '', '')`;
    expect((await db.liveness()).violations.map((found) => found.held)).toEqual([true]);
    await db.sql`delete from source_limits`;
    await db.sql`update timer_shards set backoff_until = statement_timestamp() + interval '1 min'`;
    expect((await db.liveness()).violations.map((found) => found.held)).toEqual([true]);
  });

  test('a hold on another connection hides nothing', async () => {
    await oneOfFour(OVERDUE);
    await db.sql`insert into source_limits (toolkit_h, connection_h, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (hash32('synthetic'), hash64('tenant-2', 'connection-1'), statement_timestamp() + interval '1 h', statement_timestamp(), 'operator', '', '', '')`;
    expect((await db.liveness()).violations.map((found) => found.held)).toEqual([false]);
  });
});

describe('a healthy table', () => {
  test('has no breach: new rows of a large page, leased, committed, halted, disabled and rate-limited ones', async () => {
    await push(db, many(300, { intervalSeconds: 3600 }));
    await push(db, [...many(4), ...many(3, { intervalSeconds: 200_000 })]);
    const { batchId, triggers } = await claimAll(db);
    const [halted, probed, limited, ...rest] = triggers;
    if (halted === undefined || probed === undefined || limited === undefined) throw new Error('too few claimed');
    await commit(
      db,
      batchId,
      [
        row(halted, { outcome: 'halt', code: 'broadcast.gone', haltCode: 'receiver_gone' }),
        row(probed, { outcome: 'halt', code: 'auth.expired', haltCode: 'auth.expired' }),
        row(limited, { outcome: 'rate_limited', code: 'poll.rate_limited', retryAfterSeconds: 86_400 }),
        ...rest.map((one) => row(one)),
      ],
      { end: true },
    );
    await push(db, [change({ enabled: false })]);
    await push(db, many(2, { connectionId: 'connection-2' }));
    await claimAll(db);
    const report = await db.liveness();
    expect(report.violations).toEqual([]);
    expect([report.checked, report.polled]).toEqual([310, 307]);
  });

  test('counts the polled triggers for the brake, and what is stale by its own interval', async () => {
    const fresh = many(1);
    await push(db, [...many(2), ...fresh]);
    await db.sql`update polling_trigger_runs set last_ok_at = statement_timestamp() - interval '4 min'`;
    await db.sql`update polling_trigger_runs set last_ok_at = statement_timestamp() where trigger_id = ${fresh[0]?.triggerId ?? ''}`;
    const report = await db.liveness();
    expect(report).toMatchObject({ polled: 3, stale: 2 });
    expect(report.staleTriggers.map(({ detail }) => detail)).toEqual(
      Array(2).fill(expect.stringMatching(/^no good poll since .+ last code none$/)),
    );
    await db.repairLiveness(report);
    const [fleet] = await db.sql`select polled::int, counted_at is not null as counted from fleet`;
    expect(fleet).toEqual({ polled: 3, counted: true });
  });

  test('the oldest due row not leased gives the age', async () => {
    await push(db, many(2));
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '30 s'`;
    const { oldestDueSeconds, violations } = await db.liveness();
    expect(oldestDueSeconds).toBeGreaterThanOrEqual(30);
    expect(violations).toEqual([]);
  });
});

describe('silence', () => {
  test('a trigger that finds nothing for many of its usual gaps is named; one without a usual gap, and a slow one, are not', async () => {
    const [gone, slow, fresh] = many(3).map((one) => one) as [
      ReturnType<typeof change>,
      ReturnType<typeof change>,
      ReturnType<typeof change>,
    ];
    await push(db, [gone, slow, fresh]);
    const found = async () => {
      await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp()`;
      const { batchId, triggers } = await claimAll(db);
      await commit(
        db,
        batchId,
        triggers.map((one) => row(one, { events: 1 })),
      );
    };
    await found();
    await db.sql`update polling_trigger_runs set last_event_at = statement_timestamp() - interval '10 min'`;
    await found();
    const [gap] = await db.sql`select event_gap_s from polling_trigger_runs where trigger_id = ${gone.triggerId}`;
    expect(gap?.event_gap_s).toBeGreaterThanOrEqual(600);
    await db.sql`update polling_trigger_runs set last_event_at = statement_timestamp() - interval '4 h'`;
    await db.sql`update polling_trigger_runs set event_gap_s = 86400 where trigger_id = ${slow.triggerId}`;
    await db.sql`update polling_trigger_runs set event_gap_s = null where trigger_id = ${fresh.triggerId}`;
    const report = await db.liveness();
    expect(report).toMatchObject({
      silent: 1,
      silentTriggers: [{ kind: 'silent', triggerId: gone.triggerId }],
      violations: [],
    });
    expect(report.silentTriggers[0]?.detail).toMatch(/no event since .+; usually one every 6\d\d s/);
  });
});

describe('timer shards', () => {
  test('one that has not ticked for a minute and a tick is quiet, whether it ever ticked or not', async () => {
    expect((await db.liveness()).quietShards).toEqual([]);
    await db.sql`update timer_shards set ticked_at = statement_timestamp() - interval '71 s'`;
    expect((await db.liveness()).quietShards).toEqual([0]);
    await db.sql`update timer_shards set ticked_at = null`;
    expect((await db.liveness()).quietShards).toEqual([0]);
    await tick(db);
    expect((await db.liveness()).quietShards).toEqual([]);
  });
});

describe('what is over is cleared', () => {
  test('a batch older than a day is ended, old batches, fences, holds, tombstones and answered records go', async () => {
    const one = change();
    await push(db, [one]);
    const { batchId } = await claimAll(db);
    await push(db, [{ ...one, configVersion: 2, config: '{"rate":9}' } as never]);
    await db.sql`update batches set started_at = statement_timestamp() - interval '25 h'`;
    await db.sql`insert into batches (batch_id, timer_shard, planned, started_at, ended_at)
      values ('batch-poller:0:old', 0, 0, statement_timestamp() - interval '9 days', statement_timestamp() - interval '8 days')`;
    await db.sql`insert into source_limits (toolkit_h, connection_h, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (1, 1, statement_timestamp() - interval '2 min', statement_timestamp(), 'rate_limited', '', '', '')`;
    await db.sql`insert into tombstones (trigger_id, config_version, deleted_at) values (gen_random_uuid(), 1, statement_timestamp() - interval '31 days')`;
    await db.sql`insert into lifecycle_outbox (trigger_id, config_version, state, code, at, acknowledged_at)
      values (gen_random_uuid(), 1, 'halted', 'x', statement_timestamp() - interval '32 days', statement_timestamp() - interval '31 days')`;
    await db.repairLiveness(await db.liveness());
    await db.repairLiveness(await db.liveness());
    const [ended] =
      await db.sql`select ended_at is not null as ended, key_ids from batches where batch_id = ${batchId}`;
    expect(ended).toEqual({ ended: true, key_ids: null });
    const [left] =
      await db.sql`select (select count(*)::int from batches) as batches, (select count(*)::int from batch_fences) as fences,
      (select count(*)::int from source_limits) as holds, (select count(*)::int from tombstones) as tombstones,
      (select count(*)::int from lifecycle_outbox) as records`;
    expect(left).toEqual({ batches: 1, fences: 0, holds: 0, tombstones: 0, records: 0 });
  });

  test('the brake lets go when the trailing hour is below the limit again', async () => {
    await push(db, many(60));
    const { batchId, triggers } = await claimAll(db);
    await commit(
      db,
      batchId,
      triggers.map((key) => row(key, { outcome: 'halt', code: 'broadcast.gone', haltCode: 'receiver_gone' })),
    );
    expect((await db.fleet()).braked).toBe(true);
    await db.repairLiveness(await db.liveness());
    expect((await db.fleet()).braked).toBe(true);
    await db.sql`update lifecycle_outbox set at = statement_timestamp() - interval '61 min'`;
    await db.repairLiveness(await db.liveness());
    expect((await db.fleet()).braked).toBe(false);
  });
});

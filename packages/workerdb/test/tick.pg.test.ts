/** The tick: who is planned first, how much is planned, and when it comes again. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { batchIds, change, claimAll, commit, emptied, expire, freshDb, insertDue, push, row, tick } from './support.ts';

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

const many = (count: number, over: Parameters<typeof change>[0] = {}) =>
  Array.from({ length: count }, () => change(over));

async function dueAll(): Promise<void> {
  await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '1 s' where next_poll_at is not null`;
}

/** Seconds from the database's now to the recorded wake. */
async function wakeIn(timerShard = 0): Promise<number> {
  const [found] =
    await db.sql`select extract(epoch from wake_at - statement_timestamp())::float8 as s from timer_shards where timer_shard = ${timerShard}`;
  return found?.s as number;
}

describe('what is planned', () => {
  test('a tenant with nine tenths of the due rows does not crowd out the others', async () => {
    await push(db, many(900, { tenantId: 'large' }));
    for (let n = 0; n < 10; n += 1) await push(db, many(10, { tenantId: `small-${n}` }));
    await dueAll();
    const { planned, left } = await tick(db, { batchSize: 200, batchIds: batchIds(1) });
    expect([planned.length, left]).toEqual([1, 800]);
    const claim = await db.claim({ batchId: planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    const byTenant = Map.groupBy(claim.triggers, (one) => one.tenantId);
    for (let n = 0; n < 10; n += 1) expect(byTenant.get(`small-${n}`)).toHaveLength(10);
    expect(byTenant.get('large')).toHaveLength(100);
  });

  test('a tenant with most of what is due has batches of its own, so that others are not committed with its last poll', async () => {
    await push(db, many(90, { tenantId: 'large' }));
    await push(db, many(5, { tenantId: 'small-1' }));
    await push(db, many(5, { tenantId: 'small-2' }));
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp()`;
    const { planned } = await tick(db);
    const tenants: string[][] = [];
    for (const { batchId } of planned) {
      const { triggers } = await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
      tenants.push([...new Set(triggers.map((one) => one.tenantId))].toSorted());
    }
    expect(tenants.toSorted()).toEqual([['large'], ['small-1', 'small-2']]);
  });

  test('within a tenant the longest overdue come first', async () => {
    await push(db, many(30));
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '1 s' * (1 + ('x' || right(trigger_id::text, 4))::bit(16)::int)`;
    const oldest =
      await db.sql`select trigger_id::text as id from polling_trigger_runs order by next_poll_at, trigger_id limit 10`;
    const { planned } = await tick(db, { batchSize: 10, batchIds: batchIds(1) });
    const claim = await db.claim({ batchId: planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    expect(claim.triggers.map((one) => one.triggerId).sort()).toEqual(oldest.map((one) => one.id as string).sort());
  });

  test('due rows become full batches, the last one the rest, and each row is planned once', async () => {
    await insertDue(db, 250);
    await db.heartbeatWorker({ workerId: 'a', width: 500 });
    await db.heartbeatWorker({ workerId: 'b', width: 500 });
    const result = await tick(db, { batchSize: 100 });
    expect(result.planned.map((batch) => batch.keys)).toEqual([100, 100, 50]);
    expect(await tick(db, { batchSize: 100 })).toMatchObject({
      due: 0,
      planned: [],
      unclaimed: result.planned.map((batch) => batch.batchId),
    });
  });

  test('entries without a result are bounded by twice the batch size for each live worker', async () => {
    await insertDue(db, 1000);
    expect((await tick(db, { batchSize: 100 })).planned).toHaveLength(2);
    await emptied(db);
    await insertDue(db, 1000);
    await db.heartbeatWorker({ workerId: 'a', width: 500 });
    await db.heartbeatWorker({ workerId: 'b', width: 500 });
    await db.heartbeatWorker({ workerId: 'c', width: 500 });
    await db.sql`update workers set seen_at = statement_timestamp() - interval '1 min' where worker_id = 'c'`;
    const first = await tick(db, { batchSize: 100 });
    expect([first.planned.length, first.left, first.wakeInMs]).toEqual([4, 600, 0]);
    expect((await tick(db, { batchSize: 100 })).planned).toEqual([]);
    // A batch whose entries have nearly all a result holds that many places and not a whole batch.
    const batchId = first.planned[0]?.batchId ?? '';
    await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
    await db.extend({ batchId, leaseSeconds: 45, hop: 0, step: 'poll', open: 1 });
    expect((await tick(db, { batchSize: 100 })).planned.map((batch) => batch.keys)).toEqual([99]);
  });

  test('batches are bounded by sixteen for each live worker, however small', async () => {
    await insertDue(db, 40);
    for (let n = 0; n < 16; n += 1) {
      const { planned } = await tick(db, { batchSize: 1, batchIds: batchIds(1) });
      const batchId = planned[0]?.batchId ?? '';
      await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
      await db.extend({ batchId, leaseSeconds: 45, hop: 0, step: 'poll', open: 0 });
    }
    expect(await tick(db, { batchSize: 1 })).toMatchObject({ planned: [], due: 24, left: 24 });
  });

  test('nothing is planned while dispatch is held or the shard backs off, and what is due is still counted', async () => {
    await push(db, many(3));
    expect(await tick(db, { dispatch: false })).toMatchObject({ due: 3, left: 3, planned: [] });
    await db.sql`update timer_shards set backoff_until = statement_timestamp() + interval '20 s'`;
    const paused = await tick(db);
    expect(paused).toMatchObject({ due: 3, planned: [] });
    expect(paused.wakeInMs).toBeGreaterThan(15_000);
  });

  test('a batch that nobody claimed for a minute gives its keys back', async () => {
    await push(db, many(3));
    await tick(db);
    expect((await tick(db)).due).toBe(0);
    await db.sql`update batches set started_at = statement_timestamp() - interval '61 s'`;
    expect((await tick(db)).planned.map((batch) => batch.keys)).toEqual([3]);
  });
});

describe('ranked ahead', () => {
  const ahead = { batchSize: 100, batchesAhead: 4 };

  /** Claims a batch and gives every entry a result, so that its places are free. */
  async function passed(batchId: string): Promise<string[]> {
    const { triggers } = await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
    await db.extend({ batchId, leaseSeconds: 45, hop: 0, step: 'poll', open: 0 });
    return triggers.map((one) => one.triggerId);
  }

  test('one scan serves the ticks that follow it: full batches, each row once, in the order of the ranks', async () => {
    await insertDue(db, 1000);
    const order =
      await db.sql`select trigger_id::text as id from polling_trigger_runs order by next_poll_at, trigger_id`;
    const seen: string[][] = [];
    const scans: string[] = [];
    for (let due = 1000; due > 0; ) {
      const result = await tick(db, ahead);
      expect([result.due, result.left]).toEqual([due, due - 100 * result.planned.length]);
      expect(result.wakeInMs === 0).toBe(result.left > 0);
      due = result.left;
      const [kept] = await db.sql`select ranked_at::text as at from ranked_keys`;
      if (scans.at(-1) !== kept?.at) scans.push(kept?.at as string);
      for (const { batchId, keys } of result.planned) {
        expect(keys).toBe(100);
        seen.push(await passed(batchId));
      }
    }
    expect(scans.length).toBeLessThan(seen.length / 2);
    expect(seen.flatMap((batch) => batch.sort())).toEqual(
      Array.from({ length: 10 }, (_, n) => order.slice(n * 100, n * 100 + 100).map((row) => row.id as string)).flatMap(
        (batch) => batch.sort(),
      ),
    );
    expect(await tick(db, ahead)).toMatchObject({ due: 0, left: 0, planned: [] });
  });

  test('nothing is taken without places, and a place for a part of a batch takes that part', async () => {
    await insertDue(db, 1000);
    const [first, second] = (await tick(db, ahead)).planned;
    expect(await tick(db, ahead)).toMatchObject({ planned: [], due: 800, left: 800, wakeInMs: 0 });
    await passed(first?.batchId ?? '');
    await db.claim({ batchId: second?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    await db.extend({ batchId: second?.batchId ?? '', leaseSeconds: 45, hop: 0, step: 'poll', open: 3 });
    expect((await tick(db, ahead)).planned.map((batch) => batch.keys)).toEqual([100, 97]);
  });

  test('nothing is taken while dispatch is held or the shard backs off', async () => {
    await insertDue(db, 1000);
    const { planned } = await tick(db, ahead);
    for (const { batchId } of planned) await passed(batchId);
    expect(await tick(db, { ...ahead, dispatch: false })).toMatchObject({ planned: [], due: 800 });
    await db.sql`update timer_shards set backoff_until = statement_timestamp() + interval '20 s'`;
    expect((await tick(db, ahead)).planned).toEqual([]);
  });

  test('what falls due meanwhile is ranked within five seconds, before what the scan had put behind it', async () => {
    await insertDue(db, 1000);
    const { planned } = await tick(db, ahead);
    for (const { batchId } of planned) await passed(batchId);
    await push(db, many(10, { tenantId: 'late' }));
    const isLate = async (batchId: string): Promise<number> => {
      const { triggers } = await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
      await db.extend({ batchId, leaseSeconds: 45, hop: 0, step: 'poll', open: 0 });
      return triggers.filter((one) => one.tenantId === 'late').length;
    };
    await db.sql`update ranked_keys set ranked_at = statement_timestamp()`;
    const soon = await tick(db, { ...ahead, batchIds: batchIds(1) });
    expect(await isLate(soon.planned[0]?.batchId ?? '')).toBe(0);
    await db.sql`update ranked_keys set ranked_at = statement_timestamp() - interval '6 s'`;
    const later = await tick(db, { ...ahead, batchIds: batchIds(1) });
    expect(await isLate(later.planned[0]?.batchId ?? '')).toBe(10);
  });

  test('a row that changed after it was ranked is left alone by the claim', async () => {
    await insertDue(db, 400);
    const { planned } = await tick(db, ahead);
    for (const { batchId } of planned) await passed(batchId);
    await db.sql`update polling_trigger_runs set lease_epoch = lease_epoch + 1 where lease_owner is null`;
    const taken = await tick(db, ahead);
    expect(taken.planned.map((batch) => batch.keys)).toEqual([100, 100]);
    for (const { batchId } of taken.planned) expect(await passed(batchId)).toEqual([]);
  });

  test('keys ranked for other timer shards are not taken after a change of their number', async () => {
    await insertDue(db, 1000);
    for (const { batchId } of (await tick(db, ahead)).planned) await passed(batchId);
    await db.setTimerShards('ann', 2);
    const { planned } = await tick(db, ahead);
    const { triggers } = await db.claim({ batchId: planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    expect(triggers.length).toBeGreaterThan(0);
    expect(triggers.every((one) => one.shard % 2 === 0)).toBe(true);
  });
});

describe('holds', () => {
  const hold = (toolkit: string, connectionId: string | null, seconds: number) =>
    db.sql`insert into source_limits (toolkit_h, connection_h, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (hash32(${toolkit}), ${connectionId === null ? 0 : db.sql`hash64('tenant-1', ${connectionId})`},
        statement_timestamp() + ${seconds} * interval '1 s', statement_timestamp(), 'operator', ${toolkit}, '', ${connectionId ?? ''})`;

  test('rows of a held toolkit or connection are not due before the hold ends, and wake the shard then', async () => {
    await push(db, [
      ...many(2, { toolkit: 'held' }),
      ...many(3, { connectionId: 'held' }),
      change({ connectionId: 'free' }),
    ]);
    await hold('held', null, 30);
    await hold('synthetic', 'held', 50);
    expect(await tick(db)).toMatchObject({ due: 1, left: 0 });
    expect(await wakeIn()).toBeGreaterThan(25);
    expect(await wakeIn()).toBeLessThanOrEqual(30);
  });

  test('maintenance holds everything', async () => {
    await push(db, many(4));
    await db.sql`insert into source_limits (toolkit_h, connection_h, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (0, 0, statement_timestamp() + interval '40 s', statement_timestamp(), 'maintenance', '', '', '')`;
    expect(await tick(db)).toMatchObject({ due: 0, planned: [] });
  });

  test('a hold that came after the plan still keeps the claim away', async () => {
    await push(db, [change({ toolkit: 'held' }), change()]);
    const { planned } = await tick(db);
    await hold('held', null, 30);
    const claim = await db.claim({ batchId: planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    expect(claim.triggers.map((one) => one.toolkit)).toEqual(['synthetic']);
  });

  test('a pair with a rate gets that many a minute: claim takes no more and moves the hold on', async () => {
    await push(db, many(10));
    await db.sql`insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
      values (hash32('synthetic'), 0, 4, statement_timestamp(), statement_timestamp(), 'operator', 'synthetic', '', '')`;
    expect((await claimAll(db)).triggers).toHaveLength(4);
    const [limit] =
      await db.sql`select extract(epoch from not_before - statement_timestamp())::float8 as s from source_limits`;
    expect(limit?.s).toBeGreaterThan(50);
    expect((await tick(db)).due).toBe(0);
  });
});

describe('wake', () => {
  test('is the soonest next due time, at most a minute away', async () => {
    await push(db, many(5));
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() + interval '1 day'`;
    await tick(db);
    expect(await wakeIn()).toBeGreaterThan(55);
    expect(await wakeIn()).toBeLessThanOrEqual(60);
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() + interval '20 s'
      where trigger_id = (select trigger_id from polling_trigger_runs limit 1)`;
    const result = await tick(db);
    expect(result.wakeInMs).toBeGreaterThan(15_000);
    expect(result.wakeInMs).toBeLessThanOrEqual(20_000);
  });

  test('a leased row is due when its lease ends', async () => {
    await push(db, many(2));
    const { batchId } = await claimAll(db, 30);
    const result = await tick(db);
    expect(result).toMatchObject({ due: 0, planned: [] });
    expect(result.wakeInMs).toBeGreaterThan(25_000);
    expect(result.wakeInMs).toBeLessThanOrEqual(30_000);
    await expire(db, batchId);
    expect((await tick(db)).due).toBe(2);
  });

  test('due rows left behind record the wake as now, so the end of a batch arms the shard', async () => {
    await insertDue(db, 300);
    const first = await tick(db, { batchSize: 100 });
    expect([first.left, first.wakeInMs]).toEqual([100, 0]);
    const batchId = first.planned[0]?.batchId ?? '';
    const claim = await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
    const rows = claim.triggers.map((one) => row(one));
    expect((await commit(db, batchId, rows)).arm).toBe(true);
  });

  test('a commit whose next polls lie behind the recorded wake does not arm', async () => {
    await push(db, many(3, { intervalSeconds: 86_400 }));
    const { batchId, triggers } = await claimAll(db);
    await tick(db);
    const result = await commit(
      db,
      batchId,
      triggers.map((one) => row(one)),
    );
    expect(result.arm).toBe(false);
  });

  test('a commit whose rows are due at once arms', async () => {
    await push(db, many(1));
    const { batchId, triggers } = await claimAll(db);
    await tick(db);
    const result = await commit(
      db,
      batchId,
      triggers.map((one) => row(one, { outcome: 'more' })),
    );
    expect(result).toMatchObject({ committed: 1, arm: true });
    expect(result.nextDueInMs).toBeLessThanOrEqual(0);
  });
});

describe('several timer shards', () => {
  test('each plans its own storage shards and leaves the others alone', async () => {
    await insertDue(db, 200);
    expect(await db.setTimerShards('ann', 4)).toBe(1);
    const seen: string[] = [];
    for (const timerShard of await db.timerShards()) {
      const { planned } = await db.tick({ timerShard, batchSize: 5000, batchIds: batchIds(1), dispatch: true });
      const claim = await db.claim({ batchId: planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
      expect(claim.triggers.every((one) => one.shard % 4 === timerShard)).toBe(true);
      seen.push(...claim.triggers.map((one) => one.triggerId));
    }
    expect(new Set(seen).size).toBe(200);
    await db.ensureTimerShards(8);
    expect(await db.timerShards()).toEqual([0, 1, 2, 3]);
    expect(await db.setTimerShards('ann', 1)).toBe(4);
    expect(await db.timerShards()).toEqual([0]);
    expect((await db.shards())[0]?.storageShards).toHaveLength(64);
  });

  test('a shard there is no row for plans nothing', async () => {
    await insertDue(db, 5);
    expect(await db.tick({ timerShard: 9, batchSize: 10, batchIds: batchIds(1), dispatch: true })).toMatchObject({
      planned: [],
      due: 0,
      gone: true,
    });
  });

  test('re-sharding waits for a tick under way, loses no due row and lets none be claimed twice', async () => {
    await insertDue(db, 300);
    const before = (await tick(db, { batchSize: 100 })).planned;
    await db.claim({ batchId: before[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    await db.setTimerShards('ann', 4);
    const claimed: string[] = [];
    for (const timerShard of await db.timerShards())
      for (const { batchId } of (await db.tick({ timerShard, batchSize: 500, batchIds: batchIds(9), dispatch: true }))
        .planned)
        claimed.push(
          ...(await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 })).triggers.map((one) => one.triggerId),
        );
    // What the old division had planned is claimed by its own batches, and by no other.
    for (const { batchId } of before)
      claimed.push(
        ...(await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 })).triggers.map((one) => one.triggerId),
      );
    expect([claimed.length, new Set(claimed).size]).toEqual([300, 300]);
    const [written] = await db.sql`select detail from audit where verb = 'set_shards' order by id desc limit 1`;
    expect(written?.detail).toEqual({ from: 1, to: 4 });
    await db.setTimerShards('ann', 1);
    await expect(db.setTimerShards('ann', 65)).rejects.toThrow(RangeError);
  });
});

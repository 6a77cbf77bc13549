/** What stands around the statements of a batch: turns, workers, verbs, views, sources that are down. */
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { change, claimAll, commit, emptied, freshDb, push, row, runRow, tick } from './support.ts';

let db: WorkerDb;
beforeAll(async () => {
  db = await freshDb(8);
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
  await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() where next_poll_at is not null`;
}

describe('turns and workers', () => {
  test('of many workers one has the turn, keeps it by coming again, and loses it by staying away', async () => {
    const workers = Array.from({ length: 6 }, (_, n) => `worker-${n}`);
    const ask = (hold: number) =>
      Promise.all(workers.map((worker) => db.withTurn('feed', hold, worker, async () => worker)));
    const first = (await ask(30)).filter((answer) => answer !== undefined);
    expect(first).toHaveLength(1);
    expect((await ask(30)).filter((answer) => answer !== undefined)).toEqual(first);
    expect(await db.withTurn('lifecycle', 30, 'worker-x', async () => 'mine')).toBe('mine');
    await db.sql`update turns set until = statement_timestamp() - interval '1 s' where name = 'feed'`;
    expect(await db.withTurn('feed', 30, 'worker-x', async () => 'mine')).toBe('mine');
  });

  test('workers are listed with their turns, live ones first', async () => {
    await db.heartbeatWorker({ workerId: 'gone', width: 5 });
    await db.sql`update workers set seen_at = statement_timestamp() - interval '1 min' where worker_id = 'gone'`;
    await db.heartbeatWorker({ workerId: 'here', width: 10 });
    await db.withTurn('feed', 3600, 'here', async () => true);
    expect(await db.workers()).toMatchObject([
      { workerId: 'here', width: 10, live: true, turns: ['feed'] },
      { workerId: 'gone', live: false, turns: [] },
    ]);
  });

  test('dead letters are listed by tenant and page', async () => {
    const [mine, other] = [change(), change({ tenantId: 'other' })];
    await push(db, [mine, other]);
    for (const { triggerId } of [mine, other, mine]) {
      await db.sql`insert into dead_letters (shard, trigger_id, at, stage, code, reason, raw, digest)
        select shard, trigger_id, statement_timestamp(), 'poll', 'c', 'r', '', decode(md5(random()::text), 'hex')
        from polling_triggers where trigger_id = ${triggerId}`;
    }
    const idsOf = async (more: object) =>
      (await db.deadLetters({ limit: 10, ...more })).map(({ triggerId }) => triggerId);
    expect(await idsOf({})).toEqual([mine.triggerId, other.triggerId, mine.triggerId]);
    expect(await idsOf({ tenantId: 'other' })).toEqual([other.triggerId]);
    const [newest] = await db.deadLetters({ limit: 1 });
    expect(await idsOf({ before: newest?.id })).toEqual([other.triggerId, mine.triggerId]);
  });

  test('a turn is kept while its work goes on, however long, and no longer than its length after', async () => {
    const held = Promise.withResolvers<void>();
    const untilOf = async () =>
      (await db.sql<{ until: Date }[]>`select until from turns where name = 'feed'`)[0]?.until;
    const working = db.withTurn('feed', 0.3, 'a', () => held.promise);
    await vi.waitFor(async () => expect(await untilOf()).toBeDefined());
    const first = await untilOf();
    // Renewed past its first end, several times over.
    await vi.waitFor(
      async () => expect((await untilOf())?.getTime()).toBeGreaterThan((first?.getTime() ?? 0) + 600),
      20_000,
    );
    held.resolve();
    await working;
    await vi.waitFor(async () => expect(await db.withTurn('feed', 30, 'b', async () => true)).toBe(true), 20_000);
  });

  test('a worker that leaves gives its turns back at once', async () => {
    await db.heartbeatWorker({ workerId: 'a', width: 10 });
    await db.withTurn('feed', 3600, 'a', async () => true);
    expect(await db.removeWorker('a')).toEqual({ othersLive: 0 });
    expect(await db.withTurn('feed', 30, 'b', async () => true)).toBe(true);
  });

  test('live workers are those heard of lately, each counted once', async () => {
    expect(await db.heartbeatWorker({ workerId: 'a', width: 10 })).toEqual({ live: 1 });
    expect(await db.heartbeatWorker({ workerId: 'b', width: 10 })).toEqual({ live: 2 });
    expect(await db.heartbeatWorker({ workerId: 'b', width: 20 })).toEqual({ live: 2 });
    await db.sql`update workers set seen_at = statement_timestamp() - interval '46 s' where worker_id = 'a'`;
    expect(await db.heartbeatWorker({ workerId: 'b', width: 10 })).toEqual({ live: 1 });
    expect(await db.removeWorker('b')).toEqual({ othersLive: 0 });
  });
});

describe('a source that is down', () => {
  const failed = { outcome: 'backoff', code: 'poll.timeout', charge: 'failure', polled: false } as const;

  test('more than half of twenty polls failing charges nobody, leaves one probe a minute, and a good probe ends it', async () => {
    const down = many(30, { toolkit: 'down' });
    await push(db, down);
    const sound = many(3);
    await push(db, sound);
    const first = await claimAll(db);
    await commit(
      db,
      first.batchId,
      first.triggers.map((one) => row(one, one.toolkit === 'down' ? { ...failed } : {})),
    );
    const [charged] = await db.sql`
      select max(failure_count)::int as failures, count(*) filter (where c.code = 'source_down')::int as named
      from polling_trigger_runs t left join codes c on c.no = t.last_code`;
    expect(charged).toEqual({ failures: 0, named: 30 });
    expect(await db.sql`select reason, per_minute, connection_h::int from source_limits`).toEqual([
      { reason: 'source_down', per_minute: 1, connection_h: 0 },
    ]);

    await dueAll();
    const others = await claimAll(db);
    expect(new Set(others.triggers.map((one) => one.toolkit))).toEqual(new Set(['synthetic']));
    await commit(
      db,
      others.batchId,
      others.triggers.map((one) => row(one)),
    );
    expect(await db.sql`select from source_limits`).toHaveLength(1);

    // The minute has passed: one probe, and no second one.
    await db.sql`update source_limits set not_before = statement_timestamp()`;
    const probe = await claimAll(db);
    expect(probe.triggers.map((one) => one.toolkit)).toEqual(['down']);
    expect((await tick(db)).due).toBe(0);
    const again = await commit(
      db,
      probe.batchId,
      probe.triggers.map((one) => row(one, { ...failed })),
    );
    expect(again.committed).toBe(1);
    expect(await db.sql`select from source_limits`).toHaveLength(1);

    await db.sql`update source_limits set not_before = statement_timestamp()`;
    await db.sql`update source_health set slot = slot - 6`;
    await dueAll();
    const good = async () => {
      const { batchId, triggers } = await claimAll(db);
      const { arm } = await commit(
        db,
        batchId,
        triggers.map((one) => row(one)),
      );
      return [triggers.filter((one) => one.toolkit === 'down').length, arm];
    };
    // One probe, then ten, then all that are left: fast, and never all at once.
    expect([await good(), await good(), await good()]).toEqual([
      [1, true],
      [10, true],
      [19, true],
    ]);
    expect(await db.sql`select reason, per_minute from source_limits`).toEqual([
      { reason: 'source_down', per_minute: 1000 },
    ]);
  });

  test('a probe that fails while the source is down charges nobody, and a relapse starts from one probe again', async () => {
    await push(db, many(30, { toolkit: 'down' }));
    const batch = async (over: Parameters<typeof row>[1], failures: number) => {
      const { batchId, triggers } = await claimAll(db);
      await commit(
        db,
        batchId,
        triggers.map((one, n) => row(one, n < failures ? over : {})),
      );
      return triggers.length;
    };
    await batch({ ...failed }, 30);
    const quiet = () => db.sql`update source_limits set not_before = statement_timestamp()`;
    await db.sql`update source_health set slot = slot - 6`;
    await quiet();
    expect(await batch({ ...failed }, 1)).toBe(1);
    await db.sql`update source_health set slot = slot - 6`;
    await quiet();
    expect(await batch({}, 0)).toBe(1);
    expect(await batch({ ...failed }, 6)).toBe(10);
    expect(await db.sql`select per_minute from source_limits`).toEqual([{ per_minute: 1 }]);
    const [charged] = await db.sql`select max(failure_count)::int as failures from polling_trigger_runs`;
    expect(charged?.failures).toBe(0);
  });

  test('half of the polls failing, or a few, is the triggers own trouble', async () => {
    await push(db, many(40));
    const half = await claimAll(db);
    await commit(
      db,
      half.batchId,
      half.triggers.map((one, n) => row(one, n % 2 === 0 ? { ...failed } : {})),
    );
    const [charged] =
      await db.sql`select count(*) filter (where failure_count = 1)::int as n from polling_trigger_runs`;
    expect(charged?.n).toBe(20);
    await emptied(db);
    await push(db, many(19));
    const few = await claimAll(db);
    await commit(
      db,
      few.batchId,
      few.triggers.map((one) => row(one, { ...failed })),
    );
    const [own] = await db.sql`select min(failure_count)::int as n from polling_trigger_runs`;
    expect(own?.n).toBe(1);
    expect(await db.sql`select from source_limits`).toEqual([]);
  });

  test('failures of many small batches within a minute count together', async () => {
    for (let n = 0; n < 4; n += 1) {
      await push(db, many(6));
      const { batchId, triggers } = await claimAll(db);
      await commit(
        db,
        batchId,
        triggers.map((one) => row(one, { ...failed })),
      );
      await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() + interval '1 h'`;
    }
    const byCount =
      await db.sql`select failure_count::int as failures, count(*)::int as n from polling_trigger_runs group by 1 order by 1`;
    expect(byCount).toEqual([
      { failures: 0, n: 6 },
      { failures: 1, n: 18 },
    ]);
  });
});

describe('verbs', () => {
  test('pollNow makes polled rows due, no others, and leaves a record in the audit', async () => {
    const [sound, off] = [change(), change({ enabled: false })];
    await push(db, [sound, off]);
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() + interval '1 h' where enabled`;
    expect(await db.pollNow('ann', sound.triggerId)).toBe(true);
    expect(await db.pollNow('ann', off.triggerId)).toBe(false);
    expect(await db.pollNow('ann', randomUUID())).toBe(false);
    expect((await tick(db)).due).toBe(1);
    expect(await db.pollAllNow('ann')).toMatchObject({ triggers: 1 });
    expect(await db.pollAllNow('ann', { toolkit: 'another' })).toMatchObject({ triggers: 0 });
    expect(await db.pollAllNow('ann', { tenantId: 'tenant-1' })).toMatchObject({ triggers: 1 });
    const [written] = await db.sql`select actor, verb, subject from audit where subject = ${sound.triggerId}`;
    expect(written).toEqual({ actor: 'ann', verb: 'poll_now', subject: sound.triggerId });
  });

  test('maintenance of a toolkit, a tenant or everything keeps its triggers from being claimed, and leaves the others', async () => {
    const [a, b] = [change({ toolkit: 'a', tenantId: 'x' }), change({ toolkit: 'b', tenantId: 'y' })];
    await push(db, [a, b]);
    await dueAll();
    for (const [target, left] of [
      [{ toolkit: 'a' }, [b.triggerId]],
      [{ tenantId: 'y' }, [a.triggerId]],
      [{ all: true }, []],
    ] as const) {
      await db.setHold('ann', target, { seconds: 600 });
      expect(await db.holds()).toMatchObject([
        { reason: 'maintenance', perMinute: null, ...('all' in target ? {} : target) },
      ]);
      const { planned, due } = await tick(db);
      expect(due).toBe(left.length);
      const claims = await Promise.all(
        planned.map(({ batchId }) => db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 })),
      );
      expect(claims.flatMap(({ triggers }) => triggers.map((one) => one.triggerId))).toEqual(left);
      for (const { batchId } of planned) expect(await db.endBatch('ann', batchId)).toBe(true);
      await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp() - interval '5 min'`;
      const held = (await db.liveness()).violations.filter((one) => one.held);
      expect(held.length).toBe(2 - left.length);
      for (const { detail } of held) expect(detail).toMatch(/held: maintenance until/);
      expect(await db.clearHold('ann', target)).toBe(true);
      expect(await db.clearHold('ann', target)).toBe(false);
    }
    expect((await tick(db)).due).toBe(2);
    expect(await db.sql`select count(*)::int as n from holds_log where reason = 'maintenance'`).toEqual([{ n: 3 }]);
    const verbs =
      await db.sql`select distinct verb from audit where verb in ('hold', 'clear_hold', 'end_batch') order by 1`;
    expect(verbs.map((one) => one.verb)).toEqual(['clear_hold', 'end_batch', 'hold']);
  });

  test('a claim between the plan and a hold takes nothing', async () => {
    await push(db, [change({ tenantId: 'x' })]);
    const [planned] = (await tick(db)).planned;
    await db.setHold('ann', { tenantId: 'x' }, { seconds: 60 });
    expect((await db.claim({ batchId: planned?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 })).triggers).toEqual([]);
  });

  test('an operator’s limit plans and claims no more than it allows', async () => {
    await push(db, many(9));
    await dueAll();
    await db.setHold('ann', { toolkit: 'synthetic' }, { seconds: 1, perMinute: 4 });
    const { due, planned } = await tick(db);
    expect([due, planned.map(({ keys }) => keys)]).toEqual([4, [4]]);
    const claim = await db.claim({ batchId: planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    expect(claim.triggers).toHaveLength(4);
    expect((await tick(db)).due).toBe(0);
  });

  test('the audit can be added to and nothing else', async () => {
    await db.pollAllNow('ann');
    for (const change of ["update audit set actor = 'bob'", 'delete from audit', 'truncate audit'])
      await expect(db.sql.unsafe(change)).rejects.toThrow(/append-only/);
  });
});

describe('views', () => {
  test('explain says how many empty polls lie between two lines', async () => {
    const one = change();
    await push(db, [one]);
    const poll = async (over: Parameters<typeof row>[1] = {}) => {
      await dueAll();
      const { batchId, triggers } = await claimAll(db);
      await commit(
        db,
        batchId,
        triggers.map((key) => row(key, over)),
      );
    };
    await poll({ events: 1 });
    for (let n = 0; n < 3; n += 1) await poll();
    expect(await db.trigger(one.triggerId)).toMatchObject({ quietPolls: 3, lastCode: 'ok' });
    await poll({ events: 2, deduplicated: 5, pollMs: 12.6 });
    const { timeline } = (await db.explain(one.triggerId, { limit: 10 })) ?? { timeline: [] };
    expect(timeline).toMatchObject([
      { what: 'polled', found: 7, deduplicated: 5, delivered: 2, pollMs: 13, skipped: [] },
      { what: 'quiet', polls: 3 },
      { what: 'polled', delivered: 1 },
    ]);
    const [last, quiet] = timeline as {
      at: string;
      dueAt: string;
      claimedAt: string;
      claimedBy: string;
      from: string;
    }[];
    expect(last?.claimedBy).toMatch(/^batch-poller:0:/);
    expect([quiet?.from, last?.dueAt, last?.claimedAt, last?.at].toSorted()).toEqual([
      quiet?.from,
      last?.dueAt,
      last?.claimedAt,
      last?.at,
    ]);
    await poll();
    const open = await db.explain(one.triggerId, { limit: 1 });
    expect(open).toMatchObject({
      timeline: [{ what: 'quiet', polls: 1 }, { what: 'polled' }, { what: 'quiet', polls: 3 }],
      more: true,
    });
    const past = await db.explain(one.triggerId, { limit: 10, until: '2020-01-01T00:00:00Z' });
    expect(past?.timeline).toEqual([]);
    await poll({ events: 1 });
    expect(await db.trigger(one.triggerId)).toMatchObject({ quietPolls: 0, quietSince: null });
  });

  test('a quiet trigger gets a line an hour', async () => {
    const one = change();
    await push(db, [one]);
    for (let n = 0; n < 3; n += 1) {
      await dueAll();
      const { batchId, triggers } = await claimAll(db);
      await commit(
        db,
        batchId,
        triggers.map((key) => row(key)),
      );
      if (n === 1) await db.sql`update polling_trigger_runs set quiet_since = quiet_since - interval '61 min'`;
    }
    // The first line is the changed code, the second the summary of the hour.
    const explained = await db.explain(one.triggerId, { limit: 10 });
    expect(explained?.timeline.map(({ what }) => what)).toEqual(['polled', 'quiet', 'polled']);
  });

  test('a fenced poll leaves its line', async () => {
    const one = change();
    await push(db, [one]);
    const { batchId, triggers } = await claimAll(db);
    await push(db, [{ ...one, configVersion: 2, config: '{"rate":2}' } as never]);
    await commit(
      db,
      batchId,
      triggers.map((key) => row(key)),
    );
    const explained = await db.explain(one.triggerId, { limit: 1 });
    expect(explained?.timeline[0]).toMatchObject({ what: 'fenced', code: 'fenced' });
  });

  test('explain says why a due trigger is not polled now, and what it had waited for', async () => {
    const one = change({ tenantId: 'tenant-1' });
    await push(db, [one]);
    const now = async () => (await db.explain(one.triggerId, { limit: 5 }))?.now;
    expect(await now()).toMatch(/waits for the next tick/);
    await db.setHold('ann', { tenantId: 'tenant-1' }, { seconds: 600 });
    expect(await now()).toMatch(/not polled because of maintenance, until /);
    await db.clearHold('ann', { tenantId: 'tenant-1' });
    await tick(db, { dispatch: false });
    expect(await now()).toMatch(/because the control plane or the object store does not answer/);
    await db.sql`update holds_log set until = statement_timestamp() where reason = 'breaker'`;
    await db.sql`update timer_shards set backoff_until = statement_timestamp() + interval '30 s'`;
    expect(await now()).toMatch(/because its timer shard backs off/);
    await db.sql`update timer_shards set backoff_until = null`;
    const { planned } = await tick(db);
    expect(await now()).toContain(`planned in batch ${planned[0]?.batchId}`);
    const claim = await db.claim({ batchId: planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    expect(await now()).toMatch(/leased by batch .+, hop 0, step claim/);
    await commit(
      db,
      planned[0]?.batchId ?? '',
      claim.triggers.map((key) => row(key, { events: 1 })),
    );
    expect(await now()).toMatch(/polled next at/);
    const explained = await db.explain(one.triggerId, { limit: 5 });
    expect(explained?.timeline[0]).toMatchObject({ skipped: [{ reason: 'maintenance' }, { reason: 'breaker' }] });
    expect(await db.explain(randomUUID(), { limit: 5 })).toBeUndefined();
  });

  test('a trigger names the live batch that leases it, and none when that is over', async () => {
    const one = change();
    await push(db, [one]);
    const { batchId } = await claimAll(db);
    await db.extend({ batchId, leaseSeconds: 45, hop: 1, step: 'poll', open: 1 });
    expect(await db.trigger(one.triggerId)).toMatchObject({ batch: { batchId, hop: 1, step: 'poll' }, leaseEpoch: 1 });
    expect(await db.batches(10, false)).toMatchObject([{ batchId, hop: 1, step: 'poll', entries: 1, endedAt: null }]);
    expect(await db.fleet()).toMatchObject({ leased: 1, due: 0, openBatches: 1, triggers: 1 });
    await db.end(batchId);
    expect(await db.trigger(one.triggerId)).toMatchObject({ batch: null });
    expect(await db.fleet()).toMatchObject({ leased: 0, due: 1, openBatches: 0 });
    expect((await db.shards())[0]?.due).toBe(1);
  });

  test('pending counts triggers neither polled nor given a verdict since an instant', async () => {
    await push(db, many(3));
    const { now } = await db.fleet();
    expect(await db.pending(now)).toBe(3);
    const { batchId, triggers } = await claimAll(db);
    const [polled, released] = triggers as [(typeof triggers)[0], (typeof triggers)[0]];
    await commit(db, batchId, [
      row(polled),
      row(released, { outcome: 'release', code: 'poll.unavailable', polled: false }),
    ]);
    expect(await db.pending(now)).toBe(1);
  });
});

test('a cursor that becomes null is written, not left as it was', async () => {
  const one = change();
  await push(db, [one]);
  for (const cursor of ['{"at":1}', 'null']) {
    await dueAll();
    const { batchId, triggers } = await claimAll(db);
    await commit(
      db,
      batchId,
      triggers.map((key) => row(key, { cursor })),
    );
  }
  const { shard } = (await runRow(db, one.triggerId)) as { shard: number };
  const [state] = await db.readStates([{ shard, triggerId: one.triggerId, leaseEpoch: 2 }]);
  expect(state?.cursor ?? 'null').toBe('null');
});

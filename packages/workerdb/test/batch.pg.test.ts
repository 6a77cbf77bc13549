import { randomBytes } from 'node:crypto';
import type { ClaimedTrigger } from '@milkrun/core';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { batchIds, change, claimAll, commit, emptied, expire, freshDb, push, row, runRow, tick } from './support.ts';

let db: WorkerDb;
beforeAll(async () => {
  db = await freshDb();
});
beforeEach(async () => {
  await emptied(db);
});
afterAll(async () => {
  await db.close();
});

const many = (count: number) => Array.from({ length: count }, () => change());

describe('claim', () => {
  test('a new trigger is planned, claimed with its definition, and not planned again while its batch is live', async () => {
    const created = change({ config: '{"a":1}' });
    await push(db, [created]);
    const { claim, triggers } = await claimAll(db);
    expect(claim.status).toBe('claimed');
    expect(triggers).toHaveLength(1);
    expect(triggers[0]).toMatchObject({
      triggerId: created.triggerId,
      leaseEpoch: 1,
      tenantId: 'tenant-1',
      primed: false,
      pollPolicy: { dedupe: 'unique', repeatable: true },
    });
    expect(JSON.parse(triggers[0]?.config ?? '')).toEqual({ a: 1 });
    expect((await tick(db)).due).toBe(0);
  });

  test('a batch claims once: a repeat answers the same rows at the same epoch', async () => {
    await push(db, many(20));
    const { batchId, triggers } = await claimAll(db);
    const again = await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
    expect(again.status).toBe('again');
    expect(again.triggers.map((one) => [one.triggerId, one.leaseEpoch]).sort()).toEqual(
      triggers.map((one) => [one.triggerId, one.leaseEpoch]).sort(),
    );
  });

  test('overlapping plans of eight claimers never take a row twice, and a claim never exceeds its plan', async () => {
    for (let n = 0; n < 4; n += 1) await push(db, many(100));
    const plans: string[] = [];
    for (let n = 0; n < 8; n += 1) {
      const [id] = batchIds(1) as [string];
      plans.push(id);
      // Each plan lists the same due rows: what a re-shard or two ticks at once could do at worst.
      await db.sql`insert into batches (batch_id, timer_shard, planned, started_at, key_shards, key_epochs, key_ids)
        select ${id}, 0, 300, statement_timestamp(), array_agg(shard), array_agg(lease_epoch), array_agg(trigger_id)
        from (select shard, lease_epoch, trigger_id from polling_trigger_runs order by shard, trigger_id offset ${n * 10} limit 300) x`;
    }
    const claims = await Promise.all(plans.map((batchId) => db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 })));
    const taken = claims.flatMap((claim) => claim.triggers.map((one) => one.triggerId));
    expect(taken.length).toBeGreaterThan(299);
    expect(new Set(taken).size).toBe(taken.length);
    expect(Math.max(...claims.map((claim) => claim.triggers.length))).toBeLessThanOrEqual(300);
  });

  test('a row that changed hands after the plan is not taken by it', async () => {
    await push(db, many(3));
    const first = await tick(db);
    const late = batchIds(1)[0] as string;
    await db.sql`insert into batches (batch_id, timer_shard, planned, started_at, key_shards, key_epochs, key_ids)
      select ${late}, 0, planned, statement_timestamp(), key_shards, key_epochs, key_ids from batches where batch_id = ${first.planned[0]?.batchId ?? ''}`;
    const { triggers } = await db.claim({ batchId: first.planned[0]?.batchId ?? '', leaseSeconds: 45, bytesMax: 1e7 });
    await expire(db, first.planned[0]?.batchId ?? '');
    expect(triggers).toHaveLength(3);
    expect((await db.claim({ batchId: late, leaseSeconds: 45, bytesMax: 1e7 })).triggers).toEqual([]);
  });

  test('a claim is cut at its byte limit and the rest stays due', async () => {
    await push(
      db,
      Array.from({ length: 10 }, () => change({ config: JSON.stringify({ padding: 'x'.repeat(1000) }) })),
    );
    const planned = (await tick(db)).planned[0];
    const claim = await db.claim({ batchId: planned?.batchId ?? '', leaseSeconds: 45, bytesMax: 4_700 });
    expect(claim.triggers.length).toBe(3);
    expect((await tick(db)).due).toBe(7);
  });
});

describe('lease', () => {
  test('an expired lease is never revived, its rows are due again at once, and its commit is fenced', async () => {
    await push(db, many(2));
    const { batchId, triggers } = await claimAll(db);
    await expire(db, batchId);
    expect((await db.extend({ batchId, leaseSeconds: 45, hop: 0, step: 'poll', open: 2 })).live).toBe(false);
    expect((await tick(db)).due).toBe(2);
    const result = await commit(
      db,
      batchId,
      triggers.map((one) => row(one)),
    );
    expect(result).toMatchObject({ committed: 0 });
    expect(result.exceptions.map((one) => one.status)).toEqual(['fenced', 'fenced']);
  });

  test('an extension never shortens what commit granted over a back-off', async () => {
    await push(db, many(1));
    const { batchId } = await claimAll(db);
    await db.commit({ batchId, rows: [], end: false, forced: false, open: 1, extendSeconds: 105 });
    await db.extend({ batchId, leaseSeconds: 45, hop: 0, step: 'commit', open: 1 });
    const [lease] =
      await db.sql`select extract(epoch from expires_at - statement_timestamp())::float8 as left from batches where batch_id = ${batchId}`;
    expect(lease?.left).toBeGreaterThan(90);
  });

  test('ending a batch frees what it still holds', async () => {
    await push(db, many(3));
    const { batchId } = await claimAll(db);
    expect(await db.end(batchId)).toBe(true);
    expect(await db.end(batchId)).toBe(false);
    expect((await tick(db)).due).toBe(3);
  });
});

describe('commit', () => {
  test('added keys stay beside those before them, are joined with them above 64, and go with what replaces them', async () => {
    let keys = Buffer.alloc(0);
    const states = async () =>
      (
        await db.sql<{ seen: number; added: number }[]>`
          select octet_length(seen) / 8 as seen, octet_length(seen_added) / 8 as added from polling_trigger_states`
      )[0];
    const add = async (count: number, isWhole = false) => {
      const before = keys;
      keys = Buffer.concat([before, randomBytes(count * 8)]);
      if (isWhole) keys = keys.subarray(8);
      const { batchId, triggers } = await claimAll(db);
      const [one] = triggers as [ClaimedTrigger];
      const added = isWhole ? {} : { seenAdded: keys.subarray(before.byteLength) };
      await commit(db, batchId, [row(one, { events: count, outcome: 'more', seen: keys, ...added })]);
      expect(Buffer.from((await db.readStates([one]))[0]?.seen ?? [])).toEqual(keys);
      const [run] = await db.sql`select state_bytes from polling_trigger_runs`;
      expect(run?.state_bytes).toBe(keys.byteLength + 512);
      return await states();
    };
    await push(db, [change()]);
    expect(await add(3, true)).toEqual({ seen: 2, added: 0 });
    expect(await add(1)).toEqual({ seen: 2, added: 1 });
    expect(await add(60)).toEqual({ seen: 2, added: 61 });
    expect(await add(4)).toEqual({ seen: 67, added: 0 });
    expect(await add(1)).toEqual({ seen: 67, added: 1 });
    expect(await add(1, true)).toEqual({ seen: 68, added: 0 });
  });

  test('writes cursor and keys, moves to the next slot and answers only exceptions', async () => {
    const created = change();
    await push(db, [created]);
    const { batchId, triggers } = await claimAll(db);
    const [mine] = triggers;
    if (mine === undefined) throw new Error('nothing claimed');
    const seen = Buffer.from('0011223344556677', 'hex');
    const result = await commit(db, batchId, [
      row(mine, { cursor: '{"at":1}', seen, primed: true, versionUsed: '1', events: 2 }),
    ]);
    expect(result).toMatchObject({ committed: 1, exceptions: [] });
    const [state] = await db.readStates([mine]);
    expect(JSON.parse(state?.cursor ?? '')).toEqual({ at: 1 });
    expect(Buffer.from(state?.seen ?? []).toString('hex')).toBe('0011223344556677');
    const after = await runRow(db, created.triggerId);
    expect(after).toMatchObject({
      primed: true,
      failure_count: 0,
      last_committed_epoch: 1,
      code: 'ok',
      lease_owner: null,
    });
    expect((after.next_poll_at as Date).getTime()).toBeGreaterThan(Date.now() - 1000);
    const explained = await db.explain(created.triggerId, { limit: 10 });
    expect(explained?.timeline[0]).toMatchObject({ what: 'polled', code: 'ok', delivered: 2 });
  });

  test('a batch of plain rows alone leaves behind what it leaves when others are among them', async () => {
    const priors = [
      '',
      'failure_count = 2, poison_count = 1, last_code = 42',
      "last_code = 1, quiet_since = statement_timestamp() - interval '2 h', quiet_polls = 7",
      "last_code = 1, quiet_since = statement_timestamp() - interval '10 min', quiet_polls = 3",
      'halted_code = 20, halted_probe = true, halted_at = statement_timestamp()',
      "poll_requested_at = statement_timestamp() + interval '1 h'",
      "primed = true, version_used = '7', state_bytes = 900, last_event_at = created_at, event_gap_s = 60",
      'lease_epoch = lease_epoch + 1, lease_owner = null',
      'last_committed_epoch = lease_epoch, lease_owner = null',
      'enabled = false, lease_owner = null, next_poll_at = null',
    ].map((prior) => prior.replace('created_at', "statement_timestamp() - interval '1 d'"));
    const leave = async (others: number) => {
      await emptied(db);
      await push(db, many(priors.length + 1 + others));
      await db.sql`insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
        values (hash32('synthetic'), 0, 1000, '-infinity', statement_timestamp() - interval '1 h', 'source_down', 'synthetic', '', '')`;
      const { batchId, triggers } = await claimAll(db);
      const at = (n: number): string => triggers[n]?.triggerId as string;
      for (const [n, prior] of priors.entries())
        if (prior !== '')
          await db.sql.unsafe(`update polling_trigger_runs set ${prior} where trigger_id = $1`, [at(n)]);
      await db.sql`delete from polling_trigger_runs where trigger_id = ${at(priors.length)}`;
      const result = await commit(
        db,
        batchId,
        triggers.map((one, n) =>
          row(one, { pollMs: n + 0.6, deduplicated: n, ...(n > priors.length ? { events: 1 } : {}) }),
        ),
      );
      const ids = priors.map((_, n) => at(n));
      const exceptions = result.exceptions
        .map((one) => [ids.indexOf(one.triggerId), one.leaseEpoch, one.status])
        .sort();
      const states = await db.sql`
        select last_committed_epoch, lease_epoch, lease_owner is null as free, enabled, failure_count, poison_count, quiet_polls,
          quiet_since is not null as quiet, last_code, primed, halted_probe, halted_code, halted_at is null as unhalted, state_bytes, version_used,
          event_gap_s, last_event_at is not null as had_event, last_polled_at = last_ok_at as ok, last_polled_at > created_at - interval '1 h' as now,
          next_poll_at <= statement_timestamp() as due, next_poll_at = next_slot(last_polled_at, interval_s, phase_s) as slot
        from unnest(${ids}::uuid[]) with ordinality as k(id, n) join polling_trigger_runs r on r.trigger_id = k.id
          join polling_triggers using (shard, trigger_id) order by k.n`;
      const lines = await db.sql`
        select k.n::int, code, outcome, events, deduplicated, poll_ms, quiet_polls, quiet_since is not null as quiet, reason, due_at is not null as due,
          claimed_at is not null as claimed, next_at is not null as next, batch_no is not null as batch, found
        from poll_log l join unnest(${ids}::uuid[]) with ordinality as k(id, n) on l.trigger_id = k.id order by k.n`;
      const lifecycle = await db.sql`select state, code from lifecycle_outbox where trigger_id = any (${ids})`;
      const [health] = await db.sql`select polls - ${others} as polls, failures from source_health`;
      const [batch] = await db.sql`select ended_at is not null as ended, open, key_ids from batches`;
      const limits = await db.sql`select count(*)::int as n from source_limits`;
      return {
        committed: result.committed - others,
        exceptions,
        arm: result.arm,
        states,
        lines,
        lifecycle,
        health,
        batch,
        limits,
      };
    };
    const alone = await leave(0);
    expect(alone).toMatchObject({
      committed: 7,
      health: { polls: 7, failures: 0 },
      batch: { ended: true },
      limits: [{ n: 0 }],
    });
    expect(alone.exceptions.map(([, , status]) => status).sort()).toEqual(['already', 'fenced', 'fenced', 'fenced']);
    expect(alone.lifecycle).toMatchObject([{ state: 'resumed', code: 'ok' }]);
    expect(alone.lines.length).toBeGreaterThan(4);
    expect(await leave(2)).toEqual(alone);
  });

  test('the same epoch twice equals once: the repeat answers already', async () => {
    await push(db, many(2));
    const { batchId, triggers } = await claimAll(db);
    const rows = triggers.map((one) => row(one, { cursor: '1' }));
    expect((await commit(db, batchId, rows, { end: false, open: 1 })).committed).toBe(2);
    const again = await commit(db, batchId, rows, { end: false, open: 1 });
    expect(again.committed).toBe(0);
    expect(again.exceptions.map((one) => one.status)).toEqual(['already', 'already']);
  });

  test('a stale epoch writes nothing: neither commit nor halt', async () => {
    const created = change();
    await push(db, [created]);
    const first = await claimAll(db);
    await expire(db, first.batchId);
    const second = await claimAll(db);
    expect(second.triggers[0]?.leaseEpoch).toBe(2);
    const stale = first.triggers[0];
    if (stale === undefined) throw new Error('nothing claimed');
    await db.sql`update batches set expires_at = statement_timestamp() + interval '1 min' where batch_id = ${first.batchId}`;
    const written = await commit(db, first.batchId, [
      row(stale, { outcome: 'halt', code: 'auth.revoked', haltCode: 'auth.revoked', cursor: '"stale"' }),
    ]);
    expect(written.exceptions.map((one) => one.status)).toEqual(['fenced']);
    expect(await runRow(db, created.triggerId)).toMatchObject({ halted_code: null, lease_epoch: 2 });
    expect((await db.readStates([stale]))[0]?.cursor).toBeNull();
  });

  test.each([
    ['NUL in a cursor', { cursor: '{"a":"\\u0000"}' }],
    ['a lone surrogate in a cursor', { cursor: '{"a":"\\ud800"}' }],
    ['keys of a broken length', { seen: Buffer.from('aa', 'hex') }],
    ['a number too large', { events: 2 ** 40 }],
  ] as const)('%s quarantines that row alone; every healthy row commits on the first pass', async (_, bad) => {
    await push(db, many(40));
    const { batchId, triggers } = await claimAll(db);
    const rows = triggers.map((one, n) => row(one, n === 17 ? { ...bad } : { cursor: '1' }));
    const outcome = commit(db, batchId, rows);
    if ('seen' in bad) {
      // A broken length violates a CHECK (class 23): a mistake of ours, not of the data, and loud.
      await expect(outcome).rejects.toThrow(/seen/);
      return;
    }
    const result = await outcome;
    expect(result.committed).toBe(40);
    expect(result.exceptions.map((one) => [one.status, one.triggerId])).toEqual([
      ['quarantined', triggers[17]?.triggerId],
    ]);
    expect(await runRow(db, triggers[17]?.triggerId ?? '')).toMatchObject({
      poison_count: 1,
      code: 'poll.response_invalid',
    });
    const [open] = await db.sql`select count(*)::int as n from batches where ended_at is null`;
    expect(open?.n).toBe(0);
  });

  test('own failures back off, count, and halt at their limit with a lifecycle record', async () => {
    const created = change();
    await push(db, [created]);
    for (let n = 1; n <= 3; n += 1) {
      await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp()`;
      const { batchId, triggers } = await claimAll(db);
      const [mine] = triggers;
      if (mine === undefined) throw new Error('nothing claimed');
      await commit(db, batchId, [
        row(mine, {
          outcome: 'backoff',
          code: 'poll.permanent',
          polled: false,
          charge: 'failure',
          haltAfter: 3,
          haltCode: 'poll.permanent',
          ...(n < 3 ? { warnings: ['poll.permanent'] } : {}),
        }),
      ]);
      expect((await runRow(db, created.triggerId)).failure_count).toBe(n);
    }
    const after = await runRow(db, created.triggerId);
    expect(after.halted_at).not.toBeNull();
    expect(after.next_poll_at).toBeNull();
    const records = await db.pendingLifecycle(10);
    expect(records?.map((one) => one.state)).toEqual(['warning', 'warning', 'halted']);
    await db.acknowledgeLifecycle((records ?? []).map((one) => one.id));
    expect(await db.pendingLifecycle(10)).toEqual([]);
  });

  test('a permanent failure halts at the third in a row, whatever failed before', async () => {
    const created = change();
    await push(db, [created]);
    const fail = async (code: 'poll.permanent' | 'poll.connector_error') => {
      await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp()`;
      const { batchId, triggers } = await claimAll(db);
      const halts = code === 'poll.permanent' ? { haltAfter: 3, haltCode: code, warnings: [code] } : {};
      await commit(
        db,
        batchId,
        triggers.map((mine) => row(mine, { outcome: 'backoff', code, polled: false, charge: 'failure', ...halts })),
      );
      const { failure_count, halted_code } = await runRow(db, created.triggerId);
      return [failure_count, halted_code !== null];
    };
    for (let n = 1; n <= 4; n += 1) expect(await fail('poll.connector_error')).toEqual([n, false]);
    expect(await fail('poll.permanent')).toEqual([1, false]);
    expect(await fail('poll.permanent')).toEqual([2, false]);
    expect(await fail('poll.connector_error')).toEqual([3, false]);
    for (const wanted of [
      [1, false],
      [2, false],
      [3, true],
    ])
      expect(await fail('poll.permanent')).toEqual(wanted);
  });

  test('a credential halt is probed after six hours, and a good probe lifts it', async () => {
    const created = change();
    await push(db, [created]);
    const first = await claimAll(db);
    await commit(db, first.batchId, [
      row(first.triggers[0] as never, {
        outcome: 'halt',
        code: 'auth.expired',
        haltCode: 'auth.expired',
        polled: false,
      }),
    ]);
    const [halted] =
      await db.sql`select extract(epoch from next_poll_at - statement_timestamp())::int as in, halted_probe from polling_trigger_runs`;
    expect(halted).toMatchObject({ halted_probe: true });
    expect(Math.abs((halted?.in as number) - 21_600)).toBeLessThan(60);
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp()`;
    const probe = await claimAll(db);
    expect(probe.triggers[0]?.probe).toBe(true);
    await commit(db, probe.batchId, [row(probe.triggers[0] as never)]);
    expect(await runRow(db, created.triggerId)).toMatchObject({
      halted_code: null,
      halted_at: null,
      halted_probe: false,
    });
    expect((await db.pendingLifecycle(10))?.map((one) => one.state)).toEqual(['halted', 'resumed']);
  });

  test('a forced release leaves rows due and pauses the timer shard, a good batch resets it', async () => {
    await push(db, many(2));
    const { batchId, triggers } = await claimAll(db);
    await commit(
      db,
      batchId,
      triggers.map((one) => row(one, { outcome: 'release', code: 'poll.unavailable', polled: false })),
      { forced: true },
    );
    const paused = await tick(db);
    expect(paused.planned).toEqual([]);
    expect(paused.due).toBe(2);
    expect(paused.backoffMs).toBeGreaterThan(10_000);
    await db.sql`update timer_shards set backoff_until = statement_timestamp()`;
    const next = await claimAll(db);
    await commit(
      db,
      next.batchId,
      next.triggers.map((one) => row(one)),
    );
    const [shard] = await db.sql`select backoff_level, backoff_until from timer_shards`;
    expect(shard).toMatchObject({ backoff_level: 0, backoff_until: null });
  });

  test('held events are kept, read first, and deleted once delivered', async () => {
    const created = change({ poll: { dedupe: 'unique', repeatable: false } });
    await push(db, [created]);
    const first = await claimAll(db);
    const [mine] = first.triggers;
    if (mine === undefined) throw new Error('nothing claimed');
    await commit(db, first.batchId, [
      row(mine, {
        outcome: 'release',
        code: 'broadcast.unavailable',
        held: [
          { eventId: 'evt_1', json: '{"id":"evt_1"}' },
          { eventId: 'evt_2', json: '{"id":"evt_2"}' },
        ],
      }),
    ]);
    const held = await db.readHeld([mine]);
    expect(held.map((event) => event.eventId)).toEqual(['evt_1', 'evt_2']);
    const second = await claimAll(db);
    await commit(db, second.batchId, [row(second.triggers[0] as never, { heldDelivered: ['evt_1'] })]);
    expect((await db.readHeld([mine])).map((event) => event.eventId)).toEqual(['evt_2']);
  });

  test('the mass-410 brake parks above its limit and one verb restores what was halted', async () => {
    await push(db, many(80));
    const { batchId, triggers } = await claimAll(db);
    const result = await commit(
      db,
      batchId,
      triggers.map((one) => row(one, { outcome: 'halt', code: 'broadcast.gone', haltCode: 'receiver_gone' })),
    );
    expect(result.exceptions.filter((one) => one.status === 'braked')).toHaveLength(30);
    expect(result.halted).toEqual({ receiver_gone: 50 });
    expect((await db.fleet()).braked).toBe(true);
    expect(await db.clearHalts('operator', 'receiver_gone')).toBe(50);
    expect((await db.fleet()).halted).toBe(0);
    expect((await db.fleet()).braked).toBe(false);
  });

  test('halts are cleared of the named code in the named toolkit or tenant, and no others', async () => {
    const scopes = [
      { toolkit: 'a', tenantId: 'x' },
      { toolkit: 'a', tenantId: 'y' },
      { toolkit: 'b', tenantId: 'x' },
      { toolkit: 'b', tenantId: 'y' },
    ];
    const made = scopes.map((scope) => change(scope));
    const other = change({ toolkit: 'a', tenantId: 'x' });
    await push(db, [...made, other]);
    const { batchId, triggers } = await claimAll(db);
    const code = (triggerId: string) => (triggerId === other.triggerId ? 'auth.revoked' : 'receiver_gone');
    const rows = triggers.map((one) =>
      row(one, { outcome: 'halt', code: 'broadcast.gone', haltCode: code(one.triggerId) }),
    );
    await commit(db, batchId, rows);
    await db.sql`delete from lifecycle_outbox`;
    const halted = async () => {
      const left = await db.sql<
        { id: string }[]
      >`select trigger_id as id from polling_trigger_runs where halted_code is not null`;
      return new Set(left.map(({ id }) => id));
    };
    expect(await db.clearHalts('ann', 'receiver_gone', { toolkit: 'a', tenantId: 'x' })).toBe(1);
    expect(await halted()).toEqual(new Set([...made.slice(1), other].map(({ triggerId }) => triggerId)));
    expect(await db.clearHalts('ann', 'receiver_gone', { tenantId: 'x' })).toBe(1);
    expect(await db.clearHalts('ann', 'receiver_gone', { toolkit: 'b' })).toBe(1);
    expect(await halted()).toEqual(new Set([made[1]?.triggerId, other.triggerId]));
    expect(await db.clearHalts('ann', 'receiver_gone', { toolkit: 'nobody' })).toBe(0);
    // Each is told to the control plane, and who did it for what is in the audit.
    expect((await db.pendingLifecycle(10))?.map(({ state }) => state)).toEqual(['resumed', 'resumed', 'resumed']);
    const audits =
      await db.sql`select actor, subject, detail from audit where verb = 'clear_halts' and actor = 'ann' order by id`;
    expect(audits[0]).toEqual({
      actor: 'ann',
      subject: 'receiver_gone',
      detail: { cleared: 1, scope: 'toolkit a, tenant x' },
    });
  });

  test('410s of a lost lease do not turn the brake on', async () => {
    await push(db, many(80));
    const { batchId, triggers } = await claimAll(db);
    await expire(db, batchId);
    const gone = triggers.map((one) =>
      row(one, { outcome: 'halt', code: 'broadcast.gone', haltCode: 'receiver_gone' }),
    );
    const result = await commit(db, batchId, gone);
    expect(result.exceptions.map((one) => one.status)).toEqual(Array(80).fill('fenced'));
    expect(await db.fleet()).toMatchObject({ braked: false, halted: 0 });
  });

  test('a rate limit holds the connection for every worker', async () => {
    await push(db, [change(), change({ connectionId: 'other' })]);
    const { batchId, triggers } = await claimAll(db);
    await commit(
      db,
      batchId,
      triggers.map((one) =>
        row(
          one,
          one.connectionId === 'other'
            ? {}
            : { outcome: 'rate_limited', code: 'poll.rate_limited', polled: false, retryAfterSeconds: 600 },
        ),
      ),
    );
    await db.sql`update polling_trigger_runs set next_poll_at = statement_timestamp()`;
    expect((await claimAll(db)).triggers.map((one) => one.connectionId)).toEqual(['other']);
  });
});

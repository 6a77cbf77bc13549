/**
 * Rows that another transaction has just changed. PostgreSQL looks at them again after the wait; a lateral probe with a
 * limit under the lock then finds nothing, and the page or the commit loses rows it should have had.
 */
import { PATIENCE } from '@milkrun/testkit';
import { afterAll, beforeEach, expect, test, vi } from 'vitest';
import type { WorkerDb } from '../src/index.ts';
import { batchIds, change, claimAll, commit, freshDb, push, row, tick } from './support.ts';

let db: WorkerDb;
const opened: WorkerDb[] = [];
beforeEach(async () => {
  db = await freshDb();
  opened.push(db);
});
afterAll(async () => {
  await Promise.all(opened.map((one) => one.close()));
});

const TOUCH = 'update polling_trigger_runs set poll_requested_at = statement_timestamp()';

/** Runs `work` while another transaction holds changed rows; that one commits once `work` waits, `waits` times over. */
async function behind<T>(statement: string, work: () => Promise<T>, waits = 1): Promise<T> {
  const other = await db.sql.reserve();
  await other.unsafe('begin');
  await other.unsafe(statement);
  const pending = work();
  pending.catch(() => {});
  await vi.waitFor(async () => {
    const [waiting] = await db.sql`
        select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`;
    expect(waiting?.n).toBe(waits);
  }, PATIENCE);
  await other.unsafe('commit');
  other.release();
  return await pending;
}

test('a feed page finds every row it had to wait for', async () => {
  const created = Array.from({ length: 5 }, () => change());
  await push(db, created);
  const edits = created.map((one) => ({ ...one, configVersion: 2, config: '{"rate":2}' }) as never);
  expect(await behind(TOUCH, () => push(db, edits))).toMatchObject({ upserted: 5, fenced: 5 });
});

test('a commit finds every row it had to wait for and still owns', async () => {
  await push(
    db,
    Array.from({ length: 5 }, () => change()),
  );
  const { batchId, triggers } = await claimAll(db);
  const rows = triggers.map((one) => row(one));
  expect(await behind(TOUCH, () => commit(db, batchId, rows))).toMatchObject({ committed: 5, exceptions: [] });
});

test('claims of two timer shards at once take no more of a paced source than it allows', async () => {
  await db.setTimerShards('test', 2);
  await push(
    db,
    Array.from({ length: 20 }, () => change()),
  );
  await db.sql`insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
    values (hash32('synthetic'), 0, 1, now(), now(), 'operator', 'synthetic', '', '')`;
  const plans: string[] = [];
  for (const timerShard of [0, 1]) {
    const { planned } = await db.tick({ timerShard, batchSize: 100, batchIds: batchIds(1), dispatch: true });
    plans.push(...planned.map(({ batchId }) => batchId));
  }
  expect(plans).toHaveLength(2);
  const claims = await behind(
    'select from source_limits for update',
    () => Promise.all(plans.map((batchId) => db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 }))),
    2,
  );
  expect(claims.flatMap(({ triggers }) => triggers)).toHaveLength(1);
});

test('pages, claims and commits on the same rows never deadlock, and every row is answered once', async () => {
  const created = Array.from({ length: 100 }, () => change());
  await push(db, created);
  let version = 1;
  let answered = 0;
  let claimed = 0;
  const pages = async (): Promise<void> => {
    for (let n = 0; n < 30; n += 1) {
      version += 1;
      const config = `{"rate":${version}}`;
      await push(
        db,
        created.slice(0, 50).map((one) => ({ ...one, configVersion: version, config }) as never),
      );
    }
  };
  const polls = async (): Promise<void> => {
    for (let n = 0; n < 20; n += 1) {
      await db.pollAllNow('test');
      const [planned] = (await tick(db, { batchSize: 60, batchIds: batchIds(1) })).planned;
      if (planned === undefined) continue;
      const claim = await db.claim({ batchId: planned.batchId, leaseSeconds: 45, bytesMax: 1e7 });
      claimed += claim.triggers.length;
      const rows = claim.triggers.map((one) => row(one, { cursor: '1' }));
      const result = await commit(db, planned.batchId, rows);
      answered += result.committed + result.exceptions.length;
    }
  };
  await Promise.all([pages(), polls(), polls(), polls()]);
  expect(claimed).toBeGreaterThan(0);
  expect(answered).toBe(claimed);
  const [counts] = await db.sql`
    select (select count(*)::int from polling_trigger_runs) as runs, (select count(*)::int from polling_triggers) as definitions`;
  expect(counts).toEqual({ runs: 100, definitions: 100 });
});

/** What a poll costs the heap: claim and commit change rows in place, and a poll without news writes no state. */
import { createDatabase, type Postgres, startPostgres } from '@milkrun/testkit';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openWorkerDb, type WorkerDb } from '../src/index.ts';
import { commit, insertDue, row, tick } from './support.ts';

const ROWS = 6_000;
const ROUNDS = 2;

let server: Postgres;
let db: WorkerDb;
beforeAll(async () => {
  // A server of its own: a long transaction of another test, in whichever database, would keep pages from being pruned.
  server = await startPostgres();
  // One connection: its own statistics are what is read.
  db = await openWorkerDb({ url: await createDatabase(server.url), connections: 1 });
  await db.ensureTimerShards(1);
  await insertDue(db, ROWS);
});
afterAll(async () => {
  await db.close();
  await server.stop();
});

interface Updates {
  readonly updated: number;
  readonly hot: number;
}

async function updatesOf(table: string): Promise<Updates> {
  await db.sql`select pg_stat_force_next_flush()`;
  const [sum] = await db.sql<Updates[]>`
    select sum(n_tup_upd)::int as updated, sum(n_tup_hot_upd)::int as hot from pg_stat_user_tables where relname like ${`${table}_%`}`;
  return sum ?? { updated: 0, hot: 0 };
}

/** Polls every row once; due again at once, so that the next round polls the same rows. */
async function poll(): Promise<void> {
  const { planned } = await tick(db);
  for (const { batchId } of planned) {
    const claim = await db.claim({ batchId, leaseSeconds: 45, bytesMax: 1e7 });
    const rows = claim.triggers.map((one) => row(one, { outcome: 'more' }));
    expect((await commit(db, batchId, rows)).committed).toBe(rows.length);
  }
}

test('claims and commits of every row are HOT, and empty polls leave the states alone', async () => {
  // A row's first poll fills columns that were null: it grows once, and where its page is full it moves.
  await poll();
  await db.sql`vacuum polling_trigger_runs`;
  const before = await updatesOf('polling_trigger_runs');
  for (let round = 0; round < ROUNDS; round += 1) await poll();
  const after = await updatesOf('polling_trigger_runs');
  const updated = after.updated - before.updated;
  expect(updated).toBe(ROWS * ROUNDS * 2);
  expect((after.hot - before.hot) / updated).toBeGreaterThanOrEqual(0.98);
  expect(await updatesOf('polling_trigger_states')).toEqual({ updated: 0, hot: 0 });
  expect((await updatesOf('polling_triggers')).updated).toBe(0);
});

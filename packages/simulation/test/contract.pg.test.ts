/** The model of workerdb and PostgreSQL keep one contract: `src/contract.ts` says how they are compared. */
import { createDatabase } from '@milkrun/testkit';
import { openWorkerDb, type WorkerDb } from '@milkrun/workerdb';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { contractClock, runContract } from '../src/index.ts';

const STEPS = 40;
const SEEDS = [1, 2, 3, 4, 5];

let db: WorkerDb;

beforeAll(async () => {
  const url = await createDatabase(inject('pgUrl'));
  const first = await openWorkerDb({ url, connections: 1 });
  await first.sql.unsafe(contractClock(new URL(url).pathname.slice(1)));
  await first.close();
  db = await openWorkerDb({ url, connections: 2, migrate: false });
});

afterAll(async () => await db?.close());

test('the clock of the database is the test’s', async () => {
  const [at] = await db.sql.unsafe('select statement_timestamp() = (select now from sim.clock) as same');
  expect(at?.same).toBe(true);
});

test.each(SEEDS)('answers and rows are the same after every call of seed %i', { timeout: 120_000 }, async (seed) => {
  await runContract(db, seed, STEPS);
});

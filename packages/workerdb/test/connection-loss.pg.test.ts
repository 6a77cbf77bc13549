/**
 * Connections that are cut in the middle of what the engine does, by a proxy before a real PostgreSQL. A cut is an error of
 * the call it meets, and nothing else: the process lives (an error that nobody can catch would end it, and this run), and the
 * next call is answered.
 */
import { createDatabase, type FaultProxy, PATIENCE, startFaultProxy } from '@milkrun/testkit';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';
import { openWorkerDb, type WorkerDb } from '../src/index.ts';

let proxy: FaultProxy;
let db: WorkerDb;

beforeAll(async () => {
  const url = new URL(await createDatabase(inject('pgUrl')));
  proxy = await startFaultProxy(Number(url.port));
  url.port = String(proxy.port);
  db = await openWorkerDb({ url: url.href, connections: 2 });
  await db.ensureTimerShards(1);
});
afterAll(async () => {
  await db?.close();
  await proxy?.close();
});

const tick = () => db.tick({ timerShard: 0, batchSize: 10, batchIds: ['batch-poller:0:none'], dispatch: true });

test.for(['reset', 'lose_answer'] as const)(
  '%s inside a transaction: it fails, and the next one is answered',
  async (kind) => {
    // Both connections of the pool meet it, in a transaction each.
    await Promise.all([tick(), tick()]);
    proxy.set({ kind });
    const lost = await Promise.allSettled([tick(), tick()]);
    expect(lost.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(proxy.fired()).toBeGreaterThanOrEqual(2);
    proxy.set(undefined);
    await expect(tick()).resolves.toMatchObject({ due: 0 });
  },
);

test('cut between the statements of a transaction: the next one has nowhere to go, and ends nothing but the call', async () => {
  const statements = Promise.withResolvers<unknown>();
  const cut = db.sql.begin(async (tx) => {
    await tx`select 1`;
    proxy.resetAll();
    // The driver learns of it while nothing of the transaction is on its way.
    await vi.waitFor(() => expect(closed).toHaveBeenCalled(), PATIENCE);
    const next = tx`select 2`.then(
      () => 'answered',
      (error: { code?: string }) => error.code,
    );
    statements.resolve(next);
    await next;
  });
  const closed = vi.fn();
  cut.catch(closed);
  await expect(cut).rejects.toMatchObject({ code: expect.stringMatching(/CONNECTION_CLOSED|ECONNRESET/) });
  expect(await statements.promise).toBe('CONNECTION_CLOSED');
  // Time for what a driver puts off to the next turns of the event loop.
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  await expect(tick()).resolves.toMatchObject({ due: 0 });
});

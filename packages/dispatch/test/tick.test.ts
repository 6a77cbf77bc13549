/** The tick by itself, with a model of workerdb and a clock that moves when a test says so. */
import { noLog, noMetrics, systemRng } from '@milkrun/core';
import { expect, test } from 'vitest';
import { createTickActivities, type TickDeps } from '../src/index.ts';
import { manualClock } from './manual-clock.ts';
import { MemoryDispatchStore } from './memory-store.ts';

function depsOf(clock: TickDeps['clock'], more: Pick<TickDeps, 'store'> & Partial<TickDeps>): TickDeps {
  return {
    endBatch: async () => false,
    timers: { arm: async () => {} },
    client: {} as TickDeps['client'],
    gate: { open: async () => true },
    clock,
    rng: systemRng,
    log: noLog,
    metrics: noMetrics,
    tickMs: 10_000,
    batchSize: 10,
    policy: { maxRetryCounter: 3, leaseSeconds: 45 },
    ...more,
  };
}

test('a tick says that it lives for as long as it takes, and no longer', async () => {
  const clock = manualClock();
  const store = new MemoryDispatchStore(clock);
  const inDatabase = Promise.withResolvers<void>();
  let beats = 0;
  const deps = depsOf(clock, {
    store: { tick: (input) => inDatabase.promise.then(() => store.tick(input)), timerShards: async () => [0] },
    heartbeat: () => {
      beats += 1;
    },
  });
  const ticking = createTickActivities(deps).tick({ timerShard: 0 });
  await clock.advance(10_000);
  expect(beats).toBe(5);
  inDatabase.resolve();
  await ticking;
  await clock.advance(60_000);
  expect([beats, clock.asleep]).toEqual([5, []]);
});

test('a tick that came before its gap had passed waits for the rest of it', async () => {
  const clock = manualClock();
  const store = new MemoryDispatchStore(clock);
  const ticking = createTickActivities(depsOf(clock, { store })).tick({ timerShard: 0, waitMs: 80 });
  await clock.advance(79);
  expect(store.ticks).toEqual([]);
  await clock.advance(1);
  await ticking;
  expect(store.ticks).toHaveLength(1);
});

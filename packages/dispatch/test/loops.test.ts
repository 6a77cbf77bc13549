/** The loops against a model of workerdb and a control plane that answers what the test says. Time is the test's. */
import {
  type ControlPlane,
  type FeedAnswer,
  type LifecycleRecord,
  noLog,
  noMetrics,
  type StateAnswer,
} from '@milkrun/core';
import { afterEach, expect, it } from 'vitest';
import {
  createDispatchGate,
  createFeedReader,
  createLifecycleSender,
  createLoop,
  createPushChanges,
  createWorkerHeartbeat,
  type Loop,
  madeAtOf,
} from '../src/index.ts';
import { manualClock } from './manual-clock.ts';
import { MemoryDispatchStore, upsert } from './memory-store.ts';

const loops: Loop[] = [];
afterEach(async () => {
  await Promise.all(loops.splice(0).map((loop) => loop.stop()));
});
function begin(loop: Loop): Loop {
  loops.push(loop);
  loop.start();
  return loop;
}

/** A feed whose answers are taken in order; without one left it waits, as a long poll does. */
function feedOf(answers: FeedAnswer[]) {
  const asked: (string | null)[] = [];
  let wake = (): void => undefined;
  const readChanges: ControlPlane['readChanges'] = async ({ after, signal }) => {
    asked.push(after);
    const answer = answers.shift();
    if (answer !== undefined) return answer;
    return await new Promise<FeedAnswer>((resolve, reject) => {
      wake = () => resolve(answers.shift() ?? { kind: 'page', changes: [], next: after ?? '', more: false });
      signal?.addEventListener('abort', () => reject(signal.reason));
    });
  };
  return {
    asked,
    readChanges,
    push(answer: FeedAnswer) {
      answers.push(answer);
      wake();
    },
  };
}

function page(next: string, ids: string[], more = false): FeedAnswer {
  return { kind: 'page', changes: ids.map((id) => upsert(id)), next, more };
}

function readerScene(answers: FeedAnswer[], options: { resyncEveryMs?: number } = {}) {
  const clock = manualClock();
  const store = new MemoryDispatchStore(clock);
  const feed = feedOf(answers);
  const armed: number[] = [];
  const timers = { arm: async (timerShard: number) => void armed.push(timerShard) };
  const deps = { store, controlPlane: feed, timers, clock, log: noLog, metrics: noMetrics, workerId: 'w1', ...options };
  return { clock, store, feed, armed, deps };
}

it('reads page after page without a pause, then waits on the feed, and arms after each commit', async () => {
  const { clock, store, feed, armed, deps } = readerScene([page('c1', ['a', 'b'], true), page('c2', ['c'])]);
  begin(createFeedReader(deps));
  await clock.advance(0);
  expect(feed.asked).toEqual([null, 'c1', 'c2']);
  expect([...store.rows.keys()]).toEqual(['a', 'b', 'c']);
  expect(armed).toEqual([0, 0]);
  feed.push(page('c3', ['d']));
  await clock.advance(0);
  expect(feed.asked).toEqual([null, 'c1', 'c2', 'c3']);
  expect(store.cursor).toBe('c3');
});

it('reads again from the cursor when another reader was first', async () => {
  const { clock, store, feed, deps } = readerScene([]);
  begin(createFeedReader(deps));
  await clock.advance(0);
  await store.applyFeedPage({ after: null, next: 'theirs', changes: [], source: 'pull' });
  feed.push(page('ours', ['a']));
  await clock.advance(0);
  expect(store.cursor).toBe('theirs');
  expect([...store.rows.keys()]).toEqual([]);
  expect(feed.asked).toEqual([null, 'theirs']);
});

it('leaves the feed to the worker that has the turn, and takes over when it is gone', async () => {
  const { clock, store, feed, deps } = readerScene([page('c1', ['a'])]);
  store.turns.set('feed', { workerId: 'w0', untilMs: clock.now() + 60_000 });
  begin(createFeedReader(deps));
  await clock.advance(58_000);
  expect(feed.asked).toEqual([]);
  await clock.advance(4_000);
  expect(feed.asked[0]).toBe(null);
  expect(store.cursor).toBe('c1');
});

it('reads the whole feed anew when its cursor has expired and deletes what it no longer names', async () => {
  const { clock, store, feed, deps } = readerScene([
    page('c1', ['kept', 'gone']),
    { kind: 'expired' },
    page('n1', ['kept'], true),
    page('n2', ['fresh']),
  ]);
  begin(createFeedReader(deps));
  await clock.advance(0);
  expect(feed.asked).toEqual([null, 'c1', null, 'n1', 'n2']);
  expect([...store.rows.keys()].sort()).toEqual(['fresh', 'kept']);
});

it('finishes a resync that a worker which has gone began', async () => {
  const { clock, store, deps } = readerScene([page('n2', ['fresh'])]);
  await store.applyFeedPage({ after: null, next: 'c1', changes: [upsert('kept'), upsert('gone')], source: 'pull' });
  await store.beginResync();
  await store.applyFeedPage({ after: null, next: 'n1', changes: [upsert('kept')], source: 'pull' });
  begin(createFeedReader(deps));
  await clock.advance(0);
  expect([...store.rows.keys()].sort()).toEqual(['fresh', 'kept']);
  expect(await store.resyncInProgress()).toBeNull();
});

it('deletes nothing when a resync would delete too many', async () => {
  const many = Array.from({ length: 60 }, (_, i) => `t${i}`);
  const { clock, store, deps } = readerScene([page('c1', many), { kind: 'expired' }, page('n1', [])]);
  begin(createFeedReader(deps));
  await clock.advance(0);
  expect(store.rows.size).toBe(60);
  expect(store.resyncs).toEqual([{ token: 'resync-0', confirmMassDelete: false }]);
});

it('waits longer after each unavailable answer, and as long as it is asked to', async () => {
  const away: FeedAnswer = { kind: 'unavailable', reason: '503' };
  const { clock, feed, deps } = readerScene([away, away, { ...away, retryAfterSeconds: 45 }, page('c1', ['a'])]);
  begin(createFeedReader(deps));
  await clock.advance(0);
  expect(clock.asleep).toEqual([1_000]);
  await clock.advance(1_000);
  expect(clock.asleep).toEqual([2_000]);
  await clock.advance(2_000);
  expect(clock.asleep).toEqual([45_000]);
  await clock.advance(45_000);
  expect(feed.asked).toEqual([null, null, null, null, 'c1']);
});

it('does not ask a feed that ignores `wait` in a hot loop', async () => {
  const empty = page('c1', []);
  const { clock, feed, deps } = readerScene([empty, empty, empty, empty, empty]);
  begin(createFeedReader(deps));
  await clock.advance(2_500);
  expect(feed.asked).toEqual([null, 'c1', 'c1', 'c1']);
});

it('reads everything anew once a day where changes are pushed', async () => {
  const { clock, feed, store, deps } = readerScene([page('c1', ['a', 'b'])], { resyncEveryMs: 86_400_000 });
  begin(createFeedReader(deps));
  await clock.advance(86_400_000);
  feed.push(page('c1', []));
  await clock.advance(1_000);
  feed.push(page('n1', ['a']));
  await clock.advance(1_000);
  expect([...store.rows.keys()]).toEqual(['a']);
});

it('applies pushed changes by version, leaves the cursor alone, and arms', async () => {
  const { store, armed, deps } = readerScene([]);
  store.cursor = 'c9';
  const push = createPushChanges(deps);
  expect(await push([upsert('a', 2)])).toMatchObject({ upserted: 1, stale: 0 });
  expect(await push([upsert('a', 1), upsert('a', 2)])).toMatchObject({ upserted: 0, stale: 2 });
  expect([store.cursor, armed]).toEqual(['c9', [0]]);
});

function lifecycleScene(answer: (lifecycle: readonly LifecycleRecord[]) => StateAnswer) {
  const clock = manualClock();
  const store = new MemoryDispatchStore(clock);
  const sent: (readonly string[])[] = [];
  const postState: ControlPlane['postState'] = async ({ lifecycle }) => {
    sent.push(lifecycle.map(({ triggerId }) => triggerId));
    return answer(lifecycle);
  };
  const deps = { store, controlPlane: { postState }, clock, log: noLog, metrics: noMetrics, workerId: 'w1' };
  for (const id of ['a', 'b']) {
    const at = '2026-01-01T00:00:00.5Z';
    store.lifecycle.push({ id, triggerId: id, configVersion: 1, state: 'halted', code: 'auth.expired', at });
  }
  return { clock, store, sent, deps };
}

it('sends lifecycle records until each is echoed', async () => {
  const { clock, store, sent, deps } = lifecycleScene((lifecycle) => ({
    kind: 'answered',
    statuses: [],
    // The same instant, written another way; one record is left out the first time.
    lifecycle: lifecycle.slice(0, 1).map(({ triggerId }) => ({ triggerId, at: '2026-01-01T01:00:00.500+01:00' })),
  }));
  begin(createLifecycleSender(deps));
  await clock.advance(0);
  expect(store.lifecycle.map(({ id }) => id)).toEqual(['b']);
  await clock.advance(2_000);
  expect(store.lifecycle).toEqual([]);
  await clock.advance(10_000);
  expect(sent).toEqual([['a', 'b'], ['b']]);
});

it('keeps lifecycle records while the control plane does not take them', async () => {
  const { clock, store, sent, deps } = lifecycleScene(() => ({
    kind: 'unavailable',
    reason: '503',
    retryAfterSeconds: 30,
  }));
  begin(createLifecycleSender(deps));
  await clock.advance(29_000);
  expect([sent.length, store.lifecycle.length]).toEqual([1, 2]);
  await clock.advance(2_000);
  expect([sent.length, store.lifecycle.length]).toEqual([2, 2]);
});

it('tells each worker how many live', async () => {
  const clock = manualClock();
  const store = new MemoryDispatchStore(clock);
  const told: number[] = [];
  const deps = {
    store,
    clock,
    log: noLog,
    metrics: noMetrics,
    width: () => 500,
    onLive: (live: number) => told.push(live),
  };
  begin(createWorkerHeartbeat({ ...deps, workerId: 'w1' }));
  await clock.advance(0);
  begin(createWorkerHeartbeat({ ...deps, workerId: 'w2' }));
  await clock.advance(10_000);
  expect(told).toEqual([1, 2, 2, 2]);
});

it('survives rounds that fail, waiting 1, 2, 4 … 30 s, and stops in the middle of one', async () => {
  const clock = manualClock();
  let rounds = 0;
  const loop = begin(
    createLoop({
      name: 'test',
      clock,
      log: noLog,
      everyMs: 500,
      async round(signal) {
        rounds += 1;
        if (rounds <= 7) throw new Error('away');
        if (rounds === 9) await clock.sleep(3_600_000, signal);
        return undefined;
      },
    }),
  );
  const waits: number[] = [];
  for (let i = 0; i < 8; i += 1) {
    await clock.advance(0);
    waits.push(...clock.asleep);
    await clock.advance(clock.asleep[0] ?? 0);
  }
  expect(waits).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 500]);
  expect(rounds).toBe(9);
  await loop.stop();
  expect(clock.asleep).toEqual([]);
});

it('holds dispatch while a dependency is down, with one probe a minute, and opens when it answers', async () => {
  const clock = manualClock();
  let isUp = false;
  let probes = 0;
  const gate = createDispatchGate({
    dependencies: [
      { name: 'control_plane', available: () => true, probe: async () => undefined },
      {
        name: 'object_store',
        available: () => isUp,
        async probe() {
          probes += 1;
          if (probes < 2) throw new Error('still away');
          isUp = true;
        },
      },
    ],
    clock,
    log: noLog,
  });
  const seen: [boolean, number][] = [];
  for (let seconds = 0; seconds <= 120; seconds += 10) {
    seen.push([await gate.open(), probes]);
    await clock.advance(10_000);
  }
  expect(seen.map(([open]) => open).lastIndexOf(false)).toBe(11);
  expect(seen[6]).toEqual([false, 1]);
  expect(seen[12]).toEqual([true, 2]);
});

it('reads the age of a batch from its id', () => {
  expect(madeAtOf('batch-poller:3:0196f000-0000-7abc-8def-0123456789ab')).toBe(0x0196f0000000);
  expect(madeAtOf('batch-poller:3:0196f000-0000-4abc-8def-0123456789ab')).toBeUndefined();
});

/**
 * TimerShard, the tick and the repairs on a real Temporal server, with a model of workerdb. Each test has its own task
 * queues and its own timer shard, so that they do not meet. With `MILKRUN_RECORD_HISTORIES=1` the histories that
 * `replay.test.ts` replays are written anew; format them afterwards.
 */

import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import {
  type BatchPollerInput,
  batchIdOf,
  noLog,
  noMetrics,
  systemClock,
  systemRng,
  timerShardWorkflowIdOf,
  uuidv7,
} from '@milkrun/core';
import type {} from '@milkrun/testkit';
import { PATIENCE } from '@milkrun/testkit';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, expect, inject, it, vi } from 'vitest';
import { checkLiveness, createTickActivities, createTimerManager, ensureShards, type TickDeps } from '../src/index.ts';
import { MemoryDispatchStore } from './memory-store.ts';

const logger = new DefaultLogger('ERROR', () => undefined);
Runtime.install({ logger, telemetryOptions: { logging: { forward: {}, filter: { core: 'ERROR', other: 'ERROR' } } } });

let connection: Connection;
let native: NativeConnection;
let client: Client;
let sound: { code: string };
let broken: { code: string };

beforeAll(async () => {
  const address = inject('temporalAddress');
  connection = await Connection.connect({ address });
  native = await NativeConnection.connect({ address });
  client = new Client({ connection, identity: 'test' });
  const bundle = (path: URL) => bundleWorkflowCode({ workflowsPath: fileURLToPath(path), logger });
  [sound, broken] = await Promise.all([
    bundle(new URL('./fixtures/workflows.ts', import.meta.url)),
    bundle(new URL('./fixtures/broken-workflows.ts', import.meta.url)),
  ]);
});
afterAll(async () => {
  await connection.close();
  await native.close();
});

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

let nextShard = 1000 + Math.floor(systemRng.next() * 90_000);

async function scene(options: { bundle?: { code: string }; tickMs?: number; batchSize?: number } = {}) {
  nextShard += 1;
  const timerShard = nextShard;
  const taskQueue = `timer-shard-test-${timerShard}`;
  const store = new MemoryDispatchStore(systemClock);
  store.shards = [timerShard];
  const ran: string[] = [];
  const ended: string[] = [];
  const armed: number[] = [];
  const settings: TickDeps = {
    store,
    client,
    endBatch: async (batchId) => ended.push(batchId) > 0,
    timers: { arm: async (shard) => void armed.push(shard) },
    gate: { open: async () => true },
    clock: systemClock,
    rng: systemRng,
    log: noLog,
    metrics: noMetrics,
    tickMs: options.tickMs ?? 60_000,
    batchSize: options.batchSize ?? 100,
    policy: { maxRetryCounter: 3, leaseSeconds: 45 },
    batchQueue: taskQueue,
  };
  const ticks = createTickActivities(settings);
  const activities = { ...ticks, ran: async (batchId: string) => void ran.push(batchId) };
  const start = async (bundle: { code: string }) => {
    const worker = await Worker.create({
      connection: native,
      identity: 'worker',
      taskQueue,
      workflowBundle: bundle,
      activities,
    });
    const running = worker.run();
    return async () => {
      worker.shutdown();
      await running;
    };
  };
  const timers = createTimerManager({ client, log: noLog, metrics: noMetrics, by: 'feed', taskQueue });
  const handle = client.workflow.getHandle(timerShardWorkflowIdOf(timerShard));
  const stop = await start(options.bundle ?? sound);
  let isStopped = false;
  const stopOnce = async () => {
    if (!isStopped) await stop();
    isStopped = true;
  };
  undo.push(stopOnce, () => handle.terminate().catch(() => undefined));
  return { timerShard, taskQueue, store, ended, armed, ran, ticks, timers, handle, start, stop: stopOnce, settings };
}

/** Keeps the history of a shard's run, as far as it has come, without where it ran. */
async function record(handle: WorkflowHandle, name: string): Promise<void> {
  if (process.env.MILKRUN_RECORD_HISTORIES !== '1') return;
  const json = JSON.parse(historyToJSON(await handle.fetchHistory())) as unknown;
  const text = JSON.stringify(json, (key, value) => (key === 'stackTrace' ? '' : (value as unknown)), 2);
  writeFileSync(fileURLToPath(new URL(`./histories/${name}.json`, import.meta.url)), `${text}\n`);
}

it('plans due rows into full batches and starts each of them once', async () => {
  const { store, timers, timerShard, ran } = await scene({ batchSize: 40 });
  store.addDue(100);
  await timers.arm(timerShard);
  await vi.waitFor(() => expect(ran).toHaveLength(3), PATIENCE);
  expect([...store.batches].map(([, { keys }]) => keys.length)).toEqual([40, 40, 20]);
  expect(new Set(ran)).toEqual(new Set(store.batches.keys()));
});

it('sleeps while nothing is due and ticks at once when it is armed', async () => {
  const { store, timers, timerShard, ran, handle } = await scene();
  await timers.arm(timerShard);
  await vi.waitFor(() => expect(store.ticks).toHaveLength(1), PATIENCE);
  store.addDue(1);
  await timers.arm(timerShard);
  await vi.waitFor(() => expect(ran).toHaveLength(1), PATIENCE);
  await record(handle, 'armed');
});

it('takes a hundred arms within a second for one tick', async () => {
  const { store, timers, timerShard, handle } = await scene();
  await timers.arm(timerShard);
  await vi.waitFor(() => expect(store.ticks).toHaveLength(1), PATIENCE);
  await Promise.all(Array.from({ length: 100 }, () => timers.arm(timerShard)));
  store.addDue(1);
  await timers.arm(timerShard);
  await vi.waitFor(() => expect(store.batches.size).toBe(1), PATIENCE);
  expect(store.ticks.length).toBeLessThanOrEqual(4);
  await record(handle, 'many-arms');
});

it('starts a batch again that was planned and never started, and never one that has run', async () => {
  const { store, ticks, timerShard, ran } = await scene();
  store.addDue(1);
  await ticks.tick({ timerShard });
  await vi.waitFor(() => expect(ran).toHaveLength(1), PATIENCE);
  const [batchId] = ran;
  await client.workflow.getHandle(batchId ?? '').result();
  // Still not claimed by the book: the tick names it again, and its closed workflow stays closed.
  expect(await ticks.tick({ timerShard })).toMatchObject({ again: false });
  const planned = batchIdOf(timerShard, uuidv7(systemClock, systemRng));
  store.batches.set(planned, { keys: [], claimed: false });
  await ticks.tick({ timerShard });
  await vi.waitFor(() => expect(ran).toEqual([batchId, planned]), PATIENCE);
});

it('hands each batch its input', async () => {
  const { store, ticks, timerShard, settings } = await scene();
  store.addDue(7);
  await ticks.tick({ timerShard });
  const [batchId = ''] = store.batches.keys();
  const history = await client.workflow.getHandle(batchId).fetchHistory();
  const payload = history.events?.[0]?.workflowExecutionStartedEventAttributes?.input?.payloads?.[0]?.data;
  const input = JSON.parse(new TextDecoder().decode(payload ?? new Uint8Array())) as BatchPollerInput;
  expect(input).toEqual({ batchId, timerShard, size: 7, retryCounter: 0, policy: settings.policy });
});

it('plans and starts nothing while dispatch is held', async () => {
  const { store, timerShard, ran, settings } = await scene();
  store.addDue(5);
  const ticks = createTickActivities({ ...settings, gate: { open: async () => false } });
  expect(await ticks.tick({ timerShard })).toMatchObject({ again: true });
  expect([store.batches.size, store.ticks.map(({ dispatch }) => dispatch), ran]).toEqual([0, [false], []]);
});

it('goes on ticking through failures of workerdb', async () => {
  const { store, timers, timerShard, ran, handle } = await scene();
  const tick = store.tick.bind(store);
  let failures = 0;
  store.tick = async (input) => {
    failures += 1;
    if (failures <= 2) throw new Error('workerdb is away');
    return tick(input);
  };
  store.addDue(1);
  await timers.arm(timerShard);
  await vi.waitFor(() => expect(ran).toHaveLength(1), PATIENCE);
  expect(failures).toBeGreaterThanOrEqual(3);
  await record(handle, 'failing-tick');
});

it('is started by every worker and runs once', async () => {
  const { store, timers, handle } = await scene();
  await Promise.all([ensureShards({ store, timers }), ensureShards({ store, timers })]);
  await vi.waitFor(() => expect(store.ticks.length).toBeGreaterThan(0), PATIENCE);
  expect((await handle.describe()).status.name).toBe('RUNNING');
});

function livenessDeps({ store, timers }: Awaited<ReturnType<typeof scene>>, endBatch = async (_: string) => true) {
  const shared = { clock: systemClock, log: noLog, metrics: noMetrics, workerId: 'w1' };
  return { ...shared, store, client, timers, endBatch, stuckMs: 500 };
}

it('starts a shard that liveness finds quiet', async () => {
  const here = await scene();
  here.store.report = { quietShards: [here.timerShard] };
  const round = await checkLiveness(livenessDeps(here), new AbortController().signal);
  expect(round.signalled).toEqual([here.timerShard]);
  expect(round.report.violations[0]).toMatchObject({
    kind: 'shard_quiet',
    timerShard: here.timerShard,
    done: `timer shard ${here.timerShard} was signalled`,
  });
  expect(here.store.repaired).toHaveLength(1);
  await vi.waitFor(() => expect(here.store.ticks.length).toBeGreaterThan(0), PATIENCE);
});

it('continues as a new run under load: no arm is lost, nothing is started twice', async () => {
  const { store, ran, timers, timerShard, taskQueue, handle } = await scene({ tickMs: 20, batchSize: 5 });
  store.placesMax = 10_000;
  const input = { workflowId: handle.workflowId, taskQueue, args: [{ timerShard, runMs: 300 }] };
  await client.workflow.start('TimerShard', input);
  const runs = new Set<string>();
  for (let n = 0; n < 20 || runs.size < 3; n += 1) {
    store.addDue(5);
    await timers.arm(timerShard);
    runs.add((await handle.describe()).runId);
  }
  await vi.waitFor(() => {
    expect([...store.batches.values()].flatMap(({ keys }) => keys).length).toBe(store.rows.size);
    expect(ran.length).toBe(store.batches.size);
  }, PATIENCE);
  expect(new Set(ran).size).toBe(ran.length);
});

it('ends when re-sharding has removed it, and wakes those that took over', async () => {
  const { store, timers, timerShard, handle, armed } = await scene();
  store.gone = true;
  await timers.arm(timerShard);
  await handle.result();
  expect(armed).toEqual([timerShard]);
});

it('ends a planned batch whose workflow has closed without claiming it', async () => {
  const { store, ticks, ended, taskQueue, timerShard } = await scene();
  const batchId = batchIdOf(timerShard, uuidv7(systemClock, systemRng));
  const handle = await client.workflow.start('BatchPoller', {
    workflowId: batchId,
    taskQueue: `${taskQueue}-none`,
    args: [],
  });
  await handle.terminate();
  store.batches.set(batchId, { keys: [], claimed: false });
  await ticks.tick({ timerShard });
  expect(ended).toEqual([batchId]);
});

it('replaces a shard whose workflow task keeps failing', async () => {
  const here = await scene({ bundle: broken });
  await here.timers.arm(here.timerShard);
  await vi.waitFor(async () => {
    const { raw } = await here.handle.describe();
    expect(raw.pendingWorkflowTask?.attempt ?? 0).toBeGreaterThan(1);
  }, PATIENCE);
  const { runId } = await here.handle.describe();
  const round = await checkLiveness(livenessDeps(here), new AbortController().signal);
  expect(round.replaced).toEqual([here.timerShard]);
  await here.stop();
  const stopSound = await here.start(sound);
  undo.push(stopSound);
  await vi.waitFor(() => expect(here.store.ticks.length).toBeGreaterThan(0), PATIENCE);
  expect((await here.handle.describe()).runId).not.toBe(runId);
});

it('replaces a shard that stays quiet though it was signalled, as one on a queue nobody serves', async () => {
  const here = await scene();
  const input = {
    workflowId: here.handle.workflowId,
    taskQueue: 'nobody-serves-it',
    args: [{ timerShard: here.timerShard }],
  };
  await client.workflow.start('TimerShard', input);
  here.store.report = { quietShards: [here.timerShard] };
  const young = await checkLiveness(livenessDeps(here), new AbortController().signal);
  expect(young.replaced).toEqual([]);
  const deps = { ...livenessDeps(here), clock: { ...systemClock, now: () => systemClock.now() + 60_000 } };
  const round = await checkLiveness(deps, new AbortController().signal);
  expect(round.replaced).toEqual([here.timerShard]);
  await vi.waitFor(() => expect(here.store.ticks.length).toBeGreaterThan(0), PATIENCE);
});

it('leaves a sound shard alone', async () => {
  const here = await scene();
  await here.timers.arm(here.timerShard);
  await vi.waitFor(() => expect(here.store.ticks.length).toBeGreaterThan(0), PATIENCE);
  const round = await checkLiveness(livenessDeps(here), new AbortController().signal);
  expect(round.replaced).toEqual([]);
});

it('ends a batch older than a day in workerdb, then terminates its workflow; a young one goes on', async () => {
  const here = await scene();
  const dayOld = { ...systemClock, now: () => systemClock.now() - 86_460_000 };
  const [old, young] = [dayOld, systemClock].map((clock) => batchIdOf(here.timerShard, uuidv7(clock, systemRng)));
  for (const workflowId of [old, young]) {
    await client.workflow.start('BatchPoller', { workflowId: workflowId ?? '', taskQueue: 'nobody', args: [] });
    undo.push(() =>
      client.workflow
        .getHandle(workflowId ?? '')
        .terminate()
        .catch(() => undefined),
    );
  }
  const ended: string[] = [];
  const deps = livenessDeps(here, async (batchId) => ended.push(batchId) > 0);
  await vi.waitFor(async () => {
    const round = await checkLiveness(deps, new AbortController().signal);
    expect(round.terminated).toEqual([old]);
  }, PATIENCE);
  expect(ended).toEqual([old]);
  expect((await client.workflow.getHandle(young ?? '').describe()).status.name).toBe('RUNNING');
  expect((await client.workflow.getHandle(old ?? '').describe()).status.name).toBe('TERMINATED');
});

/**
 * Supervision against scripted workers: every way a worker can end, and what the host does about it. The SDK's own
 * behaviour (state FAILED while `run()` stays pending, a refused connection that can not be closed) is what the
 * scripts replay; `worker-host.test.ts` runs the real thing.
 */

import { noLog, noMetrics } from '@milkrun/core';
import { PATIENCE } from '@milkrun/testkit';
import type { WorkerOptions } from '@temporalio/worker';
import { afterEach, expect, it, vi } from 'vitest';
import { createWorkerHost, type WorkerHost, type WorkerHostFatal, type WorkerHostOptions } from '../src/index.ts';
import { quickClock, ScriptedConnection, ScriptedWorker } from './scripted.ts';

const hosts: WorkerHost[] = [];
afterEach(async () => {
  await Promise.all(hosts.splice(0).map((host) => host.stopAll()));
});

function scene(options: Partial<WorkerHostOptions> = {}) {
  const workers: ScriptedWorker[] = [];
  const connections: ScriptedConnection[] = [];
  const fatals: WorkerHostFatal[] = [];
  const clock = quickClock();
  const host = createWorkerHost({
    connect: async () => {
      const connection = new ScriptedConnection();
      connections.push(connection);
      return connection;
    },
    namespace: 'default',
    clock,
    log: noLog,
    metrics: noMetrics,
    onFatal: (error) => fatals.push(error),
    createWorker: async (workerOptions: WorkerOptions) => {
      const worker = new ScriptedWorker(workerOptions);
      workers.push(worker);
      return worker;
    },
    ...options,
  });
  hosts.push(host);
  const of = (queue: string) => workers.filter((worker) => worker.options.taskQueue === queue);
  const status = (queue: string) => host.registry().find((entry) => entry.queue === queue);
  return { host, workers, connections, fatals, clock, of, status };
}

const activities = { work: async () => undefined };
const fact = (check: () => void | Promise<void>): Promise<void> => vi.waitFor(check, PATIENCE);

it('H20: refuses an unknown option with the nearest name, and a queue that serves nothing', async () => {
  const { host } = scene();
  await expect(host.start('a', { activites: activities } as never)).rejects.toThrow(/did you mean activities\?/);
  await expect(host.start('a', {})).rejects.toThrow(/neither workflows nor activities/);
  expect(host.registry()).toEqual([]);
});

it('H01: refuses a second worker for a queue, also when two starts race', async () => {
  const { host, workers } = scene();
  const outcomes = await Promise.allSettled([host.start('a', { activities }), host.start('a', { activities })]);
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  expect(workers).toHaveLength(1);
});

it('H20, H21: hands options on unchanged, with its own shutdown times and a cache no smaller than the concurrency', async () => {
  const { host, workers } = scene();
  await host.start('a', {
    activities,
    maxConcurrentWorkflowTaskExecutions: 250,
    maxConcurrentActivityTaskExecutions: 7,
  });
  expect(workers[0]?.options).toMatchObject({
    taskQueue: 'a',
    namespace: 'default',
    activities,
    maxConcurrentActivityTaskExecutions: 7,
    maxCachedWorkflows: 250,
    shutdownGraceTime: 30_000,
    shutdownForceTime: 60_000,
  });
});

it('H21: without a word on it 100 of each kind run at once, and 100 workflows are cached', async () => {
  const { host, workers } = scene();
  await host.start('a', { activities });
  expect(workers[0]?.options).toMatchObject({
    maxConcurrentActivityTaskExecutions: 100,
    maxConcurrentWorkflowTaskExecutions: 100,
    maxCachedWorkflows: 100,
  });
});

it('H08: restarts a worker whose run rejects, and leaves the other queue alone', async () => {
  const { host, of, status } = scene();
  await Promise.all([host.start('a', { activities }), host.start('b', { activities })]);
  of('a')[0]?.fail('boom');
  await fact(() => expect(of('a')).toHaveLength(2));
  await fact(() => expect(status('a')).toMatchObject({ state: 'running', restarts: 1, lastError: 'boom' }));
  expect(of('b')).toHaveLength(1);
  expect(status('b')).toMatchObject({ state: 'running', restarts: 0 });
});

it('H11: restarts a worker that says FAILED while its run stays pending', async () => {
  const { host, of, status } = scene();
  await host.start('a', { activities });
  of('a')[0]?.hang();
  await fact(() => expect(status('a')).toMatchObject({ state: 'running', restarts: 1 }));
  expect(of('a')).toHaveLength(2);
});

it('H08: takes a normal end as final', async () => {
  const { host, of, status } = scene();
  await host.start('a', { activities });
  of('a')[0]?.end();
  await fact(() => expect(status('a')?.state).toBe('ended'));
  expect(of('a')).toHaveLength(1);
  expect(host.ready()).toBe(false);
});

it('H04: backs off 1, 2, 4, 8, 16 s and gives up once the budget is spent, naming the queue', async () => {
  const { host, fatals, clock } = scene({
    createWorker: async () => {
      throw new Error('namespace not found');
    },
    restartBudget: { restarts: 5, windowMs: 600_000 },
  });
  await expect(host.start('a', { activities })).rejects.toThrow('namespace not found');
  expect(fatals.map(({ queue, message }) => [queue, message])).toEqual([
    ['a', 'the worker of a keeps failing: namespace not found'],
  ]);
  expect(clock.slept.filter((ms) => [1_000, 2_000, 4_000, 8_000, 16_000].includes(ms))).toEqual([
    1_000, 2_000, 4_000, 8_000, 16_000,
  ]);
  expect(host.healthy()).toBe(false);
});

it('keeps the budget while the server can not be reached at all', async () => {
  let tries = 0;
  const { host, fatals } = scene({
    restartBudget: { restarts: 1, windowMs: 3_600_000 },
    createWorker: async (options) => {
      tries += 1;
      if (tries < 8) throw Object.assign(new Error('14 UNAVAILABLE'), { code: 14 });
      return new ScriptedWorker(options);
    },
  });
  await host.start('a', { activities });
  expect(tries).toBe(8);
  expect(fatals).toEqual([]);
});

it('H19: retries the first connect', async () => {
  let tries = 0;
  const { host, status } = scene({
    connect: async () => {
      tries += 1;
      if (tries < 4) throw new Error('connection refused');
      return new ScriptedConnection();
    },
  });
  await host.start('a', { activities });
  expect(tries).toBe(4);
  expect(status('a')?.state).toBe('running');
});

it('H09, H16, H17: rebuilds a refused connection, then its workers in the order they were started', async () => {
  const { host, connections, workers, of, status } = scene();
  for (const queue of ['a', 'b', 'c']) await host.start(queue, { activities });
  const [first] = connections;
  if (first !== undefined) first.answer = 'refused';
  of('b')[0]?.fail('TransportError');
  await fact(() => expect(workers).toHaveLength(6));
  await fact(() =>
    expect(['a', 'b', 'c'].map((queue) => status(queue)?.state)).toEqual(['running', 'running', 'running']),
  );
  expect(connections).toHaveLength(2);
  await fact(() => expect(first?.isClosed).toBe(true));
  const rebuilt = workers.slice(3);
  expect(rebuilt.every((worker) => worker.options.connection === connections[1]?.native)).toBe(true);
  const others = rebuilt.map((worker) => worker.options.taskQueue).filter((queue) => queue !== 'b');
  expect(others).toEqual(['a', 'c']);
});

it('does not touch the connection when the server merely does not answer', async () => {
  const { host, connections, of, status } = scene();
  await Promise.all([host.start('a', { activities }), host.start('b', { activities })]);
  const [first] = connections;
  if (first !== undefined) first.answer = 'unanswered';
  await fact(() => expect(host.ready()).toBe(false));
  expect(host.healthy()).toBe(true);
  expect(status('a')?.state).toBe('running');
  if (first !== undefined) first.answer = 'answered';
  await fact(() => expect(host.ready()).toBe(true));
  expect(connections).toHaveLength(1);
  expect(of('a')).toHaveLength(1);
});

it('H02: stops one queue at run time and lets it be started again', async () => {
  const { host, of } = scene();
  await Promise.all([host.start('a', { activities }), host.start('b', { activities })]);
  await Promise.all([host.stop('a'), host.stop('a'), host.stop('unknown')]);
  expect(of('a').map(({ state }) => state)).toEqual(['STOPPED']);
  expect(host.registry().map(({ queue }) => queue)).toEqual(['b']);
  await host.start('a', { activities });
  expect(of('a').map(({ state }) => state)).toEqual(['STOPPED', 'RUNNING']);
  expect(of('b').map(({ state }) => state)).toEqual(['RUNNING']);
});

it('H10: ends a worker that was being made when the stop came', async () => {
  const made = Promise.withResolvers<ScriptedWorker>();
  const asked = Promise.withResolvers<WorkerOptions>();
  const { host } = scene({
    createWorker: (options) => {
      asked.resolve(options);
      return made.promise;
    },
  });
  const starting = host.start('a', { activities });
  const worker = new ScriptedWorker(await asked.promise);
  const stopping = host.stopAll();
  made.resolve(worker);
  await expect(starting).rejects.toThrow('stopped before it ran');
  await stopping;
  expect(worker.state).toBe('STOPPED');
});

it('H06: closes the connection last and starts nothing afterwards', async () => {
  const { host, connections, workers } = scene();
  await Promise.all([host.start('a', { activities }), host.start('b', { activities })]);
  await host.stopAll();
  expect(workers.map(({ state }) => state)).toEqual(['STOPPED', 'STOPPED']);
  expect(connections[0]?.isClosed).toBe(true);
  await expect(host.start('c', { activities })).rejects.toThrow('is stopping');
});

it('H03, H27: the registry tells state, since when, restarts and the last error of each queue, and what its parts do', async () => {
  const { host, of, status } = scene();
  const starting = host.start('a', { activities });
  expect(status('a')).toMatchObject({ state: 'starting', worker: null, parts: null, restarts: 0, lastError: null });
  await starting;
  expect(status('a')).toMatchObject({
    state: 'running',
    worker: 'RUNNING',
    parts: { activityPoller: 'POLLING', workflowPoller: 'SHUTDOWN', activitiesInFlight: 0 },
  });
  const { sinceMs = Number.NaN } = status('a') ?? {};
  of('a')[0]?.fail('boom');
  await fact(() => expect(status('a')).toMatchObject({ state: 'running', restarts: 1, lastError: 'boom' }));
  expect(status('a')?.sinceMs).toBeGreaterThan(sinceMs);
});

it('H04: a start that fails half-way leaves nothing behind, and the queue can be started again', async () => {
  let isBroken = true;
  const { host, workers, fatals } = scene({
    restartBudget: { restarts: 0, windowMs: 60_000 },
    createWorker: async (options) => {
      if (isBroken) throw new Error('no such bundle');
      const worker = new ScriptedWorker(options);
      workers.push(worker);
      return worker;
    },
  });
  await expect(host.start('a', { activities })).rejects.toThrow('no such bundle');
  expect(host.registry()).toEqual([]);
  expect(fatals).toHaveLength(1);
  isBroken = false;
  await host.start('a', { activities });
  expect(workers.map(({ state }) => state)).toEqual(['RUNNING']);
});

it('H05: a stop is on the registry before the worker is told, and meanwhile the queue is not free', async () => {
  const seen: unknown[] = [];
  const { host, of, status } = scene();
  await host.start('a', { activities });
  const [worker] = of('a');
  const shutdown = worker?.shutdown.bind(worker);
  Object.assign(worker ?? {}, {
    shutdown() {
      seen.push(status('a')?.state);
      shutdown?.();
    },
  });
  const stopping = host.stop('a');
  await expect(host.start('a', { activities })).rejects.toThrow('already stopping');
  await stopping;
  expect(seen).toEqual(['stopping']);
  expect(host.registry()).toEqual([]);
});

it('H06: stops in reverse order of the starts, and does not wait for ever for one that hangs', async () => {
  const order: string[] = [];
  const { host, of, clock } = scene({ forceMs: 60_000 });
  for (const queue of ['a', 'b', 'c']) await host.start(queue, { activities });
  for (const queue of ['a', 'b', 'c']) {
    const [worker] = of(queue);
    const shutdown = worker?.shutdown.bind(worker);
    Object.assign(worker ?? {}, {
      shutdown() {
        order.push(queue);
        if (queue !== 'b') shutdown?.();
      },
    });
  }
  await host.stopAll();
  expect(order).toEqual(['c', 'b', 'a']);
  expect(clock.slept).toContain(65_000);
});

it('H12: a queue whose worker takes for ever to be made keeps nobody waiting', async () => {
  const never = new Promise<ScriptedWorker>(() => undefined);
  const { host, workers, status } = scene({
    createWorker: (options) => {
      if (options.taskQueue === 'slow') return never;
      const worker = new ScriptedWorker(options);
      workers.push(worker);
      return Promise.resolve(worker);
    },
  });
  const slow = host.start('slow', { activities });
  slow.catch(() => undefined);
  await host.start('quick', { activities });
  expect(status('quick')?.state).toBe('running');
  expect(status('slow')?.state).toBe('starting');
  await host.stop('quick');
  expect(host.registry().map(({ queue }) => queue)).toEqual(['slow']);
});

it('H24: counts failed connects, lost connections and restarts', async () => {
  const counted: string[] = [];
  const metrics = { ...noMetrics, count: (name: string) => void counted.push(name) };
  let tries = 0;
  const made: ScriptedConnection[] = [];
  const { host, of, workers } = scene({
    metrics,
    connect: async () => {
      tries += 1;
      if (tries === 1) throw new Error('connection refused');
      const connection = new ScriptedConnection();
      made.push(connection);
      return connection;
    },
  });
  await host.start('a', { activities });
  expect(counted).toEqual(['worker_host.connect_failures']);
  const [first] = made;
  if (first !== undefined) first.answer = 'refused';
  of('a')[0]?.fail('TransportError');
  await fact(() => expect(workers).toHaveLength(2));
  expect(counted.toSorted()).toEqual([
    'worker_host.connect_failures',
    'worker_host.connections_lost',
    'worker_host.restarts',
  ]);
});

it('H28: serves no queue by itself: whoever makes a host owns its queues', async () => {
  const { host, workers, connections } = scene();
  expect(host.registry()).toEqual([]);
  expect(host.ready()).toBe(false);
  await host.stopAll();
  expect([workers, connections]).toEqual([[], []]);
});

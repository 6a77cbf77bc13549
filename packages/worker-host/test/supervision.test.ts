/**
 * Supervision against scripted workers: every way a worker can end, and what the host does about it. The SDK's own
 * behaviour (state FAILED while `run()` stays pending, a refused connection that can not be closed) is what the
 * scripts replay; `worker-host.test.ts` runs the real thing.
 */
import { noLog, noMetrics } from '@milkrun/core';
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
const fact = vi.waitFor;

it('refuses an unknown option with the nearest name, and a queue that serves nothing', async () => {
  const { host } = scene();
  await expect(host.start('a', { activites: activities } as never)).rejects.toThrow(/did you mean activities\?/);
  await expect(host.start('a', {})).rejects.toThrow(/neither workflows nor activities/);
  expect(host.registry()).toEqual([]);
});

it('refuses a second worker for a queue, also when two starts race', async () => {
  const { host, workers } = scene();
  const outcomes = await Promise.allSettled([host.start('a', { activities }), host.start('a', { activities })]);
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  expect(workers).toHaveLength(1);
});

it('hands options on unchanged, with its own shutdown times and a cache no smaller than the concurrency', async () => {
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

it('restarts a worker whose run rejects, and leaves the other queue alone', async () => {
  const { host, of, status } = scene();
  await Promise.all([host.start('a', { activities }), host.start('b', { activities })]);
  of('a')[0]?.fail('boom');
  await fact(() => expect(of('a')).toHaveLength(2));
  await fact(() => expect(status('a')).toMatchObject({ state: 'running', restarts: 1, lastError: 'boom' }));
  expect(of('b')).toHaveLength(1);
  expect(status('b')).toMatchObject({ state: 'running', restarts: 0 });
});

it('restarts a worker that says FAILED while its run stays pending', async () => {
  const { host, of, status } = scene();
  await host.start('a', { activities });
  of('a')[0]?.hang();
  await fact(() => expect(status('a')).toMatchObject({ state: 'running', restarts: 1 }));
  expect(of('a')).toHaveLength(2);
});

it('takes a normal end as final', async () => {
  const { host, of, status } = scene();
  await host.start('a', { activities });
  of('a')[0]?.end();
  await fact(() => expect(status('a')?.state).toBe('ended'));
  expect(of('a')).toHaveLength(1);
  expect(host.ready()).toBe(false);
});

it('backs off 1, 2, 4, 8, 16 s and gives up once the budget is spent, naming the queue', async () => {
  const { host, fatals, clock, status } = scene({
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
  expect(status('a')?.state).toBe('failed');
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

it('retries the first connect', async () => {
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

it('rebuilds a refused connection, then its workers in the order they were started', async () => {
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

it('stops one queue at run time and lets it be started again', async () => {
  const { host, of } = scene();
  await Promise.all([host.start('a', { activities }), host.start('b', { activities })]);
  await Promise.all([host.stop('a'), host.stop('a'), host.stop('unknown')]);
  expect(of('a').map(({ state }) => state)).toEqual(['STOPPED']);
  expect(host.registry().map(({ queue }) => queue)).toEqual(['b']);
  await host.start('a', { activities });
  expect(of('a').map(({ state }) => state)).toEqual(['STOPPED', 'RUNNING']);
  expect(of('b').map(({ state }) => state)).toEqual(['RUNNING']);
});

it('ends a worker that was being made when the stop came', async () => {
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

it('closes the connection last and starts nothing afterwards', async () => {
  const { host, connections, workers } = scene();
  await Promise.all([host.start('a', { activities }), host.start('b', { activities })]);
  await host.stopAll();
  expect(workers.map(({ state }) => state)).toEqual(['STOPPED', 'STOPPED']);
  expect(connections[0]?.isClosed).toBe(true);
  await expect(host.start('c', { activities })).rejects.toThrow('is stopping');
});

/** The SDK's real workers before a frontend that denies, loses, repeats and vanishes: what a real server does not do on demand. */
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noLog, noMetrics, systemClock } from '@milkrun/core';
import { PATIENCE, startTemporalFrontend, type TemporalFrontend } from '@milkrun/testkit';
import { Context } from '@temporalio/activity';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, expect, inject, it, vi } from 'vitest';
import {
  bundleWorkflows,
  createWorkerHost,
  installTemporalRuntime,
  type QueueOptions,
  type RetryClassifier,
  temporalConnection,
  type WorkerHost,
} from '../src/index.ts';

const DENIED = { unavailable: 14, internal: 13, exhausted: 8, forbidden: 7 } as const;

const home = mkdtempSync(join(tmpdir(), 'milkrun-frontend-'));
const workflowsPath = fileURLToPath(new URL('./fixtures/workflows.ts', import.meta.url));
let connection: Connection;
let client: Client;
let codePath: string;
let rounds = 0;
const ending: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  installTemporalRuntime({ log: noLog });
  connection = await Connection.connect({ address: inject('temporalAddress') });
  client = new Client({ connection });
  ({ codePath } = await bundleWorkflows({ workflowsPath, home }));
});
afterAll(async () => {
  await connection.close();
  rmSync(home, { recursive: true, force: true });
});
afterEach(async () => {
  for (const end of ending.splice(0).reverse()) await end();
});

interface Scene {
  readonly frontend: TemporalFrontend;
  readonly host: WorkerHost;
  readonly queue: string;
  readonly ran: Record<'shout' | 'attempt' | 'refuse' | 'linger', number>;
  readonly outcomes: string[];
  /** Settles when `linger` or the first attempt of `hold` runs. */
  readonly lingers: Promise<void>;
  /** Stops the queue and starts it again. */
  restart(): Promise<void>;
  start(workflow: string, ...args: unknown[]): Promise<WorkflowHandle>;
}

/** A host with one worker of real workflows and activities, which reaches the server through a frontend of its own. */
async function scene(options: QueueOptions = {}, classify?: RetryClassifier): Promise<Scene> {
  const frontend = await startTemporalFrontend(inject('temporalAddress'));
  ending.push(() => frontend.stop());
  const outcomes: string[] = [];
  const host = createWorkerHost({
    connect: temporalConnection({ address: frontend.address, namespace: 'default' }, systemClock),
    namespace: 'default',
    clock: systemClock,
    log: noLog,
    metrics: {
      ...noMetrics,
      count: (name, _value, tags) => void (name === 'worker_host.steps' && outcomes.push(tags?.outcome ?? '')),
    },
    onFatal: (error) => expect.unreachable(error.message),
    backoff: { firstMs: 50, maxMs: 200 },
    watchMs: 50,
    probeMs: 200,
    graceMs: 500,
    forceMs: 2_000,
    ...(classify === undefined ? {} : { classify }),
  });
  ending.push(() => host.stopAll());
  rounds += 1;
  const queue = `frontend-${process.pid}-${rounds}`;
  const ran = { shout: 0, attempt: 0, refuse: 0, linger: 0 };
  const lingering = Promise.withResolvers<void>();
  const activities = {
    /** Its first attempt waits for the end of its worker. */
    async hold() {
      const { attempt } = Context.current().info;
      if (attempt > 1) return attempt;
      lingering.resolve();
      return await Context.current().cancelled;
    },
    async shout(text: string) {
      ran.shout += 1;
      return `${text.toUpperCase()}!`;
    },
    async attempt() {
      ran.attempt += 1;
      return Context.current().info.attempt;
    },
    async refuse() {
      ran.refuse += 1;
      throw new Error('refused');
    },
    async linger() {
      ran.linger += 1;
      lingering.resolve();
      for (;;) {
        Context.current().heartbeat();
        await Context.current().sleep(20);
      }
    },
  };
  const workerOptions: QueueOptions = {
    workflowBundle: { codePath },
    activities,
    // An activity handed out with the workflow task's answer would not pass the poll these tests disturb.
    maxEagerActivityReservationsPerWorkflowTask: 0,
    maxHeartbeatThrottleInterval: 50,
    ...options,
  };
  await host.start(queue, workerOptions);
  let started = 0;
  return {
    frontend,
    host,
    queue,
    ran,
    outcomes,
    lingers: lingering.promise,
    async restart() {
      await host.stop(queue);
      await host.start(queue, workerOptions);
    },
    async start(workflow, ...args) {
      started += 1;
      const handle = await client.workflow.start(workflow, {
        taskQueue: queue,
        workflowId: `${queue}-${started}`,
        args,
        workflowTaskTimeout: '2s',
      });
      ending.push(() => handle.terminate('the test is over').catch(() => undefined));
      return handle;
    },
  };
}

const onePoller: QueueOptions = { activityTaskPollerBehavior: { type: 'simple-maximum', maximum: 1 } };
const fact = <T>(check: () => T | Promise<T>): Promise<T> => vi.waitFor(check, PATIENCE);
const only = ({ host }: Scene) => host.registry()[0];

it('H07: activities that can not be polled keep no workflow from going on, and go on themselves once they can', async () => {
  const at = await scene();
  at.frontend.rule('pollActivityTaskQueue', () => ({ do: 'deny', code: DENIED.unavailable }));
  await fact(() => expect(at.frontend.calls('pollActivityTaskQueue')).toBeGreaterThan(6));
  expect(await (await at.start('Sleeper')).result()).toBe('slept');
  const greeting = await at.start('Greeter', 'world');
  at.frontend.calm();
  expect(await greeting.result()).toBe('HELLO, WORLD!');
  expect(only(at)).toMatchObject({ restarts: 0, state: 'running' });
});

it.each(['unavailable', 'internal', 'exhausted'] as const)(
  'H11: polls answered with %s are tried again and end no worker',
  async (kind) => {
    const at = await scene();
    const denyFirst = (upTo: number) => (n: number) =>
      n <= upTo ? ({ do: 'deny', code: DENIED[kind] } as const) : ({ do: 'pass' } as const);
    at.frontend.rule('pollActivityTaskQueue', denyFirst(at.frontend.calls('pollActivityTaskQueue') + 3));
    at.frontend.rule('pollWorkflowTaskQueue', denyFirst(at.frontend.calls('pollWorkflowTaskQueue') + 3));
    expect(await (await at.start('Greeter', 'world')).result()).toBe('HELLO, WORLD!');
    expect(only(at)).toMatchObject({ restarts: 0, state: 'running' });
  },
  30_000,
);

it('H13: what was in flight when a worker was stopped is handed out again to the next, and reported once', async () => {
  const at = await scene();
  const handle = await at.start('Held');
  await at.lingers;
  await at.restart();
  expect(await handle.result()).toBe(2);
  const { events } = await handle.fetchHistory();
  expect(events?.filter(({ activityTaskCompletedEventAttributes: done }) => done)).toHaveLength(1);
});

it('H15: a task whose way to the worker was lost is handed out again', async () => {
  const at = await scene(onePoller);
  const lost = at.frontend.calls('pollActivityTaskQueue') + 1;
  at.frontend.rule('pollActivityTaskQueue', (n) => ({ do: n === lost ? 'lose' : 'pass' }));
  at.frontend.cut('pollActivityTaskQueue');
  await fact(() => expect(at.frontend.calls('pollActivityTaskQueue')).toBe(lost));
  expect(await (await at.start('Attempts')).result()).toBe(2);
  expect(at.ran.attempt).toBe(1);
});

it('H14: a task handed out twice is run twice: the host promises at-least-once and removes no duplicates', async () => {
  const at = await scene(onePoller);
  expect(await (await at.start('Greeter', 'one')).result()).toBe('HELLO, ONE!');
  const repeatAt = at.frontend.calls('pollActivityTaskQueue') + 1;
  at.frontend.rule('pollActivityTaskQueue', (n) => ({ do: n === repeatAt ? 'repeat' : 'pass' }));
  at.frontend.cut('pollActivityTaskQueue');
  await fact(() => expect(at.ran.shout).toBe(2));
  expect(await (await at.start('Greeter', 'two')).result()).toBe('HELLO, TWO!');
  expect(at.ran.shout).toBe(3);
  expect(only(at)).toMatchObject({ restarts: 0, state: 'running' });
});

it('H13: a completion whose answer is lost is reported again, and the workflow sees one', async () => {
  const at = await scene();
  at.frontend.rule('respondActivityTaskCompleted', (n) => ({ do: n === 1 ? 'lose' : 'pass' }));
  at.frontend.rule('respondWorkflowTaskCompleted', (n) => ({ do: n === 1 ? 'lose' : 'pass' }));
  const handle = await at.start('Greeter', 'world');
  expect(await handle.result()).toBe('HELLO, WORLD!');
  const { events } = await handle.fetchHistory();
  expect(events?.filter(({ activityTaskCompletedEventAttributes: done }) => done)).toHaveLength(1);
  expect(at.ran.shout).toBe(1);
});

it('H18: workflows that fell out of the cache are replayed, and the worker goes on', async () => {
  const at = await scene({ maxCachedWorkflows: 2, maxConcurrentWorkflowTaskExecutions: 2 });
  const handles = await Promise.all(Array.from({ length: 6 }, () => at.start('Adder', 3)));
  for (let round = 0; round < 3; round += 1) {
    for (const handle of handles) await handle.signal('add', 1);
  }
  expect(await Promise.all(handles.map((handle) => handle.result()))).toEqual([3, 3, 3, 3, 3, 3]);
  expect(only(at)?.parts?.workflowsCached).toBeLessThanOrEqual(2);
  expect(only(at)).toMatchObject({ restarts: 0, state: 'running' });
});

it('H22: a cancelled step hears of it at its next heartbeat, unwinds and is reported as cancelled', async () => {
  const at = await scene();
  expect(await (await at.start('Canceller')).result()).toBe('cancelled');
  expect(at.outcomes).toEqual(['cancelled']);
});

it('H23: one function decides which failures are retried, whatever the call site says', async () => {
  const at = await scene({}, () => 'non-retryable');
  await expect((await at.start('Refused')).result()).rejects.toMatchObject({
    cause: { cause: { message: 'refused', nonRetryable: true } },
  });
  expect(at.ran.refuse).toBe(1);
});

it('H23, H24: a failure nobody classified is retried as the call site says, each attempt counted', async () => {
  const at = await scene();
  await at.start('Refused');
  await fact(() => expect(at.ran.refuse).toBeGreaterThan(2));
  await fact(() => expect(at.outcomes.slice(0, 2)).toEqual(['failed', 'failed']));
});

it('H30: a workflow that throws what it should not stays open, to go on after a deploy', async () => {
  const at = await scene();
  const handle = await at.start('Thrower');
  await fact(async () => {
    const { events } = await handle.fetchHistory();
    expect(events?.some(({ workflowTaskFailedEventAttributes: failed }) => failed)).toBe(true);
  });
  expect((await handle.describe()).status.name).toBe('RUNNING');
  expect(only(at)).toMatchObject({ restarts: 0, state: 'running' });
});

it('H26: workflow code that reaches for Node is refused when it is bundled', async () => {
  const folder = mkdtempSync(join(home, 'unsound-'));
  symlinkSync(fileURLToPath(new URL('../node_modules', import.meta.url)), join(folder, 'node_modules'));
  const entry = join(folder, 'workflows.ts');
  writeFileSync(
    entry,
    "import { readFileSync } from 'node:fs';\nexport async function W() { return readFileSync('/etc/hostname'); }\n",
  );
  const said: string[] = [];
  const say = (message: string) => void said.push(message);
  const logger = { trace: say, debug: say, info: say, warn: say, error: say, log: say };
  await expect(bundleWorkflows({ workflowsPath: entry, home: folder, logger })).rejects.toThrow(/errors/);
  expect(said.join('\n')).toContain('node:fs');
});

it('a frontend that vanishes and comes back costs no restart', async () => {
  const at = await scene();
  at.frontend.vanish();
  await fact(() => expect(at.host.ready()).toBe(false));
  expect(at.host.healthy()).toBe(true);
  await at.frontend.comeBack();
  await fact(() => expect(at.host.ready()).toBe(true));
  expect(await (await at.start('Greeter', 'world')).result()).toBe('HELLO, WORLD!');
  expect(only(at)).toMatchObject({ restarts: 0 });
});

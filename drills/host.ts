/**
 * The worker host over the SDK's real workers and a real server, behind a frontend that misbehaves. Queues are started and
 * stopped with tasks in flight; the server vanishes, denies polls, and, for longer than the SDK's grace, refuses them.
 */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noLog, noMetrics, systemClock } from '@milkrun/core';
import { startTemporal, startTemporalFrontend, type TemporalFrontend } from '@milkrun/testkit';
import { bundleWorkflows, createWorkerHost, installTemporalRuntime, temporalConnection } from '@milkrun/worker-host';
import { Context } from '@temporalio/activity';
import { Client, Connection, type WorkflowHandle } from '@temporalio/client';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { integerFrom } from './lib/index.ts';
import { randomFrom } from './lib/random.ts';

/** Queues that are cycled side by side. A cycle costs a third of a second of CPU: the SDK starts two threads and loads the bundle. */
const QUEUES = 4;
/** Servers that vanish side by side, each before a host of its own: a round is waiting and little else. */
const SERVERS = 4;
/** Cycles before handles are counted: pools and caches fill up once. */
const WARM_UP = 20;
const BACK_SECONDS_MAX = 30;
/** gRPC status codes a poll may be answered with; the SDK takes any but these two as fatal after 60 s. */
const PASSING = { unavailable: 14, exhausted: 8 } as const;
const FORBIDDEN = 7;
const POLLS = ['pollActivityTaskQueue', 'pollWorkflowTaskQueue'] as const;

export const drill: Drill = {
  name: 'host',
  about: 'Workers start, stop and survive their server; no handle is left, no task lost or reported twice.',
  defaults: { count: 60 },
  fullCount: 1000,
  ciCount: 4,
  flags: {
    vanishings: 'server vanishings and poll denials; default a tenth of --count',
    refusals: 'refusals longer than the SDK’s grace of 60 s, all at the same time; default 1, and 0 below 20 cycles',
  },
  async run({ count, seed, log, flags }: DrillInput): Promise<DrillResult> {
    const vanishings = integerFrom('vanishings', flags.vanishings, Math.ceil(count / 10), 0);
    const refusals = integerFrom('refusals', flags.refusals, count < WARM_UP ? 0 : 1, 0);
    let violations = 0;
    const report = (problem: string): void => {
      violations += 1;
      log(`violation: ${problem}`);
    };
    installTemporalRuntime({ log: noLog });
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-host-'));
    const server = await startTemporal({ own: true });
    const connection = await Connection.connect({ address: server.address });
    const workflowsPath = fileURLToPath(new URL('lib/host-workflows.ts', import.meta.url));
    const { codePath } = await bundleWorkflows({ workflowsPath, home });
    const scene = { client: new Client({ connection }), address: server.address, codePath, report, log };
    try {
      // Alone: it counts what the process holds.
      const cycles = await cycle(scene, count);
      // Each of these has its own servers and hosts, and mostly waits.
      const [back, refused, budget] = await Promise.all([
        vanish(scene, vanishings, randomFrom(seed)),
        refuse(scene, refusals),
        spendBudget(scene),
      ]);
      return {
        tried: count + vanishings + refusals,
        violations,
        faults: vanishings + refusals,
        ...cycles,
        ...back,
        ...refused,
        ...budget,
      };
    } finally {
      await connection.close();
      await server.stop();
      await rm(home, { recursive: true, force: true });
    }
  },
};

interface Scene {
  readonly client: Client;
  readonly address: string;
  readonly codePath: string;
  readonly report: (problem: string) => void;
  readonly log: (line: string) => void;
}

function openHost(scene: Scene, address: string, namespace = 'default') {
  const fatals: string[] = [];
  const begun = new Map<string, () => void>();
  const host = createWorkerHost({
    connect: temporalConnection({ address, namespace }, systemClock),
    namespace,
    clock: systemClock,
    log: noLog,
    metrics: noMetrics,
    onFatal: (error) => fatals.push(error.message),
    backoff: { firstMs: 100, maxMs: 2_000 },
    watchMs: 50,
    probeMs: 250,
    graceMs: 50,
    forceMs: 10_000,
  });
  const activities = {
    /** Its first attempts wait for the end of their worker. */
    async work(): Promise<number> {
      const { attempt, workflowExecution } = Context.current().info;
      const begin = begun.get(workflowExecution?.workflowId ?? '');
      if (begin === undefined) return attempt;
      begin();
      return await Context.current().cancelled;
    },
  };
  return {
    host,
    fatals,
    start: (queue: string) =>
      host.start(queue, { workflowBundle: { codePath: scene.codePath }, activities, maxHeartbeatThrottleInterval: 50 }),
    /** Resolves when an attempt of the workflow's step runs; from then on, until released, attempts wait to be stopped. */
    running(workflowId: string): Promise<void> {
      return new Promise((resolve) => begun.set(workflowId, resolve));
    },
    release: (workflowId: string) => begun.delete(workflowId),
  };
}

/** Starts and stops queues while each has a task in flight. */
async function cycle(scene: Scene, count: number) {
  const opened = openHost(scene, scene.address);
  const handles: WorkflowHandle[] = [];
  const cycles = async (from: number, to: number): Promise<void> => {
    const lanes = Array.from({ length: QUEUES }, async (_, lane) => {
      for (let at = from + lane; at < to; at += QUEUES) {
        const taskQueue = `cycle-${lane}`;
        const workflowId = `cycle-${at}`;
        const running = opened.running(workflowId);
        await opened.start(taskQueue);
        handles.push(await scene.client.workflow.start('Task', { taskQueue, workflowId }));
        await running;
        await opened.host.stop(taskQueue);
        opened.release(workflowId);
        if (at % 50 === 49) scene.log(`${at + 1} of ${count} cycles`);
      }
    });
    await Promise.all(lanes);
  };
  const warmUp = Math.min(WARM_UP, Math.ceil(count / 2));
  await cycles(0, warmUp);
  const before = await resources();
  await cycles(warmUp, count);
  const after = await resources();
  for (const kind of Object.keys(after) as (keyof Resources)[]) {
    if (after[kind] <= before[kind]) continue;
    scene.report(`${kind}: ${before[kind]} after the first ${warmUp} cycles, ${after[kind]} after the last`);
  }
  for (let lane = 0; lane < QUEUES; lane += 1) await opened.start(`cycle-${lane}`);
  let redelivered = 0;
  const check = async (handle: WorkflowHandle): Promise<void> => {
    const attempt = (await handle.result()) as number;
    if (attempt > 1) redelivered += 1;
    const { events } = await handle.fetchHistory();
    const completed = events?.filter(
      ({ activityTaskCompletedEventAttributes: one }) => one !== null && one !== undefined,
    );
    if (completed?.length !== 1) scene.report(`${handle.workflowId}: ${completed?.length} completions on record`);
  };
  const checking = handles.values();
  await Promise.all(
    Array.from({ length: QUEUES }, async () => {
      for (const handle of checking) await check(handle);
    }),
  );
  if (opened.fatals.length > 0) scene.report(`the host gave up: ${opened.fatals[0]}`);
  await opened.host.stopAll();
  return { cycles: count, redelivered, resourcesBefore: before, resourcesAfter: after };
}

interface Resources {
  readonly descriptors: number;
  readonly sockets: number;
  readonly timers: number;
}

/** What this process holds, once closed handles are gone. */
async function resources(): Promise<Resources> {
  await systemClock.sleep(300);
  const active = process.getActiveResourcesInfo();
  const count = (name: string): number => active.filter((one) => one === name).length;
  const descriptors = (await readdir('/proc/self/fd').catch(() => [])).length;
  return { descriptors, sockets: count('TCPSocketWrap'), timers: count('Timeout') };
}

/** Servers vanish or deny polls for a while; a workflow must go through soon after each is back. */
async function vanish(scene: Scene, count: number, random: () => number) {
  // Drawn beforehand, so that a seed means the same rounds whichever lane is faster.
  const rounds = Array.from({ length: count }, (_, at) => ({
    at,
    isVanishing: random() < 0.5,
    code: random() < 0.5 ? PASSING.unavailable : PASSING.exhausted,
    awayMs: random() * 2_000,
  }));
  let done = 0;
  const lanes = Array.from({ length: Math.min(SERVERS, count) }, async (_, lane) => {
    const frontend = await startTemporalFrontend(scene.address);
    const opened = openHost(scene, frontend.address);
    const queue = `vanish-${lane}`;
    await opened.start(queue);
    let backSecondsMax = 0;
    for (const { at, isVanishing, code, awayMs } of rounds.filter((round) => round.at % SERVERS === lane)) {
      if (isVanishing) frontend.vanish();
      else deny(frontend, code);
      await systemClock.sleep(awayMs);
      if (isVanishing) await frontend.comeBack();
      else frontend.calm();
      const startedAt = systemClock.monotonic();
      await alive(scene, queue, `sign-${at}`);
      const seconds = (systemClock.monotonic() - startedAt) / 1_000;
      backSecondsMax = Math.max(backSecondsMax, seconds);
      if (seconds > BACK_SECONDS_MAX) scene.report(`round ${at}: back after ${seconds.toFixed(1)} s`);
      done += 1;
      if (done % 10 === 0) scene.log(`${done} of ${count} vanishings and denials`);
    }
    if (opened.fatals.length > 0) scene.report(`the host gave up: ${opened.fatals[0]}`);
    await opened.host.stopAll();
    await frontend.stop();
    return backSecondsMax;
  });
  const slowest = Math.max(0, ...(await Promise.all(lanes)));
  return { vanishings: count, backSecondsMax: Number(slowest.toFixed(1)) };
}

/** Polls are refused until the SDK gives its worker up; the host makes a new one. */
async function refuse(scene: Scene, count: number) {
  if (count > 0) scene.log('refusing polls for longer than the SDK bears (a minute)');
  const outcomes = await Promise.all(
    Array.from({ length: count }, async (_, at) => {
      const frontend = await startTemporalFrontend(scene.address);
      const opened = openHost(scene, frontend.address);
      const queue = `refuse-${at}`;
      await opened.start(queue);
      deny(frontend, FORBIDDEN);
      const restarts = () => opened.host.registry().find((entry) => entry.queue === queue)?.restarts ?? 0;
      const until = systemClock.monotonic() + 120_000;
      while (restarts() === 0 && systemClock.monotonic() < until) await systemClock.sleep(200);
      if (restarts() === 0) scene.report(`${queue}: no worker was replaced within two minutes of refusals`);
      frontend.calm();
      const startedAt = systemClock.monotonic();
      await alive(scene, queue, `refused-${at}`);
      const seconds = (systemClock.monotonic() - startedAt) / 1_000;
      if (seconds > BACK_SECONDS_MAX) scene.report(`${queue}: back after ${seconds.toFixed(1)} s`);
      if (opened.fatals.length > 0) scene.report(`the host gave up: ${opened.fatals[0]}`);
      await opened.host.stopAll();
      await frontend.stop();
      return seconds;
    }),
  );
  return { refusals: count, backAfterRefusalSecondsMax: Number(Math.max(0, ...outcomes).toFixed(1)) };
}

/** What can not be served is given up once the budget is spent, and only then. */
async function spendBudget(scene: Scene) {
  const opened = openHost(scene, scene.address, 'no-such-namespace');
  await opened.start('nowhere').catch(() => undefined);
  if (opened.fatals.length !== 1) scene.report(`${opened.fatals.length} calls to leave the process, wanted one`);
  await opened.host.stopAll();
  return { gaveUp: opened.fatals.length };
}

function deny(frontend: TemporalFrontend, code: number): void {
  for (const method of POLLS) {
    frontend.rule(method, () => ({ do: 'deny', code }));
    frontend.cut(method);
  }
}

async function alive(scene: Scene, taskQueue: string, workflowId: string): Promise<void> {
  const handle = await scene.client.workflow.start('Sign', { taskQueue, workflowId, workflowTaskTimeout: '5s' });
  await handle.result();
}

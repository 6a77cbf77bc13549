/**
 * BatchPoller on a real Temporal server: the order of its steps, its hops, and that every end commits. With
 * `MILKRUN_RECORD_HISTORIES=1` the histories that `replay.test.ts` replays are written anew; format them afterwards.
 */

import { writeFileSync } from 'node:fs';
import type {} from '@milkrun/testkit';
import { PATIENCE } from '@milkrun/testkit';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, describe, expect, inject, test, vi } from 'vitest';
import * as workflows from '../src/workflow.ts';
import {
  broken,
  bundleOf,
  endedHistory,
  type History,
  openServer,
  recordOf,
  type Scene,
  type Script,
  STEPS,
  sourceOf,
} from './workflow-scene.ts';

let server: Awaited<ReturnType<typeof openServer>>;
const scenes: Scene[] = [];
beforeAll(async () => {
  server = await openServer(inject('temporalAddress'));
  await bundleOf();
});
afterEach(async () => {
  await Promise.all(scenes.splice(0).map((scene) => scene.close()));
});
afterAll(async () => {
  await server.close();
});

async function open(script: Script = {}): Promise<Scene> {
  const scene = await server.scene(script);
  scenes.push(scene);
  return scene;
}

async function historyOf(handle: WorkflowHandle, name?: string): Promise<History> {
  const history = await endedHistory(server.client, handle);
  if (name !== undefined && process.env.MILKRUN_RECORD_HISTORIES === '1') {
    writeFileSync(sourceOf(`./histories/${name}.json`), recordOf(history));
  }
  return history;
}

const stepsOf = (scene: Scene) => scene.calls.map((call) => call.step);

interface Hop {
  readonly retryCounter: number;
  readonly backoffSeconds: number;
}

/** What the run handed to its successor; undefined when it had none. */
function hopOf(history: History): Hop | undefined {
  const last = history.events?.at(-1)?.workflowExecutionContinuedAsNewEventAttributes;
  if (last === undefined || last === null) return undefined;
  const data = last.input?.payloads?.[0]?.data ?? new Uint8Array();
  const { retryCounter } = JSON.parse(new TextDecoder().decode(data)) as Hop;
  return { retryCounter, backoffSeconds: Number(last.backoffStartInterval?.seconds ?? 0) };
}

describe('a batch', () => {
  test('runs its five steps in order, commits once and ends', async () => {
    const scene = await open();
    const handle = await scene.start();
    expect(await handle.result()).toEqual({ status: 'committed', hops: 0 });
    expect(stepsOf(scene)).toEqual(STEPS);
    expect(scene.calls.at(-1)?.input).toMatchObject({ force: false, retryCounter: 0 });
    const history = await historyOf(handle, 'committed');
    expect(history.events?.length).toBeLessThanOrEqual(100);
    const started = history.events?.[0]?.workflowExecutionStartedEventAttributes;
    expect(started?.input?.payloads?.[0]?.data?.byteLength).toBeLessThanOrEqual(2048);
  });

  test.each(STEPS)('that ended before %s stops at once', async (step) => {
    const scene = await open({ [step]: { status: 'ended', done: 0, left: 0 } });
    expect(await (await scene.start()).result()).toEqual({ status: 'ended', hops: 0 });
    expect(stepsOf(scene)).toEqual(STEPS.slice(0, STEPS.indexOf(step) + 1));
  });
});

describe('hops', () => {
  test.each([
    [0, { retryCounter: 1, backoffSeconds: 5 }],
    [1, { retryCounter: 2, backoffSeconds: 15 }],
    [2, { retryCounter: 3, backoffSeconds: 45 }],
  ])('unfinished entries in run %i go on in the next one after a back-off', async (retryCounter, hop) => {
    const scene = await open({ commit: { status: 'ok', done: 0, left: 3 } });
    const history = await historyOf(await scene.start({ retryCounter }), retryCounter === 0 ? 'hop' : undefined);
    expect(hopOf(history)).toEqual(hop);
    expect(scene.calls.at(-1)?.input).toMatchObject({ force: false });
  });

  test('the fourth run commits by force and has no successor', async () => {
    const scene = await open({ commit: { status: 'ok', done: 0, left: 3 } });
    const handle = await scene.start({ retryCounter: 3 });
    expect(await handle.result()).toEqual({ status: 'forced', hops: 3 });
    expect(scene.calls.at(-1)?.input).toMatchObject({ force: true });
    expect(hopOf(await historyOf(handle, 'forced'))).toBeUndefined();
  });

  test('what the slowest dependency asked for lengthens the back-off and is told to commit, never above a minute', async () => {
    const scene = await open({
      fetchAuth: { status: 'ok', done: 0, left: 0, askedSeconds: 3 },
      broadcast: { status: 'ok', done: 0, left: 2, askedSeconds: 40 },
      commit: { status: 'ok', done: 0, left: 2 },
    });
    expect(hopOf(await historyOf(await scene.start()))).toEqual({ retryCounter: 1, backoffSeconds: 40 });
    expect(scene.calls.at(-1)?.input).toMatchObject({ askedSeconds: 40 });
    const patient = await open({
      poll: { status: 'ok', done: 0, left: 0, askedSeconds: 4000 },
      commit: { status: 'ok', done: 0, left: 2 },
    });
    expect(hopOf(await historyOf(await patient.start()))).toEqual({ retryCounter: 1, backoffSeconds: 60 });
  });

  test.each(['claimAndSnapshot', 'fetchAuth', 'poll', 'broadcast'] as const)(
    '%s failing for good leads to commit and the next hop',
    async (step) => {
      const scene = await open({ [step]: broken, commit: { status: 'ok', done: 0, left: 1 } });
      const history = await historyOf(await scene.start(), step === 'poll' ? 'failed-step' : undefined);
      expect(stepsOf(scene)).toEqual([...STEPS.slice(0, STEPS.indexOf(step) + 1), 'commit']);
      expect(hopOf(history)).toEqual({ retryCounter: 1, backoffSeconds: 5 });
    },
  );

  test('commit failing for good hops, and fails the run only when it was the last', async () => {
    const scene = await open({ commit: broken });
    expect(hopOf(await historyOf(await scene.start()))).toMatchObject({ retryCounter: 1 });
    await expect((await scene.start({ retryCounter: 3 })).result()).rejects.toThrow();
  });
});

describe('ends by force', () => {
  test.each(['fetchAuth', 'poll', 'broadcast'] as const)('when %s says that the last worker drains', async (step) => {
    const scene = await open({ [step]: { status: 'draining', done: 0, left: 9 } });
    const handle = await scene.start();
    expect(await handle.result()).toEqual({ status: 'forced', hops: 0 });
    expect(stepsOf(scene)).toEqual(STEPS);
    expect(scene.calls.at(-1)?.input).toMatchObject({ force: true });
  });

  test('when it is cancelled in the middle of a step', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    const scene = await open({
      poll: async () => {
        await promise;
        return { status: 'ok', done: 0, left: 1 };
      },
    });
    const handle = await scene.start();
    await vi.waitFor(() => expect(stepsOf(scene)).toContain('poll'), PATIENCE);
    await handle.cancel();
    expect(await handle.result()).toEqual({ status: 'forced', hops: 0 });
    expect(scene.calls.at(-1)).toMatchObject({ step: 'commit', input: { force: true } });
    await historyOf(handle, 'cancelled');
    resolve();
  });
});

test('two runs side by side share nothing: each has its own policy, counter and verdict', async () => {
  const both = Promise.withResolvers<void>();
  let waiting = 0;
  const scene = await open({
    poll: async () => {
      waiting += 1;
      if (waiting === 2) both.resolve();
      await both.promise;
      return { status: 'ok', done: 1, left: 0 };
    },
    commit: { status: 'ok', done: 0, left: 1 },
  });
  const [going, last] = await Promise.all([
    scene.start({ policy: { maxRetryCounter: 3, leaseSeconds: 45 } }),
    scene.start({ policy: { maxRetryCounter: 0, leaseSeconds: 90 } }),
  ]);
  expect(await last.result()).toEqual({ status: 'forced', hops: 0 });
  const [first, second] = [await historyOf(going), await historyOf(last)];
  expect(hopOf(first)).toEqual({ retryCounter: 1, backoffSeconds: 5 });
  const heartbeats = (history: History) =>
    new Set(
      history.events?.flatMap((event) => {
        const timeout = event.activityTaskScheduledEventAttributes?.heartbeatTimeout;
        return timeout ? [Number(timeout.seconds) + (timeout.nanos ?? 0) / 1e9] : [];
      }),
    );
  expect(heartbeats(first)).toEqual(new Set([22.5]));
  expect(heartbeats(second)).toEqual(new Set([45]));
  const forced = scene.calls.filter((call) => call.step === 'commit').map((call) => call.input.force);
  expect(forced.sort()).toEqual([false, true]);
});

describe('the bundle', () => {
  test('registers the approved workflow name and no other', () => {
    const names = Object.entries(workflows).flatMap(([name, value]) => (typeof value === 'function' ? [name] : []));
    expect(names).toEqual(['BatchPoller']);
  });

  test('is small and free of Node, and one that reaches for Node is refused', async () => {
    const { code } = await bundleOf();
    expect(code.length).toBeLessThan(4_000_000);
    expect(code).not.toMatch(/require\(["'](node:)?(crypto|fs|net|http|os|path|child_process)["']\)/);
    await expect(bundleOf('./fixtures/node-workflows.ts')).rejects.toThrow();
  });
});

/**
 * The real steps under the real workflow on a real Temporal server, through hops to ForceCommit and through a cancel. What
 * must hold: the corridor ends by itself, leaves no lease and no credentials, and history holds no secret and no event.
 */
import type { WorkerDb } from '@milkrun/workerdb';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, afterEach, beforeAll, expect, inject, test } from 'vitest';
import { openServer, type Scene as WorkflowScene } from '../workflow-scene.ts';
import { openDatabase, openScene, type Scene } from './scene.ts';

let db: WorkerDb;
let server: Awaited<ReturnType<typeof openServer>>;
let scene: Scene;
let workflows: WorkflowScene;
beforeAll(async () => {
  [db, server] = await Promise.all([openDatabase(), openServer(inject('temporalAddress'))]);
});
afterAll(async () => {
  await server?.close();
  await db?.close();
});
afterEach(async () => {
  await workflows?.close();
  await scene?.close();
});

const told = (id: string) => scene.controlPlane.byTrigger.get(id) ?? [];

/** Two triggers with an item each, and the workflow of the batch that holds them. */
async function started(prepare: (sick: string, well: string) => void, hopsMax = 1) {
  scene = await openScene(db);
  const [sick, well] = (await scene.primed(2)) as [string, string];
  scene.source.add(sick, 'new');
  scene.source.add(well, 'new');
  prepare(sick, well);
  const planned = await scene.plan();
  workflows = await server.scene({}, scene.activities());
  const handle = await workflows.start({ ...planned, policy: { ...planned.policy, maxRetryCounter: hopsMax } });
  return { sick, well, handle, batchId: planned.batchId };
}

async function historyText(handle: WorkflowHandle): Promise<string> {
  const first = (handle as WorkflowHandle & { firstExecutionRunId: string }).firstExecutionRunId;
  const run = server.client.workflow.getHandle(handle.workflowId, first, { followRuns: false });
  const { events } = await run.fetchHistory();
  expect(events?.length).toBeLessThanOrEqual(100);
  const payloads: string[] = [];
  const bytes = (_key: string, value: unknown): unknown => {
    if (value instanceof Uint8Array) payloads.push(Buffer.from(value).toString());
    return value instanceof Uint8Array ? undefined : value;
  };
  return JSON.stringify(events, bytes) + payloads.join('\n');
}

test('a batch without trouble is claimed, polled, told and committed in one run, and its history names no secret', async () => {
  const { sick, well, handle, batchId } = await started(() => {
    scene.controlPlane.conn = (asks) => ({
      body: { connections: asks.map((ask) => scene.controlPlane.active(ask, { auth: { token: 'canary-token' } })) },
    });
    scene.source.script = (call) => ({
      body: { events: [{ key: 'canary-key', data: 'canary-data' }], cursor: 'canary-cursor', more: call.cursor === 0 },
    });
  });
  expect(await handle.result()).toEqual({ status: 'committed', hops: 0 });
  for (const id of [sick, well]) {
    expect(told(id)).toEqual(scene.idsOf(id, 'canary-key'));
    expect(await scene.row(id)).toMatchObject({ cursor: '"canary-cursor"', leased: false, code: 'ok' });
  }
  expect(await historyText(handle)).not.toContain('canary');
  expect(await scene.objectNames(batchId, 'auth/')).toEqual([]);
});

test('what no hop can deliver is released by ForceCommit, the rest was committed in the first run, and no lease is left', async () => {
  const { sick, well, handle, batchId } = await started((id) => {
    scene.controlPlane.state = (results) =>
      results.some((result) => result.triggerId === id) ? { status: 503, body: '' } : undefined;
  });
  expect(await handle.result()).toEqual({ status: 'forced', hops: 1 });
  expect(told(well)).toEqual(scene.idsOf(well, 'new'));
  expect(await scene.row(well)).toMatchObject({ cursor: '1', leased: false });
  expect(await scene.row(sick)).toMatchObject({
    cursor: '0',
    leased: false,
    failures: 0,
    code: 'broadcast.unavailable',
  });
  expect(scene.source.calls.filter((call) => call.trigger.id === sick)).toHaveLength(1);
  expect(await scene.leases()).toBe(0);
  expect(await scene.objectNames(batchId, 'auth/')).toEqual([]);
  scene.controlPlane.state = undefined;
  await scene.makeDue();
  await scene.round();
  expect(told(sick)).toEqual(scene.idsOf(sick, 'new'));
});

test('what heals between two hops is delivered by the second without another poll', async () => {
  const { sick, handle } = await started((id) => {
    let refusals = 0;
    scene.controlPlane.state = (results) =>
      results.some((result) => result.triggerId === id) && refusals++ === 0 ? { status: 503, body: '' } : undefined;
  });
  expect(await handle.result()).toMatchObject({ hops: 1 });
  expect(told(sick)).toEqual(scene.idsOf(sick, 'new'));
  expect(await scene.row(sick)).toMatchObject({ cursor: '1', leased: false, code: 'ok' });
  expect(scene.source.calls).toHaveLength(2);
});

test('a batch that is cancelled in the middle of its polls commits what it has and frees the rest', async () => {
  const polling = Promise.withResolvers<void>();
  const { sick, well, handle, batchId } = await started((id) => {
    scene.source.script = (call) => {
      if (call.trigger.id !== id) return undefined;
      polling.resolve();
      return 'silence';
    };
  });
  await polling.promise;
  await handle.cancel();
  expect(await handle.result()).toEqual({ status: 'forced', hops: 0 });
  expect(await scene.leases()).toBe(0);
  expect(await scene.row(sick)).toMatchObject({ cursor: '0', leased: false, failures: 0 });
  expect(await scene.count('batches where ended_at is null')).toBe(0);
  expect(await scene.objectNames(batchId, 'auth/')).toEqual([]);
  scene.source.script = undefined;
  await scene.makeDue();
  await scene.round();
  for (const id of [sick, well]) expect(told(id)).toEqual(scene.idsOf(id, 'new'));
});

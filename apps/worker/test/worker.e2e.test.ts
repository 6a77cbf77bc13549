/**
 * The whole worker on real PostgreSQL and a real Temporal server. Stand-ins: a control plane of a few lines and the local
 * Invoke API with a scripted poll function. Must hold: events arrive once per id, a disabled trigger is not polled, and a
 * drain leaves no lease behind.
 */
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '@milkrun/config';
import { noLog } from '@milkrun/core';
import { type InvokeServer, startInvokeServer } from '@milkrun/poll-runner';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase, PATIENCE, startTemporal, type Temporal } from '@milkrun/testkit';
import { openWorkerDb } from '@milkrun/workerdb';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';
import { type RunningWorker, startWorker } from '../src/index.ts';
import { type StandIn, startControlPlane } from './control-plane-stand-in.ts';

let home: string;
let controlPlane: StandIn;
let functions: InvokeServer;
let worker: RunningWorker;
let databaseUrl: string;
/** Its own: queue names are fixed, and another file's worker must not take this one's tasks. */
let temporal: Temporal;
/** Polls by trigger id, in order. */
const polls: string[] = [];
/** What each trigger's provider lists; grows while the test runs. */
const listings = new Map<string, string[]>();

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'milkrun-worker-'));
  controlPlane = await startControlPlane();
  temporal = await startTemporal({ own: true });
  databaseUrl = await createDatabase(inject('pgUrl'));
  functions = await startInvokeServer({
    handler: async (event) => {
      const { trigger } = event as { trigger: { id: string } };
      polls.push(trigger.id);
      const keys = listings.get(trigger.id) ?? [];
      return { events: keys.map((key) => ({ key, data: { key } })), cursor: keys.length };
    },
  });
  const config = loadConfig({
    process: 'worker',
    env: {
      WORKERDB_URL: databaseUrl,
      CONTROL_PLANE_URL: controlPlane.url,
      CONTROL_PLANE_KEY: 'a-key-for-this-test-only',
      POLL_FUNCTION_ENDPOINT: functions.endpoint,
      OBJECT_STORE: `fs:${join(home, 'objects')}`,
      MILKRUN_HOME: home,
      TEMPORAL_ADDRESS: temporal.address,
      ENGINE_PORT: '0',
      DISPATCH_TICK: '1s',
    },
  });
  const metrics = createMetrics({ prometheus: true, onUnknown: 'throw' });
  worker = await startWorker({ config, log: noLog, metrics, migrate: true });
});

afterAll(async () => {
  await worker?.stop();
  await functions?.close();
  await controlPlane?.close();
  await temporal?.stop();
  await rm(home, { recursive: true, force: true });
});

let version = 0;
function change(over: object = {}) {
  version += 1;
  return {
    op: 'upsert',
    triggerId: randomUUID(),
    tenantId: 'tenant-1',
    toolkit: 'synthetic',
    slug: 'synthetic',
    version: '1',
    config: {},
    connectionId: 'connection-1',
    intervalSeconds: 1,
    enabled: true,
    createdAt: '2026-01-01T00:00:00Z',
    configVersion: version,
    ...over,
  };
}

async function engine(path: string, method = 'GET'): Promise<Record<string, unknown>> {
  const response = await fetch(`${worker.addresses.engine}${path}`, { method });
  return (await response.json()) as Record<string, unknown>;
}

const eventually = (fact: () => void | Promise<void>) => vi.waitFor(fact, PATIENCE);

test('a new trigger primes in silence, then each new thing is delivered once per id', async () => {
  const created = change();
  listings.set(created.triggerId, ['old-1', 'old-2']);
  controlPlane.append(created);
  await eventually(async () => {
    expect((await engine(`/triggers/${created.triggerId}`)).primed).toBe(true);
  });
  expect(controlPlane.events.size).toBe(0);
  listings.get(created.triggerId)?.push('new-1', 'new-2', 'new-3');
  await eventually(() => expect(controlPlane.events.size).toBe(3));
  const before = polls.length;
  await eventually(() => expect(polls.length).toBeGreaterThan(before + 1));
  expect([...controlPlane.events.values()]).toEqual([1, 1, 1]);
  const explained = (await engine(`/triggers/${created.triggerId}/explain`)) as {
    timeline: { delivered: number; what: string }[];
  };
  expect(explained.timeline.some((line) => line.what === 'polled' && line.delivered === 3)).toBe(true);
});

test('a disabled trigger is not polled any more, and enabling it polls it at once from where it was', async () => {
  const created = change();
  listings.set(created.triggerId, ['a']);
  controlPlane.append(created);
  await eventually(async () => {
    expect((await engine(`/triggers/${created.triggerId}`)).primed).toBe(true);
  });
  controlPlane.append(change({ ...created, configVersion: ++version, enabled: false }));
  await eventually(async () => {
    expect(await engine(`/triggers/${created.triggerId}`)).toMatchObject({ enabled: false, batch: null });
  });
  listings.get(created.triggerId)?.push('b');
  const other = change();
  const count = polls.filter((id) => id === created.triggerId).length;
  controlPlane.append(other);
  await eventually(() => expect(polls.filter((id) => id === other.triggerId).length).toBeGreaterThan(2));
  expect(polls.filter((id) => id === created.triggerId)).toHaveLength(count);
  const delivered = controlPlane.events.size;
  controlPlane.append(change({ ...created, configVersion: ++version, enabled: true }));
  await eventually(() => expect(controlPlane.events.size).toBe(delivered + 1));
});

test('the operations API answers what is going on, and the drain leaves no lease and no open batch', async () => {
  expect(await engine('/readyz')).toMatchObject({ ready: true, temporal: true, database: true });
  expect(await engine('/doctor')).toMatchObject({ violations: [] });
  expect(((await engine('/shards')).items as object[]).length).toBe(1);
  expect(await engine('/triggers/not-a-uuid')).toMatchObject({ status: 400 });
  expect(await engine(`/triggers/${randomUUID()}`)).toMatchObject({ status: 404 });
  await worker.stop();
  const db = await openWorkerDb({ url: databaseUrl });
  expect(await db.fleet()).toMatchObject({ leased: 0, openBatches: 0, workers: 0, triggers: 3 });
  await db.close();
  expect([...controlPlane.events.values()].every((times) => times === 1)).toBe(true);
});

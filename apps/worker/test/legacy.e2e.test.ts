/**
 * The legacy pipeline alone (`--pipelines=legacy`) on real PostgreSQL and a real Temporal server: it primes in silence,
 * delivers each new thing under the id that v2 would give it, goes on after its workflow was terminated, and ends when the
 * trigger is disabled. It has no workerdb.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadConfig } from '@milkrun/config';
import { eventIdOf, legacyWorkflowIdOf, noLog, systemClock, systemRng } from '@milkrun/core';
import { type InvokeServer, startInvokeServer } from '@milkrun/poll-runner';
import { openRegistry, type Registry } from '@milkrun/registrydb';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase, PATIENCE, startTemporal, type Temporal } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';
import { type RunningWorker, startLegacyWorker } from '../src/index.ts';
import { type StandIn, startControlPlane } from './control-plane-stand-in.ts';

let home: string;
let controlPlane: StandIn;
let functions: InvokeServer;
let worker: RunningWorker;
let registry: Registry;
let temporal: Temporal;
let connection: Connection;
let polls = 0;
const keys = ['old-1', 'old-2'];
const actor = { tenantId: 'tenant-1', name: 'test' };

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'milkrun-legacy-'));
  controlPlane = await startControlPlane();
  temporal = await startTemporal({ own: true });
  const url = await createDatabase(inject('pgUrl'));
  registry = await openRegistry({
    ...{ url, masterKey: Buffer.alloc(32, 7), clock: systemClock, rng: systemRng, pipeline: 'legacy' },
  });
  await registry.keys.ensureTenant('tenant-1', 'One');
  functions = await startInvokeServer({
    handler: async () => {
      polls += 1;
      return { events: keys.map((key) => ({ key, data: { key } })), cursor: keys.length };
    },
  });
  const config = loadConfig({
    process: 'worker',
    env: {
      PIPELINES: 'legacy',
      REGISTRYDB_URL: url,
      CONTROL_PLANE_URL: controlPlane.url,
      CONTROL_PLANE_KEY: 'a-key-for-this-test-only',
      POLL_FUNCTION_ENDPOINT: functions.endpoint,
      MILKRUN_HOME: home,
      TEMPORAL_ADDRESS: temporal.address,
      ENGINE_PORT: '0',
    },
  });
  const metrics = createMetrics({ prometheus: true, onUnknown: 'throw' });
  worker = await startLegacyWorker({ config, log: noLog, metrics, migrate: true });
  connection = await Connection.connect({ address: temporal.address });
});

afterAll(async () => {
  await worker?.stop();
  await connection?.close();
  await registry?.close();
  await functions?.close();
  await controlPlane?.close();
  await temporal?.stop();
  await rm(home, { recursive: true, force: true });
});

const eventually = (fact: () => void | Promise<void>) => vi.waitFor(fact, PATIENCE);

test('a trigger of the legacy pipeline from its first poll to its end', async () => {
  const { id: connectionId } = await registry.connections.create(actor, {
    toolkit: 'synthetic',
    name: 'one',
    credentials: { type: 'none' },
  });
  const { trigger } = await registry.triggers.upsert(actor, {
    ...{ tags: [], toolkit: 'synthetic', slug: 'synthetic', version: '1', config: '{}', connectionId, enabled: true },
    ...{ intervalSeconds: 1, poll: { dedupe: 'unique', repeatable: true } },
  });
  await eventually(() => expect(polls).toBeGreaterThan(1));
  expect(controlPlane.events.size).toBe(0);
  keys.push('new-1', 'new-2');
  await eventually(() => expect(controlPlane.events.size).toBe(2));
  const before = polls;
  await eventually(() => expect(polls).toBeGreaterThan(before + 1));
  expect([...controlPlane.events.entries()]).toEqual([
    [eventIdOf(trigger.id, 'new-1'), 1],
    [eventIdOf(trigger.id, 'new-2'), 1],
  ]);
  const workflow = new Client({ connection }).workflow.getHandle(legacyWorkflowIdOf(trigger.id));
  expect((await workflow.describe()).type).toBe('PollingTriggerWorkflow');
  await registry.triggers.disable(actor, trigger.id);
  expect(await workflow.result()).toBe('disabled');
  const ended = polls;
  keys.push('new-3');
  await registry.triggers.enable(actor, trigger.id, 'cursor');
  await eventually(() => expect(controlPlane.events.size).toBe(3));
  expect(polls).toBeGreaterThan(ended);
  expect((await fetch(`${worker.addresses.engine}/readyz`)).status).toBe(200);
});

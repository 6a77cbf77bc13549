/**
 * The whole orchestrator beside the real API, on real PostgreSQL and a Temporal server of its own: queue names are fixed, and
 * another file's worker must not take this one's runs.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startApi } from '@milkrun/api';
import { loadConfig } from '@milkrun/config';
import { noLog, Secret, systemClock } from '@milkrun/core';
import { type RunningOrchestrator, startOrchestrator, syncSchedulesOnce } from '@milkrun/orchestrator';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase, PATIENCE, startTemporal, type Temporal } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';

const KEY = 'first-key-of-the-tests';
let home: string;
let temporal: Temporal;
let api: Awaited<ReturnType<typeof startApi>>;
let orchestrator: RunningOrchestrator;
let connection: Connection;
let client: Client;
let config: ReturnType<typeof loadConfig>;
const metrics = createMetrics({ prometheus: true, onUnknown: 'throw' });
/** A receiver inside, which only OUTBOUND_ALLOW makes reachable. */
const receiver = createServer((_, response) => response.writeHead(201).end('{}'));

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'milkrun-orchestrator-'));
  temporal = await startTemporal({ own: true });
  const registrydbUrl = await createDatabase(inject('pgUrl'));
  api = await startApi({
    config: {
      apiHost: '127.0.0.1',
      apiPort: 0,
      registrydbUrl: new Secret(registrydbUrl),
      registryKey: new Secret(Buffer.alloc(32, 9).toString('base64')),
      controlPlaneKey: new Secret('engine-key-of-the-tests'),
      apiKey: new Secret(KEY),
    },
    log: noLog,
    metrics,
    clock: systemClock,
  });
  await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve));
  config = loadConfig({
    process: 'orchestrator',
    env: {
      REGISTRYDB_URL: registrydbUrl,
      TEMPORAL_ADDRESS: temporal.address,
      MILKRUN_HOME: home,
      OUTBOUND_ALLOW: '127.0.0.1',
      SQL_CONNECTIONS: `registry=${registrydbUrl}`,
    },
  });
  connection = await Connection.connect({ address: temporal.address });
  client = new Client({ connection });
});
afterAll(async () => {
  await orchestrator?.stop();
  await api?.close();
  await connection?.close();
  await temporal?.stop();
  await metrics.close();
  receiver.close();
  await rm(home, { recursive: true, force: true });
});

// biome-ignore lint/suspicious/noExplicitAny: answers of any route, looked into by tests
async function call(method: string, path: string, body?: unknown): Promise<any> {
  const answer = await fetch(api.url + path, {
    method,
    headers: { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  return text === '' ? null : JSON.parse(text);
}
const rules = (task: object) => [{ id: 'r', task }];
/** What a run started by command came to. */
async function resultOf(workflowId: string): Promise<unknown> {
  const handle = client.workflow.getHandle(workflowId);
  await vi.waitFor(() => handle.describe(), PATIENCE);
  return handle.result();
}

test('A22: what was defined before is scheduled before the first run is taken', async () => {
  const made = await call('POST', '/activity-definitions', {
    slug: 'early',
    on: [{ cron: '0 9 * * 1' }],
    rules: rules({ type: 'noop' }),
  });
  orchestrator = await startOrchestrator({ config, log: noLog, metrics, migrate: true });
  const described = await client.schedule.getHandle(`activity-schedule-${made.id}`).describe();
  expect(described.action.taskQueue).toBe('orchestrator-tq');
  await call('POST', '/activity-definitions/early/disable', { reason: 'test' });
  await vi.waitFor(async () => {
    const { state } = await client.schedule.getHandle(`activity-schedule-${made.id}`).describe();
    expect(state).toMatchObject({ paused: true });
  }, PATIENCE);
  await call('DELETE', '/activity-definitions/early');
  await vi.waitFor(
    () => expect(client.schedule.getHandle(`activity-schedule-${made.id}`).describe()).rejects.toThrow(),
    PATIENCE,
  );
  expect(await syncSchedulesOnce(config, true)).toMatchObject({ errors: [] });
});

test('A80 A81: a start by hand runs once, with HTTP under the guard, SQL read only, and search by activity', async () => {
  const { port } = receiver.address() as { port: number };
  const { id } = await call('POST', '/activity-definitions', {
    slug: 'by-hand',
    context: {
      tenants: {
        sql: {
          connection: 'registry',
          query: 'select id from tenants where id = $1',
          params: ['${event.data.tenant}'],
        },
      },
    },
    rules: [
      {
        id: 'r',
        for_each: 'context.tenants',
        task: { type: 'http', params: { url: `http://127.0.0.1:${port}/x`, json: '${item}' } },
      },
    ],
  });
  const body = { data: { tenant: 'default' }, key: 'once' };
  const { workflow_id } = await call('POST', '/activity-definitions/by-hand/trigger', body);
  await call('POST', '/activity-definitions/by-hand/trigger', body);
  expect(await resultOf(workflow_id)).toMatchObject({ status: 'succeeded' });
  const { items } = await call('GET', `/activity-runs?activity_id=${id}`);
  expect(items).toMatchObject([{ status: 'succeeded', tasks_spawned: 1, tasks_done: 1, slug: 'by-hand' }]);
  expect((await call('GET', `/activity-runs/${items[0].run_id}`)).context_snapshot).toEqual({
    tenants: [{ id: 'default' }],
  });
});

test('a context query that would write is refused by the database, and fails the run', async () => {
  await call('POST', '/activity-definitions', {
    slug: 'writes',
    context: { t: { sql: { connection: 'registry', query: 'delete from tenants returning id' } } },
    rules: rules({ type: 'noop' }),
  });
  const { workflow_id } = await call('POST', '/activity-definitions/writes/trigger', {});
  const result = await resultOf(workflow_id);
  expect(result).toMatchObject({ status: 'failed', reason: expect.stringContaining('read-only transaction') });
});

test('A58: a person completes a task through the API and the run goes on', async () => {
  await call('POST', '/activity-definitions', { slug: 'asks', rules: rules({ type: 'human', title: 'Please look' }) });
  const { workflow_id } = await call('POST', '/activity-definitions/asks/trigger', {});
  const task = await vi.waitFor(async () => {
    const { items } = await call('GET', '/activity-tasks?mode=human&status=waiting');
    expect(items).toHaveLength(1);
    return items[0];
  }, PATIENCE);
  await call('POST', `/activity-tasks/${encodeURIComponent(task.task_id)}/complete`, { result: { seen: true } });
  expect(await resultOf(workflow_id)).toMatchObject({ status: 'succeeded' });
});

test('A41: an event by HTTP starts what waits for it, and a task that emits one starts the next', async () => {
  const waits = (type: string) => [{ event: { type, filters: { n: 1 } } }];
  const emit = { type: 'event', params: { type: 'second.step', data: { n: '${event.data.n}' } } };
  await call('POST', '/activity-definitions', { slug: 'first', on: waits('first.step'), rules: rules(emit) });
  const second = await call('POST', '/activity-definitions', {
    slug: 'second',
    on: waits('second.step'),
    rules: rules({ type: 'noop' }),
  });
  const event = { specversion: '1.0', id: 'e1', source: '/test', type: 'first.step', data: { n: 1 } };
  for (let n = 0; n < 2; n += 1) await call('POST', '/activity-events', { events: [event] });
  await vi.waitFor(async () => {
    const { items } = await call('GET', `/activity-runs?activity_id=${second.id}`);
    expect(items).toMatchObject([{ status: 'succeeded', origin: 'event' }]);
    expect((await call('GET', `/activity-runs/${items[0].run_id}`)).event).toMatchObject({
      causationid: 'e1',
      hops: 1,
      data: { n: 1 },
    });
  }, PATIENCE);
  expect((await call('POST', '/activity-events', { events: [{ ...event, type: 'Not A Type' }] })).errors[0].path).toBe(
    'events[0].type',
  );
});

test('A82: metrics of the product and of the SDK are there to be scraped', async () => {
  expect(await orchestrator.metricsSources[0]?.()).toContain('temporal_');
  expect(await metrics.exposition()).toContain('activity_runs_closed_total{status="succeeded"}');
});

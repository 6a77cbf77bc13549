/**
 * The bus on a real NATS server with JetStream and a registrydb: what is published is routed once, whatever dies in between.
 * Temporal is a recorder here: what a start does is tested elsewhere, how often it is asked is tested here.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { createRouter, parseDefinition, storedDefinitionOf } from '@milkrun/activity-core';
import { noLog, noMetrics, Secret, systemClock, systemRng } from '@milkrun/core';
import { openRegistry, type Registry } from '@milkrun/registrydb';
import { createDatabase, type Nats, PATIENCE, startNats } from '@milkrun/testkit';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection, nanos } from '@nats-io/transport-node';
import type { Client } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';
import { BUS, openBus } from '../src/jetstream.ts';

let directory: string;
let nats: Nats;
let registry: Registry;
let registrydbUrl: string;
let client: NatsConnection;
const actor = { tenantId: 'default', name: 'test' };
/** Workflow ids in order of their starts, and what the next starts answer. */
const started: string[] = [];
const failures: unknown[] = [];
const temporal = {
  workflow: {
    async start(_: string, { workflowId }: { workflowId: string }) {
      const failure = failures.shift();
      if (failure !== undefined) throw failure;
      if (started.includes(workflowId)) {
        const { WorkflowExecutionAlreadyStartedError } = await import('@temporalio/client');
        throw new WorkflowExecutionAlreadyStartedError('already started', workflowId, 'RunActivityWorkflow');
      }
      started.push(workflowId);
    },
  },
} as unknown as Client;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'milkrun-nats-'));
  const server = await startNats({ directory, own: true });
  if (server === undefined)
    throw new Error('there is no nats-server: run npm test once, which fetches it, or set NATS_SERVER_PATH');
  nats = server;
  registrydbUrl = await createDatabase(inject('pgUrl'));
  registry = await openRegistry({
    url: registrydbUrl,
    masterKey: Buffer.alloc(32, 7),
    clock: systemClock,
    rng: systemRng,
  });
  await registry.keys.ensureTenant('default', 'Default');
  const definition = parseDefinition({
    slug: 'a',
    on: [{ event: { type: 'a.b' } }],
    rules: [{ id: 'r', task: { type: 'noop' } }],
  });
  await registry.activities.create(actor, storedDefinitionOf(definition));
  client = await connect({ servers: nats.url });
});
afterAll(async () => {
  await client?.close();
  await nats?.stop();
  await registry?.close();
  await rm(directory, { recursive: true, force: true });
});

const open = () => {
  const store = registry.activityRouter;
  const shared = { store, log: noLog, metrics: noMetrics };
  const router = createRouter({ ...shared, client: temporal });
  return openBus({
    ...shared,
    url: new Secret(nats.url),
    router,
    clock: systemClock,
    rng: systemRng,
    defaultTenant: 'default',
  });
};
const event = (id: string, data: unknown = {}) => ({ specversion: '1.0', id, source: '/t', type: 'a.b', data });
const send = (value: unknown) =>
  client.publish('activity.a.b', typeof value === 'string' ? value : JSON.stringify(value));
const pending = async (): Promise<number> => {
  const { num_pending, num_ack_pending } = await (await jetstreamManager(client)).consumers.info(
    BUS.stream,
    BUS.consumer,
  );
  return num_pending + num_ack_pending;
};

test('A30: stream and durable consumer are made, and made again without harm', async () => {
  const [first, second] = [await open(), await open()];
  const manager = await jetstreamManager(client);
  const stream = await manager.streams.info('ACTIVITY_EVENTS');
  expect(stream.config).toMatchObject({ subjects: ['activity.>'], storage: 'file', retention: 'limits' });
  const consumer = await manager.consumers.info('ACTIVITY_EVENTS', 'activity-core-event-router');
  expect(consumer.config).toMatchObject({ ack_policy: 'explicit', deliver_policy: 'all', max_ack_pending: 256 });
  await Promise.all([first.close(), second.close()]);
});

test('A31 A36: valid messages are started and acknowledged, invalid ones do not stop the loop', async () => {
  const bus = await open();
  send('{"broken');
  send(event('e1'));
  await vi.waitFor(async () => expect([started.length, await pending()]).toEqual([1, 0]), PATIENCE);
  expect(await registry.eventDesk.list('default', { limit: 10, open: true })).toMatchObject([
    { stage: 'decode', raw: '{"broken' },
  ]);
  await bus.close();
});

test('A37: a start that fails is delivered again, later, and started once', async () => {
  const bus = await open();
  failures.push(new Error('no such queue'));
  send(event('e2'));
  await vi.waitFor(async () => expect([started.length, await pending()]).toEqual([2, 0]), PATIENCE);
  await bus.close();
});

test('c.4: while Temporal is away a message is held, and none of its deliveries is used up', async () => {
  const bus = await open();
  failures.push(Object.assign(new Error('unavailable'), { code: 14 }));
  send(event('e3'));
  await vi.waitFor(async () => expect([started.length, await pending()]).toEqual([3, 0]), PATIENCE);
  const { delivered } = await (await jetstreamManager(client)).consumers.info(BUS.stream, BUS.consumer);
  const { state } = await (await jetstreamManager(client)).streams.info(BUS.stream);
  // One delivery each, and one more for the message of the test before.
  expect(delivered.consumer_seq).toBe(state.last_seq + 1);
  await bus.close();
});

test('A39: two routers share the consumer; what one leaves behind the other takes', async () => {
  const buses = [await open(), await open()];
  // What is not given back would come again after an hour.
  await (await jetstreamManager(client)).consumers.update(BUS.stream, BUS.consumer, { ack_wait: nanos(3_600_000) });
  for (let n = 0; n < 50; n += 1) send(event(`many-${n}`));
  await buses[0]?.close();
  await vi.waitFor(async () => expect([started.length, await pending()]).toEqual([53, 0]), PATIENCE);
  expect(new Set(started).size).toBe(53);
  await buses[1]?.close();
});

test('A38: a router that ends between start and acknowledgement leaves exactly one run', async () => {
  const thread = new Worker(new URL('./fixtures/dying-router.ts', import.meta.url), {
    workerData: { natsUrl: nats.url, registrydbUrl },
  });
  const said = new Promise<{ started: string }>((resolve, reject) => {
    thread.once('message', resolve).once('error', reject);
  });
  send(event('half-done'));
  started.push((await said).started);
  await thread.terminate();
  const bus = await open();
  // The server finds the message abandoned after its wait, which is made short for the test.
  await (await jetstreamManager(client)).consumers.update(BUS.stream, BUS.consumer, { ack_wait: nanos(1_000) });
  await vi.waitFor(async () => expect(await pending()).toBe(0), PATIENCE);
  expect(started.filter((id) => id.includes(':half-done@'))).toHaveLength(1);
  expect(started).toHaveLength(54);
  await bus.close();
});

test('the outbox is published in binary mode with its tenant; the same event twice is stored once', async () => {
  const bus = await open();
  const record = JSON.stringify(event('from-outbox', { n: 1 }));
  await registry.eventDesk.publish('default', [{ key: 'k', record }]);
  expect(await registry.activityRouter.drainOutbox((one) => bus.publish(one), 10)).toBe(1);
  const { state: before } = await (await jetstreamManager(client)).streams.info(BUS.stream);
  await bus.publish({ seq: 1, tenantId: 'default', key: 'k', record });
  const { state: after } = await (await jetstreamManager(client)).streams.info(BUS.stream);
  expect(after.last_seq).toBe(before.last_seq);
  await vi.waitFor(async () => expect([started.length, await pending()]).toEqual([55, 0]), PATIENCE);
  await bus.close();
});

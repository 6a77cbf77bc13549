import { Buffer } from 'node:buffer';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noLog, noMetrics, Secret, systemClock } from '@milkrun/core';
import type {} from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import type { Payload } from '@temporalio/common';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { beforeAll, expect, inject, test } from 'vitest';
import {
  bundleWorkflows,
  createDataConverter,
  createPayloadCodec,
  createWorkerHost,
  installTemporalRuntime,
  PayloadUnreadable,
  temporalConnection,
} from '../src/index.ts';

beforeAll(() => {
  installTemporalRuntime({ log: noLog });
});

const keyOf = (byte: number): string => Buffer.alloc(32, byte).toString('base64');
const plain: Payload = { metadata: { encoding: Buffer.from('json/plain') }, data: Buffer.from('"the canary"') };
const textOf = (payload: Payload): string => Buffer.from(payload.data ?? []).toString();

test('what is sealed opens as it was, shows nothing of itself, and never looks the same twice', async () => {
  const codec = createPayloadCodec([keyOf(1)]);
  const [one, two] = (await codec.encode([plain, plain])) as [Payload, Payload];
  expect(Buffer.from(one.data ?? []).toString('latin1')).not.toContain('canary');
  expect(Buffer.from(one.data ?? [])).not.toEqual(Buffer.from(two.data ?? []));
  const opened = await codec.decode([one, two]);
  expect(opened.map(textOf)).toEqual(['"the canary"', '"the canary"']);
  expect(Buffer.from(opened[0]?.metadata?.encoding ?? []).toString()).toBe('json/plain');
});

test('the first key seals and every key opens, so that keys can be changed one process after another', async () => {
  const [old, both] = [createPayloadCodec([keyOf(1)]), createPayloadCodec([keyOf(2), keyOf(1)])];
  expect((await both.decode(await old.encode([plain]))).map(textOf)).toEqual(['"the canary"']);
  const fresh = await both.encode([plain]);
  await expect(old.decode(fresh)).rejects.toThrow(/sealed with key [0-9a-f]{12}, which PAYLOAD_KEYS does not hold/);
  expect((await createPayloadCodec([keyOf(2)]).decode(fresh)).map(textOf)).toEqual(['"the canary"']);
});

test('a plain payload is read as it is: histories from before a key was set go on', async () => {
  expect(await createPayloadCodec([keyOf(1)]).decode([plain])).toEqual([plain]);
  expect(createDataConverter(undefined)).toEqual({});
});

test('a payload changed in any byte, or cut, is refused by name', async () => {
  const codec = createPayloadCodec([keyOf(1)]);
  const [sealed] = (await codec.encode([plain])) as [Payload];
  const data = Buffer.from(sealed.data ?? []);
  const attacks = [...data.keys()].map((at) => {
    const changed = Buffer.from(data);
    changed[at] = (changed[at] ?? 0) ^ 1;
    return changed;
  });
  for (const changed of [...attacks, data.subarray(1), data.subarray(0, -1), data.subarray(0, 20), Buffer.alloc(0)]) {
    await expect(codec.decode([{ ...sealed, data: changed }])).rejects.toThrow(PayloadUnreadable);
  }
});

test('a workflow and its step run over sealed payloads, and the server keeps none of them', async () => {
  const address = inject('temporalAddress');
  const taskQueue = 'payload-codec';
  const dataConverter = createDataConverter(new Secret(keyOf(3)));
  const home = mkdtempSync(join(tmpdir(), 'milkrun-sealed-'));
  const host = createWorkerHost({
    connect: temporalConnection({ address, namespace: 'default' }, systemClock),
    namespace: 'default',
    dataConverter,
    clock: systemClock,
    log: noLog,
    metrics: noMetrics,
    onFatal: () => undefined,
  });
  const workflowsPath = fileURLToPath(new URL('./fixtures/workflows.ts', import.meta.url));
  const workflowBundle = await bundleWorkflows({ workflowsPath, home });
  const connection = await Connection.connect({ address });
  try {
    await host.start(taskQueue, { workflowBundle, activities: { shout: async (text: string) => `${text}!` } });
    const client = new Client({ connection, dataConverter });
    const handle = await client.workflow.start('Greeter', { workflowId: taskQueue, taskQueue, args: ['canary'] });
    expect(await handle.result()).toBe('hello, canary!');
    const history = historyToJSON(await handle.fetchHistory());
    expect(history).toContain(Buffer.from('binary/encrypted').toString('base64'));
    expect(history).not.toContain(Buffer.from('json/plain').toString('base64'));
  } finally {
    await host.stopAll();
    await connection.close();
    rmSync(home, { recursive: true });
  }
});

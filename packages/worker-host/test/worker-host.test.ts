/** The host over the SDK's real workers and a real server. */
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noLog, noMetrics, systemClock } from '@milkrun/core';
import { PATIENCE, startTemporal } from '@milkrun/testkit';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, it, vi } from 'vitest';
import {
  bundleWorkflows,
  createWorkerHost,
  installTemporalRuntime,
  temporalConnection,
  type WorkerHost,
  type WorkerHostFatal,
} from '../src/index.ts';

const home = mkdtempSync(join(tmpdir(), 'milkrun-host-'));
const workflowsPath = fileURLToPath(new URL('./fixtures/workflows.ts', import.meta.url));

beforeAll(() => {
  installTemporalRuntime({ log: noLog });
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

function hostAt(address: string, onFatal: (error: WorkerHostFatal) => void = () => undefined, namespace = 'default') {
  return createWorkerHost({
    connect: temporalConnection({ address, namespace }, systemClock),
    namespace,
    clock: systemClock,
    log: noLog,
    metrics: noMetrics,
    onFatal,
    backoff: { firstMs: 50, maxMs: 200 },
    watchMs: 50,
    probeMs: 200,
    graceMs: 2_000,
    forceMs: 4_000,
  });
}

async function greet(address: string, taskQueue: string): Promise<string> {
  const connection = await Connection.connect({ address });
  try {
    const client = new Client({ connection });
    return await client.workflow.execute('Greeter', { taskQueue, workflowId: `${taskQueue}-1`, args: ['world'] });
  } finally {
    await connection.close();
  }
}

const activities = { shout: async (text: string) => `${text.toUpperCase()}!` };

async function ended(host: WorkerHost): Promise<void> {
  await host.stopAll();
  expect(host.registry()).toEqual([]);
}

it('serves workflows and activities from a prebuilt bundle, is ready, and drains', async () => {
  const host = hostAt(inject('temporalAddress'));
  const { codePath } = await bundleWorkflows({ workflowsPath, home });
  await host.start('host-greeter', { workflowBundle: { codePath }, activities });
  expect(host.ready()).toBe(true);
  expect(host.healthy()).toBe(true);
  expect(await greet(inject('temporalAddress'), 'host-greeter')).toBe('HELLO, WORLD!');
  await ended(host);
});

it('keeps a bundle under the hash of its sources and makes a new one when any of them changes', async () => {
  const folder = mkdtempSync(join(home, 'sources-'));
  // The SDK resolves its own modules from the workflow file on.
  symlinkSync(fileURLToPath(new URL('../node_modules', import.meta.url)), join(folder, 'node_modules'));
  const place = (name: string, text: string) => writeFileSync(join(folder, name), text);
  place('workflows.ts', `export { greeting } from './words.ts';\nexport async function W() { return 1; }\n`);
  place('words.ts', `export const greeting = 'one';\n`);
  const input = { workflowsPath: join(folder, 'workflows.ts'), home: folder };
  const first = await bundleWorkflows(input);
  expect(first.made).toBe(true);
  expect(await bundleWorkflows(input)).toEqual({ ...first, made: false });
  place('words.ts', `export const greeting = 'two';\n`);
  const second = await bundleWorkflows(input);
  expect(second).toMatchObject({ made: true });
  expect(second.hash).not.toBe(first.hash);
  expect(readFileSync(second.codePath, 'utf8')).toContain('two');
});

it('H15, H16: is started before the server is there, and goes on when the server dies and comes back', async () => {
  const dbFilename = join(home, 'temporal.db');
  const scout = await startTemporal({ own: true, dbFilename });
  const port = Number(scout.address.split(':')[1]);
  await scout.stop();
  const host = hostAt(scout.address);
  const { codePath } = await bundleWorkflows({ workflowsPath, home });
  const started = host.start('host-late', { workflowBundle: { codePath }, activities });
  expect(host.ready()).toBe(false);
  const first = await startTemporal({ own: true, dbFilename, port });
  await started;
  await vi.waitFor(() => expect(host.ready()).toBe(true), PATIENCE);
  process.kill(first.pid ?? 0, 'SIGKILL');
  await first.stop();
  await vi.waitFor(() => expect(host.ready()).toBe(false), PATIENCE);
  expect(host.healthy()).toBe(true);
  const second = await startTemporal({ own: true, dbFilename, port });
  await vi.waitFor(() => expect(host.ready()).toBe(true), PATIENCE);
  expect(await greet(second.address, 'host-late')).toBe('HELLO, WORLD!');
  expect(host.registry().map(({ restarts }) => restarts)).toEqual([0]);
  await ended(host);
  await second.stop();
});

it('H19: gives up loudly when the namespace does not exist', async () => {
  const fatals: WorkerHostFatal[] = [];
  const host = hostAt(inject('temporalAddress'), (error) => fatals.push(error), 'no-such-namespace');
  await expect(host.start('host-nowhere', { activities })).rejects.toThrow(/no-such-namespace|[Nn]amespace/);
  expect(fatals.map(({ queue }) => queue)).toEqual(['host-nowhere']);
  expect(host.healthy()).toBe(false);
  await host.stopAll();
});

it('one queue that can not start leaves the other serving', async () => {
  const fatals: WorkerHostFatal[] = [];
  const host = hostAt(inject('temporalAddress'), (error) => fatals.push(error));
  const { codePath } = await bundleWorkflows({ workflowsPath, home });
  await host.start('host-sound', { workflowBundle: { codePath }, activities });
  const broken = { workflowBundle: { codePath: join(home, 'missing.cjs') }, activities };
  await expect(host.start('host-broken', broken)).rejects.toThrow(/missing\.cjs/);
  expect(fatals.map(({ queue }) => queue)).toEqual(['host-broken']);
  expect(await greet(inject('temporalAddress'), 'host-sound')).toBe('HELLO, WORLD!');
  await host.stopAll();
});

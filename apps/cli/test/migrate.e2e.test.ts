/**
 * The runbook of docs/operations.md, its commands run as they stand there: API, a worker of both pipelines, PostgreSQL and
 * Temporal are real. Two triggers of the legacy pipeline are moved to v2 and back while their provider has new items; each
 * item is stored once, under the one id it can have.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type RunningApi, startApi } from '@milkrun/api';
import { loadConfig } from '@milkrun/config';
import { eventIdOf, noLog, Secret, systemClock } from '@milkrun/core';
import { type InvokeServer, startInvokeServer } from '@milkrun/poll-runner';
import { createMetrics } from '@milkrun/telemetry';
import { createDatabase, PATIENCE, startTemporal, type Temporal } from '@milkrun/testkit';
import { type RunningWorker, startWorker } from '@milkrun/worker';
import { afterAll, beforeAll, expect, inject, test, vi } from 'vitest';
import { run } from './helpers.ts';

const KEY = 'a-key-for-this-test-only';
const API_KEY = 'mk_a-key-of-people-for-this-test-only';
const parts = () => ({
  log: noLog,
  metrics: createMetrics({ prometheus: true, onUnknown: 'throw' }),
  clock: systemClock,
});
const actor = { tenantId: 'default', name: 'test' };
let home: string;
let api: RunningApi;
let apiConfig: Parameters<typeof startApi>[0]['config'];
let functions: InvokeServer;
let temporal: Temporal;
let worker: RunningWorker;
let slots = 1;

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'milkrun-migrate-'));
  temporal = await startTemporal({ own: true });
  const [registryUrl, workerUrl] = await Promise.all([
    createDatabase(inject('pgUrl')),
    createDatabase(inject('pgUrl')),
  ]);
  const metrics = createMetrics({ prometheus: true, onUnknown: 'throw' });
  apiConfig = {
    ...{ apiHost: '127.0.0.1', apiPort: 0, registrydbUrl: new Secret(registryUrl), controlPlaneKey: new Secret(KEY) },
    ...{ registryKey: new Secret(Buffer.alloc(32, 7).toString('base64')), apiKey: new Secret(API_KEY) },
  };
  api = await startApi({ config: { ...apiConfig, defaultPipeline: 'legacy' }, ...parts() });
  functions = await startInvokeServer({
    timeoutMs: 5_000,
    handler: async () => {
      const events = Array.from({ length: slots }, (_, n) => ({ key: `item-${n}`, data: { n } }));
      return { events, cursor: { slots } };
    },
  });
  const config = loadConfig({
    process: 'worker',
    env: {
      ...{ WORKERDB_URL: workerUrl, REGISTRYDB_URL: registryUrl, CONTROL_PLANE_URL: api.url, CONTROL_PLANE_KEY: KEY },
      ...{
        POLL_FUNCTION_ENDPOINT: functions.endpoint,
        OBJECT_STORE: `fs:${join(home, 'objects')}`,
        MILKRUN_HOME: home,
      },
      ...{
        TEMPORAL_ADDRESS: temporal.address,
        ENGINE_PORT: '0',
        DISPATCH_TICK: '1s',
        POLL_DEADLINE: '1s',
        PIPELINES: 'both',
      },
    },
  });
  worker = await startWorker({ config, log: noLog, metrics, migrate: true });
});

afterAll(async () => {
  await worker?.stop();
  await api?.close();
  await functions?.close();
  await temporal?.stop();
  await rm(home, { recursive: true, force: true });
});

/** Commands of the runbook's first block. */
async function commands(): Promise<string[]> {
  const text = await readFile(new URL('../../../docs/operations.md', import.meta.url), 'utf8');
  const [, section = ''] = text.split('## Moving triggers between pipelines\n');
  const [, block = ''] = /```sh\n([\s\S]*?)```/.exec(section) ?? [];
  return block.split('\n').flatMap((line) => (line.startsWith('milkrun ') ? [line.replace(/\s+#.*$/, '')] : []));
}

test('the commands of the runbook move triggers to v2 and back, and nothing is missed or told twice', async () => {
  const registry = api.registry;
  const { id: connectionId } = await registry.connections.create(actor, {
    ...{ toolkit: 'synthetic', name: 'one', credentials: { type: 'none' } },
  });
  const ids: string[] = [];
  for (let n = 0; n < 2; n += 1) {
    const { trigger } = await registry.triggers.upsert(actor, {
      ...{ tags: [], toolkit: 'synthetic', slug: 'synthetic', version: '1', config: '{}', connectionId, enabled: true },
      ...{ intervalSeconds: 1, poll: { dedupe: 'unique', repeatable: true } },
    });
    ids.push(trigger.id);
  }
  const eventually = (fact: () => Promise<void>) => vi.waitFor(fact, PATIENCE);
  const storedIds = async (): Promise<string[]> => {
    const page = await registry.events.list('default', { limit: 500 });
    return page.map(({ id }) => id).sort();
  };
  const expected = (): string[] =>
    ids.flatMap((id) => Array.from({ length: slots - 1 }, (_, n) => eventIdOf(id, `item-${n + 1}`))).sort();
  const oneMore = async () => {
    slots += 1;
    await eventually(async () => expect(await storedIds()).toEqual(expected()));
  };
  await eventually(async () => {
    for (const id of ids) expect((await registry.triggers.get('default', id)).primed).toBe(true);
  });
  await oneMore();

  const env = { ENGINE_URL: worker.addresses.engine as string };
  let migration = '';
  const owners: Record<string, number>[] = [];
  for (const command of await commands()) {
    const args = command.replaceAll('MIGRATION', migration).split(' ').slice(1);
    const { code, out, err } = await run(args, env);
    expect([command, code, err.replaceAll(/^migration:.*\n/gm, '')]).toEqual([command, 0, '']);
    if (args.includes('--no-wait')) migration = out.trim();
    const status = await run(['migrate', 'status', '--json'], env);
    owners.push((JSON.parse(status.out) as { owners: Record<string, number> }).owners);
    // The others follow one another while the hand-off is under way: one that is over can not be paused.
    if (args.includes('to-v2')) await oneMore();
  }
  expect(owners[0]).toEqual({ legacy: 0, to_v2: 0, v2: 2, to_legacy: 0 });
  await eventually(async () => {
    const { out } = await run(['migrate', 'status', migration, '--json'], env);
    expect(JSON.parse(out)).toMatchObject({ state: 'done', direction: 'to_legacy', total: 2, moved: 2, refused: {} });
  });
  await oneMore();
  const { out } = await run(['migrate', 'status', '--json'], env);
  expect((JSON.parse(out) as { owners: object }).owners).toEqual({ legacy: 2, to_v2: 0, v2: 0, to_legacy: 0 });

  const again = await run(['migrate', 'to-legacy', ids[0] as string], env);
  expect([again.code, again.err]).toEqual([1, expect.stringContaining('not moved: 1 already_there')]);
  const audit = await registry.audit('default', { objectKind: 'trigger', objectId: ids[0] as string, limit: 20 });
  expect(audit.map(({ action }) => action).filter((action) => action.startsWith('moved'))).toEqual([
    'moved_to_legacy',
    'moved_to_v2',
  ]);
}, 180_000);

test('what is imported goes on from its keys in both pipelines, and is shown with the one that polls it', async () => {
  const registry = api.registry;
  const { id: connectionId } = await registry.connections.create(actor, {
    ...{ toolkit: 'synthetic', name: 'two', credentials: { type: 'none' } },
  });
  const modern = await startApi({ config: { ...apiConfig, defaultPipeline: 'v2' }, ...parts() });
  try {
    const seenKeys = Array.from({ length: slots }, (_, n) => `item-${n}`);
    for (const [url, pipeline] of [
      [api.url, 'legacy'],
      [modern.url, 'v2'],
    ] as const) {
      const env = { MILKRUN_URL: url, MILKRUN_KEY: API_KEY };
      const trigger = {
        ...{ deduplicationKey: `from-${pipeline}`, toolkit: 'synthetic', slug: 'mine', connectionId },
        ...{ intervalSeconds: 1, poll: { dedupe: 'unique', repeatable: true } },
      };
      const imported = await run(['import', '-', '--json'], env, JSON.stringify({ trigger, cursor: 7, seenKeys }));
      expect([imported.err, JSON.parse(imported.out)]).toEqual([
        '',
        { triggers: 1, created: 1, known: 0, withState: 1 },
      ]);
      const [{ id }] = (await registry.triggers.list('default', {
        deduplicationKey: `from-${pipeline}`,
        limit: 1,
      })) as readonly { id: string }[] as readonly [{ id: string }];
      slots += 1;
      const fresh = Array.from({ length: slots - seenKeys.length }, (_, n) =>
        eventIdOf(id, `item-${seenKeys.length + n}`),
      );
      await vi.waitFor(async () => {
        const stored = await registry.events.list('default', { triggerId: id, limit: 500 });
        expect(stored.map((event) => event.id).sort()).toEqual(fresh.sort());
      }, PATIENCE);
      const shown = await run(['triggers', 'show', id, '--json'], env);
      expect(JSON.parse(shown.out)).toMatchObject({
        primed: true,
        pipeline: { name: pipeline, movingTo: null },
        moves: [],
      });
    }
    const [first] = await registry.triggers.list('default', { slug: 'synthetic', limit: 1 });
    const moved = await run(['triggers', 'show', first?.id as string], { MILKRUN_URL: api.url, MILKRUN_KEY: API_KEY });
    expect(moved.out).toMatch(/pipeline\n +name +legacy/);
    expect(moved.out).toMatch(/moved +to legacy at .*, by milkrun migrate, migration:/);
    expect(moved.out).toMatch(/moved +to v2 at /);
  } finally {
    await modern.close();
  }
});

test('a migration that is not there, and a request that says nothing, are refused with a sentence', async () => {
  const env = { ENGINE_URL: worker.addresses.engine as string };
  const unknown = await run(['migrate', 'pause', 'migration:none'], env);
  expect([unknown.code, unknown.err]).toEqual([1, expect.stringContaining('there is no migration migration:none')]);
  const response = await fetch(`${env.ENGINE_URL}/migrations`, {
    ...{ method: 'POST', headers: { 'content-type': 'application/json' } },
    body: JSON.stringify({ direction: 'to_v2' }),
  });
  expect([response.status, ((await response.json()) as { detail: string }).detail]).toEqual([
    400,
    expect.stringContaining('say what to move'),
  ]);
});

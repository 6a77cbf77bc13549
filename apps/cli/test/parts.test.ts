/** The parts of `milkrun dev` as real processes: PostgreSQL, Temporal, the API and the poll function. */

import { once } from 'node:events';
import { chmodSync } from 'node:fs';
import { createServer } from 'node:net';
import { loadConfig } from '@milkrun/config';
import { Secret } from '@milkrun/core';
import { expect, test } from 'vitest';
import { type Child, startChild } from '../src/dev/child.ts';
import { childEnvironment } from '../src/dev/environment.ts';
import { createFirstData, PACKAGES } from '../src/dev/first-data.ts';
import { openHome, type RecordedProcess, writeDevFile } from '../src/dev/home.ts';
import { isAlive } from '../src/dev/identity.ts';
import { createHttpClient } from '../src/http-client.ts';
import { onCleanup, run, temporaryFolder } from './helpers.ts';

async function freePort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return String(port);
}

test('the control plane takes the first data once, and client commands work on it', { timeout: 120_000 }, async () => {
  const home = temporaryFolder();
  // PostgreSQL refuses to run as root, so its own user has to reach the folder.
  chmodSync(home, 0o755);
  const { path, keys } = openHome(home);
  const base = {
    PATH: process.env.PATH,
    TEMPORAL_CLI_PATH: process.env.TEMPORAL_CLI_PATH,
    TEMPORAL_CONFIG_FILE: '',
    MILKRUN_HOME: path,
    API_PORT: await freePort(),
    POLL_FUNCTION_PORT: '0',
    METRICS_PORT: '0',
  };
  const recorded: RecordedProcess[] = [];
  const start = async (name: string, args: string[], env: Record<string, string | undefined>): Promise<Child> => {
    const child = await startChild({ name, args, env, home: path, onSpawn: (one) => recorded.push(one) });
    onCleanup(() => child.stop(20_000));
    return child;
  };
  const { addresses } = (await start('servers', ['dev-servers'], base)).ready;
  const config = loadConfig({ env: base, process: 'dev' });
  const env = childEnvironment(base, config, keys, path, {
    workerdbUrl: addresses.workerdb as string,
    registrydbUrl: addresses.registrydb as string,
    temporalAddress: addresses.temporal as string,
    natsUrl: addresses.nats ?? '',
  });
  const api = await start('api', ['api'], env);
  const url = api.ready.addresses.api as string;
  expect((await fetch(`${url}/readyz`)).status).toBe(200);
  expect(await (await fetch(api.ready.addresses.metrics as string)).text()).toContain('process_cpu_seconds_total');
  const pollFunction = await start('poll-function', ['poll-function'], env);
  expect(new URL(pollFunction.ready.addresses['poll-function'] as string).hostname).toBe('127.0.0.1');

  const client = createHttpClient({ origin: url, name: 'the API', key: new Secret(keys.apiKey) });
  const create = () => createFirstData(client, { fleet: 40, now: Date.now(), progress: () => {} });
  expect(await create()).toEqual({ packages: PACKAGES.length, fleet: 40 });
  expect(await create()).toEqual({ packages: 0, fleet: 0 });

  writeDevFile(path, { ...keys, apiUrl: url });
  const cli = async (...args: string[]): Promise<unknown> => {
    const { code, out, err } = await run([...args, '--json'], { MILKRUN_HOME: path });
    expect([code, err], args.join(' ')).toEqual([0, '']);
    return JSON.parse(out);
  };
  const triggers = (await cli('triggers', 'list', '--toolkit', 'npm')) as { id: string; name: string }[];
  expect(triggers.map(({ name }) => name).toSorted()).toEqual(PACKAGES.map((name) => `Releases of ${name}`).toSorted());
  const id = triggers[0]?.id as string;
  await cli('triggers', 'disable', id, '--reason', 'holiday');
  expect(await cli('triggers', 'get', id)).toMatchObject({
    intervalSeconds: 300,
    poll: { dedupe: 'watermark' },
    status: { state: 'disabled', reason: 'holiday' },
  });
  await cli('triggers', 'enable', id, '--from-now');
  await cli('triggers', 'poll-now', id);
  await cli('triggers', 'rewind', id, '--since', '2026-11-01');
  expect(await cli('triggers', 'list', '--state', 'disabled')).toEqual([]);
  const connections = (await cli('connections', 'list', '--toolkit', 'npm')) as { id: string; kind: string }[];
  expect(connections).toEqual([expect.objectContaining({ kind: 'none', status: 'active' })]);
  const made = (await cli(
    ...['triggers', 'create', '--toolkit', 'npm', '--slug', 'npm-package', '--settings', '{"package":"zod"}'],
    ...['--connection', connections[0]?.id as string, '--key', 'mine'],
  )) as { id: string };
  expect(await cli('triggers', 'get', made.id)).toMatchObject({ intervalSeconds: 900, poll: { dedupe: 'watermark' } });
  await cli('triggers', 'delete', made.id);
  expect((await run(['triggers', 'get', made.id], { MILKRUN_HOME: path })).code).toBe(1);
  expect(await cli('events', 'list')).toEqual([]);
  expect((await run(['triggers', 'list'], { MILKRUN_HOME: path, MILKRUN_KEY: 'mk_wrong_wrong_wrong' })).code).toBe(5);

  for (const child of [pollFunction, api]) {
    await child.stop(20_000);
    expect(await child.ended).toBe('exit code 0');
  }
  expect(recorded.filter(({ name }) => !['servers', 'temporal', 'nats'].includes(name)).some(isAlive)).toBe(false);
});

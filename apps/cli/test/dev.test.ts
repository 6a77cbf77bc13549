import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Secret } from '@milkrun/core';
import { createDatabase } from '@milkrun/testkit';
import postgres from 'postgres';
import { expect, inject, test } from 'vitest';
import { parse } from 'yaml';
import { type Child, startChild } from '../src/dev/child.ts';
import type { Figures } from '../src/dev/figures.ts';
import { createFirstData, NEW_RELEASE, PACKAGES } from '../src/dev/first-data.ts';
import { openHome, type RecordedProcess, readProcesses, writeProcesses } from '../src/dev/home.ts';
import { endProcess, isAlive, startTimeOf } from '../src/dev/identity.ts';
import { createLive, liveLine } from '../src/dev/live.ts';
import { isClean, runOnce } from '../src/dev/once.ts';
import { busyPorts } from '../src/dev/ports.ts';
import { createHttpClient, type HttpClient } from '../src/http-client.ts';
import { type Asked, onCleanup, run, stubServer, temporaryFolder } from './helpers.ts';

const FIGURES: Figures = {
  now: '2026-11-25T00:00:00Z',
  feedAtEnd: true,
  triggers: 12,
  due: 0,
  oldestDueSeconds: 0,
  leasesHeld: 0,
  halted: {},
  batches: {},
  polls: 0,
  dueLagP99Seconds: null,
  eventsFound: 0,
  eventsDelivered: 0,
  primed: 0,
  undelivered: 0,
  pending: null,
};

const clientOf = (origin: string): HttpClient => createHttpClient({ origin, name: 'the server', key: new Secret('k') });

test('keys are made once, for their owner only, and a broken file is refused and kept', () => {
  const home = temporaryFolder();
  const first = openHome(home);
  expect(statSync(join(home, 'dev.json')).mode & 0o777).toBe(0o600);
  expect(openHome(home).keys).toEqual(first.keys);
  expect(Buffer.from(first.keys.blobKey, 'base64')).toHaveLength(32);
  writeFileSync(join(home, 'dev.json'), '{"apiKey":');
  expect(() => openHome(home)).toThrow('restore it, or move the whole folder away');
  expect(readFileSync(join(home, 'dev.json'), 'utf8')).toBe('{"apiKey":');
});

test('a process is known by id and start time, and only that one is ended', async () => {
  const child = spawn(
    process.execPath,
    ['-e', 'process.on("SIGTERM", () => {}); process.stdout.write("up"); setInterval(() => {}, 1000)'],
    {
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  onCleanup(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const pid = child.pid as number;
  const recorded: RecordedProcess = { name: 'worker', pid, startedAt: startTimeOf(pid) as string };
  expect(isAlive(recorded)).toBe(true);
  await endProcess({ ...recorded, startedAt: 'another boot 1' }, 10);
  expect(child.exitCode).toBeNull();
  const gone = once(child, 'exit');
  // It ignores SIGTERM, so the grace passes and it is forced.
  await endProcess(recorded, 100);
  expect(await gone).toEqual([null, 'SIGKILL']);
  expect(isAlive(recorded)).toBe(false);
});

test('busy ports are found', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  onCleanup(() => server.close());
  const { port } = server.address() as { port: number };
  const wanted = { setting: 'API_PORT', host: '127.0.0.1', port };
  expect(await busyPorts([wanted, { setting: 'ENGINE_PORT', host: '127.0.0.1', port: 0 }])).toEqual([wanted]);
  const env = { API_PORT: String(port), MILKRUN_HOME: temporaryFolder() };
  const { code, err } = await run(['dev', '--once'], env);
  expect([code, err]).toEqual([3, expect.stringContaining(`port ${port} is in use by another program: set API_PORT`)]);
});

test('a second dev in the same folder is refused, and leaves the first alone', async () => {
  const home = temporaryFolder();
  const child = spawn(process.execPath, ['-e', 'process.stdout.write("up"); setInterval(() => {}, 1000)'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  onCleanup(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const first = { name: 'dev', pid: child.pid as number, startedAt: startTimeOf(child.pid as number) as string };
  writeProcesses(home, [first]);
  const { code, err } = await run(['dev', '--once'], { MILKRUN_HOME: home });
  expect([code, err]).toEqual([1, expect.stringContaining(`already runs in ${home}`)]);
  expect(isAlive(first)).toBe(true);
  expect(readProcesses(home)).toEqual([first]);
});

test('what a killed run has left is ended before anything starts', async () => {
  const home = temporaryFolder();
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  onCleanup(() => server.close());
  const orphan = spawn(process.execPath, ['-e', 'process.stdout.write("up"); setInterval(() => {}, 1000)'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  onCleanup(() => orphan.kill('SIGKILL'));
  await once(orphan.stdout, 'data');
  const pid = orphan.pid as number;
  const gone = once(orphan, 'exit');
  writeProcesses(home, [
    { name: 'worker', pid, startedAt: startTimeOf(pid) as string },
    // The id of the killed parent now belongs to somebody else: us.
    { name: 'dev', pid: process.ppid, startedAt: 'an earlier boot 1' },
  ]);
  const { port } = server.address() as { port: number };
  const { code, err } = await run(['dev', '--once'], { MILKRUN_HOME: home, API_PORT: String(port) });
  expect([code, err]).toEqual([3, expect.stringContaining(`an earlier run was killed: ending its worker (${pid})`)]);
  expect(await gone).toEqual([null, 'SIGTERM']);
});

test('a part that does not start is reported with the end of its log', async () => {
  const { path } = openHome(temporaryFolder());
  const recorded: RecordedProcess[] = [];
  const starting = startChild({
    name: 'worker',
    args: ['worker'],
    env: { PATH: process.env.PATH, TEMPORAL_CONFIG_FILE: '', LEASE_TTL: '1s' },
    home: path,
    onSpawn: (one) => recorded.push(one),
  });
  await expect(starting).rejects.toThrow(/worker did not start: it ended \(exit code 3\)[\s\S]*LEASE_TTL = "1s"/);
  expect(recorded).toEqual([expect.objectContaining({ name: 'worker' })]);
});

test('a part that fails while starting ends at once, and says why', async () => {
  const { path } = openHome(temporaryFolder());
  const starting = startChild({
    name: 'api',
    args: ['api'],
    env: {
      PATH: process.env.PATH,
      TEMPORAL_CONFIG_FILE: '',
      REGISTRYDB_URL: 'postgres://nobody@127.0.0.1:1/none',
      REGISTRY_KEY: Buffer.alloc(32, 1).toString('base64'),
    },
    home: path,
    onSpawn: () => {},
  });
  await expect(starting).rejects.toThrow(/api did not start: it ended \(exit code 1\)[\s\S]*ECONNREFUSED/);
});

test('a part that is still starting ends when everything is to end', async () => {
  const home = temporaryFolder();
  chmodSync(home, 0o755);
  const { path } = openHome(home);
  const recorded: RecordedProcess[] = [];
  const stop = new AbortController();
  const starting = startChild({
    name: 'servers',
    args: ['dev-servers'],
    env: { ...process.env, MILKRUN_HOME: path, WORKERDB_URL: '', REGISTRYDB_URL: '', TEMPORAL_ADDRESS: '' },
    home: path,
    signal: stop.signal,
    onSpawn(one) {
      recorded.push(one);
      stop.abort(new Error('Ctrl-C'));
    },
  });
  await expect(starting).rejects.toThrow('Ctrl-C');
  expect(recorded).toHaveLength(1);
  expect(recorded.some(isAlive)).toBe(false);
});

test('a worker that waits for Temporal ends when it is asked to', async () => {
  const worker = spawn(process.execPath, [fileURLToPath(new URL('../src/main.ts', import.meta.url)), 'worker'], {
    env: {
      PATH: process.env.PATH,
      TEMPORAL_CONFIG_FILE: '',
      TEMPORAL_ADDRESS: '127.0.0.1:1',
      WORKERDB_URL: await createDatabase(inject('pgUrl')),
      CONTROL_PLANE_URL: 'http://127.0.0.1:1',
      CONTROL_PLANE_KEY: 'a key of this test alone',
      POLL_FUNCTION_ENDPOINT: 'http://127.0.0.1:1',
      OBJECT_STORE: `fs:${join(temporaryFolder(), 'objects')}`,
      ENGINE_PORT: '0',
      METRICS_PORT: '0',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onCleanup(() => worker.kill('SIGKILL'));
  const gone = once(worker, 'exit');
  let said = '';
  worker.stdout.on('data', (chunk) => {
    const waited = said.includes('Connection refused');
    said += String(chunk);
    if (!waited && said.includes('Connection refused')) worker.kill('SIGTERM');
  });
  expect([await gone, said]).toEqual([[0, null], expect.stringContaining('process.ended_while_starting')]);
});

test('the servers keep their data over a restart, after a drain and after kill -9', { timeout: 120_000 }, async () => {
  const home = temporaryFolder();
  // PostgreSQL refuses to run as root, so its own user has to reach the folder.
  chmodSync(home, 0o755);
  const { path } = openHome(home);
  const recorded: RecordedProcess[] = [];
  const env = { ...process.env, MILKRUN_HOME: path, WORKERDB_URL: '', REGISTRYDB_URL: '', TEMPORAL_ADDRESS: '' };
  const start = async (): Promise<Child> => {
    const child = await startChild({
      name: 'servers',
      args: ['dev-servers'],
      env,
      home: path,
      onSpawn: (one) => recorded.push(one),
    });
    onCleanup(() => child.stop(20_000));
    return child;
  };
  const noted = async (child: Child, note: string): Promise<string[]> => {
    const sql = postgres(child.ready.addresses.workerdb as string, { max: 1, onnotice: () => {} });
    try {
      await sql`create table if not exists notes (note text)`;
      await sql`insert into notes values (${note})`;
      return (await sql<{ note: string }[]>`select note from notes order by note`).map((row) => row.note);
    } finally {
      await sql.end();
    }
  };

  const first = await start();
  expect(await noted(first, 'a')).toEqual(['a']);
  expect(new URL(first.ready.addresses.registrydb as string).pathname).toBe('/registrydb');
  expect(existsSync(join(path, 'temporal.db'))).toBe(true);
  await first.stop(20_000);
  expect(recorded.some(isAlive)).toBe(false);

  const second = await start();
  expect(await noted(second, 'b')).toEqual(['a', 'b']);
  for (const { pid } of second.processes) process.kill(pid, 'SIGKILL');
  await second.ended;

  const third = await start();
  expect(await noted(third, 'c')).toEqual(['a', 'b', 'c']);
  await third.stop(20_000);
  expect(recorded.some(isAlive)).toBe(false);
});

test('the first data is created once, the example’s activity among it', async () => {
  const triggers: Record<string, unknown>[] = [];
  const connections: Record<string, unknown>[] = [];
  const activities: Record<string, unknown>[] = [];
  const api = await stubServer(({ method, path, body }: Asked) => {
    const other = path.startsWith('/activity-definitions') ? activities : connections;
    const list = path.startsWith('/triggers') ? triggers : other;
    if (method === 'GET') return { body: { items: list, next: null } };
    if (path === '/triggers/bulk') {
      triggers.push(...(body as { triggers: Record<string, unknown>[] }).triggers);
      return { body: { triggers: [] } };
    }
    list.push({ ...(body as object), id: `${path}-${list.length}` });
    return { body: list.at(-1) };
  });
  const now = Date.parse('2026-11-25T00:00:00Z');
  const create = () => createFirstData(clientOf(api.url), { fleet: 1200, now, progress: () => {} });
  expect(await create()).toEqual({ packages: PACKAGES.length, fleet: 1200 });
  expect(triggers[0]).toMatchObject({
    slug: 'npm-package',
    config: { package: PACKAGES[0] },
    poll: { dedupe: 'watermark', overlapSeconds: 86_400, repeatable: true },
    intervalSeconds: 300,
    since: '2026-10-26T00:00:00.000Z',
    connectionId: connections[0]?.id,
  });
  expect(connections.map(({ toolkit }) => toolkit)).toEqual(['npm', 'synthetic']);
  expect(await create()).toEqual({ packages: 0, fleet: 0 });
  expect([triggers.length, connections.length, activities.length]).toEqual([PACKAGES.length + 1200, 2, 1]);
  expect(
    parse(readFileSync(new URL('../../../examples/activities/new-release.yaml', import.meta.url), 'utf8')),
  ).toEqual(NEW_RELEASE);
});

test('the packages watched are dependencies of this repository', () => {
  const lock = readFileSync(new URL('../../../pnpm-lock.yaml', import.meta.url), 'utf8');
  for (const name of PACKAGES) expect(lock, name).toMatch(new RegExp(`^ {2}'?${name.replace('/', '\\/')}@\\d`, 'm'));
});

test('--once waits for the feed, then for every poll and batch, and counts double ids', async () => {
  const states: Partial<Figures>[] = [
    { feedAtEnd: false },
    { feedAtEnd: true },
    { pending: 3, batches: { poll: 1 } },
    { pending: 0, batches: { commit: 1 } },
    { pending: 0, eventsDelivered: 5, primed: 4, undelivered: 1, halted: { 'auth.expired': 2 } },
  ];
  const engine = await stubServer(({ path }) =>
    path === '/poll-all' ? { body: { since: 'T', triggers: 12 } } : { body: { ...FIGURES, ...states.shift() } },
  );
  const api = await stubServer(() => ({ body: { items: [{ id: 'a' }, { id: 'b' }, { id: 'a' }], next: null } }));
  const summary = await runOnce({
    engine: clientOf(engine.url),
    api: clientOf(api.url),
    source: 'real',
    signal: new AbortController().signal,
    onFigures: () => {},
    everyMs: 1,
  });
  expect(summary).toMatchObject({
    source: 'real',
    events: 5,
    eventsStored: 3,
    polled: 12,
    primed: 4,
    duplicateIds: 1,
    leasesHeld: 0,
    undelivered: 1,
    halted: 2,
  });
  expect(engine.asked.map(({ path, query }) => `${path} ${query.since ?? ''}`.trim())).toEqual([
    '/fleet',
    '/fleet',
    '/poll-all',
    '/fleet T',
    '/fleet T',
    '/fleet T',
  ]);
  expect(isClean(summary)).toBe(false);
  const clean = { ...summary, duplicateIds: 0, undelivered: 0 };
  expect(isClean(clean)).toBe(true);
  expect(isClean({ ...clean, leasesHeld: 1 })).toBe(false);
  expect(isClean({ ...clean, polled: 0 })).toBe(false);
});

test('an engine that answers something else is refused', async () => {
  const engine = await stubServer(() => ({ body: { ...FIGURES, triggers: 'many' } }));
  const input = {
    engine: clientOf(engine.url),
    api: clientOf(engine.url),
    source: 'real' as const,
    onFigures: () => {},
  };
  await expect(runOnce({ ...input, signal: new AbortController().signal })).rejects.toThrow('GET /fleet');
});

test('progress is a line every ten seconds, or one redrawn on a terminal', () => {
  const busy = {
    ...FIGURES,
    polls: 100,
    dueLagP99Seconds: 0.42,
    batches: { poll: 2, claim: 1 },
    halted: { 'auth.expired': 3 },
  };
  expect(liveLine(busy, 12.34)).toBe(
    '12 triggers · 12.3 polls/s · due lag p99 0.4 s · 0 due · 0 events · batches claim 1 poll 2 · 3 halted',
  );
  expect(liveLine(busy, 12.34, 7)).toContain(' · 0 events · 7 tasks wait · ');
  const shown = (isTty: boolean): string => {
    let err = '';
    const io = { env: {}, out: () => {}, err: (text: string) => (err += text), isTty, readStdin: async () => '' };
    const live = createLive(io);
    live.note('starting worker …');
    for (let s = 0; s <= 20; s += 1) live.show({ ...FIGURES, polls: s * 50 }, s * 1000);
    live.end();
    return err;
  };
  expect(
    shown(false)
      .trimEnd()
      .split('\n')
      .map((line) => line.split(' · ')[1]),
  ).toEqual(['0.0 polls/s', '50.0 polls/s', '50.0 polls/s']);
  expect(shown(true)).toMatch(/^starting worker …\r/);
  expect(shown(true).match(/\r/g)).toHaveLength(21);
});

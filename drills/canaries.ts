/**
 * Secrets planted in a whole deployment and looked for wherever it leaves bytes. Real: API and worker as their processes
 * run them, PostgreSQL, a Temporal server, the directory store, the Invoke API. The poll function is of the worst kind: it
 * repeats the credentials it was given in every sort of failure, plain, in addresses, and in base64. So does a control plane
 * that refuses the engine's key.
 *
 * Planted: credentials of connections, keys of the API and refused ones, and every secret setting. Looked into: each object
 * that was ever in the store (also unpacked), all rows of both databases, every workflow's history and the server's own
 * file, log lines, metrics of both outputs, and every answer of both APIs. In each of these places one more canary lies in
 * the open: the search must find it, or it proves nothing.
 */
import { randomBytes } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { type RunningApi, startApi } from '@milkrun/api';
import { loadConfig, shownConfig } from '@milkrun/config';
import { systemClock } from '@milkrun/core';
import { startInvokeServer } from '@milkrun/poll-runner';
import { createLog, createMetrics } from '@milkrun/telemetry';
import { createDatabase, startTemporal } from '@milkrun/testkit';
import { type RunningWorker, startWorker } from '@milkrun/worker';
import { Client, Connection } from '@temporalio/client';
import proto from '@temporalio/proto';
import postgres from 'postgres';
import { request } from 'undici';
import { findSecrets, newCanary } from './lib/canary-search.ts';
import type { Drill, DrillInput, DrillResult } from './lib/index.ts';
import { withPostgres } from './lib/parts.ts';

const CAPTURE_MS = 20;
const SETTLE_MS_MAX = 240_000;
const BULK = 500;
/** Of the secrets, the share that is sent as keys nobody knows, and in bodies that are refused. */
const REFUSED_SHARE = 0.15;
const KEYS_SHARE = 0.02;

export const drill: Drill = {
  name: 'canaries',
  about: 'No credential, key or secret setting is found in store, databases, histories, logs, metrics or errors.',
  defaults: { count: 1_000 },
  fullCount: 10_000,
  async run({ count, log }: DrillInput): Promise<DrillResult> {
    const home = mkdtempSync(join(tmpdir(), 'milkrun-drill-canaries-'));
    try {
      return await withPostgres(async (pgUrl) => {
        const deployment = await deploy(pgUrl, home);
        try {
          await settled(deployment, await plant(deployment, count, log), log);
          await leaveInTheOpen(deployment);
          return await lookEverywhere(deployment, log);
        } finally {
          await deployment.close();
        }
      });
    } finally {
      rmSync(home, { recursive: true, force: true });
    }
  },
};

type Deployment = Awaited<ReturnType<typeof deploy>>;

const PLACES = ['objects', 'workerdb', 'registrydb', 'histories', 'temporalFile', 'logs', 'metrics', 'errors'] as const;
type Place = (typeof PLACES)[number];

async function deploy(pgUrl: string, home: string) {
  /** What a place has given so far, beside what is read from it at the end. */
  const said: Record<'logs' | 'metrics' | 'errors', Buffer[]> = { logs: [], metrics: [], errors: [] };
  const hear = (place: keyof typeof said, text: string | Buffer): void => void said[place].push(Buffer.from(text));
  const settings = {
    registryKey: randomBytes(32).toString('base64'),
    blobKey: randomBytes(32).toString('base64'),
    controlPlaneKey: newCanary(),
    engineKey: newCanary(),
    apiKey: newCanary(),
  };
  const temporalFile = join(home, 'temporal.db');
  const temporal = await startTemporal({ own: true, dbFilename: temporalFile });
  const statsd = createSocket('udp4').on('message', (message) => hear('metrics', message));
  statsd.bind(0, '127.0.0.1');
  await once(statsd, 'listening');
  const source = createWorstSource();
  const functions = await startInvokeServer({ handler: source.poll });
  const [workerdbUrl, registrydbUrl] = [await createDatabase(pgUrl), await createDatabase(pgUrl)];
  const log = createLog({ level: 'debug', write: (line) => hear('logs', line) });
  const metrics = createMetrics({ prometheus: true, statsdAddress: `127.0.0.1:${statsd.address().port}` });
  const api: RunningApi = await startApi({
    config: {
      ...loadConfig({
        process: 'api',
        env: {
          REGISTRYDB_URL: registrydbUrl,
          REGISTRY_KEY: settings.registryKey,
          CONTROL_PLANE_KEY: settings.controlPlaneKey,
          MILKRUN_KEY: settings.apiKey,
          MILKRUN_HOME: home,
          API_PORT: '0',
        },
      }),
      apiPort: 0,
    },
    log,
    metrics,
    clock: systemClock,
  });
  const refuser = await startRefuser(api.url);
  const objects = join(home, 'objects');
  const config = loadConfig({
    process: 'worker',
    env: {
      WORKERDB_URL: workerdbUrl,
      CONTROL_PLANE_URL: refuser.url,
      CONTROL_PLANE_KEY: settings.controlPlaneKey,
      POLL_FUNCTION_ENDPOINT: functions.endpoint,
      OBJECT_STORE: `fs:${objects}`,
      BLOB_KEY: settings.blobKey,
      ENGINE_KEY: settings.engineKey,
      TEMPORAL_ADDRESS: temporal.address,
      MILKRUN_HOME: home,
      ENGINE_PORT: '0',
      DISPATCH_TICK: '1s',
    },
  });
  log.info(
    { settings: Object.fromEntries(shownConfig(config).map(({ name, value }) => [name, value])) },
    'config.read',
  );
  const worker: RunningWorker = await startWorker({ config, log, metrics, migrate: true });
  const captured = join(home, 'captured');
  const capture = captureObjects(objects, captured);

  /** Asks one of the two APIs; every answer but one that hands out a key is kept as an error may look. */
  async function ask(of: 'api' | 'engine', method: string, path: string, body?: unknown, key?: string) {
    const [origin, own] = of === 'api' ? [api.url, settings.apiKey] : [worker.addresses.engine, settings.engineKey];
    const answer = await request(`${origin}${path}`, {
      method: method as 'GET',
      headers: {
        authorization: `Bearer ${key ?? own}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      body: body === undefined ? null : JSON.stringify(body),
    });
    const text = await answer.body.text();
    if (path !== '/api-keys' || method !== 'POST') hear('errors', `${JSON.stringify(answer.headers)}\n${text}`);
    return { status: answer.statusCode, body: text === '' ? undefined : JSON.parse(text) };
  }

  const openIn = new Map<Place, string[]>(PLACES.map((place) => [place, []]));
  return {
    /** Canaries that were left in the open on purpose, by place. */
    openIn,
    /** A canary for a place, to be left there in the open. */
    inTheOpen(place: Place): string {
      const canary = newCanary();
      openIn.get(place)?.push(canary);
      return canary;
    },
    said,
    hear,
    log,
    temporal,
    temporalFile,
    workerdbUrl,
    registrydbUrl,
    objects,
    captured,
    source,
    refuser,
    capture,
    ask,
    /** Secrets that are not of the canaries' form. */
    others: [settings.registryKey, settings.blobKey, new URL(workerdbUrl).password].filter((text) => text.length > 8),
    planted: new Set<string>(Object.values(settings)),
    expositions: async () => [
      await metrics.exposition(),
      ...(await Promise.all(worker.metricsSources.map((read) => read()))),
    ],
    async close(): Promise<void> {
      await worker.stop();
      capture.stop();
      refuser.server.closeAllConnections();
      refuser.server.close();
      await functions.close();
      await api.close();
      await metrics.close();
      statsd.close();
      await temporal.stop();
    },
  };
}

/** A poll function that repeats what it was given in every way a failure can. */
function createWorstSource() {
  const polls = new Map<string, number>();
  const modes = new Map<string, number>();
  const echo = (token: string): readonly (() => unknown)[] => [
    () => ({ events: [], cursor: 1 }),
    () => ({ error: { class: 'auth', message: `401: the token ${token} is not known` } }),
    () => ({ error: { class: 'permanent', message: `GET https://user:${token}@provider.test/items answered 404` } }),
    () => ({ error: { class: 'rate_limited', message: `key=${token}: slow down`, retryAfter: 3600 } }),
    () => ({ events: [], cursor: 1, version: `\u0000${token}` }),
    () => ({ events: [], cursor: 1 }),
    () => ({ error: { class: 'permanent', message: `sent: Authorization: Basic ${btoa(`user:${token}`)}` } }),
    () => {
      throw new Error(`fetch failed with ${token}`);
    },
    () => ({ error: { class: 'transient', message: `{"headers":{"x-api-key":"${token}"}}` } }),
    () => ({ events: [{ key: 7, data: 'an item that is no item' }], cursor: 1 }),
    () => ({ error: { class: 'mystery', message: token } }),
    () => ({ events: 'none', cursor: token }),
  ];
  return {
    polls,
    /** How many credentials were repeated. */
    get echoed(): number {
      return [...modes.values()].filter((mode) => ![0, 5, 9].includes(mode)).length;
    },
    poll: async (event: unknown): Promise<unknown> => {
      const { trigger, auth } = event as {
        trigger: { id: string };
        auth: { token?: string; apiKey?: string; password?: string };
      };
      const mode = modes.get(trigger.id) ?? modes.size % 12;
      modes.set(trigger.id, mode);
      polls.set(trigger.id, (polls.get(trigger.id) ?? 0) + 1);
      return echo(auth.token ?? auth.apiKey ?? auth.password ?? 'nothing')[mode]?.();
    },
  };
}

/** In front of the API's three endpoints: refuses now and then, and says with which key it was asked. */
async function startRefuser(target: string): Promise<{ server: Server; url: string; refused: () => number }> {
  let [asks, refused] = [0, 0];
  const server = createServer((incoming, response) => {
    // A long poll ends with the API behind it.
    serve(incoming, response).catch(() => response.destroy());
  });
  const serve = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = await bodyOf(incoming);
    asks += 1;
    const key = incoming.headers.authorization ?? '';
    if (incoming.url !== '/triggers/changes' && asks % 7 === 3 && incoming.method === 'POST') {
      refused += 1;
      const says = `no such key: ${key.replace('Bearer ', '')}; headers ${JSON.stringify(incoming.headers)}`;
      response.writeHead(asks % 2 === 0 ? 403 : 503, { 'content-type': 'text/plain' }).end(says);
      return;
    }
    const answer = await request(`${target}${incoming.url}`, {
      method: incoming.method as 'GET',
      headers: { authorization: key, 'content-type': 'application/json' },
      body: incoming.method === 'POST' ? body : null,
    });
    response.writeHead(answer.statusCode, { 'content-type': 'application/json' }).end(await answer.body.text());
  };
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, refused: () => refused };
}

async function bodyOf(incoming: IncomingMessage): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of incoming) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

/** Links every object into a folder of its own as soon as it shows: credentials are deleted when their polls are over. */
function captureObjects(from: string, to: string) {
  mkdirSync(to, { recursive: true });
  const seen = new Set<string>();
  const look = (): void => {
    let names: string[] = [];
    try {
      names = readdirSync(from, { recursive: true, encoding: 'utf8' });
    } catch {
      return;
    }
    for (const name of names) {
      if (seen.has(name)) continue;
      try {
        linkSync(join(from, name), join(to, `${seen.size}`));
        seen.add(name);
      } catch {
        // A folder, or gone again.
      }
    }
  };
  const timer = setInterval(look, CAPTURE_MS);
  return {
    look,
    stop: () => clearInterval(timer),
    /** Objects that held credentials. */
    get auth(): number {
      return [...seen].filter((name) => name.includes('/auth/')).length;
    },
  };
}

/** Answers how many triggers were made. */
async function plant(
  { ask, planted, others, source }: Deployment,
  count: number,
  log: (line: string) => void,
): Promise<number> {
  const canary = (): string => {
    const made = newCanary();
    planted.add(made);
    return made;
  };
  const refused = Math.floor(count * REFUSED_SHARE);
  const keys = Math.floor(count * KEYS_SHARE);
  const connections = Math.max(1, count - refused - keys - planted.size);
  const made: string[] = [];
  for (let n = 0; n < connections; n += 1) {
    const secret = canary();
    const credentials = [
      { type: 'bearer', token: secret },
      { type: 'api_key', apiKey: secret },
      { type: 'basic', username: 'user', password: secret },
    ][n % 3];
    const { body } = await ask('api', 'POST', '/connections', {
      toolkit: `worst-${n % 5}`,
      name: `c${n}`,
      credentials,
    });
    if (typeof body.id !== 'string') throw new Error('no connection was made');
    made.push(body.id);
  }
  for (let at = 0; at < made.length; at += BULK) {
    const triggers = made.slice(at, at + BULK).map((connectionId, n) => {
      return {
        toolkit: `worst-${(at + n) % 5}`,
        slug: 'worst',
        version: '1',
        config: { n: at + n },
        connectionId,
        intervalSeconds: 3600,
      };
    });
    await ask('api', 'POST', '/triggers/bulk', { triggers });
  }
  log(`${made.length} connections with a trigger each`);
  for (let n = 0; n < refused; n += 1) {
    const secret = canary();
    const wrong = [
      () => ask('api', 'GET', '/triggers', undefined, secret),
      () => ask('engine', 'GET', '/shards', undefined, secret),
      () =>
        ask('api', 'POST', '/connections', { toolkit: 'x', credentials: { type: 'bearer', token: secret, more: 1 } }),
      () => ask('api', 'POST', '/connections', { toolkit: 'x', credentials: { type: secret } }),
      () => ask('api', 'POST', '/conn/batch', { connections: [{ tenantId: 't', connectionId: 'c' }] }, secret),
      () =>
        ask('api', 'PATCH', `/connections/${made[0]}`, {
          credentials: { type: 'basic', username: 'u', password: [secret] },
        }),
    ][n % 6] as () => Promise<{ status: number }>;
    const { status } = await wrong();
    if (status < 400) throw new Error(`a wrong request was answered ${status}`);
  }
  for (let n = 0; n < keys; n += 1) {
    const { body } = await ask('api', 'POST', '/api-keys', { name: `key ${n}`, scopes: ['triggers:read'] });
    if (typeof body.secret !== 'string') throw new Error('no key was made');
    planted.add(body.secret);
    others.push(body.secret);
    await ask('api', 'GET', '/triggers', undefined, body.secret);
  }
  log(`${planted.size} secrets planted; ${source.polls.size} polled so far`);
  return made.length;
}

/** Waits until every trigger was polled and every batch has ended, and reads what people would. */
async function settled(
  { ask, workerdbUrl, hear, expositions }: Deployment,
  made: number,
  log: (line: string) => void,
): Promise<void> {
  const sql = postgres(workerdbUrl, { max: 1 });
  const until = systemClock.monotonic() + SETTLE_MS_MAX;
  let asked = false;
  for (;;) {
    const [row] = await sql`
      select (select count(*) from polling_trigger_runs)::int as known,
        (select count(*) from polling_trigger_runs where last_polled_at is null)::int as waiting,
        (select count(*) from batches where ended_at is null)::int as open`;
    if (row?.known === made && row?.waiting === 0 && row?.open === 0) break;
    // Made many at a time, their first polls are spread over the hour.
    if (row?.known === made && !asked) {
      await ask('engine', 'POST', '/poll-all', {});
      asked = true;
    }
    if (systemClock.monotonic() > until) {
      await sql.end();
      throw new Error(
        `after ${SETTLE_MS_MAX / 1000} s ${row?.waiting} triggers wait and ${row?.open} batches are open`,
      );
    }
    await systemClock.sleep(250);
  }
  const ids = await sql`select distinct on (last_code) trigger_id as id from polling_trigger_runs`;
  await sql.end();
  for (const { id } of ids) {
    await ask('engine', 'GET', `/triggers/${id}`);
    await ask('engine', 'GET', `/triggers/${id}/explain`);
    await ask('engine', 'POST', `/triggers/${id}/test`, {});
    await ask('api', 'GET', `/triggers/${id}/explain`);
  }
  for (const path of ['/doctor', '/batches', '/shards', '/fleet', '/nothing']) await ask('engine', 'GET', path);
  for (const path of ['/connections?limit=500', '/api-keys', '/events', '/audit']) await ask('api', 'GET', path);
  for (const text of await expositions()) hear('metrics', text);
  log(`settled; ${ids.length} sorts of ends were explained`);
}

/** One canary in each place, as it could get there by a mistake. */
async function leaveInTheOpen(deployment: Deployment): Promise<void> {
  const { objects, workerdbUrl, registrydbUrl, temporal, log, hear, ask, capture } = deployment;
  const open = deployment.inTheOpen;
  mkdirSync(join(objects, 'batches', 'open'), { recursive: true });
  writeFileSync(join(objects, 'batches', 'open', 'plain'), `{"token":"${open('objects')}"}`);
  writeFileSync(
    join(objects, 'batches', 'open', 'packed'),
    Buffer.concat([Buffer.from('head'), zstdCompressSync(Buffer.from(`{"token":"${open('objects')}"}\n`))]),
  );
  for (const [place, url] of [
    ['workerdb', workerdbUrl],
    ['registrydb', registrydbUrl],
  ] as const) {
    const sql = postgres(url, { max: 1, onnotice: () => {} });
    await sql`create table left_open (note text, raw bytea)`;
    await sql`insert into left_open values (${open(place)}, ${Buffer.from(open(place))}), (${btoa(`user:${open(place)}`)}, null)`;
    await sql.end();
  }
  const connection = await Connection.connect({ address: temporal.address });
  const client = new Client({ connection });
  await client.workflow.start('LeftOpen', {
    taskQueue: 'left-open',
    workflowId: 'left-open',
    args: [{ token: open('histories') }],
  });
  deployment.openIn.get('temporalFile')?.push(...(deployment.openIn.get('histories') ?? []));
  await connection.close();
  log.info({ note: open('logs') }, 'left.open');
  hear('metrics', `polling_left_open{token="${open('metrics')}"} 1\n`);
  await ask('api', 'GET', `/connections/${open('errors')}`);
  capture.look();
}

async function lookEverywhere(deployment: Deployment, log: (line: string) => void): Promise<DrillResult> {
  const { planted, others, openIn, said, captured, source, refuser, capture } = deployment;
  const content: Readonly<Record<Place, () => AsyncIterable<Buffer> | Iterable<Buffer>>> = {
    objects: () => filesIn(captured),
    workerdb: () => rowsOf(deployment.workerdbUrl),
    registrydb: () => rowsOf(deployment.registrydbUrl),
    histories: () => historiesOf(deployment.temporal.address),
    temporalFile: () => ['', '-wal'].map((end) => readFileSync(`${deployment.temporalFile}${end}`)),
    logs: () => said.logs,
    metrics: () => said.metrics,
    errors: () => said.errors,
  };
  let [leaked, controls, controlsFound] = [0, 0, 0];
  const bytes: Record<string, number> = {};
  const leaks: Record<string, number> = {};
  for (const place of PLACES) {
    const found = new Map<string, Buffer>();
    for await (const part of content[place]()) {
      bytes[place] = (bytes[place] ?? 0) + part.length;
      for (const secret of findSecrets(part, others)) if (!found.has(secret)) found.set(secret, part);
    }
    const open = openIn.get(place) ?? [];
    controls += open.length;
    for (const canary of open) {
      if (found.delete(canary)) controlsFound += 1;
      else log(`violation: what lies in the open in ${place} was not found`);
    }
    const real = [...found].filter(([secret]) => planted.has(secret) || others.includes(secret));
    leaks[place] = real.length;
    leaked += real.length;
    for (const [secret, part] of real.slice(0, 5)) log(`violation: a secret is in ${place}: ${around(part, secret)}`);
    log(`${place}: ${bytes[place] ?? 0} bytes, ${real.length} secrets, ${open.length} left in the open`);
  }
  const idle = [source.polls.size, source.echoed, refuser.refused(), capture.auth].filter((n) => n === 0).length;
  if (idle > 0) log('violation: nothing was polled, echoed, refused or sealed');
  return {
    tried: planted.size,
    violations: leaked + (controls - controlsFound) + idle,
    faults: source.echoed + refuser.refused(),
    found: leaked,
    leaks,
    controls,
    controlsFound,
    polls: [...source.polls.values()].reduce((sum, n) => sum + n, 0),
    echoed: source.echoed,
    authObjects: capture.auth,
    bytes,
  };
}

/** Text around a secret, without it. */
function around(part: Buffer, secret: string): string {
  const text = part.toString('latin1');
  const at = text.indexOf(secret);
  if (at === -1) return '(encoded)';
  return JSON.stringify(
    `${text.slice(Math.max(0, at - 120), at)}***${text.slice(at + secret.length, at + secret.length + 60)}`,
  );
}

function* filesIn(folder: string): Generator<Buffer> {
  for (const name of readdirSync(folder)) yield readFileSync(join(folder, name));
}

/** Every row of every table as PostgreSQL prints it: bytes in hex. */
async function* rowsOf(url: string): AsyncGenerator<Buffer> {
  const sql = postgres(url, { max: 1 });
  try {
    const tables =
      await sql`select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema')`;
    for (const { name } of tables) {
      for await (const rows of sql.unsafe(`select t::text as row from ${name} t`).cursor(500)) {
        yield Buffer.from(rows.map(({ row }) => row).join('\n'));
      }
    }
  } finally {
    await sql.end();
  }
}

/** Every workflow's history, payloads as they lie in it, and its own description. */
async function* historiesOf(address: string): AsyncGenerator<Buffer> {
  const connection = await Connection.connect({ address });
  try {
    const client = new Client({ connection });
    for await (const { workflowId, runId, raw } of client.workflow.list()) {
      const history = await client.workflow.getHandle(workflowId, runId).fetchHistory();
      yield Buffer.from(proto.temporal.api.history.v1.History.encode(history).finish());
      yield Buffer.from(proto.temporal.api.workflow.v1.WorkflowExecutionInfo.encode(raw).finish());
    }
  } finally {
    await connection.close();
  }
}

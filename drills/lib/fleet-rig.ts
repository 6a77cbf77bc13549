/**
 * The engine with everything a drill may break: PostgreSQL and Temporal of its own, the stand-in upstream, and any number
 * of `milkrun worker` processes, each as a stranger starts it. Rows are written straight into workerdb, before the first
 * tick sees them.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { systemClock } from '@milkrun/core';
import { createDatabase, startPostgres, startTemporal, type Temporal } from '@milkrun/testkit';
import { migrate } from '@milkrun/workerdb';
import { Client, Connection } from '@temporalio/client';
import postgres, { type Sql } from 'postgres';
import { freePorts, until } from './dev-run.ts';
import type { Say } from './types.ts';
import { startUpstream, type Upstream } from './upstream.ts';

const MAIN = fileURLToPath(new URL('../../apps/cli/src/main.ts', import.meta.url));
const READY_MS = 180_000;

interface RigWorker {
  readonly url: string;
  readonly pid: number;
  /** What it wrote last, for people. */
  said(): string;
  /** SIGTERM; resolves when it has drained. */
  stop(): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
}

export interface Rig {
  readonly sql: Sql;
  readonly client: Client;
  readonly upstream: Upstream;
  readonly temporal: Temporal;
  readonly databaseUrl: string;
  readonly workers: readonly RigWorker[];
  /** Starts a worker; settings beside the rig's. */
  startWorker(settings?: Readonly<Record<string, string>>): Promise<RigWorker>;
  /** Told each whole line that a worker writes. */
  onLine(listener: (line: string) => void): void;
  /** GET, or POST with a body, of a live worker's operations API. */
  engine<T = unknown>(path: string, body?: object): Promise<T>;
  /** Takes the object store away, or brings it back. */
  setStoreDown(down: boolean): Promise<void>;
  stop(): Promise<void>;
}

export interface RigOptions {
  readonly workers: number;
  readonly settings?: Readonly<Record<string, string>>;
  readonly timerShards?: number;
  readonly log: Say;
  /** Called when the database is migrated and empty, before a worker runs. */
  readonly fill?: (sql: Sql) => Promise<void>;
}

export async function startRig({
  workers: count,
  settings = {},
  timerShards = 1,
  log,
  fill,
}: RigOptions): Promise<Rig> {
  const undo: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const step of undo.splice(0).reverse())
      await step().catch((error: unknown) => log(`stopping: ${String(error)}`));
  };
  try {
    const home = await mkdtemp(join(tmpdir(), 'milkrun-drill-'));
    undo.push(() => rm(home, { recursive: true, force: true }));
    await chmod(home, 0o755);
    const server = await startPostgres();
    undo.push(() => server.stop());
    const temporal = await startTemporal({ own: true });
    undo.push(() => temporal.stop());
    const upstream = await startUpstream();
    undo.push(() => upstream.close());
    const databaseUrl = await createDatabase(server.url);
    const sql = postgres(databaseUrl, { max: 4, onnotice: () => {} });
    undo.push(() => sql.end({ timeout: 5 }));
    await migrate(sql);
    await fill?.(sql);
    const connection = await Connection.connect({ address: temporal.address });
    undo.push(() => connection.close());
    const workers: RigWorker[] = [];
    const listeners: ((line: string) => void)[] = [];
    const environment = {
      PATH: process.env.PATH,
      HOME: home,
      MILKRUN_HOME: home,
      WORKERDB_URL: databaseUrl,
      TEMPORAL_ADDRESS: temporal.address,
      TEMPORAL_CONFIG_FILE: '',
      CONTROL_PLANE_URL: upstream.url,
      CONTROL_PLANE_KEY: 'a-key-of-the-drill-alone',
      POLL_FUNCTION: '{toolkit}',
      POLL_FUNCTION_ENDPOINT: upstream.url,
      OBJECT_STORE: `fs:${join(home, 'objects')}`,
      TIMER_SHARDS: String(timerShards),
      LOG_LEVEL: 'warn',
      LOG_FORMAT: 'json',
      ...settings,
    };
    const startWorker = async (own: Readonly<Record<string, string>> = {}): Promise<RigWorker> => {
      const { ENGINE_PORT = '', METRICS_PORT = '' } = await freePorts();
      const worker = await spawnWorker({ ...environment, ENGINE_PORT, METRICS_PORT, ...own }, (line) => {
        for (const listener of listeners) listener(line);
      });
      workers.push(worker);
      undo.push(() => worker.kill());
      return worker;
    };
    for (let n = 0; n < count; n += 1) await startWorker();
    log(`${count} workers are ready`);
    return {
      sql,
      client: new Client({ connection }),
      upstream,
      temporal,
      databaseUrl,
      workers,
      startWorker,
      onLine: (listener) => void listeners.push(listener),
      async engine(path, body) {
        const worker = workers.find(({ pid }) => isAlive(pid));
        if (worker === undefined) throw new Error('no worker lives');
        return await ask(worker.url + path, body);
      },
      async setStoreDown(down) {
        const [objects, away] = [join(home, 'objects'), join(home, 'objects-away')];
        if (down) {
          await rename(objects, away);
          // A file where the folder was: every call fails at once, writes that would make the folder anew among them.
          await writeFile(objects, '');
        } else {
          await rm(objects);
          await rename(away, objects);
        }
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function spawnWorker(
  env: Readonly<Record<string, string | undefined>>,
  onLine: (line: string) => void,
): Promise<RigWorker> {
  const child = spawn(process.execPath, [MAIN, 'worker'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream }).on('line', (line) => {
      said = `${said}${line}\n`.slice(-20_000);
      onLine(line);
    });
  const url = `http://127.0.0.1:${env.ENGINE_PORT}`;
  await until('a worker to be ready', READY_MS, async () => {
    if (hasEnded(child)) throw new Error(`the worker ended with ${child.exitCode ?? child.signalCode}:\n${said}`);
    return await fetch(`${url}/readyz`).then(
      (answer) => answer.ok,
      () => false,
    );
  });
  const end = async (signal: 'SIGTERM' | 'SIGKILL'): Promise<void> => {
    if (hasEnded(child)) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  };
  return { url, pid: child.pid as number, said: () => said, stop: () => end('SIGTERM'), kill: () => end('SIGKILL') };
}

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function ask<T>(url: string, body?: object): Promise<T> {
  const answer = await fetch(url, {
    method: body === undefined ? 'GET' : 'POST',
    ...(body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}: ${text.slice(0, 500)}`);
  return JSON.parse(text) as T;
}

export interface Group {
  readonly count: number;
  readonly toolkit: string;
  readonly tenants?: number;
  /** Name of its tenants; the toolkit's by default. */
  readonly tenant?: string;
  readonly connections?: number;
  readonly intervalSeconds: number;
  /** SQL for the first due time; `n` counts from 0. By default the row's next phase slot. */
  readonly dueAt?: string;
}

/** Primed triggers with these counts; the first 8 digits of an id name its group, from 1 on. */
export async function insertFleet(sql: Sql, groups: readonly Group[]): Promise<void> {
  for (const [index, group] of groups.entries()) {
    const { count, toolkit, tenants = 1, tenant = toolkit, connections = 100, intervalSeconds, dueAt } = group;
    await sql.begin(async (tx) => {
      await tx.unsafe(
        `create temp table made on commit drop as
         select n, id::uuid as trigger_id, (get_byte(h, 0) * 256 + get_byte(h, 1)) % 64 as shard, $3::text || '-' || n % $4::int as tenant_id,
           $3::text || '-' || n % $5::int as connection_id, (get_byte(h, 2) * 65536 + get_byte(h, 3) * 256 + get_byte(h, 4)) % $6::int as phase
         from (select n, id, sha256(convert_to(id, 'UTF8')) as h from (
           select n, format('%s-0000-4000-8000-%s', lpad(to_hex($1::int), 8, '0'), lpad(to_hex(n), 12, '0')) as id
           from generate_series(0, $2::int - 1) as n) i) x`,
        [index + 1, count, tenant, tenants, connections, intervalSeconds],
      );
      await tx.unsafe(
        `insert into polling_triggers (shard, trigger_id, config_version, created_at, tenant_id, toolkit, slug, version_wanted,
           connection_id, poll_policy, config)
         select shard, trigger_id, 1, now(), tenant_id, $1, 'drill', '1', connection_id, '{"dedupe":"unique","repeatable":true}', '{}' from made`,
        [toolkit],
      );
      await tx.unsafe(
        `insert into polling_trigger_runs (shard, enabled, owner, interval_s, trigger_id, phase_s, tenant_h, toolkit_h, def_bytes,
           connection_h, next_poll_at, primed, last_ok_at, last_code)
         select shard, true, 'v', $1, trigger_id, phase, hash32(tenant_id), hash32($2), 400, hash64(tenant_id, connection_id),
           ${dueAt ?? 'next_slot(statement_timestamp(), $1, phase)'}, true, statement_timestamp(), 1 from made`,
        [intervalSeconds, toolkit],
      );
      await tx.unsafe('insert into polling_trigger_states (shard, trigger_id) select shard, trigger_id from made');
    });
  }
  await sql.unsafe('vacuum (analyze) polling_triggers, polling_trigger_runs, polling_trigger_states');
}

/** Asks `look` every so often until `done`, and hands each answer to it. */
export async function watch<T>(
  what: string,
  options: { readonly everyMs: number; readonly withinMs: number },
  look: () => Promise<T>,
  done: (seen: T) => boolean,
): Promise<T> {
  const giveUp = performance.now() + options.withinMs;
  for (;;) {
    const seen = await look();
    if (done(seen)) return seen;
    if (performance.now() > giveUp)
      throw new Error(`waited ${options.withinMs / 1000} s for ${what} in vain: ${JSON.stringify(seen)}`);
    await systemClock.sleep(options.everyMs);
  }
}

export function quantileOf(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? 0;
}

/** Collects the figures that were missed; each is a violation, and is said. */
export function verdicts(log: Say): { missed(what: string): void; readonly count: number } {
  let count = 0;
  return {
    missed(what) {
      count += 1;
      log(`violation: ${what}`);
    },
    get count() {
      return count;
    },
  };
}

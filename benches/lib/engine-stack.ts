/** Everything a run of the engine needs, on this machine: PostgreSQL (durable), Temporal, the stand-in upstream, one worker. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { noLog, noMetrics, type TimerManager } from '@milkrun/core';
import { createTimerManager } from '@milkrun/dispatch';
import { createDatabase, startPostgres, startTemporal } from '@milkrun/testkit';
import { openWorkerDb } from '@milkrun/workerdb';
import { Client, Connection } from '@temporalio/client';
import postgres, { type Sql } from 'postgres';
import { parentOf } from './cpu.ts';
import type { EngineFigures, EngineReply, EngineRequest } from './engine-process.ts';

export interface EngineStack {
  readonly sql: Sql;
  readonly client: Client;
  readonly timers: TimerManager;
  /** Origin of the stand-in. */
  readonly upstream: string;
  readonly workerPid: number;
  readonly upstreamPid: number;
  /** Of the Temporal server; undefined when one was found by address. */
  readonly temporalPid: number | undefined;
  readonly postmasterPid: number;
  /** The backends of the bench itself: what they use is not the engine's. */
  readonly ownBackends: readonly number[];
  /** Whether pg_stat_statements counts. */
  readonly countsStatements: boolean;
  figures(reset?: boolean): Promise<EngineFigures>;
  stop(): Promise<void>;
}

const WIDTH = 500;

/** `prepare` fills the migrated workerdb before the worker starts. */
export async function startEngineStack(
  prepare: (sql: Sql) => Promise<void>,
  log: (line: string) => void,
): Promise<EngineStack> {
  const home = mkdtempSync(join(tmpdir(), 'milkrun-bench-'));
  // PostgreSQL may run as a user of its own, who has to walk through; else its data would lie elsewhere and stay behind.
  chmodSync(home, 0o755);
  const ends: (() => Promise<unknown>)[] = [async () => rmSync(home, { recursive: true, force: true })];
  const stop = async (): Promise<void> => {
    for (const end of ends.splice(0).toReversed()) await end();
  };
  try {
    const { url, countsStatements, end } = await durablePostgres(join(home, 'postgres'));
    ends.push(end);
    const temporal = await startTemporal({ own: true });
    ends.push(() => temporal.stop());
    const workerdbUrl = await createDatabase(url);
    await (await openWorkerDb({ url: workerdbUrl })).close();
    const sql = postgres(workerdbUrl, { max: 1, onnotice: () => {} });
    ends.push(() => sql.end());
    if (countsStatements) await sql.unsafe('create extension pg_stat_statements');
    await prepare(sql);
    const upstream = fork(fileURLToPath(new URL('upstream.ts', import.meta.url)), { silent: true });
    ends.push(() => ended(upstream));
    const origin = await originOf(upstream);
    const worker = fork(fileURLToPath(new URL('engine-process.ts', import.meta.url)), {
      env: environment({ workerdbUrl, temporal: temporal.address, upstream: origin, home }),
      // What `npm run milkrun -- worker` is started with.
      execArgv: ['--max-semi-space-size=64', ...(process.env.BENCH_WORKER_NODE_ARGS?.split(' ') ?? [])],
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    ends.push(() => stopWorker(worker));
    await reply(worker, 'ready');
    log('the worker is ready');
    const connection = await Connection.connect({ address: temporal.address });
    ends.push(() => connection.close());
    const client = new Client({ connection });
    const [{ pid }] = (await sql.unsafe('select pg_backend_pid() as pid')) as unknown as [{ pid: number }];
    return {
      sql,
      client,
      timers: createTimerManager({ client, log: noLog, metrics: noMetrics, by: 'verb' }),
      upstream: origin,
      workerPid: worker.pid as number,
      upstreamPid: upstream.pid as number,
      temporalPid: temporal.pid,
      postmasterPid: parentOf(pid),
      ownBackends: [pid],
      countsStatements,
      async figures(reset = false) {
        ask(worker, { ask: 'figures', reset });
        const { figures } = await reply(worker, 'figures');
        return figures;
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** A durable server of its own, restarted once with pg_stat_statements where this build has it. */
async function durablePostgres(dataDir: string) {
  const first = await startPostgres({ durable: true, dataDir });
  const sql = postgres(first.url, { max: 1, onnotice: () => {} });
  const [found] = await sql.unsafe("select from pg_available_extensions where name = 'pg_stat_statements'");
  if (found !== undefined) await sql.unsafe("alter system set shared_preload_libraries = 'pg_stat_statements'");
  await sql.end();
  await first.stop();
  const server = await startPostgres({ durable: true, dataDir });
  return { url: server.url, countsStatements: found !== undefined, end: () => server.stop() };
}

function environment(at: { workerdbUrl: string; temporal: string; upstream: string; home: string }) {
  return {
    PATH: process.env.PATH,
    WORKERDB_URL: at.workerdbUrl,
    TEMPORAL_ADDRESS: at.temporal,
    CONTROL_PLANE_URL: at.upstream,
    CONTROL_PLANE_KEY: 'a key of the bench alone',
    POLL_FUNCTION: '{toolkit}',
    POLL_FUNCTION_ENDPOINT: at.upstream,
    OBJECT_STORE: `fs:${join(at.home, 'objects')}`,
    MILKRUN_HOME: at.home,
    ENGINE_PORT: '0',
    POLL_WIDTH: String(WIDTH),
    LOG_LEVEL: 'warn',
    // Only what is set wins over the worker's defaults: batch size 5,000, tick 10 s.
    ...Object.fromEntries(
      Object.entries(process.env).filter(([name]) => /^(BATCH_SIZE|DISPATCH_TICK|LOG_LEVEL)$/.test(name)),
    ),
  };
}

async function originOf(upstream: ChildProcess): Promise<string> {
  const [line] = (await once(upstream.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return `http://127.0.0.1:${(JSON.parse(line.toString()) as { port: number }).port}`;
}

function ask(worker: ChildProcess, request: EngineRequest): void {
  worker.send(request);
}

async function reply<Name extends EngineReply['reply']>(
  worker: ChildProcess,
  name: Name,
): Promise<Extract<EngineReply, { reply: Name }>> {
  return await new Promise((resolve, reject) => {
    const onMessage = (message: EngineReply): void => {
      if (message.reply !== name) return;
      done();
      resolve(message as Extract<EngineReply, { reply: Name }>);
    };
    const onExit = (code: number | null): void => {
      done();
      reject(new Error(`the worker ended with ${code}`));
    };
    const done = (): void => {
      worker.off('message', onMessage);
      worker.off('exit', onExit);
    };
    worker.on('message', onMessage);
    worker.on('exit', onExit);
  });
}

async function stopWorker(worker: ChildProcess): Promise<void> {
  if (worker.exitCode !== null || worker.signalCode !== null) return;
  const gone = once(worker, 'exit');
  ask(worker, { ask: 'stop' });
  await gone;
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGTERM');
  await gone;
}

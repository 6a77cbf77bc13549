/**
 * A real Temporal server for tests and for the laptop: by address, else the development server as a child process.
 *
 * With `dbFilename` the state lies in one SQLite file and survives kill -9 of the server (measured: no acknowledged
 * start is lost). Without it everything is in memory. A child never outlives this process on a normal exit.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type {} from 'vitest';
import { findTemporalBinary } from './temporal-binary.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** `host:port` of the run's server, namespace `default`. Isolate by fresh task queues and workflow ids. */
    temporalAddress: string;
  }
}

export interface TemporalOptions {
  /** SQLite file that keeps the state over restarts; in memory when absent. */
  readonly dbFilename?: string;
  /** gRPC port on 127.0.0.1; a free one when absent. */
  readonly port?: number;
  /** Namespaces created beside `default`. */
  readonly namespaces?: readonly string[];
  /** True: never the server of TEMPORAL_ADDRESS, for tests that kill and restart it. */
  readonly own?: boolean;
}

export interface Temporal {
  /** `host:port` of the gRPC frontend. */
  readonly address: string;
  readonly kind: 'address' | 'child';
  /** Process id of the child, for drills that kill it. */
  readonly pid?: number;
  /** Ends the child and resolves when it is gone; a server found by address is left alone. */
  stop(): Promise<void>;
}

/** Far above what one machine reaches, so that the engine's own limits are what a bench measures. */
const RAISED = [
  'frontend.rps',
  'frontend.namespaceRPS',
  'frontend.namespaceRPS.visibility',
  'frontend.namespaceCount',
  'frontend.globalNamespaceRPS',
  'matching.rps',
  'history.rps',
  'frontend.persistenceMaxQPS',
  'history.persistenceMaxQPS',
  'matching.persistenceMaxQPS',
  'worker.persistenceMaxQPS',
  'worker.schedulerNamespaceStartWorkflowRPS',
  'matching.forwarderMaxRatePerSecond',
];

const START_MS_MAX = 30_000;
const STOP_MS_MAX = 10_000;

/** Starts (or finds) a server and resolves once it accepts connections. Rejects with a sentence that names the remedy. */
export async function startTemporal(options: TemporalOptions = {}): Promise<Temporal> {
  const address = process.env.TEMPORAL_ADDRESS;
  if (address && !options.own && options.dbFilename === undefined) {
    return { address, kind: 'address', stop: async () => {} };
  }
  const binary = findTemporalBinary();
  const port = options.port ?? (await freePort());
  if (options.dbFilename !== undefined) mkdirSync(dirname(options.dbFilename), { recursive: true });
  const child = spawn(binary, startArguments(port, options), { stdio: ['ignore', 'ignore', 'pipe'] });
  const said = tailOf(child);
  const kill = (): void => {
    child.kill('SIGKILL');
  };
  process.once('exit', kill);
  const exited = new Promise<void>((resolve) => {
    const done = (): void => {
      process.removeListener('exit', kill);
      resolve();
    };
    child.once('exit', done);
    child.once('error', done);
  });
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM');
    const gone = await Promise.race([exited.then(() => true), delay(STOP_MS_MAX, false, { ref: false })]);
    if (!gone) kill();
    await exited;
  };
  try {
    await answering(port, exited);
  } catch (error) {
    await stop();
    throw new Error(`Temporal (${binary}) did not start on 127.0.0.1:${port}: ${said() || String(error)}`, {
      cause: error,
    });
  }
  return { address: `127.0.0.1:${port}`, kind: 'child', ...(child.pid ? { pid: child.pid } : {}), stop };
}

function startArguments(port: number, { dbFilename, namespaces = [] }: TemporalOptions): string[] {
  const settings: Record<string, string> = Object.fromEntries(RAISED.map((key) => [key, '100000']));
  settings['matching.numTaskqueueReadPartitions'] = '1';
  settings['matching.numTaskqueueWritePartitions'] = '1';
  // The default of 1 s would hold every quick continue-as-new back.
  settings['history.workflowIdReuseMinimalInterval'] = '"0s"';
  return [
    ...['server', 'start-dev', '--headless', '--ip', '127.0.0.1', '--port', String(port), '--log-level', 'error'],
    ...namespaces.flatMap((namespace) => ['--namespace', namespace]),
    ...(dbFilename === undefined ? [] : ['--db-filename', dbFilename]),
    ...(dbFilename === undefined
      ? []
      : ['--sqlite-pragma', 'journal_mode=wal', '--sqlite-pragma', 'synchronous=normal']),
    ...Object.entries(settings).flatMap(([key, value]) => ['--dynamic-config-value', `${key}=${value}`]),
  ];
}

/** A TCP probe: `Connection.connect` before the port listens would wait a whole second for its next try. */
async function answering(port: number, exited: Promise<void>): Promise<void> {
  const giveUp = performance.now() + START_MS_MAX;
  let gone = false;
  exited.then(() => {
    gone = true;
  });
  while (performance.now() < giveUp) {
    if (gone) throw new Error('it exited');
    if (await listens(port)) return;
    await delay(10);
  }
  throw new Error(`nothing listens after ${START_MS_MAX / 1000} s`);
}

async function listens(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no free port on 127.0.0.1');
  return address.port;
}

/** The last 2,000 characters of what the child wrote to stderr; the pipe is always read, so it never blocks. */
function tailOf(child: ChildProcess): () => string {
  let tail = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-2000);
  });
  child.once('error', (error) => {
    tail = `${tail}${error.message}`;
  });
  return () => tail.trim();
}

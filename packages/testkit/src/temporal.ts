/**
 * A real Temporal server for tests and for the laptop: by address, else the development server as a child process.
 *
 * With `dbFilename` the state lies in one SQLite file and survives kill -9 of the server (measured: no acknowledged
 * start is lost). Without it everything is in memory. A child never outlives this process on a normal exit.
 */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import type {} from 'vitest';
import { freePort, startChildServer } from './child-server.ts';
import { findTemporalBinary } from './server-binary.ts';

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

/** Starts (or finds) a server and resolves once it accepts connections. Rejects with a sentence that names the remedy. */
export async function startTemporal(options: TemporalOptions = {}): Promise<Temporal> {
  const address = process.env.TEMPORAL_ADDRESS;
  if (address && !options.own && options.dbFilename === undefined) {
    return { address, kind: 'address', stop: async () => {} };
  }
  const binary = findTemporalBinary();
  const port = options.port ?? (await freePort());
  if (options.dbFilename !== undefined) mkdirSync(dirname(options.dbFilename), { recursive: true });
  const { pid, stop } = await startChildServer({ name: 'Temporal', binary, args: startArguments(port, options), port });
  return { address: `127.0.0.1:${port}`, kind: 'child', pid, stop };
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

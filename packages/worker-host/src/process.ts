/**
 * What every process that hosts workers needs of Temporal: the runtime with its exposition, a lazy connection of its own for
 * clients, and the host. With Temporal away nothing here fails: the process stays, not ready, and goes on by itself.
 */
import { createServer } from 'node:net';
import type { Clock, Log, Metrics } from '@milkrun/core';
import { Connection } from '@temporalio/client';
import { temporalConnection } from './connection.ts';
import { installTemporalRuntime } from './runtime.ts';
import { createWorkerHost, type WorkerHost, type WorkerHostOptions } from './worker-host.ts';

export interface HostProcessInput {
  readonly temporal: { readonly connectionOptions: object; readonly namespace: string };
  /** Of everything Temporal keeps; from `createDataConverter`. */
  readonly dataConverter: NonNullable<WorkerHostOptions['dataConverter']>;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
}

export interface HostProcess {
  readonly host: WorkerHost;
  /** For clients; closed by who opened the process, after the host has stopped. */
  readonly connection: Connection;
  /** The Temporal SDK's own exposition. */
  readonly metricsSources: readonly (() => Promise<string>)[];
  /** Rejects when a queue's restart budget is spent. */
  readonly failed: Promise<never>;
}

const GRACE_MS = 5_000;
const FORCE_MS = 10_000;

export async function openHostProcess(input: HostProcessInput): Promise<HostProcess> {
  const { temporal, dataConverter, clock, log, metrics } = input;
  const { connectionOptions, namespace } = temporal;
  const sdkMetrics = `127.0.0.1:${await freePort()}`;
  installTemporalRuntime({ log, metricsAddress: sdkMetrics });
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => {});
  const host = createWorkerHost({
    connect: temporalConnection({ ...connectionOptions, namespace }, clock),
    namespace,
    dataConverter,
    clock,
    log,
    metrics,
    onFatal: (error) => failure.reject(error),
    graceMs: GRACE_MS,
    forceMs: FORCE_MS,
  });
  return {
    host,
    connection: Connection.lazy(connectionOptions),
    metricsSources: [async () => await (await fetch(`http://${sdkMetrics}/metrics`)).text()],
    failed: failure.promise,
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no free port on 127.0.0.1');
  return address.port;
}

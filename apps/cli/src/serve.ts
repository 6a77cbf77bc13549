/**
 * Runs one server part as this process: says when it is ready, drains on SIGTERM and SIGINT, and also when the
 * `milkrun dev` that started it has vanished.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Config, shownConfig } from '@milkrun/config';
import type { Log } from '@milkrun/core';
import {
  createLog,
  createMetrics,
  type MetricsServer,
  startMetricsServer,
  type TelemetryMetrics,
} from '@milkrun/telemetry';
import type { Context } from './context.ts';
import type { Ready } from './dev/child.ts';

export interface PartInput {
  readonly config: Config;
  readonly log: Log;
  readonly metrics: TelemetryMetrics;
}

/** A running server part. */
export interface RunningPart {
  /** Addresses by name, for the start-up line. */
  readonly addresses: Readonly<Record<string, string>>;
  /** Further expositions for /metrics, such as the Temporal SDK's. */
  readonly metricsSources?: readonly (() => Promise<string>)[];
  /** Rejects when the part has failed for good. */
  readonly failed?: Promise<never>;
  /** Drains and closes. */
  stop(): Promise<void>;
}

/** Asked to end while it starts, a part is given this long to get ready and drain. */
const START_GRACE_MS = 5000;

export type PartName = 'worker' | 'api' | 'orchestrator' | 'poll-function';

/** Resolves after the drain; throws what ended the part. */
export async function servePart(
  context: Context,
  name: PartName,
  start: (input: PartInput) => Promise<RunningPart>,
): Promise<void> {
  const config = context.config(name);
  const log = createLog({ level: config.logLevel, pretty: config.logFormat === 'pretty', base: { process: name } });
  log.info(
    { settings: Object.fromEntries(shownConfig(config).map(({ name, value }) => [name, value])) },
    'config.read',
  );
  const metrics = createMetrics({
    prometheus: true,
    statsdAddress: config.statsdAddress,
    onStatsdError: (err) => log.warn({ err }, 'statsd.failed'),
  });
  const asked = stopRequest();
  let part: RunningPart | undefined;
  let server: MetricsServer | undefined;
  try {
    const started = new AbortController();
    const inVain = asked.then((why) => delay(START_GRACE_MS, why, { signal: started.signal }));
    const starting = start({ config, log, metrics }).finally(() => started.abort());
    part = await Promise.race([starting, inVain.then(endWhileStarting(log))]);
    const { metricsPort: port, metricsHost: host } = config;
    server = await startMetricsServer({ metrics, port, host, sources: part.metricsSources ?? [] });
    const addresses = { ...part.addresses, metrics: server.url };
    log.info(addresses, 'process.ready');
    sayReady({ type: 'ready', addresses });
    const why = await Promise.race([asked, ...(part.failed === undefined ? [] : [part.failed])]);
    log.info({ why }, 'process.draining');
  } catch (err) {
    log.error({ err }, 'process.failed');
    throw err;
  } finally {
    await part?.stop();
    await server?.close();
    await metrics.close();
    log.info({}, 'process.ended');
  }
}

/** A part that never served holds nothing that would have to be drained; what it waits for may never come. */
function endWhileStarting(log: Log): (why: string) => never {
  return (why) => {
    log.info({ why }, 'process.ended_while_starting');
    process.exit(0);
  };
}

/** Resolves when this process should end. A second signal ends it at once, with exit code 1. */
export function stopRequest(): Promise<string> {
  return new Promise((resolve) => {
    let asked = false;
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        if (asked) process.exit(1);
        asked = true;
        resolve(signal);
      });
    }
    process.on('disconnect', () => {
      asked = true;
      resolve('the parent is gone');
    });
  });
}

export function sayReady(ready: Ready): void {
  if (process.send !== undefined) process.send(ready);
}

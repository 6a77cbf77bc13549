/** The SDK's native runtime: a singleton of the process, so it is installed once and before anything else. */
import type { Log } from '@milkrun/core';
import { DefaultLogger, type LogLevel, Runtime, type RuntimeOptions } from '@temporalio/worker';

export interface TemporalRuntimeOptions {
  readonly log: Log;
  /** `host:port` on which the SDK serves its own Prometheus metrics; none when absent. */
  readonly metricsAddress?: string;
  /** Lowest level of the SDK's own lines; default WARN. */
  readonly logLevel?: LogLevel;
}

let installed = false;

/** Installs the runtime; later calls of the same process change nothing and answer false. */
export function installTemporalRuntime({ log, metricsAddress, logLevel = 'WARN' }: TemporalRuntimeOptions): boolean {
  if (installed) return false;
  const options: RuntimeOptions = {
    // The drain is ours: a signal must not end the workers before dispatch has stopped.
    shutdownSignals: [],
    logger: new DefaultLogger(logLevel, ({ level, message, meta }) => {
      const fields = { message, ...plain(meta) };
      if (level === 'ERROR') log.error(fields, 'temporal.log');
      else if (level === 'WARN') log.warn(fields, 'temporal.log');
      else log.info(fields, 'temporal.log');
    }),
    telemetryOptions: {
      logging: { forward: {}, filter: { core: logLevel, other: 'ERROR' } },
      ...(metricsAddress === undefined
        ? {}
        : { metrics: { prometheus: { bindAddress: metricsAddress, useSecondsForDurations: true, unitSuffix: true } } }),
    },
  };
  Runtime.install(options);
  installed = true;
  return true;
}

/** Only what a log line can hold: texts and numbers; an error by its message. */
function plain(meta: Readonly<Record<string | symbol, unknown>> | undefined): Record<string, unknown> {
  const fields: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(meta ?? {})) {
    if (['string', 'number', 'boolean'].includes(typeof value)) fields[key] = value;
    else if (value instanceof Error) fields[key] = value.message;
  }
  return fields;
}

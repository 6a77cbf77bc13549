/** The API as a process of its own: `milkrun api`. */
import { ConfigError, loadConfig, printConfig } from '@milkrun/config';
import { systemClock } from '@milkrun/core';
import { createLog, createMetrics } from '@milkrun/telemetry';
import { startApi } from './start.ts';

try {
  const config = loadConfig({ env: process.env, process: 'api' });
  console.error(printConfig(config));
  const log = createLog({ level: config.logLevel, pretty: config.logFormat === 'pretty', base: { process: 'api' } });
  const metrics = createMetrics({ statsdAddress: config.statsdAddress, prometheus: true });
  const migrate = !process.argv.includes('--no-migrate');
  const api = await startApi({ config, log, metrics, clock: systemClock, migrate });
  log.info({ url: api.url }, 'api.started');
  const end = async (): Promise<void> => {
    await api.close();
    await metrics.close();
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void end());
} catch (error) {
  console.error(error instanceof ConfigError ? error.message : error);
  process.exitCode = 1;
}

/** The local poll function as a process of its own; ends on SIGTERM and SIGINT. */
import { loadConfig } from '@milkrun/config';
import { createLog } from '@milkrun/telemetry';
import { startPollFunction } from './poll-function.ts';
import { settingsFrom } from './settings.ts';

const config = loadConfig({ env: process.env, process: 'poll-function' });
const log = createLog({
  level: config.logLevel,
  pretty: config.logFormat === 'pretty',
  base: { process: 'poll-function' },
});
const running = await startPollFunction({
  host: config.pollFunctionHost,
  port: config.pollFunctionPort,
  settings: settingsFrom(process.env),
});
log.info({ 'poll-function': running.endpoint }, 'process.ready');
for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.once(signal, () => {
    log.info({ why: signal }, 'process.draining');
    void running.stop();
  });
}

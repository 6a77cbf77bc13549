/** The server parts, each loaded only when it is to run: a client command starts without the engine's libraries. */
import { systemClock } from '@milkrun/core';
import type { PartInput, PartName, RunningPart } from './serve.ts';

export interface StartInput extends PartInput {
  /** The process's environment, for settings that belong to connectors. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** False: refuse to start instead of migrating the database. */
  readonly migrate: boolean;
}

const STARTS: Readonly<Record<PartName, (input: StartInput) => Promise<RunningPart>>> = {
  async worker({ config, log, metrics, migrate }) {
    const { startLegacyWorker, startWorker } = await import('@milkrun/worker');
    const start = config.pipelines === 'legacy' ? startLegacyWorker : startWorker;
    return await start({ config, log, metrics, migrate });
  },

  async api({ config, log, metrics, migrate }) {
    const { startApi } = await import('@milkrun/api');
    const api = await startApi({ config, log, metrics, clock: systemClock, migrate });
    return { addresses: { api: api.url }, stop: () => api.close() };
  },

  async orchestrator({ config, log, metrics, migrate }) {
    const { startOrchestrator } = await import('@milkrun/orchestrator');
    return await startOrchestrator({ config, log, metrics, migrate });
  },

  async 'poll-function'({ config, env }) {
    const { settingsFrom, startPollFunction } = await import('@milkrun/poll-lambda');
    const { builtInConnectors, loadConnectors } = await import('@milkrun/connectors');
    const connectors = [...builtInConnectors, ...(await loadConnectors(config.connectors ?? []))];
    const settings = {
      ...settingsFrom(env),
      ...(config.npmRegistry === undefined ? {} : { NPM_REGISTRY: config.npmRegistry }),
      ...(config.outboundAllow === undefined ? {} : { OUTBOUND_ALLOW: config.outboundAllow }),
    };
    const { pollFunctionHost: host, pollFunctionPort: port } = config;
    const running = await startPollFunction({ host, port, settings, connectors });
    return { addresses: { 'poll-function': running.endpoint }, stop: () => running.stop() };
  },
};

export async function startPart(name: PartName, input: StartInput): Promise<RunningPart> {
  return await STARTS[name](input);
}

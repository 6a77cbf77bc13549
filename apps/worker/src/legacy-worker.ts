/** `milkrun worker --pipelines=legacy`: the legacy pipeline alone. It opens registrydb and never workerdb. */
import { createHealthApi } from './health-api.ts';
import { startLegacyPipeline } from './legacy-pipeline.ts';
import { createParts } from './parts.ts';
import type { RunningWorker, WorkerInput } from './start-worker.ts';

export async function startLegacyWorker({ config, log, metrics, migrate }: WorkerInput): Promise<RunningWorker> {
  const parts = await createParts({ config, log, metrics });
  const { host } = parts;
  const draining = new AbortController();
  const legacy = await startLegacyPipeline({ config, migrate, ...parts, draining: draining.signal });
  const api = createHealthApi({ host, ping: () => legacy.ping() });
  const engine = await api.listen({ host: config.engineHost, port: config.enginePort });
  let stopping: Promise<void> | undefined;
  async function drain(): Promise<void> {
    draining.abort(new Error('the worker drains'));
    await legacy.stopLoops();
    await host.stopAll();
    await api.close();
    await parts.close();
    await legacy.close();
    log.info({}, 'worker.drained');
  }
  return {
    addresses: { engine },
    metricsSources: parts.metricsSources,
    failed: parts.failed,
    stop: () => {
      stopping ??= drain();
      return stopping;
    },
  };
}

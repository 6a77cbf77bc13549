/** `milkrun worker --pipelines=legacy`: the legacy pipeline alone. It opens registrydb and never workerdb. */
import { createCarriedObjects, createLocalKeys } from '@milkrun/batch-poller';
import { createObjectStore } from '@milkrun/object-store';
import { createHealthApi } from './health-api.ts';
import { startLegacyPipeline } from './legacy-pipeline.ts';
import { createParts, ownKey } from './parts.ts';
import type { WrapPort } from './ports.ts';
import type { RunningWorker, WorkerInput } from './start-worker.ts';

export async function startLegacyWorker({ config, log, metrics, migrate, wrap }: WorkerInput): Promise<RunningWorker> {
  const port: WrapPort = wrap ?? ((_, adapter) => adapter);
  const parts = await createParts({ config, log, metrics, port });
  const { host } = parts;
  const draining = new AbortController();
  const objects = port('objects', createObjectStore(config.objectStore));
  const carried = createCarriedObjects({
    objects,
    keys: createLocalKeys(config.blobKey?.reveal() ?? (await ownKey(config))),
  });
  const legacy = await startLegacyPipeline({ config, migrate, ...parts, carried, draining: draining.signal });
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
    await objects.close();
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

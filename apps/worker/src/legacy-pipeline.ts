/** The legacy pipeline in a worker: its queue, and the loop that starts and wakes its workflows. */

import { createAlonePoller } from '@milkrun/batch-poller';
import type { Config } from '@milkrun/config';
import { type CarriedObjects, LEGACY_QUEUE } from '@milkrun/core';
import { createLoop } from '@milkrun/dispatch';
import { createLegacyActivities, nudgeLegacy } from '@milkrun/legacy-poller';
import { createLegacySteps, MIGRATION_QUEUE } from '@milkrun/migration';
import { openLegacyStore } from '@milkrun/registrydb';
import { bundleWorkflows } from '@milkrun/worker-host';
import { codecsOf, deployment, longestCallSecondsOf, type Parts, required, workflowPath } from './parts.ts';

export interface LegacyPipelineInput extends Parts {
  readonly config: Config;
  readonly migrate: boolean;
  /** Where hand-offs put what triggers remember. */
  readonly carried: CarriedObjects;
  /** Aborts when the process drains. */
  readonly draining: AbortSignal;
}

export interface LegacyPipeline {
  /** Starts nothing new; what is polled at present ends with its worker. */
  stopLoops(): Promise<void>;
  ping(): Promise<void>;
  /** After the host's queues have ended. */
  close(): Promise<void>;
}

const STARTER_MS = 3_000;

export async function startLegacyPipeline(input: LegacyPipelineInput): Promise<LegacyPipeline> {
  const { config, client, clock, log, host } = input;
  const store = await openLegacyStore({
    url: required(config.registrydbUrl, 'REGISTRYDB_URL').reveal(),
    migrate: input.migrate,
  });
  const bundleOf = (specifier: string) =>
    bundleWorkflows({ workflowsPath: workflowPath(specifier), home: config.home });
  const bundle = await bundleOf('@milkrun/legacy-poller/workflow');
  const migration = await bundleOf('@milkrun/migration/workflow');
  await host.start(LEGACY_QUEUE, {
    workflowBundle: { codePath: bundle.codePath },
    activities: { ...createLegacyActivities({ ...input, store, poll: createAlonePoller(input) }) },
    ...deployment(config).timer,
  });
  await host.start(MIGRATION_QUEUE, {
    workflowBundle: { codePath: migration.codePath },
    activities: {
      ...createLegacySteps({
        store: store.handOffs,
        client,
        objects: input.carried,
        codecs: codecsOf(config),
        longestCallSeconds: longestCallSecondsOf(config),
      }),
    },
    ...deployment(config).timer,
  });
  const starter = createLoop({
    name: 'legacy_starter',
    clock,
    log,
    everyMs: STARTER_MS,
    // A full round says that there are more.
    round: async () => ((await nudgeLegacy({ store, client })) < 500 ? undefined : 0),
  });
  starter.start();
  return {
    stopLoops: () => starter.stop(),
    ping: () => store.ping(),
    close: () => store.close(),
  };
}

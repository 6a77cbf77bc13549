/** A router as a process of its own, which drills kill: it says `ready` once it reads the stream. */
import { createRouter } from '@milkrun/activity-core';
import { noLog, noMetrics, Secret, systemClock, systemRng } from '@milkrun/core';
import { openBus } from '@milkrun/orchestrator';
import { openActivities } from '@milkrun/registrydb';
import { Client, Connection } from '@temporalio/client';

const { REGISTRYDB_URL = '', NATS_URL = '', TEMPORAL_ADDRESS = '' } = process.env;
const shared = { log: noLog, metrics: noMetrics };
const { activityRouter: store } = await openActivities({
  url: REGISTRYDB_URL,
  clock: systemClock,
  rng: systemRng,
  migrate: false,
});
const client = new Client({ connection: await Connection.connect({ address: TEMPORAL_ADDRESS }) });
await openBus({
  ...shared,
  store,
  router: createRouter({ ...shared, store, client }),
  url: new Secret(NATS_URL),
  clock: systemClock,
  rng: systemRng,
  defaultTenant: 'default',
});
process.stdout.write('ready\n');

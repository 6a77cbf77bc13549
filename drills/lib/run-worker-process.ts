/**
 * A worker for runs and tasks as a process of its own that can end itself with -9 around any call to the database or to a
 * receiver. It says `ready`, and `hit NAME` when it comes to a place for the first time.
 *
 * KILL_AT: `NAME N`, the place and which coming to it is the last thing that happens.
 */
import { writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createRunSteps, createTaskSteps } from '@milkrun/activity-core';
import { noLog, noMetrics, systemClock, systemRng } from '@milkrun/core';
import { createOutbound } from '@milkrun/orchestrator';
import { openActivities } from '@milkrun/registrydb';
import { bundleWorkflows, createWorkerHost, installTemporalRuntime, temporalConnection } from '@milkrun/worker-host';
import { Client, Connection } from '@temporalio/client';

const {
  REGISTRYDB_URL = '',
  TEMPORAL_ADDRESS = '',
  MILKRUN_HOME = '',
  RUNS_QUEUE = '',
  TASKS_QUEUE = '',
} = process.env;
const [killAt, killNth] = (process.env.KILL_AT ?? '').split(' ');
const hits = new Map<string, number>();

function pass(place: string): void {
  const n = (hits.get(place) ?? 0) + 1;
  hits.set(place, n);
  if (n === 1) writeSync(1, `hit ${place}\n`);
  if (place === killAt && n === Number(killNth)) process.kill(process.pid, 'SIGKILL');
}

/** Every method of a port that answers with a promise, with a place before and after. */
function watched<Port extends object>(name: string, port: Port): Port {
  return new Proxy(port, {
    get(target, method, receiver) {
      const value: unknown = Reflect.get(target, method, receiver);
      if (typeof value !== 'function' || typeof method !== 'string') return value;
      return async (...args: unknown[]) => {
        pass(`${name}.${method}:before`);
        const answer: unknown = await (value as (...given: unknown[]) => unknown).apply(target, args);
        pass(`${name}.${method}:after`);
        return answer;
      };
    },
  });
}

installTemporalRuntime({ log: noLog });
const registry = await openActivities({ url: REGISTRYDB_URL, clock: systemClock, rng: systemRng, migrate: false });
const client = new Client({ connection: await Connection.connect({ address: TEMPORAL_ADDRESS }) });
const deps = {
  store: watched('store', registry.activityRuns),
  http: watched('http', createOutbound(['127.0.0.1'])),
  sql: { has: () => false, query: async () => [] },
  client,
  clock: systemClock,
  rng: systemRng,
  log: noLog,
  metrics: noMetrics,
  taskQueue: TASKS_QUEUE,
};
const workflowsPath = fileURLToPath(import.meta.resolve('@milkrun/activity-core/workflow'));
const { codePath } = await bundleWorkflows({ workflowsPath, home: MILKRUN_HOME });
const host = createWorkerHost({
  connect: temporalConnection({ address: TEMPORAL_ADDRESS, namespace: 'default' }, systemClock),
  namespace: 'default',
  clock: systemClock,
  log: noLog,
  metrics: noMetrics,
  onFatal: (error) => {
    throw error;
  },
});
const shared = { workflowBundle: { codePath } };
await host.start(RUNS_QUEUE, { ...shared, activities: { ...createRunSteps(deps) } });
await host.start(TASKS_QUEUE, { ...shared, activities: { ...createTaskSteps(deps) } });
writeSync(1, 'ready\n');

/**
 * `milkrun worker` with failpoints: the same process in everything else. It is told over the channel to its parent what to
 * arm, and reports on file descriptor 4.
 */
// First: what is loaded after it must not have seen another clock.
import './shift-clock.ts';

import { createContext, processIo, servePart } from '@milkrun/cli';
import { ObjectStoreUnavailable } from '@milkrun/core';
import type { TemporalClient } from '@milkrun/dispatch';
import { type ArmedFault, createFailpoints } from '@milkrun/testkit';
import { startWorker, type WorkerPorts } from '@milkrun/worker';
import { EFFECTS, type EnginePorts, type FlatTemporal } from './effects.ts';

/** What the parent says. */
export type Order =
  | { readonly order: 'arm'; readonly fault: ArmedFault }
  | { readonly order: 'disarm' | 'go'; readonly id: number };

const REPORTS = 4;

const failpoints = createFailpoints<EnginePorts>({
  table: EFFECTS,
  reportTo: REPORTS,
  failure: (part) =>
    part === 'local'
      ? new ObjectStoreUnavailable('broken by the drill')
      : Object.assign(new Error('broken by the drill'), { code: 'ECONNRESET' }),
});
process.on('message', (order: Order) => {
  if (order.order === 'arm') failpoints.arm(order.fault);
  else failpoints[order.order](order.id);
});
for (const fault of JSON.parse(process.env.DRILL_ARMED ?? '[]') as ArmedFault[]) failpoints.arm(fault);

await servePart(createContext(processIo, {}), 'worker', ({ config, log, metrics }) =>
  startWorker({
    config,
    log,
    metrics,
    migrate: false,
    wrap: (name, port) => {
      if (name === 'temporal') return wrapTemporal(port as TemporalClient) as typeof port;
      return failpoints.wrap(name as Exclude<typeof name, 'temporal'>, port as never) as WorkerPorts[typeof name];
    },
  }),
);
if (process.connected) process.disconnect();

function wrapTemporal(client: TemporalClient): TemporalClient {
  const flat = failpoints.wrap('temporal', {
    start: client.workflow.start.bind(client.workflow),
    signalWithStart: client.workflow.signalWithStart.bind(client.workflow),
    describe: (handle) => handle.describe(),
    terminate: (handle, reason) => handle.terminate(reason),
    async list(query) {
      const found: { workflowId: string }[] = [];
      for await (const execution of client.workflow.list({ query })) found.push(execution);
      return found;
    },
  } satisfies FlatTemporal);
  const workflow = {
    start: flat.start,
    signalWithStart: flat.signalWithStart,
    getHandle(workflowId: string, runId?: string) {
      const handle = client.workflow.getHandle(workflowId, runId);
      return {
        describe: () => flat.describe(handle),
        terminate: (reason?: string) => flat.terminate(handle, reason),
      };
    },
    async *list({ query = '' }: { query?: string } = {}) {
      yield* await flat.list(query);
    },
  };
  return { workflow: workflow as unknown as TemporalClient['workflow'] };
}

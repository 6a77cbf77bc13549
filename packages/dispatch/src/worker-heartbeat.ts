/** Says every ten seconds that this worker lives, and learns how many do. */
import type { Clock, DispatchStore, Log, Metrics } from '@milkrun/core';
import { createLoop, type Loop } from './loop.ts';

const EVERY_MS = 10_000;

export function createWorkerHeartbeat(deps: {
  readonly store: Pick<DispatchStore, 'heartbeatWorker'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly workerId: string;
  /** Poll slots of this process. */
  readonly width: () => number;
  /** Told after every beat; the width is divided by it when POLL_CAP is set. */
  readonly onLive: (live: number) => void;
}): Loop {
  const { store, clock, log, metrics, workerId, width, onLive } = deps;
  return createLoop({
    name: 'heartbeat',
    clock,
    log,
    everyMs: EVERY_MS,
    async round() {
      const { live } = await store.heartbeatWorker({ workerId, width: width() });
      metrics.gauge('polling.worker.live', live);
      onLive(live);
      return undefined;
    },
  });
}

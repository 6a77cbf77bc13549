/** Sends what the engine decided (halts, resumes, warnings) to the control plane, every 2 s, until it is echoed. */
import type { Clock, ControlPlane, DispatchStore, LifecycleRecord, Log, Metrics } from '@milkrun/core';
import { createLoop, type Loop } from './loop.ts';

export interface LifecycleSenderDeps {
  readonly store: Pick<DispatchStore, 'pendingLifecycle' | 'acknowledgeLifecycle' | 'withTurn'>;
  readonly controlPlane: Pick<ControlPlane, 'postState'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly workerId: string;
}

const EVERY_MS = 2_000;
/** The store renews it while a call lasts; a worker that vanished holds the records up no longer. */
const TURN_SECONDS = 6;
const RECORDS_MAX = 500;

export function createLifecycleSender(deps: LifecycleSenderDeps): Loop {
  const { store, controlPlane, clock, log, metrics, workerId } = deps;

  /** Milliseconds until there may be more to send. */
  async function send(signal: AbortSignal): Promise<number> {
    const pending = await store.pendingLifecycle(RECORDS_MAX);
    if (pending === null) return EVERY_MS;
    metrics.gauge('polling.lifecycle.pending', pending.length);
    if (pending.length === 0) return EVERY_MS;
    const answer = await controlPlane.postState({
      batchId: `lifecycle:${workerId}`,
      results: [],
      lifecycle: pending.map(({ id: _, ...record }) => record),
      signal,
    });
    if (answer.kind !== 'answered') {
      log.warn({ kind: answer.kind, reason: 'reason' in answer ? answer.reason : undefined }, 'lifecycle.not_taken');
      const askedMs = answer.kind === 'unavailable' ? (answer.retryAfterSeconds ?? 0) * 1000 : 0;
      return Math.max(askedMs, 5 * EVERY_MS);
    }
    const echoed = new Set(answer.lifecycle.map(keyOf));
    const taken = pending.filter((record) => echoed.has(keyOf(record)));
    if (taken.length === 0) return EVERY_MS;
    await store.acknowledgeLifecycle(taken.map(({ id }) => id));
    for (const { state } of taken) metrics.count('polling.lifecycle.sent', 1, { state });
    return pending.length === RECORDS_MAX ? 0 : EVERY_MS;
  }

  return createLoop({
    name: 'lifecycle',
    clock,
    log,
    everyMs: EVERY_MS,
    round: (signal) => store.withTurn('lifecycle', TURN_SECONDS, workerId, () => send(signal)),
  });
}

function keyOf({ triggerId, at }: Pick<LifecycleRecord, 'triggerId' | 'at'>): string {
  return `${triggerId} ${Date.parse(at)}`;
}

/**
 * The object store behind a circuit breaker: after failures in a row nothing is dispatched, and one call in a while finds
 * out whether it is back. Per process, like every breaker.
 */
import { type Clock, type Metrics, type ObjectStore, ObjectStoreUnavailable } from '@milkrun/core';

const FAILURES_MAX = 3;
const PAUSE_MS = 10_000;

export interface GuardedStore extends ObjectStore {
  /** Whether the last call succeeded, or failures are few: what dispatch asks, so that only a probe call finds out. */
  closed(): boolean;
  /** Whether a call may be tried: closed, or the pause after a failure is over. */
  available(): boolean;
}

export function guardStore(store: ObjectStore, clock: Clock, metrics: Metrics): GuardedStore {
  let failures = 0;
  let openUntil = Number.NEGATIVE_INFINITY;

  async function watched<T>(call: () => Promise<T>): Promise<T> {
    try {
      const result = await call();
      if (failures >= FAILURES_MAX) metrics.gauge('polling.breaker.open', 0, { dependency: 'object_store' });
      failures = 0;
      return result;
    } catch (error) {
      if (error instanceof ObjectStoreUnavailable) {
        failures += 1;
        if (failures >= FAILURES_MAX) {
          openUntil = clock.monotonic() + PAUSE_MS;
          metrics.gauge('polling.breaker.open', 1, { dependency: 'object_store' });
        }
      }
      throw error;
    }
  }

  return {
    closed: () => failures < FAILURES_MAX,
    available: () => failures < FAILURES_MAX || clock.monotonic() >= openUntil,
    putIfAbsent: (key, body) => watched(() => store.putIfAbsent(key, body)),
    get: (key, bytesMax) => watched(() => store.get(key, bytesMax)),
    list: (prefix) => watched(() => store.list(prefix)),
    delete: (key) => watched(() => store.delete(key)),
    probe: () => watched(() => store.probe()),
    close: () => store.close(),
  };
}

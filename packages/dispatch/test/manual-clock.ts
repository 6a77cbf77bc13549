/** A clock that moves only when a test says so; sleepers wake in order of their times. */
import type { Clock } from '@milkrun/core';

export interface ManualClock extends Clock {
  /** Moves on by `ms`, waking every sleeper on the way, each with the turns of the event loop it needs to go on. */
  advance(ms: number): Promise<void>;
  /** Milliseconds that the present sleepers asked for. */
  readonly asleep: readonly number[];
}

interface Sleeper {
  readonly at: number;
  readonly ms: number;
  readonly wake: () => void;
}

export function manualClock(startMs = 1_700_000_000_000): ManualClock {
  let nowMs = startMs;
  const sleepers = new Set<Sleeper>();
  const turn = async (): Promise<void> => {
    for (let i = 0; i < 20; i += 1) await new Promise((resolve) => setImmediate(resolve));
  };
  return {
    now: () => nowMs,
    monotonic: () => nowMs - startMs,
    get asleep() {
      return [...sleepers].map(({ ms }) => ms);
    },
    sleep(ms, signal) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const sleeper: Sleeper = { at: nowMs + ms, ms, wake: resolve };
      if (signal?.aborted) return Promise.reject(signal.reason);
      signal?.addEventListener('abort', () => {
        sleepers.delete(sleeper);
        reject(signal.reason);
      });
      sleepers.add(sleeper);
      return promise;
    },
    async advance(ms) {
      const until = nowMs + ms;
      await turn();
      for (;;) {
        const next = [...sleepers].sort((a, b) => a.at - b.at)[0];
        if (next === undefined || next.at > until) break;
        nowMs = next.at;
        sleepers.delete(next);
        next.wake();
        await turn();
      }
      nowMs = until;
      await turn();
    },
  };
}

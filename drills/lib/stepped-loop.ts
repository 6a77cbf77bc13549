/** A worker's loop that goes on only when it is told to: its clock sleeps until then. */
import { type Clock, systemClock } from '@milkrun/core';
import type { Loop } from '@milkrun/dispatch';

export interface SteppedLoop {
  /** Lets it run until it has nothing to do and sleeps again. */
  untilIdle(): Promise<void>;
  stop(): Promise<void>;
}

/** `make` builds the loop around the clock it is given. */
export function stepLoop(make: (clock: Clock) => Loop): SteppedLoop {
  let wake = (): void => {};
  let idle = Promise.withResolvers<void>();
  const clock: Clock = {
    now: () => systemClock.now(),
    monotonic: () => systemClock.monotonic(),
    sleep: (_ms, signal) =>
      new Promise((resolve, reject) => {
        wake = resolve;
        signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
        idle.resolve();
      }),
  };
  const loop = make(clock);
  let started = false;
  return {
    async untilIdle() {
      if (started) {
        idle = Promise.withResolvers();
        wake();
      } else {
        started = true;
        loop.start();
      }
      await idle.promise;
    },
    stop: () => loop.stop(),
  };
}

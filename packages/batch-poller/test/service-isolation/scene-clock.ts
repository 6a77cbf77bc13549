/** Time as a test sees it. */
import { type Clock, systemClock } from '@milkrun/core';

/** The machine's clock, which a test may set forward: whoever sleeps until then wakes. */
export class SceneClock implements Clock {
  private ahead = 0;
  private readonly sleepers = new Set<{ at: number; wake: () => void }>();

  now(): number {
    return systemClock.now() + this.ahead;
  }
  monotonic(): number {
    return systemClock.monotonic() + this.ahead;
  }
  advance(ms: number): void {
    this.ahead += ms;
    for (const sleeper of this.sleepers) if (sleeper.at <= this.monotonic()) sleeper.wake();
  }
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = { at: this.monotonic() + ms, wake: () => end(resolve) };
      const timer = setTimeout(sleeper.wake, ms);
      const aborted = () => end(() => reject(signal?.reason));
      const end = (settle: () => void) => {
        clearTimeout(timer);
        this.sleepers.delete(sleeper);
        signal?.removeEventListener('abort', aborted);
        settle();
      };
      this.sleepers.add(sleeper);
      if (signal?.aborted) aborted();
      else signal?.addEventListener('abort', aborted);
    });
  }
}

/** Circuit breaker of one dependency: opens after failures in a row, lets one probe through when the pause is over. */
import type { Clock } from '@milkrun/core';

export interface BreakerOptions {
  /** Failures in a row that open it. */
  readonly failuresMax: number;
  /** First pause in milliseconds; doubles with each failed probe up to `pauseMsMax`. */
  readonly pauseMs: number;
  readonly pauseMsMax: number;
}

export interface Breaker {
  /** Milliseconds until a call may be made: 0 = now (it is the probe when the breaker is open). */
  admit(): number;
  succeeded(): void;
  failed(): void;
  /** The call ended without saying anything about the dependency (cancelled by its caller). */
  cancelled(): void;
  closed(): boolean;
}

/** `onChange` is told when it opens and closes. States: closed → (failures in a row) → open → (pause over, one probe) → closed or open again, longer. */
export function createBreaker(
  clock: Clock,
  options: BreakerOptions,
  onChange: (open: boolean) => void = () => {},
): Breaker {
  let failures = 0;
  let openedUntil: number | undefined;
  let pause = options.pauseMs;
  let probing = false;
  return {
    admit() {
      if (openedUntil === undefined) return 0;
      const wait = openedUntil - clock.monotonic();
      if (wait > 0) return wait;
      if (probing) return options.pauseMs;
      probing = true;
      return 0;
    },
    succeeded() {
      failures = 0;
      if (openedUntil !== undefined) onChange(false);
      openedUntil = undefined;
      pause = options.pauseMs;
      probing = false;
    },
    failed() {
      failures += 1;
      if (openedUntil !== undefined && probing) pause = Math.min(pause * 2, options.pauseMsMax);
      if (failures >= options.failuresMax) {
        if (openedUntil === undefined) onChange(true);
        openedUntil = clock.monotonic() + pause;
      }
      probing = false;
    },
    cancelled() {
      probing = false;
    },
    closed: () => openedUntil === undefined,
  };
}

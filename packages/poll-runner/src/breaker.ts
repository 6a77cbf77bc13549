/**
 * Circuit breaker of one dependency in one process.
 *
 * Opens after a streak of platform failures with no answer in between that is long in number and in time: a load
 * balancer that drops its idle connections at once does not open it. While open, calls are refused without a try; after
 * the pause one probe is let through, and calls beside it wait for what it finds.
 */
import type { Clock } from '@milkrun/core';

export interface BreakerOptions {
  /** Failures in a row. Default 20. */
  readonly failures?: number;
  /** Milliseconds from the first to the last failure of the streak. Default 250. */
  readonly spanMs?: number;
  /** First pause; doubles with each failed probe. Default 1,000. */
  readonly pauseMs?: number;
  /** Default 30,000. */
  readonly pauseMsMax?: number;
}

/** A promise settles when the probe under way has ended: ask again then. */
type Admission = 'go' | 'probe' | 'refuse' | Promise<void>;

export interface Breaker {
  /** False while calls would be refused; true again when a probe is due. */
  available(): boolean;
  /** True from the failure that opened it to the answer that closes it. */
  isOpen(): boolean;
  /** Who was told `go` or `probe` must report with `answered`, `failed` or `undecided`. */
  admit(): Admission;
  /** The dependency answered, whatever it said. */
  answered(): void;
  failed(wasProbe: boolean): void;
  /** The call ended without telling anything of the dependency (aborted, timed out). */
  undecided(wasProbe: boolean): void;
}

export function createBreaker(clock: Clock, options: BreakerOptions = {}): Breaker {
  const { failures = 20, spanMs = 250, pauseMs = 1_000, pauseMsMax = 30_000 } = options;
  let streak = 0;
  let streakSince = 0;
  let pause = pauseMs;
  let openUntil: number | undefined;
  let probe: { readonly done: Promise<void>; readonly end: () => void } | undefined;

  const endProbe = (): void => {
    const ended = probe;
    probe = undefined;
    ended?.end();
  };

  return {
    available: () => openUntil === undefined || clock.monotonic() >= openUntil,
    isOpen: () => openUntil !== undefined,
    admit() {
      if (openUntil === undefined) return 'go';
      if (probe !== undefined) return probe.done;
      if (clock.monotonic() < openUntil) return 'refuse';
      const { promise, resolve } = Promise.withResolvers<void>();
      probe = { done: promise, end: resolve };
      return 'probe';
    },
    answered() {
      streak = 0;
      if (openUntil === undefined) return;
      openUntil = undefined;
      pause = pauseMs;
      endProbe();
    },
    failed(wasProbe) {
      const now = clock.monotonic();
      if (streak === 0) streakSince = now;
      streak += 1;
      if (openUntil !== undefined) {
        // Late failures of calls begun before it opened say nothing new; only the probe's own counts.
        if (!wasProbe) return;
        pause = Math.min(pause * 2, pauseMsMax);
        openUntil = now + pause;
        endProbe();
      } else if (streak >= failures && now - streakSince >= spanMs) {
        openUntil = now + pause;
      }
    },
    undecided(wasProbe) {
      if (wasProbe) endProbe();
    },
  };
}

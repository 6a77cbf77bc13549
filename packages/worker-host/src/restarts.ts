/** How often and how soon something is started again. */

export interface RestartBudget {
  /** Abnormal ends allowed inside the window; one more is the end of the process. */
  readonly restarts: number;
  readonly windowMs: number;
}

export interface Backoff {
  readonly firstMs: number;
  readonly maxMs: number;
}

export const RESTART_BUDGET: RestartBudget = Object.freeze({ restarts: 5, windowMs: 60_000 });
export const BACKOFF: Backoff = Object.freeze({ firstMs: 1_000, maxMs: 30_000 });

/** Doubling from `firstMs`, capped: 1, 2, 4, 8, 16, 30, 30 … seconds by default. `failures` counts from 1. */
export function backoffMs({ firstMs, maxMs }: Backoff, failures: number): number {
  return Math.min(maxMs, firstMs * 2 ** Math.min(30, Math.max(0, failures - 1)));
}

/** Counts abnormal ends in a sliding window. `spend` is false when this one was too many. */
export function createBudget({ restarts, windowMs }: RestartBudget): { spend(nowMs: number): boolean } {
  let spent: number[] = [];
  return {
    spend(nowMs) {
      spent = spent.filter((at) => nowMs - at < windowMs);
      spent.push(nowMs);
      return spent.length <= restarts;
    },
  };
}

/** The worker's clock. Never used for leases or due times: those are the database's (invariant: database clock only). */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Milliseconds of a clock that never steps back, for durations. */
  monotonic(): number;
  /** Resolves after `ms` milliseconds, or rejects with the signal's reason at once when it aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

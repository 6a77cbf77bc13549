/**
 * What a BatchPoller run is told and what it decides; free of Node, used by workflow code and by the dispatcher.
 *
 * Input stays below 2 KB: the keys of a batch live in its workerdb row, its data in the object store.
 */

/** Task queues of the engine. Poll steps have their own, so that they never keep commit from running. */
export const QUEUES = Object.freeze({
  batchPoller: 'batch-poller',
  poll: 'batch-poller-poll',
  timerShard: 'timer-shard',
});

/** Registered workflow names, distinct from the legacy pipeline's. */
export const WORKFLOWS = Object.freeze({ batchPoller: 'BatchPoller', timerShard: 'TimerShard' });

export interface BatchPolicy {
  /** Force at `retryCounter >= maxRetryCounter`; 3 by default, so at most 4 runs. */
  readonly maxRetryCounter: number;
  /** Lease TTL, seconds; the heartbeat time-out is half of it. */
  readonly leaseSeconds: number;
}

export interface BatchPollerInput {
  readonly batchId: string;
  readonly timerShard: number;
  /** Keys planned, for the log only. */
  readonly size: number;
  /** Hops made so far; 0 in the first run. */
  readonly retryCounter: number;
  readonly policy: BatchPolicy;
}

/** Seconds after which a step starts nothing new. */
export const STEP_BUDGET_SECONDS = Object.freeze({ claim: 30, auth: 60, poll: 120, broadcast: 120, commit: 60 });

const HOP_BACKOFF_MAX_SECONDS = 60;

/** Seconds until the next hop: 5, 15, 45, or what the slowest dependency asked for, never above 60. */
export function hopBackoffSeconds(retryCounter: number, askedSeconds = 0): number {
  const own = 5 * 3 ** Math.max(0, retryCounter);
  return Math.min(HOP_BACKOFF_MAX_SECONDS, Math.max(own, Math.ceil(askedSeconds)));
}

/** Whether this run is the last one and must leave no lease behind. */
export function isForced(input: BatchPollerInput): boolean {
  return input.retryCounter >= input.policy.maxRetryCounter;
}

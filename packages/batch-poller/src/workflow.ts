/**
 * BatchPoller: claim → auth → poll → broadcast → commit over one leased batch (design section 5).
 *
 * Only keys, limits and counts pass through history. A step that failed for good leads to commit and the next hop; the
 * last hop, and a cancelled run, commit by force so that no lease outlives the batch.
 */

import type { BatchPollerInput } from '@milkrun/core/workflow';
import { hopBackoffSeconds, isForced, QUEUES, STEP_BUDGET_SECONDS } from '@milkrun/core/workflow';
import { CancellationScope, isCancellation, log, makeContinueAsNewFunc, proxyActivities } from '@temporalio/workflow';
import type { BatchActivities } from './temporal.ts';

export interface BatchPollerResult {
  readonly status: 'committed' | 'ended' | 'forced';
  readonly hops: number;
}

/** A budget for what is started, one poll deadline for what is then in flight, and room to save. */
const TAIL_SECONDS = 45;

function step(budgetSeconds: number, heartbeatSeconds: number, taskQueue: string) {
  return proxyActivities<BatchActivities>({
    taskQueue,
    startToCloseTimeout: (budgetSeconds + TAIL_SECONDS) * 1000,
    // Attempts within three budgets; a lost worker or a drain costs an attempt, never a hop.
    scheduleToCloseTimeout: (budgetSeconds * 3 + TAIL_SECONDS) * 1000,
    heartbeatTimeout: heartbeatSeconds * 1000,
    retry: { initialInterval: 1000, backoffCoefficient: 2, maximumInterval: 10_000 },
  });
}

export async function BatchPoller(input: BatchPollerInput): Promise<BatchPollerResult> {
  const heartbeat = input.policy.leaseSeconds / 2;
  const steps = {
    claim: step(STEP_BUDGET_SECONDS.claim, heartbeat, QUEUES.batchPoller),
    auth: step(STEP_BUDGET_SECONDS.auth, heartbeat, QUEUES.batchPoller),
    poll: step(STEP_BUDGET_SECONDS.poll, heartbeat, QUEUES.poll),
    broadcast: step(STEP_BUDGET_SECONDS.broadcast, heartbeat, QUEUES.batchPoller),
    commit: step(STEP_BUDGET_SECONDS.commit, heartbeat, QUEUES.batchPoller),
  };
  let force = isForced(input);
  let askedSeconds = 0;
  let cancelled = false;
  try {
    const claimed = await steps.claim.claimAndSnapshot(input);
    if (claimed.status === 'ended') return { status: 'ended', hops: input.retryCounter };
    for (const run of [
      () => steps.auth.fetchAuth(input),
      () => steps.poll.poll(input),
      () => steps.broadcast.broadcast(input),
    ]) {
      const result = await run();
      if (result.status === 'ended') return { status: 'ended', hops: input.retryCounter };
      if (result.status === 'draining') force = true;
      askedSeconds = Math.max(askedSeconds, result.askedSeconds ?? 0);
    }
  } catch (error) {
    cancelled = isCancellation(error);
    force ||= cancelled;
    log.warn('a step failed for good', { batchId: input.batchId, hop: input.retryCounter, error: String(error) });
  }
  let left = 1;
  let backoffSeconds = hopBackoffSeconds(input.retryCounter, askedSeconds);
  try {
    // Cancelled or not, a forced commit must run.
    const result = await CancellationScope.nonCancellable(() => steps.commit.commit({ ...input, force, askedSeconds }));
    if (result.status === 'ended') return { status: 'ended', hops: input.retryCounter };
    left = result.left;
    backoffSeconds = result.askedSeconds ?? backoffSeconds;
  } catch (error) {
    // Nothing more can be done from here: the lease expires, and its rows are due again.
    if (force) throw error;
    log.warn('commit failed for good', { batchId: input.batchId, hop: input.retryCounter, error: String(error) });
  }
  if (force) return { status: 'forced', hops: input.retryCounter };
  if (left === 0) return { status: 'committed', hops: input.retryCounter };
  const next = makeContinueAsNewFunc<typeof BatchPoller>({ backoffStartInterval: backoffSeconds * 1000 });
  return next({ ...input, retryCounter: input.retryCounter + 1 });
}

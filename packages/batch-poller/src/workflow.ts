/**
 * BatchPoller: claim → auth → poll → broadcast → commit over one leased batch (design section 5), as a Temporal workflow.
 *
 * Only keys, limits and counts pass through history. What comes after what is decided in `hop.ts`; here are only the
 * server's parts: activities, the scope no cancellation reaches, continue-as-new.
 */
import type { BatchPollerInput } from '@milkrun/core/workflow';
import { CancellationScope, isCancellation, log, makeContinueAsNewFunc, proxyActivities } from '@temporalio/workflow';
import { type BatchPollerResult, runHop, stepOptions } from './hop.ts';
import type { BatchActivities } from './temporal.ts';

export async function BatchPoller(input: BatchPollerInput): Promise<BatchPollerResult> {
  const options = stepOptions(input);
  const steps = {
    claimAndSnapshot: proxyActivities<BatchActivities>(options.claimAndSnapshot).claimAndSnapshot,
    fetchAuth: proxyActivities<BatchActivities>(options.fetchAuth).fetchAuth,
    poll: proxyActivities<BatchActivities>(options.poll).poll,
    broadcast: proxyActivities<BatchActivities>(options.broadcast).broadcast,
    commit: proxyActivities<BatchActivities>(options.commit).commit,
  };
  const end = await runHop(input, steps, {
    isCancellation,
    uncancelled: (work) => CancellationScope.nonCancellable(work),
    warn: (message, fields) => log.warn(message, fields),
  });
  if (end.kind === 'over') return end.result;
  const next = makeContinueAsNewFunc<typeof BatchPoller>({ backoffStartInterval: end.backoffSeconds * 1000 });
  return next(end.input);
}

/**
 * claimAndSnapshot: lease the planned rows and write them down.
 *
 * In: the batch's row with its planned keys. Out: `claimed`. Windows: workerdb, object store.
 * Again: a batch claims once; a retry or successor hop finds the snapshot and the same leases, same epoch (S1, S4).
 */
import { type BatchPollerInput, STEP_BUDGET_SECONDS } from '@milkrun/core';
import type { BatchDeps } from '../deps.ts';
import { runStep, type StepContext, type StepResult } from '../step.ts';

const ENDED: StepResult = { status: 'ended', done: 0, left: 0 };

export async function claimAndSnapshot(
  deps: BatchDeps,
  input: BatchPollerInput,
  context: StepContext,
): Promise<StepResult> {
  if (input.retryCounter > 0) {
    return runStep(deps, { step: 'claim', budgetMs: STEP_BUDGET_SECONDS.claim * 1000, input, context }, async () => ({
      status: 'ok',
      done: 0,
      left: 0,
    }));
  }
  // With the store's breaker open a claim would only lease rows that nothing can be written about.
  if (!deps.storeAvailable() || deps.draining.aborted) {
    await deps.store.end(input.batchId);
    return ENDED;
  }
  const started = deps.clock.monotonic();
  const claim = await deps.store.claim({
    batchId: input.batchId,
    leaseSeconds: input.policy.leaseSeconds,
    bytesMax: deps.limits.claimBytesMax,
  });
  if (claim.status === 'ended') return ENDED;
  if (claim.triggers.length === 0) {
    await deps.store.end(input.batchId);
    deps.metrics.count('polling.batch.finished', 1, { outcome: 'empty' });
    return ENDED;
  }
  await deps.snapshots.writeEntries(input.batchId, claim.triggers);
  if (claim.status === 'claimed') {
    for (const trigger of claim.triggers) deps.metrics.observe('polling.claim.due_lag', trigger.dueLagSeconds);
    deps.metrics.observe('polling.claim.batch_size', claim.triggers.length);
    deps.metrics.count('polling.claim.rows', claim.triggers.length);
  }
  deps.metrics.observe('polling.step.duration', (deps.clock.monotonic() - started) / 1000, {
    step: 'claim',
    outcome: 'completed',
  });
  deps.metrics.count('polling.step.entries', claim.triggers.length, { step: 'claim', outcome: 'done' });
  deps.log.info(
    {
      batchId: input.batchId,
      step: 'claim',
      hop: 0,
      attempt: context.attempt,
      claimed: claim.triggers.length,
      status: claim.status,
    },
    'step.completed',
  );
  return { status: 'ok', done: claim.triggers.length, left: 0 };
}

/** Reads a batch back: entries from the snapshot or, when they cannot be read, from the rows it owns under the same epoch. */
import type { BatchPollerInput, ClaimedTrigger } from '@milkrun/core';
import type { BatchDeps } from './deps.ts';
import { type FoldedEntry, foldEntries } from './fold.ts';
import { LeaseLost } from './lease-lost.ts';
import type { RunningStep } from './step.ts';

async function readEntries(deps: BatchDeps, input: BatchPollerInput): Promise<readonly ClaimedTrigger[]> {
  const entries = await deps.snapshots.readEntries(input.batchId);
  if (entries !== 'missing' && entries !== 'unreadable') return entries;
  deps.log.warn({ batchId: input.batchId, entries }, 'snapshot.entries_rebuilt');
  const owned = await deps.store.claim({
    batchId: input.batchId,
    leaseSeconds: input.policy.leaseSeconds,
    bytesMax: deps.limits.claimBytesMax,
  });
  // No entries are not none: what the batch has saved is to be held.
  if (owned.status === 'ended') throw new LeaseLost(input.batchId);
  return owned.triggers;
}

/**
 * Of a later hop's entries those that are still the batch's own, or were fenced. A row that an earlier hop has committed is
 * free, and another batch may have moved it on: what this one knows of it is old and must not be told again.
 */
export async function stillOwn(
  deps: BatchDeps,
  running: RunningStep,
  folded: readonly FoldedEntry[],
): Promise<readonly FoldedEntry[]> {
  const { input, fenced } = running;
  if (input.retryCounter === 0) return folded;
  const { batchId, policy } = input;
  const { leaseSeconds } = policy;
  const { triggers } = await deps.store.claim({ batchId, leaseSeconds, bytesMax: deps.limits.claimBytesMax });
  const epochs = new Map(triggers.map((trigger) => [trigger.triggerId, trigger.leaseEpoch]));
  const isOwn = ({ trigger }: FoldedEntry): boolean => epochs.get(trigger.triggerId) === trigger.leaseEpoch;
  // What is not owned was committed or fenced; the fence that was read before may be older than the loss.
  if (!folded.every(isOwn)) await running.check();
  return folded.filter((entry) => isOwn(entry) || fenced.has(entry.trigger.triggerId));
}

/** Every entry of the batch in its present state. Throws LeaseLost when it is over and its entries cannot be read. */
export async function readFolded(deps: BatchDeps, input: BatchPollerInput): Promise<FoldedEntry[]> {
  const [entries, verdicts, results, delivered] = await Promise.all([
    readEntries(deps, input),
    deps.snapshots.readVerdicts(input.batchId),
    deps.snapshots.readResults(input.batchId),
    deps.snapshots.readDelivered(input.batchId),
  ]);
  return foldEntries({
    entries,
    verdicts,
    results,
    delivered: delivered.map((stored) => stored.record),
    hop: input.retryCounter,
  });
}

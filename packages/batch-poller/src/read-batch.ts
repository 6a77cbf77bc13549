/** Reads a batch back: entries from the snapshot or, when they cannot be read, from the rows it owns under the same epoch. */
import type { BatchPollerInput, ClaimedTrigger } from '@milkrun/core';
import type { BatchDeps } from './deps.ts';
import { type FoldedEntry, foldEntries } from './fold.ts';

async function readEntries(deps: BatchDeps, input: BatchPollerInput): Promise<readonly ClaimedTrigger[]> {
  const entries = await deps.snapshots.readEntries(input.batchId);
  if (entries !== 'missing' && entries !== 'unreadable') return entries;
  deps.log.warn({ batchId: input.batchId, entries }, 'snapshot.entries_rebuilt');
  const owned = await deps.store.claim({
    batchId: input.batchId,
    leaseSeconds: input.policy.leaseSeconds,
    bytesMax: deps.limits.claimBytesMax,
  });
  return owned.status === 'ended' ? [] : owned.triggers;
}

/** Every entry of the batch in its present state. */
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

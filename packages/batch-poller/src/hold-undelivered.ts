/**
 * Events of sources that cannot be asked again, which this batch has saved and will not tell: held for the next one (S6).
 *
 * They are held without a fence, by event id, so doing it twice or beside a delivery only repeats an event under its id.
 */
import type { BatchPollerInput, HeldEvent } from '@milkrun/core';
import { heldOfFenced } from './decide-row.ts';
import type { BatchDeps } from './deps.ts';
import type { FoldedEntry } from './fold.ts';
import { readFolded } from './read-batch.ts';

/** What of an entry nobody will tell: of one taken from the batch everything not delivered, else the chains that lost. */
export function lostBy(entry: FoldedEntry, isTaken: boolean): readonly HeldEvent[] {
  const { shard, triggerId } = entry.trigger;
  const own = isTaken && entry.state === 'polled' ? heldOfFenced(entry) : [];
  return [...own, ...entry.strays].map((event) => ({ shard, triggerId, ...event }));
}

/** For a batch that is over: its lease ran out, or somebody ended it, and it can commit nothing any more. */
export async function holdUndelivered(deps: BatchDeps, input: BatchPollerInput): Promise<void> {
  const entries = await deps.snapshots.readEntries(input.batchId);
  if (typeof entries === 'string' || entries.every(({ pollPolicy }) => pollPolicy.repeatable)) return;
  const folded = await readFolded(deps, input);
  const kept = folded.filter(({ trigger }) => !trigger.pollPolicy.repeatable).flatMap((entry) => lostBy(entry, true));
  if (kept.length === 0) return;
  await deps.store.holdFenced(kept);
  deps.log.warn({ batchId: input.batchId, events: kept.length }, 'batch.events_held');
}

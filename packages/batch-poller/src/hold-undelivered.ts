/**
 * Events of sources that cannot be asked again, which this batch has saved and will not tell: held for the next one (S6).
 *
 * They are held without a fence, by event id, so doing it twice or beside a delivery only repeats an event under its id.
 */
import { type BatchPollerInput, type ClaimedTrigger, type HeldEvent, storageShardOf } from '@milkrun/core';
import { heldOfFenced } from './decide-row.ts';
import type { BatchDeps } from './deps.ts';
import type { FoldedEntry } from './fold.ts';
import { readFolded } from './read-batch.ts';
import type { DeliveredRecord, ResultRecord, Stored } from './snapshot/records.ts';

/** What of an entry nobody will tell: of one taken from the batch everything not delivered, else the chains that lost. */
export function lostBy(entry: FoldedEntry, isTaken: boolean): readonly HeldEvent[] {
  const { shard, triggerId } = entry.trigger;
  const own = isTaken && entry.state === 'polled' ? heldOfFenced(entry) : [];
  return [...own, ...entry.strays].map((event) => ({ shard, triggerId, ...event }));
}

/** For a batch that is over: its lease ran out, or somebody ended it, and it can commit nothing any more. */
export async function holdUndelivered(deps: BatchDeps, input: BatchPollerInput): Promise<void> {
  const entries = await deps.snapshots.readEntries(input.batchId);
  const kept = typeof entries === 'string' ? await unlisted(deps, input.batchId) : await listed(deps, input, entries);
  if (kept.length === 0) return;
  await deps.store.holdFenced(kept);
  deps.log.warn({ batchId: input.batchId, events: kept.length }, 'batch.events_held');
}

async function listed(
  deps: BatchDeps,
  input: BatchPollerInput,
  entries: readonly ClaimedTrigger[],
): Promise<readonly HeldEvent[]> {
  if (entries.every(({ pollPolicy }) => pollPolicy.repeatable)) return [];
  const folded = await readFolded(deps, input);
  return folded.filter(({ trigger }) => !trigger.pollPolicy.repeatable).flatMap((entry) => lostBy(entry, true));
}

/** The list of entries is lost, and the leases that would name them again are too: the results say enough themselves. */
async function unlisted({ snapshots }: BatchDeps, batchId: string): Promise<readonly HeldEvent[]> {
  const [results, delivered] = await Promise.all([snapshots.readResults(batchId), snapshots.readDelivered(batchId)]);
  const taken = takenOf(
    results,
    delivered.map(({ record }) => record),
  );
  return results
    .filter(({ record }) => record.once === true)
    .flatMap(({ record: { triggerId, events } }) =>
      events
        .filter(({ eventId }) => !taken.has(eventId))
        .map((event) => ({ shard: storageShardOf(triggerId), triggerId, ...event })),
    );
}

/** Ids of events that the control plane has accepted. */
function takenOf(results: readonly Stored<ResultRecord>[], delivered: readonly DeliveredRecord[]): ReadonlySet<string> {
  const whole = new Set<string>();
  const taken = new Set<string>();
  for (const { status, result, eventIds } of delivered) {
    if (status !== 'accepted') continue;
    if (eventIds === undefined) whole.add(`${result.object} ${result.line}`);
    else for (const eventId of eventIds) taken.add(eventId);
  }
  for (const { at, record } of results)
    if (whole.has(`${at.object} ${at.line}`)) for (const { eventId } of record.events) taken.add(eventId);
  return taken;
}

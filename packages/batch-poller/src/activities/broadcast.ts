/**
 * broadcast: send what was found to the control plane.
 *
 * In: `polled`. Out: `delivered`, parked, or gone. Window: `/state`, 8 lanes by trigger, sequential inside a lane.
 * Again: only what no delivered record names. A trigger fenced during the poll delivers nothing.
 */
import {
  type BatchPollerInput,
  encodePollState,
  type HeldEvent,
  STEP_BUDGET_SECONDS,
  type TriggerState,
} from '@milkrun/core';
import { deliverLane, outgoingOfHeld, type Parcel } from '../deliver.ts';
import type { BatchDeps } from '../deps.ts';
import { type FoldedEntry, type FoldedPage, isDelivered, undelivered } from '../fold.ts';
import { seenAfter } from '../poll-state.ts';
import { readFolded, stillOwn } from '../read-batch.ts';
import { runStep, type StepContext, type StepResult } from '../step.ts';

type Polled = Extract<FoldedEntry, { state: 'polled' }>;

const RECHECK_MS = 5_000;
const HOUR_MS = 3_600_000;

export async function broadcast(deps: BatchDeps, input: BatchPollerInput, context: StepContext): Promise<StepResult> {
  const budgetMs = STEP_BUDGET_SECONDS.broadcast * 1000;
  return runStep(deps, { step: 'broadcast', budgetMs, input, context }, async (running) => {
    const folded = await stillOwn(deps, running, await readFolded(deps, input));
    running.open = folded.filter((entry) => entry.state === 'claimed').length;
    const polled = folded.filter(
      (entry): entry is Polled =>
        entry.state === 'polled' && !entry.gone && !running.fenced.has(entry.trigger.triggerId),
    );
    const held = await heldByTrigger(deps, polled);
    const sending = polled.filter(
      (entry) => !isDelivered(entry) || held.has(entry.trigger.triggerId) || isStateDue(entry),
    );
    const states = await statesOf(deps, sending);
    const parcels = sending.map((entry) =>
      parcelOf(entry, held.get(entry.trigger.triggerId) ?? [], states.get(entry.trigger.triggerId)),
    );
    await running.check();
    const writer = deps.snapshots.deliveredWriter(input.batchId, input.retryCounter, context.attempt);
    const lanes = lanesOf(parcels, deps.limits.broadcastLanes);
    let checkedAt = deps.clock.monotonic();
    const reports = await Promise.all(
      lanes.map((lane) =>
        deliverLane(deps, lane, {
          batchId: input.batchId,
          signal: running.signal,
          mayStart: () => deps.clock.monotonic() < running.budgetEnd && deps.controlPlane.available(),
          brake: () => running.brake,
          isFenced: (triggerId) => running.fenced.has(triggerId),
          record: async (records) => {
            await writer.record(records);
            if (deps.clock.monotonic() - checkedAt < RECHECK_MS) return;
            checkedAt = deps.clock.monotonic();
            await running.check();
          },
        }),
      ),
    );
    running.signal.throwIfAborted();
    let delivered = 0;
    let askedSeconds = 0;
    let left = 0;
    for (const report of reports) {
      delivered += report.delivered;
      askedSeconds = Math.max(askedSeconds, report.askedSeconds);
      for (const end of report.ends.values()) if (end === 'parked') left += 1;
    }
    return { status: 'ok', done: delivered, left, askedSeconds };
  });
}

async function heldByTrigger(deps: BatchDeps, polled: readonly Polled[]): Promise<Map<string, HeldEvent[]>> {
  const unrepeatable = polled.filter((entry) => !entry.trigger.pollPolicy.repeatable);
  const byTrigger = new Map<string, HeldEvent[]>();
  if (unrepeatable.length === 0) return byTrigger;
  const taken = new Set(unrepeatable.flatMap((entry) => entry.heldTaken));
  for (const event of await deps.store.readHeld(unrepeatable.map((entry) => entry.trigger))) {
    if (taken.has(event.eventId)) continue;
    const found = byTrigger.get(event.triggerId);
    if (found === undefined) byTrigger.set(event.triggerId, [event]);
    else found.push(event);
  }
  return byTrigger;
}

async function statesOf(deps: BatchDeps, entries: readonly Polled[]): Promise<ReadonlyMap<string, TriggerState>> {
  if (entries.length === 0) return new Map();
  const states = await deps.store.readStates(entries.map((entry) => entry.trigger));
  return new Map(states.map((state) => [state.triggerId, state]));
}

/**
 * At most hourly, and only when keys were added without an event (the state goes along with events anyway): when an hour's
 * edge lies between the last slot and this one.
 */
function isStateDue({ chain, trigger }: Polled): boolean {
  const isQuiet = chain.pages.every((page) => page.record.events.length === 0);
  if (!isQuiet || chain.pages.every((page) => page.record.quietKeys === undefined)) return false;
  const due = Date.parse(trigger.dueAt);
  return Math.floor(due / HOUR_MS) !== Math.floor((due - trigger.intervalSeconds * 1000) / HOUR_MS);
}

export function parcelOf(entry: Polled, held: readonly HeldEvent[], state: TriggerState | undefined): Parcel {
  const { chain, trigger } = entry;
  const last = chain.pages.at(-1) as FoldedPage;
  const rekeyed = chain.pages.some((page) => page.record.rekeys === true);
  const whole = chain.pages.map((page): FoldedPage => ({ ...page, delivered: 'whole' }));
  const pollState = encodePollState({
    cursor: last.record.cursorAfter,
    seen: seenAfter(state?.seen, whole, rekeyed),
    version: last.record.versionUsed ?? trigger.versionUsed,
  });
  return {
    triggerId: trigger.triggerId,
    leaseEpoch: trigger.leaseEpoch,
    configVersion: trigger.configVersion,
    triggerVersion: last.record.versionUsed ?? trigger.versionWanted,
    hop: chain.hop,
    attempt: chain.attempt,
    events: [
      ...outgoingOfHeld(held),
      ...chain.pages.flatMap((page) => undelivered(page).map((event) => ({ ...event, page }))),
    ],
    emptyPages: chain.pages.filter(
      (page) => page.record.events.length === 0 && page.record.primeDone === true && page.delivered === 'none',
    ),
    ...(pollState === undefined ? {} : { pollState }),
  };
}

function lanesOf(parcels: readonly Parcel[], count: number): Parcel[][] {
  const lanes: Parcel[][] = Array.from({ length: Math.min(count, parcels.length) }, () => []);
  parcels.forEach((parcel, index) => {
    lanes[index % lanes.length]?.push(parcel);
  });
  return lanes;
}

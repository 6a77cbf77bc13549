/**
 * pollTrigger: auth, poll, deliver, commit for one trigger; all of it may be repeated.
 *
 * Windows: registrydb's legacy tables, `/conn/batch`, the poll function, `/state`. Again: a poll that was delivered and not
 * committed is made again from the old cursor and gives the same ids.
 */
import type { AlonePoller, Clock, CommitRow, LegacyDue, LegacyStore, Log, Metrics } from '@milkrun/core';
import { Context } from '@temporalio/activity';
import type { PollingTriggerInput } from './workflow.ts';

type LegacyOutcome =
  | { readonly next: 'wait'; readonly waitMs: number }
  | { readonly next: 'stop'; readonly reason: string };

export interface LegacyActivities {
  pollTrigger(input: PollingTriggerInput): Promise<LegacyOutcome>;
}

export interface LegacyDeps {
  readonly store: LegacyStore;
  readonly poll: AlonePoller;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Log;
  /** Aborts when the process drains. */
  readonly draining: AbortSignal;
  /** Milliseconds after which a poll's chain starts no further page; default 120,000. */
  readonly budgetMs?: number;
}

const BUDGET_MS = 120_000;
const HEARTBEAT_MS = 5_000;

export function createLegacyActivities(deps: LegacyDeps): LegacyActivities {
  return {
    async pollTrigger({ triggerId }) {
      const context = Context.current();
      const read = await deps.store.read(triggerId);
      if (read.next !== 'poll') return read;
      const ended = new AbortController();
      const signal = AbortSignal.any([context.cancellationSignal, deps.draining, ended.signal]);
      const beating = beat(context, deps, ended.signal);
      try {
        await pollOnce(deps, read, signal);
      } finally {
        ended.abort(new Error('the poll is over'));
        await beating;
      }
      // Another worker takes it over at once: what was polled here was not committed.
      deps.draining.throwIfAborted();
      context.cancellationSignal.throwIfAborted();
      const after = await deps.store.read(triggerId);
      return after.next === 'poll' ? { next: 'wait', waitMs: 0 } : after;
    },
  };
}

async function pollOnce(deps: LegacyDeps, due: LegacyDue, signal: AbortSignal): Promise<void> {
  const { trigger, ownershipEpoch } = due;
  const row = await deps.poll({
    runId: `legacy:${trigger.triggerId}:${trigger.leaseEpoch}`,
    trigger,
    state: due.state,
    held: due.held,
    budgetMs: deps.budgetMs ?? BUDGET_MS,
    signal,
    mayPoll: () => deps.store.owns(trigger.triggerId, ownershipEpoch),
  });
  if (row === undefined) return;
  const { committed } = await deps.store.commit({ triggerId: trigger.triggerId, ownershipEpoch, row });
  report(deps, row, committed);
}

function report(deps: LegacyDeps, row: CommitRow, committed: boolean): void {
  deps.metrics.count('polling.legacy.polls', 1, { code: committed ? row.code : 'fenced' });
  if (committed && row.outcome === 'halt')
    deps.log.info({ triggerId: row.triggerId, code: row.haltCode }, 'legacy.halted');
}

async function beat(context: Context, { clock }: LegacyDeps, ended: AbortSignal): Promise<void> {
  while (!ended.aborted) {
    context.heartbeat();
    await clock.sleep(HEARTBEAT_MS, ended).catch(() => undefined);
  }
}

/**
 * commit: the only writer of PostgreSQL rows, database first, then arm.
 *
 * In: any state. Out: `committed`; what needs another hop keeps its lease. Forced on the last hop and on cancel: then the
 * batch ends whatever happened, so that no lease leaks (S8, L1).
 * Again: the same epoch answers `already`, and arms too.
 */
import {
  assertTransition,
  type BatchPollerInput,
  type CommitRow,
  type HeldEvent,
  hopBackoffSeconds,
  STEP_BUDGET_SECONDS,
  type TriggerState,
  uuidTimeOf,
} from '@milkrun/core';
import { decideRow, needsState, type RowDecision } from '../decide-row.ts';
import type { BatchDeps } from '../deps.ts';
import { type FoldedEntry, stateNameOf } from '../fold.ts';
import { lostBy } from '../hold-undelivered.ts';
import { LeaseLost } from '../lease-lost.ts';
import { readFolded, stillOwn } from '../read-batch.ts';
import { type RunningStep, runStep, type StepContext, type StepResult } from '../step.ts';

export interface CommitStepInput extends BatchPollerInput {
  readonly force: boolean;
  /** What the slowest dependency asked the next hop to wait, seconds. */
  readonly askedSeconds: number;
}

/** Attempts in which a forced commit tries to read the snapshot before it ends the batch unread: some fifteen seconds. */
const UNREAD_ATTEMPTS = 5;

export async function commit(deps: BatchDeps, input: CommitStepInput, context: StepContext): Promise<StepResult> {
  const result = await commitOnce(deps, input, context);
  // Ended already: an earlier attempt may have died between its commit and its signal.
  if (result.status === 'ended') await deps.timers.arm(input.timerShard);
  return result;
}

async function commitOnce(deps: BatchDeps, input: CommitStepInput, context: StepContext): Promise<StepResult> {
  return runStep(
    deps,
    { step: 'commit', budgetMs: STEP_BUDGET_SECONDS.commit * 1000, extendAtEnd: false, input, context },
    async (running) => {
      let read: FoldedEntry[];
      try {
        read = await readFolded(deps, input);
      } catch (error) {
        // Ended unread, what a source gave once and nobody told is gone: not for an answer that got lost on its way.
        if (error instanceof LeaseLost || !input.force || context.attempt < UNREAD_ATTEMPTS) throw error;
        deps.log.error({ batchId: input.batchId, error: String(error) }, 'commit.snapshot_unread');
        deps.metrics.count('polling.snapshot.unread');
        await deps.store.end(input.batchId);
        return { status: 'ended', done: 0, left: 0 };
      }
      const folded = await stillOwn(deps, running, read);
      const mine = folded.filter((entry) => !running.fenced.has(entry.trigger.triggerId));
      await keepLost(deps, running, folded);
      const states = await statesOf(deps, mine);
      const rows: CommitRow[] = [];
      let open = 0;
      let freed = 0;
      for (const entry of mine) {
        const decision = decide(deps, input, entry, states.get(entry.trigger.triggerId));
        if (decision.kind === 'row') rows.push(decision.row);
        else if (decision.kind === 'open') open += 1;
        else freed += 1;
      }
      const end = input.force || open === 0;
      // A platform that failed most of the batch fails the next one too: the shard waits. Else it concerns these alone.
      const released = freed + rows.filter((row) => row.outcome === 'release').length;
      const backsOff = input.force && !deps.draining.aborted && released > 0 && released * 2 >= read.length;
      if (input.force && !deps.draining.aborted && !backsOff) spaceOut(rows, mine);
      const backoff = hopBackoffSeconds(input.retryCounter, input.askedSeconds);
      running.open = open;
      const sentAt = deps.clock.monotonic();
      const result = await deps.store.commit({
        batchId: input.batchId,
        rows,
        end,
        // Not for a drain: nothing was wrong, and who starts next should go on at once.
        forced: backsOff,
        open,
        ...(end ? {} : { extendSeconds: input.policy.leaseSeconds + backoff }),
      });
      // Database first: a wake that is lost after this line costs a tick, never a poll. What is committed already arms too:
      // an earlier attempt may have died before it could.
      if (result.arm || freed > 0 || folded.length < read.length) await deps.timers.arm(input.timerShard);
      deps.metrics.observe('polling.commit.duration', (deps.clock.monotonic() - sentAt) / 1000);
      report(deps, rows, result);
      if (end) {
        reportEnd(deps, input);
        // The poll step deletes them when it ends well; a step that failed or drained has left them.
        await deps.snapshots.deleteAuth(input.batchId);
        deps.snapshots.forget(input.batchId);
      }
      return { status: 'ok', done: result.committed, left: end ? 0 : open, askedSeconds: backoff };
    },
  );
}

const RELEASED_SECONDS_MIN = 30;
const RELEASED_SECONDS_MAX = 300;

/** Released rows come again after their interval, within half a minute to five: at once would be a hot loop for a few. */
function spaceOut(rows: CommitRow[], entries: readonly FoldedEntry[]): void {
  const intervals = new Map(entries.map(({ trigger }) => [trigger.triggerId, trigger.intervalSeconds]));
  for (const [at, row] of rows.entries()) {
    if (row.outcome !== 'release') continue;
    const interval = intervals.get(row.triggerId) ?? RELEASED_SECONDS_MAX;
    const seconds = Math.min(RELEASED_SECONDS_MAX, Math.max(RELEASED_SECONDS_MIN, interval));
    rows[at] = { ...row, retryAfterSeconds: Math.max(seconds, row.retryAfterSeconds ?? 0) };
  }
}

/** An impossible transition stops that entry with a named error, and nothing else: it stays as it is, and its lease ends. */
function decide(
  deps: BatchDeps,
  input: CommitStepInput,
  entry: FoldedEntry,
  state: TriggerState | undefined,
): RowDecision {
  const decision = decideRow(entry, state, input.force);
  if (decision.kind !== 'row') return decision;
  try {
    assertTransition(entry.trigger.triggerId, stateNameOf(entry), 'committed');
    return decision;
  } catch (error) {
    deps.log.error({ batchId: input.batchId, error: String(error) }, 'entry.impossible_transition');
    return { kind: input.force ? 'free' : 'open' };
  }
}

async function statesOf(deps: BatchDeps, entries: readonly FoldedEntry[]): Promise<ReadonlyMap<string, TriggerState>> {
  const wanted = entries.filter(needsState).map((entry) => entry.trigger);
  const states = new Map<string, TriggerState>();
  for (let at = 0; at < wanted.length; at += 2_500) {
    for (const state of await deps.store.readStates(wanted.slice(at, at + 2_500))) states.set(state.triggerId, state);
  }
  return states;
}

/** What sources that cannot be asked again gave this batch and it will not tell, unless the trigger is deleted. */
async function keepLost(deps: BatchDeps, running: RunningStep, folded: readonly FoldedEntry[]): Promise<void> {
  const kept: HeldEvent[] = [];
  for (const entry of folded) {
    if (entry.trigger.pollPolicy.repeatable) continue;
    const fence = running.fenced.get(entry.trigger.triggerId);
    if (fence?.deleted !== true) kept.push(...lostBy(entry, fence !== undefined));
  }
  if (kept.length > 0) await deps.store.holdFenced(kept);
}

function reportEnd(deps: BatchDeps, input: CommitStepInput): void {
  deps.metrics.count('polling.batch.finished', 1, { outcome: input.force ? 'forced' : 'committed' });
  deps.metrics.observe('polling.batch.hops', input.retryCounter + 1);
  const plannedAt = uuidTimeOf(input.batchId.slice(input.batchId.lastIndexOf(':') + 1));
  if (plannedAt !== undefined) {
    // Two machines' clocks: a small skew must not make it negative.
    deps.metrics.observe('polling.batch.duration', Math.max(0, deps.clock.now() - plannedAt) / 1000);
  }
}

function report(
  deps: BatchDeps,
  rows: readonly CommitRow[],
  result: Awaited<ReturnType<BatchDeps['store']['commit']>>,
): void {
  deps.metrics.count('polling.commit.rows', result.committed, { outcome: 'committed' });
  if ((result.bisections ?? 0) > 0) deps.metrics.count('polling.commit.bisections', result.bisections);
  const counts = new Map<string, number>();
  for (const { status } of result.exceptions) counts.set(status, (counts.get(status) ?? 0) + 1);
  for (const [outcome, count] of counts) {
    if (outcome !== 'braked') deps.metrics.count('polling.commit.rows', count, { outcome });
  }
  deps.metrics.gauge('polling.broadcast.brake', counts.has('braked') ? 1 : 0);
  for (const [code, count] of Object.entries(result.halted))
    deps.metrics.count('polling.commit.halts', count, { code });
  const primed = rows.filter((row) => row.primed === true).length;
  if (primed > 0) deps.metrics.count('polling.poll.primed', primed);
  const held = rows.reduce((sum, row) => sum + (row.held?.length ?? 0), 0);
  if (held > 0) deps.metrics.count('polling.broadcast.events_held', held);
}

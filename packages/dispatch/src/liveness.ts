/**
 * The liveness loop: in every worker, every 60 s, one at a time. It checks the invariant in workerdb and repairs what it
 * finds: quiet shards are signalled (which starts a missing one), a shard whose workflow task keeps failing is replaced,
 * workflows of batches older than 24 h are terminated. It needs no Temporal schedule to watch Temporal.
 */
import {
  type Clock,
  type DispatchStore,
  type LivenessReport,
  type Log,
  type Metrics,
  type TimerManager,
  type Violation,
  WORKFLOWS,
} from '@milkrun/core';
import { createLoop, type Loop } from './loop.ts';
import { replaceStuckShards } from './stuck-shards.ts';
import type { TemporalClient } from './temporal-client.ts';

export interface LivenessDeps {
  readonly store: Pick<DispatchStore, 'liveness' | 'repairLiveness' | 'timerShards' | 'withTurn'>;
  readonly client: TemporalClient;
  readonly timers: TimerManager;
  /** Ends a batch in workerdb, which frees its rows. */
  readonly endBatch: (batchId: string) => Promise<boolean>;
  readonly clock: Clock;
  readonly log: Log;
  readonly metrics: Metrics;
  readonly workerId: string;
  /** Milliseconds between checks; default 60,000. */
  readonly everyMs?: number;
  /** Milliseconds a workflow task may keep failing; default 30,000. */
  readonly stuckMs?: number;
}

export interface LivenessRound {
  readonly report: LivenessReport;
  readonly signalled: readonly number[];
  readonly replaced: readonly number[];
  readonly terminated: readonly string[];
}

const EVERY_MS = 60_000;
const STUCK_MS = 30_000;
/** Its worker takes the turn again before it is over; one that has died is missed by this share of a check. */
const TURN_CHECKS = 1.25;
/** How often, in a check, a worker without the turn asks for it. */
const ASKS = 4;
export const BATCH_AGE_MS_MAX = 86_400_000;

export function createLivenessLoop(deps: LivenessDeps): Loop {
  const { store, clock, log, workerId, everyMs = EVERY_MS } = deps;
  return createLoop({
    name: 'liveness',
    clock,
    log,
    everyMs,
    async round(signal) {
      const holdSeconds = (TURN_CHECKS * everyMs) / 1000;
      const beganAt = clock.monotonic();
      const round = await store.withTurn('liveness', holdSeconds, workerId, () => checkLiveness(deps, signal));
      // From begin to begin: a check that waited for a stuck shard makes the next one no later.
      return round === undefined ? everyMs / ASKS : Math.max(0, everyMs - (clock.monotonic() - beganAt));
    },
  });
}

/** Looks alone: what is amiss, quiet shards among it. */
export async function inspectLiveness(store: Pick<DispatchStore, 'liveness'>): Promise<LivenessReport> {
  const report = await store.liveness();
  return { ...report, violations: [...report.quietShards.map(quietViolation), ...report.violations] };
}

function quietViolation(timerShard: number): Violation {
  return { kind: 'shard_quiet', timerShard, detail: 'it has not ticked for a tick and a check', held: false };
}

/** One check with its repairs; also behind the operations verb. Each violation of the answer says what was done about it. */
export async function checkLiveness(deps: LivenessDeps, signal: AbortSignal): Promise<LivenessRound> {
  const { store, timers, log, metrics } = deps;
  const report = await inspectLiveness(store);
  measure(metrics, report);
  await store.repairLiveness(report);
  // An overdue trigger whose shard does tick has lost its arm, or waits for room: to tick once more is harmless.
  const waiting = report.violations.flatMap(({ kind, timerShard, held }) =>
    held !== true && timerShard !== undefined && (kind === 'shard_quiet' || kind in MENDED_IN_SQL || kind === 'overdue')
      ? [timerShard]
      : [],
  );
  const signalled = [...new Set(waiting)];
  await Promise.all(signalled.map((timerShard) => timers.arm(timerShard)));
  const quiet = report.quietShards;
  const replaced = await replaceStuckShards({ ...deps, stuckMs: deps.stuckMs ?? STUCK_MS, quiet }, signal);
  const terminated = await terminateAbandoned(deps);
  const violations: Violation[] = [
    ...report.violations.map((violation) => ({ ...violation, done: doneAbout(violation) })),
    ...replaced.map((timerShard) => ({
      kind: 'shard_stuck',
      timerShard,
      detail: 'its workflow task kept failing, or it did not tick though it was signalled',
      done: 'its workflow was terminated and started anew',
    })),
    ...terminated.map((batchId) => ({
      kind: 'batch_abandoned',
      detail: `${batchId} was older than 24 h`,
      done: 'it was ended, its rows are due again',
    })),
  ];
  for (const kind of ['shard_stuck', 'shard_quiet', 'batch_abandoned', ...Object.keys(MENDED_IN_SQL)])
    repaired(metrics, kind, violations.filter((one) => one.kind === kind && one.held !== true).length);
  const round = { report: { ...report, violations }, signalled, replaced, terminated };
  const open = violations.filter(({ held }) => held !== true);
  if (open.length > 0) {
    const fields = { open: report.open, first: open.slice(0, 5), signalled, replaced, terminated };
    log.warn(fields, 'liveness.repaired');
  }
  return round;
}

const MENDED_IN_SQL: Readonly<Record<string, string>> = {
  no_next_poll: 'made due now',
  too_far_ahead: 'put to its next slot',
};

function doneAbout({ kind, timerShard, held }: Violation): string {
  if (held === true) return 'nothing: it waits for the hold to end';
  if (kind === 'stuck_handoff') return 'nothing: the hand-off goes on or is undone by its own verb';
  const mended = MENDED_IN_SQL[kind];
  if (mended !== undefined) return mended;
  return timerShard === undefined ? 'nothing: no timer shard serves it' : `timer shard ${timerShard} was signalled`;
}

/** Terminates the workflows of batches older than a day: they are ended, never resumed. The age is in the batch's id. */
async function terminateAbandoned({ client, clock, endBatch, log }: LivenessDeps): Promise<string[]> {
  const terminated: string[] = [];
  const query = `WorkflowType = '${WORKFLOWS.batchPoller}' AND ExecutionStatus = 'Running'`;
  for await (const { workflowId } of client.workflow.list({ query })) {
    const madeAt = madeAtOf(workflowId);
    if (madeAt === undefined || clock.now() - madeAt <= BATCH_AGE_MS_MAX) continue;
    try {
      // workerdb first: a batch that has ended there can write nothing, whatever its workflow still does.
      await endBatch(workflowId);
      await client.workflow.getHandle(workflowId).terminate('older than 24 h: ended, its rows are due again');
      terminated.push(workflowId);
    } catch (error) {
      const fields = { batchId: workflowId, error: error instanceof Error ? error.message : String(error) };
      log.warn(fields, 'liveness.terminate_failed');
    }
  }
  return terminated;
}

/** Milliseconds since the epoch at which a batch id was made: the first 48 bits of its version 7 UUID. */
export function madeAtOf(batchId: string): number | undefined {
  const match = /^batch-poller:\d{1,6}:([0-9a-f]{8})-([0-9a-f]{4})-7/.exec(batchId);
  return match === null ? undefined : Number.parseInt(`${match[1]}${match[2]}`, 16);
}

const KINDS = [
  'no_next_poll',
  'too_far_ahead',
  'overdue',
  'stuck_handoff',
  'shard_stuck',
  'shard_quiet',
  'batch_abandoned',
];

function measure(metrics: Metrics, report: LivenessReport): void {
  const counts = new Map([...KINDS, 'other'].map((kind) => [kind, 0]));
  for (const [kind, rows] of Object.entries(report.open)) {
    const known = counts.has(kind) ? kind : 'other';
    counts.set(known, (counts.get(known) ?? 0) + rows);
  }
  counts.set('shard_quiet', report.quietShards.length);
  for (const [kind, rows] of counts) metrics.gauge('polling.liveness.violations', rows, { kind });
  metrics.gauge('polling.liveness.stale', report.stale);
  metrics.gauge('polling.liveness.silent', report.silent);
  metrics.gauge('polling.triggers.polled', report.polled);
}

function repaired(metrics: Metrics, kind: string, count: number): void {
  if (count > 0) metrics.count('polling.liveness.repaired', count, { kind });
}

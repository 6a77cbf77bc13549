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
  WORKFLOWS,
} from '@milkrun/core';
import type { Client } from '@temporalio/client';
import { createLoop, type Loop } from './loop.ts';
import { replaceStuckShards } from './stuck-shards.ts';

export interface LivenessDeps {
  readonly store: Pick<DispatchStore, 'liveness' | 'timerShards' | 'withTurn'>;
  readonly client: Client;
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
/** Longer than a check and the wait within it. */
const TURN_SECONDS = 90;
export const BATCH_AGE_MS_MAX = 86_400_000;

export function createLivenessLoop(deps: LivenessDeps): Loop {
  const { store, clock, log, workerId, everyMs = EVERY_MS } = deps;
  return createLoop({
    name: 'liveness',
    clock,
    log,
    everyMs,
    async round(signal) {
      await store.withTurn('liveness', TURN_SECONDS, workerId, () => checkLiveness(deps, signal));
      return undefined;
    },
  });
}

/** One check with its repairs; also behind the operations verb. */
export async function checkLiveness(deps: LivenessDeps, signal: AbortSignal): Promise<LivenessRound> {
  const { store, timers, log } = deps;
  const report = await store.liveness();
  measure(deps.metrics, report);
  await Promise.all(report.quietShards.map((timerShard) => timers.arm(timerShard)));
  repaired(deps.metrics, 'shard_quiet', report.quietShards.length);
  const replaced = await replaceStuckShards({ ...deps, stuckMs: deps.stuckMs ?? STUCK_MS }, signal);
  repaired(deps.metrics, 'shard_stuck', replaced.length);
  const terminated = await terminateAbandoned(deps);
  repaired(deps.metrics, 'batch_abandoned', terminated.length);
  const open = report.violations.filter(({ held }) => held !== true);
  const round = { report, signalled: report.quietShards, replaced, terminated };
  if (open.length > 0 || replaced.length > 0 || terminated.length > 0) {
    const fields = {
      violations: open.length,
      first: open.slice(0, 5),
      signalled: round.signalled,
      replaced,
      terminated,
    };
    log.warn(fields, 'liveness.repaired');
  }
  return round;
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
  for (const { kind, held } of report.violations) {
    if (held === true) continue;
    const known = counts.has(kind) ? kind : 'other';
    counts.set(known, (counts.get(known) ?? 0) + 1);
  }
  for (const [kind, rows] of counts) metrics.gauge('polling.liveness.violations', rows, { kind });
  metrics.gauge('polling.liveness.stale', report.stale);
  metrics.gauge('polling.triggers.polled', report.polled);
}

function repaired(metrics: Metrics, kind: string, count: number): void {
  if (count > 0) metrics.count('polling.liveness.repaired', count, { kind });
}

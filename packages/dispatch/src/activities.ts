/**
 * tick: plan what is due into batches and start them.
 *
 * Window: workerdb, then Temporal. Again: plans nothing twice (workerdb counts what is in flight), and a start of a
 * batch that runs or has run is a success, so the activity may be repeated at any point.
 */
import {
  type BatchPolicy,
  type BatchPollerInput,
  batchIdOf,
  type Clock,
  type DispatchStore,
  type Log,
  type Metrics,
  QUEUES,
  type Rng,
  type TimerManager,
  uuidv7,
  WORKFLOWS,
} from '@milkrun/core';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/client';
import type { DispatchGate } from './gate.ts';
import { TICK_SILENCE_MS_MAX, type TickOutcome } from './pacing.ts';
import type { TemporalClient } from './temporal-client.ts';
import { ensureShards } from './timer-manager.ts';

export interface TickActivities {
  /** `waitMs`: milliseconds to wait first, less than a second. */
  tick(input: { readonly timerShard: number; readonly waitMs?: number }): Promise<TickOutcome>;
}

export interface TickDeps {
  readonly store: Pick<DispatchStore, 'tick' | 'timerShards'>;
  /** Ends a planned batch that can never be claimed, which frees its keys at once. */
  readonly endBatch: (batchId: string) => Promise<boolean>;
  /** Wakes the shards that took over from one that re-sharding removed. */
  readonly timers: TimerManager;
  readonly client: TemporalClient;
  readonly gate: DispatchGate;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Log;
  readonly metrics: Metrics;
  /** DISPATCH_TICK, milliseconds. */
  readonly tickMs: number;
  /** BATCH_SIZE, rows. */
  readonly batchSize: number;
  /** Batches planned by one tick at the most; default 32. */
  readonly batchesMax?: number;
  readonly policy: BatchPolicy;
  /** Says that this attempt of the tick lives; called in its own activity's context. Nobody is told by default. */
  readonly heartbeat?: () => void;
  /** Task queue of the BatchPoller workflow; the engine's own by default. */
  readonly batchQueue?: string;
}

const BATCHES_MAX = 32;
/** Ranked by one scan beyond the places there are: a backlog is scanned once for several batches. */
const BATCHES_AHEAD = 4;
const STARTS_AT_ONCE = 8;

export function createTickActivities(deps: TickDeps): TickActivities {
  const { store, gate, clock, rng, log, metrics, tickMs, batchSize } = deps;
  const batchesMax = deps.batchesMax ?? BATCHES_MAX;
  // After the gate was closed: one batch, then twice as many with every tick. What comes back is not hit by all at once.
  let allowed = batchesMax;
  return {
    async tick({ timerShard, waitMs = 0 }) {
      if (waitMs > 0) await clock.sleep(waitMs);
      const startedAt = clock.monotonic();
      const ended = new AbortController();
      void beat(deps, ended.signal);
      try {
        const dispatch = await gate.open();
        const batches = dispatch ? Math.max(1, Math.min(batchesMax, allowed)) : 1;
        allowed = dispatch ? batches * 2 : 0;
        const batchIds = Array.from({ length: batches }, () => batchIdOf(timerShard, uuidv7(clock, rng)));
        const plan = await store.tick({ timerShard, batchSize, batchIds, dispatch, batchesAhead: BATCHES_AHEAD });
        if (plan.gone === true) {
          log.info({ timerShard }, 'timer_shard.gone');
          await ensureShards({ store, timers: deps.timers });
          return { left: 0, wakeInMs: tickMs, tickMs, again: false, gone: true };
        }
        const wanted = [
          ...plan.unclaimed.map((batchId) => ({ batchId, keys: 0, again: true })),
          ...plan.planned.map(({ batchId, keys }) => ({ batchId, keys, again: false })),
        ];
        const failed = dispatch ? await startAll(deps, timerShard, wanted) : 0;
        metrics.gauge('polling.dispatch.due', plan.due);
        metrics.gauge('polling.dispatch.left', plan.left);
        metrics.gauge('polling.dispatch.oldest_due_age', plan.oldestDueSeconds);
        metrics.count('polling.dispatch.batches_planned', plan.planned.length);
        metrics.count('polling.dispatch.ticks', 1, { outcome: outcomeOf(dispatch, plan.planned.length) });
        if (plan.planned.length > 0 || failed > 0) {
          const fields = { timerShard, due: plan.due, planned: plan.planned.length, left: plan.left, failed };
          log.info(fields, 'tick.completed');
        }
        const wakeInMs = Math.max(plan.wakeInMs, plan.left > 0 ? 0 : plan.backoffMs);
        return { left: plan.left, wakeInMs, tickMs, again: failed > 0 || !dispatch };
      } catch (error) {
        metrics.count('polling.dispatch.ticks', 1, { outcome: 'failed' });
        throw error;
      } finally {
        ended.abort();
        metrics.observe('polling.dispatch.tick_duration', (clock.monotonic() - startedAt) / 1000);
      }
    },
  };
}

async function beat({ clock, heartbeat }: TickDeps, ended: AbortSignal): Promise<void> {
  while (heartbeat !== undefined && !ended.aborted) {
    heartbeat();
    await clock.sleep(TICK_SILENCE_MS_MAX / 4, ended).catch(() => undefined);
  }
}

function outcomeOf(dispatch: boolean, planned: number): string {
  if (!dispatch) return 'held';
  return planned > 0 ? 'planned' : 'idle';
}

interface Wanted {
  readonly batchId: string;
  readonly keys: number;
  /** Planned by an earlier tick and not claimed since. */
  readonly again: boolean;
}

/** Starts the batches, a few at a time. How many could not be: they are planned, so the next tick starts them. */
async function startAll(deps: TickDeps, timerShard: number, batches: readonly Wanted[]): Promise<number> {
  let failed = 0;
  const waiting = [...batches];
  const lane = async (): Promise<void> => {
    for (let batch = waiting.shift(); batch !== undefined; batch = waiting.shift()) {
      try {
        await startBatch(deps, { ...batch, timerShard });
      } catch (error) {
        failed += 1;
        const fields = { batchId: batch.batchId, error: error instanceof Error ? error.message : String(error) };
        deps.log.warn(fields, 'tick.start_failed');
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(STARTS_AT_ONCE, batches.length) }, lane));
  return failed;
}

async function startBatch(
  { client, policy, metrics, endBatch, batchQueue = QUEUES.batchPoller }: TickDeps,
  batch: Wanted & { readonly timerShard: number },
): Promise<void> {
  const input: BatchPollerInput = {
    batchId: batch.batchId,
    timerShard: batch.timerShard,
    size: batch.keys,
    retryCounter: 0,
    policy,
  };
  try {
    await client.workflow.start(WORKFLOWS.batchPoller, {
      taskQueue: batchQueue,
      workflowId: batch.batchId,
      workflowIdConflictPolicy: 'USE_EXISTING',
      workflowIdReusePolicy: 'REJECT_DUPLICATE',
      args: [input],
    });
    metrics.count('polling.temporal.actions', 1, { kind: 'workflow' });
  } catch (error) {
    // Running or closed: either way the batch had its start, and a closed id must never run again.
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    // Closed, and its batch still unclaimed: terminated, or workerdb went back in time. Nobody will claim it.
    if (batch.again) await endBatch(batch.batchId);
  }
}

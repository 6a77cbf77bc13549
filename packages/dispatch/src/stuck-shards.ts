/** Timer shards whose workflow task keeps failing (a bad deploy, a corrupt history): replaced by a fresh run. */
import { type Clock, type Log, type TimerManager, timerShardWorkflowIdOf } from '@milkrun/core';
import { WorkflowNotFoundError } from '@temporalio/client';
import type { TemporalClient } from './temporal-client.ts';

interface Task {
  readonly runId: string;
  readonly attempt: number;
}

export interface StuckShardsDeps {
  readonly store: { timerShards(): Promise<readonly number[]> };
  readonly client: TemporalClient;
  readonly timers: TimerManager;
  readonly clock: Clock;
  readonly log: Log;
  readonly stuckMs: number;
}

/**
 * Looks twice, `stuckMs` apart by this machine's own clock: a task that is failing at both looks, in the same run and
 * with no fewer attempts, has failed all that time. It holds nothing that workerdb does not, so terminating it loses nothing.
 */
export async function replaceStuckShards(deps: StuckShardsDeps, signal: AbortSignal): Promise<number[]> {
  const { store, client, timers, clock, log, stuckMs } = deps;
  const suspects = new Map<number, Task>();
  for (const timerShard of await store.timerShards()) {
    const task = await failingTask(client, timerShard);
    if (task !== undefined) suspects.set(timerShard, task);
  }
  if (suspects.size === 0) return [];
  await clock.sleep(stuckMs, signal);
  const replaced: number[] = [];
  for (const [timerShard, before] of suspects) {
    const now = await failingTask(client, timerShard);
    if (now?.runId !== before.runId || now.attempt < before.attempt) continue;
    const workflowId = timerShardWorkflowIdOf(timerShard);
    await client.workflow.getHandle(workflowId, now.runId).terminate('its workflow task kept failing');
    await timers.arm(timerShard);
    log.error({ timerShard, attempts: now.attempt }, 'timer_shard.replaced');
    replaced.push(timerShard);
  }
  return replaced;
}

/** The pending workflow task when it has failed at least once; a missing shard is started by whoever finds it quiet. */
async function failingTask(client: TemporalClient, timerShard: number): Promise<Task | undefined> {
  try {
    const { runId, status, raw } = await client.workflow.getHandle(timerShardWorkflowIdOf(timerShard)).describe();
    const attempt = raw.pendingWorkflowTask?.attempt ?? 0;
    return status.name === 'RUNNING' && attempt > 1 ? { runId, attempt } : undefined;
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return undefined;
    throw error;
  }
}

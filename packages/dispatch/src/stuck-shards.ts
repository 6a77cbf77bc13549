/**
 * Timer shards that do not get on: their workflow task keeps failing (a bad deploy, a corrupt history), or they were
 * signalled and still do not tick (a run on a queue or a version that nobody serves). Replaced by a fresh run.
 */
import { type Clock, type Log, type TimerManager, timerShardWorkflowIdOf } from '@milkrun/core';
import { WorkflowNotFoundError } from '@temporalio/client';
import type { TemporalClient } from './temporal-client.ts';

interface Task {
  readonly runId: string;
  readonly attempt: number;
  readonly startedAtMs: number;
}

export interface StuckShardsDeps {
  readonly store: {
    timerShards(): Promise<readonly number[]>;
    liveness(): Promise<{ readonly quietShards: readonly number[] }>;
  };
  readonly client: TemporalClient;
  readonly timers: TimerManager;
  readonly clock: Clock;
  readonly log: Log;
  readonly stuckMs: number;
  /** Shards that were quiet and have just been signalled. */
  readonly quiet: readonly number[];
}

/** Looks (half a check each) that a new run is given: with them and a last one it is replaced within two checks. */
const YOUNG_LOOKS = 3;

/**
 * Looks twice, `stuckMs` apart by this machine's own clock: a task that is failing at both looks, in the same run and
 * with no fewer attempts, has failed all that time. It holds nothing that workerdb does not, so terminating it loses nothing.
 */
export async function replaceStuckShards(deps: StuckShardsDeps, signal: AbortSignal): Promise<number[]> {
  const { store, client, timers, clock, log, stuckMs } = deps;
  // A run that has just begun is given its time, or an overloaded machine would see it replaced before it ever ticks.
  const isOldAndQuiet = (shard: number, task: Task | undefined): boolean =>
    task !== undefined && deps.quiet.includes(shard) && clock.now() - task.startedAtMs >= YOUNG_LOOKS * stuckMs;
  const shards = await store.timerShards();
  const found = await Promise.all(shards.map(async (shard) => [shard, await runningTask(client, shard)] as const));
  const suspects = found.filter(([shard, task]) => isFailing(task) || isOldAndQuiet(shard, task));
  if (suspects.length === 0) return [];
  await clock.sleep(stuckMs, signal);
  const stillQuiet = deps.quiet.length === 0 ? [] : (await store.liveness()).quietShards;
  const replaced: number[] = [];
  for (const [timerShard, before] of suspects) {
    const now = await runningTask(client, timerShard);
    if (now === undefined || now.runId !== before?.runId) continue;
    const isStuck =
      (isFailing(before) && isFailing(now) && now.attempt >= before.attempt) || stillQuiet.includes(timerShard);
    if (!isStuck) continue;
    const workflowId = timerShardWorkflowIdOf(timerShard);
    await client.workflow.getHandle(workflowId, now.runId).terminate('it did not get on');
    await timers.arm(timerShard);
    log.error({ timerShard, attempts: now.attempt }, 'timer_shard.replaced');
    replaced.push(timerShard);
  }
  return replaced;
}

const isFailing = (task: Task | undefined): boolean => task !== undefined && task.attempt > 1;

/** The run of a shard with its pending workflow task's attempt, 0 when none is pending; a missing shard is started by whoever finds it quiet. */
async function runningTask(client: TemporalClient, timerShard: number): Promise<Task | undefined> {
  try {
    const { runId, status, raw, startTime } = await client.workflow
      .getHandle(timerShardWorkflowIdOf(timerShard))
      .describe();
    return status.name === 'RUNNING'
      ? { runId, attempt: raw.pendingWorkflowTask?.attempt ?? 0, startedAtMs: startTime.getTime() }
      : undefined;
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return undefined;
    throw error;
  }
}

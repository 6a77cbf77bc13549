/** The TimerManager on Temporal: signal-with-start of a shard's workflow, so a shard that is missing is started. */
import { type Log, type Metrics, QUEUES, type TimerManager, timerShardWorkflowIdOf, WORKFLOWS } from '@milkrun/core';
import type { TemporalClient } from './temporal-client.ts';
import type { TimerShardInput } from './workflow.ts';

export interface TimerManagerDeps {
  readonly client: TemporalClient;
  readonly log: Log;
  readonly metrics: Metrics;
  /** Who arms; a tag of the metric. */
  readonly by: 'commit' | 'feed' | 'verb' | 'migration' | 'start';
  /** Task queue of the TimerShard workflow; the engine's own by default. */
  readonly taskQueue?: string;
}

/** One signal in flight a shard: arms that come meanwhile are served together by one more. */
export function createTimerManager(deps: TimerManagerDeps): TimerManager {
  const { client, log, metrics, by, taskQueue = QUEUES.timerShard } = deps;
  const inFlight = new Map<number, Promise<void>>();
  const waiting = new Map<number, Promise<void>>();

  async function signal(timerShard: number): Promise<void> {
    const input: TimerShardInput = { timerShard };
    try {
      await client.workflow.signalWithStart(WORKFLOWS.timerShard, {
        taskQueue,
        workflowId: timerShardWorkflowIdOf(timerShard),
        workflowIdReusePolicy: 'ALLOW_DUPLICATE',
        args: [input],
        signal: 'arm',
      });
      metrics.count('polling.dispatch.arms', 1, { by });
      metrics.count('polling.temporal.actions', 1, { kind: 'signal' });
    } catch (error) {
      log.warn({ timerShard, error: error instanceof Error ? error.message : String(error) }, 'timer_shard.arm_failed');
    }
  }

  function send(timerShard: number): Promise<void> {
    const sent = signal(timerShard).finally(() => inFlight.delete(timerShard));
    inFlight.set(timerShard, sent);
    return sent;
  }

  return {
    arm(timerShard) {
      const running = inFlight.get(timerShard);
      if (running === undefined) return send(timerShard);
      let next = waiting.get(timerShard);
      if (next === undefined) {
        next = running.then(() => {
          waiting.delete(timerShard);
          return send(timerShard);
        });
        waiting.set(timerShard, next);
      }
      return next;
    },
  };
}

/** Starts every timer shard that does not run, and wakes the others: each worker does so when it starts. */
export async function ensureShards(deps: {
  readonly store: { timerShards(): Promise<readonly number[]> };
  readonly timers: TimerManager;
}): Promise<void> {
  const shards = await deps.store.timerShards();
  await Promise.all(shards.map((timerShard) => deps.timers.arm(timerShard)));
}

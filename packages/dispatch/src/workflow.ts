/**
 * TimerShard: the one entity workflow of a timer shard.
 *
 * It ticks, sleeps until the next row is due (at least a tick, at most a minute), and ticks at once when it is armed. It
 * holds nothing that workerdb does not hold: it can be terminated and started again at any moment. Under worker versioning
 * it is AUTO_UPGRADE, by its worker's default: declared here, a worker without versioning could not run it.
 */
import {
  condition,
  continueAsNew,
  defineSignal,
  patched,
  proxyActivities,
  setHandler,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import type { TickActivities } from './activities.ts';
import { armGapMs, pauseMs, RUN_MS_MAX, TICK_SILENCE_MS_MAX } from './pacing.ts';
import { workflowNow } from './workflow-clock.ts';

export interface TimerShardInput {
  readonly timerShard: number;
  /** Milliseconds after which a run continues as a new one; an hour when absent. */
  readonly runMs?: number;
}

/** Something is due sooner than the recorded wake. Many arms before a tick are one. */
export const armSignal = defineSignal('arm');

// The tick is tried for as long as it takes: while workerdb is away there is nothing else to do. A worker that died in it is
// known by its silence, or the shard would stand still for the whole minute that a tick may take.
const { tick } = proxyActivities<TickActivities>({
  startToCloseTimeout: 60_000,
  heartbeatTimeout: TICK_SILENCE_MS_MAX,
  retry: { initialInterval: 1_000, backoffCoefficient: 2, maximumInterval: 10_000 },
});

export async function TimerShard(input: TimerShardInput): Promise<void> {
  let isArmed = false;
  setHandler(armSignal, () => {
    isArmed = true;
  });
  const startedAt = workflowNow();
  const isOld = (): boolean =>
    workflowInfo().continueAsNewSuggested || workflowNow() - startedAt >= (input.runMs ?? RUN_MS_MAX);
  // A server's timer fires up to a second late, which is ten gaps: the tick itself waits for the rest of one.
  const waitsInTick = patched('gap-in-tick');
  let waitMs = 0;
  while (!isOld()) {
    isArmed = false;
    const tickedAt = workflowNow() + waitMs;
    const outcome = await tick({ timerShard: input.timerShard, ...(waitMs > 0 ? { waitMs } : {}) });
    if (outcome.gone === true) return;
    const passedMs = (): number => workflowNow() - tickedAt;
    const restMs = pauseMs(outcome) - passedMs();
    if (restMs > 0) await condition(() => isArmed, restMs);
    const gapMs = armGapMs(outcome) - passedMs();
    if (waitsInTick) waitMs = Math.max(0, gapMs);
    else if (gapMs > 0) await sleep(gapMs);
  }
  // The next run begins with a tick, so an arm that came since the last one is not lost.
  await continueAsNew<typeof TimerShard>(input);
}

/**
 * PollingTriggerWorkflow: the legacy pipeline, one workflow for each trigger.
 *
 * It polls, sleeps until the next poll, and goes on as new from time to time. It holds nothing that registrydb does not: it
 * may be terminated and started again at any moment. `stop` ends it after the poll in progress, which may still commit.
 */
import {
  condition,
  continueAsNew,
  defineSignal,
  proxyActivities,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { LegacyActivities } from './activities.ts';

export interface PollingTriggerInput {
  readonly triggerId: string;
}

export const stopSignal = defineSignal('stop');
/** Something about the trigger has changed: look at once. */
export const wakeSignal = defineSignal('wake');

const POLLS_A_RUN = 500;

// Tried for as long as it takes: while registrydb is away there is nothing else to do.
const { pollTrigger } = proxyActivities<LegacyActivities>({
  startToCloseTimeout: 300_000,
  heartbeatTimeout: 15_000,
  retry: { initialInterval: 1_000, backoffCoefficient: 2, maximumInterval: 60_000 },
});

/** Answers why it ended. */
export async function PollingTriggerWorkflow(input: PollingTriggerInput): Promise<string> {
  let isStopped = false;
  let isWoken = false;
  setHandler(stopSignal, () => {
    isStopped = true;
  });
  setHandler(wakeSignal, () => {
    isWoken = true;
  });
  for (let polls = 0; polls < POLLS_A_RUN && !workflowInfo().continueAsNewSuggested; polls += 1) {
    isWoken = false;
    const outcome = await pollTrigger(input);
    if (outcome.next === 'stop') return outcome.reason;
    if (outcome.waitMs > 0) await condition(() => isStopped || isWoken, outcome.waitMs);
    if (isStopped) return 'stopped';
  }
  return await continueAsNew<typeof PollingTriggerWorkflow>(input);
}

/**
 * Starts and wakes workflows of the legacy pipeline: new triggers, changed ones, and those that are overdue, whose workflow
 * may be gone. Several workers may do so at once; a start of what runs is a signal.
 */
import { LEGACY_QUEUE, LEGACY_WORKFLOW, type LegacyStore, legacyWorkflowIdOf } from '@milkrun/core';
import type { Client } from '@temporalio/client';
import type { PollingTriggerInput } from './workflow.ts';

const AT_ONCE = 16;
const LIMIT = 500;

export interface StarterDeps {
  readonly store: Pick<LegacyStore, 'nudge'>;
  readonly client: Client;
  /** Task queue of the workflows; the pipeline's own by default. */
  readonly taskQueue?: string;
}

/** One round. Answers how many were started or woken, at most 500. */
export async function nudgeLegacy({ store, client, taskQueue = LEGACY_QUEUE }: StarterDeps): Promise<number> {
  const ids = await store.nudge(LIMIT);
  for (let at = 0; at < ids.length; at += AT_ONCE) {
    await Promise.all(ids.slice(at, at + AT_ONCE).map((triggerId) => wakeLegacy(client, triggerId, taskQueue)));
  }
  return ids.length;
}

/** Starts a trigger's workflow, or wakes the one that runs. */
export async function wakeLegacy(client: Client, triggerId: string, taskQueue: string = LEGACY_QUEUE): Promise<void> {
  const input: PollingTriggerInput = { triggerId };
  await client.workflow.signalWithStart(LEGACY_WORKFLOW, {
    taskQueue,
    workflowId: legacyWorkflowIdOf(triggerId),
    workflowIdReusePolicy: 'ALLOW_DUPLICATE',
    args: [input],
    signal: 'wake',
  });
}

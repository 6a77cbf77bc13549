import type { ActivityCommand } from '@milkrun/core';
import { scheduledWorkflowIdOf } from './ids.ts';

/** The start of one tick by command; `forced`: however late it is. */
export function startOf(
  activityId: string,
  atMs: number,
  forced: boolean,
): ActivityCommand & { readonly kind: 'start' } {
  const scheduledFor = new Date(atMs).toISOString();
  return {
    kind: 'start',
    activityId,
    workflowId: `${scheduledWorkflowIdOf(activityId)}-made-up-${scheduledFor}`,
    origin: 'cron',
    eventKey: null,
    version: null,
    dryRun: false,
    scheduledFor,
    forced,
  };
}

/** Names of the legacy pipeline, disjoint from v2's; free of Node, so workflow code may use them. */

export const LEGACY_QUEUE = 'legacy-poller';
/** The registered workflow name. */
export const LEGACY_WORKFLOW = 'PollingTriggerWorkflow';

const PREFIX = 'polling-trigger:';

/** `polling-trigger:{trigger id}`: the id of the one workflow of a trigger. */
export function legacyWorkflowIdOf(triggerId: string): string {
  return PREFIX + triggerId;
}

/** The trigger of such an id, or `undefined` for any other text. */
export function triggerIdOfLegacyWorkflowId(workflowId: string): string | undefined {
  return /^polling-trigger:([0-9a-f-]{36})$/.exec(workflowId)?.[1];
}

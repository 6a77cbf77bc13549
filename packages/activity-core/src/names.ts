/** Names in Temporal, as the seeds have them; free of Node, so workflow code may use them. */

export const ACTIVITY_QUEUES = { runs: 'orchestrator-tq', tasks: 'task-execution-tq' } as const;
export const ACTIVITY_WORKFLOWS = {
  run: 'RunActivityWorkflow',
  task: 'RunTaskWorkflow',
  collect: 'CollectEventsWorkflow',
} as const;
/** Search attribute of every run: Keyword. */
export const ACTIVITY_ID = 'activity_id';

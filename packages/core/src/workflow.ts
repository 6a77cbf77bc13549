export type { BatchPolicy, BatchPollerInput } from './batch-policy.ts';
export { hopBackoffSeconds, isForced, QUEUES, STEP_BUDGET_SECONDS, WORKFLOWS } from './batch-policy.ts';
export { batchIdOf, timerShardOfBatchId, timerShardOfWorkflowId, timerShardWorkflowIdOf } from './workflow-ids.ts';

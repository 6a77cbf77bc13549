export { batchIdOf, timerShardOfBatchId, timerShardOfWorkflowId, timerShardWorkflowIdOf } from './workflow-ids.ts';

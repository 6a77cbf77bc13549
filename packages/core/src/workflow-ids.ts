/** Workflow ids, made and parsed side by side; free of Node, so workflow code may use them. */

const BATCH = 'batch-poller:';
const TIMER = 'timer-shard:';

/** `batch-poller:{timer shard}:{uuidv7}`; the id is also the batch's key in workerdb and in the object store. */
export function batchIdOf(timerShard: number, uuid: string): string {
  return `${BATCH}${timerShard}:${uuid}`;
}

/** The timer shard named by a batch id, or `undefined` for any other text. */
export function timerShardOfBatchId(batchId: string): number | undefined {
  const match = /^batch-poller:(\d{1,6}):[0-9a-f-]{36}$/.exec(batchId);
  return match ? Number(match[1]) : undefined;
}

/** `timer-shard:{n}`: the id of the TimerShard workflow of one timer shard. */
export function timerShardWorkflowIdOf(timerShard: number): string {
  return `${TIMER}${timerShard}`;
}

/** The timer shard of a TimerShard workflow id, or `undefined`. */
export function timerShardOfWorkflowId(workflowId: string): number | undefined {
  const match = /^timer-shard:(\d{1,6})$/.exec(workflowId);
  return match ? Number(match[1]) : undefined;
}

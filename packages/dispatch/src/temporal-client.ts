/** What dispatch asks of Temporal's client, and nothing else: each of these is an effect that may fail on its own. */
import type { Client, WorkflowHandle } from '@temporalio/client';

export interface TemporalClient {
  readonly workflow: Pick<Client['workflow'], 'start' | 'signalWithStart' | 'list'> & {
    getHandle(workflowId: string, runId?: string): Pick<WorkflowHandle, 'describe' | 'terminate'>;
  };
}

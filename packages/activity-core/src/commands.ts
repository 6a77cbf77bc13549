/** Carries out what the API and the reconciler ask of Temporal. Every command may be carried out twice. */
import type { ActivityCommand, CollectInput, Log, ScheduleStore, StartCommand } from '@milkrun/core';
import { type Client, WorkflowExecutionAlreadyStartedError, WorkflowNotFoundError } from '@temporalio/client';
import { inboxWorkflowIdOf } from './ids.ts';
import { ACTIVITY_QUEUES, ACTIVITY_WORKFLOWS } from './names.ts';
import type { RunTrigger } from './run-types.ts';

export interface CommandDeps {
  readonly store: Pick<ScheduleStore, 'drainCommands'>;
  readonly client: Client;
  readonly log: Log;
  /** Queue of runs; the product's own by default. */
  readonly taskQueue?: string;
}

const DRAINED_AT_ONCE = 1_000;

/** Resolves to how many were carried out. */
export function drainCommands({ store, client, log, taskQueue = ACTIVITY_QUEUES.runs }: CommandDeps): Promise<number> {
  return store.drainCommands(async (command: ActivityCommand) => {
    try {
      if (command.kind === 'start') await startRun(client, taskQueue, command);
      else if (command.kind === 'task_done') await client.workflow.getHandle(command.taskId).signal('taskDone');
      else await client.workflow.getHandle(command.workflowId).cancel();
    } catch (error) {
      // Its workflow has ended: there is nobody left to tell.
      if (error instanceof WorkflowNotFoundError) return;
      log.warn({ kind: command.kind, error: String(error) }, 'activity.command_failed');
      throw error;
    }
  }, DRAINED_AT_ONCE);
}

/** Wakes who collects the events of a key, or the run they go to; starts it where there is none. */
export async function signalInbox(
  client: Client,
  taskQueue: string,
  { activityId, eventKey, version, to, key }: CollectInput & { readonly to: 'collect' | 'run' },
): Promise<void> {
  const trigger: RunTrigger = { origin: 'event', eventKey, version, inbox: key };
  const options = {
    workflowId: inboxWorkflowIdOf(activityId, to, key),
    taskQueue,
    workflowIdReusePolicy: 'ALLOW_DUPLICATE' as const,
    signal: 'event',
  };
  if (to === 'run')
    await client.workflow.signalWithStart(ACTIVITY_WORKFLOWS.run, { ...options, args: [activityId, trigger] });
  else await client.workflow.signalWithStart(ACTIVITY_WORKFLOWS.collect, { ...options, args: [activityId, key] });
}

/** Starts a run; one that was started before is success. */
export async function startRun(client: Client, taskQueue: string, start: StartCommand): Promise<'started' | 'already'> {
  const { activityId, workflowId, origin, eventKey, version, dryRun, scheduledFor, forced } = start;
  const trigger: RunTrigger = {
    origin,
    eventKey,
    version,
    ...(dryRun ? { dryRun } : {}),
    ...(scheduledFor === null ? {} : { scheduledFor }),
    ...(forced ? { forced } : {}),
  };
  try {
    await client.workflow.start(ACTIVITY_WORKFLOWS.run, {
      workflowId,
      taskQueue,
      workflowIdReusePolicy: 'REJECT_DUPLICATE',
      args: [activityId, trigger],
    });
    return 'started';
  } catch (error) {
    if (error instanceof WorkflowExecutionAlreadyStartedError) return 'already';
    throw error;
  }
}

/** From a run and its context to the rows of its tasks. */
import type { NewTask, RunRecord } from '@milkrun/core';
import { ApplicationFailure } from '@temporalio/activity';
import { durationMs } from '../duration.ts';
import { taskIdOf } from '../ids.ts';
import { PlanFailed, type PlannedTask, planTasks } from '../plan.ts';
import { definitionOf, runRoots } from './context.ts';

/** The plan, or a failure that no further try can change. */
export function planOf(run: RunRecord, context: Readonly<Record<string, unknown>>) {
  try {
    return planTasks(definitionOf(run), { ...runRoots(run), context });
  } catch (error) {
    if (!(error instanceof PlanFailed)) throw error;
    throw ApplicationFailure.create({
      type: `plan.${error.code}`,
      message: error.message,
      nonRetryable: true,
      cause: error,
    });
  }
}

export function newTask(runId: string, task: PlannedTask): NewTask {
  const { params, type } = task;
  const dueIn = (params as { due_in?: string }).due_in;
  return {
    ...task,
    taskId: taskIdOf(runId, task.ruleId, task.itemKey),
    mode: type === 'human' ? 'human' : 'auto',
    dueInMs: type === 'human' && dueIn !== undefined ? durationMs(dueIn) : null,
  };
}

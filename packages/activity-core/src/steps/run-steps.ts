/** The steps of a run as Temporal activities. Each may be repeated at any point; the database knows what was done. */
import type { ActivityStore, NewTask, RunRecord } from '@milkrun/core';
import { uuidv7 } from '@milkrun/core';
import { ApplicationFailure, Context } from '@temporalio/activity';
import { WorkflowNotFoundError } from '@temporalio/client';
import { closingStatus, toleratedOf } from '../closing.ts';
import type { ActivityDefinition } from '../definition.ts';
import { durationMs } from '../duration.ts';
import { ACTIVITY_QUEUES } from '../names.ts';
import { decideOpen } from '../open-run.ts';
import type { OpenStepInput, RunPlanOfWork, RunSteps } from '../run-types.ts';
import { definitionOf, resolveSource } from './context.ts';
import type { RunDeps } from './deps.ts';
import { createInboxSteps } from './inbox-steps.ts';
import { newTask, planOf } from './planning.ts';

const OPEN_TASKS = 5_000;

export function createRunSteps(deps: RunDeps): RunSteps {
  const { store, client, clock, rng, metrics, log } = deps;
  const taskQueue = deps.taskQueue ?? ACTIVITY_QUEUES.tasks;

  async function runOf(runId: string): Promise<RunRecord> {
    const run = await store.run(runId);
    if (run === null) throw ApplicationFailure.nonRetryable(`there is no run ${runId}`, 'run.gone');
    return run;
  }

  /** Ends tasks whose workflow is gone without having told: terminated, or lost with its history. */
  async function findLost(runId: string): Promise<void> {
    for (const { taskId, workflowId } of await store.startedTasks(runId)) {
      if (await isRunning(workflowId)) continue;
      const error = { code: 'task.lost', message: 'its workflow has ended without a result' };
      await store.finishTask(taskId, { status: 'failed', result: null, error, externalRef: null });
      log.warn({ taskId }, 'activity.task_lost');
    }
  }

  async function isRunning(workflowId: string): Promise<boolean> {
    try {
      return (await client.workflow.getHandle(workflowId).describe()).status.name === 'RUNNING';
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return false;
      throw error;
    }
  }

  return {
    ...createInboxSteps(deps),

    async openRun(input) {
      const opened = await store.openRun({ ...toOpen(input), runId: uuidv7(clock, rng) }, (facts) =>
        decideOpen(facts, input),
      );
      if (opened === null) return { state: 'ended', status: 'gone', reason: 'there is no such activity' };
      const { runId, status, reason, spec } = opened;
      metrics.count('activity.runs_opened', 1, { origin: input.trigger.origin, status });
      if (status !== 'queued' && status !== 'running') return { state: 'ended', status, reason };
      const run = planOfWork(runId, JSON.parse(spec) as ActivityDefinition, taskQueue);
      return { state: 'open', run, admitted: status === 'running' };
    },

    async admitRun(runId) {
      const { concurrency, rate } = definitionOf(await runOf(runId));
      const answer = await store.admitRun({
        runId,
        limit: concurrency?.limit ?? null,
        whenBusy: concurrency?.when_busy ?? 'queue',
        startsPerMinute: rate?.starts_per_minute ?? null,
      });
      if (answer.state !== 'wait') return answer;
      let gone = 0;
      for (const holder of answer.holders) {
        if (await isRunning(holder.workflowId)) {
          if (concurrency?.when_busy === 'replace') await client.workflow.getHandle(holder.workflowId).cancel();
          continue;
        }
        // Terminated from outside: nobody else would ever give its place back.
        await closeGone(store, holder.runId);
        gone += 1;
      }
      return { state: 'wait', waitMs: gone > 0 ? 1 : answer.waitMs };
    },

    async resolveContext({ runId, name }) {
      const run = await runOf(runId);
      const source = definitionOf(run).context[name];
      if (source === undefined) throw ApplicationFailure.nonRetryable(`there is no context source ${name}`, 'context');
      const value = await resolveSource(deps, run, name, source, Context.current().cancellationSignal);
      await store.saveContext(runId, name, JSON.stringify(value ?? null));
    },

    async skipContext({ runId, name }) {
      await store.saveContext(runId, name, 'null');
    },

    async planRun(runId) {
      const run = await runOf(runId);
      const context = await store.context(runId);
      const tasks: NewTask[] = [];
      let truncated = false;
      if (run.tasksPlanned === null) {
        const plan = planOf(run, context);
        truncated = plan.truncated;
        for (const task of plan.tasks) tasks.push(newTask(runId, task));
      }
      const counts = await store.savePlan(runId, { tasks, truncated, snapshot: JSON.stringify(context) });
      const { spawn } = definitionOf(run);
      const stops = spawn.on_failure === 'stop';
      return { stopAfterFailed: stops ? toleratedOf({ spawn }, counts.planned - counts.suppressed) : null };
    },

    openTasks: ({ runId, after, limit }) => store.openTasks(runId, after, limit),

    async checkTasks(runId) {
      await findLost(runId);
      const open = await store.openTasks(runId, -1, OPEN_TASKS);
      return { open: open.map(({ position }) => position), failed: (await store.counts(runId)).failed };
    },

    async closeRun({ runId, ended }) {
      const run = await runOf(runId);
      const definition = definitionOf(run);
      // What was not started is not started any more; what is at work is asked to end where the run was cancelled.
      await store.cancelPlanned(runId);
      if (ended?.status === 'cancelled') {
        for (const { workflowId } of await store.startedTasks(runId)) {
          await client.workflow.getHandle(workflowId).cancel().catch(ignoreGone);
        }
      }
      const closed = await store.closeRun({
        runId,
        ended,
        failuresMax: definition.breaker.failures,
        decide: (counts, truncated) => closingStatus(definition, counts, truncated),
      });
      for (const { workflowId } of closed.waiting) {
        await client.workflow.getHandle(workflowId).signal('placeFree').catch(ignoreGone);
      }
      metrics.count('activity.runs_closed', 1, { status: closed.status });
      const { slug, activityId } = run;
      log.info({ runId, activityId, slug, status: closed.status, ...closed.counts, why: ended }, 'activity.run_closed');
      if (closed.tripped) log.warn({ activityId, slug }, 'activity.tripped');
      return { status: closed.status };
    },
  };
}

const toOpen = ({ activityId, workflowId, temporalRunId, scheduledFor, trigger }: OpenStepInput) => ({
  activityId,
  workflowId,
  temporalRunId,
  scheduledFor,
  origin: trigger.origin,
  eventKey: trigger.eventKey,
  version: trigger.version,
  inboxKey: trigger.inbox ?? null,
});

function planOfWork(runId: string, definition: ActivityDefinition, taskQueue: string): RunPlanOfWork {
  const { context, spawn } = definition;
  return {
    runId,
    sources: Object.entries(context).map(([name, { timeout, optional }]) => ({
      name,
      timeoutMs: durationMs(timeout),
      optional,
    })),
    concurrency: spawn.concurrency,
    stopAfterFailed: null,
    taskQueue,
  };
}

async function closeGone(store: ActivityStore, runId: string): Promise<void> {
  await store.cancelPlanned(runId);
  const ended = { status: 'failed', code: 'run.lost', message: 'its workflow has ended without closing it' } as const;
  await store.closeRun({ runId, ended, failuresMax: 0, decide: () => 'failed' });
}

const ignoreGone = (error: unknown): void => {
  if (!(error instanceof WorkflowNotFoundError)) throw error;
};

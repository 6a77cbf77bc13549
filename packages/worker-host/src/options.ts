/** What a queue may be started with: a closed list, so that a misspelt option is an error and not a silent default. */
import { nearest } from '@milkrun/core';
import type { ActivityInterceptorsFactory, WorkerOptions } from '@temporalio/worker';

/** Options of the SDK's worker that reach it unchanged; the host owns connection, queue, namespace and shutdown times. */
const OPTION_NAMES = [
  'activities',
  'activityTaskPollerBehavior',
  'dataConverter',
  'defaultHeartbeatThrottleInterval',
  'enableNonLocalActivities',
  'identity',
  'interceptors',
  'maxActivitiesPerSecond',
  'maxCachedWorkflows',
  'maxConcurrentActivityTaskExecutions',
  'maxConcurrentActivityTaskPolls',
  'maxConcurrentLocalActivityExecutions',
  'maxConcurrentWorkflowTaskExecutions',
  'maxConcurrentWorkflowTaskPolls',
  'maxEagerActivityReservationsPerWorkflowTask',
  'maxHeartbeatThrottleInterval',
  'maxTaskQueueActivitiesPerSecond',
  'sinks',
  'stickyQueueScheduleToStartTimeout',
  'workerDeploymentOptions',
  'workflowBundle',
  'workflowTaskPollerBehavior',
  'workflowsPath',
] as const satisfies readonly (keyof WorkerOptions)[];

export type QueueOptions = Pick<WorkerOptions, (typeof OPTION_NAMES)[number]>;

const OUTSTANDING = 100;

/** Refuses what the host does not know, and an option list that can serve nothing. */
export function assertQueueOptions(queue: string, options: object): asserts options is QueueOptions {
  if (queue === '') throw new TypeError('a worker needs the name of a task queue');
  for (const name of Object.keys(options)) {
    if ((OPTION_NAMES as readonly string[]).includes(name)) continue;
    const meant = nearest(name, OPTION_NAMES);
    throw new TypeError(
      `unknown option ${name} of the worker for ${queue}${meant === undefined ? '' : `: did you mean ${meant}?`}`,
    );
  }
  const { activities, workflowBundle, workflowsPath } = options as QueueOptions;
  if (activities === undefined && workflowBundle === undefined && workflowsPath === undefined) {
    throw new TypeError(`the worker for ${queue} has neither workflows nor activities`);
  }
}

/**
 * Fills the defaults (100 outstanding of each kind, 100 cached workflows, never fewer than run at once) and puts the host's
 * interceptor outside those given.
 */
export function withDefaults(options: QueueOptions, watch: ActivityInterceptorsFactory): QueueOptions {
  const workflowTasks = options.maxConcurrentWorkflowTaskExecutions ?? OUTSTANDING;
  return {
    ...options,
    interceptors: { ...options.interceptors, activity: [watch, ...(options.interceptors?.activity ?? [])] },
    maxConcurrentActivityTaskExecutions: options.maxConcurrentActivityTaskExecutions ?? OUTSTANDING,
    maxConcurrentWorkflowTaskExecutions: workflowTasks,
    maxCachedWorkflows: Math.max(options.maxCachedWorkflows ?? OUTSTANDING, workflowTasks),
  };
}

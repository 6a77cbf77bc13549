/** What passes between the run workflows and their steps: keys, limits and counts, never data of events or contexts. */

/** What started a run. */
export interface RunTrigger {
  readonly origin: 'cron' | 'at' | 'event' | 'manual';
  /** Key of the stored event; null for ticks. */
  readonly eventKey: string | null;
  /** Version at match time; null: the version current when it opens. */
  readonly version: number | null;
  readonly dryRun?: boolean;
  /** A tick that is made up for, RFC 3339. */
  readonly scheduledFor?: string;
  /** It runs however late it is. */
  readonly forced?: boolean;
  /** Key of the events that are handed to the run while it is open. */
  readonly inbox?: string;
  /** Runs of that key this workflow had before. */
  readonly generation?: number;
  /** Set by continue-as-new only. */
  readonly resume?: RunProgress;
}

/** Where a run stands when it goes on in a new execution. */
interface RunProgress {
  readonly run: RunPlanOfWork;
  /** Position of the last task that was started. */
  readonly position: number;
  /** Positions of the tasks at work, and of those that wait for a person. */
  readonly open: readonly number[];
  readonly waiting: readonly number[];
  readonly failed: number;
}

export interface OpenStepInput {
  readonly activityId: string;
  readonly trigger: RunTrigger;
  readonly workflowId: string;
  readonly temporalRunId: string;
  /** Nominal time of a tick, RFC 3339. */
  readonly scheduledFor: string | null;
}

/** What a run that was opened has to do. */
export interface RunPlanOfWork {
  readonly runId: string;
  readonly sources: readonly { readonly name: string; readonly timeoutMs: number; readonly optional: boolean }[];
  /** Tasks at work at once. */
  readonly concurrency: number;
  /** Failed tasks after which no further task is started; null: all are started whatever fails. */
  readonly stopAfterFailed: number | null;
  readonly taskQueue: string;
}

type OpenStepResult =
  | { readonly state: 'open'; readonly run: RunPlanOfWork; readonly admitted: boolean }
  | { readonly state: 'ended'; readonly status: string; readonly reason: string | null };

type AdmitStepResult =
  | { readonly state: 'go' }
  | { readonly state: 'wait'; readonly waitMs: number }
  | { readonly state: 'ended'; readonly status: string };

export interface TaskRef {
  readonly taskId: string;
  readonly position: number;
  readonly type: string;
  readonly timeoutMs: number;
  readonly attempts: number;
}

interface TaskProgress {
  /** Positions of all tasks that have not ended. */
  readonly open: readonly number[];
  readonly failed: number;
}

interface CloseStepInput {
  readonly runId: string;
  readonly ended: { readonly status: 'failed' | 'cancelled'; readonly code: string; readonly message: string } | null;
}

export interface RunResult {
  readonly status: string;
  readonly runId?: string;
  readonly reason?: string | null;
}

/** Steps over events that are collected, or handed to open runs. */
export interface InboxSteps {
  /** Hands on what was collected once it is time: `started`. Else how long to wait, or that nothing is there. */
  collectRound(input: {
    readonly activityId: string;
    readonly key: string;
    /** Names what is taken: the same again answers the same. */
    readonly batch: string;
  }): Promise<
    { readonly state: 'empty' } | { readonly state: 'wait'; readonly waitMs: number } | { readonly state: 'started' }
  >;
  /** Plans the tasks of events that were handed to the run. */
  takeDelivered(runId: string): Promise<{ readonly taken: number }>;
  /** The oldest event of a key that no run has taken. */
  nextDelivered(input: {
    readonly activityId: string;
    readonly key: string;
  }): Promise<{ readonly eventKey: string; readonly version: number } | null>;
}

/** Steps of a run, on the queue of runs. */
export interface RunSteps extends InboxSteps {
  openRun(input: OpenStepInput): Promise<OpenStepResult>;
  admitRun(runId: string): Promise<AdmitStepResult>;
  resolveContext(input: { readonly runId: string; readonly name: string }): Promise<void>;
  skipContext(input: { readonly runId: string; readonly name: string }): Promise<void>;
  planRun(runId: string): Promise<{ readonly stopAfterFailed: number | null }>;
  openTasks(input: {
    readonly runId: string;
    readonly after: number;
    readonly limit: number;
  }): Promise<readonly TaskRef[]>;
  checkTasks(runId: string): Promise<TaskProgress>;
  closeRun(input: CloseStepInput): Promise<{ readonly status: string }>;
}

export interface TaskInput {
  readonly task: TaskRef;
  readonly runWorkflowId: string;
}

export type TaskStatusText = 'done' | 'failed' | 'cancelled';

/** Told to the run when a task has ended. */
export interface TaskEnded {
  readonly position: number;
  readonly status: TaskStatusText;
}

/** Steps of a task, on the queue of tasks. */
export interface TaskSteps {
  /** Carries out a task of type http, event or noop. */
  performTask(taskId: string): Promise<TaskStatusText>;
  /** The child workflow a task of type workflow stands for; null when the task has ended. */
  workflowTask(
    taskId: string,
  ): Promise<{ readonly workflow: string; readonly queue: string; readonly args: unknown[] } | null>;
  /** Begins a human task, or looks whether it has ended. */
  humanTask(taskId: string): Promise<TaskStatusText | 'waiting'>;
  finishTask(input: {
    readonly taskId: string;
    readonly status: TaskStatusText;
    readonly result: unknown;
    readonly error: { readonly code: string; readonly message: string } | null;
  }): Promise<void>;
}

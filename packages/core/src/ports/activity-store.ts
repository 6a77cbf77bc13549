/**
 * ActivityStore: what the steps of a run ask of registrydb.
 *
 * Decisions stay with the caller: where one has to be taken under a lock it is handed in as a pure function and called
 * inside the transaction, at most once for each try of it.
 */
import type { InboxStore } from './inbox-store.ts';

export type RunStatus =
  | 'queued'
  | 'running'
  | 'succeeded'
  | 'partial'
  | 'failed'
  | 'missed'
  | 'coalesced'
  | 'duplicate'
  | 'skipped'
  | 'cancelled';
export type TaskStatus = 'planned' | 'running' | 'waiting' | 'done' | 'failed' | 'suppressed' | 'cancelled';

export interface OpenRunInput {
  readonly activityId: string;
  /** A fresh UUID, used when the run is new. */
  readonly runId: string;
  readonly workflowId: string;
  /** The first execution of the workflow: the same for all its hops. */
  readonly temporalRunId: string;
  readonly origin: 'cron' | 'at' | 'event' | 'manual';
  /** Nominal time, RFC 3339. */
  readonly scheduledFor: string | null;
  /** Key of the stored event. */
  readonly eventKey: string | null;
  /** Of the match; null: the current one. */
  readonly version: number | null;
  /** Key of the events that are handed to the run while it is open; null: none are. */
  readonly inboxKey: string | null;
}

/** What is known when a run is opened, read under the lock of its activity. */
export interface OpenRunFacts {
  readonly slug: string;
  readonly version: number;
  /** The definition of that version, JSON text. */
  readonly spec: string;
  readonly enabled: boolean;
  readonly status: 'active' | 'done' | 'tripped';
  readonly coveredMs: number | null;
  readonly nowMs: number;
  /** The stored event, JSON text of its record. */
  readonly event: string | null;
}

export interface OpenRunDecision {
  readonly status: 'queued' | 'running' | 'missed' | 'coalesced' | 'skipped' | 'failed';
  readonly reason: string | null;
  readonly dedupeKey: string;
  /** The new mark; null leaves it. */
  readonly coveredMs: number | null;
  readonly window: { readonly startMs: number; readonly endMs: number; readonly missedCount: number } | null;
  /** The root `event` of the run, JSON text. */
  readonly event: string;
  /** An event to be stored along with the run: the firing of a tick. */
  readonly newEvent: NewEvent | null;
  readonly concurrencyKey: string | null;
  readonly dryRun: boolean;
  /** The activity runs once, and this was it. */
  readonly isDone: boolean;
}

export interface NewEvent {
  readonly key: string;
  readonly source: string;
  readonly id: string;
  readonly type: string;
  readonly time: string | null;
  readonly origin:
    | 'cron'
    | 'at'
    | 'manual'
    | 'api'
    | 'webhook'
    | 'bus'
    | 'poll'
    | 'task'
    | 'own'
    | 'collected'
    | 'replay';
  /** JSON text. */
  readonly record: string;
}

export interface OpenedRun {
  readonly runId: string;
  readonly status: RunStatus;
  readonly reason: string | null;
  readonly version: number;
  readonly spec: string;
}

export interface AdmitInput {
  readonly runId: string;
  /** Runs of one concurrency key at a time; null: any number. */
  readonly limit: number | null;
  readonly whenBusy: 'queue' | 'skip' | 'replace';
  readonly startsPerMinute: number | null;
}

export type Admission =
  | { readonly state: 'go' }
  /** Not now: ask again after `waitMs`, or when a holder has ended. */
  | { readonly state: 'wait'; readonly waitMs: number; readonly holders: readonly RunHolder[] }
  | { readonly state: 'ended'; readonly status: RunStatus };

export interface RunHolder {
  readonly runId: string;
  readonly workflowId: string;
}

/** A run as its steps read it. */
export interface RunRecord {
  readonly runId: string;
  readonly activityId: string;
  readonly tenantId: string;
  readonly slug: string;
  readonly version: number;
  readonly spec: string;
  readonly status: RunStatus;
  readonly event: Readonly<Record<string, unknown>>;
  readonly eventKey: string | null;
  readonly firedAt: string;
  readonly scheduledFor: string | null;
  readonly dryRun: boolean;
  /** Null until planned. */
  readonly tasksPlanned: number | null;
  readonly inboxKey: string | null;
}

export interface NewTask {
  readonly taskId: string;
  readonly ruleId: string;
  readonly itemKey: string;
  readonly position: number;
  readonly type: string;
  readonly mode: 'auto' | 'human';
  readonly title: string;
  readonly params: unknown;
  readonly labels: readonly string[];
  readonly uniqueKey: string | null;
  readonly uniqueForMs: number | null;
  /** Human tasks: due so long after they were planned. */
  readonly dueInMs: number | null;
  readonly timeoutMs: number;
  readonly attempts: number;
}

export interface PlannedTaskRef {
  readonly taskId: string;
  readonly position: number;
  readonly type: string;
  readonly timeoutMs: number;
  readonly attempts: number;
}

export interface TaskRecord extends PlannedTaskRef {
  readonly runId: string;
  readonly activityId: string;
  readonly tenantId: string;
  readonly ruleId: string;
  readonly title: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly labels: readonly string[];
  readonly status: TaskStatus;
  readonly eventKey: string | null;
  /** The event of the run, for what a task hands on of it. */
  readonly event: Readonly<Record<string, unknown>>;
}

export interface TaskOutcome {
  readonly status: 'done' | 'failed' | 'cancelled';
  readonly result: unknown;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly externalRef: string | null;
  /** An event the task puts on the bus. */
  readonly publish?: Pick<NewEvent, 'key' | 'record'>;
}

export interface TaskCounts {
  readonly planned: number;
  readonly open: number;
  readonly done: number;
  readonly failed: number;
  /** Of those that ended, by a person. */
  readonly endedHuman: number;
  readonly suppressed: number;
  readonly cancelled: number;
}

export interface CloseRunInput {
  readonly runId: string;
  /** Set where the run itself failed or was cancelled; null: its tasks decide. */
  readonly ended: { readonly status: 'failed' | 'cancelled'; readonly code: string; readonly message: string } | null;
  /** Failed runs in a row that trip the activity; 0: never. */
  readonly failuresMax: number;
  readonly decide: (counts: TaskCounts, truncated: boolean) => 'succeeded' | 'partial' | 'failed';
}

export interface ClosedRun {
  readonly status: RunStatus;
  readonly counts: TaskCounts;
  /** This close tripped the activity. */
  readonly tripped: boolean;
  /** Workflows of runs that wait for a place of the same key, oldest first. */
  readonly waiting: readonly RunHolder[];
}

export interface ActivityStore extends InboxStore {
  /** Opens the run of a workflow, once: a repeat answers what was opened before. Null: no such activity. */
  openRun(input: OpenRunInput, decide: (facts: OpenRunFacts) => OpenRunDecision): Promise<OpenedRun | null>;
  admitRun(input: AdmitInput): Promise<Admission>;
  /** Null when there is none. */
  run(runId: string): Promise<RunRecord | null>;
  /** `value`: JSON text. A repeat replaces it, until the run is planned. */
  saveContext(runId: string, name: string, value: string): Promise<void>;
  /** Sources that were resolved; once the run is planned, those of its snapshot. */
  context(runId: string): Promise<Readonly<Record<string, unknown>>>;
  /** The last events of a type, newest first, and how many there were. */
  recentEvents(
    tenantId: string,
    filter: { readonly type: string; readonly last: number; readonly withinMs: number },
  ): Promise<{ readonly count: number; readonly last: readonly unknown[] }>;
  /** Writes all tasks of a run in one transaction, once; those whose unique key is taken are `suppressed`. */
  savePlan(
    runId: string,
    plan: { readonly tasks: readonly NewTask[]; readonly truncated: boolean; readonly snapshot: string },
  ): Promise<TaskCounts>;
  /** Open tasks after a position, in order. */
  openTasks(runId: string, afterPosition: number, limit: number): Promise<readonly PlannedTaskRef[]>;
  counts(runId: string): Promise<TaskCounts>;
  /** Tasks that were started and not ended, with their workflows. */
  startedTasks(runId: string): Promise<readonly { readonly taskId: string; readonly workflowId: string }[]>;
  /** Marks a task as begun and answers it; null when it has ended or is not there. */
  beginTask(
    taskId: string,
    how: { readonly workflowId: string; readonly waiting: boolean; readonly attempt: number },
  ): Promise<TaskRecord | null>;
  taskStatus(taskId: string): Promise<TaskStatus | null>;
  /** Ends a task, once; null: it had ended, or is not there. */
  finishTask(taskId: string, outcome: TaskOutcome): Promise<{ readonly type: string } | null>;
  /** Planned tasks of a run become `cancelled`. */
  cancelPlanned(runId: string): Promise<number>;
  /** Ends a run, once; a repeat answers the same. */
  closeRun(input: CloseRunInput): Promise<ClosedRun>;
}

/**
 * RunActivityWorkflow: open → context → plan → spawn → close; and RunTaskWorkflow, one for each task.
 *
 * The database holds the truth; history holds keys and counts. A run goes on in a new execution after 500 started tasks,
 * and tasks outlive it: they tell the run when they end, by its id, which stays. Whatever is not told (a task that was
 * terminated) is found by a check now and then. A run that was opened is always closed, cancelled ones too.
 */
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import {
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  ChildWorkflowFailure,
  condition,
  continueAsNew,
  defineSignal,
  executeChild,
  getExternalWorkflowHandle,
  isCancellation,
  log,
  ParentClosePolicy,
  proxyActivities,
  setHandler,
  startChild,
  TerminatedFailure,
  TimeoutFailure,
  upsertSearchAttributes,
  WorkflowIdReusePolicy,
  workflowInfo,
} from '@temporalio/workflow';
import { ACTIVITY_ID, ACTIVITY_WORKFLOWS } from './names.ts';
import type {
  RunPlanOfWork,
  RunResult,
  RunSteps,
  RunTrigger,
  TaskEnded,
  TaskInput,
  TaskRef,
  TaskStatusText,
  TaskSteps,
} from './run-types.ts';

/** A task of the run has ended. */
export const taskEndedSignal = defineSignal<[TaskEnded]>('taskEnded');
/** A run before this one has ended: there may be a place. */
export const placeFreeSignal = defineSignal('placeFree');
/** A person has completed the task: its row says how. */
export const taskDoneSignal = defineSignal('taskDone');

/** An event was put into the inbox of this workflow. */
export const eventSignal = defineSignal('event');

const STARTED_MAX = 500;
const PAGE = 100;
const CHECK_MS_FIRST = 60_000;
const CHECK_MS_MAX = 3_600_000;

const RETRY = { initialInterval: 500, backoffCoefficient: 2, maximumInterval: 30_000 };
// The database may be away for as long as it likes: these steps are tried until they answer.
const steady = proxyActivities<RunSteps>({ startToCloseTimeout: 30_000, retry: RETRY });

const codeOf = (error: unknown, fallback: string): { readonly code: string; readonly message: string } => {
  const cause = error instanceof ActivityFailure || error instanceof ChildWorkflowFailure ? error.cause : error;
  if (cause instanceof ApplicationFailure) return { code: cause.type ?? fallback, message: cause.message };
  if (cause instanceof TimeoutFailure) return { code: `${fallback}.timeout`, message: 'took longer than its time-out' };
  if (cause instanceof TerminatedFailure) return { code: `${fallback}.terminated`, message: 'was terminated' };
  return { code: fallback, message: cause instanceof Error ? cause.message : String(cause) };
};

/** Opens, plans and closes one run; where events are handed to open runs, the runs of one key one after the other. */
export async function RunActivityWorkflow(activityId: string, trigger: RunTrigger): Promise<RunResult> {
  const inbox: Inbox | undefined = trigger.inbox === undefined ? undefined : { told: 0, seen: 0 };
  if (inbox !== undefined) {
    setHandler(eventSignal, () => {
      inbox.told += 1;
    });
  }
  const result = await runOnce(activityId, trigger, inbox);
  if (inbox === undefined || trigger.inbox === undefined) return result;
  // An event that came while the run was closing opens the next.
  for (;;) {
    inbox.seen = inbox.told;
    const next = await steady.nextDelivered({ activityId, key: trigger.inbox });
    if (next !== null) {
      const { resume: _, ...rest } = trigger;
      return await continueAsNew<typeof RunActivityWorkflow>(activityId, {
        ...rest,
        ...next,
        generation: (trigger.generation ?? 0) + 1,
      });
    }
    if (inbox.told === inbox.seen) return result;
  }
}

/** Signals of events, and how many of them were looked after. */
interface Inbox {
  told: number;
  seen: number;
}

async function runOnce(activityId: string, trigger: RunTrigger, inbox: Inbox | undefined): Promise<RunResult> {
  const info = workflowInfo();
  const { resume } = trigger;
  const work: Work = {
    position: resume?.position ?? -1,
    open: new Set(resume?.open),
    waiting: new Set(resume?.waiting),
    failed: resume?.failed ?? 0,
    ended: 0,
  };
  let places = 0;
  setHandler(placeFreeSignal, () => {
    places += 1;
  });
  setHandler(taskEndedSignal, ({ position, status }) => {
    // What the database told before is not counted again.
    if (!work.open.delete(position) && !work.waiting.delete(position)) return;
    work.ended += 1;
    if (status === 'failed') work.failed += 1;
  });

  let run = resume?.run;
  if (run === undefined) {
    upsertSearchAttributes({ [ACTIVITY_ID]: [activityId] });
    const opened = await steady.openRun({
      activityId,
      trigger,
      workflowId: info.workflowId,
      // Runs of one key are several in one workflow, each a row of its own.
      temporalRunId: `${info.firstExecutionRunId}${trigger.generation === undefined ? '' : `~${trigger.generation}`}`,
      scheduledFor: trigger.scheduledFor ?? nominalTime(),
    });
    if (opened.state === 'ended') return { status: opened.status, reason: opened.reason };
    run = opened.run;
    if (!opened.admitted) {
      const refused = await waitForPlace(run, () => places);
      if (refused !== undefined) return refused;
    }
  }
  const { runId } = run;
  try {
    if (resume === undefined) run = { ...run, ...(await prepare(run)) };
    if (await spawn(run, work, inbox)) {
      const { status } = await steady.closeRun({ runId, ended: null });
      return { status, runId };
    }
  } catch (error) {
    const cancelled = isCancellation(error);
    const why = cancelled ? { code: 'run.cancelled', message: 'the run was cancelled' } : codeOf(error, 'run.failed');
    log.warn('a run did not come to its end', { runId, ...why });
    // Cancelled or not, a run that was opened is closed.
    const status = cancelled ? 'cancelled' : 'failed';
    const closed = await CancellationScope.nonCancellable(() => steady.closeRun({ runId, ended: { status, ...why } }));
    if (cancelled) throw error;
    return { status: closed.status, runId, reason: why.message };
  }
  const { position, open, waiting, failed } = work;
  const next = { run, position, open: [...open], waiting: [...waiting], failed };
  return await continueAsNew<typeof RunActivityWorkflow>(activityId, { ...trigger, resume: next });
}

/** What this execution knows of the run's tasks. */
interface Work {
  /** Of the last task that was started. */
  position: number;
  readonly open: Set<number>;
  readonly waiting: Set<number>;
  failed: number;
  /** Ends heard of in this execution. */
  ended: number;
}

/** Nominal time of the tick, without jitter; null for a run no schedule started. */
function nominalTime(): string | null {
  const [at] = (workflowInfo().searchAttributes?.TemporalScheduledStartTime ?? []) as unknown as (Date | string)[];
  return at === undefined ? null : new Date(at).toISOString();
}

/** Waits its turn; the answer is set when it never comes. */
async function waitForPlace({ runId }: RunPlanOfWork, places: () => number): Promise<RunResult | undefined> {
  try {
    for (;;) {
      const before = places();
      const answer = await steady.admitRun(runId);
      if (answer.state === 'go') return undefined;
      if (answer.state === 'ended') return { status: answer.status, runId };
      await condition(() => places() > before, answer.waitMs);
    }
  } catch (error) {
    if (!isCancellation(error)) throw error;
    const ended = { status: 'cancelled', code: 'run.cancelled', message: 'cancelled while it waited' } as const;
    await CancellationScope.nonCancellable(() => steady.closeRun({ runId, ended }));
    throw error;
  }
}

/** Context, all sources at once, then the plan. */
async function prepare({ runId, sources }: RunPlanOfWork): Promise<Pick<RunPlanOfWork, 'stopAfterFailed'>> {
  await Promise.all(
    sources.map(async ({ name, timeoutMs, optional }) => {
      const { resolveContext } = proxyActivities<RunSteps>({
        startToCloseTimeout: timeoutMs + 10_000,
        retry: { ...RETRY, maximumAttempts: 4 },
      });
      try {
        await resolveContext({ runId, name });
      } catch (error) {
        if (!optional || isCancellation(error)) throw error;
        await steady.skipContext({ runId, name });
      }
    }),
  );
  return steady.planRun(runId);
}

/**
 * Starts the tasks in a window and waits for their ends, and plans those of events that are handed to it meanwhile. False: it
 * has to go on in a new execution.
 */
async function spawn(run: RunPlanOfWork, work: Work, inbox: Inbox | undefined): Promise<boolean> {
  const here = { started: 0, checkMs: CHECK_MS_FIRST };
  const isStopped = (): boolean => run.stopAfterFailed !== null && work.failed > run.stopAfterFailed;
  const isLong = (): boolean => here.started >= STARTED_MAX || workflowInfo().continueAsNewSuggested;

  /** Waits until `done`, asking the database now and then for what nobody told. False: the history has become long. */
  async function until(done: () => boolean): Promise<boolean> {
    while (!done()) {
      if (isLong()) return false;
      const before = work.ended;
      if (await condition(() => done() || work.ended > before, here.checkMs)) {
        here.checkMs = CHECK_MS_FIRST;
        continue;
      }
      here.checkMs = Math.min(CHECK_MS_MAX, here.checkMs * 2);
      const known = await steady.checkTasks(run.runId);
      const stillOpen = new Set(known.open);
      for (const group of [work.open, work.waiting]) {
        for (const position of group) if (!stillOpen.has(position)) group.delete(position);
      }
      work.failed = Math.max(work.failed, known.failed);
    }
    return true;
  }

  const isOver = (): boolean => work.open.size + work.waiting.size === 0;
  if (inbox === undefined) return (await startPlanned()) && (await until(isOver));
  for (;;) {
    if (!(await startPlanned())) return false;
    // Once at the least: what was handed over before the first signal is heard counts too.
    if (!(await until(() => isOver() || inbox.told > inbox.seen))) return false;
    inbox.seen = inbox.told;
    const { taken } = await steady.takeDelivered(run.runId);
    if (taken === 0 && isOver()) return true;
  }

  /** Starts what is planned and not started. False: the history has become long. */
  async function startPlanned(): Promise<boolean> {
    for (let page: readonly TaskRef[] | undefined; page === undefined || page.length === PAGE; ) {
      page = await steady.openTasks({ runId: run.runId, after: work.position, limit: PAGE });
      for (const task of page) {
        const human = task.type === 'human';
        if (!(await until(() => human || work.open.size < run.concurrency || isStopped())) || isLong()) return false;
        if (isStopped()) break;
        // Entered before it is started: its end may be told before its start is.
        (human ? work.waiting : work.open).add(task.position);
        work.position = task.position;
        here.started += 1;
        await startTask(task, run);
      }
      if (isStopped()) break;
    }
    return true;
  }
}

async function startTask(task: TaskRef, { taskQueue }: RunPlanOfWork): Promise<void> {
  const input: TaskInput = { task, runWorkflowId: workflowInfo().workflowId };
  try {
    await startChild(ACTIVITY_WORKFLOWS.task, {
      workflowId: task.taskId,
      taskQueue,
      args: [input],
      // A run that goes on in a new execution leaves its tasks at work.
      parentClosePolicy: ParentClosePolicy.ABANDON,
      workflowIdReusePolicy: WorkflowIdReusePolicy.REJECT_DUPLICATE,
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
  }
}

/** Waits until what was collected under a key is to be handed on, and ends when nothing is left. */
export async function CollectEventsWorkflow(activityId: string, key: string, before = 0): Promise<void> {
  const inbox: Inbox = { told: 0, seen: 0 };
  setHandler(eventSignal, () => {
    inbox.told += 1;
  });
  let rounds = before;
  for (;;) {
    inbox.seen = inbox.told;
    const batch = `${workflowInfo().firstExecutionRunId}~${rounds}`;
    const answer = await steady.collectRound({ activityId, key, batch });
    if (answer.state === 'started') rounds += 1;
    else if (answer.state === 'wait') await condition(() => inbox.told > inbox.seen, answer.waitMs);
    else if (inbox.told === inbox.seen) return;
    if (workflowInfo().continueAsNewSuggested) {
      return await continueAsNew<typeof CollectEventsWorkflow>(activityId, key, rounds);
    }
  }
}

export async function RunTaskWorkflow({
  task,
  runWorkflowId,
}: TaskInput): Promise<{ readonly status: TaskStatusText }> {
  const { taskId, type, position } = task;
  const steps = proxyActivities<TaskSteps>({ startToCloseTimeout: 60_000, retry: RETRY });
  let status: TaskStatusText;
  try {
    if (type === 'human') status = await waitForPerson(taskId, steps);
    else if (type === 'workflow') status = await runChild(task, steps);
    else {
      const { performTask } = proxyActivities<TaskSteps>({
        startToCloseTimeout: task.timeoutMs + 10_000,
        heartbeatTimeout: 30_000,
        retry: { ...RETRY, maximumAttempts: task.attempts },
      });
      status = await performTask(taskId);
    }
  } catch (error) {
    status = isCancellation(error) ? 'cancelled' : 'failed';
    const why =
      status === 'cancelled' ? { code: 'task.cancelled', message: 'was cancelled' } : codeOf(error, 'task.failed');
    await CancellationScope.nonCancellable(() => steps.finishTask({ taskId, status, result: null, error: why }));
  }
  const ended: TaskEnded = { position, status };
  try {
    await CancellationScope.nonCancellable(() =>
      getExternalWorkflowHandle(runWorkflowId).signal(taskEndedSignal, ended),
    );
  } catch (error) {
    // The run has ended without waiting: nobody is left to tell.
    log.info('the run of a task has ended before it', { taskId, error: String(error) });
  }
  return { status };
}

async function runChild(task: TaskRef, steps: Pick<TaskSteps, 'workflowTask' | 'finishTask'>): Promise<TaskStatusText> {
  const { taskId, timeoutMs } = task;
  const child = await steps.workflowTask(taskId);
  if (child === null) return 'done';
  const result: unknown = await executeChild(child.workflow, {
    workflowId: `${taskId}/workflow`,
    taskQueue: child.queue,
    args: child.args,
    workflowExecutionTimeout: timeoutMs,
    workflowIdReusePolicy: WorkflowIdReusePolicy.REJECT_DUPLICATE,
  });
  await steps.finishTask({ taskId, status: 'done', result: result ?? null, error: null });
  return 'done';
}

async function waitForPerson(taskId: string, steps: Pick<TaskSteps, 'humanTask'>): Promise<TaskStatusText> {
  let told = 0;
  setHandler(taskDoneSignal, () => {
    told += 1;
  });
  for (;;) {
    const before = told;
    const state = await steps.humanTask(taskId);
    if (state !== 'waiting') return state;
    await condition(() => told > before, CHECK_MS_MAX);
  }
}

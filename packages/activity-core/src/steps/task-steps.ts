/** The steps of a task as Temporal activities. Delivered at least once, always with the same Idempotency-Key. */
import type { TaskOutcome, TaskRecord } from '@milkrun/core';
import { ApplicationFailure, Context } from '@temporalio/activity';
import { EVENT_LIMITS, eventOf, recordOf } from '../event.ts';
import { eventKeyOf } from '../ids.ts';
import type { TaskStatusText, TaskSteps } from '../run-types.ts';
import { isWorthAnotherTry } from './context.ts';
import { OutboundFailed, type RunDeps } from './deps.ts';

const ANSWER_BYTES_MAX = 1024 * 1024;
const KEPT_CHARACTERS = 16_384;
const HEARTBEAT_MS = 5_000;
const RETRY_AFTER_MS_MAX = 3_600_000;

export function createTaskSteps(deps: RunDeps): TaskSteps {
  const { store, metrics, clock } = deps;

  async function begin(taskId: string, waiting: boolean): Promise<TaskRecord | TaskStatusText> {
    const { workflowExecution, attempt } = Context.current().info;
    const task = await store.beginTask(taskId, {
      workflowId: workflowExecution?.workflowId ?? taskId,
      waiting,
      attempt,
    });
    return task ?? (await endedAs(taskId));
  }

  async function endedAs(taskId: string): Promise<TaskStatusText> {
    const status = await store.taskStatus(taskId);
    if (status === 'done' || status === 'failed' || status === 'cancelled') return status;
    throw ApplicationFailure.nonRetryable(`there is no task ${taskId} to carry out`, 'task.gone');
  }

  return {
    async performTask(taskId) {
      const task = await begin(taskId, false);
      if (typeof task === 'string') return task;
      const stopBeating = new AbortController();
      const beating = beat(stopBeating.signal);
      try {
        await store.finishTask(taskId, { status: 'done', error: null, ...(await carryOut(deps, task)) });
        metrics.count('activity.tasks_ended', 1, { type: task.type, status: 'done' });
        return 'done';
      } finally {
        stopBeating.abort();
        await beating;
      }
    },

    async workflowTask(taskId) {
      const task = await begin(taskId, false);
      if (typeof task === 'string') return null;
      const { workflow, queue, args } = task.params as { workflow: string; queue: string; args: unknown[] };
      return { workflow, queue, args };
    },

    async humanTask(taskId) {
      const task = await begin(taskId, true);
      return typeof task === 'string' ? task : 'waiting';
    },

    async finishTask({ taskId, status, result, error }) {
      const task = await store.finishTask(taskId, { status, result, error, externalRef: null });
      if (task !== null) metrics.count('activity.tasks_ended', 1, { type: task.type, status });
    },
  };

  /** So that a cancelled or lost task is noticed. */
  async function beat(signal: AbortSignal): Promise<void> {
    const context = Context.current();
    while (!signal.aborted) {
      context.heartbeat();
      await clock.sleep(HEARTBEAT_MS, signal).catch(() => undefined);
    }
  }
}

type CarriedOut = Pick<TaskOutcome, 'result' | 'externalRef' | 'publish'>;

async function carryOut(deps: RunDeps, task: TaskRecord): Promise<CarriedOut> {
  if (task.type === 'noop') return { result: null, externalRef: null };
  if (task.type === 'http') return sendHttp(deps, task);
  if (task.type === 'event') return emit(deps, task);
  throw ApplicationFailure.nonRetryable(`a task of type ${task.type} can not be carried out here`, 'task.type');
}

/** The event a task makes: its id is the task's, so a repeat makes no second one. It carries one hop more than its cause. */
function emit({ clock }: RunDeps, task: TaskRecord): CarriedOut {
  const { type, subject, data } = task.params as { type: string; subject?: string; data: unknown };
  const hops = Number(task.event.hops ?? 0) + 1;
  if (hops > EVENT_LIMITS.hops) {
    throw ApplicationFailure.nonRetryable(`the event would be the ${hops}th in a row made by events`, 'task.loop');
  }
  const source = `/activities/${task.activityId}`;
  const { id: causationid, correlationid, traceparent } = task.event;
  const record = {
    specversion: '1.0',
    id: task.taskId,
    source,
    type,
    time: new Date(clock.now()).toISOString(),
    ...(subject === undefined ? {} : { subject }),
    datacontenttype: 'application/json',
    ...(typeof causationid === 'string' ? { causationid } : {}),
    ...(typeof correlationid === 'string' ? { correlationid } : {}),
    ...(typeof traceparent === 'string' ? { traceparent } : {}),
    hops,
    data,
  };
  const event = recordOf(eventOf(record));
  const key = eventKeyOf({ source, id: task.taskId });
  return {
    result: { eventId: task.taskId, source },
    externalRef: task.taskId,
    publish: { key, record: JSON.stringify(event) },
  };
}

async function sendHttp({ http }: RunDeps, task: TaskRecord): Promise<CarriedOut> {
  const {
    url,
    method,
    headers = {},
    json,
  } = task.params as {
    url: string;
    method: string;
    headers?: Record<string, string>;
    json?: unknown;
  };
  const body = json === undefined ? null : JSON.stringify(json);
  let answer: Awaited<ReturnType<typeof http.send>>;
  try {
    answer = await http.send({
      url,
      method,
      headers: {
        ...(body === null ? {} : { 'content-type': 'application/json' }),
        ...headers,
        'idempotency-key': task.taskId,
      },
      body,
      timeoutMs: task.timeoutMs,
      answerBytesMax: ANSWER_BYTES_MAX,
      signal: Context.current().cancellationSignal,
    });
  } catch (error) {
    if (!(error instanceof OutboundFailed)) throw error;
    const { message, retryable } = error;
    throw ApplicationFailure.create({ type: 'task.http', message, nonRetryable: !retryable, cause: error });
  }
  const text = answer.body.toString().slice(0, KEPT_CHARACTERS);
  if (answer.status >= 200 && answer.status <= 299) {
    return { result: { status: answer.status, body: bodyOf(text) }, externalRef: answer.header('location') ?? null };
  }
  const again = retryAfterMs(answer.header('retry-after'));
  throw ApplicationFailure.create({
    type: `task.http.${answer.status}`,
    message: `${new URL(url).origin} answered ${answer.status}: ${text.slice(0, 500)}`,
    nonRetryable: !isWorthAnotherTry(answer.status),
    ...(again === undefined ? {} : { nextRetryDelay: again }),
  });
}

function bodyOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** Seconds only: a date needs the receiver's clock, and the steps' own back-off serves as well. */
function retryAfterMs(value: string | undefined): number | undefined {
  if (value === undefined || !/^\d{1,6}$/.test(value.trim())) return undefined;
  return Math.min(RETRY_AFTER_MS_MAX, Math.max(1, Number(value) * 1000));
}

/** Runs and tasks as people see them, and what people do with them. Answers are JSON text with the names of the columns. */
import type { NewEvent, StartCommand } from '@milkrun/core';
import { type SQL, sql } from 'drizzle-orm';
import { record } from '../audit.ts';
import type { Store } from '../database.ts';
import { type Actor, RegistryProblem } from '../problem.ts';
import { publishOwn } from './own-events.ts';
import { insertEvent } from './runs.ts';
import { insertCommands } from './scheduling.ts';
import { type EndedTask, finishedTask } from './tasks.ts';

interface RunFilter {
  readonly limit: number;
  readonly activityId?: string | undefined;
  readonly status?: string | undefined;
  /** Id of the last run of the page before; ids sort by time. */
  readonly before?: string | undefined;
}

interface TaskFilter {
  readonly limit: number;
  readonly runId?: string | undefined;
  readonly status?: string | undefined;
  readonly mode?: 'auto' | 'human' | undefined;
  /** Id of the last task of the page before. */
  readonly after?: string | undefined;
}

/** A row as JSON. */
export type JsonRow = Readonly<Record<string, unknown>>;

export interface ActivityOperations {
  runs(tenantId: string, filter: RunFilter): Promise<readonly JsonRow[]>;
  run(tenantId: string, runId: string): Promise<JsonRow>;
  tasks(tenantId: string, filter: TaskFilter): Promise<readonly JsonRow[]>;
  task(tenantId: string, taskId: string): Promise<JsonRow>;
  /** Stores an event and asks for the run it starts, in one transaction. */
  trigger(actor: Actor, start: StartCommand, event: NewEvent): Promise<void>;
  /** Asks for the runs of ticks. */
  backfill(actor: Actor, activityId: string, starts: readonly StartCommand[]): Promise<void>;
  /** Nominal times in (`afterMs`, `untilMs`] that have an effective run. */
  effectiveTicks(activityId: string, afterMs: number, untilMs: number): Promise<ReadonlySet<number>>;
  /** Ends a task that waits for a person. */
  completeTask(
    actor: Actor,
    taskId: string,
    outcome: { readonly status: 'done' | 'failed'; readonly result: unknown; readonly reason: string | undefined },
  ): Promise<JsonRow>;
  cancelRun(actor: Actor, runId: string, reason: string | undefined): Promise<void>;
}

const RUN = sql`r.run_id, r.activity_id, d.slug, r.version_used, r.status, r.reason, r.origin, r.dedupe_key, r.scheduled_for,
  r.window_start, r.window_end, r.missed_count, r.fired_at, r.admitted_at, r.finished_at, r.tasks_planned, r.tasks_spawned,
  r.tasks_done, r.tasks_failed, r.truncated, r.dry_run, r.concurrency_key, r.workflow_id, r.error`;
const TASK = sql`t.task_id, t.run_id, t.activity_id, t.rule_id, t.item_key, t.position, t.type, t.mode, t.title, t.params, t.labels,
  t.unique_key, t.status, t.suppressed_by, t.attempts, t.external_ref, t.assignee, t.due_at, t.result, t.error, t.created_at,
  t.started_at, t.finished_at, t.version_used`;

/** `publishAll`: own events go to the outbox though no activity waits for them. */
export function createActivityOperations({ db, transact }: Store, publishAll: boolean): ActivityOperations {
  async function rows(query: SQL): Promise<JsonRow[]> {
    const found = await db.execute<{ row: JsonRow }>(sql`select to_jsonb(x) as row from (${query}) x`);
    return found.map(({ row }) => row);
  }
  async function one(query: SQL, what: string): Promise<JsonRow> {
    const [row] = await rows(query);
    if (row === undefined) throw new RegistryProblem('not_found', `no ${what}`);
    return row;
  }
  const taskOf = (tenantId: string, taskId: string): Promise<JsonRow> =>
    one(
      sql`select ${TASK} from activity_tasks t where t.task_id = ${taskId} and t.tenant_id = ${tenantId}`,
      `task ${taskId}`,
    );

  return {
    runs(tenantId, { limit, activityId, status, before }) {
      const where = [sql`r.tenant_id = ${tenantId}`];
      if (activityId !== undefined) where.push(sql`r.activity_id = ${activityId}::uuid`);
      if (status !== undefined) where.push(sql`r.status = ${status}`);
      if (before !== undefined) where.push(sql`r.run_id < ${before}::uuid`);
      return rows(sql`select ${RUN} from activity_runs r join activity_definitions d on d.id = r.activity_id
        where ${sql.join(where, sql` and `)} order by r.run_id desc limit ${limit}`);
    },
    run: (tenantId, runId) =>
      one(
        sql`select ${RUN}, r.event, r.context_snapshot from activity_runs r join activity_definitions d on d.id = r.activity_id
          where r.run_id = ${runId}::uuid and r.tenant_id = ${tenantId}`,
        `run ${runId}`,
      ),
    tasks(tenantId, { limit, runId, status, mode, after }) {
      const where = [sql`t.tenant_id = ${tenantId}`];
      if (runId !== undefined) where.push(sql`t.run_id = ${runId}::uuid`);
      if (status !== undefined) where.push(sql`t.status = ${status}`);
      if (mode !== undefined) where.push(sql`t.mode = ${mode}`);
      if (after !== undefined) where.push(sql`t.task_id > ${after}`);
      return rows(
        sql`select ${TASK} from activity_tasks t where ${sql.join(where, sql` and `)} order by t.task_id limit ${limit}`,
      );
    },
    task: taskOf,
    trigger: (actor, start, event) =>
      transact(async (tx) => {
        const { activityId } = start;
        const isNew = await insertEvent(tx, actor.tenantId, event);
        await insertCommands(tx, [{ kind: 'start', ...start }]);
        if (!isNew) return;
        const detail = JSON.stringify({ workflowId: start.workflowId, dryRun: start.dryRun, forced: start.forced });
        await record(tx, { actor, action: 'triggered', kind: 'activity', ids: [activityId], detail });
      }),
    backfill: (actor, activityId, starts) =>
      transact(async (tx) => {
        await insertCommands(
          tx,
          starts.map((start) => ({ kind: 'start' as const, ...start })),
        );
        const detail = JSON.stringify({
          ticks: starts.length,
          first: starts[0]?.scheduledFor,
          last: starts.at(-1)?.scheduledFor,
        });
        await record(tx, { actor, action: 'backfilled', kind: 'activity', ids: [activityId], detail });
      }),
    async effectiveTicks(activityId, afterMs, untilMs) {
      const found = await db.execute<{ ms: string }>(sql`
        select distinct floor(extract(epoch from scheduled_for) * 1000) as ms from activity_runs
        where activity_id = ${activityId}::uuid and status not in ('missed', 'coalesced', 'duplicate', 'skipped')
          and scheduled_for > ${new Date(afterMs).toISOString()}::timestamptz
          and scheduled_for <= ${new Date(untilMs).toISOString()}::timestamptz`);
      return new Set(found.map(({ ms }) => Number(ms)));
    },
    completeTask: (actor, taskId, { status, result, reason }) =>
      transact(async (tx) => {
        const error =
          status === 'failed'
            ? JSON.stringify({ code: 'task.refused', message: reason ?? 'failed by a person' })
            : null;
        const ended = await tx.execute<EndedTask>(sql`
          update activity_tasks t set status = ${status}, result = ${JSON.stringify(result ?? null)}::text::jsonb,
            error = ${error}::text::jsonb, finished_at = statement_timestamp()
          from activity_runs r, activity_definitions d
          where t.task_id = ${taskId} and t.tenant_id = ${actor.tenantId} and t.mode = 'human'
            and t.status in ('planned', 'waiting') and r.run_id = t.run_id and d.id = t.activity_id
          returning t.type, t.tenant_id, t.task_id, t.run_id::text, t.activity_id::text, t.rule_id, t.title, t.status, d.slug,
            r.event`);
        const [task] = ended;
        if (task === undefined) {
          const { mode, status: now } = await taskOf(actor.tenantId, taskId);
          if (mode !== 'human') throw new RegistryProblem('conflict', 'the task is not one for a person');
          throw new RegistryProblem('conflict', `the task is ${String(now)}`);
        }
        await publishOwn(tx, publishAll, [finishedTask(task)]);
        await insertCommands(tx, [{ kind: 'task_done', taskId }]);
        await record(tx, {
          actor,
          action: status === 'done' ? 'completed' : 'failed',
          kind: 'task',
          ids: [taskId],
          reason,
        });
        const [row] = await tx.execute<{ row: JsonRow }>(
          sql`select to_jsonb(x) as row from (select ${TASK} from activity_tasks t where t.task_id = ${taskId}) x`,
        );
        return row?.row as JsonRow;
      }),
    cancelRun: (actor, runId, reason) =>
      transact(async (tx) => {
        const [run] = await tx.execute<{ workflow_id: string; status: string }>(sql`
          select workflow_id, status from activity_runs where run_id = ${runId}::uuid and tenant_id = ${actor.tenantId}`);
        if (run === undefined) throw new RegistryProblem('not_found', `no run ${runId}`);
        if (run.status !== 'queued' && run.status !== 'running')
          throw new RegistryProblem('conflict', `the run is ${run.status}`);
        await insertCommands(tx, [{ kind: 'cancel_run', workflowId: run.workflow_id }]);
        await record(tx, { actor, action: 'cancel_requested', kind: 'run', ids: [runId], reason });
      }),
  };
}

/** Plans and tasks of runs. A plan is written whole or not at all; a task ends once. */
import type { NewTask, PlannedTaskRef, TaskCounts, TaskOutcome, TaskRecord, TaskStatus } from '@milkrun/core';
import { sql } from 'drizzle-orm';
import type { Store, Transaction } from '../database.ts';
import { readCounts } from './counts.ts';
import { hopsIn, type OwnEvent, publishOwn } from './own-events.ts';

/** Advisory lock under which the unique keys of an activity are given out. */
const KEYS_LOCK = 7111;

interface TaskRow extends Record<string, unknown> {
  task_id: string;
  run_id: string;
  activity_id: string;
  tenant_id: string;
  rule_id: string;
  position: number;
  type: string;
  title: string;
  params: Record<string, unknown>;
  labels: string[];
  status: TaskStatus;
  timeout_ms: string;
  attempts_max: number;
  event_key: string | null;
  event: Record<string, unknown>;
}

/** `publishAll`: own events go to the outbox though no activity waits for them. */
export function createTaskStore({ db, transact }: Store, publishAll: boolean) {
  return {
    async saveContext(runId: string, name: string, value: string): Promise<void> {
      await db.execute(sql`
        insert into activity_context (run_id, name, value) values (${runId}::uuid, ${name}, ${value}::text::jsonb)
        on conflict (run_id, name) do update set value = excluded.value`);
    },

    async context(runId: string): Promise<Readonly<Record<string, unknown>>> {
      const [row] = await db.execute<{ context: Record<string, unknown> | null }>(sql`
        select coalesce(r.context_snapshot, (select jsonb_object_agg(name, value) from activity_context c
          where c.run_id = r.run_id)) as context from activity_runs r where r.run_id = ${runId}::uuid`);
      return row?.context ?? {};
    },

    async recentEvents(
      tenantId: string,
      { type, last, withinMs }: { readonly type: string; readonly last: number; readonly withinMs: number },
    ): Promise<{ readonly count: number; readonly last: readonly unknown[] }> {
      const since = sql`statement_timestamp() - make_interval(secs => ${withinMs / 1000})`;
      const where = sql`tenant_id = ${tenantId} and type = ${type} and received_at >= ${since}`;
      const [count] = await db.execute<{ count: string }>(sql`select count(*) from activity_events where ${where}`);
      const rows = await db.execute<{ record: string }>(
        sql`select record from activity_events where ${where} order by received_at desc, key limit ${last}`,
      );
      return { count: Number(count?.count ?? 0), last: rows.map(({ record }) => JSON.parse(record) as unknown) };
    },

    savePlan: (
      runId: string,
      plan: { readonly tasks: readonly NewTask[]; readonly truncated: boolean; readonly snapshot: string },
    ): Promise<TaskCounts> =>
      transact(async (tx) => {
        const [run] = await tx.execute<{ activity_id: string; dry_run: boolean; tasks_planned: number | null }>(sql`
          select activity_id::text, dry_run, tasks_planned from activity_runs where run_id = ${runId}::uuid for update`);
        if (run === undefined) throw new Error(`no run ${runId}`);
        if (run.tasks_planned !== null) return readCounts(tx, runId);
        const rows = await placeTasks(tx, run, plan.tasks);
        await insertTasks(tx, runId, rows, null);
        const spawned = rows.filter(({ status }) => status !== 'suppressed').length;
        await tx.execute(sql`
          update activity_runs set tasks_planned = ${rows.length}, tasks_spawned = ${run.dry_run ? 0 : spawned},
            truncated = ${plan.truncated}, context_snapshot = ${plan.snapshot}::text::jsonb
          where run_id = ${runId}::uuid`);
        await tx.execute(sql`delete from activity_context where run_id = ${runId}::uuid`);
        return readCounts(tx, runId);
      }),

    async openTasks(runId: string, afterPosition: number, limit: number): Promise<readonly PlannedTaskRef[]> {
      const rows = await db.execute<TaskRow>(sql`
        select task_id, position, type, timeout_ms, attempts_max from activity_tasks
        where run_id = ${runId}::uuid and position > ${afterPosition} and status in ('planned', 'running', 'waiting')
        order by position limit ${limit}`);
      return rows.map(refOf);
    },

    counts: (runId: string): Promise<TaskCounts> => readCounts(db, runId),

    async startedTasks(runId: string): Promise<readonly { readonly taskId: string; readonly workflowId: string }[]> {
      const rows = await db.execute<{ task_id: string; workflow_id: string }>(sql`
        select task_id, workflow_id from activity_tasks
        where run_id = ${runId}::uuid and status in ('running', 'waiting') and workflow_id is not null order by position`);
      return rows.map(({ task_id, workflow_id }) => ({ taskId: task_id, workflowId: workflow_id }));
    },

    async beginTask(
      taskId: string,
      how: { readonly workflowId: string; readonly waiting: boolean; readonly attempt: number },
    ): Promise<TaskRecord | null> {
      const [row] = await db.execute<TaskRow>(sql`
        update activity_tasks t set status = ${how.waiting ? 'waiting' : 'running'}, workflow_id = ${how.workflowId},
          attempts = greatest(t.attempts, ${how.attempt}), started_at = coalesce(t.started_at, statement_timestamp()),
          assignee = coalesce(t.assignee, t.params ->> 'assignee')
        from activity_runs r
        where t.task_id = ${taskId} and r.run_id = t.run_id and t.status in ('planned', 'running', 'waiting')
        returning t.task_id, t.run_id::text, t.activity_id::text, t.tenant_id, t.rule_id, t.position, t.type, t.title, t.params,
          t.labels, t.status, t.timeout_ms, t.attempts_max, t.event_key,
          case when t.event_key is not distinct from r.event_key then r.event else coalesce((select e.record::jsonb
            from activity_events e where e.tenant_id = t.tenant_id and e.key = t.event_key), r.event) end as event`);
      return row === undefined ? null : recordOf(row);
    },

    async taskStatus(taskId: string): Promise<TaskStatus | null> {
      const [row] = await db.execute<TaskRow>(sql`select status from activity_tasks where task_id = ${taskId}`);
      return row?.status ?? null;
    },

    finishTask: (
      taskId: string,
      { status, result, error, externalRef, publish }: TaskOutcome,
    ): Promise<{ readonly type: string } | null> =>
      transact(async (tx) => {
        const [row] = await tx.execute<EndedTask>(sql`
        with ended as (update activity_tasks set status = ${status}, result = ${JSON.stringify(result ?? null)}::text::jsonb,
          error = ${error === null ? null : JSON.stringify(error)}::text::jsonb, external_ref = ${externalRef},
          finished_at = statement_timestamp()
        where task_id = ${taskId} and status in ('planned', 'running', 'waiting') returning *),
        published as (insert into activity_outbox (tenant_id, key, record)
          select tenant_id, ${publish?.key ?? null}, ${publish?.record ?? null} from ended
          where ${publish !== undefined}::boolean on conflict (tenant_id, key) do nothing)
        select e.type, e.tenant_id, e.task_id, e.run_id::text, e.activity_id::text, e.rule_id, e.title, e.status, d.slug, r.event
        from ended e join activity_runs r on r.run_id = e.run_id join activity_definitions d on d.id = e.activity_id`);
        if (row === undefined) return null;
        await publishOwn(tx, publishAll, [finishedTask(row)]);
        return { type: row.type };
      }),

    async cancelPlanned(runId: string): Promise<number> {
      const rows = await db.execute(sql`
        update activity_tasks set status = 'cancelled', finished_at = statement_timestamp()
        where run_id = ${runId}::uuid and status = 'planned' returning 1`);
      return rows.length;
    },
  };
}

/** Unique keys of the plan that are held by tasks of earlier runs, with the task that holds each. */
async function takenKeys(tx: Transaction, activityId: string, tasks: readonly NewTask[]): Promise<Map<string, string>> {
  const keys = [...new Set(tasks.flatMap(({ uniqueKey }) => (uniqueKey === null ? [] : [uniqueKey])))];
  if (keys.length === 0) return new Map();
  await tx.execute(sql`select pg_advisory_xact_lock(${KEYS_LOCK}, hashtext(${activityId}))`);
  const rows = await tx.execute<{ unique_key: string; task_id: string }>(sql`
    select t.unique_key, t.task_id from activity_tasks t
    join json_array_elements_text(${JSON.stringify(keys)}::text::json) as k(key) on k.key = t.unique_key
    where t.activity_id = ${activityId}::uuid and t.status not in ('suppressed', 'cancelled')
      and (t.unique_until > statement_timestamp()
        or (t.unique_until is null and t.status in ('planned', 'running', 'waiting')))`);
  return new Map(rows.map(({ unique_key, task_id }) => [unique_key, task_id]));
}

/** A task that has ended, with what its event says of it. */
export interface EndedTask extends Record<string, unknown> {
  task_id: string;
  run_id: string;
  activity_id: string;
  tenant_id: string;
  slug: string;
  rule_id: string;
  type: string;
  title: string;
  status: TaskStatus;
  event: Record<string, unknown>;
}

export function finishedTask(task: EndedTask): OwnEvent {
  const { task_id: taskId, run_id: runId, activity_id: activityId, rule_id: ruleId } = task;
  const { tenant_id: tenantId, slug, type, title, status, event } = task;
  return {
    tenantId,
    type: 'dev.milkrun.task.finished',
    source: `/activities/${activityId}`,
    id: `finished-${taskId}`,
    subject: slug,
    data: { activityId, slug, runId, taskId, ruleId, type, title, status },
    hops: hopsIn(event),
  };
}

/** How each task of a plan begins: planned, or suppressed by one that holds its unique key. */
export async function placeTasks(
  tx: Transaction,
  run: { readonly activity_id: string; readonly dry_run: boolean },
  tasks: readonly NewTask[],
): Promise<(NewTask & Start)[]> {
  const taken = await takenKeys(tx, run.activity_id, tasks);
  return tasks.map((task) => ({ ...task, ...startOf(task, taken, run.dry_run) }));
}

interface Start {
  readonly status: TaskStatus;
  readonly suppressedBy: string | null;
  readonly externalRef: string | null;
}

function startOf({ taskId, uniqueKey }: NewTask, taken: Map<string, string>, dryRun: boolean): Start {
  const holder = uniqueKey === null ? undefined : taken.get(uniqueKey);
  if (holder !== undefined) return { status: 'suppressed', suppressedBy: holder, externalRef: null };
  // A dry run holds no key: it must not keep a real run from its tasks.
  if (dryRun) return { status: 'done', suppressedBy: null, externalRef: `dry-run:${taskId}` };
  if (uniqueKey !== null) taken.set(uniqueKey, taskId);
  return { status: 'planned', suppressedBy: null, externalRef: null };
}

/** `eventKey`: of the event they are for; null: the run's own. */
export async function insertTasks(
  tx: Transaction,
  runId: string,
  rows: readonly (NewTask & Start)[],
  eventKey: string | null,
): Promise<void> {
  if (rows.length === 0) return;
  await tx.execute(sql`
    insert into activity_tasks (task_id, run_id, activity_id, tenant_id, version_used, event_key, rule_id, item_key, position,
      type, mode, title, params, labels, unique_key, unique_until, status, suppressed_by, timeout_ms, attempts_max,
      external_ref, due_at, finished_at)
    select g."taskId", r.run_id, r.activity_id, r.tenant_id, r.version_used, coalesce(${eventKey}::text, r.event_key), g."ruleId", g."itemKey", g.position,
      g.type, g.mode, g.title, g.params, array(select json_array_elements_text(g.labels)),
      case when r.dry_run then null else g."uniqueKey" end,
      case when r.dry_run then null else statement_timestamp() + make_interval(secs => g."uniqueForMs" / 1000.0) end,
      g.status, g."suppressedBy", g."timeoutMs", g.attempts, g."externalRef",
      case when g.mode = 'human' and g."dueInMs" is not null
        then statement_timestamp() + make_interval(secs => g."dueInMs" / 1000.0) end,
      case when g.status <> 'planned' then statement_timestamp() end
    from json_to_recordset(${JSON.stringify(rows)}::text::json) as g("taskId" text, "ruleId" text, "itemKey" text,
      position int, type text, mode text, title text, params jsonb, labels json, "uniqueKey" text, "uniqueForMs" bigint,
      status text, "suppressedBy" text, "timeoutMs" bigint, attempts int, "externalRef" text, "dueInMs" bigint),
      activity_runs r
    where r.run_id = ${runId}::uuid
    order by g.position`);
}

const refOf = (row: TaskRow): PlannedTaskRef => ({
  taskId: row.task_id,
  position: row.position,
  type: row.type,
  timeoutMs: Number(row.timeout_ms),
  attempts: row.attempts_max,
});

const recordOf = (row: TaskRow): TaskRecord => ({
  ...refOf(row),
  runId: row.run_id,
  activityId: row.activity_id,
  tenantId: row.tenant_id,
  ruleId: row.rule_id,
  title: row.title,
  params: row.params,
  labels: row.labels,
  status: row.status,
  eventKey: row.event_key,
  event: row.event,
});

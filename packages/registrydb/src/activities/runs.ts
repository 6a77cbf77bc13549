/** Opening, admitting and closing runs. Each is one transaction under the lock of its activity or of its concurrency key. */
import type {
  Admission,
  AdmitInput,
  ClosedRun,
  CloseRunInput,
  NewEvent,
  OpenedRun,
  OpenRunDecision,
  OpenRunFacts,
  OpenRunInput,
  RunHolder,
  RunRecord,
  RunStatus,
} from '@milkrun/core';
import { type SQL, sql } from 'drizzle-orm';
import { iso, isoOrNull, type Store, type Transaction } from '../database.ts';
import { readCounts } from './counts.ts';
import { hopsIn, missedTick, publishOwn, publishStored } from './own-events.ts';

/** Advisory locks of the places of a concurrency key. */
const PLACES_LOCK = 7110;
const WAIT_MS = 30_000;

interface DefinitionRow extends Record<string, unknown> {
  tenant_id: string;
  slug: string;
  version: number;
  spec: string;
  enabled: boolean;
  status: OpenRunFacts['status'];
  covered_ms: string | null;
  now_ms: string;
  event: string | null;
}

interface OpenedRow extends Record<string, unknown> {
  run_id: string;
  status: RunStatus;
  reason: string | null;
  version_used: number;
  spec: string;
}

/** `publishAll`: own events go to the outbox though no activity waits for them. */
export function createRunStore({ db, transact }: Store, publishAll: boolean) {
  async function insertRun(
    tx: Transaction,
    input: OpenRunInput,
    { tenant_id, version }: DefinitionRow,
    decision: OpenRunDecision,
    as: { readonly status: RunStatus; readonly reason: string | null },
  ): Promise<boolean> {
    const ended = as.status !== 'queued' && as.status !== 'running';
    const rows = await tx.execute(sql`
      insert into activity_runs (run_id, activity_id, tenant_id, version_used, dedupe_key, origin, event_key, scheduled_for,
        window_start, window_end, missed_count, admitted_at, finished_at, status, reason, concurrency_key, event, dry_run,
        workflow_id, temporal_run_id, inbox_key)
      values (${input.runId}::uuid, ${input.activityId}::uuid, ${tenant_id}, ${version}, ${decision.dedupeKey}, ${input.origin},
        ${decision.newEvent?.key ?? input.eventKey}, ${input.scheduledFor}::timestamptz,
        ${isoOf(decision.window?.startMs)}::timestamptz, ${isoOf(decision.window?.endMs)}::timestamptz,
        ${decision.window?.missedCount ?? 0}, case when ${as.status} = 'running' then statement_timestamp() end,
        case when ${ended}::boolean then statement_timestamp() end, ${as.status}, ${as.reason}, ${decision.concurrencyKey},
        ${decision.event}::text::jsonb, ${decision.dryRun}, ${input.workflowId}, ${input.temporalRunId},
        ${input.inboxKey})
      on conflict (activity_id, dedupe_key) where status not in ('missed', 'coalesced', 'duplicate', 'skipped') do nothing
      returning 1`);
    return rows.length > 0;
  }

  return {
    openRun: (input: OpenRunInput, decide: (facts: OpenRunFacts) => OpenRunDecision): Promise<OpenedRun | null> =>
      transact(async (tx) => {
        // 1. The lock of the activity: runs of it are opened one after the other, and the mark moves with them. It is a statement
        // of its own: one that waited for an edit would not see the version that edit has made.
        await tx.execute(sql`select 1 from activity_definitions where id = ${input.activityId}::uuid for update`);
        const [row] = await tx.execute<DefinitionRow>(sql`
          select d.tenant_id, d.slug, v.version, v.spec, d.enabled, d.status,
            floor(extract(epoch from d.covered_at) * 1000) as covered_ms,
            floor(extract(epoch from statement_timestamp()) * 1000) as now_ms,
            (select record from activity_events e where e.tenant_id = d.tenant_id and e.key = ${input.eventKey}) as event
          from activity_definitions d
          join activity_versions v on v.activity_id = d.id and v.version = coalesce(${input.version}::int, d.version)
          where d.id = ${input.activityId}::uuid and d.deleted_at is null`);
        // 2. A repeat answers what was opened before.
        const before = await findOpened(tx, input);
        if (before !== undefined) return openedOf(before);
        if (row === undefined) return null;
        const decision = decide({
          slug: row.slug,
          version: row.version,
          spec: row.spec,
          enabled: row.enabled,
          status: row.status,
          coveredMs: row.covered_ms === null ? null : Number(row.covered_ms),
          nowMs: Number(row.now_ms),
          event: row.event,
        });
        if (decision.newEvent !== null) {
          await insertEvent(tx, row.tenant_id, decision.newEvent);
          await publishStored(tx, publishAll, row.tenant_id, decision.newEvent);
        }
        // 3. The key lets one effective run through; another with the same key is a duplicate and says so. So is one for an
        // event that was handed to a run before.
        const isFree =
          input.inboxKey === null ||
          input.eventKey === null ||
          (await takeEvent(tx, input.activityId, input.eventKey, input.runId));
        if (!isFree || !(await insertRun(tx, input, row, decision, decision))) {
          await insertRun(tx, input, row, decision, { status: 'duplicate', reason: 'a run with the same key exists' });
        }
        if (decision.status === 'missed' && input.scheduledFor !== null) {
          const reason = decision.reason ?? '';
          await publishOwn(tx, publishAll, [missedTick({ ...input, tenantId: row.tenant_id, slug: row.slug, reason })]);
        }
        if (decision.coveredMs !== null) {
          await tx.execute(sql`
            update activity_definitions set covered_at = greatest(covered_at, ${isoOf(decision.coveredMs)}::timestamptz)
            where id = ${input.activityId}::uuid and covered_at is not null`);
        }
        if (decision.isDone) {
          await tx.execute(sql`
            update activity_definitions set status = 'done', status_reason = 'it has run' where id = ${input.activityId}::uuid`);
        }
        return openedOf((await findOpened(tx, input)) as OpenedRow);
      }),

    admitRun: ({ runId, limit, whenBusy, startsPerMinute }: AdmitInput): Promise<Admission> =>
      transact(async (tx): Promise<Admission> => {
        const [run] = await tx.execute<{ activity_id: string; concurrency_key: string | null }>(sql`
          select activity_id::text, concurrency_key from activity_runs where run_id = ${runId}::uuid`);
        if (run === undefined) throw new Error(`no run ${runId}`);
        await tx.execute(sql`select pg_advisory_xact_lock(${PLACES_LOCK}, hashtext(${run.activity_id}))`);
        const [now] = await tx.execute<{ status: RunStatus; fired_at: string }>(sql`
          select status, fired_at from activity_runs where run_id = ${runId}::uuid for update`);
        const status = now?.status ?? 'cancelled';
        if (status === 'running') return { state: 'go' };
        if (status !== 'queued') return { state: 'ended', status };
        if (startsPerMinute !== null) {
          const waitMs = await untilRateAllows(tx, run.activity_id, startsPerMinute);
          if (waitMs > 0) return { state: 'wait', waitMs, holders: [] };
        }
        if (limit !== null) {
          const holders = await holdersBefore(tx, run.activity_id, run.concurrency_key, runId);
          if (holders.length >= limit) {
            if (whenBusy !== 'skip') return { state: 'wait', waitMs: WAIT_MS, holders };
            await tx.execute(sql`
              update activity_runs set status = 'skipped', reason = 'another run is open', finished_at = statement_timestamp()
              where run_id = ${runId}::uuid`);
            return { state: 'ended', status: 'skipped' };
          }
        }
        await tx.execute(sql`
          update activity_runs set status = 'running', admitted_at = statement_timestamp() where run_id = ${runId}::uuid`);
        return { state: 'go' };
      }),

    async run(runId: string): Promise<RunRecord | null> {
      const [row] = await db.execute<{
        activity_id: string;
        tenant_id: string;
        slug: string;
        version_used: number;
        spec: string;
        status: RunStatus;
        event: Record<string, unknown>;
        event_key: string | null;
        fired_at: string;
        scheduled_for: string | null;
        dry_run: boolean;
        tasks_planned: number | null;
        inbox_key: string | null;
      }>(sql`
        select r.activity_id::text, r.tenant_id, d.slug, r.version_used, v.spec, r.status, r.event, r.event_key, r.fired_at,
          r.scheduled_for, r.dry_run, r.tasks_planned, r.inbox_key
        from activity_runs r join activity_definitions d on d.id = r.activity_id
        join activity_versions v on v.activity_id = r.activity_id and v.version = r.version_used
        where r.run_id = ${runId}::uuid`);
      if (row === undefined) return null;
      return {
        runId,
        activityId: row.activity_id,
        tenantId: row.tenant_id,
        slug: row.slug,
        version: row.version_used,
        spec: row.spec,
        status: row.status,
        event: row.event,
        eventKey: row.event_key,
        firedAt: iso(row.fired_at),
        scheduledFor: isoOrNull(row.scheduled_for),
        dryRun: row.dry_run,
        tasksPlanned: row.tasks_planned,
        inboxKey: row.inbox_key,
      };
    },

    closeRun: ({ runId, ended, failuresMax, decide }: CloseRunInput): Promise<ClosedRun> =>
      transact(async (tx) => {
        const [run] = await tx.execute<{
          activity_id: string;
          concurrency_key: string | null;
          status: RunStatus;
          truncated: boolean;
          dry_run: boolean;
          tenant_id: string;
          slug: string;
          version_used: number;
          event: Record<string, unknown>;
        }>(sql`
          select r.activity_id::text, r.concurrency_key, r.status, r.truncated, r.dry_run, r.tenant_id, d.slug, r.version_used,
            r.event from activity_runs r
          join activity_definitions d on d.id = r.activity_id where r.run_id = ${runId}::uuid for update`);
        if (run === undefined) throw new Error(`no run ${runId}`);
        const counts = await readCounts(tx, runId);
        const waiting = await waitingFor(tx, run.activity_id, run.concurrency_key, runId);
        if (run.status !== 'queued' && run.status !== 'running') {
          return { status: run.status, counts, tripped: false, waiting };
        }
        const status = ended?.status ?? decide(counts, run.truncated);
        const error = ended === null ? null : JSON.stringify({ code: ended.code, message: ended.message });
        await tx.execute(sql`
          update activity_runs set status = ${status}, finished_at = statement_timestamp(), tasks_done = ${counts.done},
            tasks_failed = ${counts.failed}, error = ${error}::text::jsonb
          where run_id = ${runId}::uuid`);
        const tripped = run.dry_run ? false : await countFailure(tx, run.activity_id, status, failuresMax);
        if (!run.dry_run) {
          const { activity_id: activityId, tenant_id: tenantId, slug } = run;
          const source = `/activities/${activityId}`;
          const shared = { tenantId, source, subject: slug, hops: hopsIn(run.event) };
          const about = { activityId, slug, version: run.version_used, runId, status };
          const tasks = { planned: counts.planned, done: counts.done, failed: counts.failed };
          const code = ended?.code ?? null;
          const finished = { type: 'dev.milkrun.run.finished', id: `run-${runId}` } as const;
          const trip = { type: 'dev.milkrun.activity.tripped', id: `tripped-${runId}` } as const;
          await publishOwn(tx, publishAll, [
            { ...shared, ...finished, data: { ...about, tasks, code } },
            ...(tripped ? [{ ...shared, ...trip, data: about }] : []),
          ]);
        }
        return { status, counts, tripped, waiting };
      }),
  };
}

/** Failed runs in a row, by final results only. True: this one tripped the activity. */
async function countFailure(
  tx: Transaction,
  activityId: string,
  status: RunStatus,
  failuresMax: number,
): Promise<boolean> {
  if (status === 'cancelled') return false;
  const failed = status === 'failed';
  const rows = await tx.execute<{ tripped: boolean }>(sql`
    update activity_definitions d set
      failures_in_row = case when ${failed}::boolean then d.failures_in_row + 1 else 0 end,
      status = case when ${failed}::boolean and d.status = 'active' and ${failuresMax} > 0
        and d.failures_in_row + 1 >= ${failuresMax} then 'tripped' else d.status end,
      status_reason = case when ${failed}::boolean and d.status = 'active' and ${failuresMax} > 0
        and d.failures_in_row + 1 >= ${failuresMax}
        then format('%s runs failed in a row', d.failures_in_row + 1) else d.status_reason end
    from (select id, status from activity_definitions where id = ${activityId}::uuid for update) before
    where d.id = before.id
    returning d.status = 'tripped' and before.status <> 'tripped' as tripped`);
  const tripped = rows[0]?.tripped === true;
  if (tripped) {
    await tx.execute(sql`
      insert into audit (tenant_id, actor, action, object_kind, object_id, reason)
      select tenant_id, 'orchestrator', 'tripped', 'activity', id::text, status_reason from activity_definitions
      where id = ${activityId}::uuid`);
  }
  return tripped;
}

const OPEN = sql`status in ('queued', 'running')`;

const sameKey = (key: string | null): SQL =>
  key === null ? sql`concurrency_key is null` : sql`concurrency_key = ${key}`;

/** Runs that stand before this one: those at work, and those that have waited longer. */
async function holdersBefore(
  tx: Transaction,
  activityId: string,
  key: string | null,
  runId: string,
): Promise<RunHolder[]> {
  const rows = await tx.execute<{ run_id: string; workflow_id: string }>(sql`
    select r.run_id::text, r.workflow_id from activity_runs r,
      (select fired_at, run_id from activity_runs where run_id = ${runId}::uuid) own
    where r.activity_id = ${activityId}::uuid and ${sameKey(key)} and ${OPEN} and r.run_id <> own.run_id
      and (r.status = 'running' or (r.fired_at, r.run_id) < (own.fired_at, own.run_id))
    order by r.fired_at, r.run_id limit 1000`);
  return rows.map(holderOf);
}

async function waitingFor(
  tx: Transaction,
  activityId: string,
  key: string | null,
  runId: string,
): Promise<RunHolder[]> {
  const rows = await tx.execute<{ run_id: string; workflow_id: string }>(sql`
    select run_id::text, workflow_id from activity_runs
    where activity_id = ${activityId}::uuid and ${sameKey(key)} and status = 'queued' and run_id <> ${runId}::uuid
    order by fired_at, run_id limit 10`);
  return rows.map(holderOf);
}

const holderOf = ({ run_id, workflow_id }: { run_id: string; workflow_id: string }): RunHolder => ({
  runId: run_id,
  workflowId: workflow_id,
});

/** Milliseconds until one more start fits into the minute; 0: now. */
async function untilRateAllows(tx: Transaction, activityId: string, startsPerMinute: number): Promise<number> {
  const [row] = await tx.execute<{ starts: string; wait_ms: string | null }>(sql`
    select count(*) as starts,
      ceil(extract(epoch from min(admitted_at) + interval '1 minute' - statement_timestamp()) * 1000) as wait_ms
    from (select admitted_at from activity_runs
      where activity_id = ${activityId}::uuid and admitted_at > statement_timestamp() - interval '1 minute'
      order by admitted_at desc limit ${startsPerMinute}) recent`);
  if (Number(row?.starts ?? 0) < startsPerMinute) return 0;
  return Math.max(100, Number(row?.wait_ms ?? 0));
}

async function findOpened(
  tx: Transaction,
  { workflowId, temporalRunId }: OpenRunInput,
): Promise<OpenedRow | undefined> {
  const [row] = await tx.execute<OpenedRow>(sql`
    select r.run_id::text, r.status, r.reason, r.version_used, v.spec from activity_runs r
    join activity_versions v on v.activity_id = r.activity_id and v.version = r.version_used
    where r.workflow_id = ${workflowId} and r.temporal_run_id = ${temporalRunId}`);
  return row;
}

const openedOf = ({ run_id, status, reason, version_used, spec }: OpenedRow): OpenedRun => ({
  runId: run_id,
  status,
  reason,
  version: version_used,
  spec,
});

/** False: it was taken before. */
export async function takeEvent(
  tx: Transaction,
  activityId: string,
  eventKey: string,
  runId: string,
): Promise<boolean> {
  const rows = await tx.execute(sql`
    update activity_inbox set taken_by = ${runId} where activity_id = ${activityId}::uuid and event_key = ${eventKey}
      and taken_by is null returning 1`);
  return rows.length > 0;
}

/** Stores an event once; false: it was there. */
export async function insertEvent(tx: Transaction, tenantId: string, event: NewEvent): Promise<boolean> {
  const rows = await tx.execute(sql`
    insert into activity_events (tenant_id, key, source, id, type, time, origin, record)
    values (${tenantId}, ${event.key}, ${event.source}, ${event.id}, ${event.type}, ${event.time}::timestamptz, ${event.origin},
      ${event.record})
    on conflict do nothing returning 1`);
  return rows.length > 0;
}

const isoOf = (ms: number | undefined): string | null => (ms === undefined ? null : new Date(ms).toISOString());

/** Events that are collected or handed to open runs: each is in the inbox once, and taken once. */
import type { InboxStore, NewEvent, RouterStore } from '@milkrun/core';
import { sql } from 'drizzle-orm';
import type { Store, Transaction } from '../database.ts';
import { insertEvent, takeEvent } from './runs.ts';
import { insertTasks, placeTasks } from './tasks.ts';

/** Records a composed event is made from; the count is exact. */
const RECORDS_MAX = 1_000;

interface PendingRow extends Record<string, unknown> {
  count: string;
  first_ms: string;
  last_ms: string;
  now_ms: string;
  entry: number;
  version: number;
  spec: string;
}

/** What the router asks. */
export function createInboxWriter({ db }: Store): Pick<RouterStore, 'collect'> {
  return {
    async collect({ tenantId, activityId, eventKey, key, entry, version }) {
      await db.execute(sql`
        insert into activity_inbox (activity_id, event_key, tenant_id, collect_key, entry, version)
        values (${activityId}::uuid, ${eventKey}, ${tenantId}, ${key}, ${entry}, ${version}) on conflict do nothing`);
      const [row] = await db.execute<{ taken: boolean }>(sql`
        select taken_by is not null as taken from activity_inbox
        where activity_id = ${activityId}::uuid and event_key = ${eventKey}`);
      return { taken: row?.taken === true };
    },
  };
}

/** What the steps ask. */
export function createInboxStore({ db, transact }: Store): InboxStore {
  return {
    takeCollected: ({ activityId, key, batch }, decide, compose) =>
      transact(async (tx) => {
        const open = sql`activity_id = ${activityId}::uuid and collect_key = ${key} and taken_by is null`;
        if (!(await isTaken(tx, activityId, batch))) {
          const [row] = await tx.execute<PendingRow>(sql`
            select s.*, l.entry, l.version, v.spec
            from (select count(*) as count, floor(extract(epoch from min(received_at)) * 1000) as first_ms,
                floor(extract(epoch from max(received_at)) * 1000) as last_ms, max(seq) as last_seq,
                floor(extract(epoch from statement_timestamp()) * 1000) as now_ms
              from activity_inbox where ${open}) s
            join activity_inbox l on l.activity_id = ${activityId}::uuid and l.seq = s.last_seq
            join activity_versions v on v.activity_id = l.activity_id and v.version = l.version`);
          if (row === undefined) return { state: 'empty' };
          const decision = decide({
            spec: row.spec,
            entry: row.entry,
            count: Number(row.count),
            firstMs: Number(row.first_ms),
            lastMs: Number(row.last_ms),
            nowMs: Number(row.now_ms),
          });
          if ('waitMs' in decision) return { state: 'wait', waitMs: decision.waitMs };
          await tx.execute(sql`
            update activity_inbox set taken_by = ${batch} where activity_id = ${activityId}::uuid and event_key in
              (select event_key from activity_inbox where ${open} order by seq limit ${decision.take} for update skip locked)`);
        }
        const [taken] = await tx.execute<PendingRow>(sql`
          select count(*) as count, floor(extract(epoch from min(received_at)) * 1000) as first_ms,
            floor(extract(epoch from max(received_at)) * 1000) as last_ms, max(version) as version
          from activity_inbox where activity_id = ${activityId}::uuid and taken_by = ${batch}`);
        if (taken === undefined || Number(taken.count) === 0) return { state: 'empty' };
        const records = await tx.execute<{ record: string; tenant_id: string }>(sql`
          select e.record, e.tenant_id from activity_inbox i
          join activity_events e on e.tenant_id = i.tenant_id and e.key = i.event_key
          where i.activity_id = ${activityId}::uuid and i.taken_by = ${batch} order by i.seq limit ${RECORDS_MAX}`);
        const event: NewEvent = compose({
          records: records.map(({ record }) => record),
          count: Number(taken.count),
          firstMs: Number(taken.first_ms),
          lastMs: Number(taken.last_ms),
        });
        const tenantId = records[0]?.tenant_id;
        if (tenantId !== undefined) await insertEvent(tx, tenantId, event);
        return { state: 'taken', event, version: taken.version };
      }),

    async nextDelivered(activityId, key) {
      const [row] = await db.execute<{ event_key: string; version: number; record: string }>(sql`
        select i.event_key, i.version, e.record from activity_inbox i
        join activity_events e on e.tenant_id = i.tenant_id and e.key = i.event_key
        where i.activity_id = ${activityId}::uuid and i.collect_key = ${key} and i.taken_by is null
        order by i.seq limit 1`);
      return row === undefined ? null : { eventKey: row.event_key, version: row.version, record: row.record };
    },

    addPlan: (runId, eventKey, { tasks, truncated }) =>
      transact(async (tx) => {
        const [run] = await tx.execute<{ activity_id: string; dry_run: boolean; next: number; status: string }>(sql`
          select r.activity_id::text, r.dry_run, r.status,
            (select coalesce(max(position) + 1, 0) from activity_tasks t where t.run_id = r.run_id) as next
          from activity_runs r where r.run_id = ${runId}::uuid for update of r`);
        if (run === undefined || run.status !== 'running') throw new Error(`no run ${runId} at work`);
        if (!(await takeEvent(tx, run.activity_id, eventKey, runId))) return;
        const placed = await placeTasks(
          tx,
          run,
          tasks.map((task) => ({ ...task, position: task.position + run.next })),
        );
        await insertTasks(tx, runId, placed, eventKey);
        const spawned = run.dry_run ? 0 : placed.filter(({ status }) => status !== 'suppressed').length;
        await tx.execute(sql`
          update activity_runs set tasks_planned = coalesce(tasks_planned, 0) + ${placed.length},
            tasks_spawned = tasks_spawned + ${spawned}, truncated = truncated or ${truncated}::boolean
          where run_id = ${runId}::uuid`);
      }),
  };
}

async function isTaken(tx: Transaction, activityId: string, batch: string): Promise<boolean> {
  const rows = await tx.execute(sql`
    select 1 from activity_inbox where activity_id = ${activityId}::uuid and taken_by = ${batch} limit 1`);
  return rows.length > 0;
}

/** Schedules and commands: what the orchestrator keeps in step with Temporal. */
import type { ActivityCommand, ScheduledActivity, ScheduleStore } from '@milkrun/core';
import { sql } from 'drizzle-orm';
import { iso, type Runner, type Store } from '../database.ts';
import { missedTick, publishOwn } from './own-events.ts';

const LEADER_LOCK = 7112;
const CHANNEL = 'milkrun_activities';

/** Tells listening orchestrators, when the transaction commits. An empty payload: commands are waiting. */
export async function notifyActivities(runner: Runner, activityId = ''): Promise<void> {
  await runner.execute(sql`select pg_notify(${CHANNEL}, ${activityId})`);
}

export async function insertCommands(runner: Runner, commands: readonly ActivityCommand[]): Promise<void> {
  if (commands.length === 0) return;
  const rows = commands.map(({ kind, ...payload }) => ({ kind, payload }));
  await runner.execute(sql`
    insert into activity_commands (kind, payload)
    select g.kind, g.payload from json_to_recordset(${JSON.stringify(rows)}::text::json) as g(kind text, payload jsonb)`);
  await notifyActivities(runner);
}

interface ScheduledRow extends Record<string, unknown> {
  id: string;
  tenant_id: string;
  slug: string;
  spec: string;
  enabled: boolean;
  status: ScheduledActivity['status'];
  status_reason: string | null;
  disabled_by: string | null;
  disabled_reason: string | null;
  covered_ms: string;
  schedule_fingerprint: string | null;
}

/** `publishAll`: own events go to the outbox though no activity waits for them. */
export function createScheduleStore({ sql: connection, db, transact }: Store, publishAll: boolean): ScheduleStore {
  return {
    async installation() {
      const [row] = await db.execute<{ feed_id: string }>(sql`select feed_id from feed_state`);
      return (row as { feed_id: string }).feed_id;
    },

    async scheduled(activityId) {
      const one = activityId === undefined ? sql`true` : sql`d.id = ${activityId}::uuid`;
      const rows = await db.execute<ScheduledRow>(sql`
        select d.id::text, d.tenant_id, d.slug, v.spec, d.enabled, d.status, d.status_reason, d.disabled_by, d.disabled_reason,
          floor(extract(epoch from d.covered_at) * 1000) as covered_ms, d.schedule_fingerprint
        from activity_definitions d join activity_versions v on v.activity_id = d.id and v.version = d.version
        where d.deleted_at is null and d.trigger_type in ('cron', 'at') and ${one} order by d.id`);
      return rows.map((row) => ({
        activityId: row.id,
        tenantId: row.tenant_id,
        slug: row.slug,
        spec: row.spec,
        enabled: row.enabled,
        status: row.status,
        statusReason: row.status_reason,
        disabledBy: row.disabled_by,
        disabledReason: row.disabled_reason,
        coveredMs: Number(row.covered_ms),
        scheduleFingerprint: row.schedule_fingerprint,
      }));
    },

    noteSchedule: (activityId, fingerprint, correction) =>
      transact(async (tx) => {
        const [row] = await tx.execute<{ tenant_id: string }>(sql`
          update activity_definitions set schedule_fingerprint = ${fingerprint}, schedule_synced_at = statement_timestamp()
          where id = ${activityId}::uuid returning tenant_id`);
        if (row === undefined || correction === undefined) return;
        await tx.execute(sql`
          insert into audit (tenant_id, actor, action, object_kind, object_id, reason)
          values (${row.tenant_id}, 'orchestrator', 'schedule_restored', 'activity', ${activityId}, ${correction})`);
      }),

    async openedTicks(activityId, afterMs, untilMs) {
      const rows = await db.execute<{ ms: string }>(sql`
        select distinct floor(extract(epoch from scheduled_for) * 1000) as ms from activity_runs
        where activity_id = ${activityId}::uuid and scheduled_for > ${isoOf(afterMs)}::timestamptz
          and scheduled_for <= ${isoOf(untilMs)}::timestamptz`);
      return new Set(rows.map(({ ms }) => Number(ms)));
    },

    noteMissed: (activityId, ticks, reason, coveredMs) =>
      transact(async (tx) => {
        const rows = ticks.map(({ nominalMs, dedupeKey }) => ({ at: isoOf(nominalMs), key: dedupeKey }));
        const missed = await tx.execute<{ tenant_id: string; slug: string; scheduled_for: string }>(sql`
          with rows as (insert into activity_runs (run_id, activity_id, tenant_id, version_used, dedupe_key, origin, scheduled_for, finished_at,
            status, reason, event, workflow_id, temporal_run_id)
          select gen_random_uuid(), d.id, d.tenant_id, d.version, g.key, 'cron', g.at, statement_timestamp(), 'missed',
            ${reason}, '{}', 'missed-' || d.id || '-' || g.at, g.key
          from json_to_recordset(${JSON.stringify(rows)}::text::json) as g(at timestamptz, key text), activity_definitions d
          where d.id = ${activityId}::uuid
          on conflict (workflow_id, temporal_run_id) do nothing returning activity_id, scheduled_for)
          select d.tenant_id, d.slug, r.scheduled_for from rows r join activity_definitions d on d.id = r.activity_id`);
        const own = missed.map(({ tenant_id: tenantId, slug, scheduled_for }) =>
          missedTick({ tenantId, activityId, slug, scheduledFor: iso(scheduled_for), reason }),
        );
        await publishOwn(tx, publishAll, own);
        await tx.execute(sql`
          update activity_definitions set covered_at = greatest(covered_at, ${isoOf(coveredMs)}::timestamptz)
          where id = ${activityId}::uuid and covered_at is not null`);
      }),

    async asLeader(work) {
      const own = await connection.reserve();
      try {
        const [row] = await own`select pg_try_advisory_lock(${LEADER_LOCK}, 0) as won`;
        if (row?.won !== true) return undefined;
        try {
          return await work();
        } finally {
          await own`select pg_advisory_unlock(${LEADER_LOCK}, 0)`;
        }
      } finally {
        own.release();
      }
    },

    command: (commands) => transact((tx) => insertCommands(tx, commands)),

    async drainCommands(carryOut, limit) {
      let done = 0;
      for (let n = 0; n < limit; n += 1) {
        const answer = await drainOne(carryOut);
        if (answer === 'none') break;
        if (answer === 'done') done += 1;
      }
      return done;
    },

    async listen(heard) {
      const listener = await connection.listen(CHANNEL, (payload) => heard(payload === '' ? null : payload));
      return () => listener.unlisten();
    },
  };

  /** One command under its row lock, so that two orchestrators never carry out the same at once. */
  async function drainOne(carryOut: (command: ActivityCommand) => Promise<void>): Promise<'none' | 'done' | 'failed'> {
    return transact(async (tx) => {
      const [row] = await tx.execute<{ seq: string; kind: string; payload: object; tries: number }>(sql`
        select seq, kind, payload, tries from activity_commands where not_before <= statement_timestamp()
        order by seq limit 1 for update skip locked`);
      if (row === undefined) return 'none';
      try {
        await carryOut({ kind: row.kind, ...row.payload } as ActivityCommand);
      } catch {
        const seconds = Math.min(60, 2 ** Math.min(10, row.tries));
        await tx.execute(sql`
          update activity_commands set tries = tries + 1,
            not_before = statement_timestamp() + make_interval(secs => ${seconds})
          where seq = ${row.seq}`);
        return 'failed';
      }
      await tx.execute(sql`delete from activity_commands where seq = ${row.seq}`);
      return 'done';
    });
  }
}

const isoOf = (ms: number): string => new Date(ms).toISOString();

/**
 * The product's own events: `dev.milkrun.run.finished` and the like, written with what they tell of. They go to the outbox
 * where a bus takes everything, else only where an activity of the tenant waits for their type.
 */
import type { NewEvent } from '@milkrun/core';
import { type SQL, sql } from 'drizzle-orm';
import type { Runner } from '../database.ts';
import { notifyActivities } from './scheduling.ts';

export interface OwnEvent {
  readonly tenantId: string;
  readonly type:
    | 'dev.milkrun.activity.tripped'
    | 'dev.milkrun.run.finished'
    | 'dev.milkrun.task.finished'
    | 'dev.milkrun.tick.missed'
    | 'dev.milkrun.trigger.halted';
  /** Such as `/activities/{id}`. */
  readonly source: string;
  /** What makes it one event, however often it is told. */
  readonly id: string;
  readonly subject: string;
  readonly data: Readonly<Record<string, unknown>>;
  /** Of the event that caused it; null: nothing did. */
  readonly hops: number | null;
}

/** The key of an event in SQL: that of eventKeyOf in activity-core. */
export const eventKeyIn = (source: SQL, id: SQL): SQL =>
  sql`substr(encode(sha256(convert_to(octet_length(${source})::text || ':' || ${source} || ${id}, 'UTF8')), 'hex'), 1, 32)`;

/** Whether somebody takes events of a type. */
export const isWanted = (all: boolean, tenant: SQL, type: SQL): SQL =>
  sql`(${all}::boolean or exists (select 1 from activity_definitions w where w.tenant_id = ${tenant}
    and w.deleted_at is null and w.event_types @> array[${type}]::text[]))`;

export async function publishOwn(runner: Runner, all: boolean, events: readonly OwnEvent[]): Promise<void> {
  if (events.length === 0) return;
  const rows = await runner.execute(sql`
    insert into activity_outbox (tenant_id, key, record)
    select g."tenantId", ${eventKeyIn(sql`g.source`, sql`g.id`)},
      (jsonb_build_object('specversion', '1.0', 'id', g.id, 'source', g.source, 'type', g.type, 'subject', g.subject,
        'time', to_char(statement_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
        'datacontenttype', 'application/json', 'data', g.data)
        || case when g.hops is null then '{}' else jsonb_build_object('hops', g.hops + 1) end)::text
    from json_to_recordset(${JSON.stringify(events)}::text::json)
      as g("tenantId" text, type text, source text, id text, subject text, data jsonb, hops int)
    where ${isWanted(all, sql`g."tenantId"`, sql`g.type`)}
    on conflict (tenant_id, key) do nothing returning 1`);
  if (rows.length > 0) await notifyActivities(runner);
}

/** Hops of an event's record. */
export function hopsIn(event: Readonly<Record<string, unknown>> | null): number {
  const hops = Number(event?.hops ?? 0);
  return Number.isSafeInteger(hops) && hops > 0 ? hops : 0;
}

/** A tick that made no run. */
export function missedTick(tick: {
  readonly tenantId: string;
  readonly activityId: string;
  readonly slug: string;
  readonly scheduledFor: string | null;
  readonly reason: string;
}): OwnEvent {
  const { tenantId, activityId, slug, scheduledFor, reason } = tick;
  return {
    tenantId,
    type: 'dev.milkrun.tick.missed',
    source: `/activities/${activityId}`,
    id: `tick-${scheduledFor}`,
    subject: slug,
    data: { activityId, slug, scheduledFor, reason },
    hops: null,
  };
}

/** Puts an event that is stored already, such as the firing of a tick, where those who wait for it find it. */
export async function publishStored(runner: Runner, all: boolean, tenantId: string, event: NewEvent): Promise<void> {
  const rows = await runner.execute(sql`
    insert into activity_outbox (tenant_id, key, record) select ${tenantId}, ${event.key}, ${event.record}
    where ${isWanted(all, sql`${tenantId}`, sql`${event.type}`)} on conflict (tenant_id, key) do nothing returning 1`);
  if (rows.length > 0) await notifyActivities(runner);
}

/** `/state`: what the engine delivers and reports, stored in one statement a call. */
import { sql } from 'drizzle-orm';
import { eventKeyIn, isWanted, publishOwn } from './activities/own-events.ts';
import { notifyActivities } from './activities/scheduling.ts';
import { iso, type Store } from './database.ts';

export interface IncomingEvent {
  readonly eventId: string;
  readonly triggerId: string;
  readonly type: string;
  /** RFC 3339 or null. */
  readonly occurredAt: string | null;
  /** The whole CloudEvent as JSON text. */
  readonly record: string;
}

export interface IncomingState {
  /** Each trigger once. */
  readonly triggers: readonly {
    readonly triggerId: string;
    readonly pollState: string | null;
    /** Of the trigger's record that the poll was made with; absent or null: the engine does not say. */
    readonly configVersion?: number | null;
  }[];
  readonly events: readonly IncomingEvent[];
  readonly lifecycle: readonly {
    readonly triggerId: string;
    readonly at: string;
    readonly state: string;
    readonly code: string;
    readonly configVersion: number;
  }[];
}

interface Halted {
  readonly tenantId: string;
  readonly triggerId: string;
  readonly at: string;
  readonly code: string;
  readonly toolkit: string;
  readonly slug: string;
}

export interface StoredState {
  /** Triggers that exist; the others are gone. */
  readonly known: ReadonlySet<string>;
  /** Events that were new. */
  readonly stored: number;
}

/**
 * Stores events once by id, keeps each trigger's last state, marks it primed, and files lifecycle records. Repeats
 * change nothing. Rows are written in order of their keys, so that two calls with the same rows do not deadlock.
 */
export function createStateWriter({ transact }: Store, publishAll: boolean) {
  return (input: IncomingState): Promise<StoredState> =>
    transact(async (tx) => {
      const rows = await tx.execute<{ id: string; stored: string; published: string; halted: Halted[] | null }>(sql`
        with given as materialized (
          select id, state, v from json_to_recordset(${JSON.stringify(input.triggers.map(({ triggerId: id, pollState: state, configVersion: v }) => ({ id, state, v })))}::text::json)
            as g(id uuid, state text, v bigint)),
        known as materialized (
          select t.id, t.tenant_id, g.state, g.v from given g join triggers t on t.id = g.id where t.deleted_at is null),
        stored as (
          insert into events (event_id, trigger_id, tenant_id, type, occurred_at, record)
          select e."eventId", k.id, k.tenant_id, e.type, e."occurredAt", e.record
          from json_to_recordset(${JSON.stringify(input.events)}::text::json)
            as e("eventId" text, "triggerId" uuid, type text, "occurredAt" timestamptz, record text)
          join known k on k.id = e."triggerId"
          order by e."eventId"
          on conflict (event_id) do nothing
          returning tenant_id, trigger_id, event_id, type, record),
        published as (
          -- For activities that wait for them.
          insert into activity_outbox (tenant_id, key, record)
          select s.tenant_id, ${eventKeyIn(sql`x.source`, sql`s.event_id`)}, s.record
          from stored s, lateral (select '/triggers/' || s.trigger_id as source) x
          where ${isWanted(publishAll, sql`s.tenant_id`, sql`s.type`)}
          order by s.event_id
          on conflict (tenant_id, key) do nothing
          returning 1),
        states as (
          insert into poll_states (trigger_id, primed, poll_state, config_version, updated_at)
          select k.id, true, k.state, k.v, statement_timestamp() from known k order by k.id
          on conflict (trigger_id) do update set primed = true,
            poll_state = coalesce(excluded.poll_state, poll_states.poll_state),
            config_version = case when excluded.poll_state is null then poll_states.config_version else excluded.config_version end,
            updated_at = case when excluded.poll_state is null then poll_states.updated_at else excluded.updated_at end
          -- A poll that was in flight when the trigger changed may report behind one made after the change.
          where (not poll_states.primed or excluded.poll_state is not null)
            and coalesce(excluded.config_version >= poll_states.config_version, true)),
        filed as (
          insert into trigger_lifecycle (trigger_id, at, state, code, config_version)
          select l."triggerId", l.at, l.state, l.code, l."configVersion"
          from json_to_recordset(${JSON.stringify(input.lifecycle)}::text::json)
            as l("triggerId" uuid, at timestamptz, state text, code text, "configVersion" bigint)
          order by 1, 2, 3, 4
          on conflict do nothing returning trigger_id, at, state, code)
        select k.id::text as id, (select count(*) from stored) as stored, (select count(*) from published) as published,
          (select json_agg(json_build_object('tenantId', t.tenant_id, 'triggerId', t.id, 'at', f.at, 'code', f.code,
            'toolkit', t.toolkit, 'slug', t.slug)) from filed f join triggers t on t.id = f.trigger_id
            where f.state = 'halted') as halted
        from known k`);
      const halted = (rows[0]?.halted ?? []).map(({ tenantId, ...data }) => ({
        tenantId,
        type: 'dev.milkrun.trigger.halted' as const,
        source: `/triggers/${data.triggerId}`,
        id: `halted-${data.triggerId}-${iso(data.at)}`,
        subject: data.triggerId,
        data,
        hops: null,
      }));
      await publishOwn(tx, publishAll, halted);
      if (Number(rows[0]?.published ?? 0) > 0) await notifyActivities(tx);
      return { known: new Set(rows.map(({ id }) => id)), stored: Number(rows[0]?.stored ?? 0) };
    });
}

/** What people ask of the engine: shards, batches, figures of the fleet, one trigger and its timeline. */
import type { Sql } from 'postgres';

export interface ShardView {
  readonly timerShard: number;
  readonly storageShards: readonly number[];
  /** Rows due now and not leased. */
  readonly due: number;
  readonly wakeAt: string | null;
  readonly tickedAt: string | null;
  readonly backoffUntil: string | null;
}

export async function viewShards(sql: Sql): Promise<readonly ShardView[]> {
  return await sql.unsafe<ShardView[]>(
    `with live as materialized (select batch_no from batches where ended_at is null and expires_at > statement_timestamp())
     select t.timer_shard as "timerShard", t.serves as "storageShards", t.ticked_at::text as "tickedAt", t.backoff_until::text as "backoffUntil",
       case when isfinite(t.wake_at) then t.wake_at::text end as "wakeAt",
       (select count(*)::int from unnest(t.serves) as s(shard) cross join lateral (
         select from polling_trigger_runs r where r.shard = s.shard and r.enabled and r.owner = 'v' and (r.halted_code is null or r.halted_probe)
           and r.next_poll_at <= statement_timestamp() and (r.lease_owner is null or r.lease_owner <> all (array(select batch_no from live)))
         offset 0) x) as due
     from timer_shards t order by 1`,
  );
}

export interface BatchView {
  readonly batchId: string;
  readonly timerShard: number;
  readonly step: string;
  readonly hop: number;
  readonly planned: number;
  readonly entries: number | null;
  readonly open: number;
  readonly startedAt: string;
  readonly expiresAt: string | null;
  readonly endedAt: string | null;
}

export async function viewBatches(sql: Sql, limit: number, ended: boolean): Promise<readonly BatchView[]> {
  return await sql.unsafe<BatchView[]>(
    `select batch_id as "batchId", timer_shard as "timerShard", step, hop, planned, entries, open, started_at::text as "startedAt",
       expires_at::text as "expiresAt", ended_at::text as "endedAt" from batches where $2 or ended_at is null order by (ended_at is null) desc, batch_no desc limit $1`,
    [limit, ended],
  );
}

export interface FleetView {
  /** The database's time, RFC 3339. */
  readonly now: string;
  readonly haltedByCode: Readonly<Record<string, number>>;
  readonly triggers: number;
  readonly polled: number;
  readonly due: number;
  readonly oldestDueSeconds: number;
  readonly leased: number;
  readonly halted: number;
  readonly primed: number;
  readonly held: number;
  /** Since the instant asked for. */
  readonly deadLetters: number;
  readonly openBatches: number;
  readonly unclaimedBatches: number;
  readonly workers: number;
  readonly braked: boolean;
  readonly batches: Readonly<Record<string, number>>;
  readonly codes: Readonly<Record<string, number>>;
}

/** One scan of the hot table; for pages and the once-run, not for a hot path. */
export async function viewFleet(sql: Sql, since: string): Promise<FleetView> {
  const [row] = await sql.unsafe<FleetView[]>(
    `
    with live as materialized (select batch_no, step from batches where ended_at is null and expires_at > statement_timestamp()),
    r as materialized (
      select t.enabled and t.owner = 'v' and t.halted_code is null as polled, t.next_poll_at, t.halted_code, t.primed, t.last_code,
        t.lease_owner = any (array(select batch_no from live)) as leased from polling_trigger_runs t)
    select count(*)::int as triggers, count(*) filter (where polled)::int as polled, count(*) filter (where leased)::int as leased,
      count(*) filter (where polled and next_poll_at <= statement_timestamp() and leased is not true)::int as due,
      coalesce(greatest(0, extract(epoch from statement_timestamp() - min(next_poll_at) filter (where polled and leased is not true))), 0)::float8 as "oldestDueSeconds",
      count(halted_code)::int as halted, count(*) filter (where primed)::int as primed,
      (select count(*)::int from held_events) as held, (select count(*)::int from dead_letters where at >= $1::text::timestamptz) as "deadLetters",
      (select count(*)::int from live) as "openBatches",
      (select count(*)::int from batches where ended_at is null and claimed_at is null and started_at > statement_timestamp() - interval '60 s') as "unclaimedBatches",
      (select count(*)::int from workers where seen_at > statement_timestamp() - interval '45 s') as workers,
      (select braked from fleet) as braked, to_char(statement_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as now,
      (select coalesce(jsonb_object_agg(c.code, n), '{}') from (select halted_code, count(*) as n from r where halted_code is not null group by 1) x
        join codes c on c.no = x.halted_code) as "haltedByCode",
      (select coalesce(jsonb_object_agg(step, n), '{}') from (select step, count(*) as n from live group by 1) x) as batches,
      (select coalesce(jsonb_object_agg(c.code, n), '{}') from (select last_code, count(*) as n from r where last_code is not null group by 1) x
        join codes c on c.no = x.last_code) as codes
    from r`,
    [since],
  );
  return row as FleetView;
}

export interface TriggerView {
  readonly triggerId: string;
  readonly tenantId: string;
  readonly toolkit: string;
  readonly slug: string;
  readonly connectionId: string;
  readonly enabled: boolean;
  readonly intervalSeconds: number;
  readonly nextPollAt: string | null;
  readonly lastPolledAt: string | null;
  readonly lastOkAt: string | null;
  readonly lastEventAt: string | null;
  readonly lastCode: string | null;
  readonly haltedCode: string | null;
  readonly haltedAt: string | null;
  readonly failureCount: number;
  readonly poisonCount: number;
  readonly quietPolls: number;
  readonly quietSince: string | null;
  readonly primed: boolean;
  readonly leaseEpoch: number;
  readonly configVersion: number;
  readonly version: string | null;
  readonly cursor: unknown;
  readonly seenKeys: number;
  /** The live batch that leases it, with its hop and step. */
  readonly batch: { readonly batchId: string; readonly hop: number; readonly step: string } | null;
  readonly dueSeconds: number | null;
}

export async function viewTrigger(sql: Sql, shard: number, triggerId: string): Promise<TriggerView | undefined> {
  const [row] = await sql.unsafe<TriggerView[]>(
    `select t.trigger_id as "triggerId", p.tenant_id as "tenantId", p.toolkit, p.slug, p.connection_id as "connectionId", t.enabled,
       t.interval_s as "intervalSeconds", t.next_poll_at::text as "nextPollAt", t.last_polled_at::text as "lastPolledAt",
       t.last_ok_at::text as "lastOkAt", t.last_event_at::text as "lastEventAt", c.code as "lastCode", h.code as "haltedCode",
       t.halted_at::text as "haltedAt", t.failure_count as "failureCount", t.poison_count as "poisonCount", t.quiet_polls as "quietPolls",
       t.quiet_since::text as "quietSince", t.primed, t.lease_epoch as "leaseEpoch", p.config_version::int as "configVersion", t.version_used as version,
       s.cursor, coalesce(octet_length(s.seen) + octet_length(s.seen_added), 0) / 8 as "seenKeys",
       (select jsonb_build_object('batchId', b.batch_id, 'hop', b.hop, 'step', b.step) from batches b
         where b.batch_no = t.lease_owner and b.ended_at is null and b.expires_at > statement_timestamp()) as batch,
       extract(epoch from statement_timestamp() - t.next_poll_at)::float8 as "dueSeconds"
     from polling_trigger_runs t join polling_triggers p using (shard, trigger_id) left join polling_trigger_states s using (shard, trigger_id)
     left join codes c on c.no = t.last_code left join codes h on h.no = t.halted_code
     where t.shard = $1 and t.trigger_id = $2`,
    [shard, triggerId],
  );
  return row;
}

export interface DeadLetterView {
  readonly id: string;
  readonly triggerId: string;
  readonly at: string;
  readonly stage: string;
  readonly code: string;
  readonly reason: string;
  readonly eventId: string | null;
}

export interface DeadLetterFilter {
  readonly limit: number;
  /** Those of one tenant's triggers alone. */
  readonly tenantId?: string;
  /** Id of the last one of the page before. */
  readonly before?: string;
}

/** Newest first. */
export async function viewDeadLetters(
  sql: Sql,
  { limit, tenantId, before }: DeadLetterFilter,
): Promise<readonly DeadLetterView[]> {
  return await sql.unsafe<DeadLetterView[]>(
    `select id::text, trigger_id as "triggerId", at::text as at, stage, code, reason, event_id as "eventId" from dead_letters d
     where ($2::text is null or exists (select from polling_triggers p where p.shard = d.shard and p.trigger_id = d.trigger_id and p.tenant_id = $2))
       and ($3::text is null or id < $3::text::bigint) order by id desc limit $1`,
    [limit, tenantId ?? null, before ?? null],
  );
}

/** One with what could not be used: `raw` is base64. */
export async function viewDeadLetter(
  sql: Sql,
  id: string,
): Promise<(DeadLetterView & { readonly raw: string }) | undefined> {
  const [row] = await sql.unsafe<(DeadLetterView & { readonly raw: string })[]>(
    `select id::text, trigger_id as "triggerId", at::text as at, stage, code, reason, event_id as "eventId", encode(raw, 'base64') as raw
     from dead_letters where id = $1::text::bigint`,
    [id],
  );
  return row;
}

/** Live batches: reads `batches` alone, so it may be asked often. */
export async function countLiveBatches(sql: Sql): Promise<number> {
  const [row] = await sql.unsafe<{ n: number }[]>(
    'select count(*)::int as n from batches where ended_at is null and expires_at > statement_timestamp()',
  );
  return row?.n ?? 0;
}

/** What dashboards show of the whole fleet, from small tables alone: cheap enough for every few seconds. */
export interface FleetGauges {
  /** Live batches by step. */
  readonly batches: Readonly<Record<string, number>>;
  /** Rows of live batches. */
  readonly leased: number;
  /** Toolkits held back because most of their polls fail. */
  readonly sourcesDown: number;
}

export async function readGauges(sql: Sql): Promise<FleetGauges> {
  const steps = await sql.unsafe<{ step: string; batches: number; leased: number }[]>(
    `select step, count(*)::int as batches, coalesce(sum(entries), 0)::int as leased from batches
     where ended_at is null and (expires_at > statement_timestamp() or claimed_at is null) group by step`,
  );
  const [down] = await sql.unsafe<{ n: number }[]>(
    "select count(*)::int as n from source_limits where reason = 'source_down' and connection_h = 0",
  );
  return {
    batches: Object.fromEntries(steps.map(({ step, batches }) => [step, batches])),
    leased: steps.reduce((sum, { leased }) => sum + leased, 0),
    sourcesDown: down?.n ?? 0,
  };
}

/** Polled triggers that were neither polled nor given a verdict since an instant. */
export async function countPending(sql: Sql, since: string): Promise<number> {
  const [row] = await sql.unsafe<{ n: number }[]>(
    `select count(*)::int as n from polling_trigger_runs
     where enabled and owner = 'v' and halted_code is null and coalesce(last_polled_at, '-infinity') < $1::text::timestamptz
       and not exists (select from poll_log l where l.trigger_id = polling_trigger_runs.trigger_id and l.at >= $1::text::timestamptz)`,
    [since],
  );
  return row?.n ?? 0;
}

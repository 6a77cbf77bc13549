/**
 * The liveness invariant and freshness, in SQL alone (design section 7), with the counts the brake and the fleet page use.
 * One scan of the hot table; what breaches is named, at most 1,000.
 */
import type { LivenessReport, Violation } from '@milkrun/core';
import type { Sql } from 'postgres';

/** Every row with what it breaches, `kind`, null for the sound ones. $1: seconds of a tick. Holds are looked up by hash. */
const ROWS = `
with live as materialized (select batch_no, expires_at from batches where ended_at is null and expires_at > statement_timestamp()),
hold as materialized (select toolkit_h, connection_h from source_limits where not_before > statement_timestamp() or per_minute is not null),
r as (
  select t.shard, t.trigger_id, t.next_poll_at, t.interval_s, t.last_ok_at, t.last_code, t.owner, t.ownership_since, t.halted_code,
    t.enabled and t.owner = 'v' and t.halted_code is null as polled,
    b.batch_no is not null as leased,
    (t.toolkit_h, t.connection_h) in (select toolkit_h, connection_h from hold) or (t.toolkit_h, 0::bigint) in (select toolkit_h, connection_h from hold)
      or exists (select from hold where toolkit_h = 0 and connection_h = 0) as held
  from polling_trigger_runs t left join live b on b.batch_no = t.lease_owner),
v as (
  select r.*,
    case when r.polled and r.next_poll_at is null then 'no_next_poll'
      when r.polled and r.next_poll_at > statement_timestamp() + greatest(r.interval_s, 86400) * interval '1 s' + interval '1 min' then 'too_far_ahead'
      when r.polled and not r.leased and r.next_poll_at < statement_timestamp() - ($1::float8 + 60) * interval '1 s' then 'overdue'
      when r.owner in ('i', 'o') and r.ownership_since < statement_timestamp() - interval '10 min' then 'stuck_handoff' end as kind
  from r)`;

const LIVENESS = `${ROWS}
select count(*)::int as checked, count(*) filter (where polled)::int as polled, count(kind)::int as breaches,
  count(*) filter (where polled and last_ok_at < statement_timestamp() - 3 * interval_s * interval '1 s')::int as stale,
  coalesce(extract(epoch from statement_timestamp() - min(next_poll_at) filter (where polled and not leased and not held)), 0)::float8 as oldest
from v`;

/** Only asked when there are any: after an outage they are all rows, and what names them must not be built a million times. */
const NAMED = `${ROWS}
select v.kind, v.trigger_id as "triggerId", s.timer_shard as "timerShard", v.held or coalesce(s.paused, false) as held,
  'next poll ' || coalesce(v.next_poll_at::text, 'never') || ', last code ' || coalesce((select code from codes where no = v.last_code), 'none') as detail
from (select * from v where kind is not null limit 1000) v left join lateral (
  select t.timer_shard, t.backoff_until > statement_timestamp() as paused from timer_shards t where v.shard = any (t.serves) limit 1) s on true`;

/** A polled row must have a next poll; which rows have none, a scan says, so it is only asked when something is amiss. */
const REPAIR = `
update polling_trigger_runs set next_poll_at = statement_timestamp()
where enabled and owner = 'v' and halted_code is null and next_poll_at is null`;

const AFTERWARDS = `
with f as (
  update fleet set polled = $1::bigint, counted_at = statement_timestamp(),
    braked = braked and (select count(*) from lifecycle_outbox where state = 'halted' and code = 'receiver_gone'
      and at > greatest(statement_timestamp() - interval '1 h', fleet.brake_reset_at)) >= greatest(50, ceil($1::bigint * 0.05))),
h as (delete from source_health where slot < floor(extract(epoch from statement_timestamp()) / 10)::bigint - 60),
l as (delete from source_limits where per_minute is null and not_before < statement_timestamp() - interval '1 min'),
o as (delete from lifecycle_outbox where acknowledged_at < statement_timestamp() - interval '30 days'),
t as (delete from tombstones where deleted_at < statement_timestamp() - interval '30 days'),
e as (update batches set ended_at = statement_timestamp(), open = 0, key_shards = null, key_epochs = null, key_ids = null where ended_at is null and started_at < statement_timestamp() - interval '24 h' returning batch_no),
x as (delete from batch_fences f where not exists (select from batches b where b.batch_no = f.batch_no and b.ended_at is null)),
g as (delete from batches where ended_at < statement_timestamp() - interval '7 days')
select timer_shard from timer_shards
where coalesce(ticked_at, '-infinity') < statement_timestamp() - interval '60 s' - $2::float8 * interval '1 s'`;

interface LivenessRow {
  readonly checked: number;
  readonly polled: number;
  readonly stale: number;
  readonly oldest: number;
  readonly breaches: number;
}

export async function checkLiveness(sql: Sql, tickSeconds: number): Promise<LivenessReport> {
  const [row] = await sql.unsafe<LivenessRow[]>(LIVENESS, [tickSeconds], { prepare: true });
  const violations =
    (row?.breaches ?? 0) > 0 ? await sql.unsafe<Violation[]>(NAMED, [tickSeconds], { prepare: true }) : [];
  if (violations.length > 0) await sql.unsafe(REPAIR, [], { prepare: true });
  const quiet = await sql.unsafe<{ timer_shard: number }[]>(AFTERWARDS, [row?.polled ?? 0, tickSeconds], {
    prepare: true,
  });
  return {
    checked: row?.checked ?? 0,
    polled: row?.polled ?? 0,
    stale: row?.stale ?? 0,
    oldestDueSeconds: Math.max(0, row?.oldest ?? 0),
    violations: [...violations],
    quietShards: quiet.map((one) => one.timer_shard),
  };
}

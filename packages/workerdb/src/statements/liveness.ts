/**
 * The liveness invariant, freshness and silence, in SQL alone (design section 7). Looking changes nothing; repairing is a
 * statement of its own. Each is one scan of the hot table; what is found is named, at most 1,000 of a kind.
 */
import type { LivenessReport, Violation } from '@milkrun/core';
import type { Sql } from 'postgres';

export interface LivenessSettings {
  /** Seconds of a tick. */
  readonly tickSeconds: number;
  /** Seconds between two checks: how late beyond a tick a trigger is a violation. */
  readonly everySeconds: number;
  /** A trigger without events for this many of its usual gaps is silent; 0: none is. */
  readonly silenceFactor: number;
}

/** Below this nobody is called silent, whatever its usual gap, seconds. */
const SILENCE_SECONDS_MIN = 3600;

/**
 * Every row with what it breaches, `kind`, null for the sound ones; whether it is fresh, and whether it is silent. $1:
 * seconds of a tick, $2 of the check, $3 the silence factor. Holds are looked up by hash, for they may be many.
 */
const ROWS = `
with live as materialized (select batch_no, expires_at from batches where ended_at is null and expires_at > statement_timestamp()),
hold as materialized (select toolkit_h, connection_h from source_limits where not_before > statement_timestamp() or per_minute is not null),
paused as materialized (                                        -- storage shards whose timer shard waits: back-off, an open breaker
  select unnest(t.serves) as shard from timer_shards t where t.backoff_until > statement_timestamp()
    or exists (select from holds_log l where l.timer_shard = t.timer_shard and l.reason = 'breaker' and l.until > statement_timestamp())),
r as (
  select t.shard, t.trigger_id, t.next_poll_at, t.interval_s, t.last_ok_at, t.last_code, t.owner, t.ownership_since, t.last_event_at, t.event_gap_s,
    t.tenant_h, t.toolkit_h, t.connection_h,
    t.enabled and t.owner = 'v' and t.halted_code is null as polled,
    b.batch_no is not null as leased,
    (t.toolkit_h, t.connection_h) in (select toolkit_h, connection_h from hold) or (t.toolkit_h, 0::bigint) in (select toolkit_h, connection_h from hold)
      or (t.tenant_h, 2::bigint) in (select toolkit_h, connection_h from hold) or t.shard in (select shard from paused)
      or exists (select from hold where toolkit_h = 0 and connection_h = 0) as held
  from polling_trigger_runs t left join live b on b.batch_no = t.lease_owner),
v as (
  select r.*,
    case when r.polled and r.next_poll_at is null then 'no_next_poll'
      when r.polled and r.next_poll_at > statement_timestamp() + greatest(r.interval_s, 86400) * interval '1 s' + interval '1 min' then 'too_far_ahead'
      when r.polled and not r.leased and r.next_poll_at < statement_timestamp() - ($1::float8 + $2::float8) * interval '1 s' then 'overdue'
      when r.owner in ('i', 'o') and r.ownership_since < statement_timestamp() - interval '10 min' then 'stuck_handoff' end as kind,
    r.polled and (r.last_ok_at < statement_timestamp() - 3 * r.interval_s * interval '1 s' or (r.last_ok_at is null and r.last_code <> 1)) as stale,
    r.polled and $3::float8 > 0 and r.event_gap_s is not null and r.last_event_at < statement_timestamp() - greatest($3::float8 * r.event_gap_s, ${SILENCE_SECONDS_MIN}) * interval '1 s' as silent
  from r)`;

const LIVENESS = `${ROWS}
select count(*)::int as checked, count(*) filter (where polled)::int as polled, count(kind)::int as breaches,
  count(*) filter (where stale)::int as stale, count(*) filter (where silent)::int as silent,
  coalesce(extract(epoch from statement_timestamp() - min(next_poll_at) filter (where polled and not leased and not held)), 0)::float8 as oldest,
  (select coalesce(jsonb_object_agg(kind, n), '{}') from (select kind, count(*) as n from v where kind is not null and not held group by 1) x) as open
from v`;

const DETAIL = `'next poll ' || coalesce(v.next_poll_at::text, 'never') || ', last code ' || coalesce((select code from codes where no = v.last_code), 'none')`;
const NEXT = `left join lateral (select t.timer_shard from timer_shards t where v.shard = any (t.serves) limit 1) s on true`;

/** Only asked when there are any: after an outage they are all rows, and what names them must not be built a million times. */
const NAMED = `${ROWS}
select v.kind, v.trigger_id as "triggerId", s.timer_shard as "timerShard", v.held,
  ${DETAIL} || case when v.held then ', held: ' || coalesce((
    select l.reason || ' until ' || coalesce(case when l.per_minute is null then l.not_before::text end, 'a good probe') from source_limits l
    where (l.toolkit_h, l.connection_h) in ((v.toolkit_h, v.connection_h), (v.toolkit_h, 0), (v.tenant_h, 2), (0, 0)) order by l.not_before desc limit 1),
    'its timer shard waits') else '' end as detail
from (select * from v where kind is not null order by held limit 1000) v ${NEXT}`;

const STALE = `${ROWS}
select 'stale' as kind, v.trigger_id as "triggerId", s.timer_shard as "timerShard",
  'no good poll since ' || coalesce(v.last_ok_at::text, 'it was made') || ', ' || ${DETAIL} as detail
from (select * from v where stale order by last_ok_at nulls first limit 1000) v ${NEXT}`;

const SILENT = `${ROWS}
select 'silent' as kind, v.trigger_id as "triggerId", s.timer_shard as "timerShard",
  'no event since ' || v.last_event_at::text || '; usually one every ' || v.event_gap_s || ' s' as detail
from (select * from v where silent order by last_event_at limit 1000) v ${NEXT}`;

const QUIET = `select timer_shard from timer_shards
where coalesce(ticked_at, '-infinity') < statement_timestamp() - ($1::float8 + $2::float8) * interval '1 s' order by 1`;

/** A polled row has a next poll, within its interval or a day. Which have not, a scan says, so it is asked only when something is amiss. */
const REPAIR = `
update polling_trigger_runs set next_poll_at = case when next_poll_at is null then statement_timestamp() else next_slot(statement_timestamp(), interval_s, phase_s) end
where enabled and owner = 'v' and halted_code is null
  and (next_poll_at is null or next_poll_at > statement_timestamp() + greatest(interval_s, 86400) * interval '1 s' + interval '1 min')`;

/** $1 polled triggers, as just counted. */
const TIDY = `
with f as (
  update fleet set polled = $1::bigint, counted_at = statement_timestamp(),
    braked = braked and (select count(*) from lifecycle_outbox where state = 'halted' and code = 'receiver_gone'
      and at > greatest(statement_timestamp() - interval '1 h', fleet.brake_reset_at)) >= greatest(50, ceil($1::bigint * 0.05))),
h as (delete from source_health where slot < floor(extract(epoch from statement_timestamp()) / 10)::bigint - 60),
l as (delete from source_limits where per_minute is null and not_before < statement_timestamp() - interval '1 min'),
w as (delete from holds_log where until < statement_timestamp() - interval '30 days'),
o as (delete from lifecycle_outbox where acknowledged_at < statement_timestamp() - interval '30 days'),
t as (delete from tombstones where deleted_at < statement_timestamp() - interval '30 days'),
e as (update batches set ended_at = statement_timestamp(), open = 0, key_shards = null, key_epochs = null, key_ids = null where ended_at is null and started_at < statement_timestamp() - interval '24 h' returning batch_no),
x as (delete from batch_fences f where not exists (select from batches b where b.batch_no = f.batch_no and b.ended_at is null)),
g as (delete from batches where ended_at < statement_timestamp() - interval '7 days')
select`;

interface LivenessRow {
  readonly checked: number;
  readonly polled: number;
  readonly stale: number;
  readonly silent: number;
  readonly oldest: number;
  readonly breaches: number;
  readonly open: Readonly<Record<string, number>>;
}

/** Looks, and changes nothing. */
export async function inspectLiveness(sql: Sql, settings: LivenessSettings): Promise<LivenessReport> {
  const { tickSeconds, everySeconds, silenceFactor } = settings;
  const parameters = [tickSeconds, everySeconds, silenceFactor];
  const [row] = await sql.unsafe<LivenessRow[]>(LIVENESS, parameters, { prepare: true });
  const named = async (count: number | undefined, statement: string): Promise<readonly Violation[]> =>
    (count ?? 0) > 0 ? [...(await sql.unsafe<Violation[]>(statement, parameters, { prepare: true }))] : [];
  const quiet = await sql.unsafe<{ timer_shard: number }[]>(QUIET, [tickSeconds, everySeconds], { prepare: true });
  return {
    checked: row?.checked ?? 0,
    polled: row?.polled ?? 0,
    open: row?.open ?? {},
    violations: await named(row?.breaches, NAMED),
    stale: row?.stale ?? 0,
    staleTriggers: await named(row?.stale, STALE),
    silent: row?.silent ?? 0,
    silentTriggers: await named(row?.silent, SILENT),
    oldestDueSeconds: Math.max(0, row?.oldest ?? 0),
    quietShards: quiet.map((one) => one.timer_shard),
  };
}

/** Gives what lost its next poll one again, when the report found any, and clears away what is over. */
export async function repairLiveness(sql: Sql, report: LivenessReport): Promise<void> {
  if (report.violations.some(({ kind }) => kind === 'no_next_poll' || kind === 'too_far_ahead')) {
    await sql.unsafe(REPAIR, [], { prepare: true });
  }
  await sql.unsafe(TIDY, [report.polled], { prepare: true });
}

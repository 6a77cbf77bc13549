/**
 * The commit statement: fenced, everything it decides in the same statement.
 *
 * Most rows are plain: a poll succeeded and found nothing. They come as columns, which cost a third of JSON to read; where
 * a batch has no others, a statement commits it that carries few values and opens none of the tables only other rows need.
 *
 * Order of locks: run rows by key first, then the rest. Old values are carried through `locked` into what follows: two CTEs
 * of a writing statement are never joined (both are estimated at one row, and a nested loop of 5,000 × 5,000 follows).
 */
import { codeNumberOf } from '../code-numbers.ts';

const OK = codeNumberOf('ok');

const ME = `me as materialized (
  select batch_no, timer_shard, claimed_at, open, statement_timestamp() as now from batches
  where batch_id = $1 and ended_at is null and expires_at > statement_timestamp())`;

/** Arrays are estimated at ten rows, so rows of triggers are probed by their keys. */
const PLAIN = 'unnest($6::smallint[], $7::uuid[], $8::integer[], $9::integer[], $10::integer[]) as p(s, i, e, ms, dd)';

const LOG_LINES = `insert into poll_log (at, trigger_id, lease_epoch, code, outcome, events, deduplicated, poll_ms, quiet_polls, quiet_since, reason,
    due_at, claimed_at, next_at, batch_no, found)`;

const FENCED_LINES = `union all select statement_timestamp(), l.i, l.e, 7, 'fenced', 0, 0, l.ms, 0, null, 'taken from its batch by a change',
    null, me.claimed_at, l.was_due, me.batch_no, null
  from locked l, me where l.mine is not true and not l.done`;

/** `successes`: a query of the toolkits that have answered. */
const recovery = (
  successes: string,
): string => `good as materialized (                                          -- down toolkits whose polls succeed again, by batches claimed since the last step
  select l.toolkit_h, l.per_minute from source_limits l where l.reason = 'source_down' and l.connection_h = 0 and greatest(l.made_at, l.stepped_at) < (select claimed_at from me)
    and l.toolkit_h = any (array(${successes}))),
ramped as (                                                     -- 1, 10, 100, 1,000: each good batch lets ten times as many follow at once
  update source_limits l set per_minute = l.per_minute * 10, not_before = statement_timestamp(), stepped_at = statement_timestamp()
  where l.connection_h = 0 and l.toolkit_h = any (array(select toolkit_h from good where per_minute < 1000))),
recovered as (
  delete from source_limits where connection_h = 0 and toolkit_h = any (array(select toolkit_h from good where per_minute >= 1000)))`;

const FINISH = `fin as (
  update batches set step = 'commit', open = $3::int, ended_at = case when $2::boolean then statement_timestamp() end,
    key_shards = case when not $2::boolean then key_shards end, key_epochs = case when not $2::boolean then key_epochs end,
    key_ids = case when not $2::boolean then key_ids end,
    expires_at = greatest(expires_at, statement_timestamp() + $4::float8 * interval '1 s')
  where batch_id = $1 and ended_at is null and expires_at > statement_timestamp() returning timer_shard),
fences as (delete from batch_fences where $2::boolean and batch_no = (select batch_no from me)),
pause as (
  update timer_shards set
    backoff_until = case when $5::boolean then statement_timestamp() + least(300, 30 * 2 ^ backoff_level) * interval '1 s' end,
    backoff_level = case when $5::boolean then least(backoff_level + 1, 4) else 0 end
  where $2::boolean and timer_shard = (select timer_shard from me) and ($5::boolean or backoff_level > 0) returning timer_shard, backoff_until),
waits as (
  insert into holds_log (timer_shard, since, until, reason)
  select timer_shard, statement_timestamp(), backoff_until, 'backoff' from pause where backoff_until is not null)`;

const OUTCOME = `select count(*)::int as committed, (extract(epoch from min(u.next_poll_at) - statement_timestamp()) * 1000)::float8 as next_due_ms,
  coalesce((select min(u.next_poll_at) < t.wake_at or (t.wake_at <= t.ticked_at and (select open from me) > $3)   -- the tick left due rows: places are free
    from timer_shards t where t.timer_shard = (select timer_shard from me)), true) or exists (select from good) as arm,`;

const EXCEPTIONS = `  (select coalesce(jsonb_agg(jsonb_build_array(x.s, x.i, x.e, x.st)), '[]') from (
    select l.s, l.i, l.e, case when l.done then 'already' else 'fenced' end as st from locked l where l.mine is not true
    union all select d.s, d.i, d.e, 'fenced' from d where (select count(*) from d) > (select count(*) from locked) and (d.s, d.i) not in (select s, i from locked)) x) as exceptions`;

/**
 * Plain rows alone. $1 batch id, $2 ends the batch, $3 open entries, $4 seconds to extend by, $5 forced with something
 * released; columns of the rows: $6 shards, $7 trigger ids, $8 epochs, $9 milliseconds, $10 deduplicated items.
 */
export const COMMIT_PLAIN = `
with ${ME},
d as materialized (select p.* from ${PLAIN}),
locked as materialized (                                        -- in key order, with the values as they were
  select d.*, t.lease_owner = (select batch_no from me) and t.lease_epoch = d.e and t.enabled as mine, t.last_committed_epoch >= d.e as done,
    t.last_code as was_code, t.next_poll_at as was_due, t.quiet_polls as was_polls, t.quiet_since as was_since, t.halted_code as was_halt, t.toolkit_h
  from (select * from d order by s, i) d
  join polling_trigger_runs t on t.shard = d.s and t.trigger_id = d.i order by t.shard, t.trigger_id for update of t),
act as materialized (
  select l.*, (select batch_no from me) as batch_no, (select claimed_at from me) as claimed_at, (select now from me) as now,
    l.was_code is distinct from ${OK} or l.was_since < statement_timestamp() - interval '1 h' as logs
  from locked l where l.mine),
upd as (
  update polling_trigger_runs t set
    next_poll_at = case when t.poll_requested_at > d.claimed_at then d.now else next_slot(d.now, t.interval_s, t.phase_s) end,
    lease_owner = null, last_committed_epoch = d.e, last_polled_at = d.now, last_ok_at = d.now,
    quiet_since = case when d.logs then null else coalesce(t.quiet_since, d.now) end,
    quiet_polls = case when d.logs then 0 else t.quiet_polls + 1 end,
    failure_count = 0, poison_count = 0, last_code = ${OK}, halted_probe = false, halted_code = null, halted_at = null
  from act d
  where t.shard = d.s and t.trigger_id = d.i and t.lease_owner = d.batch_no and t.lease_epoch = d.e and t.enabled
  returning d.*, t.next_poll_at),
log as (
  ${LOG_LINES}
  select now, i, e, ${OK}::smallint, 'success', 0, dd, ms, was_polls, was_since, null, was_due, claimed_at, next_poll_at, batch_no, null::integer
  from upd where logs
  ${FENCED_LINES}),
life as (
  insert into lifecycle_outbox (trigger_id, config_version, state, code, at)
  select u.i, p.config_version, 'resumed', 'ok', u.now from (select * from upd where was_halt is not null offset 0) u cross join lateral (
    select t.config_version from polling_triggers t where t.shard = u.s and t.trigger_id = u.i limit 1) p),
health as (
  insert into source_health as h (toolkit_h, slot, polls, failures)
  select toolkit_h, floor(extract(epoch from now) / 10)::bigint, count(*), 0 from upd group by 1, 2 order by 1, 2
  on conflict (toolkit_h, slot) do update set polls = h.polls + excluded.polls),
${recovery('select distinct toolkit_h from act')},
${FINISH}
${OUTCOME}
${EXCEPTIONS}, '{}'::jsonb as halted
from upd u`;

/** Whether added keys are written with those before them: 64 of them stay beside, or one new key would rewrite all. */
const JOINS = 'octet_length(s.seen_added) + octet_length(d.sa) * 3 / 4 > 512';

/** Parameters of COMMIT_PLAIN, $11 the rows that are not plain, as JSON, and $12 how many rows there are in all. */
export const COMMIT = `
with ${ME},
d(s, i, e, o, c, ct, hc, hct, ha, ch, ra, cur, cn, sn, sa, sl, v, pr, ev, dd, fd, ms, pl, rk, r, h, hd, dl, w) as materialized (
  select p.s, p.i, p.e, 'success', ${OK}::smallint, null::text, null::smallint, null::text, null::integer, null::text, null::integer, null::jsonb,
    null::boolean, null::text, null::text, null::integer, null::text, null::boolean, 0, p.dd, null::integer, p.ms, true, null::boolean, null::text, null::jsonb,
    null::jsonb, null::jsonb, null::jsonb
  from ${PLAIN}
  union all select d.* from jsonb_to_recordset($11::text::jsonb) as d(s smallint, i uuid, e integer, o text, c smallint, ct text, hc smallint, hct text,
    ha integer, ch text, ra integer, cur jsonb, cn boolean, sn text, sa text, sl integer, v text, pr boolean, ev integer, dd integer, fd integer, ms integer, pl boolean, rk boolean,
    r text, h jsonb, hd jsonb, dl jsonb, w jsonb)
  limit $12::integer),                                          -- estimated at a tenth: more, and the planner would scan all rows for a hash
locked as materialized (                                        -- in key order, with the values as they were
  select d.*, t.lease_owner = (select batch_no from me) and t.lease_epoch = d.e and t.enabled as mine, t.last_committed_epoch >= d.e as done,
    t.last_code as was_code, t.next_poll_at as was_due, t.quiet_polls as was_polls, t.quiet_since as was_since, t.halted_code as was_halt, t.toolkit_h, t.connection_h,
    t.failure_count, t.poison_count
  from (select * from d order by s, i) d
  join polling_trigger_runs t on t.shard = d.s and t.trigger_id = d.i order by t.shard, t.trigger_id for update of t),
down as materialized (                                          -- toolkits most of whose polls failed in the last minute, or in this batch
  select x.toolkit_h from (
    select toolkit_h, polls, failures, 0 as own from source_health
    where slot > floor(extract(epoch from statement_timestamp()) / 10)::bigint - 6
      and exists (select from locked where c in (42, 43))
    union all select toolkit_h, 1, (c in (42, 43))::int, 1 from locked where mine and o not in ('release', 'rate_limited')) x
  group by 1 having (sum(x.own) >= 20 and sum(x.failures * x.own) * 2 > sum(x.own)) or sum(x.failures) * 2 > sum(x.polls) and (sum(x.polls) >= 20 or x.toolkit_h = any (array(   -- of one that is down a probe says it
    select toolkit_h from source_limits where reason = 'source_down' and connection_h = 0)))),
act as materialized (                                           -- with the batch's own: upd joins the row by its key and nothing else
  select l.*, (select batch_no from me) as batch_no, (select claimed_at from me) as claimed_at, (select now from me) as now, l.o = 'backoff' and l.c in (42, 43) and l.toolkit_h = any (array(select toolkit_h from down)) as is_down,
    case when l.o = 'halt' then l.hc
      when l.o = 'backoff' and l.ha is not null and (case when l.ch = 'p' then l.poison_count when l.c is distinct from l.was_code then 0
        else l.failure_count end) + 1 >= l.ha then l.hc                                  -- failures of the same code in a row
    end as halt,
    l.ev > 0 or l.o <> 'success' or l.c is distinct from l.was_code or l.was_since < statement_timestamp() - interval '1 h' as logs
  from locked l where l.mine),
upd as (
  update polling_trigger_runs t set
    next_poll_at = case
      when d.halt is not null then case when d.halt between 20 and 22 then d.now + interval '6 h' end
      when d.o = 'release' then greatest(t.next_poll_at, d.now + d.ra * interval '1 s')
      when t.halted_code is not null and d.o in ('backoff', 'rate_limited') then d.now + interval '6 h'
      when t.poll_requested_at > d.claimed_at or d.o = 'more' then d.now
      when d.is_down then d.now                                                          -- its toolkit's hold is what it waits for
      when d.o = 'rate_limited' then d.now + greatest(1, coalesce(d.ra, t.interval_s)) * interval '1 s'
      when d.o = 'backoff' then greatest(d.now + coalesce(d.ra, 0) * interval '1 s', d.now + (0.5 + 0.5 * random()) * least(
        greatest(t.interval_s, 30) * power(2, least(greatest(t.failure_count, t.poison_count), 20)), least(21600, greatest(8 * t.interval_s, 900))) * interval '1 s')
      else greatest(d.now + coalesce(d.ra, 0) * interval '1 s', next_slot(d.now, t.interval_s, t.phase_s)) end,
    lease_owner = null,
    last_committed_epoch = d.e,
    last_polled_at = case when d.o = 'release' and d.pl is not true then t.last_polled_at else d.now end,
    last_ok_at = case when d.pl or d.o in ('success', 'more') then d.now else t.last_ok_at end,
    quiet_since = case when d.logs then null else coalesce(t.quiet_since, d.now) end,
    quiet_polls = case when d.logs then 0 else t.quiet_polls + 1 end,
    failure_count = case when d.pl or d.o in ('success', 'more') then 0
      when d.o = 'backoff' and d.ch = 'f' and not d.is_down then case when d.ha is not null and d.c is distinct from d.was_code then 1
        else least(t.failure_count + 1, 32000) end
      else t.failure_count end,
    poison_count = case when d.o in ('success', 'more') then 0 when d.o = 'backoff' and d.ch = 'p' then least(t.poison_count + 1, 32000)
      else t.poison_count end,
    last_code = case when d.is_down then 6 else d.c end,
    primed = case when d.rk and d.pr is not true then false else coalesce(d.pr, t.primed) end,
    halted_probe = case when d.halt is not null then d.halt between 20 and 22 when d.o in ('success', 'more') then false else t.halted_probe end,
    state_bytes = case when d.sl is not null then d.sl + coalesce(octet_length(d.cur::text), 512)
      when d.cur is not null then greatest(t.state_bytes, octet_length(d.cur::text)) else t.state_bytes end,
    halted_code = case when d.halt is not null then d.halt when d.o in ('success', 'more') then null else t.halted_code end,
    last_event_at = case when d.ev > 0 then d.now else t.last_event_at end,
    event_gap_s = case when d.ev > 0 and t.last_event_at is not null then case when t.event_gap_s is null then extract(epoch from d.now - t.last_event_at)::int
      else (t.event_gap_s * 3 + least(extract(epoch from d.now - t.last_event_at), 1e8)::int) / 4 end else t.event_gap_s end,
    halted_at = case when d.halt is not null then case when t.halted_code = d.halt then t.halted_at else d.now end
      when d.o in ('success', 'more') then null else t.halted_at end,
    version_used = coalesce(d.v, t.version_used)
  from act d
  where t.shard = d.s and t.trigger_id = d.i and t.lease_owner = d.batch_no and t.lease_epoch = d.e and t.enabled
  returning d.*, t.next_poll_at, t.interval_s),
st as (
  update polling_trigger_states s set cursor = case when d.cn then null else coalesce(d.cur, s.cursor) end, 
    seen = case when d.sn is not null then decode(d.sn, 'base64') when d.sa is not null and ${JOINS} then s.seen || s.seen_added || decode(d.sa, 'base64') else s.seen end,
    seen_added = case when d.sn is not null or d.sa is not null and ${JOINS} then '' when d.sa is not null then s.seen_added || decode(d.sa, 'base64') else s.seen_added end
  from act d where s.shard = d.s and s.trigger_id = d.i and (d.cur is not null or d.cn or d.sl is not null)),
log as (
  ${LOG_LINES}
  select now, i, e, case when is_down then 6 else c end, case when halt is not null then 'halt' else o end, ev, coalesce(dd, 0), ms, was_polls, was_since, r,
    was_due, claimed_at, next_poll_at, batch_no, fd
  from upd where logs
  ${FENCED_LINES}),
life as (
  insert into lifecycle_outbox (trigger_id, config_version, state, code, at)
  select u.i, p.config_version, x.state, x.code, u.now
  from (select * from upd where halt is not null or was_halt is not null or w is not null offset 0) u cross join lateral (   -- few: before the probe
    select 'halted' as state, u.hct as code where u.halt is not null and u.halt is distinct from u.was_halt
    union all select 'resumed', 'ok' where u.was_halt is not null and u.o in ('success', 'more')
    union all select 'warning', el.code from jsonb_array_elements_text(coalesce(u.w, '[]')) as el(code) where u.halt is null) x
  cross join lateral (select t.config_version from polling_triggers t where t.shard = u.s and t.trigger_id = u.i limit 1) p),
lim as (
  insert into source_limits as l (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
  select distinct on (u.toolkit_h, u.connection_h) u.toolkit_h, u.connection_h, null::int, u.now + greatest(1, coalesce(u.ra, u.interval_s)) * interval '1 s',
    u.now, 'rate_limited', p.toolkit, p.tenant_id, p.connection_id
  from upd u cross join lateral (
    select t.toolkit, t.tenant_id, t.connection_id from polling_triggers t where t.shard = u.s and t.trigger_id = u.i limit 1) p
  where u.o = 'rate_limited' order by u.toolkit_h, u.connection_h, u.ra desc nulls last
  on conflict (toolkit_h, connection_h) do update set not_before = greatest(l.not_before, excluded.not_before)),
health as (
  insert into source_health as h (toolkit_h, slot, polls, failures)
  select toolkit_h, floor(extract(epoch from now) / 10)::bigint, count(*), count(*) filter (where c in (42, 43))
  from upd where o not in ('release', 'rate_limited') group by 1, 2 order by 1, 2
  on conflict (toolkit_h, slot) do update set polls = h.polls + excluded.polls, failures = h.failures + excluded.failures),
hold as (
  insert into source_limits (toolkit_h, connection_h, per_minute, not_before, made_at, reason, toolkit, tenant_id, connection_id)
  select distinct on (u.toolkit_h) u.toolkit_h, 0, 1, u.now + interval '60 s', u.now, 'source_down', p.toolkit, '', ''
  from upd u cross join lateral (select t.toolkit from polling_triggers t where t.shard = u.s and t.trigger_id = u.i limit 1) p
  where u.is_down order by u.toolkit_h
  on conflict (toolkit_h, connection_h) do update set per_minute = 1, not_before = excluded.not_before, stepped_at = excluded.made_at
    where source_limits.reason = 'source_down'),
${recovery(`select distinct toolkit_h from act where o in ('success', 'more') and toolkit_h <> all (array(select toolkit_h from down))`)},
held as (                                                       -- of fenced entries too: what cannot be asked again is kept
  insert into held_events (shard, trigger_id, event_id, held_at, event)
  select d.s, d.i, h.id, statement_timestamp(), h.ev
  from d cross join lateral rows from (jsonb_to_recordset(d.h) as (id text, ev text)) with ordinality as h(id, ev, n) where d.h is not null
    and exists (select from polling_triggers t where t.shard = d.s and t.trigger_id = d.i)
  order by d.s, d.i, h.n on conflict do nothing),
unheld as (
  delete from held_events e using act a cross join lateral jsonb_array_elements_text(a.hd) as x(id)
  where a.hd is not null and e.shard = a.s and e.trigger_id = a.i and e.event_id = x.id),
letters as (
  insert into dead_letters (shard, trigger_id, at, stage, code, reason, event_id, raw, digest)
  select a.s, a.i, statement_timestamp(), l.st, l.c, l.r, l.id, decode(l.raw, 'base64'),
    sha256(convert_to(a.i::text || ':' || l.st || ':' || coalesce(l.id, '') || ':' || l.raw, 'UTF8'))
  from act a cross join lateral jsonb_to_recordset(a.dl) as l(st text, c text, r text, id text, raw text) where a.dl is not null
  order by a.s, a.i on conflict (digest) do nothing),
${FINISH}
${OUTCOME}
${EXCEPTIONS},
  (select coalesce(jsonb_object_agg(hct, n), '{}') from (
    select hct, count(*) as n from act where halt is not null and halt is distinct from was_halt group by hct) x) as halted
from upd u`;

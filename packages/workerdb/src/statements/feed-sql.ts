/**
 * One page of the change feed as a statement; each trigger at most once. Run rows are locked in key order before anything
 * is decided, all of them: a page that locked only what it fences would break the order that commit relies on.
 */

/** $1 changes as JSON, $2 whether new rows take their phase slot instead of being due at once, $3 whether a resync runs. */
export const FEED = `
with j as materialized (select $1::text::jsonb as list),       -- parsed once
d as materialized (
  select r.*, case when r.hs then r.cur is null or r.cur = 'null'::jsonb end as from_start
  from j, jsonb_to_recordset(j.list) as r(del boolean, s smallint, i uuid, cv bigint, tn text, tk text, sl text, ve text, cf jsonb,
    co text, iv integer, en boolean, si timestamptz, cr timestamptz, po jsonb, pm boolean, pn boolean, hs boolean, cur jsonb,
    sc jsonb, ss text, sv text, hp boolean, re text, lg boolean, lv bigint, ph integer) limit jsonb_array_length($1::text::jsonb)),
old as materialized (
  select d.*, p.*, coalesce(p.old_cv, (select z.config_version from tombstones z where z.trigger_id = d.i), -1) < d.cv as newer
  from d left join lateral (
    select q.config_version as old_cv, q.connection_id as old_co, q.version_wanted as old_ve, q.config as old_cf
    from polling_triggers q where q.shard = d.s and q.trigger_id = d.i limit 1) p on true),
known as materialized (                                         -- only the feed makes and deletes rows, under its lock
  select o.*, t.trigger_id as found, t.lease_epoch, t.lease_owner, t.interval_s as old_iv, t.phase_s as old_ph, t.enabled as old_en,
    t.halted_code as old_halt, t.next_poll_at as old_next, t.last_polled_at
  from (select * from old where old_cv is not null order by s, i) o
  join polling_trigger_runs t on t.shard = o.s and t.trigger_id = o.i order by t.shard, t.trigger_id for update of t),
lk as materialized (
  select * from known union all
  select o.*, null::uuid, null::int, null::bigint, null::int, null::int, null::boolean, null::smallint, null::timestamptz, null::timestamptz
  from old o where o.old_cv is null),
x as materialized (
  select l.*,
    l.found is not null and (l.del or l.hs or l.en is distinct from l.old_en or l.co is distinct from l.old_co
      or l.ve is distinct from l.old_ve or l.cf is distinct from l.old_cf or l.re is not null) as fences,
    l.old_halt is not null and l.en and case when l.old_halt = 2 then l.re is not null or l.hs or l.hp   -- cursor_lost: only with a place to go on from
      else l.re is not null or l.hs or not l.old_en or l.co is distinct from l.old_co or l.cf is distinct from l.old_cf
        or coalesce(l.lv > l.old_cv, false) end as lifts,           -- there and back between two reads leaves no other trace
    coalesce(l.old_halt = 2 and l.hp and not coalesce(l.hs, false), false) as restores,
    coalesce(l.re = 'now', false) or coalesce(l.from_start, false) as reprimes
  from lk l where l.newer),
upd as (
  update polling_trigger_runs t set enabled = x.en, interval_s = x.iv, phase_s = x.ph, tenant_h = hash32(x.tn), toolkit_h = hash32(x.tk),
    connection_h = hash64(x.tn, x.co), def_bytes = octet_length(x.cf::text) + 300,
    lease_epoch = t.lease_epoch + case when x.fences then 1 else 0 end,
    lease_owner = case when x.fences then null else t.lease_owner end,
    halted_code = case when x.lifts then null else t.halted_code end,
    halted_at = case when x.lifts then null else t.halted_at end,
    halted_probe = case when x.lifts then false else t.halted_probe end,
    next_poll_at = case
      when not x.en then null
      when t.halted_code is not null and not x.lifts then t.next_poll_at
      when x.fences or x.lifts or x.pn or t.next_poll_at is null then statement_timestamp()
      when x.iv <> x.old_iv then least(t.next_poll_at, next_slot(statement_timestamp(), x.iv, x.ph))
      else t.next_poll_at end,
    poll_requested_at = case when x.pn then statement_timestamp() else t.poll_requested_at end,
    failure_count = case when x.lifts or x.hs then 0 else t.failure_count end,
    poison_count = case when x.lifts or x.hs then 0 else t.poison_count end,
    primed = case when x.reprimes then false when x.hs or x.restores then true else t.primed end
  from x where not x.del and x.found is not null and t.shard = x.s and t.trigger_id = x.i
  returning t.shard, t.next_poll_at),
def as (
  update polling_triggers p set tenant_id = x.tn, toolkit = x.tk, slug = x.sl, version_wanted = x.ve, connection_id = x.co, config = x.cf,
    poll_policy = x.po, config_version = x.cv,
    -- Told to begin now, or told up to some time by the other pipeline: a later edit must not bring the old start back.
    since = case when coalesce(x.from_start, false) then x.si when x.re = 'now' or (p.since is null and p.created_at > x.cr) then null else x.si end,
    -- A prime tells what is dated at or after created_at: one that starts again must not reach behind its new start.
    created_at = case when x.from_start and x.si is not null then x.si when x.re = 'now' then statement_timestamp() else p.created_at end
  from x where not x.del and x.found is not null and p.shard = x.s and p.trigger_id = x.i),
mem as (
  update polling_trigger_states s set cursor = case when x.reprimes then null when x.restores then nullif(x.sc, 'null'::jsonb) else x.cur end,
    seen = case when x.restores and not x.reprimes then coalesce(decode(x.ss, 'base64'), '') else '' end, seen_added = ''
  from x where not x.del and x.found is not null and (x.hs or x.reprimes or x.restores) and s.shard = x.s and s.trigger_id = x.i),
fen as (
  insert into batch_fences (batch_no, shard, trigger_id, deleted)
  select b.batch_no, x.s, x.i, x.del from x join batches b on b.batch_no = x.lease_owner and b.ended_at is null
  where x.fences order by 1, 2, 3 on conflict (batch_no, shard, trigger_id) do update set deleted = batch_fences.deleted or excluded.deleted),
ins as (
  insert into polling_trigger_runs (shard, enabled, owner, interval_s, trigger_id, phase_s, tenant_h, toolkit_h, def_bytes, connection_h,
    next_poll_at, primed, state_bytes, halted_code, halted_at, version_used)
  select x.s, x.en, case when x.lg then 'l' else 'v' end::"char", x.iv, x.i, x.ph, hash32(x.tn), hash32(x.tk), octet_length(x.cf::text) + 300, hash64(x.tn, x.co),
    case when not x.en or (x.pm and not x.hp and not coalesce(x.hs, false) and not x.lg) then null
      when $2::boolean then next_slot(statement_timestamp(), x.iv, x.ph) else statement_timestamp() end,
    case when x.hs then not x.from_start else x.pm and x.hp end, coalesce(octet_length(x.ss) * 3 / 4 + octet_length(x.sc::text), 0),
    case when x.pm and not x.hp and not coalesce(x.hs, false) and not x.lg then 2::smallint end,
    case when x.pm and not x.hp and not coalesce(x.hs, false) and not x.lg then statement_timestamp() end, x.sv
  from x where not x.del and x.found is null order by x.s, x.i
  returning shard, next_poll_at, halted_code),
insd as (
  insert into polling_triggers (shard, trigger_id, config_version, created_at, since, tenant_id, toolkit, slug, version_wanted, connection_id, poll_policy, config)
  select x.s, x.i, x.cv, x.cr, x.si, x.tn, x.tk, x.sl, x.ve, x.co, x.po, x.cf from x where not x.del and x.found is null order by x.s, x.i),
inss as (
  insert into polling_trigger_states (shard, trigger_id, cursor, seen)
  select x.s, x.i, case when x.hs then nullif(x.cur, 'null'::jsonb) when x.pm and x.hp then nullif(x.sc, 'null'::jsonb) end,
    case when not coalesce(x.hs, false) and x.pm and x.hp then coalesce(decode(x.ss, 'base64'), '') else '' end
  from x where not x.del and x.found is null order by x.s, x.i),
delr as (delete from polling_trigger_runs t using x where x.del and t.shard = x.s and t.trigger_id = x.i),
deld as (delete from polling_triggers t using x where x.del and t.shard = x.s and t.trigger_id = x.i),
dels as (delete from polling_trigger_states t using x where x.del and t.shard = x.s and t.trigger_id = x.i),
delh as (delete from held_events t using x where x.del and t.shard = x.s and t.trigger_id = x.i),
tomb as (
  insert into tombstones (trigger_id, config_version, deleted_at) select x.i, x.cv, statement_timestamp() from x where x.del order by x.i
  on conflict (trigger_id) do update set config_version = greatest(tombstones.config_version, excluded.config_version), deleted_at = excluded.deleted_at),
life as (
  insert into lifecycle_outbox (trigger_id, config_version, state, code, at)
  select x.i, x.cv, 'resumed', 'ok', statement_timestamp() from x where x.lifts and not x.del
  union all select x.i, x.cv, 'halted', 'cursor_lost', statement_timestamp() from x
    where not x.del and x.found is null and x.pm and not x.hp and not coalesce(x.hs, false) and not x.lg),
marks as (
  insert into resync_marks (shard, trigger_id) select d.s, d.i from d where $3::boolean and not d.del order by 1, 2 on conflict do nothing)
select (select count(*)::int from x where not x.del) as upserted, (select count(*)::int from x where x.del and x.found is not null) as deleted,
  (select count(*)::int from x where x.fences) as fenced, (select count(*)::int from lk where not newer) as stale,
  (select coalesce(jsonb_agg(distinct ts.timer_shard), '[]') from (
    select shard, min(next_poll_at) as at from (select shard, next_poll_at from upd union all select shard, next_poll_at from ins) w group by 1) w
    join timer_shards ts on w.shard = any (ts.serves) and w.at < ts.wake_at) as arm`;

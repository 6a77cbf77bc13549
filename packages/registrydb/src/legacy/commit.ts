/**
 * The legacy pipeline's commit: one statement, fenced by owner, ownership epoch and poll epoch. What halts, backs off or
 * counts follows the same rules as in workerdb; a good poll is repeated an interval later.
 */
import type { CommitRow, LegacyCommit } from '@milkrun/core';
import type { Sql } from 'postgres';

/** $1 trigger id, $2 ownership epoch, $3 poll epoch, $4 the row as JSON. */
const COMMIT = `
with d as materialized (
  select d.* from jsonb_to_record($4::text::jsonb) as d(o text, c text, r text, ra integer, ch text, ha integer, hc text, cur text, cn boolean,
    sn text, v text, pr boolean, pl boolean, rk boolean, h jsonb, hd jsonb, dl jsonb, w jsonb)),
was as materialized (
  select l.*, t.interval_seconds as interval_s, t.config_version,
    case when d.o = 'halt' then d.hc
      when d.o = 'backoff' and d.ha is not null and (case d.ch when 'p' then l.poison_count else l.failure_count end) + 1 >= d.ha then d.hc end as halt
  from legacy_triggers l join triggers t on t.id = l.trigger_id cross join d
  where l.trigger_id = $1 and l.owner in ('legacy', 'to_v2') and not l.sealed and l.ownership_epoch = $2 and l.poll_epoch = $3 - 1
    and t.enabled and t.deleted_at is null for update of l),
u as (
  update legacy_triggers l set poll_epoch = $3,
    next_poll_at = case
      when w.halt is not null then case when w.halt in ('auth.expired', 'auth.revoked', 'auth.not_found') then statement_timestamp() + interval '6 h' end
      when d.o = 'release' then statement_timestamp() + greatest(30, coalesce(d.ra, 0)) * interval '1 s'
      when l.halted_code is not null and d.o in ('backoff', 'rate_limited') then statement_timestamp() + interval '6 h'
      when d.o = 'more' then statement_timestamp()
      when d.o = 'rate_limited' then statement_timestamp() + greatest(1, coalesce(d.ra, w.interval_s)) * interval '1 s'
      when d.o = 'backoff' then statement_timestamp() + greatest(coalesce(d.ra, 0), (0.5 + 0.5 * random()) * least(
        greatest(w.interval_s, 30) * power(2, least(greatest(l.failure_count, l.poison_count), 20)), least(21600, greatest(8 * w.interval_s, 900)))) * interval '1 s'
      else statement_timestamp() + greatest(w.interval_s, coalesce(d.ra, 0)) * interval '1 s' end,
    last_polled_at = statement_timestamp(),
    last_ok_at = case when d.pl or d.o in ('success', 'more') then statement_timestamp() else l.last_ok_at end,
    last_code = d.c, last_reason = d.r,
    failure_count = case when d.pl or d.o in ('success', 'more') then 0 when d.o = 'backoff' and d.ch = 'f' then l.failure_count + 1 else l.failure_count end,
    poison_count = case when d.o in ('success', 'more') then 0 when d.o = 'backoff' and d.ch = 'p' then l.poison_count + 1 else l.poison_count end,
    primed = case when d.rk and d.pr is not true then false else coalesce(d.pr, l.primed) end,
    cursor = case when d.cn then null else coalesce(d.cur, l.cursor) end,
    seen = coalesce(decode(d.sn, 'base64'), l.seen),
    version_used = coalesce(d.v, l.version_used),
    halted_code = case when w.halt is not null then w.halt when d.o in ('success', 'more') then null else l.halted_code end,
    halted_at = case when w.halt is not null then case when l.halted_code = w.halt then l.halted_at else statement_timestamp() end
      when d.o in ('success', 'more') then null else l.halted_at end,
    halted_version = case when w.halt is not null then w.config_version when d.o in ('success', 'more') then null else l.halted_version end
  from was w cross join d where l.trigger_id = w.trigger_id returning l.trigger_id),
life as (
  insert into trigger_lifecycle (trigger_id, at, state, code, config_version)
  select w.trigger_id, statement_timestamp(), x.state, x.code, w.config_version from was w cross join d cross join lateral (
    select 'halted' as state, w.halt as code where w.halt is not null and w.halt is distinct from w.halted_code
    union all select 'resumed', 'ok' where w.halted_code is not null and d.o in ('success', 'more')
    union all select 'warning', el.code from jsonb_array_elements_text(coalesce(d.w, '[]')) as el(code) where w.halt is null) x
  on conflict do nothing),
held as (
  insert into legacy_held_events (trigger_id, event_id, event)
  select w.trigger_id, h.id, h.ev from was w cross join d cross join lateral rows from (jsonb_to_recordset(d.h) as (id text, ev text)) with ordinality as h(id, ev, n)
  where d.h is not null order by h.n on conflict do nothing),
unheld as (
  delete from legacy_held_events e using was w, d
  where d.hd is not null and e.trigger_id = w.trigger_id and e.event_id = any (array(select jsonb_array_elements_text(d.hd)))),
letters as (
  insert into legacy_dead_letters (trigger_id, stage, code, reason, event_id, raw, digest)
  select w.trigger_id, l.st, l.c, l.r, l.id, decode(l.raw, 'base64'),
    sha256(convert_to(w.trigger_id::text || ':' || l.st || ':' || coalesce(l.id, '') || ':' || l.raw, 'UTF8'))
  from was w cross join d cross join lateral jsonb_to_recordset(d.dl) as l(st text, c text, r text, id text, raw text) where d.dl is not null
  on conflict (digest) do nothing)
select count(*)::int as committed from u`;

export async function commitLegacy(
  sql: Sql,
  input: { readonly triggerId: string; readonly ownershipEpoch: number; readonly row: CommitRow },
): Promise<LegacyCommit> {
  const { triggerId, ownershipEpoch, row } = input;
  const [done] = await sql.unsafe<{ committed: number }[]>(
    COMMIT,
    [triggerId, ownershipEpoch, row.leaseEpoch, rowJson(row)],
    { prepare: true },
  );
  return { committed: done?.committed === 1 };
}

/** Texts from elsewhere may hold what jsonb refuses. */
const storable = (text: string): string => text.toWellFormed().replaceAll('\u0000', '\ufffd');

function rowJson(row: CommitRow): string {
  const { cursor } = row;
  return JSON.stringify({
    o: row.outcome,
    c: row.code,
    r: row.reason === undefined ? undefined : storable(row.reason),
    ra: row.retryAfterSeconds === undefined ? undefined : Math.ceil(row.retryAfterSeconds),
    ch: row.charge === undefined ? undefined : row.charge === 'poison' ? 'p' : 'f',
    ha: row.haltAfter,
    hc: row.haltCode,
    cur: cursor === 'null' ? undefined : cursor,
    cn: cursor === 'null',
    sn: row.seen === undefined ? undefined : Buffer.from(row.seen).toString('base64'),
    v: row.versionUsed,
    pr: row.primed,
    pl: row.polled === true,
    rk: row.rekeyed === true,
    h: row.held?.map(({ eventId, json }) => ({ id: eventId, ev: json })),
    hd: row.heldDelivered,
    dl: row.deadLetters?.map((letter) => ({
      st: letter.stage,
      c: letter.code,
      r: storable(letter.reason),
      id: letter.eventId,
      raw: Buffer.from(letter.raw).toString('base64'),
    })),
    w: row.warnings,
  });
}

/**
 * workerdb's side of a hand-off. A row under way is marked `i` (to v2) or `o` (to legacy): neither tick nor claim takes it,
 * and a batch that leases it may still commit until it is sealed. Rows are locked in key order first.
 */
import {
  type CarriedTrigger,
  type Direction,
  type EngineHandOffs,
  isVerdictCode,
  OTHER_CODES,
  storageShardOf,
} from '@milkrun/core';
import type { Sql } from 'postgres';
import { type CODE_NUMBERS, codeNumberOf } from '../code-numbers.ts';
import { keysJson } from './rows.ts';

/** $1 keys, $2 owner before, $3 owner meanwhile, $4 the hand-off, $5 the new owner: one that was ended by hand may have got there. */
const MARK = `
with k as materialized (select * from jsonb_to_recordset($1::text::jsonb) as k(s smallint, i uuid, cv bigint)),
locked as materialized (
  select t.shard, t.trigger_id, t.owner, t.ownership_since, k.cv from (select * from k order by s, i) k
  join polling_trigger_runs t on t.shard = k.s and t.trigger_id = k.i order by t.shard, t.trigger_id for update of t),
ok as materialized (
  select l.* from locked l cross join lateral (
    select from polling_triggers p where p.shard = l.shard and p.trigger_id = l.trigger_id and p.config_version >= l.cv limit 1) p
  left join hand_offs h on h.shard = l.shard and h.trigger_id = l.trigger_id
  where l.owner = $2::"char" or (l.owner = $3::"char" and (h.hand_off is null or h.hand_off = $4 or l.ownership_since < statement_timestamp() - interval '10 min'))),
m as (
  update polling_trigger_runs t set owner = $3::"char", ownership_since = case when t.owner = $3::"char" then t.ownership_since else statement_timestamp() end
  from ok where t.shard = ok.shard and t.trigger_id = ok.trigger_id),
h as (
  insert into hand_offs (shard, trigger_id, hand_off, marked_at) select shard, trigger_id, $4, statement_timestamp() from ok order by 1, 2
  on conflict (shard, trigger_id) do update set hand_off = excluded.hand_off)
select trigger_id as id from ok union all select trigger_id from locked where owner = $5::"char"`;

/** $1 the hand-off, $2 seconds after which a lease is taken away. A source that cannot repeat itself keeps its lease to the end. */
const QUIET = `
with live as materialized (select batch_no from batches where ended_at is null and expires_at > statement_timestamp()),
mine as materialized (select * from hand_offs where hand_off = $1 and sealed_at is null and quiet_at is null),
l as materialized (
  select t.shard, t.trigger_id, t.lease_owner, b.batch_no is not null as leased,
    m.marked_at < statement_timestamp() - $2::float8 * interval '1 s' and (p.poll_policy->>'repeatable')::boolean as late
  from (select * from mine order by shard, trigger_id) m
  join polling_trigger_runs t on t.shard = m.shard and t.trigger_id = m.trigger_id and t.owner = 'o'
  join polling_triggers p on p.shard = m.shard and p.trigger_id = m.trigger_id
  left join live b on b.batch_no = t.lease_owner order by t.shard, t.trigger_id for update of t),
f as (
  update polling_trigger_runs t set lease_epoch = t.lease_epoch + 1, lease_owner = null
  from l where l.leased and l.late and t.shard = l.shard and t.trigger_id = l.trigger_id),
fen as (
  insert into batch_fences (batch_no, shard, trigger_id) select lease_owner, shard, trigger_id from l where leased and late order by 1, 2, 3
  on conflict do nothing)
update hand_offs h set quiet_at = statement_timestamp() from l
where (not l.leased or l.late) and h.shard = l.shard and h.trigger_id = l.trigger_id and h.hand_off = $1`;

/** $1 the hand-off, $2 seconds of the longest call. */
const SEAL = `
with mine as materialized (
  select * from hand_offs where hand_off = $1 and sealed_at is null and quiet_at <= statement_timestamp() - $2::float8 * interval '1 s'),
u as (
  update polling_trigger_runs t set ownership_epoch = t.ownership_epoch + 1, lease_epoch = t.lease_epoch + 1, lease_owner = null
  from (select shard, trigger_id from mine order by 1, 2) m where t.shard = m.shard and t.trigger_id = m.trigger_id and t.owner = 'o'
  returning t.shard, t.trigger_id)
update hand_offs h set sealed_at = statement_timestamp() from u where h.shard = u.shard and h.trigger_id = u.trigger_id and h.hand_off = $1`;

const READ = `
select t.trigger_id, p.toolkit, p.poll_policy->>'dedupe' as dedupe, t.ownership_epoch, t.lease_epoch, p.config_version, s.cursor::text as cursor,
  coalesce(s.seen || s.seen_added, '') as seen, t.primed, p.created_at, p.since, t.version_used, t.failure_count, t.poison_count, t.next_poll_at, t.last_ok_at,
  c.code as halted_code, t.halted_at,
  (select jsonb_agg(jsonb_build_object('eventId', e.event_id, 'json', e.event) order by e.seq) from held_events e
    where e.shard = t.shard and e.trigger_id = t.trigger_id) as held
from (select * from hand_offs where hand_off = $1 and sealed_at is not null) h
join polling_trigger_runs t on t.shard = h.shard and t.trigger_id = h.trigger_id
join polling_triggers p on p.shard = h.shard and p.trigger_id = h.trigger_id
left join polling_trigger_states s on s.shard = h.shard and s.trigger_id = h.trigger_id
left join codes c on c.no = t.halted_code where t.owner = 'o' order by t.trigger_id`;

/** What is left: $1 the hand-off, $2 seconds of the longest call. Marks of rows that are no longer there go. */
const REST = `
with rest as materialized (
  select h.*, t.trigger_id is null as gone from hand_offs h
  left join polling_trigger_runs t on t.shard = h.shard and t.trigger_id = h.trigger_id and t.owner = 'o' where h.hand_off = $1),
d as (delete from hand_offs h using rest r where r.gone and h.shard = r.shard and h.trigger_id = r.trigger_id)
select min(case when not gone and sealed_at is null then greatest(0, coalesce(
    extract(epoch from quiet_at + $2::float8 * interval '1 s' - statement_timestamp()) * 1000, 2000)) end)::float8 as wait_ms,
  coalesce(array_agg(trigger_id) filter (where gone), '{}') as gone
from rest`;

/** $1 what is carried, $2 the hand-off. */
const ACCEPT = `
with d as materialized (
  select * from jsonb_to_recordset($1::text::jsonb) as d(s smallint, i uuid, oe integer, pe integer, cv bigint, cur jsonb, sn text, tu timestamptz,
    pm boolean, v text, fc integer, pc integer, due timestamptz, lo timestamptz, hc smallint, ha timestamptz, h jsonb)),
locked as materialized (
  select d.*, p.config_version as has_version, t.owner in ('i', 'l') and t.ownership_epoch < d.oe as takes, t.owner = 'v' and t.ownership_epoch = d.oe as has
  from (select * from d order by s, i) d join polling_trigger_runs t on t.shard = d.s and t.trigger_id = d.i
  join polling_triggers p on p.shard = d.s and p.trigger_id = d.i order by t.shard, t.trigger_id for update of t),
x as materialized (
  select l.*, case when l.has_version <= l.cv then l.hc end as halt from locked l where l.takes),   -- a later change may be what lifts it
u as (
  update polling_trigger_runs t set owner = 'v', ownership_epoch = x.oe, ownership_since = statement_timestamp(),
    lease_owner = null, lease_epoch = greatest(t.lease_epoch, x.pe) + 1, primed = x.pm and x.tu is null, version_used = x.v,
    failure_count = least(x.fc, 32000), poison_count = least(x.pc, 32000), last_ok_at = x.lo,
    halted_code = x.halt, halted_at = case when x.halt is not null then x.ha end, halted_probe = coalesce(x.halt between 20 and 22, false),
    state_bytes = octet_length(x.sn) * 3 / 4 + coalesce(octet_length(x.cur::text), 0), poll_requested_at = null,
    next_poll_at = case when not t.enabled then null when x.halt between 20 and 22 then coalesce(x.due, statement_timestamp())
      when x.halt is not null then null else least(coalesce(x.due, statement_timestamp()), statement_timestamp() + t.interval_s * interval '1 s') end
  from x where t.shard = x.s and t.trigger_id = x.i returning t.shard, t.next_poll_at),
st as (
  update polling_trigger_states s set cursor = x.cur, seen = decode(x.sn, 'base64'), seen_added = '' from x where s.shard = x.s and s.trigger_id = x.i),
def as (                                                        -- told up to here: the first poll remembers the older ones in silence
  update polling_triggers p set created_at = x.tu + interval '1 ms', since = null from x where x.tu is not null and p.shard = x.s and p.trigger_id = x.i),
held as (
  insert into held_events (shard, trigger_id, event_id, held_at, event)
  select x.s, x.i, e.id, statement_timestamp(), e.ev from x cross join lateral rows from (jsonb_to_recordset(x.h) as (id text, ev text)) with ordinality as e(id, ev, n)
  order by x.s, x.i, e.n on conflict do nothing),
done as (delete from hand_offs h using locked l where (l.takes or l.has) and h.shard = l.s and h.trigger_id = l.i and h.hand_off = $2)
select coalesce((select array_agg(i) from locked where takes or has), '{}') as accepted,
  coalesce((select array_agg(distinct z.timer_shard) from u join timer_shards z on u.shard = any (z.serves) where u.next_poll_at < z.wake_at), '{}') as arm`;

interface SealedRow {
  readonly trigger_id: string;
  readonly toolkit: string;
  readonly dedupe: CarriedTrigger['dedupe'];
  readonly ownership_epoch: number;
  readonly lease_epoch: number;
  readonly config_version: string;
  readonly cursor: string | null;
  readonly seen: Buffer;
  readonly primed: boolean;
  readonly created_at: Date;
  readonly since: Date | null;
  readonly version_used: string | null;
  readonly failure_count: number;
  readonly poison_count: number;
  readonly next_poll_at: Date | null;
  readonly last_ok_at: Date | null;
  readonly halted_code: string | null;
  readonly halted_at: Date | null;
  readonly held: readonly { readonly eventId: string; readonly json: string }[] | null;
}

const OWNERS = { v: 'v2', l: 'legacy', i: 'to_v2', o: 'to_legacy' } as const;
const keyOf = (triggerId: string) => ({ shard: storageShardOf(triggerId), triggerId });
const meanwhile = (direction: Direction) =>
  direction === 'to_v2' ? { from: 'l', mark: 'i', to: 'v' } : { from: 'v', mark: 'o', to: null };

export function createEngineHandOffs(sql: Sql, retried: <T>(work: () => Promise<T>) => Promise<T>): EngineHandOffs {
  const run = <T extends object>(statement: string, values: (string | number | null)[]) =>
    retried(async () => await sql.unsafe<T[]>(statement, values, { prepare: true }));
  return {
    async mark({ handOff, direction, keys }) {
      const { from, mark, to } = meanwhile(direction);
      const list = keys.map(({ triggerId, configVersion }) => ({
        s: storageShardOf(triggerId),
        i: triggerId,
        cv: configVersion,
      }));
      const rows = await run<{ id: string }>(MARK, [JSON.stringify(list), from, mark, handOff, to]);
      const marked = new Set(rows.map(({ id }) => id));
      return { marked: [...marked], missing: keys.map(({ triggerId }) => triggerId).filter((id) => !marked.has(id)) };
    },
    async seal({ handOff, longestCallSeconds, graceSeconds, triggerIds }) {
      await run(QUIET, [handOff, graceSeconds]);
      await run(SEAL, [handOff, longestCallSeconds]);
      const wanted = new Set(triggerIds);
      const rows = await run<SealedRow>(READ, [handOff]);
      const [rest] = await run<{ wait_ms: number | null; gone: string[] }>(REST, [handOff, longestCallSeconds]);
      return {
        carried: rows.filter((row) => wanted.has(row.trigger_id)).map(carriedOf),
        gone: rest?.gone ?? [],
        waitMs: rest?.wait_ms ?? null,
      };
    },
    async accept({ handOff, carried }) {
      const [done] = await run<{ accepted: string[]; arm: number[] }>(ACCEPT, [
        `[${carried.map(jsonOf).join(',')}]`,
        handOff,
      ]);
      return { accepted: done?.accepted ?? [], arm: done?.arm ?? [] };
    },
    async conclude({ handOff, triggerIds }) {
      await run(
        `with h as (
           delete from hand_offs h using jsonb_to_recordset($2::text::jsonb) as k(s smallint, i uuid)
           where h.shard = k.s and h.trigger_id = k.i and h.sealed_at is not null
             and (h.hand_off = $1 or h.marked_at < statement_timestamp() - interval '10 min') returning h.shard, h.trigger_id),
         e as (delete from held_events e using h where e.shard = h.shard and e.trigger_id = h.trigger_id)
         update polling_trigger_runs t set owner = 'l', ownership_since = statement_timestamp() from h
         where t.shard = h.shard and t.trigger_id = h.trigger_id and t.owner = 'o'`,
        [handOff, keysJson(triggerIds.map(keyOf))],
      );
    },
    async cancel({ handOff, direction, triggerIds }) {
      const { from, mark } = meanwhile(direction);
      await run(
        `with h as (
           delete from hand_offs h using jsonb_to_recordset($2::text::jsonb) as k(s smallint, i uuid)
           where h.shard = k.s and h.trigger_id = k.i and h.hand_off = $1 and h.sealed_at is null returning h.shard, h.trigger_id)
         update polling_trigger_runs t set owner = $3::"char", ownership_since = statement_timestamp() from h
         where t.shard = h.shard and t.trigger_id = h.trigger_id and t.owner = $4::"char"`,
        [handOff, keysJson(triggerIds.map(keyOf)), from, mark],
      );
    },
    async owners() {
      const rows = await sql.unsafe<{ owner: keyof typeof OWNERS; n: number }[]>(
        'select owner, count(*)::int as n from polling_trigger_runs group by 1',
      );
      const counts = { legacy: 0, to_v2: 0, v2: 0, to_legacy: 0 };
      for (const { owner, n } of rows) counts[OWNERS[owner]] = n;
      return counts;
    },
  };
}

function carriedOf(row: SealedRow): CarriedTrigger {
  const starts = [row.created_at, ...(row.since === null ? [] : [row.since])].sort((a, b) => a.getTime() - b.getTime());
  return {
    triggerId: row.trigger_id,
    toolkit: row.toolkit,
    dedupe: row.dedupe,
    ownershipEpoch: row.ownership_epoch,
    pollEpoch: row.lease_epoch,
    configVersion: Number(row.config_version),
    cursor: row.cursor,
    seen: row.seen.toString('base64'),
    toldUntil: null,
    primed: row.primed,
    primeFrom: row.primed ? null : (starts[0]?.toISOString() ?? null),
    versionUsed: row.version_used,
    failureCount: row.failure_count,
    poisonCount: row.poison_count,
    nextPollAt: row.next_poll_at?.toISOString() ?? null,
    lastOkAt: row.last_ok_at?.toISOString() ?? null,
    halted:
      row.halted_code === null || row.halted_at === null
        ? null
        : { code: row.halted_code, at: row.halted_at.toISOString() },
    held: row.held ?? [],
  };
}

/** The cursor is spliced in: its numbers keep their digits. */
function jsonOf(one: CarriedTrigger): string {
  const rest = JSON.stringify({
    s: storageShardOf(one.triggerId),
    i: one.triggerId,
    oe: one.ownershipEpoch,
    pe: one.pollEpoch,
    cv: one.configVersion,
    sn: one.seen,
    tu: one.toldUntil,
    pm: one.primed,
    v: one.versionUsed,
    fc: one.failureCount,
    pc: one.poisonCount,
    due: one.nextPollAt,
    lo: one.lastOkAt,
    hc: one.halted === null ? null : haltNumberOf(one.halted.code),
    ha: one.halted?.at ?? null,
    h: one.held.map(({ eventId, json }) => ({ id: eventId, ev: json })),
  });
  return one.cursor === null ? rest : `${rest.slice(0, -1)},"cur":${one.cursor}}`;
}

/** A code another version knows and this one does not must not keep a trigger from moving: the next poll judges anew. */
function haltNumberOf(code: string): number | null {
  const known = isVerdictCode(code) || Object.hasOwn(OTHER_CODES, code);
  return known ? codeNumberOf(code as keyof typeof CODE_NUMBERS) : null;
}

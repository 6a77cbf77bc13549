/**
 * The tick: what is due over all storage shards of a timer shard, ranked within tenant and then by age, cut into batches
 * whose keys are written with the epochs they were seen at; and the recorded wake. One transaction under the shard's lock.
 *
 * A scan looks at every row, whatever it then starts: under a backlog it ranks some batches more than there are places
 * for, and the ticks of the next seconds take those as places become free. Claim repeats every predicate, so what has
 * changed since a scan is left alone; what fell due since is ranked by the next one.
 */
import type { TickInput, TickResult } from '@milkrun/core';
import type { Sql } from 'postgres';
import { TIMER_SHARD_LOCK } from './claim.ts';

/** Seconds for which ranked keys are taken; then the table is scanned again. */
const RANKED_SECONDS = 5;

const BATCHES = `live as materialized (select batch_no, expires_at, open from batches where ended_at is null and expires_at > statement_timestamp()),
pend as materialized (
  select batch_id, batch_no, planned, key_shards, key_ids, key_epochs from batches
  where claimed_at is null and ended_at is null and started_at > statement_timestamp() - interval '60 s')`;

const IN_FLIGHT = `greatest(1, (select count(*) from workers where seen_at > statement_timestamp() - interval '45 s')) as workers,
    (select count(*) from live) + (select count(*) from pend) as batches,
    (select coalesce(sum(open), 0) from live) + (select coalesce(sum(planned), 0) from pend) as open,
    coalesce((select backoff_until from timer_shards where timer_shard = $1), '-infinity') as backoff,
    (select backoff_level > 0 from timer_shards where timer_shard = $1)                  -- after a back-off one batch finds out for all
      as probing, exists (select from batches b, timer_shards t where t.timer_shard = $1 and b.timer_shard = $1 and ended_at is null
        and b.started_at > t.backoff_until and (expires_at > statement_timestamp() or (claimed_at is null and b.started_at > statement_timestamp() - interval '60 s'))) as probe_open`;

const ROOM = `room as materialized (                             -- bounded by work, so a straggler holds one place and not a batch;
  -- Those who are few do not wait for the places of one who is many: without room for a batch they are planned alone.
  select case when k.whole > 0 then k.whole else least(k.keys, k.small) end as keys, may, k.whole = 0 as only_small from (
  select least(at_hand, case when k.keys >= k.due or (k.keys % $2::int) * 2 >= $2::int then k.keys   -- a small rest of it waits for places for more,
    else k.keys - k.keys % $2::int end) as whole, keys, small, may from (                -- or one odd batch would split all that follow
    select due, at_hand, small, may, case when not may then 0 else greatest(0, least(
      due, 2 * $2::int * workers - open, $2::int * (16 * workers - batches),
      $2::int * case when probing then 1 else cardinality($3::text[]) end)) end as keys
    from (select *, $4::boolean and backoff <= statement_timestamp() and not (probing and probe_open) as may from sums) s) k) k)`;

const PUT = `put as (
  insert into batches (batch_id, timer_shard, planned, started_at, key_shards, key_epochs, key_ids)
  select ($3::text[])[(r.rn - 1) / $2::int + 1 + case when r.apart then cardinality($3::text[]) / 2 else 0 end], $1, count(*), statement_timestamp(), array_agg(r.shard order by r.shard, r.trigger_id),
    array_agg(r.lease_epoch order by r.shard, r.trigger_id), array_agg(r.trigger_id order by r.shard, r.trigger_id)
  from (select *, big and 2 * ((m.keys + $2::int - 1) / $2::int) <= cardinality($3::text[]) as apart from ranked, room m where rn <= m.keys) r
  group by (r.rn - 1) / $2::int, r.apart returning batch_id, planned),
wake as (
  update timer_shards t set ticked_at = statement_timestamp(),
    wake_at = case
      when s.backoff > statement_timestamp() then least(s.backoff, statement_timestamp() + interval '60 s')
      when s.due > m.keys then statement_timestamp()
      else least(coalesce(s.next, 'infinity'), statement_timestamp() + interval '60 s') end
  from sums s, room m where t.timer_shard = $1 returning t.wake_at)`;

const ANSWER = `select s.due::int as due, m.keys::int as keys, coalesce(extract(epoch from statement_timestamp() - s.oldest), 0)::float8 as oldest,
  greatest(0, extract(epoch from (select wake_at from wake) - statement_timestamp()) * 1000)::float8 as wake_ms,
  greatest(0, case when s.backoff = '-infinity' then 0 else extract(epoch from s.backoff - statement_timestamp()) * 1000 end)::float8 as backoff_ms,
  (select coalesce(jsonb_agg(jsonb_build_object('batchId', batch_id, 'keys', planned)), '[]') from put) as planned,
  (select coalesce(jsonb_agg(batch_id), '[]') from pend where batch_id like 'batch-poller:' || $1::text || ':%') as unclaimed
from sums s, room m`;

/** $1 timer shard, $2 batch size, $3 batch ids, $4 whether to dispatch, $5 its storage shards, $6 batches ranked beyond the places there are. */
export const TICK = `
with ${BATCHES},
planned as materialized (select k.s, k.i, k.e from pend, unnest(pend.key_shards, pend.key_ids, pend.key_epochs) as k(s, i, e)),
hold as materialized (select toolkit_h, connection_h, not_before from source_limits where not_before > statement_timestamp()),
lim as materialized (select toolkit_h, connection_h, per_minute from source_limits where per_minute is not null and not_before <= statement_timestamp()),
cand as (                                                       -- "due at" is one expression: count and next wake cannot disagree
  select t.shard, t.trigger_id, t.lease_epoch, t.tenant_h, t.toolkit_h, t.connection_h, greatest(t.next_poll_at, b.expires_at, c.not_before, k.not_before, n.not_before, g.not_before) as at
  from unnest($5::smallint[]) as s(shard) cross join lateral (
    select r.shard, r.trigger_id, r.lease_epoch, r.tenant_h, r.toolkit_h, r.connection_h, r.lease_owner, r.next_poll_at
    from polling_trigger_runs r
    where r.shard = s.shard and r.enabled and r.owner = 'v' and (r.halted_code is null or r.halted_probe)
      and r.next_poll_at <= statement_timestamp() + interval '60 s' offset 0) t
  left join live b on b.batch_no = t.lease_owner
  left join hold c on c.toolkit_h = t.toolkit_h and c.connection_h = t.connection_h
  left join hold k on k.toolkit_h = t.toolkit_h and k.connection_h = 0
  left join hold n on n.toolkit_h = t.tenant_h and n.connection_h = 2
  left join hold g on g.toolkit_h = 0 and g.connection_h = 0),
surplus as materialized (                                       -- claim would not take them: they must not fill a batch's places
  select p.shard, p.trigger_id from (
    select c.shard, c.trigger_id, l.per_minute, row_number() over (partition by l.toolkit_h, l.connection_h order by c.at, c.trigger_id) as nth
    from lim l join cand c on c.toolkit_h = l.toolkit_h and l.connection_h in (0, c.connection_h)
    where c.at <= statement_timestamp()) p
  where p.nth > p.per_minute),
ready as materialized (
  select c.shard, c.trigger_id, c.lease_epoch, c.at, row_number() over (partition by c.tenant_h order by c.at, c.trigger_id) as rank,
    count(*) over (partition by c.tenant_h) as mine, count(*) over () as total   -- a tenant with over a quarter of what is due has batches of its own
  from cand c where c.at <= statement_timestamp()
    and not exists (select from planned p where p.s = c.shard and p.i = c.trigger_id and p.e = c.lease_epoch)
    and (c.shard, c.trigger_id) not in (select shard, trigger_id from surplus)),
sums as materialized (
  select count(*) as due, count(*) as at_hand, count(*) filter (where mine * 4 <= total) as small, min(at) as oldest, (select min(at) from cand where at > statement_timestamp()) as next,
    ${IN_FLIGHT} from ready),
${ROOM},
ranked as (                                                     -- or others' polls would be committed with its last one
  select r.shard, r.trigger_id, r.lease_epoch, row_number() over (order by r.rank, r.at, r.trigger_id) as rn,
    r.mine * 4 > r.total and r.mine < r.total as big
  from ready r cross join room m where not m.only_small or r.mine * 4 <= r.total order by r.rank, r.at, r.trigger_id limit (select keys + case when may then $6::int * $2::int else 0 end from room)),
${PUT},
ahead as (
  insert into ranked_keys as k (timer_shard, ranked_at, due, taken, oldest, next, key_shards, key_epochs, key_ids)
  select $1, statement_timestamp(), s.due - m.keys, 0, s.oldest, s.next, coalesce(l.shards, '{}'), coalesce(l.epochs, '{}'), coalesce(l.ids, '{}')
  from sums s, room m, (
    select array_agg(r.shard order by r.rn) as shards, array_agg(r.lease_epoch order by r.rn) as epochs, array_agg(r.trigger_id order by r.rn) as ids
    from ranked r where r.rn > (select keys from room)) l
  where $6::int > 0
  on conflict (timer_shard) do update set ranked_at = excluded.ranked_at, due = excluded.due, taken = 0, oldest = excluded.oldest,
    next = excluded.next, key_shards = excluded.key_shards, key_epochs = excluded.key_epochs, key_ids = excluded.key_ids)
${ANSWER}`;

/**
 * Parameters $1 to $4 of TICK. No row when nothing was ranked lately, or less than a batch of more that is due. What it
 * calls due is what was due at the scan and has not been taken since.
 */
export const TAKE_RANKED = `
with ${BATCHES},
kept as materialized (
  select due, taken, oldest, next, key_shards, key_epochs, key_ids, cardinality(key_ids) as n from ranked_keys
  where timer_shard = $1 and ranked_at > statement_timestamp() - interval '${RANKED_SECONDS} s' and ranked_at <= statement_timestamp()
    and taken < cardinality(key_ids) and (taken + $2::int <= cardinality(key_ids) or due = cardinality(key_ids))),
sums as materialized (select due - taken as due, n - taken as at_hand, 0 as small, oldest, next, ${IN_FLIGHT} from kept),
${ROOM},
ranked as (
  select r.shard, r.trigger_id, r.lease_epoch, r.rn, false as big from kept k, room m,
    unnest(k.key_shards[k.taken + 1 : k.taken + m.keys], k.key_ids[k.taken + 1 : k.taken + m.keys], k.key_epochs[k.taken + 1 : k.taken + m.keys])
      with ordinality as r(shard, trigger_id, lease_epoch, rn)),
${PUT},
took as (update ranked_keys k set taken = k.taken + m.keys from room m where k.timer_shard = $1 and m.keys > 0)
${ANSWER}`;

/** A tick that may not dispatch says so, for liveness and explain: one row as long as it goes on. */
const NOTE_BREAKER = `
with x as (
  update holds_log set until = statement_timestamp() + interval '60 s'
  where timer_shard = $1 and reason = 'breaker' and until > statement_timestamp() - interval '60 s' returning 1)
insert into holds_log (timer_shard, since, until, reason)
select $1::smallint, statement_timestamp(), statement_timestamp() + interval '60 s', 'breaker' where not exists (select from x)`;

interface TickRow {
  readonly due: number;
  readonly keys: number;
  readonly oldest: number;
  readonly wake_ms: number;
  readonly backoff_ms: number;
  readonly planned: TickResult['planned'];
  readonly unclaimed: readonly string[];
}

export async function tickTimerShard(sql: Sql, input: TickInput): Promise<TickResult> {
  const { timerShard, batchSize, dispatch, batchesAhead = 0 } = input;
  const row = await sql.begin(async (tx) => {
    await tx.unsafe(`select pg_advisory_xact_lock(${TIMER_SHARD_LOCK}, $1::int)`, [timerShard], { prepare: true });
    const ids = `{${input.batchIds.map((id) => `"${id}"`).join(',')}}`;
    const common = [timerShard, batchSize, ids, dispatch];
    if (batchesAhead > 0 && dispatch) {
      const [taken] = await tx.unsafe<TickRow[]>(TAKE_RANKED, common, { prepare: true });
      if (taken !== undefined) return taken;
    }
    const [shard] = await tx.unsafe<{ serves: number[] }[]>(
      'select serves from timer_shards where timer_shard = $1',
      [timerShard],
      { prepare: true },
    );
    if (shard === undefined) return undefined;
    if (!dispatch) await tx.unsafe(NOTE_BREAKER, [timerShard], { prepare: true });
    const serves = `{${shard.serves.join(',')}}`;
    const [found] = await tx.unsafe<TickRow[]>(TICK, [...common, serves, batchesAhead], { prepare: true });
    return found;
  });
  if (row === undefined)
    return {
      planned: [],
      unclaimed: [],
      due: 0,
      left: 0,
      wakeInMs: 60_000,
      oldestDueSeconds: 0,
      backoffMs: 0,
      gone: true,
    };
  return {
    planned: row.planned,
    unclaimed: row.unclaimed,
    due: row.due,
    left: row.due - row.keys,
    wakeInMs: row.wake_ms,
    oldestDueSeconds: row.oldest,
    backoffMs: row.backoff_ms,
  };
}

/**
 * Claims the planned keys of a batch: once. Two statements in one transaction, so that the second one's snapshot is
 * younger than the locks. The planned epoch stands among the predicates: without it overlapping plans take rows twice.
 */
import type { ClaimResult } from '@milkrun/core';
import type { Sql } from 'postgres';
import { ownedTriggers } from './owned.ts';
import { type ClaimedRow, claimedOf, DEFINITION_PROBE, RUN_COLUMNS } from './rows.ts';

/** First key of the advisory locks of timer shards. */
export const TIMER_SHARD_LOCK = 7001;
const PACE_LOCK = 7005;

/** While a source is paced, claims of all timer shards follow one another: two at once would each take its allowance. */
const LOCK = `
select pg_advisory_xact_lock(l.kind, l.no) from batches b cross join lateral (
  select ${TIMER_SHARD_LOCK} as kind, b.timer_shard::int as no
  union all select ${PACE_LOCK}, 0 where exists (select from source_limits where per_minute is not null)) l
where b.batch_id = $1`;

export const CLAIM = `
with me as materialized (                                       -- the memory of the first attempt: a batch claims once
  select batch_no, key_shards, key_epochs, key_ids from batches
  where batch_id = $1 and claimed_at is null and ended_at is null for update),
live as materialized (select batch_no from batches where ended_at is null and expires_at > statement_timestamp()),
lim as materialized (select toolkit_h, connection_h, per_minute, not_before from source_limits),
held as materialized (select toolkit_h, connection_h from lim where not_before > statement_timestamp()),
keys as materialized (
  select k.s, k.i, k.e from me, unnest(me.key_shards, me.key_ids, me.key_epochs) as k(s, i, e) order by k.s, k.i),
locked as materialized (                                        -- every predicate of the tick again, on the newest version
  select t.shard, t.trigger_id, t.toolkit_h, t.connection_h, t.def_bytes, t.next_poll_at
  from keys p join polling_trigger_runs t on t.shard = p.s and t.trigger_id = p.i and t.lease_epoch = p.e
  where t.enabled and t.owner = 'v'
    and (t.halted_code is null or t.halted_probe) and t.next_poll_at <= statement_timestamp()
    and (t.lease_owner is null or t.lease_owner <> all (array(select batch_no from live)))
    and (t.toolkit_h, t.connection_h) not in (select toolkit_h, connection_h from held)   -- by hash: holds may be many
    and (t.toolkit_h, 0::bigint) not in (select toolkit_h, connection_h from held)
    and (t.tenant_h, 2::bigint) not in (select toolkit_h, connection_h from held)
    and not exists (select from held where toolkit_h = 0 and connection_h = 0)
  order by t.shard, t.trigger_id for update of t skip locked),
paced as materialized (                                         -- rows under a limit, in turn
  select l.shard, l.trigger_id, h.toolkit_h, h.connection_h, h.per_minute,
    row_number() over (partition by h.toolkit_h, h.connection_h order by l.next_poll_at, l.trigger_id) as nth
  from lim h join locked l on l.toolkit_h = h.toolkit_h and h.connection_h in (0, l.connection_h)
  where h.per_minute is not null),
pick as materialized (
  select c.shard, c.trigger_id from (
    select shard, trigger_id, sum(def_bytes + 200) over (rows unbounded preceding) as bytes from locked) c
  where c.bytes <= $3::bigint
    and not exists (select from paced p where p.shard = c.shard and p.trigger_id = c.trigger_id and p.nth > p.per_minute)),
moved as (
  update source_limits s set not_before = greatest(s.not_before, statement_timestamp()) + n.taken * interval '60 s' / s.per_minute
  from (select toolkit_h, connection_h, count(*) as taken from paced where nth <= per_minute group by 1, 2) n
  where s.toolkit_h = n.toolkit_h and s.connection_h = n.connection_h),
ids as materialized (select array_agg(shard) as s, array_agg(trigger_id) as i from pick),   -- arrays are estimated at ten rows
u as (
  update polling_trigger_runs t set lease_owner = (select batch_no from me), lease_epoch = t.lease_epoch + 1
  from ids, unnest(ids.s, ids.i) as l(shard, trigger_id)
  where t.shard = l.shard and t.trigger_id = l.trigger_id
  returning ${RUN_COLUMNS}),
b as (
  update batches set claimed_at = statement_timestamp(), expires_at = statement_timestamp() + $2 * interval '1 s',
    step = 'claim', entries = (select count(*) from u), open = (select count(*) from u)
  where batch_id = $1 and exists (select from me))
select u.*, d.* from u ${DEFINITION_PROBE}`;

export async function claimPlannedKeys(
  sql: Sql,
  input: { readonly batchId: string; readonly leaseSeconds: number; readonly bytesMax: number },
): Promise<ClaimResult> {
  const rows = await sql.begin(async (tx) => {
    await tx.unsafe(LOCK, [input.batchId], { prepare: true });
    return tx.unsafe<ClaimedRow[]>(CLAIM, [input.batchId, input.leaseSeconds, input.bytesMax], { prepare: true });
  });
  if (rows.length > 0) return { status: 'claimed', triggers: claimedOf(rows) };
  const owned = await ownedTriggers(sql, input.batchId);
  return owned === undefined ? { status: 'ended', triggers: [] } : { status: 'again', triggers: owned };
}

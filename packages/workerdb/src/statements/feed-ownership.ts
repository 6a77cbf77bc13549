/**
 * What a page of the feed says of who owns its triggers. In the run of things a hand-off has told workerdb before the feed
 * does, and nothing is to be done. A workerdb that was put back to a time before a move learns of it here: the change with
 * the later ownership epoch counts, and what is older is refused and counted.
 */
import { type FeedChange, storageShardOf } from '@milkrun/core';
import type { TransactionSql } from 'postgres';
import { decodePollState } from './poll-state.ts';

interface OwnershipRow {
  readonly moved: number;
  readonly older: number;
  readonly fenced: number;
  readonly arm: readonly number[];
}

/** $1 changes that name an epoch. A hand-off under way is left alone, unless it has been so for ten minutes. */
const OWNERSHIP = `
with d as materialized (
  select * from jsonb_to_recordset($1::text::jsonb) as d(s smallint, i uuid, oe integer, lg boolean, pm boolean, ins boolean, sc jsonb, ss text, sv text)),
locked as materialized (
  select d.*, t.owner, t.ownership_epoch, t.lease_owner, t.ownership_since
  from (select * from d order by s, i) d join polling_trigger_runs t on t.shard = d.s and t.trigger_id = d.i order by t.shard, t.trigger_id for update of t),
x as materialized (                                             -- who comes back goes on from what the control plane kept, or is lost, as a new row
  select l.*, not lg and ss is not null and not ins as adopts, not lg and owner <> 'v' and pm and ss is null and not ins as lost,
    not lg and owner <> 'v' and not pm and not ins as primes, not lg and owner <> 'v' as comes
  from locked l where ownership_epoch < oe and (owner in ('v', 'l') or ownership_since < statement_timestamp() - interval '10 min')),
u as (
  update polling_trigger_runs t set owner = case when x.lg then 'l' else 'v' end::"char", ownership_epoch = x.oe, ownership_since = statement_timestamp(),
    lease_epoch = t.lease_epoch + 1, lease_owner = null,
    primed = case when x.adopts then true when x.primes then false else t.primed end,
    version_used = case when x.adopts then x.sv else t.version_used end,
    halted_code = case when x.lost then 2::smallint when x.comes then null else t.halted_code end,
    halted_at = case when x.lost then statement_timestamp() when x.comes then null else t.halted_at end,
    halted_probe = case when x.comes then false else t.halted_probe end,
    next_poll_at = case when not x.comes then t.next_poll_at when x.lost or not t.enabled then null else statement_timestamp() end
  from x where t.shard = x.s and t.trigger_id = x.i returning t.shard, t.next_poll_at, t.owner),
mem as (
  update polling_trigger_states s set cursor = nullif(x.sc, 'null'::jsonb), seen = coalesce(decode(x.ss, 'base64'), '')
  from x where (x.adopts or x.primes) and s.shard = x.s and s.trigger_id = x.i),
fen as (
  insert into batch_fences (batch_no, shard, trigger_id) select b.batch_no, x.s, x.i from x join batches b on b.batch_no = x.lease_owner and b.ended_at is null
  order by 1, 2, 3 on conflict do nothing returning 1),
off as (delete from hand_offs h using x where h.shard = x.s and h.trigger_id = x.i),
life as (
  insert into lifecycle_outbox (trigger_id, config_version, state, code, at)
  select x.i, p.config_version, 'halted', 'cursor_lost', statement_timestamp() from x join polling_triggers p on p.shard = x.s and p.trigger_id = x.i where x.lost)
select (select count(*)::int from x) as moved, (select count(*)::int from fen) as fenced,
  (select count(*)::int from locked where oe < ownership_epoch and owner = case when lg then 'v' else 'l' end::"char") as older,
  (select coalesce(jsonb_agg(distinct z.timer_shard), '[]') from u join timer_shards z on u.shard = any (z.serves) where u.owner = 'v' and u.next_poll_at < z.wake_at) as arm`;

/** Undefined when no change names an epoch, which is nearly always. */
export async function applyOwnership(
  tx: TransactionSql,
  changes: readonly FeedChange[],
): Promise<OwnershipRow | undefined> {
  const named = changes.flatMap((change) => {
    if (change.op !== 'upsert' || change.ownershipEpoch === undefined) return [];
    const state = decodePollState(change.pollState);
    const head = JSON.stringify({
      s: storageShardOf(change.triggerId),
      i: change.triggerId,
      oe: change.ownershipEpoch,
      lg: change.pipeline === 'legacy',
      pm: change.primed,
      // A rewind, or a start from now, has its own place to go on from.
      ins: change.cursor !== undefined || change.resume === 'now',
      ss: state?.seen,
      sv: state?.version,
    });
    return [state === undefined ? head : `${head.slice(0, -1)},"sc":${state.cursor}}`];
  });
  if (named.length === 0) return undefined;
  const [row] = await tx.unsafe<OwnershipRow[]>(OWNERSHIP, [`[${named.join(',')}]`], { prepare: true });
  return row;
}

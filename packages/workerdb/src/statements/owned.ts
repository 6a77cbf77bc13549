/** What a live batch owns, by its planned keys, at the epoch it claimed them. */
import type { ClaimedTrigger } from '@milkrun/core';
import type { Sql } from 'postgres';
import { type ClaimedRow, claimedOf, DEFINITION_PROBE, RUN_COLUMNS } from './rows.ts';

export const OWNED = `
with me as materialized (
  select batch_no, key_shards, key_ids from batches
  where batch_id = $1 and claimed_at is not null and ended_at is null and expires_at > statement_timestamp())
select u.*, d.* from me cross join lateral unnest(me.key_shards, me.key_ids) as k(s, i)
cross join lateral (
  select ${RUN_COLUMNS} from polling_trigger_runs t
  where t.shard = k.s and t.trigger_id = k.i and t.lease_owner = me.batch_no limit 1) u ${DEFINITION_PROBE}`;

const LIVE = `select from batches where batch_id = $1 and claimed_at is not null and ended_at is null and expires_at > statement_timestamp()`;

/** Undefined when the batch is over. */
export async function ownedTriggers(sql: Sql, batchId: string): Promise<readonly ClaimedTrigger[] | undefined> {
  const rows = await sql.unsafe<ClaimedRow[]>(OWNED, [batchId], { prepare: true });
  if (rows.length > 0) return claimedOf(rows);
  const live = await sql.unsafe(LIVE, [batchId], { prepare: true });
  return live.length > 0 ? [] : undefined;
}

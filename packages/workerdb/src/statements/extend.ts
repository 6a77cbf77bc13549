/**
 * Extends the one lease of a batch, if it is alive, and reads its fence list and the brake in the same statement. An
 * expired lease is never revived, an extension never shortens what commit granted over a back-off, and a late attempt of an
 * earlier step does not hide that the commit has begun.
 */
import type { BatchCheck, ExtendInput } from '@milkrun/core';
import type { Sql } from 'postgres';

const FENCED = `coalesce((select jsonb_agg(jsonb_build_array(f.shard, f.trigger_id, f.deleted))
  from batch_fences f where f.batch_no = (select batch_no from me)), '[]'::jsonb) as fenced`;

const NOW = '(extract(epoch from statement_timestamp()) * 1000)::float8 as now_ms';

export const EXTEND = `
with was as materialized (select open from batches where batch_id = $1),
me as (
  update batches set expires_at = greatest(expires_at, statement_timestamp() + $2 * interval '1 s'), hop = $3, step = case when hop = $3 and step = 'commit' then step else $4 end, open = coalesce($5, open)
  where batch_id = $1 and ended_at is null and expires_at > statement_timestamp() returning batch_no, timer_shard)
select exists (select from me) as live, (select braked from fleet) as brake, ${NOW}, ${FENCED},
  (select open from was) > $5 and exists (
    select from timer_shards t where t.timer_shard = (select timer_shard from me) and t.wake_at <= t.ticked_at) as waiting`;

export const CHECK = `
with me as (
  select batch_no, step from batches where batch_id = $1 and ended_at is null and expires_at > statement_timestamp())
select exists (select from me) as live, exists (select from me where step = 'commit') as committing, (select braked from fleet) as brake, ${NOW}, ${FENCED}`;

interface CheckRow {
  readonly live: boolean;
  readonly brake: boolean;
  readonly now_ms: number;
  readonly fenced: readonly (readonly [number, string, boolean])[];
  readonly waiting?: boolean | null;
  readonly committing?: boolean;
}

function checkOf([row]: readonly CheckRow[]): BatchCheck {
  if (row === undefined) throw new Error('a check of a batch answers one row');
  return {
    live: row.live,
    brake: row.brake,
    nowMs: row.now_ms,
    waiting: row.waiting === true,
    ...(row.committing === undefined ? {} : { committing: row.committing }),
    fenced: row.fenced.map(([shard, triggerId, deleted]) => ({ shard, triggerId, deleted })),
  };
}

export async function extendBatch(sql: Sql, input: ExtendInput): Promise<BatchCheck> {
  const rows = await sql.unsafe<CheckRow[]>(
    EXTEND,
    [input.batchId, input.leaseSeconds, input.hop, input.step, input.open],
    {
      prepare: true,
    },
  );
  return checkOf(rows);
}

export async function checkBatch(sql: Sql, batchId: string): Promise<BatchCheck> {
  const rows = await sql.unsafe<CheckRow[]>(CHECK, [batchId], { prepare: true });
  return checkOf(rows);
}

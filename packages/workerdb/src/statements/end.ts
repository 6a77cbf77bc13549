/** Ends a batch: everything it still owns is free, in one row's update. */
import type { Sql } from 'postgres';

const END_BATCH = `
with me as (
  update batches set ended_at = statement_timestamp(), open = 0, key_shards = null, key_epochs = null, key_ids = null where batch_id = $1 and ended_at is null returning batch_no),
gone as (delete from batch_fences where batch_no = (select batch_no from me))
select count(*)::int as ended from me`;

export async function endBatch(sql: Sql, batchId: string): Promise<boolean> {
  const [row] = await sql.unsafe<{ ended: number }[]>(END_BATCH, [batchId], { prepare: true });
  return row?.ended === 1;
}

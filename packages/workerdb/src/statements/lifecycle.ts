/** Lifecycle records that the control plane has not answered yet. */
import type { LifecycleRecord } from '@milkrun/core';
import type { Sql } from 'postgres';

/** Offered again after 30 s: a repeat is harmless, a loss is not. */
const PENDING = `
update lifecycle_outbox o set offered_until = statement_timestamp() + interval '30 s'
where o.id in (select id from lifecycle_outbox where acknowledged_at is null and offered_until < statement_timestamp() order by id limit $1 for update skip locked)
returning o.id, o.trigger_id, o.config_version, o.state, o.code, o.at`;

interface PendingRow {
  readonly id: string;
  readonly trigger_id: string;
  readonly config_version: string;
  readonly state: LifecycleRecord['state'];
  readonly code: string;
  readonly at: Date;
}

export async function pendingRecords(
  sql: Sql,
  limit: number,
): Promise<readonly (LifecycleRecord & { readonly id: string })[]> {
  const rows = await sql.unsafe<PendingRow[]>(PENDING, [limit], { prepare: true });
  return rows
    .map((row) => ({
      id: row.id,
      triggerId: row.trigger_id,
      configVersion: Number(row.config_version),
      state: row.state,
      code: row.code,
      at: row.at.toISOString(),
    }))
    .sort((a, b) => Number(a.id) - Number(b.id));
}

export async function acknowledgeRecords(sql: Sql, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await sql.unsafe(
    'update lifecycle_outbox set acknowledged_at = statement_timestamp() where id = any ($1::text::bigint[]) and acknowledged_at is null',
    [`{${ids.join(',')}}`],
    { prepare: true },
  );
}

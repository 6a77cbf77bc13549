/** Reads cursors and seen keys by keyed probes; the caller slices. */
import type { LeasedKey, TriggerState } from '@milkrun/core';
import type { Sql } from 'postgres';
import { keysJson } from './rows.ts';

export const READ_STATES = `
select k.s as shard, k.i as trigger_id, v.cursor, v.seen
from jsonb_to_recordset($1::text::jsonb) as k(s smallint, i uuid) cross join lateral (
  select s.cursor::text as cursor, s.seen || s.seen_added as seen from polling_trigger_states s
  where s.shard = k.s and s.trigger_id = k.i limit 1) v`;

interface StateRow {
  readonly shard: number;
  readonly trigger_id: string;
  readonly cursor: string | null;
  readonly seen: Buffer;
}

export async function readTriggerStates(sql: Sql, keys: readonly LeasedKey[]): Promise<readonly TriggerState[]> {
  if (keys.length === 0) return [];
  const rows = await sql.unsafe<StateRow[]>(READ_STATES, [keysJson(keys)], { prepare: true });
  return rows.map((row) => ({ shard: row.shard, triggerId: row.trigger_id, cursor: row.cursor, seen: row.seen }));
}

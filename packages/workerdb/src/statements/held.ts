/** Events held back: read for delivery, and kept for fenced entries without asking for the fence. */
import type { HeldEvent, LeasedKey } from '@milkrun/core';
import type { Sql } from 'postgres';
import { keysJson } from './rows.ts';

export const READ_HELD = `
select h.shard, h.trigger_id, h.event_id, h.event
from jsonb_to_recordset($1::text::jsonb) as k(s smallint, i uuid) cross join lateral (
  select e.shard, e.trigger_id, e.event_id, e.event, e.seq from held_events e
  where e.shard = k.s and e.trigger_id = k.i order by e.seq) h`;

/** A deleted trigger's events are of no use to anybody: its definition is gone. */
const HOLD_FENCED = `
insert into held_events (shard, trigger_id, event_id, held_at, event)
select h.s, h.i, h.id, statement_timestamp(), h.ev
from rows from (jsonb_to_recordset($1::text::jsonb) as (s smallint, i uuid, id text, ev text)) with ordinality as h(s, i, id, ev, n)
where exists (select from polling_triggers d where d.shard = h.s and d.trigger_id = h.i)
order by h.s, h.i, h.n
on conflict do nothing`;

export async function readHeldEvents(sql: Sql, keys: readonly LeasedKey[]): Promise<readonly HeldEvent[]> {
  if (keys.length === 0) return [];
  const rows = await sql.unsafe<{ shard: number; trigger_id: string; event_id: string; event: string }[]>(
    READ_HELD,
    [keysJson(keys)],
    { prepare: true },
  );
  return rows.map((row) => ({ shard: row.shard, triggerId: row.trigger_id, eventId: row.event_id, json: row.event }));
}

export async function holdFencedEvents(sql: Sql, events: readonly HeldEvent[]): Promise<void> {
  const rows = events.map(({ shard, triggerId, eventId, json }) => ({ s: shard, i: triggerId, id: eventId, ev: json }));
  await sql.unsafe(HOLD_FENCED, [JSON.stringify(rows)], { prepare: true });
}
